package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

func TestBrokenKeysAreSkippedAndTheRestWorks(t *testing.T) {
	rsa1 := func(changes object) object { return published("rsa1", changes) }
	odd := func(bits int) string { // a modulus whose factors are unknown
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return encode(n.Add(n, big.NewInt(1)).Bytes())
	}
	for name, key := range map[string]any{
		"string":                  "rsa",
		"number":                  5,
		"null":                    nil,
		"empty":                   object{},
		"no parameters":           object{"kty": "RSA", "kid": "broken"},
		"oct":                     object{"kty": "oct", "k": "c2VjcmV0", "kid": "o", "alg": "HS256"},
		"unknown kty":             object{"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44", "pub": "AA"},
		"kty in other case":       rsa1(object{"kty": "rsa"}),
		"x5c only":                object{"kty": "RSA", "x5c": []string{"AAAA"}},
		"numeric kid":             rsa1(object{"kid": 7}),
		"numeric alg":             rsa1(object{"alg": 256}),
		"use enc":                 rsa1(object{"use": "enc"}),
		"use tls":                 rsa1(object{"use": "tls"}),
		"key_ops sign":            rsa1(object{"key_ops": []string{"sign"}}),
		"key_ops no list":         rsa1(object{"key_ops": "verify"}),
		"exponent 1":              rsa1(object{"e": "AQ"}),
		"exponent even":           rsa1(object{"e": "AQAA"}),
		"exponent of 65 bits":     rsa1(object{"e": "AQAAAAAAAQAB"}),
		"exponent no base64":      rsa1(object{"e": "!"}),
		"modulus of 8193 bits":    rsa1(object{"n": odd(8193)}),
		"point off the curve":     published("ec256", object{"y": published("ec256", nil)["x"]}),
		"point of another curve":  published("ec256", object{"crv": "P-384"}),
		"x longer than the curve": published("ec256", object{"x": encode(bytes.Repeat([]byte{0xff}, 200))}),
		"secp256k1":               published("ec256", object{"crv": "secp256k1"}),
		"Ed25519 too short":       published("ed25519", object{"x": "AAAA"}),
		"X25519":                  published("ed25519", object{"crv": "X25519"}),
	} {
		text := string(must(json.Marshal(object{"keys": []any{key, published("rsa2", nil)}})))
		set, err := parseKeys([]byte(text))
		if err != nil || len(set.keys) != 1 || len(set.skipped) != 1 || set.skipped[0].why == "" {
			t.Errorf("%s: %+v, %v", name, set, err)
			continue
		}
		if keys, refusal := set.find("RS256", "rsa2"); refusal != nil || len(keys) != 1 {
			t.Errorf("%s: the good key is gone: %v", name, refusal)
		}
	}
}

