package e2e

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapter G: the upgrade, asked for by a hostile client or answered by a hostile agent.

// upgrade is the text of a handshake in which some header lines are others; one that is "" is
// gone.
func upgrade(change map[string]string, lines ...string) string {
	head := []string{"Host: gateway.test"}
	for _, line := range []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: " + rawws.Key} {
		name, _, _ := strings.Cut(line, ":")
		if other, ok := change[name]; ok {
			line = other
		}
		if line != "" {
			head = append(head, line)
		}
	}
	method := "GET"
	if m := change["method"]; m != "" {
		method = m
	}
	return method + " /my-agent/ws HTTP/1.1\r\n" + strings.Join(append(head, lines...), "\r\n") + "\r\n\r\n"
}

// frames is what a client sends that believes it has a tunnel.
var frames = string(rawws.Make(rawws.Fin|rawws.Text, []byte("GET /smuggled HTTP/1.1\r\nX-User-Id: root\r\n\r\n"), true))

func TestG01NoTunnelUnlessTheAgentsAnswerIsARight101(t *testing.T) {
	i := newIssuer(t)
	more := make(chan []byte, 1)
	a := newAgent(t, func(v *visit) {
		fill := strings.NewReplacer("$key", rawws.AcceptKey(rawws.Key), "|", "\r\n")
		io.WriteString(v, fill.Replace(v.r.Header.Get("X-Answer"))+"\r\n\r\n")
		b, _ := io.ReadAll(v.br)
		more <- b
	})
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	const right = "HTTP/1.1 101 Switching Protocols|Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Accept: $key"
	for answer, status := range map[string]int{
		strings.TrimSuffix(right, "|Sec-WebSocket-Accept: $key"):       502,
		strings.TrimSuffix(right, "$key") + "x":                        502,
		right + "|Sec-WebSocket-Accept: $key":                          502,
		strings.Replace(right, "websocket", "h2c", 1):                  502,
		strings.Replace(right, "websocket", "websocket, h2c", 1):       502,
		strings.Replace(right, "|Connection: Upgrade", "", 1):          502,
		strings.Replace(right, "n: Upgrade", "n: close", 1):            502,
		right + "|Sec-WebSocket-Protocol: chat":                        502,
		right + "|Sec-WebSocket-Protocol: a, b":                        502,
		right + "|Sec-WebSocket-Protocol: a|Sec-WebSocket-Protocol: b": 502,
		right + "|Sec-WebSocket-Extensions: permessage-deflate":        502,
		right + "|Transfer-Encoding: foo":                              502,
		"HTTP/1.1 050 Odd":                                             502,
		"HTTP/1.1 1 Odd":                                               502,
		"HTTP/1.1 -11 Odd":                                             502,
		"SSH-2.0-OpenSSH":                                              502,
		"HTTP/1.1 200 OK|Content-Length: 0":                            200,
		"HTTP/1.1 204 No Content":                                      204,
		"HTTP/1.1 426 Upgrade Required|Content-Length: 0":              426,
		"HTTP/1.1 401 Unauthorized|Content-Length: 0":                  401,
		"HTTP/1.1 103 Hints||HTTP/1.1 200 OK|Content-Length: 0":        200,
	} {
		s := g.dial(t)
		s.say(upgrade(nil, i.bearer(t), "Sec-WebSocket-Protocol: a, b", "X-Answer: "+answer) + frames + second)
		if r := s.answer(); r.StatusCode != status {
			t.Errorf("%q became %s, want %d", answer, r.Status, status)
		}
		if rest, _ := io.ReadAll(s.br); len(rest) > 0 {
			t.Errorf("after the answer %q there was %q", answer, rest)
		}
		if b := <-more; len(b) > 0 {
			t.Errorf("after %q the agent got %q", answer, b)
		}
		a.request(t)
	}
	a.untouched(t)
	gone()
}

