package e2e

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// The files attack_*_test.go hold the attacks of docs/attacks.md, chapter by chapter, with raw
// bytes against the built binary. Those on tokens and key sets alone are in package auth.

// plainRequest is the text of a request without a body that asks for the connection to be closed.
func plainRequest(method, target string, lines ...string) string {
	lines = append([]string{method + " " + target + " HTTP/1.1", "Host: gateway.test", "Connection: close"}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// answered is one answer to a request, read whole.
type answered struct {
	*http.Response
	body string
}

// attempt says bytes on a connection of their own and gives all answers that come back until the
// gateway closes it. What is no answer fails the test.
func (g *gateway) attempt(t *testing.T, text string) (all []answered) {
	t.Helper()
	s := g.dial(t)
	io.WriteString(s, text) // the gateway may have heard enough before the end
	for {
		if _, err := s.br.Peek(1); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%.100q: the gateway has not closed the connection, after %d answers", text, len(all))
			}
			return all
		}
		r, err := http.ReadResponse(s.br, nil)
		if err != nil {
			t.Fatalf("after %d answers: %v", len(all), err)
		}
		body, _ := io.ReadAll(r.Body)
		all = append(all, answered{r, string(body)})
	}
}

// one says bytes to which there must be one answer, with this status, before the connection is
// closed.
func (g *gateway) one(t *testing.T, status int, text string) answered {
	t.Helper()
	all := g.attempt(t, text)
	if len(all) != 1 || all[0].StatusCode != status {
		var got []string
		for _, a := range all {
			got = append(got, a.Status+" "+a.body)
		}
		t.Errorf("%.100q was answered %q, want one %d", text, got, status)
		return answered{&http.Response{Header: http.Header{}}, ""}
	}
	return all[0]
}

// rejected is one for a refusal with a reason word.
func (g *gateway) rejected(t *testing.T, status int, reason, text string) answered {
	t.Helper()
	a := g.one(t, status, text)
	if want := `"reason":"` + reason + `"`; !strings.Contains(a.body, want) {
		t.Errorf("%.100q was refused with %s, want %s", text, a.body, reason)
	}
	return a
}

// leftovers remembers what the gateway holds now; what it gives waits until the gateway holds no
// more than that, and sees that nothing has gone wrong inside of it.
func (g *gateway) leftovers() (gone func()) {
	before := g.held()
	return func() {
		g.t.Helper()
		g.holdsNoMoreThan(before)
		if wrong := g.log.with("reason", "internal-error"); len(wrong) > 0 {
			g.t.Errorf("the log says %v", wrong)
		}
	}
}

// told holds a request at the agent to exactly these headers beside those that every handshake
// or plain request has: name, value, …
func told(t *testing.T, r *http.Request, pairs ...string) {
	t.Helper()
	want := http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"gateway.test"}}
	if r.Header.Get("Upgrade") != "" {
		want["Connection"], want["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
		want["Sec-Websocket-Version"], want["Sec-Websocket-Key"] = []string{"13"}, []string{rawws.Key}
	}
	if prefix := r.Header["X-Forwarded-Prefix"]; len(prefix) > 0 { // of routes that strip theirs
		if len(prefix) != 1 || !strings.HasPrefix(prefix[0], "/") {
			t.Errorf("the agent was told X-Forwarded-Prefix: %q", prefix)
		}
		want["X-Forwarded-Prefix"] = prefix
	}
	if via := r.Header["Via"]; len(via) != 1 || !strings.HasPrefix(via[0], "1.1 omnia-gateway-") {
		t.Errorf("the agent was told Via: %q", via)
	} else {
		want["Via"] = via
	}
	if id := r.Header["X-Gateway-Session"]; len(id) != 1 || len(id[0]) != 32 {
		t.Errorf("the agent was told the session %q", id)
	} else {
		want["X-Gateway-Session"] = id
	}
	for n := 0; n < len(pairs); n += 2 {
		name := http.CanonicalHeaderKey(pairs[n])
		want[name] = append(want[name], pairs[n+1])
	}
	if reflect.DeepEqual(r.Header, want) {
		return
	}
	for name := range maps.Keys(r.Header) {
		if !reflect.DeepEqual(r.Header[name], want[name]) {
			t.Errorf("the agent was told %s: %q, want %q", name, r.Header[name], want[name])
		}
	}
	for name := range maps.Keys(want) {
		if r.Header[name] == nil {
			t.Errorf("the agent was not told %s: %q", name, want[name])
		}
	}
}

// The tables of docs/attacks.md name tests; each has to be there.
func TestAttackPageNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../docs/attacks.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(string(page), -1)
	if len(named) < 100 {
		t.Errorf("the page names %d tests only", len(named))
	}
	exists := map[string]bool{}
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				exists[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !exists[name] {
			t.Errorf("docs/attacks.md names %s, which is nowhere", name)
		}
	}
	for name := range exists { // and the other way round
		if regexp.MustCompile(`^Test[A-L][0-9]{2}`).MatchString(name) && !strings.Contains(string(page), name) {
			t.Errorf("docs/attacks.md does not name %s", name)
		}
	}
}
