package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// compile makes a gateway that has the issuer's keys and serves nothing yet.
func compile(t testing.TB, c *config.Config, log *slog.Logger) *Gateway {
	t.Helper()
	return compileWith(t, c, Options{Log: log})
}

func compileWith(t testing.TB, c *config.Config, o Options) *Gateway {
	t.Helper()
	g, err := New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

// journal is a log that a test can read.
type journal struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote func() // called with every line, unless nil
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.wrote != nil {
		j.wrote()
	}
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// lines are those with a message.
func (j *journal) lines(t testing.TB, message string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(j.String()) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if l["msg"] == message {
			found = append(found, l)
		}
	}
	return found
}

// running is a gateway on loopback.
type running struct {
	*Gateway
	t     *testing.T
	log   *journal
	leave chan Departure
	cut   context.CancelFunc
	done  chan error // what Run has returned
}

func run(t *testing.T, c *config.Config) *running {
	t.Helper()
	return runWith(t, c, Options{})
}

func runWith(t *testing.T, c *config.Config, o Options) *running {
	t.Helper()
	r := &running{t: t, log: &journal{}, leave: make(chan Departure, 1), done: make(chan error, 1)}
	o.Log = slog.New(slog.NewJSONHandler(r.log, nil))
	r.Gateway = compileWith(t, c, o)
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.cut = context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		r.done <- r.Run(ctx, r.leave)
		close(ended)
	}()
	t.Cleanup(func() {
		r.cut()
		<-ended
	})
	return r
}

// over waits for Run to return.
func (r *running) over() {
	r.t.Helper()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Error(err)
		}
	case <-time.After(wstest.Patience):
		r.t.Fatal("the gateway still runs")
	}
}

// dial connects to the public listener.
func (r *running) dial() *wstest.Peer {
	r.t.Helper()
	c, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(wstest.Patience))
	r.t.Cleanup(func() { c.Close() })
	return wstest.NewPeer(r.t, c, true)
}

// get asks for a path by plain HTTP.
func get(t *testing.T, addr net.Addr, path string) (code int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + addr.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// connect opens a session.
func (r *running) connect(lines ...string) *wstest.Peer {
	r.t.Helper()
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", lines...)))
	if resp := e.Answer(); resp.StatusCode != http.StatusSwitchingProtocols {
		r.t.Fatalf("got %s", resp.Status)
	}
	return e
}

// echoing is an agent that accepts every handshake and sends back what it gets.
func echoing(c net.Conn) {
	br := bufio.NewReader(c)
	r, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	io.WriteString(c, rawws.Response(r))
	for {
		f, err := rawws.Read(br)
		if err != nil {
			return
		}
		c.Write(rawws.Make(f.First, f.Payload, false))
		if f.Op() == rawws.Close {
			return
		}
	}
}

func TestRunReturnsWhenEverySessionIsInTheLog(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	bearer := "Authorization: Bearer " + i.Token()
	const n = 30
	for range n {
		e := r.connect(bearer)
		e.Say(e.Frame(rawws.Fin|rawws.Text, "hello"))
		e.Hears(rawws.Fin|rawws.Text, "hello")
	}
	r.leave <- Departure{}
	r.over()
	lines := r.log.lines(t, "ended")
	if len(lines) != n {
		t.Errorf("%d of %d sessions are in the log", len(lines), n)
	}
	for _, l := range lines {
		if l["reason"] != "drain" || l["code"] != 1001.0 || l["subject"] != "alice" || l["messages_in"] != 1.0 || l["messages_out"] != 1.0 {
			t.Errorf("%v", l)
		}
	}
}

// A client that reads that its session is over may connect again at once, also at the limit.
func TestPlaceIsFreeBeforeItsEndIsSaid(t *testing.T) {
	i := wstest.NewIssuer(t)
	for message, agent := range map[string]func(net.Conn){
		"ended": echoing,
		"answered": asked(func(c net.Conn, _ *http.Request) {
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		}),
		"refused": func(c net.Conn) { c.Close() },
	} {
		t.Run(message, func(t *testing.T) {
			r := run(t, i.Config(listening(t, agent)))
			var taken *outcome.Refusal
			r.log.mu.Lock()
			r.log.wrote = func() {
				next := &session.Session{
					Case:   policy.Case{Identity: &auth.Identity{Issuer: wstest.IssuerName, Subject: "alice"}},
					Client: netip.MustParseAddr("127.0.0.1"),
				}
				taken = r.sessions.Add(next, config.Limits{MaxConnections: 1, MaxConnectionsPerUser: 1, MaxConnectionsPerIP: 1}, nil)
				r.sessions.Remove(next)
			}
			r.log.mu.Unlock()
			e := r.dial()
			e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+i.Token())))
			if resp := e.Answer(); resp.StatusCode == http.StatusSwitchingProtocols {
				e.Say(e.CloseFrame(1000, ""))
				e.HearsClose(1000, "")
				e.Close()
			}
			wstest.Eventually(t, "a line in the log", func() bool { return len(r.log.lines(t, message)) == 1 })
			r.log.mu.Lock()
			defer r.log.mu.Unlock()
			if taken != nil {
				t.Errorf("the line is written while the place is taken: %v", taken)
			}
		})
	}
}

