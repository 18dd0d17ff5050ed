package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// toolbox is the environment of the clients: with the tools of tools/install, if it has been here.
var toolbox = sync.OnceValues(func() ([]string, error) {
	out, err := exec.Command("bash", "-c", "if [ -r ../.tools/env ]; then . ../.tools/env; fi; env -0").Output()
	return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00"), err
})

// needs skips the test if a command is missing. On CI none may be.
func needs(t *testing.T, commands ...string) {
	t.Helper()
	for _, name := range commands {
		if client(t, "bash", "-c", "command -v "+name).Run() != nil {
			unable(t, fmt.Sprintf("there is no %s here; tools/install tries to install it", name))
		}
	}
}

// unable skips a test that cannot run here, and says why. On CI every test must run.
func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// client is a command with the toolbox on its PATH. It is killed, with all that it has started,
// when the test ends or is out of patience.
func client(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	return clientFor(t, patience, name, args...)
}

// clientFor is client with a patience of its own.
func clientFor(t *testing.T, patience time.Duration, name string, args ...string) *exec.Cmd {
	t.Helper()
	env, err := toolbox()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "env", append([]string{name}, args...)...) // env looks on the PATH that it is given
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// run runs a client to its end and gives all that it printed. Its standard input stays open, as
// at a terminal: wscat ends when that ends.
func run(t *testing.T, cmd *exec.Cmd) (string, error) {
	t.Helper()
	if cmd.Stdin == nil {
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// hears runs a client until it prints something, and then ends its standard input.
func hears(t *testing.T, want string, cmd *exec.Cmd) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := false
	for in := bufio.NewScanner(stdout); !found && in.Scan(); {
		found = strings.Contains(in.Text(), want)
	}
	stdin.Close()
	io.Copy(io.Discard, stdout)
	cmd.Wait()
	if !found {
		t.Errorf("%s has not printed %q; it ended with %v: %s", cmd.Args[1], want, cmd.ProcessState, stderr.String())
	}
}

func TestWscatSpeaksOverTLS(t *testing.T) {
	needs(t, "wscat")
	i, c := newIssuer(t), newCertificate(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("tls", c.settings()))
	_, port, _ := strings.Cut(g.public, ":")
	hears(t, "hello from wscat", client(t, "wscat", "--ca", c.certFile, "-c", "wss://localhost:"+port+"/my-agent/ws",
		"-H", i.bearer(t), "-x", "hello from wscat", "-w", "-1"))
}

func TestWscatSeesARefusal(t *testing.T) {
	needs(t, "wscat")
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	out, err := run(t, client(t, "wscat", "-c", "ws://"+g.public+"/my-agent/ws", "-H", i.bearer(t, "aud", "somebody else"), "-x", "hello"))
	if err == nil || !strings.Contains(out, "Unexpected server response: 401") {
		t.Errorf("wscat ended with %v and %q", err, out)
	}
	a.untouched(t)
}

func TestWscatAtATerminalShowsTheCloseAtExpiry(t *testing.T) {
	needs(t, "wscat", "script") // only at a terminal does wscat show it
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("authentication.jwt.clockSkew", "0s"))
	token := i.token(t, "exp", inSeconds(1.5))
	out, err := run(t, client(t, "script", "--quiet", "--return", "--command",
		fmt.Sprintf(`wscat -c ws://%s/my-agent/ws -H "Authorization: Bearer %s"`, g.public, token), "/dev/null"))
	if err != nil || !strings.Contains(out, `Disconnected (code: 3000, reason: "expired")`) {
		t.Errorf("wscat ended with %v and %q", err, out)
	}
}

func TestWebsocatSendsTheTokenInEveryPlace(t *testing.T) {
	needs(t, "websocat")
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	token := i.token(t)
	for name, args := range map[string][]string{
		"header":      {"ws://" + g.public + "/my-agent/ws", "-H", "Authorization: Bearer " + token},
		"subprotocol": {"ws://" + g.public + "/my-agent/ws", "--protocol", "bearer, " + token},
		"query":       {"ws://" + g.public + "/my-agent/ws?room=7&access_token=" + token},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := client(t, "websocat", append([]string{"-n", "--max-messages-rev", "1"}, args...)...)
			cmd.Stdin = strings.NewReader("hello from websocat\n")
			if out, err := run(t, cmd); err != nil || out != "hello from websocat\n" {
				t.Errorf("websocat ended with %v and %q", err, out)
			}
			r := a.request(t)
			if r.Header.Get("X-User-Id") != "alice" || r.Header.Get("Sec-Websocket-Protocol") != "" ||
				strings.Contains(r.RequestURI, "token") {
				t.Errorf("the agent got %s %v", r.RequestURI, r.Header)
			}
		})
	}
}

