// Package e2e drives the built binary over real sockets, with real clients where there are any;
// each test holds one behaviour.
package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// binary is the program under test, built once by TestMain, with the race detector if the tests
// have it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "omnia-e2e")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "omnia-gateway")
	code := 1
	if err := build(binary); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// build makes the program.
func build(file string, args ...string) error {
	args = slices.Concat([]string{"build", "-o", file}, args)
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../cmd/omnia-gateway")...)
	build.Stderr = os.Stderr
	return build.Run()
}

// withGoroutines lets the rest of a test run gateways whose sessions have goroutines of their own,
// as those of systems without epoll.
func withGoroutines(t *testing.T) {
	t.Helper()
	before := binary
	t.Cleanup(func() { binary = before })
	binary = filepath.Join(t.TempDir(), "omnia-gateway")
	if err := build(binary, "-tags", "goroutines"); err != nil {
		t.Fatal(err)
	}
}

// patience is how long a test waits for something that must happen; it is never waited out when
// all is well.
const patience = 20 * time.Second

// settings is a configuration as YAML maps.
type settings map[string]any

// with gives a copy with the value at a dotted path replaced; nil removes it.
func (s settings) with(path string, value any) settings {
	out := maps.Clone(s)
	if out == nil {
		out = settings{}
	}
	key, rest, more := strings.Cut(path, ".")
	switch {
	case more:
		inner, _ := out[key].(settings)
		out[key] = inner.with(rest, value)
	case value == nil:
		delete(out, key)
	default:
		out[key] = value
	}
	return out
}

// route is one route to an agent, prefix stripped.
func route(path, upstream string) settings { return settings{"path": path, "upstream": upstream} }

// plain is the configuration most tests begin with: one issuer, and one agent at /my-agent.
func plain(i *issuer, agentURL string) settings {
	return settings{
		"listen":  "127.0.0.1:0",
		"admin":   settings{"listen": "127.0.0.1:0", "profiling": true},
		"log":     settings{"format": "json", "level": "info"},
		"session": settings{"drainTimeout": "2s"},
		"routes":  []any{route("/my-agent", agentURL)},
		"authentication": settings{
			"jwt": settings{"issuer": i.URL, "jwksUri": i.URL + "/keys", "audiences": []string{"agents"}},
		},
	}
}

// withCookie returns s with tokens in a cookie as well, which needs a word about origins on
// every route.
func (s settings) withCookie(name string) settings {
	s = s.with("authentication.jwt.fromCookies", []string{name})
	var routes []any
	for _, r := range s["routes"].([]any) {
		routes = append(routes, r.(settings).with("allowedOrigins", []string{"*"}))
	}
	return s.with("routes", routes)
}

// gateway is one running process.
type gateway struct {
	t      *testing.T
	cmd    *exec.Cmd
	file   string // its configuration
	log    *logLines
	public string // host:port
	admin  string
	ended  chan struct{} // closed when the process has ended
	killed bool          // by kill
	ca     *x509.CertPool
}

// start runs the gateway with a configuration and waits until it listens. The process ends with
// the test, which fails if it does not end well.
func start(t *testing.T, s settings) *gateway {
	t.Helper()
	g := startUnready(t, s)
	g.awaitReady()
	return g
}

// startSecure is start, with a certificate of its own if secure, which the gateway's dial trusts.
func startSecure(t *testing.T, s settings, secure bool) *gateway {
	t.Helper()
	if !secure {
		return start(t, s)
	}
	c := newCertificate(t)
	g := start(t, s.with("tls", c.settings()))
	g.ca = c.pool
	return g
}

// write makes a configuration file of s.
func (s settings) write(t *testing.T) (file string) {
	t.Helper()
	text, err := yaml.Marshal(map[string]any(s))
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// startUnready is start without waiting for the issuers' keys.
func startUnready(t *testing.T, s settings) *gateway {
	t.Helper()
	return startFile(t, s.write(t))
}

// startFile is startUnready with a file that is there already.
func startFile(t *testing.T, file string) *gateway {
	t.Helper()
	g := &gateway{t: t, file: file, log: newLogLines(), ended: make(chan struct{})}
	g.cmd = exec.Command(binary, "serve", "--config", file)
	g.cmd.Env = environment()
	g.cmd.Stderr = g.log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { g.cmd.Wait(); close(g.ended) }()
	t.Cleanup(g.stop)
	line := g.awaitLine("msg", "listening")
	g.public, g.admin = line["public"].(string), line["admin"].(string)
	return g
}

// environment is that of a process under test: nothing in it configures a gateway, and the race
// detector does not make each one sleep a second before it exits.
func environment() []string {
	env := []string{"GORACE=atexit_sleep_ms=0"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "OMNIA_GATEWAY_") {
			env = append(env, kv)
		}
	}
	return env
}

