package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// writeEntity writes a chain and the key of its first certificate as NAME.crt and NAME.key.
func writeEntity(t *testing.T, dir, name string, chain ...*entity) {
	t.Helper()
	writeFile(t, filepath.Join(dir, name+".crt"), certs(chain...))
	writeFile(t, filepath.Join(dir, name+".key"), chain[0].private(t))
}

// private is an agent with TLS whose certificate is for one name and signed by its own authority.
// It accepts clients of an authority only, if there is one, tells in X-Caller whose certificate it
// was shown, and counts its connections.
type private struct {
	addr  string
	conns chan string // of the name that each connection asked for
}

func newPrivate(t *testing.T, server *entity, clients *entity) *private {
	t.Helper()
	p := &private{conns: make(chan string, 100)}
	conf := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.cert.Raw}, PrivateKey: server.key}},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			p.conns <- hello.ServerName
			return nil, nil
		},
	}
	if clients != nil {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		conf.ClientCAs.AddCert(clients.cert)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		caller := "none"
		if shown := r.TLS.PeerCertificates; len(shown) > 0 {
			caller = shown[0].Subject.CommonName
		}
		w.Header().Set("X-Caller", caller)
		if r.Header.Get("Upgrade") == "" {
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, strings.Replace(rawws.Response(r), "\r\n", "\r\nX-Caller: "+caller+"\r\n", 1))
		io.Copy(io.Discard, conn)
	}
	s := &http.Server{ErrorLog: quiet(slog.New(slog.DiscardHandler)), Handler: http.HandlerFunc(serve)}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	p.addr = l.Addr().String()
	return p
}

// named is a certificate of an authority for names, and for 127.0.0.1 if there are none.
func named(t *testing.T, name string, authority *entity, names ...string) *entity {
	return issue(t, name, authority, func(c *x509.Certificate) {
		if c.DNSNames = names; len(names) == 0 {
			c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		}
	})
}

// caller asks an agent by plain HTTP and by WebSocket, and returns whose certificate it was shown,
// or the two statuses.
func caller(t *testing.T, r *running, token string) string {
	t.Helper()
	req, _ := http.NewRequest("GET", "http://"+r.Addr().String()+"/my-agent/x", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+token)))
	up := e.Answer()
	e.Close()
	plain := resp.Header.Get("X-Caller")
	if plain == "" {
		plain = fmt.Sprint(resp.StatusCode)
	}
	upgraded := up.Header.Get("X-Caller")
	if upgraded == "" {
		upgraded = fmt.Sprint(up.StatusCode)
	}
	if plain != upgraded {
		return plain + ", but with a WebSocket " + upgraded
	}
	return plain
}

