package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// An agent of a private network has a certificate of its own authority, and wants one of the
// gateway. Both may be replaced while the gateway runs, and a session that is open goes on.
func TestAgentIsReachedOverMutualTLS(t *testing.T) {
	i := newIssuer(t)
	server, shown, next, stranger := newCertificate(t), newCertificate(t), newCertificate(t), newCertificate(t)
	clients := x509.NewCertPool()
	for _, c := range []*certificate{shown, next} {
		clients.AppendCertsFromPEM([]byte(read(t, c.certFile)))
	}
	pair, err := tls.LoadX509KeyPair(server.certFile, server.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	agent := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Serial", r.TLS.PeerCertificates[0].SerialNumber.String())
		if r.Header.Get("Upgrade") == "" {
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, rawws.Response(r))
		for {
			f, err := rawws.Read(buffered.Reader)
			if err != nil {
				return
			}
			conn.Write(rawws.Make(f.First, f.Payload, false))
		}
	}))
	agent.Config.ErrorLog = log.New(io.Discard, "", 0)
	agent.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	agent.StartTLS()
	defer agent.Close()

	with := func(path string, upstreamTLS settings) settings {
		r := route(path, agent.URL)
		r["upstreamTLS"] = upstreamTLS
		return r
	}
	g := start(t, plain(i, agent.URL).with("routes", []any{
		with("/my-agent", settings{"caFile": server.certFile, "certFile": shown.certFile, "keyFile": shown.keyFile}),
		with("/anonymous", settings{"caFile": server.certFile}),
		with("/stranger", settings{"caFile": server.certFile, "certFile": stranger.certFile, "keyFile": stranger.keyFile}),
		with("/other-name", settings{"caFile": server.certFile, "serverName": "agent.example.com"}),
	}))
	bearer := i.bearer(t)
	serial := func() string {
		t.Helper()
		return g.one(t, 200, plainRequest("GET", "/my-agent/x", bearer)).Header.Get("X-Serial")
	}
	before := serial()
	open := g.connect(t, "/my-agent/ws", bearer)
	open.echoes("over mutual TLS")

	for path, why := range map[string]string{
		"/anonymous": "certificate required", "/stranger": "unknown certificate authority", "/other-name": "agent.example.com",
	} {
		g.refused(t, 502, "upstream-unreachable", path+"/ws", bearer)
		g.rejected(t, 502, "upstream-unreachable", plainRequest("GET", path+"/x", bearer))
		eventually(t, "both in the log", func() bool { return len(g.log.with("msg", "refused", "route", path)) == 2 })
		for _, line := range g.log.with("msg", "refused", "route", path) {
			if text := line["err"].(string); !strings.Contains(text, why) {
				t.Errorf("%s: the log says %q, want %q", path, text, why)
			}
		}
	}
	check := exec.Command(binary, "check", "--config", g.file, "--online")
	check.Env = environment()
	out, err := check.CombinedOutput()
	if text := string(out); err == nil || strings.Contains(text, "route /my-agent:") || !strings.Contains(text, "route /anonymous:") ||
		!strings.Contains(text, "route /stranger:") || !strings.Contains(text, "route /other-name:") {
		t.Errorf("check --online: %v\n%s", err, text)
	}

	for from, to := range map[string]string{next.certFile: shown.certFile, next.keyFile: shown.keyFile} {
		if err := os.WriteFile(to, []byte(read(t, from)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g.awaitLine("msg", "certificates for agents reloaded")
	if after := serial(); after == before {
		t.Error("the agent is shown the old certificate")
	}
	g.connect(t, "/my-agent/ws", bearer).echoes("with the new certificate")
	open.echoes("still here")
}
