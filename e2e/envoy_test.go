package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// mesh is a pair of Envoys in front of a gateway: Istio's ingress gateway, and the sidecar of the
// gateway's pod.
type mesh struct {
	*gateway
	ingress, admin string
}

// inMesh is a configuration for a gateway with a sidecar, which connects from 127.0.0.6.
func inMesh(s settings) settings {
	return s.with("trustedProxies", []string{"127.0.0.6/32"}).with("admin.metricsListen", "127.0.0.1:0")
}

// newMesh starts the Envoys before a gateway and waits until they listen.
func newMesh(t *testing.T, g *gateway) *mesh {
	t.Helper()
	needs(t, "envoy")
	m := &mesh{gateway: g, ingress: freeAddress(t), admin: freeAddress(t)}
	text := read(t, "envoy/mesh.yaml")
	for name, address := range map[string]string{"INGRESS": m.ingress, "SIDECAR": freeAddress(t), "GATEWAY": g.public, "ADMIN": m.admin} {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		text = strings.NewReplacer(name+"_HOST", host, name+"_PORT", port).Replace(text)
	}
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := newLogLines()
	envoy := client(t, "envoy", "--config-path", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error")
	envoy.Stdout, envoy.Stderr = log, log
	if err := envoy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		envoy.Process.Kill()
		envoy.Wait()
		if t.Failed() {
			t.Logf("log of Envoy:\n%s", log.text())
		}
	})
	eventually(t, "listening", func() bool {
		r, err := http.Get("http://" + m.admin + "/ready")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	return m
}

// dialFrom connects to the ingress gateway from an address of loopback.
func (m *mesh) dialFrom(t *testing.T, address string) *socket {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	c, err := d.Dial("tcp", m.ingress)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return &socket{c, t, bufio.NewReader(c)}
}

// connectFrom opens a WebSocket from an address of loopback.
func (m *mesh) connectFrom(t *testing.T, address string, lines ...string) (*socket, int) {
	t.Helper()
	s := m.dialFrom(t, address)
	s.say(rawws.Request("agents.example.com", "/my-agent/ws", lines...))
	return s, s.answer().StatusCode
}

func TestWscatThroughTheMesh(t *testing.T) {
	needs(t, "wscat", "envoy")
	i, a := newIssuer(t), newAgent(t, nil)
	m := newMesh(t, start(t, inMesh(plain(i, a.URL))))
	hears(t, "hello through the mesh", client(t, "wscat", "-c", "ws://"+m.ingress+"/my-agent/ws", "-H", i.bearer(t),
		"-x", "hello through the mesh", "-w", "-1"))
	if got := a.request(t).Header.Get("X-User-Id"); got != "alice" {
		t.Errorf("x-user-id: %q", got)
	}
	out, err := run(t, client(t, "wscat", "-c", "ws://"+m.ingress+"/my-agent/ws", "-x", "no token"))
	if err == nil || !strings.Contains(out, "Unexpected server response: 401") {
		t.Errorf("without a token: %v: %s", err, out)
	}
}

// The ingress gateway appends the client's address to what the client itself has claimed; the
// sidecar leaves it as it is, and the gateway trusts the sidecar alone.
func TestMeshNamesTheClient(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	m := newMesh(t, start(t, inMesh(plain(i, a.URL)).with("limits.maxConnectionsPerIP", 1)))
	for _, c := range []struct {
		address string
		status  int
	}{{"127.0.0.9", 101}, {"127.0.0.10", 101}, {"127.0.0.9", 429}} {
		if _, status := m.connectFrom(t, c.address, i.bearer(t), "X-Forwarded-For: 192.0.2.66"); status != c.status {
			t.Errorf("%s: %d, want %d", c.address, status, c.status)
		}
	}
	if got := a.request(t).Header.Get("X-Forwarded-For"); !strings.Contains(got, "127.0.0.9") {
		t.Errorf("X-Forwarded-For: %q", got)
	}
	_, sessions := m.ask("/sessions")
	if !strings.Contains(sessions, `"client": "127.0.0.9"`) || strings.Contains(sessions, `"client": "192.0.2.66"`) {
		t.Errorf("sessions: %s", sessions)
	}
}

// A session outlives both drains until the gateway ends it: first Istio's agent drains the
// sidecar, which must not cut sessions, then the gateway says goodbye, and the Envoys pass it
// on.
func TestMeshDrainsBeforeTheGatewayAndCarriesItsClose(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, inMesh(plain(i, a.URL)))
	m := newMesh(t, g)
	probe := *g
	probe.admin = g.awaitLine("msg", "listening")["metrics"].(string)
	s, status := m.connectFrom(t, "127.0.0.1", i.bearer(t))
	if status != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %d", status)
	}
	s.echoes("before")
	if code, _ := probe.ask("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz before the drain: %d", code)
	}
	r, err := http.Post("http://"+m.admin+"/drain_listeners?inboundonly&graceful&skip_exit", "", nil)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("drain of the sidecar: %v %v", err, r)
	}
	r.Body.Close()
	s.echoes("while the sidecar drains")
	go g.stop()
	if reason := s.closed(1001); reason != "drain" {
		t.Errorf("Close with reason %q", reason)
	}
	<-g.ended
	if _, status := m.connectFrom(t, "127.0.0.1", i.bearer(t)); status != http.StatusServiceUnavailable {
		t.Errorf("a handshake when the gateway has gone: %d", status)
	}
}

