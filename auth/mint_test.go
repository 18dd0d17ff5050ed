package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
)

func TestSignerMakesTokensThatItsKeySetVerifies(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		s, err := GenerateSigner(alg)
		if err != nil {
			t.Fatal(err)
		}
		text, err := s.PEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := LoadSigner(append([]byte("a comment\n"), text...))
		if err != nil {
			t.Fatal(err)
		}
		if s.Algorithm() != alg || again.KeyID() != s.KeyID() || len(s.KeyID()) != 43 {
			t.Errorf("%s: %s, kid %s and %s", alg, s.Algorithm(), s.KeyID(), again.KeyID())
		}
		token, err := again.Sign(claims(object{"sub": "dev"}))
		if err != nil {
			t.Fatal(err)
		}
		a := ready(t, string(s.JWKS()), nil)
		id, err := a.Verify(t.Context(), Credential{Token: token}, nil)
		if err != nil || id.Subject != "dev" {
			t.Errorf("%s: %v, %v", alg, id, err)
		}
		if strings.Contains(string(s.JWKS()), `"d"`) {
			t.Errorf("%s: the private key is published", alg)
		}
		header, payload, err := Inspect(token)
		if err != nil || header["kid"] != s.KeyID() || payload["sub"] != "dev" {
			t.Errorf("%v %v %v", header, payload, err)
		}
	}
}

// The example of RFC 7638 §3.1.
func TestKeyIDIsTheThumbprint(t *testing.T) {
	k, err := parseKey([]byte(`{"kty":"RSA","e":"AQAB",` +
		`"n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_` +
		`2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD` +
		`08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(&rsa.PrivateKey{PublicKey: *k.public.(*rsa.PublicKey)})
	if err != nil || s.KeyID() != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("%s, %v", s.KeyID(), err)
	}
}

func TestSignerRefusesKeysThatNoVerifierAccepts(t *testing.T) {
	if _, err := NewSigner(ring()["rsa1024"]); err == nil {
		t.Error("1024 bits")
	}
	if _, err := NewSigner(must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))); err == nil {
		t.Error("P-384")
	}
	if _, err := GenerateSigner("HS256"); err == nil {
		t.Error("HS256")
	}
}

func TestLoadSignerReadsOlderForms(t *testing.T) {
	rsaKey, ecKey := ring()["rsa1"].(*rsa.PrivateKey), ring()["ec256"].(*ecdsa.PrivateKey)
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{5}})
	for alg, text := range map[string][]byte{
		"RS256": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}),
		"ES256": append(parameters, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY",
			Bytes: must(x509.MarshalECPrivateKey(ecKey))})...),
	} {
		if s, err := LoadSigner(text); err != nil || s.Algorithm() != alg {
			t.Errorf("%s: %v", alg, err)
		}
	}
	for _, text := range []string{"", "no PEM", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}))} {
		if _, err := LoadSigner([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestInspectDoesNotJudge(t *testing.T) {
	header, payload, err := Inspect(mint("unknown", object{"alg": "HS256", "crit": []string{"x"}}, object{"exp": "never", "iss": 5}))
	if err != nil || header["alg"] != "HS256" || payload["exp"] != "never" {
		t.Errorf("%v %v %v", header, payload, err)
	}
	if _, _, err := Inspect("a.b"); err == nil {
		t.Error("no token, and no error")
	}
}
