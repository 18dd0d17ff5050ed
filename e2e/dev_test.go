package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// developer has started omnia-gateway dev and reads what it prints.
type developer struct {
	t       *testing.T
	printed string
	after   time.Duration // of the start, until all of it was there
}

// startDev starts a command that runs dev and reads up to the last line that is printed. When
// the test ends it gets Ctrl-C.
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

// paste pastes lines into a shell.
func (d *developer) paste(t *testing.T, lines ...string) (string, error) {
	t.Helper()
	cmd := client(t, "bash", "-c", strings.Join(lines, "\n"))
	cmd.Dir = ".."
	return run(t, cmd)
}

// atTerminal pastes lines into the shell of a terminal: only there does wscat show how a
// connection ended.
func (d *developer) atTerminal(t *testing.T, lines ...string) (string, error) {
	t.Helper()
	cmd := client(t, "script", "--quiet", "--return", "--command", strings.Join(lines, "\n"), "/dev/null")
	cmd.Env = append(cmd.Env, "SHELL=/bin/bash")
	cmd.Dir = ".."
	return run(t, cmd)
}

// page is the address of the page.
func (d *developer) page() string { return d.word(`In a browser:\n\n  (\S+)`) }

// export is the line that makes $TOKEN.
func (d *developer) export() string { return d.line("export TOKEN") }

// token asks the issuer for one, at the address which was printed.
func (d *developer) token(fields url.Values) string {
	d.t.Helper()
	return tokenFrom(d.t, d.word(`The issuer is (\S+);`)+"/token", fields)
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
			needs(t, "curl")
			for tool, pattern := range map[string]string{"wscat": `\bwscat .*-x hello`, "websocat": `\bwebsocat\b`} {
				t.Run(tool, func(t *testing.T) {
					needs(t, tool)
					out, err := d.paste(t, d.export(), d.line(pattern))
					echo := regexp.MustCompile(`\{"type":"echo","user":"dev-user","text":"hello.*","token":"verified"\}`)
					if err != nil || !echo.MatchString(out) {
						t.Errorf("it ended with %v and\n%s", err, out)
					}
				})
			}
			t.Run("wscat until the token ends", func(t *testing.T) {
				needs(t, "wscat", "script")
				out, err := d.atTerminal(t, strings.Replace(d.line("lifetime=10"), "lifetime=10", "lifetime=6", 1))
				if err != nil || !strings.Contains(out, `"user":"alice","roles":"admin","token":"verified"`) ||
					!strings.Contains(out, `Disconnected (code: 3000, reason: "expired")`) {
					t.Errorf("it ended with %v and\n%s", err, out)
				}
			})
			t.Run("explain", func(t *testing.T) {
				out, err := d.paste(t, d.export(), d.line("explain"))
				if err != nil || !strings.Contains(out, "\nlet through: ok\n") {
					t.Errorf("it ended with %v and\n%s", err, out)
				}
			})
		})
	}
}

// TestTryItOfTheREADME pastes the lines of the README's section, one after the other. The ports
// are those of the machine that tests.
func TestTryItOfTheREADME(t *testing.T) {
	needs(t, "curl", "wscat", "websocat")
	_, section, _ := strings.Cut(read(t, "../README.md"), "\n## Try it\n")
	section, _, _ = strings.Cut(section, "\n### ")
	blocks := fence.FindAllStringSubmatch(section, -1)
	kind := func(name string) (found []string) {
		for _, b := range blocks {
			if b[1] == name {
				found = append(found, strings.TrimSpace(b[2]))
			}
		}
		return found
	}
	shell, shown, console := kind("sh"), kind(""), kind("js")
	if len(shell) != 2 || len(shown) != 1 || len(console) != 1 {
		t.Fatalf("%d blocks for a shell, %d of output, %d for a browser's console; want 2, 1, 1", len(shell), len(shown), len(console))
	}
	run, _, _ := strings.Cut(shell[0], " #")
	d := startDev(t, append(strings.Fields(run), "--listen", "127.0.0.1:0")...)
	at := d.word(`The gateway is at ws://([^/]+)/echo/ws,`)
	t.Run("in a terminal", func(t *testing.T) {
		out, err := d.paste(t, strings.ReplaceAll(shell[1], "127.0.0.1:8080", at))
		if err != nil {
			t.Errorf("the lines ended with %v", err)
		}
		for line := range strings.SplitSeq(shown[0], "\n") {
			if !strings.Contains(out, line+"\n") {
				t.Errorf("no %s in\n%s", line, out)
			}
		}
	})
	t.Run("in the console of any page of this machine", func(t *testing.T) {
		const hello = `{"type":"connected","user":"dev-user","roles":"user","token":"verified"}`
		typeIn(t, anotherOrigin(t), hello, strings.Split(strings.ReplaceAll(console[0], "127.0.0.1:8080", at), "\n")...)
	})
}

// anotherOrigin is a page that is served on a port of its own, such as a front end under
// development.
func anotherOrigin(t *testing.T) (address string) {
	t.Helper()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<!doctype html><title>a front end</title>")
	}))
	t.Cleanup(page.Close)
	return page.URL
}

