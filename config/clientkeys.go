package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ClientKey is one entry of the file that authentication.clientKeys names.
type ClientKey struct {
	// ID names the entry, and is the claim sub unless Claims say another.
	ID string `yaml:"id"`
	// KeyHash is sha256: and the SHA-256 of the key in hex.
	KeyHash string `yaml:"keyHash"`
	// Claims are what a token of this client would say.
	Claims map[string]any `yaml:"claims"`
	// Expires is when the key ends; zero: never.
	Expires time.Time `yaml:"expires"`
}

// hashPrefix is what stands before the digits of a KeyHash.
const hashPrefix = "sha256:"

// KeyHash returns the form in which a client key is written down, which nothing can be sent with.
func KeyHash(key string) string {
	hash := sha256.Sum256([]byte(key))
	return hashPrefix + hex.EncodeToString(hash[:])
}

// Hash returns the SHA-256 in KeyHash, and reports whether it is one.
func (k ClientKey) Hash() (hash [sha256.Size]byte, ok bool) {
	digits, ok := strings.CutPrefix(k.KeyHash, hashPrefix)
	if !ok || len(digits) != hex.EncodedLen(len(hash)) {
		return hash, false
	}
	_, err := hex.Decode(hash[:], []byte(digits))
	return hash, err == nil
}

// YAML returns the entry as an element of a list, which ParseClientKeys reads. The error is that of
// an entry which it would refuse.
func (k ClientKey) YAML() (string, error) {
	text := "  - id: " + quoted(k.ID) + "\n    keyHash: " + k.KeyHash + "\n"
	if len(k.Claims) > 0 {
		claims, err := json.Marshal(k.Claims)
		if err != nil {
			return "", fmt.Errorf("claims: %w", err)
		}
		text += "    claims: " + string(claims) + "\n"
	}
	if !k.Expires.IsZero() {
		text += "    expires: " + k.Expires.Format(time.RFC3339) + "\n"
	}
	_, err := ParseClientKeys("the entry", "keys:\n"+text)
	return text, err
}

// ParseClientKeys reads the text of a file of client keys; name is the file's, for the problems. It
// is read like the configuration: strictly, and every problem is in the error, which is of type
// Problems. No problem repeats a value.
func ParseClientKeys(name, text string) ([]ClientKey, error) {
	l := newLoader(Sources{File: name})
	l.file = name
	var file struct {
		Keys []ClientKey `yaml:"keys"`
	}
	root, ok := parseYAML(strings.TrimPrefix(text, "\ufeff"), func(line, column int, text, hint string) {
		l.problem(Place{name, line, column}, "", text, hint)
	})
	if ok && root != nil {
		l.decode(root, l.at(root), reflect.ValueOf(&file).Elem(), "")
	}
	if _, said := l.places["keys"]; ok && !said {
		l.problem(Place{Name: name}, "", "no keys in it", "write keys: [], or a list of id, keyHash, claims and expires")
	}
	var k checker
	k.clientKeys(file.Keys)
	for _, p := range k.problems {
		if !l.isBad(p.Key) {
			p.Place = l.place(p.Key)
			l.problems = append(l.problems, p)
		}
	}
	for i, key := range file.Keys {
		at := index("keys", i) + ".expires"
		if place, said := l.places[at]; said && key.Expires.IsZero() && !l.isBad(at) {
			l.problem(place, at, "the zero time, by which programs mean none", "leave the key out if the client key never ends")
		}
	}
	if len(l.problems) > 0 {
		slices.SortStableFunc(l.problems, l.compare)
		return nil, l.problems
	}
	return file.Keys, nil
}

// notInClaims are claims that say for how long a token is good. A key has expires for that.
var notInClaims = []string{"exp", "nbf", "iat"}

func (k *checker) clientKeys(keys []ClientKey) {
	ids, hashes := map[string]int{}, map[[sha256.Size]byte]int{}
	for i, c := range keys {
		at := index("keys", i)
		if c.ID == "" {
			k.add(at+".id", "missing", "name the client, such as ci; logs show it")
		} else if first, twice := ids[c.ID]; twice {
			k.add(at+".id", "the same as that of "+index("keys", first), "give each entry a name of its own")
		} else {
			ids[c.ID] = i
		}
		hash, ok := c.Hash()
		switch first, twice := hashes[hash]; {
		case !ok:
			k.add(at+".keyHash", "not a SHA-256 in hex",
				"write sha256: and 64 hex digits of the key's hash, as omnia-gateway token key prints it; never the key itself")
		case twice:
			k.add(at+".keyHash", "the same as that of "+index("keys", first), "give each client a key of its own")
		default:
			hashes[hash] = i
		}
		for _, name := range notInClaims {
			if _, said := c.Claims[name]; said {
				k.add(join(at+".claims", name), "a claim about time", "write expires beside id instead")
			}
		}
	}
}

// decodeAny puts a value of any shape into v as encoding/json would: text, bool, json.Number, list,
// map or nil.
func (l *loader) decodeAny(n *yaml.Node, at Place, v reflect.Value, key string) bool {
	var value any
	good := true
	switch n.Kind {
	case yaml.MappingNode:
		members := map[string]any{}
		good = l.eachKey(n, key, func(name string, at Place, value *yaml.Node) {
			item := reflect.New(v.Type()).Elem()
			good = l.decode(value, at, item, join(key, name)) && good
			members[name] = item.Interface()
		}) && good
		value = members
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, e := range n.Content {
			good = l.decode(e, l.at(e), reflect.ValueOf(&list[i]).Elem(), index(key, i)) && good
		}
		value = list
	default:
		switch n.ShortTag() {
		case "!!null":
			return true
		case "!!bool":
			value = n.Value == "true"
			good = n.Value == "true" || n.Value == "false"
		case "!!int", "!!float":
			value = json.Number(n.Value)
			good = json.Valid([]byte(n.Value))
		default:
			value = n.Value
		}
		if !good {
			l.problem(at, key, fmt.Sprintf("%s in a form that JSON does not have", called(n)),
				"write true, false, or decimal digits without a leading 0; text goes in quotes")
		}
	}
	if good {
		v.Set(reflect.ValueOf(value))
	}
	return good
}