// net/http does not notice that a client is gone, nor that its server is closed, once it has
// read a byte after the request.
func TestCutDoesNotWaitForAnAgentThatDoesNotAnswer(t *testing.T) {
	i := wstest.NewIssuer(t)
	for name, answer := range map[string]string{
		"no answer":           "",
		"half a head":         "HTTP/1.1 101 Switching",
		"half of its refusal": "HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nhalf",
	} {
		t.Run(name, func(t *testing.T) {
			reached := make(chan struct{}, 1)
			r := run(t, i.Config(listening(t, asked(func(c net.Conn, _ *http.Request) {
				io.WriteString(c, answer)
				reached <- struct{}{}
				io.Copy(io.Discard, c)
			}))))
			e := r.dial()
			e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+i.Token())))
			<-reached
			e.Say(e.Frame(rawws.Fin|rawws.Text, "early"))
			if code, _ := get(t, r.Addr(), "/healthz"); code != 200 { // by then net/http has read the early byte
				t.Fatalf("/healthz: %d", code)
			}
			if strings.Contains(answer, "403") {
				e.Answer()
			}
			began := time.Now()
			r.cut()
			r.over()
			if took := time.Since(began); took > r.config.Limits.HandshakeTimeout/2 {
				t.Errorf("cut in %s", took)
			}
			if n, _, _ := r.sessions.Totals(); n != 0 {
				t.Errorf("%d sessions left", n)
			}
		})
	}
}

// An agent's own answer gets no header that the agent did not send, but the name of the session: a
// Content-Type that is guessed would undo nosniff. And a 426 must name the upgrade (RFC 9110
// §15.5.22).
func TestAgentsAnswerIsPassedOnAsItIs(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, asked(func(c net.Conn, _ *http.Request) {
		io.WriteString(c, "HTTP/1.1 426 Upgrade Required\r\nX-Content-Type-Options: nosniff\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"+
			"Content-Length: 6\r\n\r\n<html>")
	}))))
	authorization := "Authorization: Bearer " + i.Token()
	for name, request := range map[string]string{
		"handshake": rawws.Request("gateway.test", "/my-agent/ws", authorization),
		"plain":     "GET /my-agent/ws HTTP/1.1\r\nHost: gateway.test\r\n" + authorization + "\r\n\r\n",
	} {
		e := r.dial()
		e.Say([]byte(request))
		resp := e.Answer()
		b, err := io.ReadAll(resp.Body)
		h := resp.Header
		if resp.StatusCode != 426 || string(b) != "<html>" || err != nil {
			t.Errorf("%s: %s, %q, %v", name, resp.Status, b, err)
		}
		if h["Content-Type"] != nil || h["X-Hop"] != nil || h.Get("X-Content-Type-Options") != "nosniff" ||
			len(h.Get("X-Gateway-Session")) != 32 {
			t.Errorf("%s: %v", name, h)
		}
		// Beside "close", which the handshake gets, net/http's client hides the rest of Connection.
		if h.Get("Upgrade") != "websocket" || name == "plain" && h.Get("Connection") != "Upgrade" {
			t.Errorf("%s: the upgrade is not named: %v", name, h)
		}
	}
}