// An Upgrade to another protocol is ignored (RFC 9110 §7.8): the request is served as HTTP/1.1,
// the agent does not see the offer, and no tunnel opens.
func TestG02UpgradeToAnythingElseOpensNothing(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL).with("authentication.authorization.excludePaths", []string{"/open"}))
	for _, line := range []string{
		"Upgrade: foo", "Upgrade: websocket/13", "Upgrade: TLS/1.0", "Upgrade: \"websocket\"", "Upgrade: web socket",
		"Upgrade: h2c, TLS/1.0", "Upgrade: websockets",
	} {
		change := map[string]string{"Upgrade": line}
		open := strings.Replace(upgrade(change), "/my-agent/ws", "/my-agent/open", 1)
		for _, text := range []string{upgrade(change, i.bearer(t)), open} {
			g.one(t, 200, text+frames+second) // what follows is no request
			if r := a.request(t); r.Header["Upgrade"] != nil || r.Header["Connection"] != nil {
				t.Errorf("%s: the agent was told %v", line, r.Header)
			}
		}
		g.rejected(t, 401, "no-token", upgrade(change)+frames+second)
	}
	// Java's HttpClient sends h2c with each request over a connection that it keeps.
	s := g.dial(t)
	for range 2 {
		s.say(keepAlive("GET", "/my-agent/x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
			"HTTP2-Settings: AAEAAEAA", i.bearer(t)))
		if r := s.answer(); r.StatusCode != 200 || r.Close {
			t.Errorf("h2c: %s, closed: %v", r.Status, r.Close)
		} else {
			io.Copy(io.Discard, r.Body)
		}
		if r := a.request(t); r.Header["Upgrade"] != nil || r.Header["Http2-Settings"] != nil {
			t.Errorf("h2c: the agent was told %v", r.Header)
		}
	}
	a.untouched(t)
	for _, line := range []string{
		"upgrade: WebSocket", "Upgrade: websocket, h2c", "Upgrade: h2c, websocket", "Upgrade: h2c\r\nUpgrade: websocket",
		"Upgrade: ,websocket",
	} {
		s := g.dial(t)
		s.say(upgrade(map[string]string{"Upgrade": line, "Connection": "connection: keep-alive, UPGRADE,"}, i.bearer(t)))
		if r := s.answer(); r.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%q: %s", line, r.Status)
		}
	}
}

func TestG03RefusedUpgradesLeaveNothingOpen(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		switch v.r.URL.Path {
		case "/odd":
			io.WriteString(v, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n")
		case "/refuses":
			io.WriteString(v, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
		}
		io.Copy(io.Discard, v.br) // the agent itself never hangs up
	})
	g := start(t, plain(i, a.URL).with("limits.handshakeTimeout", "2s"))
	gone := g.leftovers()
	for range 30 {
		g.refused(t, 502, "upstream-bad-handshake", "/my-agent/odd", i.bearer(t))
		if _, r := g.handshake(t, "/my-agent/refuses", i.bearer(t)); r.StatusCode != 403 {
			t.Errorf("got %s", r.Status)
		}
		s := g.dial(t) // a client that does not wait for the agent
		s.say(rawws.Request("gateway.test", "/my-agent/silent", i.bearer(t)))
		a.request(t)
		a.request(t)
		a.request(t)
		s.Close()
		g.awaitLine("reason", "client-lost", "status", 499, "remote", s.LocalAddr().String())
	}
	gone()
	eventually(t, "closed at the agent", func() bool { return a.live.Load() == 0 })
}

