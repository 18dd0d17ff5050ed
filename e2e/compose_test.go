package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// composition is docker-compose.yml, brought up.
type composition struct {
	t   *testing.T
	env []string
}

// bringUp starts an engine if none answers, builds the image and starts all that
// docker-compose.yml names. When the test ends all of it is removed again.
func bringUp(t *testing.T) *composition {
	t.Helper()
	needs(t, "docker")
	env, err := toolbox()
	if err != nil {
		t.Fatal(err)
	}
	c := &composition{t, append(env, "TMPDIR="+t.TempDir())} // so that no other test uses the engine
	t.Cleanup(func() { c.must(time.Minute, "engine.sh", "stop") })
	if out, err := c.run(5*time.Minute, "engine.sh"); err != nil {
		unable(t, fmt.Sprintf("no Docker engine could be started: %v: %s", err, out[strings.LastIndex(out, "\n")+1:]))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.must(time.Minute, "compose.sh", "logs", "--no-color"))
		}
		c.must(time.Minute, "compose.sh", "down", "--volumes")
	})
	began := time.Now()
	c.must(5*time.Minute, "compose.sh", "up", "--build", "--detach")
	t.Logf("up in %v", time.Since(began).Round(time.Second))
	return c
}

// run runs a script of e2e/docker and gives what it printed, and if it failed the end of its
// complaints.
func (c *composition) run(limit time.Duration, script string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit) // not that of the test, which has ended when this cleans up
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker/"+script, args...)
	cmd.Env = c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		return said[max(0, len(said)-4000):], err
	}
	return strings.TrimSpace(string(out)), nil
}

// must is run for what has to succeed.
func (c *composition) must(limit time.Duration, script string, args ...string) string {
	c.t.Helper()
	out, err := c.run(limit, script, args...)
	if err != nil {
		c.t.Fatalf("%s %s: %v: %s", script, strings.Join(args, " "), err, out)
	}
	return out
}

func TestDockerCompose(t *testing.T) {
	c := bringUp(t)
	for _, service := range []string{"issuer", "agent", "gateway"} {
		eventually(t, service+" healthy", func() bool {
			return strings.Contains(c.must(patience, "compose.sh", "ps", service), "(healthy)")
		})
	}
	issuer := c.must(patience, "compose.sh", "port", "issuer", "9000")
	gateway := c.must(patience, "compose.sh", "port", "gateway", "8080")
	bearer := "Authorization: Bearer " + tokenFrom(t, "http://"+issuer+"/token", url.Values{"sub": {"alice"}})

	t.Run("wscat reaches the agent as the user of its token", func(t *testing.T) {
		needs(t, "wscat")
		hears(t, `{"type":"echo","user":"alice","text":"hello","token":"verified"}`, client(t, "wscat", "-c", "ws://"+gateway+"/echo/ws",
			"-H", bearer, "-H", "x-user-id: mallory", "-x", "hello", "-w", "-1"))
	})
	for name, tt := range map[string]struct {
		path    string
		headers []string
		status  int
		want    string
	}{
		"plain HTTP reaches the agent":    {"/echo/anything", []string{bearer}, 200, `"path": "/anything"`},
		"a header cannot be another user": {"/echo/anything", []string{bearer, "x-user-id: mallory", "x_user_id: mallory"}, 200, `"alice"`},
		"no token, no agent":              {"/echo/anything", nil, 401, "no-token"},
		"a header is no token":            {"/echo/anything", []string{"x-user-id: mallory"}, 401, "no-token"},
		"the page is there for everybody": {"/dev/", nil, 200, "<title>omnia-gateway dev</title>"},
		"the issuer's name is its own":    {"/dev/.well-known/openid-configuration", nil, 200, `"http://issuer:9000"`},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := get(t, "http://"+gateway+tt.path, tt.headers...)
			if status != tt.status || !strings.Contains(body, tt.want) || strings.Contains(body, "mallory") {
				t.Errorf("got %d %s", status, body)
			}
		})
	}
}

// get is the answer to a request with some headers.
func get(t *testing.T, address string, headers ...string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	client := http.Client{Timeout: patience}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, b.String()
}