// Agents on real libraries, as a developer has them.
func TestDevServesTheDevelopersOwnAgent(t *testing.T) {
	for name, tt := range map[string]struct{ needs, command, file string }{
		"Node":   {"wscat", "node", "clients/agent.js"}, // wscat is installed with ws
		"Python": {"websockets", "python3", "clients/agent.py"},
	} {
		t.Run(name, func(t *testing.T) {
			needs(t, "curl", "wscat", tt.needs, tt.command)
			port := newSpeaker(t, clientFor(t, 5*patience, tt.command, tt.file)).next() // for all that follows
			d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0", "--upstream", "ws://127.0.0.1:"+port+"/chat")
			at := d.word(`The gateway is at (ws://\S+/chat), before your agent at http://127.0.0.1:` + port)
			t.Run("from wscat", func(t *testing.T) {
				out, err := d.paste(t, d.export(), d.line(`\bwscat .*-x hello`))
				if err != nil || !strings.Contains(out, `"dev-user"`) || !strings.Contains(out, "hello\n") {
					t.Errorf("it ended with %v and\n%s", err, out)
				}
			})
			t.Run("from a page on another port", func(t *testing.T) {
				typeIn(t, anotherOrigin(t), "hello from a page",
					`token = await (await fetch("`+d.word(`export TOKEN=\$\(curl -s (\S+)\)`)+`")).text()`,
					`ws = new WebSocket("`+at+`", ["bearer", token])`,
					`ws.onmessage = event => console.log(event.data)`,
					`await new Promise(resolve => ws.readyState === 1 ? resolve() : ws.onopen = resolve)`,
					`ws.send("hello from a page")`)
			})
			t.Run("on the page of dev", func(t *testing.T) {
				s := browse(t, d.page(), "fresh")["fresh"]
				if !s.Opened || s.Protocol != "bearer" || !slices.Contains(s.Frames, "hello from Chromium") || s.Code != "1000" {
					t.Errorf("the page shows %+v", s)
				}
			})
		})
	}
}

func TestDevNotesAnAgentThatIsNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0", "--upstream", "http://"+at)
	if want := "Nothing answers at http://" + at + " yet: start your agent.\n"; !strings.Contains(d.printed, want) {
		t.Errorf("no %q in\n%s", want, d.printed)
	}
}

func TestDevTakesAnotherPortIfItsOwnIsInUse(t *testing.T) {
	for _, port := range []string{"8080", "9000"} {
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil { // else it is in use already
			defer l.Close()
		}
	}
	d := startDev(t, binary, "dev")
	for port, pattern := range map[string]string{"8080": `at ws://127.0.0.1:(\d+)/`, "9000": `The issuer is http://127.0.0.1:(\d+);`} {
		if using := d.word(pattern); !strings.Contains(d.printed, port+" is in use, using "+using+"\n") {
			t.Errorf("%s, and no word of %s in\n%s", using, port, d.printed)
		}
	}
}

func TestLifetimeOfDevIsThatOfEveryToken(t *testing.T) {
	d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0", "--lifetime", "7m")
	page := d.page()
	for name, token := range map[string]string{
		"the issuer's": d.token(url.Values{"sub": {"alice"}}),
		"the page's":   tokenFrom(t, page+"token", nil),
	} {
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var claims struct{ Iat, Exp int64 }
		if err := json.Unmarshal(payload, &claims); err != nil || claims.Exp-claims.Iat != 7*60 {
			t.Errorf("%s lives from %d to %d, %v; want 420 s", name, claims.Iat, claims.Exp, err)
		}
	}
}

func TestExplainNamesTheCheckThatFails(t *testing.T) {
	d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0")
	good := d.token(nil)
	parts := strings.Split(good, ".")
	another := func(letter byte) string { return map[bool]string{true: "B", false: "A"}[letter == 'A'] }
	signature, last := parts[2], len(parts[2])-1
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	mallory := base64.RawURLEncoding.EncodeToString([]byte(strings.ReplaceAll(string(payload), "dev-user", "mallory")))
	for name, tt := range map[string]struct{ token, check, reason string }{
		"another letter in the signature": {parts[0] + "." + parts[1] + "." + signature[:40] + another(signature[40]) + signature[41:],
			"signature", "bad-signature"},
		"another user in the payload":      {parts[0] + "." + mallory + "." + signature, "signature", "bad-signature"},
		"expired":                          {d.token(url.Values{"broken": {"expired"}}), "times", "expired"},
		"the last letter, of unused bits":  {good[:len(good)-1] + string(signature[last]+1), "form", "malformed"},
		"another letter in the header":     {another(good[0]) + good[1:], "form", "malformed"},
		"no token":                         {`""`, "token", "no-token"},
		"for another audience":             {d.token(url.Values{"aud": {"somebody-else"}}), "audience", "wrong-audience"},
		"without the scope that is needed": {d.token(url.Values{"scope": {"agents:look"}}), "rule", "claim-mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := d.paste(t, strings.Replace(d.line("explain"), `"$TOKEN"`, tt.token, 1))
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
		if out, err := d.paste(t, d.export(), line); err != nil || !strings.Contains(out, "\nlet through: ok\n") {
			t.Errorf("it ended with %v and\n%s", err, out)
		}
	})
}