func TestG04BytesBehindARefusedUpgradeAreNoRequest(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	g.rejected(t, 401, "no-token", upgrade(nil)+second)
	g.rejected(t, 401, "no-token", upgrade(nil)+frames+second)
	g.rejected(t, 426, "bad-version", upgrade(map[string]string{"Sec-WebSocket-Version": "Sec-WebSocket-Version: 8"}, i.bearer(t))+second)
	g.rejected(t, 404, "no-route", strings.Replace(upgrade(nil, i.bearer(t)), "/my-agent/", "/else/", 1)+second)
	g.rejected(t, 400, "bad-path", strings.Replace(upgrade(nil, i.bearer(t)), "/my-agent/", "/my-agent//", 1)+second)
	g.one(t, 200, strings.Replace(upgrade(nil), "/my-agent/ws", "/healthz", 1)+second)
	a.untouched(t)
}

func TestG05HandshakeHasNoBody(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	patient := start(t, plain(i, a.URL).with("limits.handshakeTimeout", "10m"))
	// at once: the gateway does not wait for the body
	patient.refused(t, 400, "bad-upgrade", "/my-agent/ws", "Content-Length: 1000", i.bearer(t))
	patient.refused(t, 401, "no-token", "/my-agent/ws", "Content-Length: 1000")

	g := start(t, plain(i, a.URL).with("limits.handshakeTimeout", "200ms"))
	gone := g.leftovers()
	for _, lines := range []string{
		"Content-Length: 1000", "Content-Length: 1", "Transfer-Encoding: chunked", "Expect: 100-continue",
		"Expect: 100-continue\r\nContent-Length: 5", "Content-Length: 1000000000",
	} {
		g.rejected(t, 400, "bad-upgrade", upgrade(nil, lines, i.bearer(t)))
		g.rejected(t, 401, "no-token", upgrade(nil, lines))
		g.rejected(t, 400, "bad-upgrade", upgrade(nil, lines, i.bearer(t))+"0\r\n\r\n"+second)
	}
	a.untouched(t)
	gone()
	g.connect(t, "/my-agent/ws", i.bearer(t), "Content-Length: 0").echoes("an empty one is none")
}

func TestG06RedirectsOfAnAgentAreNotFollowed(t *testing.T) {
	i := newIssuer(t)
	elsewhere := newAgent(t, nil)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 302 Found\r\nLocation: "+elsewhere.URL+"/ws\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	g := start(t, plain(i, a.URL))
	if _, r := g.handshake(t, "/my-agent/ws", i.bearer(t)); r.StatusCode != 302 {
		t.Errorf("got %s, want the agent's own answer", r.Status)
	}
	g.one(t, 302, plainRequest("GET", "/my-agent/x", i.bearer(t)))
	a.request(t)
	a.request(t)
	a.untouched(t) // one request is one request: nothing is tried again
	elsewhere.untouched(t)
}

func TestG07TokensAreNoSubprotocolsAnAgentCouldChoose(t *testing.T) {
	i := newIssuer(t)
	token := i.token(t)
	for chosen, want := range map[string]struct {
		status   int
		protocol string
	}{"": {101, "chat"}, "chat": {101, "chat"}, "log": {101, "log"}, "bearer": {502, ""}, token: {502, ""}, "Chat": {502, ""},
		"chat, log": {502, ""}} {
		a := newAgent(t, func(v *visit) {
			if chosen == "" {
				v.accept()
			} else {
				v.accept("Sec-WebSocket-Protocol: " + chosen)
			}
			v.echoFrames()
		})
		g := start(t, plain(i, a.URL))
		_, r := g.handshake(t, "/my-agent/ws", "Sec-WebSocket-Protocol: bearer, "+token, "Sec-WebSocket-Protocol: chat, log")
		if r.StatusCode != want.status || r.Header.Get("Sec-WebSocket-Protocol") != want.protocol {
			t.Errorf("the agent chose %.20q: %s, %q", chosen, r.Status, r.Header["Sec-Websocket-Protocol"])
		}
		if got := strings.Join(a.request(t).Header["Sec-Websocket-Protocol"], "|"); got != "chat, log" {
			t.Errorf("the agent was offered %q", got)
		}
	}
}

