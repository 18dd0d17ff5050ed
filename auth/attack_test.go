package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// The attacks on tokens (A) and on the retrieval of keys (B) that docs/attacks.md lists, as far
// as they meet this package.

// refused asks a gateway with good keys for the reason of each token.
func refused(t *testing.T, want outcome.Reason, tokens ...string) {
	t.Helper()
	a := ready(t, allKeys(), nil)
	for _, token := range tokens {
		if got := reason(a, token); got != want {
			t.Errorf("%.80s: got %q, expected %q", token, got, want)
		}
	}
}

func TestA01AlgNone(t *testing.T) {
	for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
		header := encode([]byte(`{"alg":"` + alg + `"}`))
		payload := strings.Split(good("rsa1", nil), ".")[1]
		refused(t, outcome.AlgNotAllowed, header+"."+payload+".AA")
		refused(t, outcome.Malformed, header+"."+payload+".", header+"."+payload)
	}
}

func TestA02PublicKeyAsHMACSecret(t *testing.T) {
	pub := ring()["rsa1"].Public().(*rsa.PublicKey)
	der := must(x509.MarshalPKIXPublicKey(pub))
	for _, secret := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), pub.N.Bytes()} {
		refused(t, outcome.AlgNotAllowed, hs256(secret, "rsa1"))
	}
}

func hs256(secret []byte, kid string) string {
	signed := strings.Join(strings.Split(mint("rsa1", object{"alg": "HS256", "kid": kid}, claims(nil)), ".")[:2], ".")
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(signed))
	return signed + "." + encode(m.Sum(nil))
}

func TestA03SymmetricKeyInThePublicJWKS(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, 32)
	a := ready(t, set("rsa1", object{"kty": "oct", "kid": "oct", "alg": "HS256", "use": "sig", "k": encode(secret)}), nil)
	for _, kid := range []string{"oct", "rsa1", ""} {
		if got := reason(a, hs256(secret, kid)); got != outcome.AlgNotAllowed {
			t.Errorf("kid %q: %q", kid, got)
		}
	}
}

func TestA04KeyInTheTokensHeader(t *testing.T) {
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the token's address was asked") }))
	defer evil.Close()
	for name, value := range map[string]any{"jwk": published("unknown", nil), "jku": evil.URL, "x5u": evil.URL, "x5c": []string{"AA"}} {
		refused(t, outcome.UnknownKey, mint("unknown", object{"alg": "RS256", "kid": "unknown", name: value}, claims(nil)))
		refused(t, outcome.BadSignature, mint("unknown", object{"alg": "RS256", name: value}, claims(nil)))
	}
}

func TestA05AlgorithmOfAnotherKey(t *testing.T) {
	refused(t, outcome.AlgKeyMismatch,
		mint("rsa1", object{"alg": "PS512", "kid": "rsa1"}, claims(nil)),
		mint("ec256", object{"alg": "ES384", "kid": "ec256"}, claims(nil)),
		mint("ec256", object{"alg": "ES512", "kid": "ec256"}, claims(nil)),
		mint("ed25519", object{"alg": "ES256", "kid": "ed25519"}, claims(nil)))
}

func TestA06PsychicSignatures(t *testing.T) {
	signed := strings.Join(strings.Split(good("ec256", nil), ".")[:2], ".")
	n := elliptic.P256().Params().N.FillBytes(make([]byte, 32))
	one := append(make([]byte, 31), 1)
	for _, s := range [][]byte{make([]byte, 64), slices.Concat(n, n), slices.Concat(one, one), slices.Concat(n, one), {0}} {
		refused(t, outcome.BadSignature, signed+"."+encode(s))
	}
}

