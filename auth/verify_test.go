package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

var rs256 = object{"alg": "RS256", "kid": "rsa1", "typ": "JWT"}

func TestRefusalOfAnAlgorithmTellsWhatToDo(t *testing.T) {
	const do = "; have the issuer sign with RS256, ES256 or EdDSA"
	one := ready(t, allKeys(), func(s *config.Authentication) { s.JWT.Algorithms = []string{"RS256", "EdDSA"} })
	two := ready(t, allKeys(), func(s *config.Authentication) {
		s.JWT.Algorithms = []string{"RS256"}
		other := s.JWT
		other.Issuer, other.Algorithms = "https://other.example.com", []string{"ES256"}
		s.JWTRules = append(s.JWTRules, other)
	})
	for _, c := range []struct {
		gate        *gate
		alg, issuer string
		want        string
	}{
		{one, "HS256", issuerName, `algorithm "HS256" is never accepted, nor is another of HS256, HS384 and HS512: `},
		{one, "hs512", issuerName, `algorithm "hs512" is never accepted`},
		{one, "none", issuerName, `algorithm "none" is never accepted: such a token is not signed` + do},
		{one, "ES256K", issuerName, `algorithm "ES256K" is not supported` + do},
		{one, "ES256", issuerName, `algorithm ES256 is not in the list algorithms of issuer "` + issuerName +
			`", which is [RS256 EdDSA]; add it there`},
		{one, "ES256", "https://x", `of issuer "` + issuerName + `", which`},
		{two, "ES256", issuerName, `of issuer "` + issuerName + `", which is [RS256]`},
		{two, "ES384", "https://x", `algorithm ES384 is in the list algorithms of none of 2 issuers; add it`},
	} {
		_, err := c.gate.Verify(t.Context(), Credential{Token: mint("rsa1", object{"alg": c.alg}, claims(object{"iss": c.issuer}))}, nil)
		if reasonOf(err) != outcome.AlgNotAllowed || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s of %s: %v", c.alg, c.issuer, err)
		}
	}
}