func TestG08OtherOriginsAreRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	r := route("/my-agent", a.URL)
	r["allowedOrigins"] = []string{"https://app.example.com", "http://localhost:3000"}
	r["public"] = true
	g := start(t, plain(i, a.URL).with("routes", []any{r}))
	for _, lines := range [][]string{
		{"Origin: https://evil.example"}, {"Origin: http://app.example.com"}, {"Origin: https://app.example.com:8443"},
		{"Origin: https://app.example.com.evil.example"},
		{"Origin: https://evilapp.example.com"}, {"Origin: https://app.example.com/"}, {"Origin: null"}, {"Origin:"},
		{"Origin: https://APP.example.com"}, {"Origin: *"},
		{"Origin: https://app.example.com", "Origin: https://evil.example"},
		{"Origin: https://app.example.com", "Origin: https://app.example.com"},
		{"Origin: https://app.example.com, https://evil.example"}, {"Origin: https://app.example.com https://evil.example"},
	} {
		g.refused(t, 403, "bad-origin", "/my-agent/ws", lines...)
		g.rejected(t, 403, "bad-origin", plainRequest("POST", "/my-agent/x", lines...))
	}
	a.untouched(t)
	for _, line := range []string{"Origin: https://app.example.com", "Origin: http://localhost:3000", "X-No: browser"} {
		g.connect(t, "/my-agent/ws", line)
		if got, want := a.request(t).Header.Get("Origin"), strings.TrimPrefix(line, "Origin: "); got != want && line != "X-No: browser" {
			t.Errorf("the agent was told Origin %q, want %q", got, want)
		}
	}
}

// Names do not depend on case, but some agents and clients do.
func TestHeadersOfTheHandshakeAreSpelledRightInPlainHTTP(t *testing.T) {
	i := newIssuer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		head := make([]byte, 4096)
		n, _ := io.ReadAtLeast(c, head, 1)
		asked <- string(head[:n])
		io.WriteString(c, "HTTP/1.1 426 Upgrade Required\r\nsec-websocket-version: 13\r\nContent-Length: 0\r\n\r\n")
	}()
	g := start(t, plain(i, "http://"+l.Addr().String()))
	s := g.dial(t)
	s.say(plainRequest("GET", "/my-agent/x", "sec-websocket-key: "+rawws.Key, "Connection: close", i.bearer(t)))
	answer, _ := io.ReadAll(s)
	if head := <-asked; !strings.Contains(head, "\r\nSec-WebSocket-Key: ") {
		t.Errorf("the agent got %q", head)
	}
	if !strings.Contains(string(answer), "\r\nSec-WebSocket-Version: 13\r\n") {
		t.Errorf("the client got %q", answer)
	}
}

func TestG09HandshakeFieldsAreSingle(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	for _, change := range []map[string]string{
		{"Sec-WebSocket-Version": ""},
		{"Sec-WebSocket-Version": "Sec_WebSocket_Version: 13"},
		{"Sec-WebSocket-Key": ""}, {"Sec-WebSocket-Key": "Sec-WebSocket-Key:"}, {"Sec-WebSocket-Key": "Sec-WebSocket-Key: AAAA"},
		{"Sec-WebSocket-Key": "Sec-WebSocket-Key: " + rawws.Key + "\r\nSec-WebSocket-Key: " + rawws.Key},
		{"Sec-WebSocket-Key": "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"},
		{"Sec-WebSocket-Key": "Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ=="},
		{"Sec-WebSocket-Key": "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSEh"},
		{"Connection": ""}, {"Connection": "Connection: keep-alive"}, {"Connection": "Connection: Upgrades"},
		{"method": "POST"}, {"method": "OPTIONS"}, {"method": "HEAD"}, {"method": "DELETE"},
	} {
		if change["method"] == "HEAD" { // its answer has no body
			g.one(t, 400, upgrade(change, i.bearer(t)))
			continue
		}
		g.rejected(t, 400, "bad-upgrade", upgrade(change, i.bearer(t)))
	}
	for _, line := range []string{
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13, 8", "Sec-WebSocket-Version: 8",
		"Sec-WebSocket-Version: 013", "Sec-WebSocket-Version:",
	} {
		r := g.rejected(t, 426, "bad-version", upgrade(map[string]string{"Sec-WebSocket-Version": line}, i.bearer(t)))
		if r.Header.Get("Sec-WebSocket-Version") != "13" || r.Header.Get("Upgrade") != "websocket" {
			t.Errorf("%q: %v", line, r.Header)
		}
	}
	a.untouched(t)
}