func TestRefusalThatBrokeOffDoesNotLookWhole(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, asked(func(c net.Conn, _ *http.Request) {
		io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
	}))))
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+i.Token())))
	resp := e.Answer()
	if b, err := io.ReadAll(resp.Body); resp.StatusCode != 403 || string(b) != "half" || err == nil {
		t.Errorf("%s: %q, %v", resp.Status, b, err)
	}
	lines := r.log.lines(t, "answered")
	if len(lines) != 1 || lines[0]["reason"] != "upstream-refused" || lines[0]["status"] != 403.0 || lines[0]["err"] == "" {
		t.Errorf("%v", lines)
	}
}

func TestAnswerThatBrokeOffIsInTheLogWithItsStatus(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, asked(func(c net.Conn, _ *http.Request) {
		io.WriteString(c, "HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nhalf")
	}))))
	req, _ := http.NewRequest("GET", "http://"+r.Addr().String()+"/my-agent/x", nil)
	req.Header.Set("Authorization", "Bearer "+i.Token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "half" || err == nil {
		t.Errorf("%q, %v", b, err)
	}
	wstest.Eventually(t, "a line in the log", func() bool { return len(r.log.lines(t, "answered")) > 0 })
	if l := r.log.lines(t, "answered")[0]; l["status"] != 201.0 || l["reason"] != "upstream-lost" ||
		l["err"] != "the agent hung up while it answered: unexpected EOF" {
		t.Errorf("%v", l)
	}
}

func TestMistakeInAHandlerIsReportedAndEndsOneConnection(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config("agent.invalid"))
	wstest.Eventually(t, "the start", func() bool { return len(r.log.lines(t, "listening")) > 0 })
	r.fleet.all[waysOf(r.Config())[0]].dialer = nil // before any request
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+i.Token())))
	if b, err := io.ReadAll(e.Reader); len(b) != 0 || err != nil {
		t.Errorf("%q, %v: want the connection closed", b, err)
	}
	wstest.Eventually(t, "a line in the log", func() bool { return len(r.log.lines(t, "panic")) == 1 })
	if n, _, _ := r.sessions.Totals(); n != 0 {
		t.Errorf("%d sessions left", n)
	}
	if code, _ := get(t, r.Addr(), "/healthz"); code != 200 {
		t.Errorf("afterwards: %d", code)
	}
}

