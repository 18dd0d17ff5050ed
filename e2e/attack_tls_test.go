package e2e

import (
	"bufio"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapter J: TLS on either side.

// shake makes a TLS handshake with the public listener.
func (g *gateway) shake(t *testing.T, c *tls.Config) (*tls.Conn, error) {
	t.Helper()
	tcp, err := net.Dial("tcp", g.public)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	c = c.Clone()
	c.RootCAs = g.ca
	if c.ServerName == "" {
		c.ServerName = "localhost"
	}
	conn := tls.Client(tcp, c)
	return conn, conn.Handshake()
}

func TestJ01OldVersionsAndSuitesAreRefusedWhateverTheEnvironmentSays(t *testing.T) {
	t.Setenv("GODEBUG", "tls10server=1,tlsrsakex=1,tls3des=1,http2xconnect=1,httplaxcontentlength=1")
	g := startSecure(t, plain(newIssuer(t), newAgent(t, nil).URL), true)
	for name, c := range map[string]*tls.Config{
		"TLS 1.0": {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10},
		"TLS 1.1": {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		"CBC": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}},
		"RSA exchange": {MaxVersion: tls.VersionTLS12,
			CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA}},
		"RC4": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}},
	} {
		if _, err := g.shake(t, c); err == nil {
			t.Errorf("%s is spoken", name)
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if _, err := g.shake(t, &tls.Config{MinVersion: version, MaxVersion: version}); err != nil {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
	c := newCertificate(t)
	g = start(t, plain(newIssuer(t), newAgent(t, nil).URL).with("tls", c.settings()).with("tls.minVersion", "1.3"))
	g.ca = c.pool
	if _, err := g.shake(t, &tls.Config{MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is spoken below minVersion 1.3")
	}
}

func TestJ03HTTP2IsNotNegotiated(t *testing.T) {
	i := newIssuer(t)
	g := startSecure(t, plain(i, newAgent(t, nil).URL), true)
	for _, tt := range []struct {
		offered []string
		chosen  string
	}{{[]string{"h2", "http/1.1"}, "http/1.1"}, {[]string{"http/1.1"}, "http/1.1"}, {nil, ""}} {
		c, err := g.shake(t, &tls.Config{NextProtos: tt.offered})
		if err != nil || c.ConnectionState().NegotiatedProtocol != tt.chosen {
			t.Errorf("%v: %v, %q", tt.offered, err, c.ConnectionState().NegotiatedProtocol)
		}
	}
	for _, only := range []string{"h2", "h3", "acme-tls/1", "spdy/3"} {
		if _, err := g.shake(t, &tls.Config{NextProtos: []string{only}}); err == nil {
			t.Errorf("%s is spoken", only)
		}
	}
}

func TestJ04PlainHTTPOnTheTLSPortReachesNoAgent(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := startSecure(t, plain(i, a.URL), true)
	plainly := &gateway{t: t, public: g.public}
	plainly.one(t, 400, rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t)))
	plainly.one(t, 400, plainRequest("GET", "/my-agent/x", i.bearer(t))+second)
	a.untouched(t)
}

func TestJ05NameInTheHelloPicksNoRoute(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	hosted := route("/hosted", a.URL)
	hosted["host"] = "localhost"
	g := startSecure(t, plain(i, a.URL).with("routes", []any{hosted}), true)
	c, err := g.shake(t, &tls.Config{ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	s := &socket{Conn: c, t: t, br: bufio.NewReader(c)}
	s.say(rawws.Request("else.example", "/hosted/ws", i.bearer(t)))
	if r := s.answer(); r.StatusCode != 404 {
		t.Errorf("got %s for another Host, want 404", r.Status)
	}
	a.untouched(t)
}

func TestJ07AgentIsWhoItsCertificateSays(t *testing.T) {
	i := newIssuer(t)
	var asked atomic.Int64
	agent := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer agent.Close()
	agent.Config.ErrorLog = log.New(io.Discard, "", 0)
	g := start(t, plain(i, agent.URL))
	g.refused(t, 502, "upstream-unreachable", "/my-agent/ws", i.bearer(t))
	g.rejected(t, 502, "upstream-unreachable", plainRequest("GET", "/my-agent/x", i.bearer(t)))
	if asked.Load() != 0 {
		t.Error("an agent with an unknown certificate received the request")
	}
}

func TestJ08ClientWithoutACertificateIsNotHeard(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	c, clients := newCertificate(t), newCertificate(t)
	g := start(t, plain(i, a.URL).with("tls", c.settings()).with("tls.clientCAFile", clients.certFile))
	g.ca = c.pool
	ask := func(config *tls.Config) error {
		conn, err := g.shake(t, config)
		if err != nil {
			return err
		}
		io.WriteString(conn, plainRequest("GET", "/my-agent/x", i.bearer(t)))
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		return err
	}
	stranger, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if ask(&tls.Config{MaxVersion: version}) == nil ||
			ask(&tls.Config{MaxVersion: version, Certificates: []tls.Certificate{stranger}}) == nil {
			t.Errorf("%s: a client without a good certificate was answered", tls.VersionName(version))
		}
	}
	a.untouched(t)
	friend, err := tls.LoadX509KeyPair(clients.certFile, clients.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(&tls.Config{Certificates: []tls.Certificate{friend}}); err != nil {
		t.Error(err)
	}
}