// s → n−s is a good signature of the same bytes too, so a token cannot be identified by its
// text. The cache does not need it to be: a second text is verified for itself. What can be
// refused as another text for the same bytes is.
func TestA07OtherTextsForOneToken(t *testing.T) {
	token := good("ec256", nil)
	parts := strings.Split(token, ".")
	s := must(base64.RawURLEncoding.DecodeString(parts[2]))
	n := elliptic.P256().Params().N
	other := new(big.Int).Sub(n, new(big.Int).SetBytes(s[32:])).FillBytes(make([]byte, 32))
	twin := parts[0] + "." + parts[1] + "." + encode(slices.Concat(s[:32], other))
	a := ready(t, allKeys(), nil)
	first, err1 := a.Verify(t.Context(), Credential{Token: token}, nil)
	second, err2 := a.Verify(t.Context(), Credential{Token: twin}, nil)
	if err1 != nil || err2 != nil || first.Subject != second.Subject {
		t.Errorf("%v, %v", err1, err2)
	}
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", token[len(token)-1])
	bits := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last|1]
	refused(t, outcome.Malformed, token[:len(token)-1]+string(bits), token+"\n", token+"=", parts[0]+"\r\n."+parts[1]+"."+parts[2])
}

func TestA08TokenWithoutKidIsTriedOnFittingKeysOnly(t *testing.T) {
	a := ready(t, set(published("rsa1", object{"use": "enc", "alg": "RSA-OAEP"}), published("rsa2", object{"alg": "RS512"}), "ec256"), nil)
	if got := reason(a, mint("rsa1", object{"alg": "RS256"}, claims(nil))); got != outcome.UnknownKey {
		t.Error(got)
	}
	if got := reason(a, mint("rsa2", object{"alg": "RS256"}, claims(nil))); got != outcome.UnknownKey {
		t.Error(got)
	}
}

func TestA09KidInjection(t *testing.T) {
	for _, kid := range []string{"../../dev/null", "' OR 1=1--", "rsa1\r\nx: y", "RSA1", "rsa1 ", strings.Repeat("k", 4096), "\x00"} {
		token := mint("rsa1", object{"alg": "RS256", "kid": kid}, claims(nil))
		_, err := ready(t, allKeys(), nil).Verify(t.Context(), Credential{Token: token}, nil)
		if reasonOf(err) != outcome.UnknownKey || strings.ContainsAny(err.Error(), "\r\n\x00") || len(err.Error()) > 200 {
			t.Errorf("%q: %q", kid, err)
		}
	}
}

func TestA10DuplicateKidIsOneIssuersOwn(t *testing.T) {
	a := ready(t, set(published("rsa1", object{"kid": "k"}), published("rsa2", object{"kid": "k"})), nil)
	for key, want := range map[string]outcome.Reason{"rsa1": "", "rsa2": "", "unknown": outcome.BadSignature} {
		if got := reason(a, mint(key, object{"alg": "RS256", "kid": "k"}, claims(nil))); got != want {
			t.Errorf("%s: %q", key, got)
		}
	}
}

func TestA11ExpMissingNullZero(t *testing.T) {
	refused(t, outcome.NoExpiry, good("rsa1", object{"exp": nil}))
	refused(t, outcome.Expired, good("rsa1", object{"exp": 0}))
	refused(t, outcome.Malformed, mint("rsa1", rs256, `{"iss":"https://auth.example.com","aud":"agents","sub":"u","exp":null}`))
}

func TestA12NumericOverflow(t *testing.T) {
	refused(t, outcome.Malformed, good("rsa1", object{"nbf": 1e308}), good("rsa1", object{"nbf": 1<<63 - 1}),
		good("rsa1", object{"exp": 1e19}),
		mint("rsa1", rs256, `{"iss":"https://auth.example.com","aud":"agents","sub":"u","exp":1e9999}`))
	refused(t, outcome.NotYetValid, good("rsa1", object{"nbf": int64(1 << 62)}))
}

func TestA13SkewIsNoMoreThanConfigured(t *testing.T) {
	refused(t, outcome.Expired, good("rsa1", object{"exp": now.Unix() - 61}))
	refused(t, outcome.NotYetValid, good("rsa1", object{"nbf": now.Unix() + 61}))
}