func TestGoodKeysAreTakenWithWhateverStandsBesideThem(t *testing.T) {
	for name, changes := range map[string]object{
		"nothing":             {},
		"broken x5c":          {"x5c": []string{"!"}},
		"x5u":                 {"x5u": "http://evil.example/x"},
		"private parts":       {"d": "AAAA", "p": "AA"},
		"key_ops verify":      {"key_ops": []string{"sign", "verify"}},
		"unknown members":     {"exp": 5, "ext": true},
		"8192 bits":           {"n": encode(append([]byte{0x80}, bytes.Repeat([]byte{1}, 1023)...))},
		"exponent with zeros": {"e": "AAEAAQ"},
	} {
		if _, err := parseKey(must(json.Marshal(published("rsa1", changes)))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parseKey([]byte(strings.Replace(string(must(json.Marshal(published("rsa1", nil)))), `"kid":"rsa1"`, `"kid":null`,
		1))); err != nil {
		t.Errorf("null: %v", err)
	}
}

func TestSetIsNoSet(t *testing.T) {
	for _, text := range []string{
		``, `null`, `[]`, `5`, `{}`, `{"keys":null}`, `{"keys":[]}`, `{"keys":{}}`, `{"keys":"x"}`, `{"error":"x"}`, `{"KEYS":[{}]}`,
		`<html>login</html>`, `{"keys":[{}]`, `{"keys":[{}]} x`,
	} {
		if _, err := parseKeys([]byte(text)); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

func TestNoMoreThanHundredKeys(t *testing.T) {
	var keys []any
	for n := range 150 {
		keys = append(keys, published("rsa1", object{"kid": fmt.Sprint(n)}))
	}
	set, err := parseKeys([]byte(set(keys...)))
	if err != nil || len(set.keys) != 100 || len(set.skipped) != 50 {
		t.Errorf("%d keys, %d skipped, %v", len(set.keys), len(set.skipped), err)
	}
}

// site is an issuer on a real socket: documents by path.
type site struct {
	*httptest.Server
	mu    sync.Mutex
	docs  map[string]string
	asked []string
}

func newSite(t *testing.T) *site {
	s := &site{docs: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, r.URL.Path)
		doc, ok := s.docs[r.URL.Path]
		if target, redirect := strings.CutPrefix(doc, "→"); redirect {
			http.Redirect(w, r, target, http.StatusFound)
		} else if !ok {
			http.NotFound(w, r)
		} else {
			fmt.Fprint(w, doc)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// authenticator has an issuer at s with this path, found by discovery.
func (s *site) authenticator(t *testing.T, path string) (*gate, string) {
	name := s.URL + path
	a, err := newGate(settings(func(c *config.Authentication) { c.JWT.Issuer, c.JWT.JWKSURI = name, "" }), Options{})
	if err != nil {
		t.Fatal(err)
	}
	a.now = func() time.Time { return now }
	return a, name
}

func TestDiscovery(t *testing.T) {
	const openid, fallback = "/.well-known/openid-configuration", "/.well-known/jwks.json"
	document := func(issuer, keys string) string {
		return string(must(json.Marshal(object{"issuer": issuer, "jwks_uri": keys})))
	}
	for _, c := range []struct {
		name, path string
		docs       func(base, issuer string) map[string]string
		good       bool
		url        string // path of the keys
	}{
		{"document", "", func(b, i string) map[string]string {
			return map[string]string{openid: document(i, b+"/k"), "/k": allKeys()}
		}, true, "/k"},
		{"issuer with a path", "/realms/x", func(b, i string) map[string]string {
			return map[string]string{"/realms/x" + openid: document(i, b+"/k"), "/k": allKeys()}
		}, true, "/k"},
		{"issuer with a slash", "/", func(b, i string) map[string]string {
			return map[string]string{openid: document(i, b+"/k"), "/k": allKeys()}
		}, true, "/k"},
		{"issuer with a slash, document without", "/", func(b, i string) map[string]string {
			return map[string]string{openid: document(b, b+"/k"), "/k": allKeys()}
		}, false, fallback},
		{"fallback", "", func(b, i string) map[string]string { return map[string]string{fallback: allKeys()} }, true, fallback},
		{"another issuer", "", func(b, i string) map[string]string {
			return map[string]string{openid: document("https://evil.example", b+"/k"), "/k": allKeys()}
		}, false, fallback},
		{"no keys address", "", func(b, i string) map[string]string { return map[string]string{openid: `{"issuer":"` + i + `"}`} }, false,
			fallback},
		{"keys over plain http elsewhere", "", func(b, i string) map[string]string {
			return map[string]string{openid: document(i, "http://keys.example/k")}
		}, false, "/k"},
		{"keys in a file", "", func(b, i string) map[string]string {
			return map[string]string{openid: document(i, "file:///etc/passwd")}
		}, false, "/etc/passwd"},
		{"HTML", "", func(b, i string) map[string]string { return map[string]string{openid: "<html>", fallback: "<html>"} }, false,
			fallback},
		{"redirect of the keys", "", func(b, i string) map[string]string {
			return map[string]string{openid: document(i, b+"/r"), "/r": "→/k", "/k": allKeys()}
		}, false, "/r"},
		{"redirect of the document", "", func(b, i string) map[string]string {
			return map[string]string{openid: "→/d", "/d": document(i, b+"/k"), "/k": allKeys()}
		}, false, fallback},
		{"5 MB", "", func(b, i string) map[string]string {
			return map[string]string{openid: document(i, b+"/k"), "/k": allKeys() + strings.Repeat(" ", 5<<20)}
		}, false, "/k"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			a, name := s.authenticator(t, c.path)
			s.docs = c.docs(s.URL, name)
			err := a.Refresh(t.Context())
			state := a.Issuers()[0]
			if (err == nil) != c.good || a.Ready() != c.good || (state.LastError == "") != c.good || (state.Keys == 6) != c.good {
				t.Errorf("%v, %+v", err, state)
			}
			if !strings.HasSuffix(state.KeysURL, c.url) {
				t.Errorf("keys from %s", state.KeysURL)
			}
			want := outcome.JWKSUnavailable
			if c.good {
				want = ""
			}
			if got := reason(a, good("rsa1", object{"iss": name})); got != want {
				t.Errorf("got %q, expected %q", got, want)
			}
		})
	}
}

func TestKeysComeOverHTTPSOnlyBeyondThisMachine(t *testing.T) {
	for uri, want := range map[string]bool{
		"https://idp/keys": true, "http://127.0.0.1:1/keys": true, "http://[::1]:1/keys": true, "http://localhost/keys": true,
		"http://LOCALHOST/keys": true,
		"http://idp/keys":       false, "http://localhost.evil/keys": false, "http://127.0.0.1.evil/keys": false,
		"http://[::ffff:127.0.0.1]/keys": true, "ftp://idp/keys": false, "file:///keys": false, "//idp/keys": false, "keys": false,
	} {
		for _, insecure := range []bool{false, true} {
			_, err := newGate(settings(func(c *config.Authentication) { c.JWT.JWKSURI, c.JWT.InsecureHTTP = uri, insecure }), Options{})
			if ok := want || insecure && strings.HasPrefix(uri, "http:"); (err == nil) != ok {
				t.Errorf("%s, insecure %v: %v", uri, insecure, err)
			}
		}
	}
}

func TestFirstSetWithNothingUsableCountsAndIsTold(t *testing.T) {
	keys := set(object{"kty": "oct", "k": "AA"}, published("rsa1", object{"use": "enc"}))
	a := build(t, settings(nil), func(*http.Request) (*http.Response, error) { return respond(200, keys) })
	const why = `none of 2 keys is usable: a key without kid: kty "oct" cannot verify, "rsa1": use is "enc"`
	if err := a.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), why) {
		t.Error(err)
	}
	if state := a.Issuers()[0]; !a.Ready() || state.Keys != 0 || state.Skipped != 2 || state.Fetched.IsZero() ||
		!strings.Contains(state.LastError, why) {
		t.Errorf("%+v", state)
	}
	_, err := a.Verify(t.Context(), Credential{Token: good("rsa1", nil)}, nil)
	if reasonOf(err) != outcome.UnknownKey || !strings.Contains(err.Error(), `key "rsa1" is in the set and is skipped: use is "enc"`) {
		t.Error(err)
	}
	keys = allKeys()
	if err := a.Refresh(t.Context()); err != nil || !a.Ready() {
		t.Error(err)
	}
}

// idp is an issuer without a network, for tests in which time is simulated.
type idp struct {
	mu      sync.Mutex
	status  int
	body    string
	delay   time.Duration
	fetches int
}

func (i *idp) answer(status int, body string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status, i.body = status, body
}

func (i *idp) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

func (i *idp) roundTrip(r *http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.fetches++
	delay := i.delay
	i.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.status == 0 {
		return nil, errors.New("connection refused")
	}
	return respond(i.status, i.body)
}

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// simulate runs a gate of this issuer in simulated time.
func (i *idp) simulate(t *testing.T, story func(t *testing.T, a *gate, log *journal)) {
	ring() // is made outside, in real time
	synctest.Test(t, func(t *testing.T) {
		log := &journal{}
		a, err := newGate(settings(nil), Options{Transport: roundTrip(i.roundTrip), Log: slog.New(slog.NewTextHandler(log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		a.now = func() time.Time { return now }
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { a.Run(ctx) })
		synctest.Wait()
		story(t, a, log)
		cancel()
		wg.Wait() // Run leaves no goroutine: the bubble would not end
	})
}

func TestIssuerDownAtStartIsFoundSoonAfterItComesUp(t *testing.T) {
	i := &idp{}
	i.simulate(t, func(t *testing.T, a *gate, log *journal) {
		if a.Ready() || reason(a, good("rsa1", nil)) != outcome.JWKSUnavailable {
			t.Error("ready without keys")
		}
		time.Sleep(5 * time.Minute)
		if n := i.count(); n < 20 || n > 40 {
			t.Errorf("asked %d times in 5 minutes", n)
		}
		i.answer(200, allKeys())
		time.Sleep(lastRetry)
		if !a.Ready() || reason(a, good("rsa1", nil)) != "" {
			t.Error("not ready although the issuer is up")
		}
		if w, n := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO"); w != 1 || n != 1 {
			t.Errorf("%d warnings, %d notes:\n%s", w, n, log)
		}
	})
}

func TestIssuerUpShortlyAfterStartIsFoundWithinASecond(t *testing.T) {
	i := &idp{}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		time.Sleep(700 * time.Millisecond)
		i.answer(200, allKeys())
		time.Sleep(time.Second)
		if !a.Ready() {
			t.Error("not ready")
		}
	})
}

func TestSlowIssuerIsOneThatIsDown(t *testing.T) {
	i := &idp{status: 200, body: allKeys(), delay: fetchLimit + time.Second}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		time.Sleep(fetchLimit + time.Millisecond)
		if state := a.Issuers()[0]; a.Ready() || !strings.Contains(state.LastError, "no whole answer within 10s") {
			t.Errorf("%+v", state)
		}
		i.mu.Lock()
		i.delay = fetchLimit - time.Second
		i.mu.Unlock()
		time.Sleep(2 * fetchLimit)
		if !a.Ready() {
			t.Error("9 s are not too slow")
		}
	})
}

func TestKeysAreRefreshedEveryTenMinutes(t *testing.T) {
	i := &idp{status: 200, body: allKeys()}
	i.simulate(t, func(t *testing.T, a *gate, log *journal) {
		time.Sleep(time.Hour)
		if n := i.count(); n < 7 || n > 8 {
			t.Errorf("asked %d times in an hour", n)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines although nothing has changed:\n%s", n, log)
		}
		i.answer(200, set("rsa2"))
		time.Sleep(refreshEvery)
		if reason(a, good("rsa2", nil)) != "" || strings.Count(log.String(), "keys fetched") != 2 {
			t.Errorf("the change went unseen:\n%s", log)
		}
	})
}

func TestKeysLiveThroughAnOutageButNotForEver(t *testing.T) {
	i := &idp{status: 200, body: allKeys()}
	i.simulate(t, func(t *testing.T, a *gate, log *journal) {
		i.answer(500, "")
		time.Sleep(time.Hour)
		if reason(a, good("rsa1", nil)) != "" || !a.Ready() {
			t.Error("an hour's outage is felt")
		}
		state := a.Issuers()[0]
		if age := time.Since(state.Fetched); age < 50*time.Minute || state.Failures == 0 || state.LastError == "" || state.Keys != 6 {
			t.Errorf("age %s, %+v", age, state)
		}
		time.Sleep(keepFor)
		if got := reason(a, good("rsa1", nil)); got != outcome.JWKSUnavailable || a.Ready() {
			t.Errorf("got %q after a week and an hour", got)
		}
		i.answer(200, allKeys())
		time.Sleep(lastRetry)
		if reason(a, good("rsa1", nil)) != "" || !a.Ready() {
			t.Error("not back")
		}
		if w := strings.Count(log.String(), "level=WARN"); w != 1 {
			t.Errorf("%d warnings for one outage", w)
		}
	})
}

func TestRotatedKeyIsFetchedForTheFirstTokenThatNamesIt(t *testing.T) {
	i := &idp{status: 200, body: set("rsa1")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		i.answer(200, set("rsa1", "rsa2"))
		i.mu.Lock()
		i.delay = time.Second
		i.mu.Unlock()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got := reason(a, good("rsa2", nil)); got != "" {
					t.Error(got)
				}
			})
		}
		wg.Wait()
		if n := i.count(); n != 2 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestSignatureThatNoKeyVerifiesCausesOneFetch(t *testing.T) {
	i := &idp{status: 200, body: set("rsa1")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		// The issuer's next key has the kid of the one before, and there is a token without kid.
		i.answer(200, set(published("rsa2", object{"kid": "rsa1"})))
		rotated := mint("rsa2", object{"alg": "RS256", "kid": "rsa1"}, claims(nil))
		if got := reason(a, rotated); got != "" || i.count() != 2 {
			t.Errorf("%q after %d fetches", got, i.count())
		}
		for range 100 {
			reason(a, mint("unknown", object{"alg": "RS256", "kid": "rsa1"}, claims(object{"sub": "nobody"})))
			reason(a, mint("unknown", object{"alg": "RS256"}, claims(object{"sub": "nobody"})))
		}
		if n := i.count(); n != 2 {
			t.Errorf("forged tokens cause %d fetches", n-2)
		}
		time.Sleep(refetchEvery)
		i.answer(200, set("ed25519"))
		if got := reason(a, mint("ed25519", object{"alg": "EdDSA"}, claims(nil))); got != "" || i.count() != 3 {
			t.Errorf("without kid: %q after %d fetches", got, i.count())
		}
	})
}