// Two libraries on both sides: what they negotiate, send and close reaches the other end as it
// was meant.
func TestLibrariesTalkThroughTheGateway(t *testing.T) {
	libraries := []struct {
		name    string
		needs   []string
		command string
		file    string
	}{
		{"ws", []string{"node", "wscat"}, "node", "js"}, // wscat is installed with ws
		{"websockets", []string{"websockets"}, "python3", "py"},
	}
	for _, served := range libraries {
		for _, calling := range libraries {
			t.Run(calling.name+" calls "+served.name, func(t *testing.T) {
				needs(t, append(served.needs, calling.needs...)...)
				i := newIssuer(t)
				said := newSpeaker(t, client(t, served.command, "clients/agent."+served.file))
				g := start(t, plain(i, "http://127.0.0.1:"+said.next()))

				cmd := client(t, calling.command, "clients/client."+calling.file, "ws://"+g.public+"/my-agent/ws", i.token(t))
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v: %s", err, stderr.String())
				}
				var got struct {
					Protocol, Extensions, Text, Pong, Told string
					Hello                                  struct{ User, Protocol, Extensions string }
					Random, Zeros                          bool
					Answered                               int
				}
				if err := json.Unmarshal(out, &got); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if got.Protocol != "bearer" || got.Hello.Protocol != "" {
					t.Errorf("subprotocol %q, and %q for the agent", got.Protocol, got.Hello.Protocol)
				}
				if got.Hello.User != "alice" {
					t.Errorf("the agent was told %q", got.Hello.User)
				}
				if e := got.Extensions; !strings.HasPrefix(e, "permessage-deflate") ||
					!strings.HasPrefix(got.Hello.Extensions, "permessage-deflate") {
					t.Errorf("extensions %q, and %q for the agent", e, got.Hello.Extensions)
				}
				if got.Text != "grüße" || !got.Random || !got.Zeros {
					t.Errorf("text %q, 1 MiB at random the same: %v, 4 MiB of zeros the same: %v", got.Text, got.Random, got.Zeros)
				}
				if got.Pong != "are you there" {
					t.Errorf("pong %q", got.Pong)
				}
				if got.Answered != 4001 || got.Told != "4002 the agent has enough" {
					t.Errorf("the client's Close was answered with %d, the agent's was %q", got.Answered, got.Told)
				}
				if heard, answered := said.next(), said.next(); heard != "4001 the client has enough" ||
					!strings.HasPrefix(answered, "4002") {
					t.Errorf("the agent heard %q and %q", heard, answered)
				}

				// Compression is end to end: of the zeros next to nothing is on the wire.
				line := g.awaitLine("msg", "ended", "code", 4001)
				for _, way := range []string{"bytes_in", "bytes_out"} {
					if n := line[way].(float64); n < 1<<20 || n > 3<<19 {
						t.Errorf("%s %v, want what 1 MiB at random takes and little more", way, n)
					}
				}
				g.awaitLine("msg", "ended", "code", 4002, "reason", "closed")
			})
		}
	}
}

// speaker is a process whose lines of output a test waits for.
type speaker struct {
	t     *testing.T
	lines chan string
}

// newSpeaker starts a command, which must not end before the test does; it is killed then.
func newSpeaker(t *testing.T, cmd *exec.Cmd) *speaker {
	t.Helper()
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &speaker{t, make(chan string, 1024)}
	go func() {
		for in := bufio.NewScanner(stdout); in.Scan(); {
			s.lines <- in.Text()
		}
		close(s.lines)
	}()
	t.Cleanup(func() { // the context of the test has ended before
		for range s.lines {
		}
		cmd.Wait()
	})
	return s
}

// next is the next line.
func (s *speaker) next() string {
	s.t.Helper()
	select {
	case line, ok := <-s.lines:
		if !ok {
			s.t.Fatal("the process has ended")
		}
		return line
	case <-time.After(patience):
		s.t.Fatal("not another line")
		return ""
	}
}

// The JDK's client offers h2c with each plain request. The offer is ignored and goes no further
// (RFC 9110 §7.8), and the connection stays good for the next request.
func TestJDKClientOffersHTTP2AndIsServed(t *testing.T) {
	needs(t, "javac")
	i := newIssuer(t)
	offered := make(chan string, 2)
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		offered <- r.Header.Get("Upgrade") + r.Header.Get("Http2-Settings")
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, body)
	}))
	defer agent.Close()
	g := start(t, plain(i, agent.URL))
	out, err := run(t, clientFor(t, 2*patience, "java", "clients/JdkRequests.java", "http://"+g.public+"/my-agent/x", i.token(t)))
	if want := "200 HTTP_1_1 GET\n200 HTTP_1_1 POST hello from Java\n"; err != nil || out != want {
		t.Errorf("it ended with %v and\n%s\nwant\n%s", err, out, want)
	}
	for range 2 {
		if headers := <-offered; headers != "" {
			t.Errorf("the agent was offered %q", headers)
		}
	}
}

// A client that does not know how long a body is sends it in chunks, and needs no new connection
// for each request.
func TestNodeKeepsItsConnectionAfterAChunkedBody(t *testing.T) {
	needs(t, "node")
	i := newIssuer(t)
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%v %s", r.TransferEncoding, body)
	}))
	defer agent.Close()
	for scheme, secure := range map[string]bool{"http": false, "https": true} {
		g := startSecure(t, plain(i, agent.URL), secure)
		cmd := client(t, "node", "--no-warnings", "clients/chunked.js", scheme+"://"+g.public+"/my-agent/x", i.token(t))
		cmd.Env = append(cmd.Env, "NODE_TLS_REJECT_UNAUTHORIZED=0")
		out, err := run(t, cmd)
		if n := strings.Count(out, "200 [chunked] hello "); err != nil || n != 6 {
			t.Errorf("it ended with %v and\n%s", err, out)
		}
		remotes := map[any]bool{}
		eventually(t, "six lines", func() bool { return len(g.log.with("msg", "answered")) == 6 })
		for _, line := range g.log.with("msg", "answered") {
			remotes[line["remote"]] = true
		}
		if len(remotes) > 2 { // it opens a second one when the first is not free at once
			t.Errorf("%d connections for 6 requests (TLS %v)", len(remotes), secure)
		}
	}
}
