package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// TestMain makes the program a command of the transcripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"omnia-gateway": main})
}

// TestTranscripts runs what a person would type, one behaviour a file.
func TestTranscripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else the race detector makes each command sleep a second before it exits
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": start, "expand": expand, "keep": keep, "token": token, "connect": connect, "id": id,
		},
	})
}

// start runs a program until the script ends, and waits for the line of its output that matches;
// the groups become variables:
//
//	start 'issuer (?P<ISSUER>\S+) on' omnia-gateway dev issuer --listen 127.0.0.1:0
//
// When the script ends the program gets SIGTERM, and must exit with 0.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start pattern program arguments…")
	}
	pattern := regexp.MustCompile(args[0])
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	cmd.Stderr = cmd.Stdout
	ts.Check(cmd.Start())

	matched, drained := make(chan []string, 1), make(chan struct{})
	go func() {
		defer close(drained)
		defer close(matched)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if groups := pattern.FindStringSubmatch(lines.Text()); groups != nil {
				matched <- groups
				break
			}
		}
		io.Copy(io.Discard, out)
	}()
	ts.Defer(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-drained
		if err := cmd.Wait(); err != nil {
			ts.Fatalf("%v: %v", args[1:], err)
		}
	})
	groups, ok := <-matched
	if !ok {
		ts.Fatalf("%v ended without saying %q", args[1:], args[0])
	}
	for n, name := range pattern.SubexpNames() {
		if name != "" {
			ts.Setenv(name, groups[n])
		}
	}
}

// expand puts variables into files: expand file…
func expand(ts *testscript.TestScript, _ bool, files []string) {
	for _, file := range files {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

// keep makes a variable of the last command's output: keep NAME
func keep(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// connect opens a WebSocket at a path of $PUBLIC with $TOKEN, until the script ends, and keeps the
// id of its session: connect NAME path. With a ! the gateway must refuse it. A gateway that has no
// keys yet is asked again.
func connect(ts *testscript.TestScript, neg bool, args []string) {
	var answer *http.Response
	for deadline := time.Now().Add(time.Minute); answer == nil || answer.StatusCode == http.StatusServiceUnavailable; {
		if time.Now().After(deadline) {
			ts.Fatalf("got %s", answer.Status)
		}
		conn, err := net.Dial("tcp", ts.Getenv("PUBLIC"))
		ts.Check(err)
		ts.Defer(func() { conn.Close() })
		_, err = io.WriteString(conn, rawws.Request("gateway.test", args[1], "Authorization: Bearer "+ts.Getenv("TOKEN")))
		ts.Check(err)
		answer, err = http.ReadResponse(bufio.NewReader(conn), nil)
		ts.Check(err)
	}
	if open := answer.StatusCode == http.StatusSwitchingProtocols; open == neg {
		ts.Fatalf("got %s", answer.Status)
	}
	ts.Setenv(args[0], answer.Header.Get("X-Gateway-Session"))
}

// id keeps the id in the last command's JSON: id NAME
func id(ts *testscript.TestScript, _ bool, args []string) {
	var body struct{ ID string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &body))
	ts.Setenv(args[0], body.ID)
}

// token asks $ISSUER for a token and keeps it as TOKEN: token [field=value…], the fields of the
// development issuer.
func token(ts *testscript.TestScript, _ bool, args []string) {
	form := url.Values{}
	for _, field := range args {
		name, value, _ := strings.Cut(field, "=")
		form.Add(name, value)
	}
	answer, err := http.PostForm(ts.Getenv("ISSUER")+"/token", form)
	ts.Check(err)
	defer answer.Body.Close()
	var body struct {
		Token string `json:"access_token"`
	}
	ts.Check(json.NewDecoder(answer.Body).Decode(&body))
	ts.Setenv("TOKEN", body.Token)
}