func TestTokenThatCannotBeOursCausesNoFetch(t *testing.T) {
	i := &idp{status: 200, body: set("rsa1")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		reason(a, good("ec256", object{"iss": "https://x"}))
		reason(a, mint("unknown", object{"alg": "HS256"}, claims(nil)))
		reason(a, "a.b.c")
		if n := i.count(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// A stranger who knows a user's name comes from another address. One at the user's own address
// uses up no fetch but that of the name.
func TestStrangersCannotUseUpTheFetchAfterARotation(t *testing.T) {
	home, away := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	i := &idp{status: 200, body: set("rsa1")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		from := func(addr netip.Addr, token string) outcome.Reason {
			_, err := a.Verify(t.Context(), Credential{Token: token, Client: addr}, nil)
			return reasonOf(err)
		}
		forged := func(addr netip.Addr, sub string) {
			from(addr, mint("unknown", object{"alg": "RS256", "kid": "made-up"}, claims(object{"sub": sub})))
		}
		for _, sub := range []string{"alice", "bob"} {
			if got := from(home, good("rsa1", object{"sub": sub})); got != "" {
				t.Fatal(got)
			}
		}
		forged(away, "nobody")
		i.answer(200, set("rsa1", "rsa2"))
		for range 100 {
			forged(away, "nobody")
			forged(away, "alice")
			forged(home, "nobody")
		}
		if n := i.count(); n != 2 {
			t.Fatalf("%d fetches", n)
		}
		time.Sleep(refetchPause)
		if got := from(away, good("rsa2", object{"sub": "alice"})); got != outcome.UnknownKey {
			t.Errorf("a caller from an address that is not known: %q", got)
		}
		if got := from(home, good("rsa2", object{"sub": "alice"})); got != "" || i.count() != 3 {
			t.Errorf("a caller that is known: %q after %d fetches", got, i.count())
		}
		for range 100 {
			forged(home, "alice")
		}
		if n := i.count(); n != 3 {
			t.Errorf("%d fetches", n)
		}
		i.answer(200, set("rsa2", "ec256"))
		time.Sleep(refetchPause)
		if got := from(home, good("ec256", object{"sub": "bob"})); got != "" || i.count() != 4 {
			t.Errorf("another caller that is known: %q after %d fetches", got, i.count())
		}
	})
}

// The fetch that a caller has of its own is not spent on keys that have come just now.
func TestForgedTokensInTheNameOfAKnownCallerCauseOneFetch(t *testing.T) {
	i := &idp{status: 200, body: set("rsa1")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		if got := reason(a, good("rsa1", nil)); got != "" {
			t.Fatal(got)
		}
		forged := mint("unknown", object{"alg": "RS256", "kid": "made-up"}, claims(nil))
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { reason(a, forged) })
		}
		wg.Wait()
		for range 10 {
			if got := reason(a, forged); got != outcome.UnknownKey {
				t.Error(got)
			}
		}
		if n := i.count(); n != 2 {
			t.Errorf("%d fetches", n-1)
		}
		i.answer(200, set("rsa2"))
		time.Sleep(refetchPause)
		if got := reason(a, good("rsa2", nil)); got != "" || i.count() != 3 {
			t.Errorf("the caller itself, after a rotation: %q after %d fetches", got, i.count())
		}
	})
}

