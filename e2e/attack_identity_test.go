package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapter C: the headers by which an agent knows its user.

// forged are the identity headers of a client that pretends to be another user.
var forged = []string{
	"X-User-Id: mallory", "x-user-id: mallory2", "X-USER-ROLES: admin", "X-User-Email: root@example.com",
	"X-Tenant: acme", "X-Omnia-User-Id: mallory",
}

// trusting is a configuration with more identity headers: x-tenant is mapped for another issuer,
// x-omnia-user-id only removed.
func trusting(i *issuer, agentURL string) settings {
	s := plain(i, agentURL).
		with("authentication.edgeTrust", settings{"additionalStripHeaders": []string{"x-omnia-user-id"}}).
		with("authentication.authorization.excludePaths", []string{"/open/*"}).
		with("authentication.jwtRules", []any{settings{
			"issuer": "https://other.example.com", "jwksUri": i.URL + "/keys", "audiences": []string{"agents"},
			"outputClaimToHeaders": []any{settings{"header": "x-tenant", "claim": "tenant"}},
		}})
	public := route("/public", agentURL)
	public["public"] = true
	return s.with("routes", []any{route("/my-agent", agentURL), public})
}

func TestC01IdentityHeadersComeFromTheTokenAlone(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, trusting(i, a.URL))
	token := i.token(t, "roles", nil, "email", nil)
	lines := append([]string{"Authorization: Bearer " + token}, forged...)
	want := []string{"Authorization", "Bearer " + token, "X-User-Id", "alice"}

	g.connect(t, "/my-agent/ws", lines...)
	told(t, a.request(t), want...)
	g.one(t, 200, plainRequest("GET", "/my-agent/rest", lines...))
	told(t, a.request(t), want...)
	g.connect(t, "/public/ws", lines...)
	told(t, a.request(t), want...)

	for _, target := range []string{"/public/ws", "/my-agent/open/ws"} { // no user is logged in here
		g.connect(t, target, forged...)
		told(t, a.request(t))
		g.one(t, 200, plainRequest("OPTIONS", target, append(forged, "Origin: https://x.example", "Access-Control-Request-Method: GET")...))
		told(t, a.request(t), "Origin", "https://x.example", "Access-Control-Request-Method", "GET")
	}

	off := start(t, trusting(i, a.URL).with("authentication.enabled", false))
	off.connect(t, "/my-agent/ws", forged...)
	told(t, a.request(t))
}

// TestC08WhatAgentsBelieveIsRemovedUnlessAllowed sends what an Omnia agent takes for the user's
// groups and for its own workspace, with a configuration that repeats the chart's lists.
func TestC08WhatAgentsBelieveIsRemovedUnlessAllowed(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	s := plain(i, a.URL).with("authentication.edgeTrust", settings{
		"stripInboundClaimHeaders": true, "additionalStripHeaders": []string{},
		"defaultStripHeaders": []string{"x-user-id", "x-user-roles", "x-user-email"},
	})
	lines := []string{
		i.bearer(t), "X-User-Groups: admins", "x_user_groups: admins", "X-Omnia-Claims: {}", "X-End-User-Id: root", "X-Users: pass",
	}
	const target = "/my-agent/ws?workspace=other&namespace=kube-system&x=1&agent=other&device%5Fid=7"
	g := start(t, s)
	for range 2 {
		g.connect(t, target, lines...).Close()
		r := a.request(t)
		if r.RequestURI != "/ws?x=1" || r.Header.Get("X-Users") != "pass" {
			t.Errorf("the agent was asked for %s with %v", r.RequestURI, r.Header)
		}
		for _, name := range []string{"X-User-Groups", "X_user_groups", "X-Omnia-Claims", "X-End-User-Id"} {
			if r.Header[name] != nil {
				t.Errorf("%s reached the agent", name)
			}
		}
	}
	// The first of each kind is logged, with the key that allows it. The line of a connection's end
	// is later.
	eventually(t, "both sessions in the log", func() bool { return len(g.log.with("msg", "ended")) == 2 })
	for kind, key := range map[string]string{"header": "authentication.edgeTrust.stripFamilies", "parameter": "routes[].query.drop"} {
		if found := g.log.with("msg", "removed", "route", "/my-agent", "kind", kind); len(found) != 1 || found[0]["key"] != key {
			t.Errorf("%s: %v", kind, found)
		}
	}

	own := route("/my-agent", a.URL)
	own["query"] = settings{"drop": []string{}}
	g = start(t, s.with("authentication.edgeTrust.stripFamilies", []string{"x-end-user-id"}).with("routes", []any{own}))
	g.connect(t, target, lines...).Close()
	r := a.request(t)
	if r.RequestURI != target[len("/my-agent"):] || r.Header.Get("X-User-Groups") != "admins" || r.Header["X-End-User-Id"] != nil {
		t.Errorf("the agent was asked for %s with %v", r.RequestURI, r.Header)
	}
	g = start(t, s.with("authentication.edgeTrust.stripInboundClaimHeaders", false))
	g.connect(t, target, lines...).Close()
	if r := a.request(t); r.RequestURI != "/ws?x=1" || r.Header.Get("X-End-User-Id") != "root" {
		t.Errorf("the agent was asked for %s with %v", r.RequestURI, r.Header)
	}
}

