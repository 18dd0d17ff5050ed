package auth

import (
	"strings"
	"testing"
)

func TestADocumentOfAnotherIssuerSaysHowTheNamesDiffer(t *testing.T) {
	for _, test := range []struct{ configured, found, want string }{
		{"https://t.example.com", "https://t.example.com/",
			`it speaks for the issuer "https://t.example.com/"; the configured one lacks the slash at the end`},
		{"https://t.example.com/", "https://t.example.com", "; the configured one has a slash too many at the end"},
		{"https://t.example.com/A", "https://t.example.com/a", "; upper and lower case differ"},
		{"https://t.example.com", "https://u.example.com", `it speaks for the issuer "https://u.example.com"`},
		{"https://t.example.com", "", "it names no issuer"},
	} {
		if got := (misnamed{test.configured, test.found}).Error(); !strings.HasSuffix(got, test.want) {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// TestTheFallbackDoesNotHideAnotherIssuer: the keys are found all the same, and the tokens that
// they verify name another issuer.
func TestTheFallbackDoesNotHideAnotherIssuer(t *testing.T) {
	s := newSite(t)
	s.docs["/.well-known/openid-configuration"] = `{"issuer": "` + s.URL + `/", "jwks_uri": "` + s.URL + `/keys"}`
	s.docs["/.well-known/jwks.json"] = allKeys()
	a, _ := s.authenticator(t, "")
	for range 2 {
		if err := a.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.Issuers()[0].Warning; !strings.Contains(got, "lacks the slash at the end") {
		t.Errorf("warning: %q", got)
	}
	s.docs["/.well-known/openid-configuration"] = `{"issuer": "` + s.URL + `", "jwks_uri": "` + s.URL + `/.well-known/jwks.json"}`
	if err := a.Refresh(t.Context()); err != nil || a.Issuers()[0].Warning != "" {
		t.Errorf("%v, %q", err, a.Issuers()[0].Warning)
	}
}
