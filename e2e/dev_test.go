package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// developer is somebody who has started omnia-gateway dev and reads what it prints.
type developer struct {
	t       *testing.T
	printed string
	after   time.Duration // of the start, until all of it was there
}

// startDev starts a command that runs dev and reads up to the last line that is printed. When the test ends it gets Ctrl-C.
func startDev(t *testing.T, command ...string) *developer {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = environment()
	cmd.Dir = ".." // as in a checkout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log := newLogLines()
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	giveUp := time.AfterFunc(time.Minute, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) // go run may have to build
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) // a terminal tells the whole group
		err := cmd.Wait()
		giveUp.Stop()
		if err != nil && command[0] != "go" { // go run itself ends with 1 then
			t.Errorf("dev ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of dev:\n%s", log.text())
		}
	})
	d := &developer{t: t}
	for in := bufio.NewScanner(stdout); in.Scan(); {
		d.printed += in.Text() + "\n"
		if strings.HasPrefix(in.Text(), "Ctrl-C") {
			d.after = time.Since(began)
			return d
		}
	}
	t.Fatalf("dev has ended, having printed\n%s", d.printed)
	return nil
}

// line is the one line to paste that matches.
func (d *developer) line(pattern string) string {
	d.t.Helper()
	found := regexp.MustCompile("(?m)^  .*"+pattern+".*$").FindAllString(d.printed, -1)
	if len(found) != 1 {
		d.t.Fatalf("%d lines for %s in\n%s", len(found), pattern, d.printed)
	}
	return found[0]
}

// word is what the group of a pattern finds in all that was printed.
func (d *developer) word(pattern string) string {
	d.t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(d.printed)
	if found == nil {
		d.t.Fatalf("no %s in\n%s", pattern, d.printed)
	}
	return found[1]
}

// paste pastes a line into a shell.
func (d *developer) paste(t *testing.T, line string) (string, error) {
	t.Helper()
	cmd := client(t, "bash", "-c", line)
	cmd.Dir = ".."
	return run(t, cmd)
}

// token asks the issuer for one, at the address which was printed.
func (d *developer) token(fields url.Values) string {
	d.t.Helper()
	return tokenFrom(d.t, d.word(`curl -s (http://\S+/token) `), fields)
}

// tokenFrom asks an issuer for development for a token.
func tokenFrom(t *testing.T, address string, fields url.Values) string {
	t.Helper()
	r, err := http.PostForm(address, fields)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("no token, but %s, %v", r.Status, err)
	}
	return answer.AccessToken
}

func TestDevIsReadyWithinTwoSeconds(t *testing.T) {
	d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0")
	t.Logf("dev had printed everything %v after its start", d.after)
	if d.after > 2*time.Second {
		t.Errorf("that took %v", d.after)
	}
}

func TestLinesOfDevWorkAsPasted(t *testing.T) {
	for mode, args := range map[string][]string{"plain": nil, "TLS": {"--tls"}} {
		t.Run(mode, func(t *testing.T) {
			d := startDev(t, append([]string{binary, "dev", "--listen", "127.0.0.1:0"}, args...)...)
			for _, tool := range []string{"wscat", "websocat"} {
				t.Run(tool, func(t *testing.T) {
					needs(t, tool)
					out, err := d.paste(t, d.line(`\b`+tool+`\b`))
					if err != nil || !strings.Contains(out, `{"type":"echo","user":"dev-user","text":"hello`) {
						t.Errorf("it ended with %v and\n%s", err, out)
					}
				})
			}
			t.Run("explain", func(t *testing.T) {
				out, err := d.paste(t, d.line("explain"))
				if err != nil || !strings.Contains(out, "\nlet through: ok\n") {
					t.Errorf("it ended with %v and\n%s", err, out)
				}
			})
			t.Run("curl", func(t *testing.T) {
				needs(t, "curl")
				out, err := d.paste(t, d.word(`a fresh one: (.*)\):`))
				if err != nil || !strings.Contains(out, `"access_token"`) {
					t.Errorf("it ended with %v and\n%s", err, out)
				}
			})
		})
	}
}

func TestExplainNamesTheCheckThatFails(t *testing.T) {
	d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0")
	good := d.word(`--token (\S+)`)
	parts := strings.Split(good, ".")
	another := func(letter byte) string { return map[bool]string{true: "B", false: "A"}[letter == 'A'] }
	signature, last := parts[2], len(parts[2])-1
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	mallory := base64.RawURLEncoding.EncodeToString([]byte(strings.ReplaceAll(string(payload), "dev-user", "mallory")))
	for name, tt := range map[string]struct{ token, check, reason string }{
		"another letter in the signature":  {parts[0] + "." + parts[1] + "." + signature[:40] + another(signature[40]) + signature[41:], "signature", "bad-signature"},
		"another user in the payload":      {parts[0] + "." + mallory + "." + signature, "signature", "bad-signature"},
		"expired":                          {d.token(url.Values{"broken": {"expired"}}), "times", "expired"},
		"the last letter, of unused bits":  {good[:len(good)-1] + string(signature[last]+1), "form", "malformed"},
		"another letter in the header":     {another(good[0]) + good[1:], "form", "malformed"},
		"no token":                         {`""`, "token", "no-token"},
		"for another audience":             {d.token(url.Values{"aud": {"somebody-else"}}), "audience", "wrong-audience"},
		"without the scope that is needed": {d.token(url.Values{"scope": {"agents:look"}}), "rule", "claim-mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := d.paste(t, strings.Replace(d.line("explain"), good, tt.token, 1))
			named := regexp.MustCompile(`(?m)^✗ ` + tt.check + ` .*\S.* \(` + tt.reason + `\)$`)
			if err == nil || !named.MatchString(out) || !strings.Contains(out, "\nrefused: "+tt.reason+", ") {
				t.Errorf("it ended with %v and\n%s", err, out)
			}
			t.Log(named.FindString(out))
		})
	}
}

func TestExplainLineCallsTheProgramThatRuns(t *testing.T) {
	t.Run("by its path", func(t *testing.T) {
		d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0")
		if line := d.line("explain"); !strings.HasPrefix(line, "  "+binary+" explain ") {
			t.Error(line)
		}
	})
	t.Run("by its name", func(t *testing.T) {
		t.Setenv("PATH", filepath.Dir(binary)+string(filepath.ListSeparator)+os.Getenv("PATH"))
		d := startDev(t, "omnia-gateway", "dev", "--listen", "127.0.0.1:0")
		if line := d.line("explain"); !strings.HasPrefix(line, "  omnia-gateway explain ") {
			t.Error(line)
		}
	})
	t.Run("by go run", func(t *testing.T) {
		d := startDev(t, "go", "run", "./cmd/omnia-gateway", "dev", "--listen", "127.0.0.1:0")
		line := d.line("explain")
		if !strings.HasPrefix(line, "  go run ./cmd/omnia-gateway explain ") {
			t.Fatal(line)
		}
		if out, err := d.paste(t, line); err != nil || !strings.Contains(out, "\nlet through: ok\n") {
			t.Errorf("it ended with %v and\n%s", err, out)
		}
	})
}
