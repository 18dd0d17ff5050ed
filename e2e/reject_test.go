package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// closing is a gateway whose route refuses WebSockets by a Close.
func closing(t *testing.T, i *issuer, a *agent) *gateway {
	t.Helper()
	return start(t, closingRoute(i, a))
}

func closingRoute(i *issuer, a *agent) settings {
	r := route("/my-agent", a.URL)
	r["rejectWith"], r["requiredClaims"] = "close", []any{settings{"claim": "team", "values": []any{"*"}}}
	return plain(i, a.URL).with("routes", []any{r, route("/plain", a.URL)}).with("limits.maxConnectionsPerUser", 1)
}

// refusedByClose says a handshake that must be accepted, closed with a code and the word, and
// logged as the refusal that it is. It returns the subprotocol of the answer.
func (g *gateway) refusedByClose(t *testing.T, code, status int, word, target string, lines ...string) string {
	t.Helper()
	s, r := g.handshake(t, target, lines...)
	h := r.Header
	if r.StatusCode != 101 || h.Get("Sec-WebSocket-Accept") != rawws.AcceptKey(rawws.Key) || h.Get("X-Gateway-Session") != "" {
		t.Fatalf("handshake for %s: %s %v", target, r.Status, h)
	}
	if got := s.closed(code); got != word {
		t.Errorf("closed with %q, want %q", got, word)
	}
	line := g.awaitLine("msg", "refused", "remote", s.LocalAddr().String())
	if line["reason"] != word || line["status"] != float64(status) || line["code"] != float64(code) {
		t.Errorf("the log says %v", line)
	}
	return h.Get("Sec-WebSocket-Protocol")
}

func TestRefusalsByClose(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := closing(t, i, a)
	old, good := i.bearer(t, "exp", inSeconds(-3600)), i.bearer(t, "team", "x")
	const path = "/my-agent/ws"
	g.refusedByClose(t, 3000, 401, "no-token", path)
	g.refusedByClose(t, 3000, 401, "expired", path, old)
	g.refusedByClose(t, 3000, 401, "multiple-credentials", path+"?access_token=x", old)
	g.refusedByClose(t, 3003, 403, "claim-mismatch", path, i.bearer(t))
	a.untouched(t)
	if n := g.metric(`omnia_gateway_handshakes_total{outcome="claim-mismatch"}`); n != 1 {
		t.Errorf("%v handshakes are counted", n)
	}

	live := g.connect(t, path, good)
	g.refusedByClose(t, 1013, 429, "too-many-user-connections", path, good)
	live.echoes("still here")

	// What is no handshake of this route is refused by HTTP alone.
	g.refused(t, 401, "expired", "/plain/ws", old)
	g.refused(t, 404, "no-route", "/nowhere/ws", old)
	s := g.dial(t)
	s.say("GET " + path + " HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
	if r := s.answer(); r.StatusCode != 401 || r.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("plain HTTP: %s", r.Status)
	}
	wrong := strings.Replace(rawws.Request("gateway.test", path), "Version: 13", "Version: 8", 1)
	s = g.dial(t)
	s.say(wrong)
	if r := s.answer(); r.StatusCode != 401 {
		t.Errorf("a handshake of another version without a token: %s", r.Status)
	}
	a.close()
	live.Close()
	g.awaitLine("msg", "ended")
	g.refused(t, 502, "upstream-unreachable", path, good)

	g.drained("POST", 202)
	g.refusedByClose(t, 1013, 503, "drain", path, good)
}

// The gateway ends the connection as soon as the client has answered: a browser waits for that.
func TestRefusedClientsDoNotWait(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	for _, secure := range []bool{false, true} {
		g := startSecure(t, closingRoute(i, a), secure)
		begun := time.Now()
		g.refusedByClose(t, 3000, 401, "no-token", "/my-agent/ws")
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("secure %v: the client waited %v for the end of the connection", secure, took)
		}
	}
}

