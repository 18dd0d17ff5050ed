package policy

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

func TestWildcardOriginsTakeOneLabel(t *testing.T) {
	allowed := origins{"https://*.preview.example.com", "http://*.local:3000", "tauri://localhost", "null"}
	for origin, want := range map[string]bool{
		"https://pr-7.preview.example.com": true, "http://a.local:3000": true, "tauri://localhost": true, "null": true,
		"https://preview.example.com": false, "https://.preview.example.com": false, "https://a.b.preview.example.com": false,
		"http://pr-7.preview.example.com": false, "https://pr-7.preview.example.com:8443": false,
		"https://evil/.preview.example.com": false,
		"https://pr_7.preview.example.com":  false, "https://evilpreview.example.com": false, "http://a.local": false,
		"https://x.preview.example.com.evil.com": false, "https://*.preview.example.com": true, // the text of the list itself
		"tauri://other": false, "": false,
	} {
		if got := allowed.allow([]string{origin}); got != want {
			t.Errorf("%s: %v", origin, got)
		}
	}
}

func TestPreflights(t *testing.T) {
	i := wstest.NewIssuer(t)
	p := admission(t, i, func(c *config.Config) {
		c.Routes[0].CORS = true
		c.Authentication.JWT.FromCookies = []string{"session"}
		own := config.Route{Path: "/own", Upstream: "http://own", AllowedOrigins: []string{"https://app.example.com"}}
		c.Routes = append(c.Routes, own)
	})
	asks := []string{
		"Origin: https://app.example.com", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: authorization,x-a",
		"Access-Control-Request-Private-Network: true",
	}
	for _, tt := range []struct {
		name, method, target string
		lines                []string
		want                 outcome.Reason
	}{
		{"from a listed origin", "OPTIONS", "/my-agent/x", asks, outcome.Preflight},
		{"from another", "OPTIONS", "/my-agent/x", []string{"Origin: https://evil.com", asks[1]}, outcome.BadOrigin},
		{"without Origin", "OPTIONS", "/my-agent/x", asks[1:], outcome.NoToken},
		{"no preflight", "OPTIONS", "/my-agent/x", asks[:1], outcome.NoToken},
		{"another method", "POST", "/my-agent/x", asks, outcome.NoToken},
		{"cors is false", "OPTIONS", "/own/x", asks, outcome.NoToken},
		{"a route without origins", "OPTIONS", "/kept/x", asks, outcome.NoToken},
		{"no route", "OPTIONS", "/none", asks, outcome.NoRoute},
	} {
		r := asking(tt.target, tt.lines...)
		r.Method = tt.method
		pass, err := p.Admit(t.Context(), r)
		got := pass.Reason
		if err != nil {
			got = outcome.RefusalOf(err).Reason
		}
		if got != tt.want {
			t.Errorf("%s: %s", tt.name, got)
		}
		if got != outcome.Preflight {
			continue
		}
		h := http.Header{}
		pass.CORS.Preflight(h, r.Header)
		for name, want := range map[string]string{
			"Access-Control-Allow-Origin": "https://app.example.com", "Access-Control-Allow-Methods": "PUT",
			"Access-Control-Allow-Headers": "authorization,x-a", "Access-Control-Max-Age": "7200",
			"Access-Control-Allow-Credentials": "true", "Access-Control-Allow-Private-Network": "true",
			"Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %q", name, h.Get(name))
			}
		}
	}
}

func TestRefusalBeforeTheRouteCanBeReadByAPageThatAnyRouteLists(t *testing.T) {
	p := admission(t, wstest.NewIssuer(t), func(c *config.Config) {
		c.Routes[0].CORS, c.Routes[0].AllowedOrigins = true, []string{"https://app.example.com"}
	})
	for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "https://evil.com": ""} {
		for target, word := range map[string]outcome.Reason{"/none": outcome.NoRoute, "/my-agent//x": outcome.BadPath} {
			pass, err := p.Admit(t.Context(), asking(target, "Origin: "+origin))
			h := http.Header{}
			pass.CORS.Tell(h)
			if outcome.RefusalOf(err).Reason != word || h.Get("Access-Control-Allow-Origin") != want || h.Get("Vary") != "Origin" {
				t.Errorf("%s from %s: %v, %v", target, origin, err, h)
			}
		}
	}
}