// Every way to be refused: the problem document, the challenge, the line in the log, and no
// secret anywhere.
func TestRefusalsSayTheWordAndNoSecret(t *testing.T) {
	i := wstest.NewIssuer(t)
	agent := listening(t, asked(func(c net.Conn, _ *http.Request) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") }))
	c := i.Config(agent)
	c.Authentication.JWT.FromCookies = []string{"session"}
	c.Routes[0].AllowedOrigins = []string{"https://app.example.com"}
	c.Routes[0].RequiredClaims = config.RequiredClaims{{Claim: "roles", Values: []config.ClaimValue{"admin"}}}
	c.Routes = append(c.Routes, config.Route{Path: "/nowhere", Upstream: "http://127.0.0.1:1"},
		config.Route{Path: "/limited", Upstream: "http://" + agent})
	r := run(t, c)
	const secret = "s3cr3t"
	bearer := func(pairs ...any) string { return "Authorization: Bearer " + i.Token(append(pairs, "jti", secret)...) }
	for _, tt := range []struct {
		name, method, target string
		lines                []string
		status               int
		reason               outcome.Reason
	}{
		{"path", "GET", "/a//" + secret, nil, 400, outcome.BadPath},
		{"method", "PROPFIND", "/my-agent/x?" + secret, nil, 405, outcome.BadMethod},
		{"route", "GET", "/none?" + secret, nil, 404, outcome.NoRoute},
		{"own path", "GET", "/.gateway/x?" + secret, nil, 404, outcome.NoRoute},
		{"origin", "GET", "/my-agent", []string{"Origin: https://evil.example.com"}, 403, outcome.BadOrigin},
		{"no token", "GET", "/my-agent?q=" + secret, []string{"Cookie: a=" + secret}, 401, outcome.NoToken},
		{"two tokens", "GET", "/my-agent?access_token=" + secret, []string{bearer()}, 401, outcome.MultipleCredentials},
		{"malformed", "GET", "/my-agent?access_token=" + secret, nil, 401, outcome.Malformed},
		{"cookie", "GET", "/my-agent", []string{"Cookie: session=" + secret}, 401, outcome.Malformed},
		{"expired", "GET", "/my-agent?" + secret, []string{bearer("exp", 1)}, 401, outcome.Expired},
		{"subject", "GET", "/my-agent", []string{bearer("sub", "")}, 403, outcome.NoPrincipal},
		{"claim", "GET", "/my-agent", []string{bearer("roles", []string{"user"})}, 403, outcome.ClaimMismatch},
		{"header", "GET", "/my-agent", []string{bearer("email", "a\nb")}, 403, outcome.ClaimNotRepresentable},
		{"upgrade", "GET", "/my-agent", []string{bearer(), "Connection: close", "Upgrade: websocket"}, 400, outcome.BadUpgrade},
		{"version", "GET", "/my-agent", []string{bearer(), "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8"}, 426,
			outcome.BadVersion},
		{"agent", "GET", "/nowhere/x?" + secret, []string{bearer()}, 502, outcome.UpstreamUnreachable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := r.dial()
			e.Say([]byte(strings.Join(append([]string{tt.method + " " + tt.target + " HTTP/1.1", "Host: gateway.test"}, tt.lines...),
				"\r\n") + "\r\n\r\n"))
			resp := e.Answer()
			text, _ := io.ReadAll(resp.Body)
			var body problem
			if err := json.Unmarshal(text, &body); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if resp.StatusCode != tt.status || body != (problem{tt.status, http.StatusText(tt.status), tt.reason}) {
				t.Errorf("%s, %+v", resp.Status, body)
			}
			if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type %q", got)
			}
			if got := resp.Header.Get("WWW-Authenticate"); got != tt.reason.Challenge() {
				t.Errorf("WWW-Authenticate %q", got)
			}
			if resp.Close != (len(tt.lines) > 1) {
				t.Errorf("the connection is closed: %v", resp.Close)
			}
			local := e.LocalAddr().String()
			mine := func() []map[string]any {
				return slices.DeleteFunc(r.log.lines(t, "refused"), func(l map[string]any) bool { return l["remote"] != local })
			}
			wstest.Eventually(t, "a line in the log", func() bool { return len(mine()) == 1 })
			l := mine()[0]
			path, _, _ := strings.Cut(tt.target, "?")
			if tt.reason == outcome.BadPath {
				path = "" // it is not in its one spelling, so no part of it is repeated
			}
			if got, _ := l["path"].(string); l["reason"] != string(tt.reason) || l["status"] != float64(tt.status) ||
				l["method"] != tt.method || got != path {
				t.Errorf("%v", l)
			}
			for key := range l {
				if !slices.Contains(strings.Fields("time level msg session route agent subject issuer method path client remote reason "+
					"status duration err"), key) {
					t.Errorf("key %s", key)
				}
			}
			for header := range resp.Header {
				if strings.Contains(resp.Header.Get(header), secret) {
					t.Errorf("%s repeats a secret", header)
				}
			}
			if strings.Contains(string(text), secret) {
				t.Errorf("the body repeats a secret: %s", text)
			}
		})
	}
	for _, part := range []string{secret, "eyJ"} {
		if log := r.log.String(); strings.Contains(log, part) {
			t.Errorf("the log has %s in it: %s", part, log)
		}
	}
}

func TestLimitsAreCountedUntilASessionIsOver(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Limits.MaxConnectionsPerUser = 1
	r := run(t, c)
	bearer := "Authorization: Bearer " + i.Token()
	for range 3 {
		e := r.connect(bearer)
		second := r.dial()
		second.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", bearer)))
		if resp := second.Answer(); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "30" || !resp.Close {
			t.Errorf("a second one: %s", resp.Status)
		}
		other := r.connect("Authorization: Bearer " + i.Token("sub", "bob"))
		other.Close()
		e.Say(e.CloseFrame(1000, ""))
		e.HearsClose(1000, "")
		e.Close()
		wstest.Eventually(t, "no session left", func() bool { n, _, _ := r.sessions.Totals(); return n == 0 })
	}
}

func TestDrainRefusesAndEnds(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	bearer := "Authorization: Bearer " + i.Token()
	e := r.connect(bearer)
	r.leave <- Departure{Window: 6 * time.Second}
	wstest.Eventually(t, "not ready", func() bool { code, _ := get(t, r.Addr(), "/readyz"); return code == 503 })
	late := r.dial()
	late.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", bearer)))
	if resp := late.Answer(); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" {
		t.Errorf("a late client: %s", resp.Status)
	}
	e.HearsClose(1001, "drain")
	e.Say(e.CloseFrame(1001, ""))
	e.Close()
	began := time.Now()
	r.over()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("no session is left, but it took another %s", took)
	}
}