func TestA14RegisteredNamesInAnotherCase(t *testing.T) {
	for name, value := range map[string]any{
		"ISS": issuerName, "Sub": "victim", "EXP": 4102444800, "Aud": "agents", "iſſ": issuerName, "ſub": "victim", "NBF": 0, "Jti": "x",
	} {
		refused(t, outcome.Malformed, good("rsa1", object{name: value}))
		refused(t, outcome.WrongIssuer, good("rsa1", object{name: value, "iss": "https://evil"}))
	}
	refused(t, outcome.Malformed, mint("rsa1", object{"alg": "RS256", "ALG": "none", "kid": "rsa1"}, claims(nil)),
		mint("rsa1", object{"alg": "RS256", "Kid": "rsa2", "kid": "rsa1"}, claims(nil)))
	refused(t, "", good("rsa1", object{"Roles": "x", "nested": object{"SUB": "x"}}))
}

func TestA15DuplicateMembers(t *testing.T) {
	refused(t, outcome.Malformed,
		mint("rsa1", `{"alg":"none","alg":"RS256","kid":"rsa1"}`, claims(nil)),
		mint("rsa1", `{"alg":"RS256","kid":"rsa2","kid":"rsa1"}`, claims(nil)),
		mint("rsa1", rs256, `{"iss":"https://evil","iss":"https://auth.example.com","aud":"agents","exp":4102444800}`))
}

func TestA16CriticalExtensions(t *testing.T) {
	refused(t, outcome.CritUnsupported, mint("rsa1", with(rs256, object{"crit": []string{"b64"}, "b64": false}), claims(nil)),
		mint("rsa1", with(rs256, object{"crit": "exp"}), claims(nil)))
}

func TestA17AudAndIssOfWrongTypesOrNearlyRight(t *testing.T) {
	refused(t, outcome.Malformed, good("rsa1", object{"iss": []string{issuerName}}), good("rsa1", object{"aud": []any{"agents", 1}}))
	refused(t, outcome.WrongIssuer, good("rsa1", object{"iss": ""}), good("rsa1", object{"iss": issuerName + "/x"}),
		good("rsa1", object{"iss": " " + issuerName}))
	refused(t, outcome.WrongAudience, good("rsa1", object{"aud": []string{"", "agent"}}), good("rsa1", object{"aud": "agents2"}))
}

func TestA18TokenOfAnotherService(t *testing.T) {
	refused(t, outcome.WrongAudience, good("rsa1", object{"aud": "billing"}), good("rsa1", object{"aud": nil}))
}

func TestA20MissingOrOddSubject(t *testing.T) {
	refused(t, outcome.Malformed, good("rsa1", object{"sub": []string{"admin"}}), good("rsa1", object{"sub": 1}),
		good("rsa1", object{"sub": true}))
	a := ready(t, allKeys(), nil)
	for _, sub := range []any{nil, "", " ", "admin ", "a\nb"} {
		id, err := a.Verify(t.Context(), Credential{Token: good("rsa1", object{"sub": sub})}, nil)
		if err != nil || id.HasPrincipal() {
			t.Errorf("%v is a principal, %v", sub, err)
		}
	}
}

