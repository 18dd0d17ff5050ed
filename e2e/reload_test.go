package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// rewrite replaces the gateway's configuration file, as an editor does.
func (g *gateway) rewrite(s settings) {
	g.t.Helper()
	if err := os.Rename(s.write(g.t), g.file); err != nil {
		g.t.Fatal(err)
	}
}

// command asks the admin listener for a change and decodes the answer.
func (g *gateway) command(method, path, body string, out any) (code int) {
	g.t.Helper()
	r, err := http.NewRequest(method, "http://"+g.admin+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer answer.Body.Close()
	if out != nil {
		if err := json.NewDecoder(answer.Body).Decode(out); err != nil {
			g.t.Fatalf("%s %s: %s: %v", method, path, answer.Status, err)
		}
	}
	return answer.StatusCode
}

// rule returns s with one claim required.
func (s settings) rule(claim string, values ...string) settings {
	return s.with("authentication.authorization.requiredClaims", []any{settings{"claim": claim, "values": values}})
}

func TestConfigurationFileIsWatched(t *testing.T) {
	i := newIssuer(t)
	s := plain(i, newAgent(t, nil).URL).with("session.reloadSpread", "0s")
	g := start(t, s)
	live := g.connect(t, "/my-agent/ws", i.bearer(t))
	live.echoes("before")

	g.rewrite(settings{"listen": g.public, "rooutes": 1})
	line := g.awaitLine("msg", "configuration not reloaded; the old one stays")
	if text := fmt.Sprint(line["problems"]); !strings.Contains(text, `did you mean "routes"?`) {
		t.Errorf("the log says %s", text)
	}
	if code, body := g.ask("/readyz"); code != 200 || !strings.Contains(body, "rooutes") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	live.echoes("a bad file changes nothing")

	g.rewrite(s.rule("roles", "nobody"))
	g.awaitLine("msg", "configuration reloaded", "ending", 1)
	if word := live.closed(3003); word != "claim-mismatch" {
		t.Errorf("reason %q", word)
	}
	g.awaitLine("msg", "ended", "reason", "claim-mismatch", "code", 3003)
	g.refused(t, 403, "claim-mismatch", "/my-agent/ws", i.bearer(t))
	if code, body := g.ask("/readyz"); code != 200 || strings.Contains(body, "problems") {
		t.Errorf("/readyz: %d %s", code, body)
	}
}

func TestConfigMapIsFollowedThroughItsSymlinks(t *testing.T) {
	i := newIssuer(t)
	s := plain(i, newAgent(t, nil).URL).with("session.reloadSpread", "0s")
	dir := t.TempDir()
	swap := func(generation string, s settings) { // as the kubelet does it
		text, err := yaml.Marshal(map[string]any(s))
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, generation), 0o755),
			os.WriteFile(filepath.Join(dir, generation, "gateway.yaml"), text, 0o644),
			os.Symlink(generation, filepath.Join(dir, "..next")),
			os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	swap("..1", s)
	file := filepath.Join(dir, "gateway.yaml")
	if err := os.Symlink("..data/gateway.yaml", file); err != nil {
		t.Fatal(err)
	}
	g := startFile(t, file)
	g.awaitReady()
	live := g.connect(t, "/my-agent/ws", i.bearer(t))
	for n := 2; n <= 4; n++ { // also when the folder that was watched first has gone
		swap(fmt.Sprintf("..%d", n), s.rule("sub", "alice", fmt.Sprint(n)))
		g.awaitLine("msg", "configuration reloaded", "ending", 0)
		g.log.forget()
		os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..%d", n-1)))
		live.echoes("still here")
	}
	swap("..5", s.rule("sub", "bob"))
	live.closed(3003)
}

func TestSIGHUPReloads(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL))
	g.cmd.Process.Signal(syscall.SIGHUP)
	g.awaitLine("msg", "configuration reloaded")
}

func TestReloadNamesWhatNeedsARestart(t *testing.T) {
	i := newIssuer(t)
	s := plain(i, newAgent(t, nil).URL)
	g := start(t, s)
	g.rewrite(s.with("log.level", "debug").with("listen", "127.0.0.1:1").rule("roles", "nobody"))
	var answer struct{ NeedsRestart []string }
	if code := g.command("POST", "/reload", "", &answer); code != 422 || fmt.Sprint(answer.NeedsRestart) != "[listen log.level]" {
		t.Errorf("%d %v", code, answer)
	}
	g.connect(t, "/my-agent/ws", i.bearer(t)) // the rule of that file is not applied either
}

