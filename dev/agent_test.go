package dev

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/altairalabs/omnia-gateway/auth"
)

// startAgent is an agent that leaves when the test ends.
func startAgent(t *testing.T) (*Agent, *httptest.Server) {
	t.Helper()
	agent := NewAgent(nil)
	server := httptest.NewServer(agent)
	t.Cleanup(server.Close)
	t.Cleanup(agent.Close)
	return agent, server
}

// asUser is the headers of a gateway that has verified a user.
func asUser(roles string) http.Header {
	return http.Header{"X-User-Id": {"dev-user"}, "X-User-Roles": {roles}}
}

// dial opens a WebSocket as dev-user.
func dial(t *testing.T, server *httptest.Server, path string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), server.URL+path, &websocket.DialOptions{HTTPHeader: asUser("user,admin")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(-1)
	return c
}

// readText is the next message, which is text.
func readText(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	kind, message, err := c.Read(t.Context())
	if err != nil || kind != websocket.MessageText {
		t.Fatalf("read %v %q, %v; want text", kind, message, err)
	}
	return string(message)
}

func TestAgentGreetsAndNamesTheUser(t *testing.T) {
	_, server := startAgent(t)
	for _, path := range []string{"/ws", "/ws?resume=1", "/api/agents/ns/name/ws"} {
		c := dial(t, server, path)
		if got, want := readText(t, c), `{"type":"connected","user":"dev-user","roles":"user,admin"}`; got != want {
			t.Errorf("%s: first frame %s, want %s", path, got, want)
		}
		if err := c.Write(t.Context(), websocket.MessageText, []byte(`<hello> & "you"`)); err != nil {
			t.Fatal(err)
		}
		if got, want := readText(t, c), `{"type":"echo","user":"dev-user","text":"<hello> & \"you\""}`; got != want {
			t.Errorf("%s: echo %s, want %s", path, got, want)
		}
		if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Errorf("%s: close: %v", path, err)
		}
	}
}

func TestAgentReturnsBinaryUnchanged(t *testing.T) {
	_, server := startAgent(t)
	c := dial(t, server, "/ws")
	readText(t, c)
	for _, size := range []int{0, 1, 126, 65536, 1 << 20} {
		sent := make([]byte, size)
		rand.Read(sent)
		if err := c.Write(t.Context(), websocket.MessageBinary, sent); err != nil {
			t.Fatal(err)
		}
		kind, got, err := c.Read(t.Context())
		if err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes came back as %v, %d bytes, %v", size, kind, len(got), err)
		}
	}
}

func TestTooLongMessageEndsWith1009(t *testing.T) {
	agent := NewAgent(nil)
	if agent.maxMessage != 16<<20 {
		t.Errorf("messages of up to %d bytes, want 16 MiB", agent.maxMessage)
	}
	agent.maxMessage = 100000 // 16 MiB take long under the race detector
	server := httptest.NewServer(agent)
	defer server.Close()
	defer agent.Close()
	c := dial(t, server, "/ws")
	readText(t, c)
	if err := c.Write(t.Context(), websocket.MessageBinary, make([]byte, agent.maxMessage)); err != nil {
		t.Fatal(err)
	}
	if _, message, err := c.Read(t.Context()); err != nil || int64(len(message)) != agent.maxMessage {
		t.Fatalf("the longest message came back with %d bytes, %v", len(message), err)
	}
	if err := c.Write(t.Context(), websocket.MessageBinary, make([]byte, agent.maxMessage+1)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("%v, want 1009", err)
	}
}

func TestAgentRefusesHandshakes(t *testing.T) {
	_, server := startAgent(t)
	tests := []struct {
		name, path string
		header     http.Header
		want       int
	}{
		{"no user", "/ws", nil, http.StatusUnauthorized},
		{"no user below /api/agents/", "/api/agents/ns/name/ws", nil, http.StatusUnauthorized},
		{"another path", "/my-agent/ws", asUser("user"), http.StatusNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, res, err := websocket.Dial(t.Context(), server.URL+tt.path, &websocket.DialOptions{HTTPHeader: tt.header})
			if err == nil || res == nil || res.StatusCode != tt.want {
				t.Fatalf("%v, %v; want %d", res, err, tt.want)
			}
			if got := res.Header.Get("WWW-Authenticate"); got != "" {
				t.Errorf("WWW-Authenticate %q: that is the gateway's to say", got)
			}
		})
	}
}