// A refusal is an HTTP status, never a tunnel that is followed by a Close.
func TestG10NoTunnelBeforeTheRulesHaveSpoken(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL).with("authentication.authorization.requiredClaims",
		[]any{settings{"claim": "roles", "values": []string{"root"}}}))
	g.refused(t, 403, "claim-mismatch", "/my-agent/ws", i.bearer(t))
	g.refused(t, 401, "no-token", "/my-agent/ws")
	if n := g.metric("omnia_gateway_connections"); n != 0 {
		t.Errorf("%v connections", n)
	}
	a.untouched(t)
}

func TestG11AgentsThatNeverComeToThePointAreGivenUp(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		endless := func(text string, pause time.Duration) {
			for {
				if _, err := io.WriteString(v, text); err != nil {
					return
				}
				time.Sleep(pause) // a slow agent
			}
		}
		switch v.r.URL.Path {
		case "/endless-header":
			io.WriteString(v, "HTTP/1.1 101 Switching Protocols\r\n")
			endless("X-A: "+strings.Repeat("a", 1000)+"\r\n", 0)
		case "/endless-line":
			endless(strings.Repeat("a", 1000), 0)
		case "/interim-flood":
			endless("HTTP/1.1 100 Continue\r\n\r\n", 0)
		case "/slow-header":
			io.WriteString(v, "HTTP/1.1 101 Switching Protocols\r\n")
			endless("X", 50*time.Millisecond)
		case "/silent":
			io.Copy(io.Discard, v.br)
		}
	})
	g := start(t, plain(i, a.URL).with("limits.upstreamTimeout", "700ms"))
	gone := g.leftovers()
	for path, want := range map[string]struct {
		status int
		reason string
	}{
		"/endless-header": {502, "upstream-bad-handshake"}, "/endless-line": {502, "upstream-bad-handshake"}, "/interim-flood": {502,
			"upstream-bad-handshake"},
		"/slow-header": {504, "upstream-timeout"}, "/silent": {504, "upstream-timeout"}, "/hangs-up": {502, "upstream-bad-handshake"},
	} {
		g.refused(t, want.status, want.reason, "/my-agent"+path, i.bearer(t))
	}
	gone()
}

// The bytes after a 101 are frames, even if its headers announce a body.
func TestG12LengthsInA101AreIgnored(t *testing.T) {
	i := newIssuer(t)
	hello := rawws.Make(rawws.Fin|rawws.Text, []byte("hello"), false)
	for _, line := range []string{"Content-Length: 3", "Content-Length: 1000000", "Transfer-Encoding: chunked", "Trailer: X-A"} {
		a := newAgent(t, func(v *visit) {
			io.WriteString(v, rawws.Response(v.r, line)+string(hello))
			v.echoFrames()
		})
		g := start(t, plain(i, a.URL))
		s, r := g.handshake(t, "/my-agent/ws", i.bearer(t))
		if r.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %s", line, r.Status)
		}
		if f := s.frame(); !bytes.Equal(f.Payload, []byte("hello")) {
			t.Errorf("%s: got %v", line, f)
		}
		if r.Header.Get(strings.Split(line, ":")[0]) != "" || len(r.TransferEncoding) > 0 {
			t.Errorf("%s was passed on", line)
		}
		s.echoes("and on it goes")
	}
}