func TestCheckLiveTellsWhatAReloadWouldDo(t *testing.T) {
	i := newIssuer(t)
	s := plain(i, newAgent(t, nil).URL)
	g := start(t, s)
	g.connect(t, "/my-agent/ws", i.bearer(t))
	live := g.connect(t, "/my-agent/ws", i.bearer(t, "sub", "bob"))
	check := func(s settings) (out string, code int) {
		cmd := exec.Command(binary, "check", "--config", s.write(t), "--live", "--admin", g.admin)
		cmd.Env = environment()
		b, _ := cmd.CombinedOutput()
		return string(b), cmd.ProcessState.ExitCode()
	}
	const one = "a reload would end 1 of 2 live sessions: 1 claim-mismatch\n"
	if out, code := check(s.rule("sub", "bob")); code != 0 || !strings.Contains(out, one) {
		t.Errorf("%d: %s", code, out)
	}
	if out, code := check(s); code != 0 || !strings.Contains(out, "a reload would end 0 of 2 live sessions\n") {
		t.Errorf("%d: %s", code, out)
	}
	if out, code := check(s.with("log.level", "debug")); code != 1 || !strings.Contains(out, "needs a restart: log.level") {
		t.Errorf("%d: %s", code, out)
	}
	live.echoes("asking changes nothing")
}

// TestReloadUnderLoad reloads ten times while every session streams. The rule of the sixth excludes
// one user in five; nothing of the others is lost, and no key is fetched again.
func TestReloadUnderLoad(t *testing.T) {
	sessions := 500
	if raceEnabled || testing.Short() {
		sessions = 100
	}
	i := newIssuer(t)
	s := plain(i, newAgent(t, nil).URL).with("session.reloadSpread", "1s")
	g := start(t, s)
	asked := i.asked.Load()
	var stop atomic.Bool
	var wg sync.WaitGroup
	excluded, kept, moved := atomic.Int64{}, atomic.Int64{}, atomic.Int64{}
	fault := func(format string, a ...any) { t.Errorf(format, a...); stop.Store(true) }
	for n := range sessions {
		group := fmt.Sprintf("g%d", n%5)
		c := g.connect(t, "/my-agent/ws", i.bearer(t, "sub", fmt.Sprint("user", n), "group", group))
		wg.Go(func() {
			c.SetDeadline(time.Now().Add(3 * patience))
			pace := time.NewTicker(100 * time.Millisecond)
			defer pace.Stop()
			payload := bytes.Repeat([]byte{byte(n)}, 900)
			for k := 0; !stop.Load() || group == "g4"; k++ { // the excluded go on until they are told
				sent := fmt.Appendf(nil, "%d %d %s", n, k, payload)
				if _, err := c.Write(rawws.Make(rawws.Fin|rawws.Binary, sent, true)); err != nil {
					fault("session %d: %v", n, err)
					return
				}
				f, err := rawws.Read(c.br)
				switch {
				case err != nil:
					fault("session %d: %v", n, err)
					return
				case f.Op() == rawws.Close:
					if group != "g4" || f.Code() != 3003 {
						fault("session %d of %s was told %v", n, group, f)
					}
					excluded.Add(1)
					return
				case !bytes.Equal(f.Payload, sent):
					fault("session %d: message %d came back changed", n, k)
					return
				}
				moved.Add(1)
				<-pace.C
			}
			kept.Add(1)
		})
	}
	for n := 1; n <= 10; n++ {
		next := s.rule("group", "g0", "g1", "g2", "g3", "g4", fmt.Sprint(n))
		if n >= 6 {
			next = s.rule("group", "g0", "g1", "g2", "g3", fmt.Sprint(n))
		}
		g.rewrite(next)
		var answer struct{ Ending map[string]int }
		code := g.command("POST", "/reload", "", &answer)
		if code != 200 || n < 6 && len(answer.Ending) != 0 || n == 6 && answer.Ending["claim-mismatch"] != sessions/5 {
			t.Errorf("reload %d: %d %v", n, code, answer)
		}
	}
	eventually(t, "rid of the excluded", func() bool { return excluded.Load() == int64(sessions/5) || stop.Load() })
	stop.Store(true)
	wg.Wait()
	again := i.asked.Load() - asked
	if excluded.Load() != int64(sessions/5) || kept.Load() != int64(sessions*4/5) || again != 0 {
		t.Errorf("%d ended and %d stayed of %d; keys were asked for %d times more", excluded.Load(), kept.Load(), sessions, again)
	}
	t.Logf("%d messages came back unchanged", moved.Load())
}
