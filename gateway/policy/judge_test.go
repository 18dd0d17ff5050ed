package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// TestJudge asks a changed policy about a case that another one has admitted.
func TestJudge(t *testing.T) {
	i := wstest.NewIssuer(t)
	before := admission(t, i, nil)
	origin := func(o string) func(*config.Config) {
		return func(c *config.Config) { c.Routes[0].AllowedOrigins = []string{o} }
	}
	requiring := func(role string) func(*config.Config) {
		return func(c *config.Config) {
			c.Authentication.Authorization.RequiredClaims = config.RequiredClaims{{Claim: "roles", Values: []config.ClaimValue{role}}}
		}
	}
	otherIssuer := func(c *config.Config) { c.Authentication.JWT.Issuer = "https://other" }
	for _, tt := range []struct {
		name   string
		target string
		token  string
		change func(*config.Config)
		want   outcome.Reason // "": still admitted
	}{
		{"nothing has changed", "/my-agent/ws", i.Token(), nil, ""},
		{"another upstream", "/my-agent/ws", i.Token(), func(c *config.Config) { c.Routes[0].Upstream = "http://other" }, ""},
		{"a rule", "/my-agent/ws", i.Token(), requiring("root"), outcome.ClaimMismatch},
		{"a rule, on a path that needs no token", "/public/ws", i.Token(), requiring("root"), ""},
		{"a rule with the label of the path", "/agents/one/ws", i.Token("agents", "use:one"), func(c *config.Config) {
			c.Routes[3].RequiredClaims[0].Values = []config.ClaimValue{"talk:{agent}"}
		}, outcome.ClaimMismatch},
		{"audience", "/my-agent/ws", i.Token(), func(c *config.Config) {
			c.Authentication.JWT.Audiences = []string{"others"}
		}, outcome.WrongAudience},
		{"no issuer", "/my-agent/ws", i.Token(), otherIssuer, outcome.WrongIssuer},
		{"no issuer, on a path that needs no token", "/public/ws", i.Token(), otherIssuer, outcome.WrongIssuer},
		{"no route", "/my-agent/ws", i.Token(), func(c *config.Config) { c.Routes[0].Path = "/your-agent" }, outcome.NoRoute},
		{"the page", "/my-agent/ws", i.Token(), origin("https://other.example.com"), outcome.BadOrigin},
		{"the page is listed with others", "/my-agent/ws", i.Token(), origin("*"), ""},
		{"a token is needed now", "/public/ws", "", func(c *config.Config) { c.Routes[1].Public = false }, outcome.NoToken},
		{"the agent judges now", "/my-agent/ws", i.Token(), func(c *config.Config) {
			c.Routes[0].AgentAuthenticates = true
			otherIssuer(c)
		}, ""},
		{"the gateway judges now", "/judges/ws", "", func(c *config.Config) { c.Routes[4].AgentAuthenticates = false }, outcome.NoToken},
		{"none is needed any more", "/my-agent/ws", i.Token(), func(c *config.Config) { c.Authentication.Enabled = false }, ""},
		{"a claim that cannot be a header", "/my-agent/ws", i.Token("note", " x"), func(c *config.Config) {
			c.Authentication.JWT.OutputClaimToHeaders = config.ClaimHeaders{{Header: "x-note", Claim: "note"}}
		}, outcome.ClaimNotRepresentable},
		{"an expiry", "/my-agent/ws", i.Token("exp", nil), nil, outcome.NoExpiry},
		{"a clock setting", "/my-agent/ws", i.Token("exp", time.Now().Add(-30*time.Second).Unix()), func(c *config.Config) {
			c.Authentication.JWT.ClockSkew = 0
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := before
			if tt.want == outcome.NoExpiry {
				first = admission(t, i, func(c *config.Config) { c.Authentication.JWT.RequireExpiration = false })
			}
			lines := append([]string{"Origin: https://app.example.com"}, upgrade...)
			if tt.token != "" {
				lines = append(lines, "Authorization: Bearer "+tt.token)
			}
			pass, err := first.Admit(t.Context(), asking(tt.target, lines...))
			if err != nil {
				t.Fatal(err)
			}
			err = admission(t, i, tt.change).Judge(pass.Case)
			if got := outcome.Reason(""); err != nil {
				if got = outcome.RefusalOf(err).Reason; got != tt.want || strings.Contains(err.Error(), tt.token) && tt.token != "" {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				if code := outcome.End(got, "").Code; code != 3000 && code != 3003 {
					t.Errorf("%s ends a session with %d", got, code)
				}
			} else if tt.want != "" {
				t.Errorf("still admitted, want %s", tt.want)
			}
		})
	}
}

func TestJudgeFindsNoSessionOfItsOwnPaths(t *testing.T) {
	p := admission(t, wstest.NewIssuer(t), nil)
	for _, path := range []string{"/healthz", "/.gateway/renew"} {
		if err := p.Judge(Case{Host: "gateway.test", Path: path}); err == nil || outcome.RefusalOf(err).Reason != outcome.NoRoute {
			t.Errorf("%s: %v", path, err)
		}
	}
}
