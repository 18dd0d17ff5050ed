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
	v, err := New(c, maxToken, keys, nil)
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
		if strings.HasPrefix(tt.place, "query") && !strings.Contains(err.Error(), "a client key counts in Authorization") {
			t.Errorf("%s in %q: %v", tt.key, tt.place, err)
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
	become("keys: [{id: c, keyHash: '"+config.KeyHash("three")+"'}]", true)
	if accepts("one") || !accepts("three") {
		t.Error("the file was not read again")
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
	if state, ok := v.ClientKeys(); !ok || state != (ClientKeysState{Keys: 0, Reads: 4, Failures: 1}) {
		t.Errorf("state %+v, %v", state, ok)
	}
	if keys.Keep(v); len(keys.runners()) != 1 {
		t.Error("the file in use is given up")
	}
	if keys.Keep(); len(keys.runners()) != 0 {
		t.Error("a file that no verifier refers to is kept")
	}
}

// A session of a key ends with its key: the hash counts, also where another key has the same
// claims.
func TestSessionOfAClientKeyIsJudgedAgain(t *testing.T) {
	hash, other, soon := config.KeyHash("one"), config.KeyHash("two"), time.Now().Add(time.Hour).UTC()
	entry := func(id, hash, more string) string {
		return "  - { id: " + id + ", keyHash: \"" + hash + "\"" + more + " }\n"
	}
	at := func(after time.Duration) string { return ", expires: " + soon.Add(after).Format(time.RFC3339) }
	first := entry("a", hash, ", claims: { sub: bot, roles: [user] }"+at(0))
	for name, tt := range map[string]struct {
		text string
		stay bool
	}{
		"the same":                     {first, true},
		"among others":                 {entry("b", other, "") + first, true},
		"in capitals":                  {strings.Replace(first, hash[7:], strings.ToUpper(hash[7:]), 1), true},
		"another name, same claims":    {strings.Replace(first, "id: a", "id: z", 1), true},
		"ends later":                   {entry("a", hash, ", claims: { sub: bot, roles: [user] }"+at(time.Hour)), true},
		"never ends":                   {entry("a", hash, ", claims: { sub: bot, roles: [user] }"), true},
		"ends sooner":                  {entry("a", hash, ", claims: { sub: bot, roles: [user] }"+at(-time.Minute)), false},
		"has ended":                    {entry("a", hash, ", claims: { sub: bot, roles: [user] }"+at(-2*time.Hour)), false},
		"another role":                 {entry("a", hash, ", claims: { sub: bot, roles: [admin] }"+at(0)), false},
		"gone":                         {"", false},
		"another key, the same claims": {strings.Replace(first, hash, other, 1), false},
	} {
		v, _ := keyed(t, "keys:\n"+first)
		before, err := v.Verify(t.Context(), Credential{Token: "one"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text := "keys:\n" + tt.text
		if tt.text == "" {
			text = "keys: []"
		}
		if err := os.WriteFile(v.clients.file.name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := v.clients.file.reread(); err != nil {
			t.Fatal(err)
		}
		id, err := v.Admits(before)
		if tt.stay && (err != nil || id.Subject != "bot") || !tt.stay && reasonOf(err) != outcome.UnknownClientKey {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

func FuzzClientKeys(f *testing.F) {
	f.Add("keys: [{id: a, keyHash: \"" + config.KeyHash("k") + "\", claims: {roles: [user], n: 3.0}, expires: 2027-01-31T00:00:00Z}]")
	f.Add("keys: [{id: a, keyHash: 'sha256:', claims: {exp: 1, a: *x}}]")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseClientKeys("fuzz.yaml", []byte(text))
		if err != nil {
			return
		}
		for n, id := range set.identities {
			if !id.HasPrincipal() || id.ClientKey == "" || set.find(set.hashes[n]) != id {
				t.Errorf("%q: %+v", text, id)
			}
			if _, err := readContent(id.Claims.JSON()); err != nil {
				t.Errorf("%q: claims that no token has: %v", text, err)
			}
		}
	})
}
