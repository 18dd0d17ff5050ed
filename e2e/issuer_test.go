package e2e

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

func TestIssuerDownAtStartMakesTheGatewayReadyOnceItIsUp(t *testing.T) {
	i := newIssuer(t)
	i.answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }) // the connection is cut
	a := newAgent(t, nil)
	g := startUnready(t, plain(i, a.URL).with("authentication.authorization.excludePaths", []string{"/healthz", "/readyz", "/open"}))
	eventually(t, "asked", func() bool { return i.asked.Load() > 0 })
	if code, body := g.ask("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, i.URL) {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, _ := g.ask("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d", code)
	}
	if r := g.refused(t, 503, "jwks-unavailable", "/my-agent/ws", i.bearer(t)); r.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	g.refused(t, 401, "no-token", "/my-agent/ws")
	g.refused(t, 401, "malformed", "/my-agent/ws", "Authorization: Bearer x")
	g.refused(t, 401, "wrong-issuer", "/my-agent/ws", i.bearer(t, "iss", "https://else.example.com"))
	a.untouched(t)

	i.publish(i.Signer)
	g.awaitReady()
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("ready by itself")
}

func TestIssuerThatServesSomethingElseIsNotBelieved(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"HTML": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html><body>Sign in</body></html>") },
		"5 MB": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"keys":[{"kty":"`+strings.Repeat("x", 5<<20)+`"}]}`)
		},
		"no key":       func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"keys":[]}`) },
		"status 500":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"elsewhere":    func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys?again", http.StatusFound) },
		"cut short":    func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"keys":[{"kty":"RSA"`) },
		"an empty 200": func(http.ResponseWriter, *http.Request) {},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(t)
			i.answer(answer)
			g := startUnready(t, plain(i, newAgent(t, nil).URL))
			eventually(t, "asked", func() bool {
				return g.metric(`omnia_gateway_jwks_refreshes_total{issuer="`+i.URL+`",result="error"}`) > 0
			})
			g.refused(t, 503, "jwks-unavailable", "/my-agent/ws", i.bearer(t))
			i.publish(i.Signer)
			g.awaitReady()
			g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("and all is well")
		})
	}
}

// The address of a slow issuer accepts and says nothing: that is what ten seconds look like
// while they last.
func TestSlowIssuerHoldsNoOtherTokenUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	i, a := newIssuer(t), newAgent(t, nil)
	s := plain(i, a.URL).with("authentication.jwt.jwksUri", "http://"+l.Addr().String()+"/keys")
	g := startUnready(t, s)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g.refused(t, 503, "jwks-unavailable", "/my-agent/ws", i.bearer(t))
	g.refused(t, 401, "no-token", "/my-agent/ws")
	if code, _ := g.ask("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", code)
	}
}

func TestRotatedKeysAreFetchedWhenTheyAreFirstSeen(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL))
	before := g.connect(t, "/my-agent/ws", i.bearer(t))
	old := i.bearer(t)

	next := newSigner(t)
	i.publish(next)
	token, err := next.Sign(i.claims("sub", "bob"))
	if err != nil {
		t.Fatal(err)
	}
	asked := i.asked.Load()
	g.connect(t, "/my-agent/ws", "Authorization: Bearer "+token).echoes("with the new key")
	if n := i.asked.Load() - asked; n != 1 {
		t.Errorf("the issuer was asked %d times, want once", n)
	}
	g.refused(t, 401, "unknown-key", "/my-agent/ws", old)
	before.echoes("an open session is not touched")
}

func TestUnknownKeysDoNotFloodTheIssuer(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL))
	asked := i.asked.Load()
	for range 50 {
		token, err := newSigner(t).Sign(i.claims())
		if err != nil {
			t.Fatal(err)
		}
		g.refused(t, 401, "unknown-key", "/my-agent/ws", "Authorization: Bearer "+token)
	}
	if n := i.asked.Load() - asked; n > 1 {
		t.Errorf("50 unknown keys made %d fetches, want at most one in 30 s", n)
	}
}

func TestIssuerDownAfterStartIsNotMissed(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL))
	before := g.connect(t, "/my-agent/ws", i.bearer(t))
	i.Server.CloseClientConnections()
	i.Server.Listener.Close()
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("the last good keys are kept")
	before.echoes("an open session is not touched")
	before.send(rawws.Fin|rawws.Close, nil)
	before.closed(0)
}

func TestDiscoveryFindsTheKeys(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("authentication.jwt.jwksUri", nil))
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("found by discovery")
}

func TestOneIssuersOutageIsNotTheOthers(t *testing.T) {
	up, down := newIssuer(t), newIssuer(t)
	down.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	s := plain(up, newAgent(t, nil).URL).with("authentication.jwtRules", []any{
		settings{"issuer": down.URL, "jwksUri": down.URL + "/keys", "audiences": []string{"agents"}},
	})
	g := start(t, s)
	g.connect(t, "/my-agent/ws", up.bearer(t)).echoes("ready all the same")
	g.refused(t, 503, "jwks-unavailable", "/my-agent/ws", down.bearer(t))
	forged, err := up.Sign(up.claims("iss", down.URL))
	if err != nil {
		t.Fatal(err)
	}
	g.refused(t, 503, "jwks-unavailable", "/my-agent/ws", "Authorization: Bearer "+forged)
	down.publish(down.Signer)
	eventually(t, "up", func() bool {
		_, r := g.handshake(t, "/my-agent/ws", down.bearer(t))
		return r.StatusCode == http.StatusSwitchingProtocols
	})
	g.refused(t, 401, "unknown-key", "/my-agent/ws", "Authorization: Bearer "+forged)
}
