package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// balanced is a configuration in which loopback is a load balancer.
func balanced(s settings) settings {
	return s.with("proxyProtocol", settings{"from": []string{"127.0.0.0/8"}})
}

const namesAlice = "PROXY TCP4 192.0.2.7 198.51.100.1 54321 443\r\n"

// The frames that come together with the header and the handshake must not be lost when the relay
// takes the connection over.
func TestProxyProtocolNamesTheClient(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			i, a := newIssuer(t), newAgent(t, nil)
			g := startSecure(t, balanced(plain(i, a.URL)), secure)
			s := g.dialAfter(t, namesAlice)
			s.say(rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t)) +
				string(rawws.Make(rawws.Fin|rawws.Text, []byte("early"), true)))
			if r := s.answer(); r.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("handshake: %s", r.Status)
			}
			if f := s.frame(); string(f.Payload) != "early" {
				t.Fatalf("got %v", f)
			}
			s.echoes("hello")
			if got := a.request(t).Header.Get("X-Forwarded-For"); got != "192.0.2.7" {
				t.Errorf("X-Forwarded-For: %q", got)
			}
			if _, sessions := g.ask("/sessions"); !strings.Contains(sessions, `"192.0.2.7:54321"`) {
				t.Errorf("sessions: %s", sessions)
			}
			s.send(rawws.Fin|rawws.Close, []byte{0x03, 0xe8})
			s.closed(1000)
			g.awaitLine("msg", "ended", "remote", "192.0.2.7:54321")
		})
	}
}

func TestProxyProtocolCountsForTheLimitOfAnAddress(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, balanced(plain(i, a.URL)).with("limits.maxConnectionsPerIP", 1))
	try := func(address string) int {
		s := g.dialAfter(t, strings.Replace(namesAlice, "192.0.2.7", address, 1))
		s.say(rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t)))
		return s.answer().StatusCode
	}
	for _, c := range []struct {
		address string
		status  int
	}{{"192.0.2.7", 101}, {"192.0.2.8", 101}, {"192.0.2.7", 429}} {
		if got := try(c.address); got != c.status {
			t.Errorf("%s: %d, want %d", c.address, got, c.status)
		}
	}
}

// A peer that must send a header and does not gets no answer at all, and the operator a line.
func TestMissingProxyHeaderIsRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, balanced(plain(i, a.URL)))
	s := g.dial(t)
	s.say(rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t)))
	if b, err := io.ReadAll(s.br); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v", b, err)
	}
	g.awaitLine("msg", "no PROXY protocol header", "remote", s.LocalAddr().String())
	a.untouched(t)
}

func TestProxyHeaderThatNeverEndsIsCut(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, balanced(plain(i, a.URL)).with("limits.handshakeTimeout", "200ms"))
	s := g.dial(t)
	s.say("PROXY TCP4 ")
	s.hungUp()
	g.awaitLine("msg", "no PROXY protocol header", "err", "the header is not complete in time")
}

// From any other network the bytes are what they are: a header is no HTTP.
func TestProxyHeaderOfAStrangerIsNotBelieved(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL).with("proxyProtocol", settings{"from": []string{"192.0.2.0/24"}}))
	s := g.dialAfter(t, namesAlice)
	s.say(rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t)))
	if r := s.answer(); r.StatusCode != http.StatusBadRequest {
		t.Errorf("got %s", r.Status)
	}
	a.untouched(t)
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("without a header it is served")
}

// TestProxyProtocolOfHAProxy has a real load balancer write the header, in both versions, also for
// its own health checks.
func TestProxyProtocolOfHAProxy(t *testing.T) {
	needs(t, "haproxy")
	for _, send := range []string{"send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"} {
		t.Run(send, func(t *testing.T) {
			i, a := newIssuer(t), newAgent(t, nil)
			g := start(t, balanced(plain(i, a.URL)))
			front := freeAddress(t)
			file := filepath.Join(t.TempDir(), "haproxy.cfg")
			config := fmt.Sprintf("defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"+
				"listen front\n bind %s\n server gateway %s %s check inter 100ms\n", front, g.public, send)
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			run := exec.Command("haproxy", "-db", "-q", "-f", file)
			if err := run.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { run.Process.Kill(); run.Wait() })
			eventually(t, "there", func() bool {
				c, err := net.Dial("tcp", front)
				if err == nil {
					c.Close()
				}
				return err == nil
			})
			balancer := *g
			balancer.public = front
			s := balancer.connect(t, "/my-agent/ws", i.bearer(t))
			s.echoes("through a load balancer")
			if _, sessions := g.ask("/sessions"); !strings.Contains(sessions, `"`+s.LocalAddr().String()+`"`) {
				t.Errorf("the client is %s; sessions: %s", s.LocalAddr(), sessions)
			}
		})
	}
}

// freeAddress is an address of loopback on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The second listener shows no client's name.
func TestMetricsListenerHasHealthAndMetricsAlone(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL).with("admin.metricsListen", "127.0.0.1:0"))
	metrics := *g
	metrics.admin = g.awaitLine("msg", "listening")["metrics"].(string)
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/metrics": 200, "/sessions": 404, "/debug/pprof/": 404, "/debug/pprof/heap": 404, "/": 404,
	} {
		if code, body := metrics.ask(path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	if code, _ := g.ask("/sessions"); code != 200 {
		t.Errorf("/sessions of the admin listener: %d", code)
	}
}
