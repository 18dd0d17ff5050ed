package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxFileBytes is far more than any configuration needs, and little enough to parse without a thought.
const maxFileBytes = 128 << 10

// Load makes the configuration: the defaults, over them the YAML file (none if file is ""), over it the variables OMNIA_GATEWAY_* of
// environ, which has the form of os.Environ. The result is valid and complete: Listen is filled in, Notes hold what is worth logging.
// The error is always of type Problems and holds every problem there is.
func Load(file string, environ []string) (*Config, error) {
	c := Default()
	l := loader{file: file, places: map[string]Place{}, bad: map[string]bool{}}
	if file != "" {
		l.readFile(&c)
	}
	l.readEnvironment(&c, environ)
	if c.Listen == "" {
		c.Listen = ":8080"
		if c.TLS.Enabled() {
			c.Listen = ":8443"
		}
	}
	for _, p := range c.Validate() {
		if !l.isBad(p.Key) {
			p.Place = l.place(p.Key)
			l.problems = append(l.problems, p)
		}
	}
	if len(l.problems) > 0 {
		slices.SortStableFunc(l.problems, Problem.compare)
		return nil, l.problems
	}
	c.Notes = slices.Concat(l.notes, c.remarks(), writable(file, c.TLS))
	return &c, nil
}

// writable are notes about files that anybody on the machine may write: who can, rules the gateway. That others may read a key is not
// noted, since that is how Kubernetes mounts a Secret. What is wrong with a file otherwise, whoever reads it says.
func writable(file string, t TLS) (notes []string) {
	for _, f := range []struct{ name, file string }{
		{"configuration file", file}, {"tls.certFile", t.CertFile}, {"tls.keyFile", t.KeyFile}, {"tls.clientCAFile", t.ClientCAFile},
	} {
		if info, err := os.Stat(f.file); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o002 != 0 {
			notes = append(notes, f.name+": anybody on this machine may write it, and so change who is let in; use chmod o-w")
		}
	}
	return notes
}

// Problem is one mistake in the configuration.
type Problem struct {
	// Place is where it is; Validate alone, which sees no text, leaves it empty.
	Place Place
	// Key is the full path of the key, such as routes[0].upstream; empty when the text is no YAML at all.
	Key string
	// Text says what is wrong and Hint how to mend it. Neither repeats a value: it might be a secret.
	Text, Hint string
}

// Place is where in the configuration something was said.
type Place struct {
	// Name is that of the file or of the environment variable.
	Name string
	// Line and Column count from 1, Column in characters. They are 0 where they are not known.
	Line, Column int
}

// String is file:line:column, or the name alone.
func (p Place) String() string {
	if p.Line == 0 {
		return p.Name
	}
	if p.Column == 0 {
		return fmt.Sprintf("%s:%d", p.Name, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.Name, p.Line, p.Column)
}

// String is the problem in one line: place: key: text; hint.
func (p Problem) String() string {
	var b strings.Builder
	for _, part := range []string{p.Place.String(), p.Key} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	b.WriteString(p.Text)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return b.String()
}

// compare orders by place: the file from top to bottom, then the variables.
func (p Problem) compare(q Problem) int {
	variable := func(p Problem) int {
		if strings.HasPrefix(p.Place.Name, variablePrefix) {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(variable(p), variable(q)),
		cmp.Compare(p.Place.Name, q.Place.Name),
		cmp.Compare(p.Place.Line, q.Place.Line),
		cmp.Compare(p.Place.Column, q.Place.Column),
		cmp.Compare(p.Key, q.Key),
	)
}

// Problems are all mistakes of a configuration, sorted by place. It is the error of Load; none is nil.
type Problems []Problem

// Error has one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// loader collects what is found on the way from text to Config.
type loader struct {
	file     string
	variable string           // the environment variable being read; "" while the file is
	places   map[string]Place // key → where it was given
	bad      map[string]bool  // keys of which Validate would only repeat that something is wrong; "" stands for all
	problems Problems
	notes    []string
}

// problem notes a mistake in the value of key.
func (l *loader) problem(at Place, key, text, hint string) {
	l.problems = append(l.problems, Problem{Place: at, Key: key, Text: text, Hint: hint})
	l.bad[key] = true
}

// place is where key was given, or the nearest key around it; if nothing was, the file, or without one the variable that can give it.
func (l *loader) place(key string) Place {
	for k := key; k != ""; k = parent(k) {
		if at, ok := l.places[k]; ok {
			return at
		}
	}
	if l.file != "" {
		return Place{Name: l.file}
	}
	for k := key; k != ""; k = parent(k) {
		for _, v := range variables() {
			if v.key == k {
				return Place{Name: v.name}
			}
		}
	}
	return Place{}
}

// isBad says whether a problem was found already in key or around it.
func (l *loader) isBad(key string) bool {
	for ; key != ""; key = parent(key) {
		if l.bad[key] {
			return true
		}
	}
	return l.bad[""]
}

// forget takes back what the file said of key: a variable has replaced it.
func (l *loader) forget(key string) {
	inside := func(k string) bool { return k == key || strings.HasPrefix(k, key+"[") || strings.HasPrefix(k, key+".") }
	for k := range l.places {
		if inside(k) {
			delete(l.places, k)
		}
	}
	for k := range l.bad {
		if inside(k) {
			delete(l.bad, k)
		}
	}
}

// parent is the key around key: a.b[0] → a.b → a → "".
func parent(key string) string { return key[:max(0, strings.LastIndexAny(key, ".["))] }

// readFile decodes the file over c.
func (l *loader) readFile(c *Config) {
	at := Place{Name: l.file}
	text, err := readBounded(l.file)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err // the place names the file already
		}
		l.problem(at, "", "read the file: "+err.Error(), "give a readable YAML file of at most 128 KiB")
		return
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // the byte order mark some editors leave
	l.decodeFile(string(text), c)
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(text) > maxFileBytes {
		err = errors.New("too large")
	}
	return text, err
}

// plainText finds what no YAML may hold: the offset of the first byte that is not UTF-8 or a NUL, or -1.
func plainText(text string) int {
	for i, r := range text {
		if r == 0 {
			return i
		}
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
				return i
			}
		}
	}
	return -1
}