func TestAgentsOwnCORSIsReplaced(t *testing.T) {
	h := http.Header{
		"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Credentials": {"true"}, "Vary": {"Accept"}, "Content-Type": {"a/b"},
		"Access-Control-Expose-Headers": {"X-Total, retry-after", "Mcp-Session-Id"},
	}
	CORS{}.Tell(h)
	if h.Get("Access-Control-Allow-Origin") != "*" || len(h) != 5 || len(h["Vary"]) != 1 {
		t.Errorf("a route without CORS changes the answer: %v", h)
	}
	CORS{varies: true, origin: "https://app.example.com"}.Tell(h)
	got := h["Access-Control-Allow-Origin"]
	if len(got) != 1 || got[0] != "https://app.example.com" || h["Access-Control-Allow-Credentials"] != nil ||
		len(h["Vary"]) != 2 || h["Vary"][1] != "Origin" ||
		h.Get("Access-Control-Expose-Headers") != "WWW-Authenticate, Retry-After, X-Gateway-Session, Mcp-Session-Id, X-Total" {
		t.Errorf("%v", h)
	}
}

func TestRefusalOfAnOriginVaries(t *testing.T) {
	p := admission(t, wstest.NewIssuer(t), func(c *config.Config) {
		c.Routes[0].CORS, c.Routes[0].AllowedOrigins = true, []string{"https://app.example.com"}
	})
	pass, err := p.Admit(t.Context(), asking("/my-agent/x", "Origin: https://evil.com"))
	h := http.Header{}
	pass.CORS.Tell(h)
	if outcome.RefusalOf(err).Reason != outcome.BadOrigin || len(h) != 1 || h.Get("Vary") != "Origin" {
		t.Errorf("%v, %v", err, h)
	}
}

// What a cache keeps of an answer to a request without an Origin must not be given to a page.
func TestAnswersOfARouteThatSpeaksCORSVary(t *testing.T) {
	for vary, want := range map[string]int{"": 1, "Accept": 2, "accept, origin": 1, "*": 1, "X-Original-URL": 2, "Origin": 1} {
		h := http.Header{}
		if vary != "" {
			h.Set("Vary", vary)
		}
		CORS{varies: true}.Tell(h)
		if len(h) != 1 || len(h["Vary"]) != want {
			t.Errorf("%q: %v", vary, h)
		}
	}
}

func TestOriginForTheAgent(t *testing.T) {
	i := wstest.NewIssuer(t)
	for mode, want := range map[string]string{"keep": "https://app.example.com", "own": "http://gateway.test", "drop": ""} {
		p := admission(t, i, func(c *config.Config) { c.Routes[0].Origin = mode })
		pass, err := p.Admit(t.Context(), asking("/my-agent/x", "Origin: https://app.example.com", "Authorization: Bearer "+i.Token()))
		if err != nil || pass.Header.Get("Origin") != want {
			t.Errorf("%s: the agent sees %q, %v", mode, pass.Header.Get("Origin"), err)
		}
	}
	p := admission(t, i, func(c *config.Config) {
		c.Routes[0].Origin = "own"
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	})
	for proto, want := range map[string]string{"https": "https", "wss": "https", "https, http": "https", "WS": "http", "gopher": "http"} {
		pass, err := p.Admit(t.Context(), asking("/my-agent/x", "Origin: https://app.example.com", "X-Forwarded-Proto: "+proto,
			"Authorization: Bearer "+i.Token()))
		if got := pass.Header.Get("Origin"); err != nil || got != want+"://gateway.test" {
			t.Errorf("X-Forwarded-Proto %s: the agent sees %q, %v", proto, got, err)
		}
	}
	p = admission(t, i, func(c *config.Config) { c.Routes[0].Origin, c.Routes[0].HostHeader = "own", "upstream" })
	pass, err := p.Admit(t.Context(), asking("/my-agent/x", "Origin: https://app.example.com", "Authorization: Bearer "+i.Token()))
	if err != nil || pass.Header.Get("Origin") != "http://agent:8080" || pass.AgentHost != "agent:8080" {
		t.Errorf("own, with the upstream's Host: %q, %v", pass.Header.Get("Origin"), err)
	}
}
