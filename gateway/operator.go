package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
)

// minOperatorToken is how long an operator's token must be at least, in characters.
const minOperatorToken = 16

// operators are those who may change state on the admin listener.
type operators struct {
	file    string // "": none
	current atomic.Pointer[operatorFile]
}

// operatorFile is a token file that was read.
type operatorFile struct {
	sum  [sha256.Size]byte
	list []operator
	err  error // why list is of an older content
}

// operator is one line of the token file. The token itself is not kept.
type operator struct {
	name  string
	token [sha256.Size]byte
}

// load reads the file again, and reports whether that has brought anything new and why what it
// holds is not in use. A bad file changes nothing; one without a token leaves no operator.
func (o *operators) load() (changed bool, err error) {
	if o.file == "" {
		return false, nil
	}
	text, err := os.ReadFile(o.file)
	if err != nil {
		text = []byte(err.Error())
	}
	sum := sha256.Sum256(text)
	before := o.current.Load()
	if before != nil && before.sum == sum {
		return false, before.err
	}
	next := &operatorFile{sum: sum}
	if err == nil {
		next.list, err = readOperators(text)
	}
	switch {
	case err != nil && before == nil:
		next.err = fmt.Errorf("admin.tokenFile: %w", err)
	case err != nil:
		next.list, next.err = before.list, fmt.Errorf("admin.tokenFile: the old tokens stay: %w", err)
	}
	o.current.Store(next)
	return true, next.err
}

// problem returns why what the file holds is not in use.
func (o *operators) problem() error {
	if o.file == "" {
		return nil
	}
	return o.current.Load().err
}

// readOperators reads a token file: on each line a name and a token, or a token alone. Empty
// lines and lines that begin with # do not count. The error never shows a token.
func readOperators(text []byte) (list []operator, err error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		name, token := "operator", words[len(words)-1]
		switch {
		case len(words) > 2:
			return nil, fmt.Errorf("line %d: more than a name and a token", n)
		case len(token) < minOperatorToken:
			return nil, fmt.Errorf("line %d: a token of less than %d characters", n, minOperatorToken)
		case len(words) == 2:
			name = words[0]
		}
		list = append(list, operator{name, sha256.Sum256([]byte(token))})
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return list, nil
}

// find returns the name of the operator with this token. It takes the same time for every token.
func (o *operators) find(token string) (name string, ok bool) {
	sum := sha256.Sum256([]byte(token))
	for _, known := range o.current.Load().list {
		if subtle.ConstantTimeCompare(known.token[:], sum[:]) == 1 {
			name, ok = known.name, true
		}
	}
	return name, ok
}

// reloadOperators reads the token file again. A bad one changes nothing and is reported, in the log
// once.
func (g *Gateway) reloadOperators() error {
	changed, err := g.operators.load()
	switch {
	case !changed:
	case err != nil:
		g.log.Error("operators' tokens not reloaded; the old ones stay", "err", err.Error())
	default:
		g.log.Info("operators' tokens reloaded")
		g.warnOfNoOperator()
	}
	return err
}

// warnOfNoOperator logs that no change is possible, if that is so.
func (g *Gateway) warnOfNoOperator() {
	if g.operators.file != "" && len(g.operators.current.Load().list) == 0 {
		g.log.Warn("no operator: admin.tokenFile has no token, and every change is refused")
	}
}

// change wraps what changes state on the admin listener: it needs an operator's token, or, where
// there are none, a listener on loopback. What was done is logged with who asked for it.
func (g *Gateway) change(do func(*changeWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, refused := g.operator(r)
		answer := &changeWriter{ResponseWriter: w}
		switch refused {
		case 0:
			do(answer, r)
		case http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", `Bearer realm="omnia-gateway admin"`)
			fallthrough
		default:
			writeProblem(answer, refused, "this changes state: it needs a bearer token of admin.tokenFile")
		}
		// The query is left out: the change says itself what is worth knowing of it.
		g.log.LogAttrs(context.Background(), slog.LevelInfo, "operator", append([]slog.Attr{
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", answer.code),
			slog.String("operator", name), slog.String("remote", r.RemoteAddr)}, answer.facts...)...)
	}
}

// operator returns who asks, or the status with which the request is refused.
func (g *Gateway) operator(r *http.Request) (name string, refused int) {
	if g.operators.file == "" {
		if host, _, err := net.SplitHostPort(g.admin.Addr().String()); err != nil || !net.ParseIP(host).IsLoopback() {
			return "", http.StatusForbidden
		}
		return "", 0
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	name, known := g.operators.find(strings.TrimSpace(token))
	if !known || !strings.EqualFold(scheme, "Bearer") {
		return "", http.StatusUnauthorized
	}
	return name, 0
}

// changeWriter is the answer to a change, and what its log line says.
type changeWriter struct {
	http.ResponseWriter
	code  int
	facts []slog.Attr // of what was done
}

// note adds facts to the log line, but those that are empty.
func (w *changeWriter) note(facts ...slog.Attr) {
	for _, f := range facts {
		if f.Value.String() != "" {
			w.facts = append(w.facts, f)
		}
	}
}

// WriteHeader remembers the status.
func (w *changeWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}