func TestA21HugeTokensAreRefusedBeforeTheyAreRead(t *testing.T) {
	huge := strings.Repeat("A", 1<<20)
	a := ready(t, allKeys(), nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, token := range []string{huge + "." + huge + ".AA", strings.Repeat(".", 1<<20), huge} {
		if got := reason(a, token); got != outcome.Malformed {
			t.Error(got)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 { // the hash of the cache reads it once
		t.Errorf("%d bytes allocated", n)
	}
	refused(t, outcome.Malformed, strings.Repeat(".", 10000), mint("rsa1", rs256, strings.Repeat(`{"a":`, 3000)))
}

func TestA22WeakAndMonstrousRSAKeys(t *testing.T) {
	n := new(big.Int).Lsh(big.NewInt(1), 131071)
	monster := encode(n.Add(n, big.NewInt(1)).Bytes())
	a := ready(t, set("rsa1024", published("rsa1", object{"kid": "monster", "n": monster}),
		published("rsa2", object{"kid": "one", "e": "AQ"})), nil)
	for kid, want := range map[string]outcome.Reason{"rsa1024": outcome.WeakKey, "monster": outcome.UnknownKey, "one": outcome.UnknownKey} {
		if got := reason(a, mint("rsa1024", object{"alg": "RS256", "kid": kid}, claims(nil))); got != want {
			t.Errorf("%s: %q", kid, got)
		}
	}
}

// A signature by a key of small order is R = identity and S = 0, for a part of all texts that is at
// least an eighth.
func TestA22Ed25519KeyWithWhichAnyoneCanSign(t *testing.T) {
	for _, text := range smallOrder {
		for _, sign := range []byte{0, 0x80} {
			key := must(hex.DecodeString(text))
			key[31] |= sign
			forged := append([]byte{1}, make([]byte, 63)...)
			a := ready(t, set("rsa1", object{"kty": "OKP", "crv": "Ed25519", "kid": "small", "x": encode(key)}), nil)
			for n := 0; ; n++ {
				token := mint("ed25519", object{"alg": "EdDSA", "kid": "small"}, claims(object{"n": n}))
				signed := token[:strings.LastIndexByte(token, '.')]
				if n == 200 {
					t.Fatalf("%x: nothing can be forged", key)
				}
				if !ed25519.Verify(key, []byte(signed), forged) {
					continue
				}
				if got := reason(a, signed+"."+encode(forged)); got != outcome.UnknownKey {
					t.Errorf("%x: %q", key, got)
				}
				break
			}
		}
	}
}

func TestA23PSSSaltLength(t *testing.T) {
	a := ready(t, set(published("rsa1", object{"alg": nil})), nil)
	signed := strings.Join(strings.Split(mint("rsa1", object{"alg": "PS256", "kid": "rsa1"}, claims(nil)), ".")[:2], ".")
	sum := sha256.Sum256([]byte(signed))
	for salt, want := range map[int]outcome.Reason{1: outcome.BadSignature, 20: outcome.BadSignature, 31: outcome.BadSignature, 32: "",
		33: outcome.BadSignature} {
		s := must(rsa.SignPSS(rand.Reader, ring()["rsa1"].(*rsa.PrivateKey), crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: salt}))
		if got := reason(a, signed+"."+encode(s)); got != want {
			t.Errorf("salt of %d bytes: %q", salt, got)
		}
	}
}

func TestA24AmbiguousCredentials(t *testing.T) {
	a := build(t, settings(nil), nil)
	for _, c := range []struct {
		header http.Header
		query  string
	}{
		{http.Header{"Authorization": {"Bearer a", "Bearer b"}}, ""},
		{http.Header{"Authorization": {"Bearer a"}}, "access_token=b"},
		{http.Header{}, "access_token=a&access_token=b"},
		{http.Header{"Authorization": {"Bearer a"}, "Sec-Websocket-Protocol": {"bearer, b"}}, ""},
	} {
		if _, _, err := a.Take(c.header, c.query); reasonOf(err) != outcome.MultipleCredentials {
			t.Errorf("%v %s: %v", c.header, c.query, err)
		}
	}
	refused(t, outcome.Malformed, "a, Bearer b")
}

func TestA25RefusalsHoldNothingOfTheToken(t *testing.T) {
	a := ready(t, allKeys(), nil)
	for _, token := range []string{
		good("rsa1", object{"exp": 1}), good("unknown", nil), good("rsa1", nil) + "x", good("rsa1", object{"aud": "x"}),
		good("rsa1", object{"sub": 1}),
	} {
		_, err := a.Verify(t.Context(), Credential{Token: token}, nil)
		for part := range strings.SplitSeq(token, ".") {
			if err == nil || strings.Contains(err.Error(), part) {
				t.Errorf("%v", err)
			}
		}
	}
}

func TestA26RemovedKeyIsGoneAfterTheNextRefresh(t *testing.T) {
	i := &idp{status: 200, body: set("rsa1", "rsa2")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		token := good("rsa1", nil)
		if got := reason(a, token); got != "" {
			t.Error(got)
		}
		i.answer(200, set("rsa2"))
		time.Sleep(refreshEvery)
		if got := reason(a, token); got != outcome.UnknownKey {
			t.Errorf("%q after the refresh", got)
		}
	})
}

func TestB01UnknownKidFlood(t *testing.T) {
	i := &idp{status: 200, body: set("rsa1")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		flood := func(n int) {
			start := time.Now()
			for range n {
				if got := reason(a, mint("unknown", object{"alg": "RS256", "kid": rand.Text()}, claims(nil))); got != outcome.UnknownKey {
					t.Error(got)
				}
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("it took %s", d)
			}
		}
		flood(200)
		if n := i.count(); n != 2 {
			t.Errorf("%d fetches", n)
		}
		i.answer(200, set("rsa1", "rsa2"))
		flood(20)
		time.Sleep(refetchEvery) // by then a key that was rotated in meanwhile is found
		if got := reason(a, good("rsa2", nil)); got != "" {
			t.Error(got)
		}
		if n := i.count(); n != 3 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestB02RequestsWaitForOneFetchAtMost(t *testing.T) {
	i := &idp{status: 200, body: set("rsa1")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		i.mu.Lock()
		i.delay = time.Hour
		i.mu.Unlock()
		start := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { reason(a, good("unknown", nil)) })
		}
		wg.Go(func() {
			if got := reason(a, good("rsa1", nil)); got != "" || time.Since(start) > 0 {
				t.Errorf("a known key has waited %s: %q", time.Since(start), got)
			}
		})
		wg.Wait()
		if d := time.Since(start); d > refetchWait {
			t.Errorf("waited %s", d)
		}
	})
}