// stop ends the process with SIGTERM, as an orchestrator would, and holds it to exit 0 in time.
// It may be called twice.
func (g *gateway) stop() {
	g.t.Helper()
	select {
	case <-g.ended:
	default:
		g.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-g.ended:
		case <-time.After(patience):
			g.cmd.Process.Kill()
			<-g.ended
			g.t.Errorf("the gateway was still there %v after SIGTERM", patience)
		}
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 && !g.killed && !g.t.Failed() {
		g.t.Errorf("the gateway ended with %v", g.cmd.ProcessState)
	}
	if g.t.Failed() {
		g.t.Logf("log of the gateway:\n%s", g.log.text())
	}
}

// kill ends the process at once, as a machine that fails.
func (g *gateway) kill() {
	g.killed = true
	g.cmd.Process.Kill()
	<-g.ended
}

// awaitReady waits until the admin listener says so.
func (g *gateway) awaitReady() {
	g.t.Helper()
	eventually(g.t, "ready", func() bool { code, _ := g.ask("/readyz"); return code == http.StatusOK })
}

// ask asks the admin listener.
func (g *gateway) ask(path string) (code int, body string) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + g.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(b)
}

// metric is the value of one series, as /metrics writes it; 0 if it is not there.
func (g *gateway) metric(series string) (v float64) {
	_, body := g.ask("/metrics")
	for line := range strings.SplitSeq(body, "\n") {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			fmt.Sscan(rest, &v)
		}
	}
	return v
}

// held is what a gateway holds at one moment.
type held struct{ sessions, goroutines, fds int }

// held asks what the gateway holds. Its goroutines are counted by a profile: the metric counts
// some of those that gather the metrics, now more and now fewer.
func (g *gateway) held() (h held) {
	g.t.Helper()
	eventually(g.t, "told what it holds", func() bool {
		_, profile := g.ask("/debug/pprof/goroutine?debug=1")
		fmt.Sscanf(profile, "goroutine profile: total %d", &h.goroutines)
		h.sessions, h.fds = int(g.metric("omnia_gateway_connections")), int(g.metric("process_open_fds"))
		return h.goroutines > 0 && h.fds > 0
	})
	return h
}

// holdsNoMoreThan waits until nothing is left over.
func (g *gateway) holdsNoMoreThan(before held) {
	g.t.Helper()
	var now held
	done := false
	defer func() {
		if !done {
			_, profile := g.ask("/debug/pprof/goroutine?debug=1")
			g.t.Logf("left with %+v, before %+v\n%s", now, before, profile)
		}
	}()
	eventually(g.t, "left without a goroutine or file descriptor too many", func() bool {
		now = g.held()
		done = now.sessions <= before.sessions && now.goroutines <= before.goroutines && now.fds <= before.fds
		return done
	})
}

// awaitLine waits for a line of the log in which the keys have the values: key, value, key,
// value, …
func (g *gateway) awaitLine(pairs ...any) map[string]any {
	g.t.Helper()
	line, ok := g.log.await(g.ended, pairs)
	if !ok {
		g.t.Fatalf("no log line with %v; the log:\n%s", pairs, g.log.text())
	}
	return line
}

// eventually polls for what no event announces: the state of another process.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not %s within %v", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// logLines collects a log and lets tests wait for lines.
type logLines struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	lines []map[string]any
	rest  []byte
	more  chan struct{} // closed, and replaced, when lines have come
}

func newLogLines() *logLines { return &logLines{more: make(chan struct{})} }

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	l.rest = append(l.rest, p...)
	for {
		line, tail, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			break
		}
		var entry map[string]any
		if json.Unmarshal(line, &entry) == nil {
			l.lines = append(l.lines, entry)
		}
		l.rest = bytes.Clone(tail)
	}
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

// forget drops the lines so far.
func (l *logLines) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = nil
}