func TestErrorTellsWhatAKeySetLooksLike(t *testing.T) {
	single, _ := strings.CutPrefix(set("rsa1"), `{"keys":[`)
	for text, want := range map[string]string{
		strings.TrimSuffix(single, `]}`):                  "no keys in it: it is a single JWK, which",
		`{"kid1":"-----BEGIN CERTIFICATE-----\nMII"}`:     "no keys in it: it is a map of certificates or keys in PEM",
		`{"issuer":"https://x","jwks_uri":"https://x/k"}`: "no keys in it: it is a discovery document",
		`{"keys":{}}`:                          "no keys in it: keys is no list, or an empty one",
		`{"keys":[]}`:                          "no keys in it: keys is no list, or an empty one",
		`{}`:                                   "no keys in it",
		"\n-----BEGIN PUBLIC KEY-----\nMII":    "not a JSON object, but PEM",
		"<!doctype html><title>Log in</title>": "not a JSON object, but HTML",
		`[{"kty":"RSA"}]`:                      "not a JSON object, but a list",
		" ":                                    "not a JSON object, but empty",
		"nonsense":                             "not a JSON object",
	} {
		if _, err := parseKeys([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for key, want := range map[string]string{
		`{"kty":"RSA","kid":"a","e":"AQAB"}`:              `"a": n is missing, of a key with kty RSA`,
		`{"kty":"RSA","kid":"a","n":"AQAB","e":""}`:       `"a": e is missing, of a key with kty RSA`,
		`{"kty":"EC","kid":"a","crv":"P-256","x":"AQAB"}`: `"a": y is missing, of a key with kty EC`,
		`{"kty":"OKP","kid":"a","crv":"Ed25519"}`:         `"a": x is missing, of a key with kty OKP`,
		`{"kid":"a","n":"AQAB"}`:                          `"a": kty is missing`,
	} {
		keys, err := parseKeys([]byte(`{"keys":[` + key + `]}`))
		if err != nil || keys.why() != want {
			t.Errorf("%s: %v, %v", key, keys, err)
		}
	}
}

func TestVisitorsAreBounded(t *testing.T) {
	var c visitors
	now := time.Now()
	if c.ask(visitor{}, now) {
		t.Error("asks for one that it has never seen")
	}
	who := func(n int) visitor { return visitor{subject: fmt.Sprint(n)} }
	for n := range maxVisitors + 10 {
		c.saw(who(n))
		c.saw(who(n))
	}
	if len(c.asked) != maxVisitors || len(c.ring) != maxVisitors {
		t.Errorf("%d callers", len(c.asked))
	}
	if c.ask(who(9), now) || !c.ask(who(10), now) || !c.ask(who(maxVisitors+9), now) {
		t.Error("it is not the last ones that are known")
	}
	if c.saw(who(10)); c.ask(who(10), now.Add(refetchEvery-1)) || !c.ask(who(10), now.Add(refetchEvery)) {
		t.Error("once in refetchEvery does not hold")
	}
}

func TestRefreshCanOverlapRun(t *testing.T) {
	var n atomic.Int64
	a := build(t, settings(nil), func(*http.Request) (*http.Response, error) {
		if n.Add(1)%3 == 0 {
			return respond(500, "")
		}
		return respond(200, allKeys())
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running, asking sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	for range 20 {
		asking.Go(func() { a.Refresh(t.Context()) })
		asking.Go(func() { reason(a, good("unknown", nil)) })
		asking.Go(func() { a.Issuers(); a.Ready() })
	}
	asking.Wait()
	cancel()
	running.Wait()
	if state := a.Issuers()[0]; state.Refreshes < 20 || state.Failures*3 > state.Refreshes {
		t.Errorf("%+v", state)
	}
	if got := reason(a, good("rsa1", nil)); got != "" {
		t.Error(got)
	}
}

func TestRefreshThatIsGivenUpSaysNothingAboutTheIssuer(t *testing.T) {
	a := build(t, settings(nil), func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Refresh(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if state := a.Issuers()[0]; state.Refreshes != 0 || state.LastError != "" {
		t.Errorf("%+v", state)
	}
}

func TestKeysOutliveTheRules(t *testing.T) {
	i := &idp{status: 200, body: allKeys()}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		other, err := New(settings(func(c *config.Authentication) { c.JWT.Audiences = []string{"others"} }), maxToken, a.Keys, nil)
		if err != nil {
			t.Fatal(err)
		}
		other.now = a.now
		a.Keep(other)
		synctest.Wait()
		if n := i.count(); n != 1 || !other.Ready() {
			t.Errorf("%d fetches, ready %v", n, other.Ready())
		}
		if got := reason(&gate{other, a.Keys}, good("rsa1", object{"aud": "others"})); got != "" {
			t.Errorf("with the keys that were there: %q", got)
		}
		if got := reason(a, good("rsa1", nil)); got != "" {
			t.Errorf("the rules before, with the same keys: %q", got)
		}
	})
}

// A reload that changes only when keys are fetched must not cost them while the issuer is down.
func TestKeysOutliveAnotherTimeOfTheirFetches(t *testing.T) {
	i := &idp{status: 200, body: allKeys()}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		i.answer(500, "")
		changed := func(change func(*config.JWT)) *gate {
			t.Helper()
			v, err := New(settings(func(c *config.Authentication) { change(&c.JWT) }), maxToken, a.Keys, nil)
			if err != nil {
				t.Fatal(err)
			}
			v.now = a.now
			a.Keep(v)
			synctest.Wait()
			return &gate{v, a.Keys}
		}
		for name, change := range map[string]func(*config.JWT){
			"fetch.timeout":  func(j *config.JWT) { j.Fetch.Timeout = 5 * time.Second },
			"fetch.interval": func(j *config.JWT) { j.Fetch.Interval = time.Minute },
			"timeout":        func(j *config.JWT) { j.Timeout = 3 * time.Second },
		} {
			if g := changed(change); reason(g, good("rsa1", nil)) != "" || !g.Ready() || g.Issuers()[0].LastError == "" {
				t.Errorf("%s: %q, %+v", name, reason(g, good("rsa1", nil)), g.Issuers()[0])
			}
		}
		other := changed(func(j *config.JWT) { j.Fetch.Proxy = "http://proxy.example.com:3128" })
		if got := reason(other, good("rsa1", nil)); got != outcome.JWKSUnavailable {
			t.Errorf("with another way to the issuer: %q", got)
		}
	})
}

func TestSetsComeAndGoWhileKeysRun(t *testing.T) {
	i := &idp{status: 200, body: allKeys()}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		second, err := New(settings(func(c *config.Authentication) {
			other := c.JWT
			other.Issuer, other.JWKSURI = "https://other.example.com", "https://other.example.com/keys"
			c.JWTRules = config.JWTRules{other}
		}), maxToken, a.Keys, nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := i.count(); n != 2 || !second.Ready() {
			t.Fatalf("%d fetches, ready %v: the new set was not fetched", n, second.Ready())
		}
		a.Keep(a.Verifier)
		time.Sleep(refreshEvery)
		if n := i.count(); n != 3 {
			t.Errorf("%d fetches: a set that was dropped is still fetched, or one that was kept is not", n)
		}
		if got := second.Issuers()[1].Keys; got != 6 {
			t.Errorf("a verifier still in use has lost its keys: %d", got)
		}
	})
}

func TestAnotherSourceIsAnotherSet(t *testing.T) {
	keys := NewKeys(Options{})
	for n, change := range []func(*config.JWT){
		func(*config.JWT) {},
		func(j *config.JWT) { j.JWKSURI = "" },
		func(j *config.JWT) { j.JWKSURI = "https://auth.example.com/other" },
		func(j *config.JWT) { j.Issuer = "https://auth.example.com/" },
	} {
		v, err := New(settings(func(c *config.Authentication) { change(&c.JWT) }), maxToken, keys, nil)
		if err != nil || len(keys.all()) != n+1 || !v.refersTo(keys.all()[n]) {
			t.Errorf("%d: %d sets, %v", n, len(keys.all()), err)
		}
	}
	if _, err := New(settings(func(c *config.Authentication) {
		c.JWT.Issuer = "https://new.example.com"
		c.JWTRules = config.JWTRules{c.JWT}
	}), maxToken, keys, nil); err == nil || len(keys.all()) != 4 {
		t.Errorf("%d sets, %v: a configuration with a mistake has added one", len(keys.all()), err)
	}
	keys.Keep()
	if n := len(keys.all()); n != 0 {
		t.Errorf("%d sets that no verifier refers to", n)
	}
}