func TestC02ConnectionHeaderCannotRemoveTheVerifiedUser(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, trusting(i, a.URL))
	token := i.token(t)
	want := []string{"Authorization", "Bearer " + token, "X-User-Id", "alice", "X-User-Email", "alice@example.com", "X-User-Roles",
		"user,admin"}
	for _, connection := range [][]string{
		{"Connection: x-user-id"},
		{"Connection: X-User-Id, x-user-roles", "Connection: x-user-email,authorization"},
		{"Connection: keep-alive, Upgrade, x_user_id, host, x-forwarded-for, sec-websocket-key, sec-websocket-version"},
		{"Proxy-Connection: x-user-id", "Keep-Alive: x-user-id", "TE: trailers, x-user-id", "Trailer: X-User-Id"},
	} {
		lines := append([]string{"Authorization: Bearer " + token, "X-User-Id: mallory"}, connection...)
		g.connect(t, "/my-agent/ws", lines...)
		told(t, a.request(t), want...)
		rest := plainRequest("GET", "/my-agent/rest", lines...)
		if strings.Contains(strings.Join(connection, ""), "authorization") { // it ends here, and so does the token in it
			g.rejected(t, 401, "no-token", rest)
			continue
		}
		g.one(t, 200, rest)
		r := a.request(t)
		r.Header.Del("Sec-Websocket-Key")
		told(t, r, want...)
	}
}

func TestC03SeparatorAliasesNeverReachTheAgent(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, trusting(i, a.URL))
	token := i.token(t, "roles", nil, "email", nil)
	lines := []string{"Authorization: Bearer " + token, "X-Harmless: stays"}
	for _, name := range []string{
		"X_User_Id", "x_user_id", "X-User_Id", "X.User.Id", "X-User.Roles", "X_User-Roles", "x!user!id", "X-User-Id~", "X'User'Id",
		"X_Forwarded_For", "Content_Length", "Transfer_Encoding", "X_Harmless",
	} {
		lines = append(lines, name+": mallory")
	}
	g.connect(t, "/my-agent/ws", lines...)
	want := []string{"Authorization", "Bearer " + token, "X-User-Id", "alice", "X-Harmless", "stays"}
	told(t, a.request(t), want...)
	g.one(t, 200, plainRequest("GET", "/my-agent/rest", lines...))
	told(t, a.request(t), want...)
}