func TestForm(t *testing.T) {
	a := ready(t, allKeys(), nil)
	token := good("rsa1", nil)
	parts := strings.Split(token, ".")
	payload := func(text string) string { return mint("rsa1", rs256, text) }
	header := func(text string) string { return mint("rsa1", text, claims(nil)) }
	claim := func(name string, value any) string { return good("rsa1", object{name: value}) }
	raw := func(members string) string {
		return payload(`{"iss":"https://auth.example.com","sub":"u","aud":"agents","exp":4102444800,` + members + `}`)
	}
	for _, c := range []struct {
		name, token string
		want        outcome.Reason
	}{
		{"good", token, ""},
		{"empty", "", outcome.Malformed},
		{"one part", "garbage", outcome.Malformed},
		{"garbage", "a.b.c", outcome.Malformed},
		{"four parts", "a.b.c.d", outcome.Malformed},
		{"five parts", "a.b.c.d.e", outcome.Malformed},
		{"dots around", "." + token + ".", outcome.Malformed},
		{"empty header", "." + parts[1] + "." + parts[2], outcome.Malformed},
		{"empty payload", parts[0] + ".." + parts[2], outcome.Malformed},
		{"empty signature", parts[0] + "." + parts[1] + ".", outcome.Malformed},
		{"padding", token + "==", outcome.Malformed},
		{"space before", " " + token, outcome.Malformed},
		{"space after it", token + " ", outcome.Malformed},
		{"line break after it", token + "\n", outcome.Malformed},
		{"line break inside", parts[0] + "." + parts[1][:4] + "\r\n" + parts[1][4:] + "." + parts[2], outcome.Malformed},
		{"standard alphabet", parts[0] + "." + parts[1] + "." + parts[2][:8] + "+" + parts[2][9:], outcome.Malformed},
		{"unused bits", parts[0] + "." + parts[1] + "." + parts[2][:len(parts[2])-1] + "_", outcome.Malformed},
		{"too long", claim("x", strings.Repeat("x", maxToken)), outcome.Malformed},

		{"header no JSON", header("not json"), outcome.Malformed},
		{"header list", header(`["RS256"]`), outcome.Malformed},
		{"header null", header(`null`), outcome.Malformed},
		{"header twice alg", header(`{"alg":"RS256","alg":"RS256","kid":"rsa1"}`), outcome.Malformed},
		{"data after the header", header(`{"alg":"RS256","kid":"rsa1"}{}`), outcome.Malformed},
		{"alg missing", header(`{"kid":"rsa1"}`), outcome.Malformed},
		{"alg null", header(`{"alg":null,"kid":"rsa1"}`), outcome.Malformed},
		{"alg number", header(`{"alg":256,"kid":"rsa1"}`), outcome.Malformed},
		{"alg empty", header(`{"alg":"","kid":"rsa1"}`), outcome.AlgNotAllowed},
		{"kid number", header(`{"alg":"RS256","kid":1}`), outcome.Malformed},
		{"kid null", header(`{"alg":"RS256","kid":null}`), outcome.Malformed},
		{"kid list", header(`{"alg":"RS256","kid":["rsa1"]}`), outcome.Malformed},
		{"typ anything", header(`{"alg":"RS256","kid":"rsa1","typ":["x"],"cty":5}`), ""},

		{"payload no JSON", payload("hello"), outcome.Malformed},
		{"payload a token", payload(token), outcome.Malformed},
		{"payload null", payload("null"), outcome.Malformed},
		{"payload string", payload(`"x"`), outcome.Malformed},
		{"twice sub", raw(`"sub":"admin"`), outcome.Malformed},
		{"twice sub, escaped", raw(`"s\u0075b":"admin"`), outcome.Malformed},
		{"twice inside an object", raw(`"a":{"b":1,"b":2}`), outcome.Malformed},
		{"twice inside a list", raw(`"a":[{"b":1,"b":2}]`), outcome.Malformed},
		{"the same name at two depths", raw(`"a":{"a":{"sub":1}}`), ""},
		{"data after the payload", payload(`{"iss":"https://auth.example.com"} x`), outcome.Malformed},
		{"trailing comma", payload(`{"iss":"https://auth.example.com",}`), outcome.Malformed},
		{"no UTF-8", raw("\"a\":\"\xff\""), outcome.Malformed},
		{"half a surrogate pair", raw(`"a":"\ud800"`), outcome.Malformed},
		{"the other half", raw(`"a":"\udc00"`), outcome.Malformed},
		{"high and high", raw(`"a":"\ud800\ud800"`), outcome.Malformed},
		{"half of one and text", raw(`"a":"\ud83dx"`), outcome.Malformed},
		{"a whole surrogate pair", raw(`"a":"\ud83d\ude00"`), ""},
		{"an escaped backslash before u", raw(`"a":"\\ud800"`), ""},
		{"64 levels", raw(`"a":` + strings.Repeat("[", 63) + strings.Repeat("]", 63)), ""},
		{"65 levels", raw(`"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64)), outcome.Malformed},
		{"65 levels of objects", raw(`"a":` + strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64)), outcome.Malformed},
		{"1024 members", payload(`{"iss":"https://auth.example.com","aud":"agents","exp":4102444800` + numbered(1021) + `}`), ""},
		{"1025 members", payload(`{"iss":"https://auth.example.com","aud":"agents","exp":4102444800` + numbered(1022) + `}`),
			outcome.Malformed},
		{"a number beyond a double", raw(`"a":1e309`), outcome.Malformed},
		{"a number of 400 digits", raw(`"a":` + strings.Repeat("9", 400)), outcome.Malformed},
		{"a long fraction", raw(`"a":0.` + strings.Repeat("9", 400)), ""},

		{"iss number", claim("iss", 5), outcome.Malformed},
		{"iss null", raw(`"jti":null`), outcome.Malformed},
		{"sub number", claim("sub", 42), outcome.Malformed},
		{"sub list", claim("sub", []string{"a"}), outcome.Malformed},
		{"jti number", claim("jti", 1), outcome.Malformed},
		{"jti string", claim("jti", "1"), ""},
		{"aud number", claim("aud", 5), outcome.Malformed},
		{"aud object", claim("aud", object{}), outcome.Malformed},
		{"aud list with a number", claim("aud", []any{"agents", 1}), outcome.Malformed},
		{"aud list in a list", claim("aud", []any{[]string{"agents"}}), outcome.Malformed},
		{"exp string", claim("exp", "4102444800"), outcome.Malformed},
		{"exp true", claim("exp", true), outcome.Malformed},
		{"exp negative", claim("exp", -1), outcome.Malformed},
		{"exp 2^63", claim("exp", uint64(1)<<63), outcome.Malformed},
		{"exp 2^63-1 is 2^63 as a double", claim("exp", uint64(1)<<63-1), outcome.Malformed},
		{"exp 1e400", payload(`{"iss":"https://auth.example.com","aud":"agents","exp":1e400}`), outcome.Malformed},
		{"exp fraction", claim("exp", float64(now.Unix())+0.5), ""},
		{"exp 1e18", claim("exp", 1e18), ""},
		{"nbf string", claim("nbf", "0"), outcome.Malformed},
		{"nbf 1e308", claim("nbf", 1e308), outcome.Malformed},
		{"iat string", claim("iat", "yesterday"), outcome.Malformed},
		{"iat negative", claim("iat", -0.5), outcome.Malformed},
		{"exp null", payload(`{"iss":"https://auth.example.com","aud":"agents","exp":null}`), outcome.Malformed},
		{"aud null", payload(`{"iss":"https://auth.example.com","aud":null,"exp":4102444800}`), outcome.Malformed},
	} {
		if got := reason(a, c.token); got != c.want {
			t.Errorf("%s: got %q, expected %q", c.name, got, c.want)
		}
	}
}

// numbered returns n members with names of their own.
func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%x":1`, i)
	}
	return b.String()
}

func TestAlgorithmsAndKeys(t *testing.T) {
	key := published
	token := func(key, alg, kid string) string {
		h := object{"alg": alg, "typ": "JWT"}
		if kid != "-" {
			h["kid"] = kid
		}
		return mint(key, h, claims(nil))
	}
	der := func() string {
		signed := strings.Join(strings.Split(token("ec256", "ES256", "ec256"), ".")[:2], ".")
		sum := sha256.Sum256([]byte(signed))
		return signed + "." + encode(must(ecdsa.SignASN1(rand.Reader, ring()["ec256"].(*ecdsa.PrivateKey), sum[:])))
	}
	long := func() string { // r and s with a byte too many each
		parts := strings.Split(token("ec256", "ES256", "ec256"), ".")
		s := must(base64.RawURLEncoding.DecodeString(parts[2]))
		return parts[0] + "." + parts[1] + "." + encode(slices.Concat([]byte{0}, s[:32], []byte{0}, s[32:]))
	}
	tampered := func() string {
		parts := strings.Split(good("rsa1", nil), ".")
		other := strings.Split(good("rsa1", object{"sub": "admin"}), ".")
		return parts[0] + "." + other[1] + "." + parts[2]
	}
	many := func(n int) (keys []any) {
		for i := range n {
			keys = append(keys, key("rsa2", object{"kid": fmt.Sprint("other", i)}))
		}
		return append(keys, key("rsa1", object{"kid": "zz"})) // the last one, as keys are in order of kid
	}
	for _, c := range []struct {
		name, keys, token string
		want              outcome.Reason
	}{
		{"RS256", allKeys(), token("rsa1", "RS256", "rsa1"), ""},
		{"ES256", allKeys(), token("ec256", "ES256", "ec256"), ""},
		{"ES384", allKeys(), token("ec384", "ES384", "ec384"), ""},
		{"ES512", allKeys(), token("ec521", "ES512", "ec521"), ""},
		{"EdDSA", allKeys(), token("ed25519", "EdDSA", "ed25519"), ""},
		{"RS512 with a key without alg", set(key("rsa1", object{"alg": nil})), token("rsa1", "RS512", "rsa1"), ""},
		{"PS256 with a key without alg", set(key("rsa1", object{"alg": nil})), token("rsa1", "PS256", "rsa1"), ""},
		{"PS384", set(key("rsa1", object{"alg": "PS384"})), token("rsa1", "PS384", "rsa1"), ""},
		{"PS512", set(key("rsa1", object{"alg": "PS512"})), token("rsa1", "PS512", "rsa1"), ""},
		{"ES256 with a key without alg", set(key("ec256", object{"alg": nil})), token("ec256", "ES256", "ec256"), ""},

		{"none", allKeys(), token("rsa1", "none", "rsa1"), outcome.AlgNotAllowed},
		{"other case", allKeys(), token("rsa1", "rs256", "rsa1"), outcome.AlgNotAllowed},
		{"ES256K", allKeys(), token("rsa1", "ES256K", "rsa1"), outcome.AlgNotAllowed},
		{"HS256", allKeys(), token("rsa1", "HS256", "rsa1"), outcome.AlgNotAllowed},
		{"RSA-OAEP", allKeys(), token("rsa1", "RSA-OAEP", "rsa1"), outcome.AlgNotAllowed},
		{"PS256 with a key for RS256", allKeys(), token("rsa1", "PS256", "rsa1"), outcome.AlgKeyMismatch},
		{"RS256 with an EC key", set(key("ec256", object{"alg": nil})), token("ec256", "RS256", "ec256"), outcome.AlgKeyMismatch},
		{"RS256 with the kid of an EC key", allKeys(), token("rsa1", "RS256", "ec256"), outcome.AlgKeyMismatch},
		{"ES384 with a P-256 key", set(key("ec256", object{"alg": nil})), token("ec256", "ES384", "ec256"), outcome.AlgKeyMismatch},
		{"ES256 with a P-384 key that says ES256", set(key("ec384", object{"alg": "ES256"})), token("ec384", "ES256", "ec384"),
			outcome.AlgKeyMismatch},
		{"EdDSA with an EC key", allKeys(), token("ed25519", "EdDSA", "ec256"), outcome.AlgKeyMismatch},

		{"kid of another key", allKeys(), token("rsa2", "RS256", "rsa1"), outcome.BadSignature},
		{"unknown kid", allKeys(), token("unknown", "RS256", "unknown"), outcome.UnknownKey},
		{"unknown kid, known key", allKeys(), token("rsa1", "RS256", "nope"), outcome.UnknownKey},
		{"kid is case-sensitive", allKeys(), token("rsa1", "RS256", "RSA1"), outcome.UnknownKey},
		{"no kid", allKeys(), token("rsa1", "RS256", "-"), ""},
		{"no kid, second key", allKeys(), token("rsa2", "RS256", "-"), ""},
		{"empty kid", allKeys(), token("rsa2", "RS256", ""), ""},
		{"no kid, unknown key", allKeys(), token("unknown", "RS256", "-"), outcome.BadSignature},
		{"no kid, no key for alg", set("ec256"), token("rsa1", "RS256", "-"), outcome.UnknownKey},
		{"no kid, the last of 4", set(many(3)...), token("rsa1", "RS256", "-"), ""},
		{"no kid, the 5th is not tried", set(many(4)...), token("rsa1", "RS256", "-"), outcome.BadSignature},
		{"kid, the 5th", set(many(4)...), token("rsa1", "RS256", "zz"), ""},
		{"key without kid", set(key("rsa1", object{"kid": nil})), token("rsa1", "RS256", "whatever"), ""},
		{"key without kid is not the one", set(key("rsa1", object{"kid": nil})), token("rsa2", "RS256", "whatever"), outcome.BadSignature},
		{"key with an empty kid", set(key("rsa1", object{"kid": ""})), token("rsa1", "RS256", "whatever"), ""},
		{"two keys of one kid, first", set(key("rsa1", object{"kid": "k"}), key("rsa2", object{"kid": "k"})), token("rsa1", "RS256", "k"),
			""},
		{"two keys of one kid, second", set(key("rsa1", object{"kid": "k"}), key("rsa2", object{"kid": "k"})),
			token("rsa2", "RS256", "k"), ""},
		{"two types of one kid", set(key("ec256", object{"kid": "k"}), key("rsa2", object{"kid": "k"})), token("rsa2", "RS256", "k"), ""},

		{"use enc", set(key("rsa1", object{"use": "enc"})), token("rsa1", "RS256", "rsa1"), outcome.UnknownKey},
		{"use empty", set(key("rsa1", object{"use": ""})), token("rsa1", "RS256", "rsa1"), outcome.UnknownKey},
		{"use enc, no kid", set(key("rsa1", object{"use": "enc"}), "rsa2"), token("rsa1", "RS256", "-"), outcome.BadSignature},
		{"no use", set(key("rsa1", object{"use": nil})), token("rsa1", "RS256", "rsa1"), ""},
		{"key_ops verify", set(key("rsa1", object{"use": nil, "key_ops": []string{"verify"}})), token("rsa1", "RS256", "rsa1"), ""},
		{"key_ops encrypt", set(key("rsa1", object{"use": nil, "key_ops": []string{"encrypt"}})), token("rsa1", "RS256", "rsa1"),
			outcome.UnknownKey},
		{"key_ops empty", set(key("rsa1", object{"key_ops": []string{}})), token("rsa1", "RS256", "rsa1"), outcome.UnknownKey},
		{"1024 bits", set("rsa1024"), token("rsa1024", "RS256", "rsa1024"), outcome.WeakKey},
		{"1024 bits, no kid", set("rsa1024"), token("rsa1024", "RS256", "-"), outcome.UnknownKey},

		{"flipped bit", allKeys(), token("rsa1", "RS256", "rsa1")[:500] + flip(token("rsa1", "RS256", "rsa1"), 500), outcome.BadSignature},
		{"other payload", allKeys(), tampered(), outcome.BadSignature},
		{"DER", allKeys(), der(), outcome.BadSignature},
		{"ECDSA too long", allKeys(), long(), outcome.BadSignature},
		{"crit", allKeys(), mint("rsa1", with(rs256, object{"crit": []string{"exp2"}, "exp2": 1}), claims(nil)), outcome.CritUnsupported},
		{"crit b64", allKeys(), mint("rsa1", with(rs256, object{"crit": []string{"b64"}, "b64": false}), claims(nil)),
			outcome.CritUnsupported},
		{"crit empty", allKeys(), mint("rsa1", with(rs256, object{"crit": []string{}}), claims(nil)), outcome.CritUnsupported},
		{"at+jwt", allKeys(), mint("rsa1", with(rs256, object{"typ": "at+jwt"}), claims(nil)), ""},
	} {
		if got := reason(ready(t, c.keys, nil), c.token); got != c.want {
			t.Errorf("%s: got %q, expected %q", c.name, got, c.want)
		}
	}
}

// flip is the rest of a token from i on with another character at i.
func flip(token string, i int) string {
	other := "A"
	if token[i] == 'A' {
		other = "B"
	}
	return other + token[i+1:]
}

func TestAlgorithmsOfAnIssuerCanBeNarrowed(t *testing.T) {
	a := ready(t, allKeys(), func(c *config.Authentication) { c.JWT.Algorithms = []string{"ES256"} })
	if got := reason(a, good("ec256", nil)); got != "" {
		t.Error(got)
	}
	if got := reason(a, good("rsa1", nil)); got != outcome.AlgNotAllowed {
		t.Error(got)
	}
	if got := reason(a, good("rsa1", object{"iss": "https://other"})); got != outcome.AlgNotAllowed {
		t.Errorf("the algorithm comes before the issuer: %s", got)
	}
}

func TestIssuerAudienceTimeSubject(t *testing.T) {
	at := func(seconds float64) float64 { return float64(now.Unix()) + seconds }
	for _, c := range []struct {
		name   string
		claims object
		change func(*config.JWT)
		want   outcome.Reason
	}{
		{"other issuer", object{"iss": "https://other.example.com"}, nil, outcome.WrongIssuer},
		{"slash after it", object{"iss": issuerName + "/"}, nil, outcome.WrongIssuer},
		{"other case", object{"iss": "https://AUTH.example.com"}, nil, outcome.WrongIssuer},
		{"longer", object{"iss": issuerName + ".evil.example"}, nil, outcome.WrongIssuer},
		{"no issuer", object{"iss": nil}, nil, outcome.WrongIssuer},
		{"empty issuer", object{"iss": ""}, nil, outcome.WrongIssuer},
		{"issuer that is no URL", object{"iss": "accounts@example.com"}, func(j *config.JWT) { j.Issuer = "accounts@example.com" }, ""},

		{"other audience", object{"aud": "other"}, nil, outcome.WrongAudience},
		{"no audience", object{"aud": nil}, nil, outcome.WrongAudience},
		{"empty audience list", object{"aud": []string{}}, nil, outcome.WrongAudience},
		{"one of several", object{"aud": []string{"other", "agents"}}, nil, ""},
		{"none of several", object{"aud": []string{"a", "b"}}, nil, outcome.WrongAudience},
		{"audience in other case", object{"aud": "Agents"}, nil, outcome.WrongAudience},
		{"audience not asked for", object{"aud": "anything"}, func(j *config.JWT) { j.Audiences = nil }, ""},
		{"audience asked for with slash", object{"aud": "https://api"}, func(j *config.JWT) { j.Audiences = []string{"https://api/"} }, ""},
		{"audience with slash", object{"aud": "https://api/"}, func(j *config.JWT) { j.Audiences = []string{"https://api"} }, ""},
		{"audience with two slashes", object{"aud": "https://api//"}, func(j *config.JWT) { j.Audiences = []string{"https://api"} },
			outcome.WrongAudience},
		{"audience without scheme", object{"aud": "api"}, func(j *config.JWT) { j.Audiences = []string{"https://api"} }, ""},
		{"audience with the other scheme", object{"aud": "http://api"}, func(j *config.JWT) { j.Audiences = []string{"https://api"} }, ""},
		{"audience with two schemes", object{"aud": "https://http://api"}, func(j *config.JWT) { j.Audiences = []string{"api"} },
			outcome.WrongAudience},
		{"audience of a second service", object{"aud": "b"}, func(j *config.JWT) { j.Audiences = []string{"a", "b"} }, ""},

		{"expired within the skew", object{"exp": at(-30)}, nil, ""},
		{"expired by exactly the skew", object{"exp": at(-60)}, nil, ""},
		{"expired by the skew and a bit", object{"exp": at(-60.001)}, nil, outcome.Expired},
		{"expired long ago", object{"exp": at(-3600)}, nil, outcome.Expired},
		{"no skew, expires now", object{"exp": at(0)}, func(j *config.JWT) { j.ClockSkew = 0 }, ""},
		{"no skew, expired", object{"exp": at(-1)}, func(j *config.JWT) { j.ClockSkew = 0 }, outcome.Expired},
		{"more skew", object{"exp": at(-120)}, func(j *config.JWT) { j.ClockSkew = 5 * time.Minute }, ""},
		{"no exp", object{"exp": nil}, nil, outcome.NoExpiry},
		{"no exp, none asked for", object{"exp": nil}, func(j *config.JWT) { j.RequireExpiration = false }, ""},
		{"expired, none asked for", object{"exp": at(-3600)}, func(j *config.JWT) { j.RequireExpiration = false }, outcome.Expired},
		{"exp 0", object{"exp": 0}, nil, outcome.Expired},
		{"exp 0, none asked for", object{"exp": 0}, func(j *config.JWT) { j.RequireExpiration = false }, outcome.Expired},
		{"exp 0, skew of ages", object{"exp": 0}, func(j *config.JWT) { j.ClockSkew = 100 * 365 * 24 * time.Hour }, outcome.Expired},
		{"exp in the year 31688738506", object{"exp": 1e18}, nil, ""},
		{"not yet, within the skew", object{"nbf": at(60)}, nil, ""},
		{"not yet", object{"nbf": at(60.001)}, nil, outcome.NotYetValid},
		{"not before 1e18", object{"nbf": 1e18}, nil, outcome.NotYetValid},
		{"nbf in the past", object{"nbf": at(-120)}, nil, ""},
		{"nbf 0", object{"nbf": 0}, nil, ""},
		{"made in the future", object{"iat": at(3600)}, nil, ""},
		{"not made", object{"iat": nil}, nil, ""},

		{"expired before wrong audience", object{"exp": at(-3600), "aud": "other"}, nil, outcome.Expired},
		{"wrong issuer before wrong audience", object{"iss": "https://x", "aud": "other"}, nil, outcome.WrongIssuer},
		{"no subject is for others to judge", object{"sub": nil}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ready(t, allKeys(), func(a *config.Authentication) {
				if c.change != nil {
					c.change(&a.JWT)
				}
			})
			if got := reason(a, good("rsa1", c.claims)); got != c.want {
				t.Errorf("got %q, expected %q", got, c.want)
			}
		})
	}
}