func (l *logLines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// with are the lines so far in which the keys have the values.
func (l *logLines) with(pairs ...any) (found []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for _, line := range l.lines {
		for i := 0; i < len(pairs); i += 2 {
			if fmt.Sprint(line[pairs[i].(string)]) != fmt.Sprint(pairs[i+1]) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

func (l *logLines) await(ended <-chan struct{}, pairs []any) (map[string]any, bool) {
	late := time.After(patience)
	for {
		l.mu.Lock()
		more := l.more
		l.mu.Unlock()
		if found := l.with(pairs...); len(found) > 0 {
			return found[0], true
		}
		select {
		case <-more:
		case <-ended:
			found := l.with(pairs...)
			return append(found, nil)[0], len(found) > 0
		case <-late:
			return nil, false
		}
	}
}

// issuer is an OIDC issuer whose answers a test can change.
type issuer struct {
	*httptest.Server
	*auth.Signer
	serve atomic.Pointer[http.HandlerFunc] // what /keys answers
	asked atomic.Int64                     // how often /keys was asked
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{Signer: newSigner(t)}
	i.publish(i.Signer)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			json.NewEncoder(w).Encode(map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/keys"})
		case "/keys":
			i.asked.Add(1)
			(*i.serve.Load())(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(i.Server.Close)
	return i
}

func newSigner(t *testing.T) *auth.Signer {
	t.Helper()
	s, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// publish makes the issuer serve the public keys of a signer.
func (i *issuer) publish(s *auth.Signer) {
	i.answer(func(w http.ResponseWriter, _ *http.Request) { w.Write(s.JWKS()) })
}

// answer makes the issuer's key set address do this.
func (i *issuer) answer(h http.HandlerFunc) { i.serve.Store(&h) }

// claims are those of a good token; pairs replace some, nil removes.
func (i *issuer) claims(pairs ...any) map[string]any {
	now := time.Now()
	c := map[string]any{
		"iss": i.URL, "sub": "alice", "aud": "agents", "email": "alice@example.com", "roles": []string{"user", "admin"},
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for n := 0; n < len(pairs); n += 2 {
		if name := pairs[n].(string); pairs[n+1] == nil {
			delete(c, name)
		} else {
			c[name] = pairs[n+1]
		}
	}
	return c
}

// token is a good token, but for the claims in pairs.
func (i *issuer) token(t *testing.T, pairs ...any) string {
	t.Helper()
	s, err := i.Sign(i.claims(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bearer is a header line with a good token, but for the claims in pairs.
func (i *issuer) bearer(t *testing.T, pairs ...any) string {
	t.Helper()
	return "Authorization: Bearer " + i.token(t, pairs...)
}

// agent is an agent by hand: whatever arrives is given to behave, connection by connection.
type agent struct {
	URL      string
	requests chan *http.Request // of every connection, in order
	live     atomic.Int64       // connections that are open
	close    func()             // ends it, and hangs up on all
}

// visit is one connection at an agent, its request read.
type visit struct {
	net.Conn
	br *bufio.Reader
	r  *http.Request
}

// newAgent starts an agent. behave may be nil for one that echoes; the connection is closed when
// it returns.
func newAgent(t *testing.T, behave func(v *visit)) *agent {
	t.Helper()
	if behave == nil {
		behave = (*visit).echo
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{URL: "http://" + l.Addr().String(), requests: make(chan *http.Request, 4096)}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			a.live.Add(1)
			wg.Go(func() {
				defer a.live.Add(-1)
				defer c.Close()
				br := bufio.NewReader(c)
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				a.requests <- r
				behave(&visit{c, br, r})
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	a.close = func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	}
	t.Cleanup(a.close)
	return a
}

// request is the next request that reached the agent.
func (a *agent) request(t *testing.T) *http.Request {
	t.Helper()
	select {
	case r := <-a.requests:
		return r
	case <-time.After(patience):
		t.Fatal("nothing reached the agent")
		return nil
	}
}

// untouched fails the test if anything has reached the agent.
func (a *agent) untouched(t *testing.T) {
	t.Helper()
	select {
	case r := <-a.requests:
		t.Errorf("%s %s reached the agent", r.Method, r.RequestURI)
	default:
	}
}

// accept answers the handshake with a right 101.
func (v *visit) accept(lines ...string) { io.WriteString(v, rawws.Response(v.r, lines...)) }

// echo is an agent that sends every data frame back, answers Pings and closes when it is told
// to. A plain request gets a 200.
func (v *visit) echo() {
	if v.r.Header.Get("Upgrade") == "" {
		io.Copy(io.Discard, v.r.Body)
		io.WriteString(v, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
		return
	}
	v.accept()
	v.echoFrames()
}

func (v *visit) echoFrames() {
	for {
		f, err := rawws.Read(v.br)
		if err != nil {
			return
		}
		switch f.Op() {
		case rawws.Pong:
			continue
		case rawws.Ping:
			f.First = rawws.Fin | rawws.Pong
		}
		if _, err := v.Write(rawws.Make(f.First, f.Payload, false)); err != nil || f.Op() == rawws.Close {
			return
		}
	}
}

// socket is a client's connection to the gateway.
type socket struct {
	net.Conn
	t  *testing.T
	br *bufio.Reader
}

// dial connects to the public listener, over TLS if the gateway has it. Nothing on it waits
// longer than patience.
func (g *gateway) dial(t *testing.T) *socket { t.Helper(); return g.dialAfter(t, "") }

// dialAfter is dial of a load balancer, which sends something of its own before all else.
func (g *gateway) dialAfter(t *testing.T, first string) *socket {
	t.Helper()
	var c net.Conn
	c, err := net.Dial("tcp", g.public)
	if err == nil {
		_, err = io.WriteString(c, first)
	}
	if err == nil && g.ca != nil {
		tc := tls.Client(c, &tls.Config{RootCAs: g.ca, ServerName: "localhost"})
		err = tc.Handshake()
		c = tc
	}
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return &socket{c, t, bufio.NewReader(c)}
}

// say writes bytes as they are.
func (s *socket) say(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s, text); err != nil {
		s.t.Fatal(err)
	}
}

// answer reads the answer to a request that was said. The body of anything but a 101 is read
// whole and kept.
func (s *socket) answer() *http.Response {
	s.t.Helper()
	r, err := http.ReadResponse(s.br, nil)
	if err != nil {
		s.t.Fatalf("no answer: %v", err)
	}
	if r.StatusCode != http.StatusSwitchingProtocols {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Fatalf("body of the answer: %v", err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return r
}

// handshake says a handshake and gives its answer.
func (g *gateway) handshake(t *testing.T, target string, lines ...string) (*socket, *http.Response) {
	t.Helper()
	s := g.dial(t)
	s.say(rawws.Request("gateway.test", target, lines...))
	return s, s.answer()
}

// connect opens a WebSocket; anything but a 101 fails the test.
func (g *gateway) connect(t *testing.T, target string, lines ...string) *socket {
	t.Helper()
	s, r := g.handshake(t, target, lines...)
	if r.StatusCode != http.StatusSwitchingProtocols {
		b, _ := io.ReadAll(r.Body)
		t.Fatalf("handshake for %s: %s %s", target, r.Status, b)
	}
	return s
}

// refused says a handshake that must be refused with status and reason word, in the answer and
// in the log.
func (g *gateway) refused(t *testing.T, status int, reason, target string, lines ...string) *http.Response {
	t.Helper()
	s, r := g.handshake(t, target, lines...)
	var problem struct {
		Status int
		Reason string
	}
	body, _ := io.ReadAll(r.Body)
	json.Unmarshal(body, &problem)
	if r.StatusCode != status || problem.Status != status || problem.Reason != reason {
		t.Errorf("handshake for %s: got %s %s, want %d %s", target, r.Status, body, status, reason)
		return r
	}
	if line := g.awaitLine("remote", s.LocalAddr().String()); line["reason"] != reason {
		t.Errorf("the log says %v, want %s", line["reason"], reason)
	}
	return r
}

// send sends one frame, masked.
func (s *socket) send(first byte, payload []byte) {
	s.t.Helper()
	if _, err := s.Write(rawws.Make(first, payload, true)); err != nil {
		s.t.Fatal(err)
	}
}

// text sends a text message.
func (s *socket) text(m string) { s.t.Helper(); s.send(rawws.Fin|rawws.Text, []byte(m)) }

// frame reads the next frame.
func (s *socket) frame() rawws.Frame {
	s.t.Helper()
	f, err := rawws.Read(s.br)
	if err != nil {
		s.t.Fatalf("no frame: %v", err)
	}
	return f
}

// echoes sends a text message and waits for it to come back.
func (s *socket) echoes(m string) {
	s.t.Helper()
	s.text(m)
	if f := s.frame(); string(f.Payload) != m {
		s.t.Fatalf("sent %q, got %v", m, f)
	}
}

// closed reads on until the Close and holds it to a code; then the connection must end. It gives
// the reason text.
func (s *socket) closed(code int) string {
	s.t.Helper()
	for {
		f, err := rawws.Read(s.br)
		if err != nil {
			s.t.Fatalf("no Close %d: %v", code, err)
		}
		if f.Op() != rawws.Close {
			continue
		}
		if f.Code() != code {
			s.t.Fatalf("got %v, want code %d", f, code)
		}
		s.Write(rawws.MakeClose(f.Code(), "", true))
		s.hungUp()
		return string(f.Payload[min(2, len(f.Payload)):])
	}
}

// hungUp waits until the gateway has closed the connection, and closes it too.
func (s *socket) hungUp() {
	s.t.Helper()
	defer s.Close()
	if _, err := io.Copy(io.Discard, s.br); errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Fatal("the gateway has not closed the connection")
	}
}