func TestC04OddHeaderLinesCannotCarryAnIdentity(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, trusting(i, a.URL))
	token := i.token(t)
	bearer := "Authorization: Bearer " + token
	for _, line := range []string{
		"X-User-Id : mallory", "X-User-Id\t: mallory", "X-User-Id: mal\rlory", "X-A: b\rX-User-Id: mallory", "X-User-Id: mal\x00lory",
		"X-User-Id: mal\x1blory", "X-User-Id: mal\x7flory", "X-User-Id", ": mallory", "X User Id: mallory", "X-User-Id\x00: mallory",
		"X-Us\xe9r: mallory",
	} {
		g.one(t, 400, plainRequest("GET", "/my-agent/rest", line, bearer))
		g.one(t, 400, rawws.Request("gateway.test", "/my-agent/ws", line, bearer))
	}
	g.one(t, 400, "GET /my-agent/rest HTTP/1.1\r\n X-User-Id: mallory\r\nHost: gateway.test\r\n"+bearer+"\r\n\r\n") // a fold of nothing
	a.untouched(t)

	want := []string{"Authorization", "Bearer " + token, "X-User-Id", "alice", "X-User-Email", "alice@example.com", "X-User-Roles",
		"user,admin"}
	for _, tt := range []struct {
		lines string
		also  []string
	}{
		{"X-A: b\nx-user-id: mallory", []string{"X-A", "b"}},
		{"X-A: b\r\n\tx-user-id: mallory", []string{"X-A", "b x-user-id: mallory"}},
		{"X-User-Id: mallory\r\n  trudy", nil},
		{"X-User-Id:", nil},
		{"X-User-Id:mallory\r\nX-USER-ID: \t trudy \t", nil},
	} {
		g.connect(t, "/my-agent/ws", tt.lines, bearer)
		told(t, a.request(t), append(tt.also, want...)...)
	}

	// A trailer field is a header that comes late.
	body := "3\r\nabc\r\n0\r\nX-User-Id: mallory\r\nAuthorization: Bearer x\r\n\r\n"
	g.one(t, 200, plainRequest("POST", "/my-agent/rest", bearer, "Transfer-Encoding: chunked", "Trailer: X-User-Id")+body)
	r := a.request(t)
	told(t, r, want...)
	if len(r.Trailer) > 0 {
		t.Errorf("the agent got trailers: %v", r.Trailer)
	}
}

func TestC05ClaimsThatWouldChangeOnTheWayAreRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	for _, sub := range []any{" admin ", "admin\t", "\u00a0admin", "a\r\nX-User-Roles: admin", "a\nb", "a\u2028b", "", " ", nil} {
		g.refused(t, 403, "no-principal", "/my-agent/ws", i.bearer(t, "sub", sub, "roles", nil))
	}
	for _, value := range []any{"a\r\nX-User-Id: root", "a\x00b", "a\x7fb", " admin", "admin ", []string{"user", "a\nb"}, []string{" user",
		"admin"}} {
		g.refused(t, 403, "claim-not-representable", "/my-agent/ws", i.bearer(t, "roles", value))
	}
	for _, sub := range []any{[]string{"admin"}, 12345678901234567, map[string]any{"a": 1}, true} {
		g.refused(t, 401, "malformed", "/my-agent/ws", i.bearer(t, "sub", sub))
	}
	a.untouched(t)

	// A list must not have more elements for the agent than for the issuer.
	g.connect(t, "/my-agent/ws", i.bearer(t, "sub", "zoë", "roles", []string{"user,admin"}))
	r := a.request(t)
	if got := r.Header["X-User-Roles"]; len(got) != 1 || got[0] != `["user,admin"]` {
		t.Errorf("X-User-Roles: %q", got)
	}
	if got := r.Header["X-User-Id"]; len(got) != 1 || got[0] != "zoë" {
		t.Errorf("X-User-Id: %q", got)
	}
}

// claimed are the headers in which a client or a proxy says who and where it is.
var claimed = []string{
	"X-Forwarded-For: 203.0.113.7, 198.51.100.2", "X-Forwarded-Proto: https", "X-Forwarded-Host: bank.example", "X-Forwarded-Uri: /open/x",
	"X-Forwarded-User: root", "X-Forwarded-Prefix: /x", "X-Forwarded-Email: root@example.com", "Forwarded: for=203.0.113.7",
	"X-Real-Ip: 203.0.113.7",
	"True-Client-Ip: 203.0.113.7", "X-Original-Url: /open/x", "X-Rewrite-Url: /open/x", "X-Forwarded-Client-Cert: Subject=root",
}

func TestC06ForwardingHeadersOfAClientAreDropped(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, trusting(i, a.URL))
	token := i.token(t, "roles", nil, "email", nil)
	lines := append([]string{"Authorization: Bearer " + token}, claimed...)
	g.connect(t, "/my-agent/ws", lines...)
	told(t, a.request(t), "Authorization", "Bearer "+token, "X-User-Id", "alice")
	g.refused(t, 401, "no-token", "/my-agent/ws", claimed...) // X-Original-URL names an excluded path
}

