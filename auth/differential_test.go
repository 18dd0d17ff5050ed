package auth

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A token that we let in, golang-jwt lets in at its strictest, and reads alike: no form that
// only our parser understands, and no claim of which the two have a different idea.
func FuzzTokensAreReadAsGolangJWTReadsThem(f *testing.F) {
	good := func(more string) string {
		return `{"iss":"` + issuerName + `","sub":"u","aud":"agents","exp":1800000300` + more + `}`
	}
	for _, payload := range []string{
		good(``), good(`,"nbf":1799999999.5,"iat":1`), good(`,"nbf":1e400`), good(`,"exp":1`), good(`,"Exp":1`),
		good(`,"a":{"b":[1,{"c":null}]}`),
		`{"iss":"https:\/\/auth.example.com","sub":"\u0075","aud":["x","agents"],"exp":1.8e9}`, good(`,"jti":1`), good(`} {`),
		good(`,"x":"\ud800"`),
		` ` + good(` `) + ` `, `{"iss":"` + issuerName + `","aud":null,"exp":"1800000300"}`, `{"i\u0073s":"` + issuerName + `"}`, `[]`,
		`null`,
	} {
		f.Add(`{"alg":"EdDSA","kid":"ed25519"}`, payload)
	}
	for _, header := range []string{
		`{"alg":"EdDSA"}`, `{"alg":"none"}`, `{"alg":"EdDSA","alg":"none"}`, `{"alg":"EdDSA","kid":5}`,
		`{"alg":"EdDSA","crit":["b64"],"b64":false}`,
		`{"alg":"EdDSA","cr\u0069t":["x"]}`, `{"\u0061lg":"EdDSA"}`, `{"alg":"EdDS\u0041"}`,
		`{"alg":"EdDSA","typ":"JWT","x":{"alg":"none"}}`, `{"alg":"EdDSA"} x`,
	} {
		f.Add(header, good(``))
	}
	a := ready(f, allKeys(), nil)
	strict := jwt.NewParser(jwt.WithStrictDecoding(), jwt.WithJSONNumber(), jwt.WithValidMethods([]string{"EdDSA"}),
		jwt.WithExpirationRequired(),
		jwt.WithIssuer(issuerName), jwt.WithLeeway(60*time.Second+1), jwt.WithTimeFunc(func() time.Time { return now }))
	f.Fuzz(func(t *testing.T, header, payload string) {
		if header == "" || payload == "" {
			return
		}
		token := mint("ed25519", header, payload)
		ours, err := a.Verify(t.Context(), Credential{Token: token}, nil)
		if err != nil {
			return
		}
		theirs, err := strict.Parse(token, func(*jwt.Token) (any, error) { return ring()["ed25519"].Public(), nil })
		if err != nil {
			t.Fatalf("%s . %s: we let it in, golang-jwt does not: %v", header, payload, err)
		}
		claims := theirs.Claims.(jwt.MapClaims)
		subject, _ := claims.GetSubject()
		expiry, _ := claims.GetExpirationTime()
		if subject != ours.Subject || ours.Issuer != issuerName || expiry == nil || expiry.Sub(ours.Expiry).Abs() > time.Second {
			t.Fatalf("%s: %+v, golang-jwt reads %v", payload, ours, claims)
		}
		for name, value := range claims {
			if n, ok := value.(json.Number); ok && ours.Claims.raw(name) != n.String() {
				t.Fatalf("%s: claim %q is %q, golang-jwt reads %s", payload, name, ours.Claims.raw(name), n)
			}
			if s, ok := value.(string); ok && decodeValue(ours.Claims.raw(name)) != s {
				t.Fatalf("%s: claim %q is %q, golang-jwt reads %q", payload, name, ours.Claims.raw(name), s)
			}
		}
	})
}

// What glance finds is what a scan finds, in every text that is strict JSON.
func FuzzGlance(f *testing.F) {
	long := strings.Repeat("x", 2*short)
	for _, text := range []string{
		`{"iss":"a"}`, ` { "x" : { "iss" : 1 } , "iss" : "b\"c" } `, `{"x":"iss","iss":"a"}`, `{"x":"\"iss\":\"b\"","iss":"a"}`,
		`{"iss":["iss"],"alg":5}`,
		`{"a":["iss","alg"],"alg":"x"}`, `{"a":"\\","iss":"\\\""}`, `{"i\u0073s":"a"}`, `{"iss":1,"iss":2}`, `{"iss"`, `{"iss":`, `{"`,
		`{`, ``, `x`, `{"` + long, `{"` + long + `\`, `{"` + long + `":1,"iss":"` + long + `\"` + long + `"}`,
		`{"a":"` + long + `\\` + long + `\\","iss":"` + long + `\\"}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		names := []string{"iss", "alg"}
		quick, quickErr := glance([]byte(text), names...)
		if scanUnique(text, nil) != nil {
			return // for such texts it need not be right, only end
		}
		want := make([]string, len(names))
		escaped := false
		scan(text, func(m member) error {
			for n, name := range names {
				if m.name == name {
					want[n] = m.value
					escaped = escaped || quickErr == nil && quick[n] == ""
				}
			}
			return nil
		})
		if quickErr != nil {
			t.Fatalf("%q: %v", text, quickErr)
		}
		for n := range names {
			if got := quick[n]; got != want[n] && !escaped && (want[n] == "" || want[n][0] == '"' || got != want[n][:1]) {
				t.Fatalf("%q: %s is %q, a scan finds %q", text, names[n], got, want[n])
			}
		}
	})
}