func TestSubprotocolOfARefusal(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := closing(t, i, a)
	token := i.token(t, "exp", inSeconds(-3600))
	for offered, want := range map[string]string{
		"chat":                                 "chat",
		"chat, superchat":                      "chat",
		"bearer, " + token:                     "bearer",
		"bearer, " + token + ", chat":          "chat",
		"chat, bearer, " + token:               "chat",
		"bearer, " + token + ", bearer, x.y.z": "bearer",
		"base64url.bearer.authorization.k8s.io.bm90LWEtdG9rZW4":       "",
		"base64url.bearer.authorization.k8s.io.bm90LWEtdG9rZW4, chat": "chat",
		"": "",
	} {
		lines := []string{"Sec-WebSocket-Protocol: " + offered}
		if offered == "" {
			lines = nil
		}
		s, r := g.handshake(t, "/my-agent/ws", lines...)
		got := r.Header.Get("Sec-WebSocket-Protocol")
		if r.StatusCode != 101 || got != want || len(r.Header.Values("Sec-WebSocket-Protocol")) > 1 {
			t.Errorf("%q: %s with %q, want %q", offered, r.Status, got, want)
		}
		s.closed(3000)
	}
	a.untouched(t)
}

// A refused client that never closes has 3 s, and one that floods not even these.
func TestRefusedClientsAreCut(t *testing.T) {
	i := newIssuer(t)
	g := closing(t, i, newAgent(t, nil))
	before := g.held()
	begun := time.Now()
	silent, _ := g.handshake(t, "/my-agent/ws")
	flood, _ := g.handshake(t, "/my-agent/ws")
	message := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, 1<<20), true)
	sent := 0
	for range 200 {
		n, err := flood.Write(message)
		if sent += n; err != nil {
			break
		}
	}
	if took := time.Since(begun); sent > 100<<20 || took > 2*time.Second {
		t.Errorf("a flood of %d MB was taken in %v", sent>>20, took)
	}
	io.Copy(io.Discard, silent.br) // the Close, and the end of what the gateway says
	for n := 0; n < 1000; n++ {    // until the gateway has closed its socket
		if _, err := silent.Write([]byte{0x8a, 0x80, 0, 0, 0, 0}); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if took := time.Since(begun); took < 2*time.Second || took > 5*time.Second {
		t.Errorf("a silent client was cut after %v", took)
	}
	g.holdsNoMoreThan(before)
}

// A thousand refused clients may be waited for at once; one more is refused by HTTP.
func TestRefusedClientsAreBounded(t *testing.T) {
	i := newIssuer(t)
	g := closing(t, i, newAgent(t, nil))
	const clients = 1100
	byHTTP := 0
	begun := time.Now()
	for range clients {
		_, r := g.handshake(t, "/my-agent/ws")
		switch r.StatusCode {
		case 101:
		case 401:
			byHTTP++
		default:
			t.Fatal(r.Status)
		}
	}
	if took := time.Since(begun); took < 3*time.Second && byHTTP != clients-1000 {
		t.Errorf("%d of %d were refused by HTTP in %v", byHTTP, clients, took)
	}
}

// Scripts read code and word, in Chromium and in Node.
func TestScriptsSeeWhyTheyAreRefused(t *testing.T) {
	i := newIssuer(t)
	g := closing(t, i, newAgent(t, nil))
	script := func(token string) string {
		return fmt.Sprintf(`const s = new WebSocket("ws://%s/my-agent/ws", ["bearer", "%s"]); `+
			`s.onclose = e => { console.log("closed " + e.code + " " + e.reason + " " + s.protocol); }`, g.public, token)
	}
	for word, token := range map[string]string{
		"closed 3000 expired bearer":        i.token(t, "exp", inSeconds(-3600)),
		"closed 3003 claim-mismatch bearer": i.token(t),
	} {
		t.Run(word, func(t *testing.T) {
			needs(t, "node")
			out, err := client(t, "node", "--experimental-websocket", "--no-warnings", "-e", script(token)).CombinedOutput()
			if err != nil || !strings.Contains(string(out), word) {
				t.Errorf("Node shows %s %v, want %s", out, err, word)
			}
			typeIn(t, anotherOrigin(t), word, script(token))
		})
	}
}
