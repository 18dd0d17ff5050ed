package policy

import (
	"net/netip"
	"testing"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// describing is the admission whose routes tell OAuth clients where to get a token.
func describing(t testing.TB, i *wstest.Issuer) *Policy {
	return admission(t, i, func(c *config.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Routes[0].ProtectedResource = config.ProtectedResource{Scopes: []string{"agents:access", "more"}, Name: "My agent",
			Documentation: "https://docs.test/"}
		c.Routes[3].ProtectedResource = config.ProtectedResource{Scopes: []string{"use:{agent}"}}
		c.Routes = append(c.Routes, config.Route{Path: "/", Upstream: "http://root",
			ProtectedResource: config.ProtectedResource{Name: "root"}})
		c.Authentication.JWTRules = config.JWTRules{{Issuer: "a name", JWKSURI: i.URL + "/keys", Algorithms: []string{"ES256"}}}
	})
}

func TestResourceMetadata(t *testing.T) {
	i := wstest.NewIssuer(t)
	p := describing(t, i)
	tail := `"authorization_servers":["https://issuer.example.com"]`
	for _, tt := range []struct {
		target, method, remote string
		lines                  []string
		want                   string // empty: the path is one like any other
	}{
		{"/.well-known/oauth-protected-resource/my-agent", "GET", "", nil, `{"resource":"http://gateway.test/my-agent",` + tail +
			`,"scopes_supported":["agents:access","more"],"bearer_methods_supported":["header","query"],"resource_name":"My agent",` +
			`"resource_documentation":"https://docs.test/"}`},
		{"/.well-known/oauth-protected-resource/my-agent/", "HEAD", "", []string{"Origin: https://evil.test"},
			`{"resource":"http://gateway.test/my-agent",` + tail +
				`,"scopes_supported":["agents:access","more"],"bearer_methods_supported":["header","query"],"resource_name":"My agent",` +
				`"resource_documentation":"https://docs.test/"}`},
		{"/.well-known/oauth-protected-resource/agents/blue", "GET", "", []string{"Authorization: Bearer x"},
			`{"resource":"http://gateway.test/agents/blue",` + tail +
				`,"scopes_supported":["use:blue"],"bearer_methods_supported":["header","query"]}`},
		{"/.well-known/oauth-protected-resource", "GET", "10.1.2.3:4",
			[]string{"X-Forwarded-Proto: https, http", "X-Forwarded-Host: agents.example.com"},
			`{"resource":"https://agents.example.com",` + tail + `,"bearer_methods_supported":["header","query"],"resource_name":"root"}`},
		{"/.well-known/oauth-protected-resource", "OPTIONS", "", []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test"},
			`{"resource":"http://gateway.test",` + tail + `,"bearer_methods_supported":["header","query"],"resource_name":"root"}`},
		{"/.well-known/oauth-protected-resource", "GET", "10.1.2.3:4", []string{"X-Forwarded-Proto: ftp", `X-Forwarded-Host: a", x="b`},
			`{"resource":"http://gateway.test",` + tail + `,"bearer_methods_supported":["header","query"],"resource_name":"root"}`},

		{"/.well-known/oauth-protected-resource/my-agent/mcp", "GET", "", nil, ""},   // not the path of the route
		{"/.well-known/oauth-protected-resource/kept", "GET", "", nil, ""},           // a route that tells nothing
		{"/.well-known/oauth-protected-resource/agents/UPPER", "GET", "", nil, ""},   // no DNS label, and so a path below /
		{"/.well-known/oauth-protected-resources/my-agent", "GET", "", nil, ""},      // another word
		{"/my-agent/.well-known/oauth-protected-resource", "GET", "", nil, ""},       // the agent's own
		{"/.well-known/oauth-protected-resource/my-agent", "POST", "", nil, ""},      // nothing to post
		{"/.well-known/oauth-protected-resource/my-agent/..", "GET", "", nil, ""},    // never resolved
		{"/.well-known/oauth-protected-resource/%2fmy-agent", "GET", "", nil, ""},    // nor decoded
		{"/.well-known/oauth-protected-resource//my-agent", "GET", "", nil, ""},      // nor shortened
		{"/x/../.well-known/oauth-protected-resource/my-agent", "GET", "", nil, ""},  // anywhere
		{"/.well-known/OAuth-protected-resource/my-agent", "GET", "", nil, ""},       // case counts
		{"/.well-known/oauth-protected-resource/public", "GET", "", nil, ""},         // public
		{"/.well-known/oauth-protected-resource/agents", "GET", "", nil, ""},         // above the route
		{"/.well-known/oauth-protected-resource/agents/a/b", "GET", "", nil, ""},     // below it
		{"/.well-known/oauth-protected-resourcemy-agent", "GET", "", nil, ""},        // glued
		{"/.well-known/oauth-protected-resource?x=/my-agent", "DELETE", "", nil, ""}, // another method
	} {
		r := asking(tt.target, tt.lines...)
		r.Method = tt.method
		if tt.remote != "" {
			r.RemoteAddr = tt.remote
		}
		pass, err := p.Admit(t.Context(), r)
		if got := string(pass.Metadata); got != tt.want {
			t.Errorf("%s %s %v: %s, %v; want %s", tt.method, tt.target, tt.lines, got, err, tt.want)
		}
		if tt.want != "" && (err != nil || pass.Reason != outcome.ResourceMetadata || pass.Addr != "") {
			t.Errorf("%s %s: %q, %v, an agent at %q", tt.method, tt.target, pass.Reason, err, pass.Addr)
		}
	}
}

func TestHintNamesTheMetadata(t *testing.T) {
	p := describing(t, wstest.NewIssuer(t))
	for target, want := range map[string]string{
		"/my-agent/mcp": `, resource_metadata="http://gateway.test/.well-known/oauth-protected-resource/my-agent", ` +
			`scope="agents:access more"`,
		"/agents/blue/x?y=/z": `, resource_metadata="http://gateway.test/.well-known/oauth-protected-resource/agents/blue", ` +
			`scope="use:blue"`,
		"/elsewhere": `, resource_metadata="http://gateway.test/.well-known/oauth-protected-resource"`,
		"/kept/x":    "",
	} {
		pass, err := p.Admit(t.Context(), asking(target))
		if outcome.RefusalOf(err).Reason != outcome.NoToken || pass.Hint != want {
			t.Errorf("%s: %v with hint %s, want %s", target, err, pass.Hint, want)
		}
	}
	r := asking("/my-agent/mcp")
	r.Host = "" // HTTP/1.0 needs none
	if pass, _ := p.Admit(t.Context(), r); pass.Hint != "" {
		t.Errorf("without a Host the hint is %s", pass.Hint)
	}
}

func TestExplainShowsThatTheGatewayAnswersWithMetadata(t *testing.T) {
	p := describing(t, wstest.NewIssuer(t))
	r := asking("/.well-known/oauth-protected-resource/my-agent")
	if e := p.Explain(t.Context(), r); !e.Admitted || e.Reason != outcome.ResourceMetadata || e.Upstream != "" || len(e.Header) > 0 {
		t.Errorf("%+v", e)
	}
}