func TestC06ForwardingHeadersOfATrustedProxyAreContinued(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL).with("trustedProxies", []string{"127.0.0.0/8"}).with("limits.maxConnectionsPerIP", 1))
	g.connect(t, "/my-agent/ws", append([]string{i.bearer(t)}, claimed...)...)
	r := a.request(t)
	for name, want := range map[string]string{
		"X-Forwarded-For": "203.0.113.7, 198.51.100.2, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "bank.example",
		"X-Forwarded-Client-Cert": "",
	} {
		if got := strings.Join(r.Header[name], "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// The last address that is no proxy's is the client: what stands before it is the client's
	// own word.
	g.refused(t, 429, "too-many-address-connections", "/my-agent/ws", i.bearer(t), "X-Forwarded-For: 192.0.2.1, 198.51.100.2")
	g.connect(t, "/my-agent/ws", i.bearer(t), "X-Forwarded-For: 198.51.100.2, 192.0.2.1")
}

func TestC07AgentCannotSpeakForTheGateway(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		v.accept("X-Gateway-Session: forged", "Content-Length: 5", "Keep-Alive: timeout=1", "Connection: Upgrade, X-Internal",
			"X-Internal: 10.0.0.5", "Proxy-Authenticate: Basic", "Trailer: X-User-Id", "Set-Cookie: a=b")
		v.echoFrames()
	})
	g := start(t, plain(i, a.URL))
	s, r := g.handshake(t, "/my-agent/ws", i.bearer(t))
	if got := r.Header["X-Gateway-Session"]; len(got) != 1 || got[0] == "forged" {
		t.Errorf("X-Gateway-Session: %q", got)
	}
	for name, want := range map[string]string{
		"Content-Length": "", "Keep-Alive": "", "X-Internal": "", "Proxy-Authenticate": "", "Trailer": "", "Connection": "Upgrade",
		"Upgrade": "websocket", "Set-Cookie": "a=b",
	} {
		if got := strings.Join(r.Header[http.CanonicalHeaderKey(name)], "|"); got != want {
			t.Errorf("the client got %s: %q, want %q", name, got, want)
		}
	}
	s.echoes("and a tunnel")
}

// net/http forgets a Connection line that says close, and with it which headers end at the gateway.
func TestC07HeadersThatConnectionNamesEndAtTheGateway(t *testing.T) {
	const connection = "Connection: close, X-Internal\r\nX-Internal: 10.0.0.5\r\n"
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		switch v.r.URL.Path {
		case "/interim":
			io.WriteString(v, "HTTP/1.1 103 Early Hints\r\n"+connection+"Link: a\r\n\r\n"+
				"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
		case "/trailers":
			io.WriteString(v, "HTTP/1.1 200 OK\r\n"+connection+"Transfer-Encoding: chunked\r\nTrailer: X-Internal, X-Sum\r\n\r\n"+
				"2\r\nhi\r\n0\r\nX-Internal: 10.0.0.5\r\nX-Sum: 1\r\nKeep-Alive: 1\r\n\r\n")
		default:
			io.WriteString(v, "HTTP/1.1 403 Forbidden\r\n"+connection+"Content-Length: 2\r\n\r\nhi")
		}
	})
	g := start(t, plain(i, a.URL))
	for _, request := range []string{
		plainRequest("GET", "/my-agent/final", i.bearer(t)),
		plainRequest("GET", "/my-agent/interim", i.bearer(t)),
		plainRequest("GET", "/my-agent/trailers", i.bearer(t), "TE: trailers"),
		rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t)),
	} {
		s := g.dial(t)
		s.say(request)
		answer, _ := io.ReadAll(s.br)
		if !strings.Contains(string(answer), "hi") || strings.Contains(string(answer), "10.0.0.5") ||
			strings.Contains(strings.ToLower(string(answer)), "keep-alive") {
			t.Errorf("%.40q: the client got %q", request, answer)
		}
	}
}
