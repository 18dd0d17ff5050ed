package wstest

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
)

// IssuerName is the claim iss of an Issuer's tokens.
const IssuerName = "https://issuer.example.com"

// Issuer signs tokens and publishes its key.
type Issuer struct {
	// URL is where its keys are.
	URL string

	t      testing.TB
	signer *auth.Signer
}

// NewIssuer starts an issuer that ends with the test.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(signer.JWKS()) }))
	t.Cleanup(s.Close)
	return &Issuer{s.URL, t, signer}
}

// Token returns a token with good claims (subject alice, audience agents, roles user and admin,
// one hour), changed by pairs of name and value. A nil value takes a claim away.
func (i *Issuer) Token(pairs ...any) string {
	i.t.Helper()
	claims := map[string]any{"iss": IssuerName, "sub": "alice", "aud": "agents", "exp": time.Now().Add(time.Hour).Unix(),
		"roles": []string{"user", "admin"}}
	for n := 0; n < len(pairs); n += 2 {
		if claims[pairs[n].(string)] = pairs[n+1]; pairs[n+1] == nil {
			delete(claims, pairs[n].(string))
		}
	}
	token, err := i.signer.Sign(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

// Config returns the configuration that most tests begin with: this issuer, an agent at /my-agent,
// listeners on free ports of loopback.
func (i *Issuer) Config(agent string) *config.Config {
	c := config.Default()
	c.Listen, c.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0"
	c.Authentication.JWT.Issuer, c.Authentication.JWT.JWKSURI, c.Authentication.JWT.Audiences = IssuerName, i.URL, []string{"agents"}
	c.Routes = config.Routes{{Path: "/my-agent", Upstream: "http://" + agent, StripPrefix: true}}
	return &c
}
