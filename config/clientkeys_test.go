package config

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestClientKeysAreRead(t *testing.T) {
	keys, err := ParseClientKeys("keys.yaml", "\ufeff"+`
keys:
  - id: ci
    keyHash: `+KeyHash("one")+`
    claims: { roles: [user, "true", true, 3, 1.50, null], realm_access: { roles: [] }, since: 2024-01-01 }
    expires: 2027-01-31T01:00:00+01:00
  - { id: other, keyHash: "sha256:`+strings.ToUpper(KeyHash("two")[len(hashPrefix):])+`" }
`)
	if err != nil || len(keys) != 2 {
		t.Fatalf("%v, %v", keys, err)
	}
	claims, err := json.Marshal(keys[0].Claims)
	want := `{"realm_access":{"roles":[]},"roles":["user","true",true,3,1.50,null],"since":"2024-01-01"}`
	if err != nil || string(claims) != want {
		t.Errorf("claims %s, %v; want %s", claims, err, want)
	}
	if !keys[0].Expires.Equal(time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)) || !keys[1].Expires.IsZero() {
		t.Errorf("expires %v and %v", keys[0].Expires, keys[1].Expires)
	}
	one, ok := keys[0].Hash()
	two, also := keys[1].Hash()
	if !ok || !also || one == two {
		t.Errorf("hashes %x, %x", one, two)
	}
	if keys, err := ParseClientKeys("keys.yaml", "keys: []"); err != nil || len(keys) != 0 {
		t.Errorf("an empty list: %v, %v", keys, err)
	}
}

func TestBadClientKeys(t *testing.T) {
	good := "keyHash: " + KeyHash("one")
	for _, tt := range []struct{ text, want string }{
		{"", "keys.yaml: no keys in it"},
		{"keys:\n", "keys.yaml:1:1: keys: nothing where a list belongs"},
		{"kys: []\n", `keys.yaml:1:1: kys: unknown key; did you mean "keys"?`},
		{"istio: {}\nkeys: []\n", "keys.yaml:1:1: istio: unknown key"},
		{"keys: [{id: a", "keys.yaml:2: not YAML"},
		{"keys: [{" + good + "}]", "keys[0].id: missing"},
		{"keys: [{id: a}]", "keys[0].keyHash: not a SHA-256 in hex"},
		{"keys: [{id: a, keyHash: hunter2}]", "keys[0].keyHash: not a SHA-256 in hex"},
		{"keys: [{id: a, keyHash: 'sha256:" + strings.Repeat("x", 64) + "'}]", "keys[0].keyHash: not a SHA-256 in hex"},
		{"keys: [{id: a, " + good + "}, {id: b, " + good + "}]", "keys[1].keyHash: the same as that of keys[0]"},
		{"keys: [{id: a, " + good + "}, {id: a, keyHash: '" + KeyHash("two") + "'}]", "keys[1].id: the same as that of keys[0]"},
		{"keys: [{id: a, " + good + ", key: hunter2}]", "keys[0].key: unknown key"},
		{"keys: [{id: a, " + good + ", expires: 2027-01-31}]", "keys[0].expires: not a time; write date, time and zone (RFC 3339)"},
		{"keys: [{id: a, " + good + ", expires: 0001-01-01T00:00:00Z}]", "keys[0].expires: the zero time, by which programs mean none"},
		{"keys: [{id: a, " + good + ", claims: {exp: 5}}]", "keys[0].claims.exp: a claim about time; write expires beside id instead"},
		{"keys: [{id: a, " + good + ", claims: {n: 0x10}}]", "keys[0].claims.n: a number in a form that JSON does not have"},
		{"keys: [{id: a, " + good + ", claims: {n: .inf}}]", "keys[0].claims.n: a number in a form that JSON does not have"},
		{"keys: [{id: a, " + good + ", claims: {n: [1, 1_0]}}]", "keys[0].claims.n[1]: a number in a form that JSON does not have"},
		{"keys: [{id: a, " + good + ", claims: {a: {b: 1, b: 2}}}]", "keys[0].claims.a.b: given twice"},
		{"keys: [{id: a, " + good + ", claims: {a: &x 1, b: *x}}]", "keys[0].claims.a: anchors and aliases are not supported"},
		{"keys: [{id: a, " + good + ", claims: {a: !!str 1}}]", "keys[0].claims.a: tags are not supported"},
		{"keys: [{id: a, " + good + ", claims: [a]}]", "keys[0].claims: a list where keys with values belong"},
	} {
		keys, err := ParseClientKeys("keys.yaml", tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %s", tt.text, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") || keys != nil {
			t.Errorf("%q: %v, %v", tt.text, keys, err)
		}
	}
}

func TestEntryIsReadAsItIsWritten(t *testing.T) {
	want := ClientKey{ID: "on: \"call\"\n", KeyHash: KeyHash("k"), Expires: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC),
		Claims: map[string]any{"roles": []any{"a, b", "<é>\u2028"}, "n": json.Number("9007199254740993"), "on": nil, "o": map[string]any{}}}
	text, err := want.YAML()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseClientKeys("keys.yaml", "keys:\n"+text)
	if err != nil || len(keys) != 1 || !Same(keys[0], want) {
		t.Errorf("%q is read as %#v, %v", text, keys, err)
	}
}

// What is accepted can be claims, and every problem has a place.
func FuzzClientKeys(f *testing.F) {
	f.Add("keys: [{id: a, keyHash: '" + KeyHash("k") + "', claims: {a: [1, {b: null}]}, expires: 2027-01-31T00:00:00Z}]")
	f.Add("keys:\n- id: a\n  claims: {a: *b, exp: 1}\n")
	f.Add("keys: [[], {claims: {? [a] : b, <<: c}}]")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseClientKeys("keys.yaml", text)
		if err != nil {
			for _, p := range err.(Problems) {
				if p.Text == "" || p.Place.Name != "keys.yaml" {
					t.Errorf("problem %+v", p)
				}
			}
			return
		}
		for _, k := range keys {
			if _, ok := k.Hash(); !ok || k.ID == "" {
				t.Errorf("accepted: %+v", k)
			}
			if _, err := json.Marshal(k.Claims); err != nil {
				t.Errorf("claims: %v", err)
			}
		}
	})
}
