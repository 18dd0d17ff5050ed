package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// clientKeyIssuer is the issuer of identities that come from client keys. The space in it keeps it
// apart from configured issuers, which have none; no token is looked up by it.
const clientKeyIssuer = "client keys"

// clientKeys judge opaque keys by the file of authentication.clientKeys.
type clientKeys struct {
	*issuer // what agents are told and where keys may sit, as of authentication.jwt; it has no key set
	file    *clientKeyFile
}

// newClientKeys compiles the block clientKeys beside the issuer whose headers the keys share.
// The agent is never given a key.
func newClientKeys(j config.JWT) *clientKeys {
	i := &issuer{places: map[string]bool{}, JWT: config.JWT{
		Issuer:                clientKeyIssuer,
		OutputClaimToHeaders:  j.OutputClaimToHeaders,
		OutputPayloadToHeader: j.OutputPayloadToHeader,
		SpaceDelimitedClaims:  j.SpaceDelimitedClaims,
		FromHeaders:           config.HeaderSources{{Name: "Authorization", Prefix: "Bearer "}},
	}}
	return &clientKeys{issuer: i}
}

// isOpaque reports whether a credential has not the form of a JWT, signed or encrypted.
func isOpaque(credential string) bool {
	dots := strings.Count(credential, ".")
	return dots != 2 && dots != 4
}

// judges reports whether c is for the client keys to judge; k may be nil. A key is looked for in
// the header Authorization alone.
func (k *clientKeys) judges(c Credential) bool {
	return k != nil && isOpaque(c.Token) && k.takes(c) == nil
}

// verify returns the identity that a key stands for.
func (k *clientKeys) verify(key string, now time.Time, t Trace) (*Identity, error) {
	set := k.file.current()
	id := set.find(sha256.Sum256([]byte(key)))
	if id == nil {
		return nil, outcome.Refuse(outcome.UnknownClientKey,
			fmt.Sprintf("it is no signed JWT, and none of %d client keys", len(set.identities)))
	}
	t.trace("key", "a client key")
	if err := k.live(id, now, t); err != nil {
		return nil, err
	}
	return id, nil
}

// again returns the identity that the key of a live session stands for now. The session ends with
// its key, and also if the entry says something else now, or ends it earlier: its client comes back
// as what it is now.
func (k *clientKeys) again(id *Identity) (*Identity, error) {
	now, err := k.file.current().of(id.ClientKey)
	if err != nil {
		return nil, err
	}
	sooner := !now.Expiry.IsZero() && (id.Expiry.IsZero() || now.Expiry.Before(id.Expiry))
	if sooner || now.Claims.JSON() != id.Claims.JSON() {
		return nil, outcome.Refuse(outcome.UnknownClientKey, "the entry of its client key has changed")
	}
	return now, nil
}

// vouched returns the identity of the key with this hash, unless it has expired.
func (k *clientKeys) vouched(hash string, now time.Time) (*Identity, error) {
	id, err := k.file.current().of(hash)
	if err != nil {
		return nil, err
	}
	return id, k.live(id, now, nil)
}

// live returns a refusal when the key has expired.
func (k *clientKeys) live(id *Identity, now time.Time, t Trace) error {
	if err := k.issuer.current(id, now); err != nil {
		return err
	}
	if id.Expiry.IsZero() {
		t.trace("times", "never expires")
	} else {
		t.trace("times", "expires at %s", stamp(id.Expiry))
	}
	t.trace("subject", "%s", outcome.Brief(id.Subject))
	return nil
}

// clientKeySet is what a file of client keys says. It is not changed.
type clientKeySet struct {
	text       []byte // of the file
	hashes     []digest
	identities []*Identity // of the same index
}