func TestMetricsHaveBoundedLabels(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	e := r.connect("Authorization: Bearer " + i.Token())
	e.Say(e.Frame(rawws.Fin|rawws.Text, "hello"), e.CloseFrame(4321, "of an application"))
	e.Hears(rawws.Fin|rawws.Text, "hello")
	e.HearsClose(4321, "of an application")
	e.Close()
	get(t, r.Addr(), "/nobody/knows")
	var text string
	wstest.Eventually(t, "the end of the session in the metrics", func() bool {
		_, text = get(t, r.AdminAddr(), "/metrics")
		return strings.Contains(text, "omnia_gateway_connections 0") && strings.Contains(text, "omnia_gateway_sessions_ended_total{")
	})
	for _, want := range []string{
		`omnia_gateway_handshakes_total{outcome="ok"} 1`,
		`omnia_gateway_requests_total{outcome="no-route"} 1`,
		`omnia_gateway_sessions_ended_total{code="other",reason="closed"} 1`,
		`omnia_gateway_session_seconds_count 1`,
		`omnia_gateway_messages_total{direction="in"} 1`,
		`omnia_gateway_messages_total{direction="out"} 1`,
		`omnia_gateway_upstream_dial_seconds_count{result="ok"} 1`,
		`omnia_gateway_jwks_keys{issuer="` + wstest.IssuerName + `"} 1`,
		`omnia_gateway_ready 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	for _, never := range []string{"alice", "nobody", `"4321"`, "certificate_expiry"} {
		if strings.Contains(text, never) {
			t.Errorf("%s is in the metrics", never)
		}
	}
}

func TestCertificateExpiryIsAMetric(t *testing.T) {
	i, dir := wstest.NewIssuer(t), t.TempDir()
	until := time.Now().Add(1000 * time.Hour)
	writePair(t, dir, wstest.KeyPair(t, 1, until))
	c := i.Config("agent.invalid")
	c.TLS = pairIn(dir)
	families, err := compile(t, c, slog.New(slog.DiscardHandler)).metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "omnia_gateway_certificate_expiry_seconds" {
			if got := int64(f.GetMetric()[0].GetGauge().GetValue()); got != until.Unix() {
				t.Errorf("%d, want %d", got, until.Unix())
			}
			return
		}
	}
	t.Error("it is missing")
}

func TestCloseCodesAsLabels(t *testing.T) {
	for code, want := range map[int]string{0: "none", 1000: "1000", 1014: "1014", 1015: "other", 2999: "other", 3000: "3000",
		3003: "3003", 3008: "3008", 3001: "other", 4999: "other"} {
		if got := codeLabel(code); got != want {
			t.Errorf("%d: %s", code, got)
		}
	}
}

func TestUpstreamsAreChecked(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Routes = append(c.Routes,
		config.Route{Path: "/{agent}", Upstream: "http://{agent}.invalid"}, // unknown until a request names the agent
		config.Route{Path: "/gone", Upstream: "http://127.0.0.1:1"},
		config.Route{Path: "/no-tls", Upstream: "https://" + listening(t, func(net.Conn) {})},
	)
	asked, notAsked, err := compile(t, c, slog.New(slog.DiscardHandler)).CheckUpstreams(t.Context())
	if asked != 3 || !slices.Equal(notAsked, []string{"/{agent}"}) {
		t.Errorf("%d asked, not asked %q", asked, notAsked)
	}
	if err == nil {
		t.Fatal("all is well")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "route /gone: upstream http://127.0.0.1:1: ") ||
		!strings.HasPrefix(lines[1], "route /no-tls: upstream https://") {
		t.Errorf("%q", lines)
	}
}

// The deadline of one answer must not stand when the next is written on the same connection,
// which may be much later and may have no body.
func TestAnswerOnAKeptConnectionHasATimeOfItsOwn(t *testing.T) {
	inTime(t, func(c net.Conn, _ *bufio.Reader) {
		time.Sleep(bodyStall / 4)
		io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	}, func(t *testing.T, client net.Conn) {
		br := bufio.NewReader(client)
		for range 3 {
			io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != http.StatusNoContent {
				t.Fatalf("got %v, %v", resp, err)
			}
			time.Sleep(bodyStall * 5 / 6) // then the next one is answered when the deadline of this has passed
		}
	})
}

// eventsOrFile is an agent that has a stream of events without an end at /events, and elsewhere a
// file whose second half comes after release.
func eventsOrFile(release <-chan struct{}) func(net.Conn, *http.Request) {
	return func(c net.Conn, r *http.Request) {
		if r.URL.Path == "/events" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n")
			io.Copy(io.Discard, c)
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
		<-release
		io.WriteString(c, "lf")
	}
}

func TestMaxDurationCutsAStreamOfEventsAndNoOtherAnswer(t *testing.T) {
	i := wstest.NewIssuer(t)
	const after = 200 * time.Millisecond
	release := make(chan struct{})
	c := i.Config(listening(t, asked(eventsOrFile(release))))
	c.Session.MaxDuration = after
	r := run(t, c)
	ask := func(path string) io.Reader {
		e := r.dial()
		e.Say([]byte("GET /my-agent" + path + " HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " + i.Token() + "\r\n\r\n"))
		return e.Answer().Body
	}
	begun := time.Now()
	file, events := ask("/file"), ask("/events")
	if _, err := io.ReadAll(events); err == nil {
		t.Error("the stream came to an end that looks whole")
	}
	if took := time.Since(begun); took < after {
		t.Errorf("the stream was cut after %v", took)
	}
	close(release)
	if b, err := io.ReadAll(file); string(b) != "half" || err != nil {
		t.Errorf("the file was cut: %q, %v", b, err)
	}
	wstest.Eventually(t, "logged", func() bool { return strings.Contains(r.log.String(), "the answer was cut: max-duration") })
}

func TestAgentThatDoesNotAnswerWithinMaxDuration(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, func(c net.Conn) { io.Copy(io.Discard, c) }))
	c.Session.MaxDuration = 50 * time.Millisecond
	r := run(t, c)
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+i.Token())))
	if got := e.Answer(); got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Retry-After") != "5" {
		t.Errorf("got %s, Retry-After %q", got.Status, got.Header.Get("Retry-After"))
	}
	wstest.Eventually(t, "logged", func() bool { return len(r.log.lines(t, "refused")) == 1 })
	if l := r.log.lines(t, "refused")[0]; l["reason"] != "max-duration" || l["err"] != "while the agent was asked" {
		t.Errorf("logged %v", l)
	}
}

// A stream of events is a session: it is listed, the agent and the client know its id, and a drain
// ends it when its turn comes. Any other answer may come to its own end.
func TestStreamOfEventsIsASession(t *testing.T) {
	i := wstest.NewIssuer(t)
	told, release := make(chan string, 2), make(chan struct{})
	answer := eventsOrFile(release)
	r := run(t, i.Config(listening(t, asked(func(c net.Conn, r *http.Request) {
		told <- r.Header.Get("X-Gateway-Session")
		answer(c, r)
	}))))
	ask := func(path string) (*wstest.Peer, *http.Response) {
		e := r.dial()
		e.Say([]byte("GET /my-agent" + path + " HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " + i.Token() + "\r\n\r\n"))
		resp := e.Answer()
		if id := resp.Header.Get("X-Gateway-Session"); len(id) != 32 || id != <-told {
			t.Errorf("%s: session %q is not what the agent was told", path, id)
		}
		return e, resp
	}
	_, events := ask("/events")
	_, file := ask("/file")
	_, body := get(t, r.AdminAddr(), "/sessions")
	var listed []sessionSummary
	if err := json.Unmarshal([]byte(body), &listed); err != nil || len(listed) != 2 || listed[0].Kind != "http" ||
		listed[0].Subject != "alice" {
		t.Fatalf("%s: %v", body, err)
	}
	r.leave <- Departure{Window: wstest.Patience}
	if _, err := io.ReadAll(events.Body); err == nil {
		t.Error("the stream came to an end that looks whole")
	}
	close(release)
	if b, err := io.ReadAll(file.Body); string(b) != "half" || err != nil {
		t.Errorf("the file was cut: %q, %v", b, err)
	}
	r.over()
	for _, l := range r.log.lines(t, "answered") {
		if l["session"] == nil || (l["err"] != "" && l["err"] != "the answer was cut: drain") {
			t.Errorf("%v", l)
		}
	}
}