func TestB03ClientThatGoesAwaySpoilsNoFetch(t *testing.T) {
	i := &idp{status: 200, body: set("rsa1")}
	i.simulate(t, func(t *testing.T, a *gate, _ *journal) {
		i.answer(200, set("rsa1", "rsa2"))
		i.mu.Lock()
		i.delay = time.Second
		i.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			start := time.Now()
			a.Verify(ctx, Credential{Token: good("unknown", nil)}, nil)
			if d := time.Since(start); d > 100*time.Millisecond {
				t.Errorf("kept for %s after it went away", d)
			}
		})
		time.Sleep(10 * time.Millisecond)
		cancel()
		wg.Wait()
		synctest.Wait()
		if got := reason(a, good("rsa2", nil)); got != "" {
			t.Errorf("the honest one: %q", got)
		}
		if n := i.count(); n != 2 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestB04HugeOrCompressedAnswer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e := r.Header.Get("Accept-Encoding"); strings.Contains(e, "gzip") {
			t.Errorf("compression was asked for: %s", e)
		}
		block := bytes.Repeat([]byte(" "), 1<<16)
		for range 1 << 10 { // 64 MiB, if they were accepted
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	a, err := newGate(settings(func(c *config.Authentication) { c.JWT.JWKSURI = s.URL }), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = a.Refresh(t.Context())
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Error(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

func TestB05KeySetIsNotWiped(t *testing.T) {
	for _, body := range []string{`{}`, `{"keys":null}`, `{"keys":[]}`, `null`, `{"error":"x"}`, `<html>`,
		set(object{"kty": "oct", "k": "AA"}), set("rsa1024"), `[]`} {
		answer := allKeys()
		a := build(t, settings(nil), func(*http.Request) (*http.Response, error) { return respond(200, answer) })
		if err := a.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		answer = body
		if err := a.Refresh(t.Context()); err == nil {
			t.Errorf("%.40s: no error", body)
		}
		if state := a.Issuers()[0]; state.Keys != 6 || state.Failures != 1 || state.LastError == "" || !a.Ready() {
			t.Errorf("%.40s: %+v", body, state)
		}
		if got := reason(a, good("rsa1", nil)); got != "" {
			t.Errorf("%.40s: %q", body, got)
		}
	}
}

// B06, the outage at start, is TestIssuerDownAtStartIsFoundSoonAfterItComesUp.

func TestB07RedirectsAndProxiesAreNotFollowed(t *testing.T) {
	s := newSite(t)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s.docs["/r"], s.docs["/k"] = "→/k", allKeys()
	for path, want := range map[string]bool{"/r": false, "/k": true} {
		a, err := newGate(settings(func(c *config.Authentication) { c.JWT.JWKSURI = s.URL + path }), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Refresh(t.Context()); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got := fmt.Sprint(s.asked); got != "[/r /k]" && got != "[/k /r]" {
		t.Errorf("asked for %s", got)
	}
}

// B08, the key that spoils a set, is TestBrokenKeysAreSkippedAndTheRestWorks.

func TestB09KeyThatWouldCrash(t *testing.T) {
	for _, size := range []int{0, 1, 31, 33, 64, 66, 67, 1000, 100_000} {
		long := encode(bytes.Repeat([]byte{0xff}, size))
		a := ready(t, set("rsa1", published("ec256", object{"x": long}), published("ec521", object{"y": long}),
			published("ed25519", object{"x": long})), nil)
		if got := reason(a, good("rsa1", nil)); got != "" {
			t.Errorf("%d: %q", size, got)
		}
	}
}

func TestB10RemovedKeysAreGone(t *testing.T) {
	body := set("rsa1", "rsa2")
	a := build(t, settings(nil), func(*http.Request) (*http.Response, error) { return respond(200, body) })
	for _, c := range []struct {
		body string
		want outcome.Reason
	}{{set("rsa1", "rsa2"), ""}, {set("rsa2"), outcome.UnknownKey}} {
		body = c.body
		if err := a.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := reason(a, good("rsa1", nil)); got != c.want {
			t.Errorf("got %q, expected %q", got, c.want)
		}
	}
}

func TestB11SecretsOfTheKeysAddressAreNotTold(t *testing.T) {
	s := newSite(t)
	s.docs["/k"] = allKeys()
	var log bytes.Buffer
	for _, path := range []string{"/k", "/gone"} {
		uri := strings.Replace(s.URL, "://", "://user:hunter2@", 1) + path + "?key=hunter2#hunter2"
		a, err := newGate(settings(func(c *config.Authentication) { c.JWT.JWKSURI = uri }),
			Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(&log, a.Refresh(t.Context()), a.Issuers())
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	a, err := newGate(settings(func(c *config.Authentication) { c.JWT.JWKSURI = closed.URL + "?key=hunter2" }), Options{})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&log, a.Refresh(t.Context()))
	if text := log.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "/gone") || !strings.Contains(text, "refused") {
		t.Error(text)
	}
}

// A key that is on another curve than the token says must not even be tried.
func TestCurveIsBoundToTheAlgorithm(t *testing.T) {
	for alg, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		for _, other := range []string{"ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA"} {
			k := jwk{public: &ecdsa.PublicKey{Curve: curve}}
			if k.fits(other) != (alg == other) {
				t.Errorf("%s fits %s", curve.Params().Name, other)
			}
		}
	}
}

func TestA29TokensForAnotherPurpose(t *testing.T) {
	for _, typ := range []string{"logout+jwt", "LOGOUT+JWT", "secevent+jwt", "application/logout+jwt", `logout\u002bjwt`,
		"logout+jwt;x=1", "logout+jwt ; x=1", "Secevent+jwt ", ` \tapplication/logout+jwt`} {
		refused(t, outcome.WrongType, mint("rsa1", `{"alg":"RS256","kid":"rsa1","typ":"`+typ+`"}`, claims(nil)))
	}
	refused(t, outcome.Malformed, mint("rsa1", `{"alg":"RS256","kid":"rsa1","TYP":"logout+jwt"}`, claims(nil)))
	refused(t, "", mint("rsa1", object{"alg": "RS256", "kid": "rsa1", "typ": "at+jwt"}, claims(nil)))
}