func TestPrincipal(t *testing.T) {
	for subject, want := range map[string]bool{
		"user-1": true, "a/b|c": true, "José": true, "a b": true, "": false, "  ": false, " a": false, "a ": false, "a\t": false,
		"\u00a0a": false, "a\nb": false, "a\rb": false, "a\u2028b": false, "a\u0085b": false,
	} {
		if got := (&Identity{Subject: subject}).HasPrincipal(); got != want {
			t.Errorf("%q: %v", subject, got)
		}
	}
}

func TestIdentityTellsUntilWhen(t *testing.T) {
	a := ready(t, allKeys(), nil)
	id, err := a.Verify(t.Context(), Credential{Token: good("rsa1", nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if id.Issuer != issuerName || id.Subject != "user-1" || !id.ForwardToken {
		t.Errorf("%+v", id)
	}
	if !id.Expiry.Equal(now.Add(300*time.Second)) || !id.Deadline.Equal(now.Add(360*time.Second)) {
		t.Errorf("expires %s, deadline %s", id.Expiry, id.Deadline)
	}
	far, err := a.Verify(t.Context(), Credential{Token: good("rsa1", object{"exp": 9e18})}, nil)
	if err != nil || far.Deadline.Before(now) {
		t.Errorf("a far date has overflowed: %v %v", far, err)
	}
	if _, err := far.Expiry.MarshalJSON(); err != nil {
		t.Error(err)
	}
}

func TestVerifyTellsEachCheck(t *testing.T) {
	a := ready(t, allKeys(), nil)
	token := good("rsa1", nil)
	for range 2 { // the second time it is known
		var told []string
		_, err := a.Verify(t.Context(), Credential{Token: token}, func(check, detail string) {
			told = append(told, check)
			for part := range strings.SplitSeq(token, ".") {
				if strings.Contains(detail, part) {
					t.Errorf("%s tells a part of the token: %s", check, detail)
				}
			}
		})
		if got := strings.Join(told, " "); err != nil || got != "form algorithm issuer key signature times audience subject" {
			t.Errorf("%s, %v", got, err)
		}
	}
}

func TestVerifiedTokenIsRememberedButNeverPastItsExpiry(t *testing.T) {
	a := ready(t, allKeys(), nil)
	token := good("rsa1", nil)
	first, err := a.Verify(t.Context(), Credential{Token: token}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := a.Verify(t.Context(), Credential{Token: token}, nil); second != first {
		t.Error("verified again")
	}
	a.now = func() time.Time { return now.Add(360 * time.Second) }
	if got := reason(a, token); got != "" {
		t.Error(got)
	}
	a.now = func() time.Time { return now.Add(360*time.Second + 1) }
	if got := reason(a, token); got != outcome.Expired {
		t.Error(got)
	}
}

func TestRefusedTokenIsNotRemembered(t *testing.T) {
	a := ready(t, allKeys(), nil)
	reason(a, good("rsa1", object{"aud": "other"}))
	reason(a, good("unknown", nil))
	if n := a.cache.lru.Len(); n != 0 {
		t.Errorf("%d remembered", n)
	}
}

func TestRememberedTokenIsForgottenWithItsKeys(t *testing.T) {
	keys := allKeys()
	a := build(t, settings(nil), func(*http.Request) (*http.Response, error) { return respond(200, keys) })
	refresh := func() {
		if err := a.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	refresh()
	token := good("rsa1", nil)
	first, _ := a.Verify(t.Context(), Credential{Token: token}, nil)

	keys = set("ed25519", "ec521", "ec384", "ec256", "rsa2", "rsa1") // the same ones
	refresh()
	if again, _ := a.Verify(t.Context(), Credential{Token: token}, nil); again == nil || again != first {
		t.Error("forgotten although the keys are the same")
	}
	keys = set("rsa2")
	refresh()
	if got := reason(a, token); got != outcome.UnknownKey {
		t.Errorf("%q although the key is gone", got)
	}
	keys = allKeys()
	refresh()
	if got := reason(a, token); got != "" {
		t.Error(got)
	}
}

// partners is a configuration with a second issuer.
func partners(change func(*config.JWT)) config.Authentication {
	return settings(func(c *config.Authentication) {
		second := config.DefaultJWT()
		second.Issuer, second.JWKSURI = "https://partner.example.net", "https://partner.example.net/keys"
		second.Audiences = []string{"agents"}
		if change != nil {
			change(&second)
		}
		c.JWTRules = config.JWTRules{second}
	})
}

func TestSeveralIssuersShareNothing(t *testing.T) {
	a := build(t, partners(func(j *config.JWT) { j.Audiences, j.ForwardOriginalToken = []string{"partners"}, false }),
		func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "auth.example.com" {
				return respond(200, set(published("rsa1", object{"kid": "k"}), "ec256"))
			}
			return respond(200, set(published("rsa2", object{"kid": "k"}), "ed25519"))
		})
	if err := a.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k := object{"alg": "RS256", "kid": "k"}
	second := object{"iss": "https://partner.example.net", "aud": "partners", "sub": "user-2"}
	for _, c := range []struct {
		name, token string
		want        outcome.Reason
	}{
		{"first", mint("rsa1", k, claims(nil)), ""},
		{"second", mint("rsa2", k, claims(second)), ""},
		{"key of the second for the first", good("ed25519", nil), outcome.UnknownKey},
		{"key of the second for the first, same kid", mint("rsa2", k, claims(nil)), outcome.BadSignature},
		{"key of the second for the first, no kid", mint("ed25519", object{"alg": "EdDSA"}, claims(nil)), outcome.UnknownKey},
		{"audience of the first for the second", mint("rsa2", k, claims(with(second, object{"aud": "agents"}))), outcome.WrongAudience},
		{"a third", mint("rsa2", k, claims(object{"iss": "https://third.example.org"})), outcome.WrongIssuer},
	} {
		if got := reason(a, c.token); got != c.want {
			t.Errorf("%s: got %q, expected %q", c.name, got, c.want)
		}
	}
	id, err := a.Verify(t.Context(), Credential{Token: mint("rsa2", k, claims(second))}, nil)
	if err != nil || id.ForwardToken || id.Subject != "user-2" {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestOneIssuerWithoutKeysFailsForItselfOnly(t *testing.T) {
	a := build(t, partners(nil), func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "auth.example.com" {
			return respond(200, allKeys())
		}
		return respond(500, "")
	})
	if a.Ready() {
		t.Error("ready before an issuer was asked")
	}
	err := a.Refresh(t.Context())
	if err == nil || !strings.Contains(err.Error(), "https://partner.example.net") || strings.Contains(err.Error(), issuerName+":") {
		t.Errorf("%v", err)
	}
	if !a.Ready() {
		t.Error("not ready although one issuer has keys and all were asked")
	}
	if got := reason(a, good("rsa1", nil)); got != "" {
		t.Error(got)
	}
	if got := reason(a, good("rsa1", object{"iss": "https://partner.example.net"})); got != outcome.JWKSUnavailable {
		t.Error(got)
	}
}

func TestTokenCountsOnlyInThePlacesOfItsOwnIssuer(t *testing.T) {
	a := build(t, partners(func(j *config.JWT) {
		j.FromHeaders, j.FromParams, j.FromSubprotocols = config.HeaderSources{{Name: "X-Partner"}}, []string{}, []string{}
	}), func(*http.Request) (*http.Response, error) { return respond(200, allKeys()) })
	if err := a.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := good("rsa1", object{"iss": "https://partner.example.net"})
	for range 2 { // the second time from the cache
		for _, c := range []struct {
			name   string
			header http.Header
			query  string
			want   outcome.Reason
		}{
			{"first in Authorization", http.Header{"Authorization": {"Bearer " + good("rsa1", nil)}}, "", ""},
			{"first in the query", http.Header{}, "access_token=" + good("rsa1", nil), ""},
			{"first in the second's header", http.Header{"X-Partner": {good("rsa1", nil)}}, "", outcome.WrongIssuer},
			{"second in its header", http.Header{"X-Partner": {second}}, "", ""},
			{"second in Authorization", http.Header{"Authorization": {"Bearer " + second}}, "", outcome.WrongIssuer},
			{"second in the query", http.Header{}, "access_token=" + second, outcome.WrongIssuer},
			{"second in both", http.Header{"X-Partner": {second}}, "access_token=" + second, ""},
		} {
			credential, query, err := a.Take(c.header, c.query)
			if err != nil || query != "" || len(c.header) > 0 {
				t.Fatalf("%s: %v, left are %q and %v", c.name, err, query, c.header)
			}
			if _, err := a.Verify(t.Context(), credential, nil); reasonOf(err) != c.want {
				t.Errorf("%s: got %v, expected %q", c.name, err, c.want)
			}
		}
	}
}

func TestKeysAreNotNeededToRefuseWhatIsPlainlyWrong(t *testing.T) {
	a := build(t, settings(nil), func(*http.Request) (*http.Response, error) { return respond(404, "") })
	a.Refresh(t.Context())
	for token, want := range map[string]outcome.Reason{
		"garbage": outcome.Malformed,
		mint("rsa1", object{"alg": "none"}, "{}"): outcome.AlgNotAllowed,
		good("rsa1", object{"iss": "https://x"}):  outcome.WrongIssuer,
		good("rsa1", nil):                         outcome.JWKSUnavailable,
		good("rsa1", object{"exp": 1}):            outcome.JWKSUnavailable,
	} {
		if got := reason(a, token); got != want {
			t.Errorf("got %q, expected %q", got, want)
		}
	}
	if a.Ready() {
		t.Error("ready without any keys")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good("rsa1", nil))
	f.Add(mint("ec256", `{"alg":"ES256","crit":[]}`, `{"exp":1e400,"a":"\ud800"}`))
	f.Add("a.b.c")
	a := ready(f, allKeys(), nil)
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := parse(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 400 {
				t.Errorf("an error that is no short line: %q", err)
			}
			return
		}
		// One value, one text: what was parsed can only have been written in this way.
		parts := strings.Split(text, ".")
		if tok.signed != parts[0]+"."+parts[1] || encode(tok.signature) != parts[2] {
			t.Error("another text for the same token")
		}
		if c, err := tok.content(); err == nil && !c.expires.IsZero() && c.expires.Before(time.Unix(0, 0)) {
			t.Errorf("expires %s", c.expires)
		}
		if id, err := a.Verify(t.Context(), Credential{Token: text}, nil); err == nil && id.Issuer != issuerName {
			t.Errorf("let in from issuer %s", id.Issuer)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	a := ready(b, allKeys(), nil)
	for _, key := range []string{"rsa1", "ec256", "ed25519"} {
		c := Credential{Token: good(key, nil), Places: []string{"header Authorization: Bearer"}}
		for name, purge := range map[string]func(){"cold": a.cache.lru.Purge, "cached": func() {}} {
			b.Run(ownAlg[key]+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					purge()
					if _, err := a.Verify(context.Background(), c, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