func TestAgentIsVerifiedAsItsRouteSays(t *testing.T) {
	dir := t.TempDir()
	root, other := issue(t, "root", nil, nil), issue(t, "other", nil, nil)
	writeEntity(t, dir, "root", root)
	writeEntity(t, dir, "other", other)
	writeEntity(t, dir, "gateway", named(t, "gateway", root, "gateway.example.com"))
	writeEntity(t, dir, "stranger", named(t, "stranger", other, "gateway.example.com"))
	at := func(name string) string { return filepath.Join(dir, name) }
	ca := config.UpstreamTLS{CAFile: at("root.crt")}
	mutual := config.UpstreamTLS{CAFile: at("root.crt"), CertFile: at("gateway.crt"), KeyFile: at("gateway.key")}
	i := wstest.NewIssuer(t)
	for _, tt := range []struct {
		name    string
		server  *entity
		clients *entity
		tls     config.UpstreamTLS
		want    string
		detail  string // in the log
		sni     string
	}{
		{"the system's authorities", named(t, "agent", root), nil, config.UpstreamTLS{}, "502", "unknown authority", ""},
		{"its authority", named(t, "agent", root), nil, ca, "none", "", ""},
		{"another authority", named(t, "agent", root), nil, config.UpstreamTLS{CAFile: at("other.crt")}, "502", "unknown authority", ""},
		{"another name", named(t, "agent", root, "agent.internal"), nil, ca, "502", "127.0.0.1", ""},
		{"its name", named(t, "agent", root, "agent.internal"), nil,
			config.UpstreamTLS{CAFile: at("root.crt"), ServerName: "agent.internal"}, "none", "", "agent.internal"},
		{"a name that is not its own", named(t, "agent", root), nil,
			config.UpstreamTLS{CAFile: at("root.crt"), ServerName: "agent.internal"}, "502", "agent.internal", ""},
		{"with a certificate", named(t, "agent", root), root, mutual, "gateway", "", ""},
		{"with one that it does not ask for", named(t, "agent", root), nil, mutual, "none", "", ""},
		{"without the certificate that it asks for", named(t, "agent", root), root, ca, "502", "certificate required", ""},
		{"with a certificate of another authority", named(t, "agent", root), root,
			config.UpstreamTLS{CAFile: at("root.crt"), CertFile: at("stranger.crt"), KeyFile: at("stranger.key")}, "502", "remote error",
			""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			agent := newPrivate(t, tt.server, tt.clients)
			c := i.Config(agent.addr)
			c.Routes[0].Upstream, c.Routes[0].UpstreamTLS = "https://"+agent.addr, tt.tls
			r := run(t, c)
			if got := caller(t, r, i.Token()); got != tt.want {
				t.Errorf("got %s, want %s\n%s", got, tt.want, r.log)
			}
			_, _, err := r.CheckUpstreams(t.Context())
			if tt.want != "502" {
				if err != nil {
					t.Errorf("check: %v", err)
				}
				if got := <-agent.conns; got != tt.sni {
					t.Errorf("asked for %q, want %q", got, tt.sni)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.detail) {
				t.Errorf("check: %v", err)
			}
			refused := r.log.lines(t, "refused")
			if len(refused) != 2 {
				t.Fatalf("%d lines", len(refused))
			}
			for _, l := range refused {
				if l["reason"] != "upstream-unreachable" || !strings.Contains(fmt.Sprint(l["err"]), tt.detail) {
					t.Errorf("%v", l)
				}
			}
		})
	}
}

