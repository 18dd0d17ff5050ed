package policy

import (
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// asking is a request as net/http hands it over, with header lines as they are written.
func asking(target string, lines ...string) *http.Request {
	r := &http.Request{
		Method: "GET", RequestURI: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host: "gateway.test", RemoteAddr: "192.0.2.1:1234", Header: http.Header{}, Body: http.NoBody,
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// upgrade are the lines of a right handshake.
var upgrade = []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + rawws.Key}

// admission returns a policy with a route of each kind.
func admission(t testing.TB, i *wstest.Issuer, change func(*config.Config)) *Policy {
	t.Helper()
	c := i.Config("agent:8080")
	c.Authentication.Authorization.RequiredClaims = config.RequiredClaims{{Claim: "roles", Values: []config.ClaimValue{"user"}}}
	c.Authentication.Authorization.ExcludePaths = []string{"/healthz", "/readyz", "/info", "/kept/info"}
	c.Routes[0].AllowedOrigins = []string{"https://app.example.com"}
	c.Routes = append(c.Routes,
		config.Route{Path: "/public", Upstream: "http://public", StripPrefix: true, Public: true},
		config.Route{Path: "/kept", Upstream: "http://kept"},
		config.Route{Path: "/agents/{agent}", Upstream: "http://{agent}.agents:8080", StripPrefix: true,
			Query:          config.Query{Set: map[string]string{"agent": "{agent}"}, Drop: []string{"namespace"}},
			RequiredClaims: config.RequiredClaims{{Claim: "agents", Values: []config.ClaimValue{"use:{agent}"}}}},
		config.Route{Path: "/judges", Upstream: "http://judges", StripPrefix: true, AgentAuthenticates: true},
	)
	if change != nil {
		change(c)
	}
	keys := auth.NewKeys(auth.Options{})
	p, err := New(c, keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestOrderOfTheRules breaks every rule of a list at once, then one less each time: the first
// that is left decides.
func TestOrderOfTheRules(t *testing.T) {
	i := wstest.NewIssuer(t)
	g := admission(t, i, nil)
	bad := "Authorization: Bearer " + i.Token("sub", "", "roles", nil, "email", "a\nb", "exp", 1)
	for _, tt := range []struct {
		target string
		lines  []string
		want   outcome.Reason
	}{
		{"/nowhere//x", []string{bad, "Origin: null", "Upgrade: websocket"}, outcome.BadPath},
		{"/nowhere/x", []string{bad, "Origin: null", "Upgrade: websocket"}, outcome.NoRoute},
		{"/my-agent/x?access_token=a", []string{bad, "Origin: null", "Upgrade: websocket"}, outcome.BadOrigin},
		{"/my-agent/x?access_token=a", []string{bad, "Upgrade: websocket"}, outcome.MultipleCredentials},
		{"/my-agent/x", []string{bad, "Upgrade: websocket"}, outcome.Expired},
		{"/my-agent/x", []string{"Upgrade: websocket"}, outcome.NoToken},
		{"/my-agent/x", []string{"Authorization: Bearer " + i.Token("sub", "", "roles", nil, "email", "a\nb"), "Upgrade: websocket"},
			outcome.NoPrincipal},
		{"/my-agent/x", []string{"Authorization: Bearer " + i.Token("roles", nil, "email", "a\nb"), "Upgrade: websocket"},
			outcome.ClaimMismatch},
		{"/my-agent/x", []string{"Authorization: Bearer " + i.Token("email", "a\nb"), "Upgrade: websocket"}, outcome.ClaimNotRepresentable},
		{"/my-agent/x", []string{"Authorization: Bearer " + i.Token(), "Upgrade: websocket"}, outcome.BadUpgrade},
		{"/my-agent/x", []string{"Authorization: Bearer " + i.Token()}, outcome.OK},
		// for this hop alone
		{"/my-agent/x", []string{"Authorization: Bearer " + i.Token(), "Connection: close, Authorization"}, outcome.NoToken},

		// On excluded paths and public routes 7, 9, 10 and 11 of the order are not asked.
		{"/my-agent/info", []string{bad}, outcome.Expired},
		{"/public?access_token=a", []string{bad}, outcome.MultipleCredentials},
		{"/public", []string{"Authorization: Bearer " + i.Token("sub", "", "roles", nil, "email", "a\nb")}, outcome.PublicRoute},
		{"/public", nil, outcome.PublicRoute},
		{"/my-agent/info", nil, outcome.ExcludedPath}, // as it is left after the prefix
		{"/kept/info", nil, outcome.ExcludedPath},
		{"/kept/x/info", nil, outcome.NoToken},
		{"/my-agent/info/", nil, outcome.NoToken},
		{"/my-agent/info?x=/../y", nil, outcome.ExcludedPath},

		// A route's own claims are added to the global ones.
		{"/agents/cat", []string{"Authorization: Bearer " + i.Token("agents", "use:cat")}, outcome.OK},
		{"/agents/dog", []string{"Authorization: Bearer " + i.Token("agents", "use:cat")}, outcome.ClaimMismatch},
		{"/agents/cat", []string{"Authorization: Bearer " + i.Token("agents", "use:{agent}")}, outcome.ClaimMismatch},
		{"/agents/cat", []string{"Authorization: Bearer " + i.Token("agents", "use:cat", "roles", nil)}, outcome.ClaimMismatch},
		{"/agents/Cat", []string{"Authorization: Bearer " + i.Token("agents", "use:Cat")}, outcome.NoRoute},

		{"/healthz", nil, outcome.Probe},
		{"/readyz", []string{bad, "Origin: null"}, outcome.Probe},
		{"/info", nil, outcome.NoRoute}, // excluded, but no route takes it
		{"/metrics", nil, outcome.NoRoute},
		{"/.gateway/renew", nil, outcome.BadMethod},
		{"/.gateway/x", nil, outcome.NoRoute},
	} {
		p, err := g.Admit(t.Context(), asking(tt.target, tt.lines...))
		got := p.Reason
		if err != nil {
			got = outcome.RefusalOf(err).Reason
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s (%v)", tt.target, got, tt.want, err)
		}
	}
}

func TestProbesAreNotTheGatewaysWhereTheyAreNotExcluded(t *testing.T) {
	i := wstest.NewIssuer(t)
	none := admission(t, i, func(c *config.Config) { c.Authentication.Authorization.ExcludePaths = nil })
	if _, err := none.Admit(t.Context(), asking("/healthz")); err == nil || outcome.RefusalOf(err).Reason != outcome.NoRoute {
		t.Errorf("not excluded: %v", err)
	}
	claimed := admission(t, i, func(c *config.Config) { c.Routes = append(c.Routes, config.Route{Path: "/", Upstream: "http://all"}) })
	if p, err := claimed.Admit(t.Context(), asking("/healthz")); err != nil || p.Reason != outcome.ExcludedPath || p.Addr != "all" {
		t.Errorf("claimed by a route: %+v, %v", p, err)
	}
	post := asking("/healthz")
	post.Method = "POST"
	if _, err := admission(t, i, nil).Admit(t.Context(), post); err == nil || outcome.RefusalOf(err).Reason != outcome.NoRoute {
		t.Errorf("POST: %v", err)
	}
}

func TestAuthenticationOffLetsEverybodyInAndStripsAllTheSame(t *testing.T) {
	i := wstest.NewIssuer(t)
	g := admission(t, i, func(c *config.Config) { c.Authentication.Enabled = false })
	p, err := g.Admit(t.Context(), asking("/my-agent/ws?access_token=a&x=1", "Authorization: Bearer b", "X-User-Id: root",
		"x_user_roles: admin"))
	if err != nil || p.Reason != outcome.AuthDisabled || p.Target != "/ws?access_token=a&x=1" ||
		p.Header.Get("Authorization") != "Bearer b" {
		t.Errorf("%+v, %v", p, err)
	}
	for name := range p.Header {
		if strings.Contains(config.FoldHeader(name), "x-user") {
			t.Errorf("%s got through", name)
		}
	}
}

func TestNoTokenTellsWhatAuthorizationHas(t *testing.T) {
	g := admission(t, wstest.NewIssuer(t), nil)
	for line, want := range map[string]string{
		"Authorization: Basic c2VjcmV0":      "where one may sit; Authorization has the scheme Basic, not Bearer",
		"Authorization: Token eyJ.secret.s":  "the scheme Token, not Bearer",
		"Authorization: eyJ.secret.sig":      "a token without the word Bearer and a space before it",
		"Authorization: Bearer=eyJ.secret.s": "a token without the word Bearer",
		"Authorization: secret":              "no scheme",
		"Authorization: secret-key x":        "no scheme",
		"X-Other: secret":                    "where one may sit",
	} {
		_, err := g.Admit(t.Context(), asking("/my-agent/ws", line))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestAgentThatAuthenticatesGetsWhatTheClientSends(t *testing.T) {
	i := wstest.NewIssuer(t)
	g := admission(t, i, func(c *config.Config) {
		c.Authentication.JWT.FromCookies = []string{"session"}
		c.Routes[4].AllowedOrigins = []string{config.AnyOrigin}
		c.Routes[4].Query.Drop = []string{"agent"}
	})
	expired := i.Token("exp", 1)
	p, err := g.Admit(t.Context(), asking("/judges/ws?access_token=a&access_token=b&agent=x&k=%2F", append([]string{
		"Authorization: Bearer " + expired, "Authorization: Basic eA==", "Cookie: session=one; session=two", "X-Api-Key: k",
		"Sec-WebSocket-Protocol: bearer, opaque", "X-User-Id: root", "x_user_roles: admin", "X-User-Groups: admins", "X-Omnia-Agent: y",
	}, upgrade...)...))
	if err != nil || p.Reason != outcome.AgentAuthenticates || p.Identity != nil || p.Target != "/ws?access_token=a&access_token=b&k=%2F" ||
		!p.Deadline.IsZero() || !slices.Equal(p.Protocols.Offered, []string{"bearer", "opaque"}) || p.Protocols.Token {
		t.Fatalf("%+v, %v", p, err)
	}
	for name, want := range map[string][]string{
		"Authorization": {"Bearer " + expired, "Basic eA=="}, "Cookie": {"session=one; session=two"}, "X-Api-Key": {"k"},
	} {
		if got := p.Header[name]; !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	for name := range p.Header {
		if folded := config.FoldHeader(name); strings.HasPrefix(folded, "x-user") || strings.HasPrefix(folded, "x-omnia") {
			t.Errorf("%s got through", name)
		}
	}
	for _, target := range []string{"/judges", "/judges/healthz", "/judges/info"} {
		if p, err := g.Admit(t.Context(), asking(target)); err != nil || p.Reason != outcome.AgentAuthenticates {
			t.Errorf("%s: %+v, %v", target, p, err)
		}
	}
	if _, err := g.Admit(t.Context(), asking("/judges//x")); err == nil || outcome.RefusalOf(err).Reason != outcome.BadPath {
		t.Errorf("another spelling: %v", err)
	}
}

func TestWhatTheAgentIsTold(t *testing.T) {
	i := wstest.NewIssuer(t)
	g := admission(t, i, nil)
	token := i.Token("email", "alice@example.com", "agents", "use:cat")
	k8s := "base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token))
	identity := http.Header{"X-User-Id": {"alice"}, "X-User-Email": {"alice@example.com"}, "X-User-Roles": {"user,admin"},
		"Authorization": {"Bearer " + token}}
	for _, tt := range []struct {
		name    string
		target  string
		lines   []string
		want    string // path and query for the agent
		header  http.Header
		offered []string
		answer  string // to the client, if the agent chooses none
	}{
		{"header", "/agents/cat/ws?a=1&agent=dog&namespace=x", append([]string{"authorization: bEARER " + token}, upgrade...),
			"/ws?a=1&agent=cat", nil, nil, ""},
		{"query", "/agents/cat/ws?a=%20&access_token=" + token + "&b", upgrade, "/ws?a=%20&b&agent=cat", nil, nil, ""},
		{"subprotocol", "/agents/cat/ws", append([]string{"Sec-WebSocket-Protocol: bearer, " + token + ", chat"}, upgrade...),
			"/ws?agent=cat", http.Header{"Sec-Websocket-Protocol": {"chat"}}, []string{"chat"}, "chat"},
		{"subprotocol alone", "/agents/cat/ws",
			append([]string{"Sec-WebSocket-Protocol: bearer", "Sec-WebSocket-Protocol: " + token}, upgrade...),
			"/ws?agent=cat", nil, nil, "bearer"},
		{"form of Kubernetes", "/agents/cat/ws", append([]string{"Sec-WebSocket-Protocol: chat, " + k8s + ", v2"}, upgrade...),
			"/ws?agent=cat", http.Header{"Sec-Websocket-Protocol": {"chat, v2"}}, []string{"chat", "v2"}, "chat"},
		{"form of Kubernetes alone", "/agents/cat/ws", append([]string{"Sec-WebSocket-Protocol: " + k8s}, upgrade...), "/ws?agent=cat",
			nil, nil, ""},
		{"no token among them", "/agents/cat/ws",
			append([]string{"Authorization: Bearer " + token, "Sec-WebSocket-Protocol: chat"}, upgrade...),
			"/ws?agent=cat", http.Header{"Sec-Websocket-Protocol": {"chat"}}, []string{"chat"}, ""},
		{"forged identity", "/agents/cat/ws", append([]string{
			"Authorization: Bearer " + token, "X-User-Id: root", "x_user_id: root", "X.User.Id: root", "X-User-Roles: admin",
			"X-Forwarded-For: 127.0.0.1", "Forwarded: for=::1",
		}, upgrade...), "/ws?agent=cat", nil, nil, ""},
		{"Connection names identity", "/agents/cat/ws",
			append([]string{"Authorization: Bearer " + token, "Connection: X-User-Id, X-User-Roles, X-Forwarded-For"}, upgrade...),
			"/ws?agent=cat", nil, nil, ""},
		{"Connection names the key", "/agents/cat/ws",
			append([]string{"Authorization: Bearer " + token, "Connection: Sec-WebSocket-Key"}, upgrade...),
			"/ws?agent=cat", nil, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := asking(tt.target, tt.lines...)
			before := r.Header.Clone()
			p, err := g.Admit(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			want := http.Header{
				"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"gateway.test"},
				"X-Forwarded-Prefix": {"/agents/cat"}, "Sec-Websocket-Key": {rawws.Key}, "Sec-Websocket-Version": {"13"},
			}
			maps.Copy(want, identity)
			maps.Copy(want, tt.header)
			if !maps.EqualFunc(p.Header, want, slices.Equal) {
				t.Errorf("headers: got %v, want %v", p.Header, want)
			}
			if p.Target != tt.want || p.Scheme != "http" || p.Addr != "cat.agents:8080" || !p.Upgrade || p.Reason != outcome.OK ||
				p.Client.String() != "192.0.2.1" {
				t.Errorf("%+v", p)
			}
			if !slices.Equal(p.Protocols.Offered, tt.offered) || p.Protocols.Answer("") != tt.answer {
				t.Errorf("subprotocols: %+v, answer %q", p.Protocols, p.Protocols.Answer(""))
			}
			if !maps.EqualFunc(r.Header, before, slices.Equal) {
				t.Error("the request was changed")
			}
		})
	}
}

func TestTokenIsForwardedNowhereIfSoConfigured(t *testing.T) {
	i := wstest.NewIssuer(t)
	g := admission(t, i, func(c *config.Config) { c.Authentication.JWT.ForwardOriginalToken = false })
	token := i.Token()
	p, err := g.Admit(t.Context(), asking("/my-agent/ws?x=1&access_token="+token, "Authorization: Basic YTpi"))
	if err != nil || p.Target != "/ws?x=1" || p.Header.Get("Authorization") != "Basic YTpi" {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = g.Admit(t.Context(), asking("/my-agent/ws", "Authorization: Bearer "+token))
	if _, there := p.Header["Authorization"]; err != nil || there {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestForwardOriginalTokenOfARouteCountsInsteadOfTheIssuers(t *testing.T) {
	i := wstest.NewIssuer(t)
	yes, no := true, false
	for _, c := range []struct {
		issuer bool
		route  *bool
		want   bool
	}{
		{true, nil, true}, {true, &yes, true}, {true, &no, false},
		{false, nil, false}, {false, &yes, true}, {false, &no, false},
	} {
		g := admission(t, i, func(conf *config.Config) {
			conf.Authentication.JWT.ForwardOriginalToken = c.issuer
			for n := range conf.Routes {
				conf.Routes[n].ForwardOriginalToken = c.route
			}
		})
		token := i.Token()
		p, err := g.Admit(t.Context(), asking("/my-agent/ws?access_token="+token))
		if got := p.Header.Get("Authorization"); err != nil || (got == "Bearer "+token) != c.want || (got == "") == c.want {
			t.Errorf("issuer %v, route %v: forwarded %v, %v", c.issuer, c.route, got != "", err)
		}
	}
}

func TestOpenPathsTellTheIdentityOfATokenThatWasSent(t *testing.T) {
	i := wstest.NewIssuer(t)
	g := admission(t, i, nil)
	p, err := g.Admit(t.Context(), asking("/public/x", "Authorization: Bearer "+i.Token("email", "a\nb", "roles", nil)))
	if err != nil || p.Header.Get("X-User-Id") != "alice" || len(p.Header["X-User-Email"]) != 0 || p.Identity == nil {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestExplainShowsTheStepsOfServing(t *testing.T) {
	i := wstest.NewIssuer(t)
	g := admission(t, i, nil)
	names := func(e Explanation) string {
		var all []string
		for n, s := range e.Steps {
			all = append(all, s.Name)
			if s.OK != (e.Admitted || n < len(e.Steps)-1) {
				t.Errorf("step %s: %v", s.Name, s.OK)
			}
		}
		return strings.Join(slices.Compact(all), " ")
	}
	token := i.Token("agents", "use:cat")
	e := g.Explain(t.Context(), asking("/agents/cat/ws?agent=dog", append([]string{"Authorization: Bearer " + token}, upgrade...)...))
	if !e.Admitted || e.Reason != outcome.OK || e.Upstream != "http://cat.agents:8080/ws?agent=cat" ||
		e.Header.Get("X-User-Id") != "alice" {
		t.Errorf("%+v", e)
	}
	if got := names(e); !strings.HasPrefix(got, "path route token ") || !strings.HasSuffix(got, " rule header upstream") {
		t.Errorf("steps: %s", got)
	}
	for _, s := range e.Steps {
		if strings.Contains(s.Detail, token) {
			t.Errorf("%s shows the token", s.Name)
		}
	}
	e = g.Explain(t.Context(), asking("/agents/dog/ws", "Authorization: Bearer "+token))
	if e.Admitted || e.Reason != outcome.ClaimMismatch || e.Status != 403 || e.Upstream != "" || e.Header != nil ||
		!strings.HasSuffix(names(e), " claim-mismatch") {
		t.Errorf("%+v", e)
	}
	if e = g.Explain(t.Context(), asking("/healthz")); !e.Admitted || e.Reason != outcome.Probe || e.Upstream != "" {
		t.Errorf("%+v", e)
	}
}

// BenchmarkAdmit is what one handshake costs before the agent is dialled, with a token that was
// verified before.
func BenchmarkAdmit(b *testing.B) {
	i := wstest.NewIssuer(b)
	g := admission(b, i, nil)
	r := asking("/agents/cat/ws?session=1", append([]string{
		"Authorization: Bearer " + i.Token("agents", "use:cat"), "User-Agent: benchmark", "Origin: https://app.example.com",
		"Accept-Encoding: gzip",
	}, upgrade...)...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Admit(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// An empty query is a part of the target that is matched nowhere and that agents may look at.
func TestEmptyQueryKeepsItsMark(t *testing.T) {
	i := wstest.NewIssuer(t)
	g := admission(t, i, nil)
	for target, want := range map[string]string{
		"/public/x": "/x", "/public/x?": "/x?", "/public/x?a=": "/x?a=", "/public/x??": "/x??",
		"/public/x?access_token=" + i.Token(): "/x",
	} {
		if p, err := g.Admit(t.Context(), asking(target)); err != nil || p.Target != want {
			t.Errorf("%s: %q, %v; want %q", target, p.Target, err, want)
		}
	}
}
