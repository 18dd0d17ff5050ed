package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// now is the time of every test that does not say otherwise.
var now = time.Unix(1_800_000_000, 0)

const issuerName = "https://auth.example.com"

// ring holds the private keys of all tests.
var ring = sync.OnceValue(func() map[string]crypto.Signer {
	keys := map[string]crypto.Signer{}
	for name, bits := range map[string]int{"rsa1": 2048, "rsa2": 2048, "unknown": 2048, "rsa1024": 1024} {
		keys[name] = must(rsa.GenerateKey(rand.Reader, bits))
	}
	for name, curve := range map[string]elliptic.Curve{"ec256": elliptic.P256(), "ec384": elliptic.P384(), "ec521": elliptic.P521()} {
		keys[name] = must(ecdsa.GenerateKey(curve, rand.Reader))
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	keys["ed25519"] = must(ed, err)
	return keys
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// object is JSON in the making.
type object = map[string]any

// with is a copy of o with changes; a nil value leaves the member out.
func with(o object, changes object) object {
	out := maps.Clone(o)
	for k, v := range changes {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

var ownAlg = map[string]string{"rsa1": "RS256", "rsa2": "RS256", "unknown": "RS256", "rsa1024": "RS256",
	"ec256": "ES256", "ec384": "ES384", "ec521": "ES512", "ed25519": "EdDSA"}

// published is a key of the ring as an issuer publishes it, with changes.
func published(name string, changes object) object {
	j := object{"kid": name, "alg": ownAlg[name], "use": "sig"}
	switch pub := ring()[name].Public().(type) {
	case *rsa.PublicKey:
		j["kty"], j["n"], j["e"] = "RSA", encode(pub.N.Bytes()), encode(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		point := must(pub.Bytes())
		half := len(point) / 2
		j["kty"], j["crv"], j["x"], j["y"] = "EC", pub.Curve.Params().Name, encode(point[1:1+half]), encode(point[1+half:])
	case ed25519.PublicKey:
		j["kty"], j["crv"], j["x"] = "OKP", "Ed25519", encode(pub)
	}
	return with(j, changes)
}

// set is the text of a JWK set; a string is the name of a key.
func set(keys ...any) string {
	list := []any{}
	for _, k := range keys {
		if name, ok := k.(string); ok {
			k = published(name, nil)
		}
		list = append(list, k)
	}
	return string(must(json.Marshal(object{"keys": list})))
}

var allKeys = sync.OnceValue(func() string { return set("rsa1", "rsa2", "ec256", "ec384", "ec521", "ed25519") })

// claims are good ones, with changes.
func claims(changes object) object {
	return with(object{"iss": issuerName, "sub": "user-1", "aud": "agents", "iat": now.Unix() - 10, "exp": now.Unix() + 300}, changes)
}

// mint makes a token: header and claims may be objects or JSON text. The signature is made with
// the method of alg if that fits the key, else with the key's own.
func mint(key string, header, claims any) string {
	text := func(v any) string {
		if s, ok := v.(string); ok {
			return encode([]byte(s))
		}
		return encode(must(json.Marshal(v)))
	}
	signed := text(header) + "." + text(claims)
	h, _ := header.(object)
	alg, _ := h["alg"].(string)
	return signed + "." + encode(signature(key, alg, signed))
}

func signature(key, alg, signed string) []byte {
	if _, isRSA := ring()[key].(*rsa.PrivateKey); methods[alg] == nil || isRSA != (alg[:1] == "R" || alg[:1] == "P") || !isRSA {
		alg = ownAlg[key]
	}
	return must(methods[alg].Sign(signed, ring()[key]))
}

// good is a token of key with changes to its claims.
func good(key string, changes object) string {
	return mint(key, object{"alg": ownAlg[key], "kid": key, "typ": "JWT"}, claims(changes))
}

// roundTrip is a transport without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func respond(status int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// settings is a configuration of one issuer, with change.
func settings(change func(*config.Authentication)) config.Authentication {
	c := config.DefaultAuthentication()
	c.JWT.Issuer, c.JWT.JWKSURI, c.JWT.Audiences = issuerName, "https://auth.example.com/keys", []string{"agents"}
	if change != nil {
		change(&c)
	}
	return c
}

// maxToken is how long tokens of the tests may be: the default.
const maxToken = 16 << 10

// gate is a Verifier with Keys of its own.
type gate struct {
	*Verifier
	*Keys
}

// newGate makes a gate that asks nothing and runs nothing yet.
func newGate(c config.Authentication, o Options) (*gate, error) {
	keys := NewKeys(o)
	v, err := New(c, maxToken, keys, nil)
	return &gate{v, keys}, err
}

// build makes a gate whose issuers' keys come from transport. The clock stands still.
func build(t testing.TB, c config.Authentication, transport roundTrip) *gate {
	t.Helper()
	a, err := newGate(c, Options{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	a.now = func() time.Time { return now }
	return a
}

// ready is one whose issuer publishes keys, already fetched.
func ready(t testing.TB, keys string, change func(*config.Authentication)) *gate {
	t.Helper()
	a := build(t, settings(change), func(*http.Request) (*http.Response, error) { return respond(200, keys) })
	if err := a.Refresh(t.Context()); err != nil && !strings.Contains(err.Error(), "keys is usable") {
		t.Fatal(err)
	}
	return a
}

// reason is why a token is refused, "" if it is not.
func reason(a *gate, token string) outcome.Reason {
	_, err := a.Verify(context.Background(), Credential{Token: token}, nil)
	return reasonOf(err)
}

func reasonOf(err error) outcome.Reason {
	if err == nil {
		return ""
	}
	var r *outcome.Refusal
	if !errors.As(err, &r) {
		return outcome.Reason("no refusal: " + err.Error())
	}
	return r.Reason
}

func TestNewRefusesWhatWouldSwitchACheckOff(t *testing.T) {
	for name, change := range map[string]func(*config.Authentication){
		"a rule without issuer":    func(c *config.Authentication) { c.JWTRules = config.JWTRules{{}} },
		"issuer twice":             func(c *config.Authentication) { c.JWTRules = config.JWTRules{c.JWT} },
		"HS256":                    func(c *config.Authentication) { c.JWT.Algorithms = []string{"HS256"} },
		"none":                     func(c *config.Authentication) { c.JWT.Algorithms = []string{"none"} },
		"plain http":               func(c *config.Authentication) { c.JWT.JWKSURI = "http://auth.example.com/keys" },
		"a jwksUri that is no URL": func(c *config.Authentication) { c.JWT.JWKSURI = "keys.json" },
	} {
		if _, err := newGate(settings(change), Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestWithoutIssuerNoTokenIsGood: where agents authenticate there need be no issuer.
func TestWithoutIssuerNoTokenIsGood(t *testing.T) {
	a := build(t, settings(func(c *config.Authentication) { c.JWT.Issuer = "" }), nil)
	if got := reason(a, good("rsa1", nil)); got != outcome.WrongIssuer {
		t.Errorf("got %q", got)
	}
}

func TestAuthenticationOffIsReadyAndAsksNoIssuer(t *testing.T) {
	a := build(t, settings(func(c *config.Authentication) { c.Enabled = false }), nil)
	if !a.Ready() || len(a.Issuers()) != 0 || a.Refresh(t.Context()) != nil {
		t.Fatal("an issuer although authentication is off")
	}
}

func TestNoAlgorithmsMeansNone(t *testing.T) {
	a := ready(t, allKeys(), func(c *config.Authentication) { c.JWT.Algorithms = nil })
	if got := reason(a, good("rsa1", nil)); got != outcome.AlgNotAllowed {
		t.Fatal(got)
	}
}