// While the gateway drains, /readyz of its own listener says so to the kubelet, and a client that
// still comes through the Envoys gets the gateway's word.
func TestHandshakeThroughTheMeshDuringADrain(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, func(v *visit) { v.accept(); io.Copy(io.Discard, v) })
	g := start(t, inMesh(plain(i, a.URL)))
	m := newMesh(t, g)
	probe := *g
	probe.admin = g.awaitLine("msg", "listening")["metrics"].(string)
	if _, status := m.connectFrom(t, "127.0.0.1", i.bearer(t)); status != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %d", status)
	}
	go g.stop() // the session above does not answer its Close, so the drain takes its time
	eventually(t, "not ready", func() bool { code, _ := probe.ask("/readyz"); return code == http.StatusServiceUnavailable })
	s := m.dialFrom(t, "127.0.0.1")
	s.say(rawws.Request("agents.example.com", "/my-agent/ws", i.bearer(t)))
	if r := s.answer(); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("got %s, Retry-After %q", r.Status, r.Header.Get("Retry-After"))
	}
	<-g.ended
}

// resolvedByEnvoy are the vectors whose path Envoy rewrites before the gateway sees it: dot
// segments and backslashes, with which Istio's normalize_path deals. The gateway refuses such a
// path when it gets it, and judges the rewritten one like any other.
var resolvedByEnvoy = []string{
	"dotdot-above-root", "dotdot-into-healthz", "dotdot-semicolon", "encoded-dotdot-into-healthz", "healthz-dot-at-end",
	"healthz-dotdot-root", "healthz-dotdot-to-agent", "prefix-pattern-backslash-escape", "prefix-pattern-dotdot-escape", "raw-backslash",
}

// TestVectorsThroughTheMesh runs the authorization vectors with the Envoys in front of each
// gateway.
func TestVectorsThroughTheMesh(t *testing.T) {
	needs(t, "envoy", "sed", "grep")
	dir := t.TempDir()
	runner, wrapper := filepath.Join(dir, "vectest"), filepath.Join(dir, "gateway.sh")
	if out, err := client(t, "go", "build", "-C", "vectest", "-o", runner, ".").CombinedOutput(); err != nil {
		t.Fatalf("build vectest: %v\n%s", err, out)
	}
	envoy, err := client(t, "bash", "-c", "command -v envoy").Output()
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := filepath.Abs("envoy/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer("GATEWAY \"", binary+" \"", "ENVOY --", strings.TrimSpace(string(envoy))+" --", " MESH >", " "+mesh+" >")
	if err := os.WriteFile(wrapper, []byte(script.Replace(read(t, "envoy/gateway.sh"))), 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("vectors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	cmd := exec.Command(runner, append([]string{"-bin", wrapper, "-dir", filepath.Join(dir, "runs")}, files...)...)
	cmd.Env = environment()
	out, _ := cmd.CombinedOutput()
	var differ []string
	for _, line := range regexp.MustCompile(`(?m)^([a-z0-9-]+): expected`).FindAllSubmatch(out, -1) {
		differ = append(differ, string(line[1]))
	}
	slices.Sort(differ)
	if !slices.Equal(differ, resolvedByEnvoy) || !regexp.MustCompile(`(?m)^[1-9]\d\d passed, 10 failed$`).Match(out) {
		t.Errorf("other verdicts differ than those that Envoy changes:\n%s", out)
	}
}