// parseClientKeys reads the text of a file of that name.
func parseClientKeys(name string, text []byte) (*clientKeySet, error) {
	keys, err := config.ParseClientKeys(name, string(text))
	if err != nil {
		return nil, err
	}
	set := &clientKeySet{text: text}
	for n, k := range keys {
		id, err := newClientIdentity(k)
		if err != nil {
			return nil, fmt.Errorf("%s: keys[%d]: %w", name, n, err)
		}
		hash, _ := k.Hash() // ParseClientKeys has looked
		set.hashes, set.identities = append(set.hashes, hash), append(set.identities, id)
	}
	return set, nil
}

// CheckClientKey returns what is wrong with the claims of an entry of the file of client keys, nil
// if the gateway would take it.
func CheckClientKey(k config.ClientKey) error {
	_, err := newClientIdentity(k)
	return err
}

// newClientIdentity returns the identity that a key stands for. Its claims are read as those of a
// token are.
func newClientIdentity(k config.ClientKey) (*Identity, error) {
	said := map[string]any{"sub": k.ID}
	for name, value := range k.Claims {
		said[name] = value
	}
	text, err := json.Marshal(said)
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	c, err := readContent(string(text))
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	id := &Identity{Issuer: clientKeyIssuer, Subject: c.subject, Claims: c.Claims, Expiry: k.Expires, Deadline: k.Expires,
		ClientKey: strings.ToLower(k.KeyHash)}
	if !id.HasPrincipal() {
		return nil, fmt.Errorf("the subject %s is empty, has several lines, or white space at an end", outcome.Brief(id.Subject))
	}
	return id, nil
}

// find returns the identity of the key with this hash, or nil. It compares with every hash, each
// in constant time, so that how long it takes tells nothing about the keys.
func (s *clientKeySet) find(hash digest) *Identity {
	found := -1
	for n := range s.hashes {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(s.hashes[n][:], hash[:]), n, found)
	}
	if found < 0 {
		return nil
	}
	return s.identities[found]
}

// of returns the identity of the key whose hash was found before. The error is an *outcome.Refusal.
func (s *clientKeySet) of(hash string) (*Identity, error) {
	n := slices.IndexFunc(s.identities, func(id *Identity) bool { return id.ClientKey == hash })
	if n < 0 {
		return nil, outcome.Refuse(outcome.UnknownClientKey, "its client key is not in the file")
	}
	return s.identities[n], nil
}

// clientKeyFile is a file of client keys, read again by run. Keys hold it over reloads.
type clientKeyFile struct {
	name    string
	options Options
	set     atomic.Pointer[clientKeySet] // the last good one, never nil

	reads, failures atomic.Uint64
}

// readClientKeys reads the file of that name.
func readClientKeys(name string) (*clientKeySet, error) {
	text, err := readBounded(name)
	if err != nil {
		return nil, err
	}
	return parseClientKeys(name, text)
}

func (f *clientKeyFile) current() *clientKeySet { return f.set.Load() }

// run reads the file regularly until ctx ends, and tells of a change. A file that is missing or bad
// leaves the keys as they are; that is logged once, until the error is another.
func (f *clientKeyFile) run(ctx context.Context) {
	fault := ""
	for {
		select {
		case <-time.After(fileEvery):
		case <-ctx.Done():
			return
		}
		changed, err := f.reread()
		switch {
		case err != nil:
			if err.Error() != fault {
				f.options.Log.Warn("client keys cannot be read; the last good ones stay", "err", err)
			}
			fault = err.Error()
		case changed || fault != "":
			f.options.Log.Info("client keys read", "keys", len(f.current().identities))
			fault = ""
		}
		if changed {
			f.options.ClientKeysChanged()
		}
	}
}

// reread reads the file once, and reports whether it says something else than before.
func (f *clientKeyFile) reread() (changed bool, err error) {
	f.reads.Add(1)
	defer func() {
		if err != nil {
			f.failures.Add(1)
		}
	}()
	text, err := readBounded(f.name)
	if err != nil {
		return false, err
	}
	if bytes.Equal(text, f.current().text) {
		return false, nil
	}
	set, err := parseClientKeys(f.name, text)
	if err != nil {
		return false, err
	}
	f.set.Store(set)
	return true, nil
}