// Two routes to one agent that differ in their TLS share no connection: the agent would take one's
// requests for the other's.
func TestRoutesWithOtherCertificatesShareNoConnection(t *testing.T) {
	dir := t.TempDir()
	root := issue(t, "root", nil, nil)
	writeEntity(t, dir, "root", root)
	for _, name := range []string{"a", "b"} {
		writeEntity(t, dir, name, named(t, name, root, name))
	}
	agent := newPrivate(t, named(t, "agent", root), root)
	c := config.Default()
	c.Listen, c.Admin.Listen, c.Authentication.Enabled = "127.0.0.1:0", "127.0.0.1:0", false
	c.Upstream.IdleTimeout = time.Minute
	for _, name := range []string{"a", "b"} {
		c.Routes = append(c.Routes, config.Route{Path: "/" + name, Upstream: "https://" + agent.addr, UpstreamTLS: config.UpstreamTLS{
			CAFile: filepath.Join(dir, "root.crt"), CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key")}})
	}
	r := run(t, &c)
	for _, name := range []string{"a", "b", "a", "b"} {
		resp, err := http.Get("http://" + r.Addr().String() + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("X-Caller"); got != name {
			t.Errorf("route %s: the agent sees %s", name, got)
		}
	}
	if n := len(agent.conns); n != 2 {
		t.Errorf("%d connections, want one for each route", n)
	}
}

func TestChangedCertificateForAgentsIsUsedAtOnce(t *testing.T) {
	dir := t.TempDir()
	root := issue(t, "root", nil, nil)
	writeEntity(t, dir, "root", root)
	writeEntity(t, dir, "gateway", named(t, "before", root, "before"))
	agent := newPrivate(t, named(t, "agent", root), root)
	i := wstest.NewIssuer(t)
	c := i.Config(agent.addr)
	c.Upstream.IdleTimeout = time.Minute
	c.Routes[0].Upstream = "https://" + agent.addr
	c.Routes[0].UpstreamTLS = config.UpstreamTLS{CAFile: filepath.Join(dir, "root.crt"), CertFile: filepath.Join(dir, "gateway.crt"),
		KeyFile: filepath.Join(dir, "gateway.key")}
	r := run(t, c)
	token := i.Token()
	for range 2 {
		if got := caller(t, r, token); got != "before" {
			t.Fatalf("the agent sees %s", got)
		}
	}
	if n := len(agent.conns); n != 3 { // one for plain HTTP, kept
		t.Errorf("%d connections", n)
	}
	writeEntity(t, dir, "gateway", named(t, "after", root, "after"))
	wstest.Eventually(t, "the new certificate", func() bool { return len(r.log.lines(t, "certificates for agents reloaded")) > 0 })
	if got := caller(t, r, token); got != "after" { // so the kept connection was not used
		t.Errorf("the agent sees %s", got)
	}

	writeFile(t, filepath.Join(dir, "gateway.key"), nil)
	const bad = "certificates for agents not reloaded; the old ones stay"
	wstest.Eventually(t, "a line about the bad key", func() bool { return len(r.log.lines(t, bad)) > 0 })
	if got := caller(t, r, token); got != "after" {
		t.Errorf("with a bad key file the agent sees %s", got)
	}
	if text := fmt.Sprint(r.log.lines(t, bad)[0]["err"]); !strings.Contains(text, "keyFile: ") || !strings.Contains(text, "empty") {
		t.Errorf("%s", text)
	}
}

func TestBadFilesOfUpstreamTLSAreProblemsWithTheirPlaces(t *testing.T) {
	dir := t.TempDir()
	root := issue(t, "root", nil, nil)
	writeEntity(t, dir, "one", named(t, "one", root, "one"))
	writeEntity(t, dir, "two", named(t, "two", root, "two"))
	writeFile(t, filepath.Join(dir, "empty"), nil)
	at := func(name string) string { return filepath.Join(dir, name) }
	file := at("gateway.yaml")
	writeFile(t, file, fmt.Appendf(nil, `authentication: { enabled: false }
routes:
  - path: /a
    upstream: https://a
    upstreamTLS:
      caFile: %s
      certFile: %s
      keyFile: %s
  - path: /b
    upstream: https://b
    upstreamTLS: { caFile: %s, certFile: %s, keyFile: %s }
  - path: /c
    upstream: https://c
    upstreamTLS: { caFile: %s, certFile: %s, keyFile: %s }
`, at("empty"), at("one.crt"), at("two.key"), at("missing"), at("missing"), at("one.key"), at("one.crt"), at("one.crt"), at("one.key")))
	c, err := config.Load(config.Sources{File: file})
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(c, Options{})
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		t.Fatalf("%T %v", err, err)
	}
	var got []string
	for _, p := range problems {
		if p.Hint == "" {
			t.Errorf("no hint: %v", p)
		}
		got = append(got, strings.ReplaceAll(p.Error(), dir+"/", ""))
	}
	want := []string{
		"gateway.yaml:6:7: routes[0].upstreamTLS.caFile: empty: it holds no certificate in PEM form: it is empty; name the right file",
		"gateway.yaml:8:7: routes[0].upstreamTLS.keyFile: two.key: the key does not belong to the certificate in one.crt; take both files",
		"gateway.yaml:11:20: routes[1].upstreamTLS.caFile: open missing: no such file or directory; name a PEM file",
		"gateway.yaml:11:",
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestExpiredCertificateForAgentsIsNamed(t *testing.T) {
	dir := t.TempDir()
	root := issue(t, "root", nil, nil)
	writeEntity(t, dir, "gateway", named(t, "gateway", root, "gateway"))
	c := config.Default()
	c.Authentication.Enabled = false
	to := config.UpstreamTLS{CertFile: filepath.Join(dir, "gateway.crt"), KeyFile: filepath.Join(dir, "gateway.key")}
	for _, name := range []string{"a", "{b}"} { // two ways, and one file
		c.Routes = append(c.Routes, config.Route{Path: "/" + name, Upstream: "https://" + name, UpstreamTLS: to})
	}
	g, err := New(&c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.CheckCertificates(); err != nil {
		t.Error(err)
	}
	err = g.fleet.fault(&c, time.Now().Add(2*time.Hour))
	want := "OMNIA_GATEWAY_ROUTES: routes[0].upstreamTLS.certFile: " + to.CertFile + ": the certificate has expired on "
	if err == nil || !strings.HasPrefix(err.Error(), want) ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}