// A front end under development is served on a port of its own.
func TestAgentTakesPagesOfEveryOrigin(t *testing.T) {
	_, server := startAgent(t)
	header := asUser("user")
	header.Set("Origin", "http://localhost:5173")
	c, _, err := websocket.Dial(t.Context(), server.URL+"/ws", &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	c.CloseNow()
}

func TestAgentVerifiesTheForwardedToken(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	verify, err := NewVerify(t.Context(), issuer.URL, "agents")
	if err != nil {
		t.Fatal(err)
	}
	agent := NewAgent(verify)
	server := httptest.NewServer(agent)
	defer server.Close()
	defer agent.Close()
	dial := func(authorization string) (*websocket.Conn, *http.Response, error) {
		header := asUser("user")
		if authorization != "" {
			header.Set("Authorization", authorization)
		}
		return websocket.Dial(t.Context(), server.URL+"/ws", &websocket.DialOptions{HTTPHeader: header})
	}
	c, _, err := dial("bearer " + askToken(t, issuer.URL, "").AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if got, want := readText(t, c), `{"type":"connected","user":"dev-user","roles":"user","token":"verified"}`; got != want {
		t.Errorf("first frame %s, want %s", got, want)
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got, want := readText(t, c), `{"type":"echo","user":"dev-user","text":"hello","token":"verified"}`; got != want {
		t.Errorf("echo %s, want %s", got, want)
	}
	refused := map[string]string{
		"no token": "", "another scheme": "Basic ZGV2LXVzZXI6", "no JWT": "Bearer token",
		"another user's": "Bearer " + askToken(t, issuer.URL, "sub=alice").AccessToken,
	}
	for _, fault := range faults {
		refused[string(fault)] = "Bearer " + askToken(t, issuer.URL, "broken="+string(fault)).AccessToken
	}
	for name, authorization := range refused {
		t.Run(name, func(t *testing.T) {
			if _, res, err := dial(authorization); err == nil || res == nil || res.StatusCode != http.StatusUnauthorized {
				t.Errorf("%v, %v; want 401", res, err)
			}
		})
	}
}

// The issuer may start after the agent.
func TestAgentFetchesKeysWhenATokenNamesAnUnknownOne(t *testing.T) {
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	var published atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !published.Load() {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		w.Write(signer.JWKS())
	}))
	defer server.Close()
	verify, err := NewVerify(t.Context(), server.URL, "agents")
	if err != nil {
		t.Fatal(err)
	}
	published.Store(true)
	issuer, err := NewIssuer(server.URL, signer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	token, err := issuer.Token(issuer.Claims(), "")
	if err != nil {
		t.Fatal(err)
	}
	if subject, err := verify(token); err != nil || subject != "dev-user" {
		t.Errorf("%q, %v", subject, err)
	}
}

func TestAgentChoosesNeitherProtocolNorExtension(t *testing.T) {
	_, server := startAgent(t)
	c, res, err := websocket.Dial(t.Context(), server.URL+"/ws", &websocket.DialOptions{
		HTTPHeader: asUser("user"), Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, name := range []string{"Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"} {
		if got := res.Header.Get(name); got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// openRaw is a WebSocket handshake by hand; what follows is the test's.
func openRaw(t *testing.T, server *httptest.Server) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-User-Id: dev-user\r\n\r\n")
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	return c, r
}

func TestAgentCutsAPeerWithoutPong(t *testing.T) {
	agent := NewAgent(nil)
	agent.pingInterval = 10 * time.Millisecond
	server := httptest.NewServer(agent)
	defer server.Close()
	defer agent.Close()
	_, r := openRaw(t, server)
	got, err := io.ReadAll(r) // until it is cut
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(got, []byte{0x89, 1, '1'}) {
		t.Errorf("no Ping in %q", got)
	}
	if bytes.Contains(got, []byte{0x88}) {
		t.Errorf("a Close in %q", got)
	}
}

func TestShutdownClosesWith1001AndLeavesNoGoroutine(t *testing.T) {
	agent := NewAgent(nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{URL: "http://" + l.Addr().String(), Listener: l}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- agent.Serve(ctx, l) }()

	c := dial(t, server, "/ws")
	readText(t, c)
	stuck, _ := openRaw(t, server)
	stuck.Write([]byte{0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4}) // announces a terabyte, and sends none of it
	events, err := http.Get(server.URL + "/events?n=10&interval=1h")
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()

	cancel()
	if _, _, err = c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusGoingAway ||
		!strings.Contains(err.Error(), "server shutdown") {
		t.Errorf("%v, want 1001 server shutdown", err)
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if stacks := stacks(); strings.Contains(stacks, "dev.(*socket)") || strings.Contains(stacks, "dev.(*Agent).serveEvents(") {
		t.Errorf("still there:\n%s", stacks)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header = asUser("user")
	if agent.ServeHTTP(w, r); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a late arrival gets %d, want 503", w.Code)
	}
}

// stacks is what all goroutines are doing.
func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

func TestServeGivesTheErrorOfItsListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := NewAgent(nil).Serve(t.Context(), l); err == nil {
		t.Error("no error from a closed listener")
	}
}

// do sends one request and gives status and body.
func do(t *testing.T, method, address string, header http.Header, body io.Reader) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, body)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestAgentShowsWhatArrivedButNoToken(t *testing.T) {
	_, server := startAgent(t)
	token := strings.Repeat("eyJhbGciOi.", 20) + "signature"
	header := asUser("user")
	header.Set("Authorization", "Bearer "+token)
	code, body := do(t, "DELETE", server.URL+"/some/where?a=1&b=%20", header, nil)
	var got struct {
		Method, Path, Query string
		Headers             http.Header
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if code != http.StatusOK || got.Method != "DELETE" || got.Path != "/some/where" || got.Query != "a=1&b=%20" {
		t.Errorf("%d %s", code, body)
	}
	if got.Headers.Get("X-User-Id") != "dev-user" || got.Headers.Get("Authorization") != "Bearer eyJhbGci… (229 bytes)" {
		t.Errorf("headers %v", got.Headers)
	}
}

func TestShortenShowsNoCredential(t *testing.T) {
	for value, want := range map[string]string{
		"Bearer short":                      "Bearer … (5 bytes)",
		"short":                             "… (5 bytes)",
		"":                                  "… (0 bytes)",
		"Bearer " + strings.Repeat("a", 64): "Bearer aaaaaaaa… (64 bytes)",
		strings.Repeat("a", 64):             "aaaaaaaa… (64 bytes)",
	} {
		if got := shorten(value); got != want {
			t.Errorf("%q is shown as %q, want %q", value, got, want)
		}
	}
}

func TestEventsArriveAndEnd(t *testing.T) {
	_, server := startAgent(t)
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/events?n=3&interval=1ms", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = asUser("user")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	var seen []int
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var event struct {
			N    int    `json:"n"`
			User string `json:"user"`
		}
		if err := json.Unmarshal([]byte(data), &event); err != nil || event.User != "dev-user" {
			t.Errorf("%v: %s", err, data)
		}
		seen = append(seen, event.N)
	}
	if err := lines.Err(); err != nil || len(seen) != 3 || seen[0] != 1 || seen[2] != 3 {
		t.Errorf("events %v, %v; want 1, 2, 3", seen, err)
	}
}

// Close waits for the streams, so it returns only if the first one ended with its client.
func TestEventsEndWithTheClient(t *testing.T) {
	agent, server := startAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/events?n=2&interval=1h", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	cancel()
	agent.open.Wait()
}

func TestBadEventRequests(t *testing.T) {
	_, server := startAgent(t)
	for _, query := range []string{"n=x", "n=-1", "n=1000000", "interval=1", "interval=-1s"} {
		if code, body := do(t, "GET", server.URL+"/events?"+query, nil, nil); code != http.StatusBadRequest || body == "" {
			t.Errorf("%s: %d %q, want 400", query, code, body)
		}
	}
}

func TestUploadIsCountedAndHashed(t *testing.T) {
	_, server := startAgent(t)
	sent := make([]byte, 3<<20)
	rand.Read(sent)
	sum := sha256.Sum256(sent)
	code, body := do(t, "POST", server.URL+"/upload", nil, bytes.NewReader(sent))
	var got struct {
		Bytes  int
		SHA256 string
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if code != http.StatusOK || got.Bytes != len(sent) || got.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("%d %s", code, body)
	}
}

func TestHealth(t *testing.T) {
	_, server := startAgent(t)
	for _, address := range []string{server.URL, startIssuer(t, "ES256").URL} {
		if code, body := do(t, "GET", address+"/healthz", nil, nil); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%d %q", code, body)
		}
	}
}
