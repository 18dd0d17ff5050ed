package auth

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// keysFile writes a file of client keys and returns its name.
func keysFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// keyed returns a verifier without an issuer, for the client keys in a text.
func keyed(t *testing.T, text string) (*Verifier, *Keys) {
	t.Helper()
	c := config.DefaultAuthentication()
	c.ClientKeys.File = keysFile(t, text)
	keys := NewKeys(Options{})
	v, err := New(c, 0, keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v, keys
}

func TestClientKeyIsJudged(t *testing.T) {
	now := time.Now()
	v, _ := keyed(t, `keys:
  - { id: ci, keyHash: "`+config.KeyHash("alpha")+`", claims: { roles: [user], email: "ci@example.com" } }
  - { id: old, keyHash: "`+config.KeyHash("beta")+`", expires: `+now.Add(-time.Second).Format(time.RFC3339)+` }
  - { id: named, keyHash: "`+config.KeyHash("gam.ma")+`", claims: { sub: bot }, expires: `+now.Add(time.Hour).Format(time.RFC3339)+` }
  - { id: dotted, keyHash: "`+config.KeyHash("a.b.c")+`" }
`)
	const inHeader = "header Authorization: Bearer"
	for _, tt := range []struct {
		key, place string
		subject    string
		want       outcome.Reason
	}{
		{"alpha", inHeader, "ci", ""},
		{"alpha", "", "ci", ""}, // judged by the key alone
		{"gam.ma", inHeader, "bot", ""},
		{"beta", inHeader, "", outcome.Expired},
		{"alph", inHeader, "", outcome.UnknownClientKey},
		{"ALPHA", inHeader, "", outcome.UnknownClientKey},
		{config.KeyHash("alpha"), inHeader, "", outcome.UnknownClientKey},
		{"alpha", "query access_token", "", outcome.Malformed},
		{"alpha", "subprotocol bearer", "", outcome.Malformed},
		{"a.b.c", inHeader, "", outcome.Malformed}, // the form of a JWT
	} {
		c := Credential{Token: tt.key}
		if tt.place != "" {
			c.Places = []string{tt.place}
		}
		id, err := v.Verify(t.Context(), c, nil)
		if reasonOf(err) != tt.want || err == nil && (id.Subject != tt.subject || id.ForwardToken) || err != nil && id != nil {
			t.Errorf("%s in %q: %+v, %v; want %s", tt.key, tt.place, id, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), tt.key) && tt.place == inHeader {
			t.Errorf("%s is in the error %v", tt.key, err)
		}
	}
	if !v.Ready() {
		t.Error("not ready, though no issuer is needed")
	}

	id, err := v.Verify(t.Context(), Credential{Token: "alpha"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	told, err := v.Headers(id)
	if err != nil || len(told) != 3 || told[0] != (HeaderValue{"x-user-id", "ci"}) || told[2] != (HeaderValue{"x-user-roles", "user"}) {
		t.Errorf("the agent is told %v, %v", told, err)
	}
	if err := v.Rules(config.RequiredClaims{{Claim: "roles", Values: []config.ClaimValue{"user"}}}).Check(id, nil, nil); err != nil {
		t.Error(err)
	}
	if err := v.Rules(config.RequiredClaims{{Claim: "roles", Values: []config.ClaimValue{"admin"}}}).Check(id, nil, nil); reasonOf(err) !=
		outcome.ClaimMismatch {
		t.Errorf("a claim that is missing: %v", err)
	}
}

// A configured issuer cannot have the name of the client keys, and no token is theirs.
func TestTokenThatNamesTheClientKeysIsOfNoIssuer(t *testing.T) {
	v, _ := keyed(t, "keys: [{id: a, keyHash: '"+config.KeyHash("k")+"'}]")
	s, err := GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Sign(map[string]any{"iss": clientKeyIssuer, "sub": "a", "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), Credential{Token: token}, nil); err == nil {
		t.Fatal("accepted")
	}
	c := config.Default()
	c.Authentication.JWT.Issuer, c.Authentication.JWT.JWKS = clientKeyIssuer, string(s.JWKS())
	var bad bool
	for _, p := range c.Validate() {
		bad = bad || p.Key == "authentication.jwt.issuer"
	}
	if !bad {
		t.Error("an issuer of this name is configured")
	}
}

// Without an issuer the places of its tokens are searched all the same.
func TestTakeRemovesWhatClientsTakeForACredential(t *testing.T) {
	v, _ := keyed(t, "keys: []")
	h := http.Header{"Authorization": {"bearer  key"}}
	c, query, err := v.Take(h, "a=1&access_token=key")
	if err != nil || c.Token != "key" || len(h) > 0 || query != "a=1" {
		t.Errorf("%+v, %v, %s, %v", c, h, query, err)
	}
	_, _, err = v.Take(http.Header{"Authorization": {"Bearer key"}}, "access_token=other")
	if reasonOf(err) != outcome.MultipleCredentials {
		t.Errorf("two: %v", err)
	}
}

func TestBadFileOfClientKeysIsAnErrorAtTheStart(t *testing.T) {
	entry := "{id: a, keyHash: '" + config.KeyHash("k") + "'"
	for _, tt := range []struct{ text, want string }{
		{"keys: [{}]", "keys[0].id: missing"},
		{"keys: [" + entry + ", claims: {sub: 5}}]", "keys[0]: claims: "},
		{"keys: [" + entry + ", claims: {SUB: x}}]", "keys[0]: claims: "},
		{"keys: [" + entry + ", claims: {sub: ''}}]", "keys[0]: the subject "},
		{"keys: [" + entry + ", claims: {sub: ' a'}}]", "keys[0]: the subject "},
	} {
		c := config.DefaultAuthentication()
		c.ClientKeys.File = keysFile(t, tt.text)
		if _, err := New(c, 0, NewKeys(Options{}), nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.text, err, tt.want)
		}
	}
	c := config.DefaultAuthentication()
	c.ClientKeys.File = filepath.Join(t.TempDir(), "missing")
	if _, err := New(c, 0, NewKeys(Options{}), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestClientKeysFollowTheirFile(t *testing.T) {
	v, keys := keyed(t, "keys: [{id: a, keyHash: '"+config.KeyHash("one")+"'}, {id: b, keyHash: '"+config.KeyHash("two")+"'}]")
	file := v.clients.file
	accepts := func(key string) bool {
		_, err := v.Verify(t.Context(), Credential{Token: key}, nil)
		return err == nil
	}
	become := func(text string, good bool) {
		t.Helper()
		if err := os.WriteFile(file.name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, err := file.reread(); changed != good || (err == nil) != good {
			t.Errorf("%q: changed %v, %v", text, changed, err)
		}
	}
	before, err := v.Verify(t.Context(), Credential{Token: "one"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := v.Judge(before.Issuer, before.Claims.JSON()); err != nil || id.Subject != "a" {
		t.Errorf("judged again: %+v, %v", id, err)
	}
	if id, err := v.Admits(before); err != nil || id.Subject != "a" {
		t.Errorf("a live session: %+v, %v", id, err)
	}
	become("keys: [{id: c, keyHash: '"+config.KeyHash("three")+"'}]", true)
	if accepts("one") || !accepts("three") {
		t.Error("the file was not read again")
	}
	if _, err := v.Judge(before.Issuer, before.Claims.JSON()); reasonOf(err) != outcome.UnknownClientKey {
		t.Errorf("a key that is gone, judged again: %v", err)
	}
	if _, err := v.Admits(before); reasonOf(err) != outcome.UnknownClientKey {
		t.Errorf("a session of a key that is gone: %v", err)
	}
	if changed, err := file.reread(); changed || err != nil {
		t.Errorf("the same file: %v, %v", changed, err)
	}
	become("keys: [", false)
	if !accepts("three") {
		t.Error("a bad file took the good keys away")
	}
	become("keys: []", true)
	if accepts("three") {
		t.Error("an empty list is not believed")
	}
	if keys.Keep(v); len(keys.runners()) != 1 {
		t.Error("the file in use is given up")
	}
	if keys.Keep(); len(keys.runners()) != 0 {
		t.Error("a file that no verifier refers to is kept")
	}
}
