package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxFileBytes is far more than any configuration needs, and little enough to parse without a
// thought.
const maxFileBytes = 128 << 10

// Sources are where a configuration comes from. What is read later wins: the file, then the
// values files in their order, then the environment.
type Sources struct {
	// File is a YAML file that holds nothing but keys of this package. Empty: the one that
	// OMNIA_GATEWAY_CONFIG in Environ names, or none.
	File string
	// Values are values files of Omnia's Helm chart. Only their block authentication counts.
	// They combine as Helm combines them: maps merge, lists replace, null removes.
	Values []string
	// Environ has the form of os.Environ; the variables OMNIA_GATEWAY_* in it count.
	Environ []string
}

// fileVariable names the configuration file. It is no key, as it can only stand outside of the
// file.
const fileVariable = variablePrefix + "CONFIG"

// ConfigFile returns the name of the configuration file, "" for none.
func (s Sources) ConfigFile() string {
	if s.File != "" {
		return s.File
	}
	for _, e := range slices.Backward(s.Environ) {
		if file, ok := strings.CutPrefix(e, fileVariable+"="); ok {
			return strings.TrimSpace(file)
		}
	}
	return ""
}

// Files returns the names of all files that are read.
func (s Sources) Files() (files []string) {
	if file := s.ConfigFile(); file != "" {
		files = append(files, file)
	}
	return append(files, s.Values...)
}

// Load makes the configuration: the defaults, and over them the sources. The result is valid and
// complete: Listen is filled in, Notes hold what is worth logging. The error is always of type
// Problems and holds every problem there is.
func Load(s Sources) (*Config, error) {
	c := Default()
	l := newLoader(s)
	l.read(s, &c)
	c.normalize()
	if c.Listen == "" {
		c.Listen = c.TLS.DefaultListen()
	}
	leftovers := c.leftovers()
	for _, p := range c.Validate() {
		if !l.isBad(p.Key) && !slices.ContainsFunc(strings.Fields(p.because), l.isBad) {
			if left, ok := leftovers[p.Key]; ok {
				p.Text, p.Hint = p.Text+": "+left[0], left[1]
			}
			if separated := l.ofUnsplit(p.Key); separated != "" {
				p.Hint = separated
			}
			p.Place = l.place(p.Key)
			if p.Key == "authentication.jwt.issuer" && len(s.Values) > 0 && !l.said {
				p.Hint += "; or say authentication: {enabled: false}, which is the chart's default and admits every request"
			}
			l.problems = append(l.problems, p)
		}
	}
	if len(l.problems) > 0 {
		slices.SortStableFunc(l.problems, l.compare)
		return nil, l.problems
	}
	for _, key := range slices.Sorted(maps.Keys(leftovers)) {
		l.notes = append(l.notes, fmt.Sprintf("%s: %s: %s, so that it can never match; %s", l.place(key), key, leftovers[key][0],
			leftovers[key][1]))
	}
	c.Sources, c.places = s, l.places
	c.Notes = slices.Concat(l.notes, c.remarks(), writable(s, &c), unusedProxy(s.Environ, c.Authentication))
	return &c, nil
}

// AdminListen returns the address of the admin listener that the sources give, and looks at
// nothing else in them: a gateway goes on with its configuration when a new one is bad, and must
// still be found. If the file cannot be read at all, the error says so and the address is that
// of the environment, or the default.
func AdminListen(s Sources) (string, error) {
	c, l := Default(), newLoader(s)
	l.read(s, &c)
	l.problems = slices.DeleteFunc(l.problems, func(p Problem) bool {
		ofFile := p.Key == "" && !strings.HasPrefix(p.Place.Name, variablePrefix)
		return !ofFile && p.Key != "admin" && p.Key != "admin.listen"
	})
	if len(l.problems) > 0 {
		return c.Admin.Listen, l.problems
	}
	return c.Admin.Listen, nil
}

// normalize gives values that are written in several ways their one form.
func (c *Config) normalize() {
	for i := range c.Routes {
		// An agent's address is often known as that of its WebSocket; plain HTTP goes to it as
		// well.
		u := &c.Routes[i].Upstream
		if scheme, rest, ok := strings.Cut(*u, "://"); ok {
			switch strings.ToLower(scheme) {
			case "ws":
				*u = "http://" + rest
			case "wss":
				*u = "https://" + rest
			}
		}
	}
}

// writable returns notes about files that every user of the machine may write, because such a
// user controls the gateway. A key that others may read is not noted, because Kubernetes mounts
// a Secret like that. Other faults of a file are reported where it is read.
func writable(s Sources, c *Config) (notes []string) {
	type named struct{ name, file string }
	t := c.TLS
	files := []named{{"tls.certFile", t.CertFile}, {"tls.keyFile", t.KeyFile}, {"tls.clientCAFile", t.ClientCAFile}}
	for _, j := range c.Authentication.Issuers() {
		files = append(files, named{"jwksFile of issuer " + j.Issuer, j.JWKSFile},
			named{"fetch.caFile of issuer " + j.Issuer, j.Fetch.CAFile})
	}
	for i, r := range c.Routes {
		at := index("routes", i) + ".upstreamTLS."
		files = append(files, named{at + "caFile", r.UpstreamTLS.CAFile}, named{at + "certFile", r.UpstreamTLS.CertFile},
			named{at + "keyFile", r.UpstreamTLS.KeyFile})
	}
	files = append(files, named{"clientKeys.file", c.Authentication.ClientKeys.File}, named{"revocations.file", c.Revocations.File})
	redis := c.Cluster.Redis
	files = append(files, named{"cluster.redis.passwordFile", redis.PasswordFile}, named{"cluster.redis.tls.caFile", redis.TLS.CAFile})
	if file := s.ConfigFile(); file != "" {
		files = append(files, named{"configuration file", file})
	}
	for _, file := range s.Values {
		files = append(files, named{"values file", file})
	}
	for _, f := range files {
		if info, err := os.Stat(f.file); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o002 != 0 {
			notes = append(notes, f.name+": anybody on this machine may write it, and so change who is let in; use chmod o-w")
		}
	}
	return notes
}

// unusedProxy is a note about a proxy of the environment that an operator may count on.
func unusedProxy(environ []string, a Authentication) []string {
	if !a.Enabled || !slices.ContainsFunc(a.Issuers(),
		func(j JWT) bool { return j.Issuer != "" && j.JWKS == "" && j.JWKSFile == "" && j.Fetch.Proxy == "" }) {
		return nil
	}
	for _, e := range environ {
		if name, value, _ := strings.Cut(e, "="); strings.EqualFold(name, "HTTPS_PROXY") && value != "" {
			return []string{name + " is set and not used: keys are fetched without a proxy; set authentication.jwt.fetch.proxy if there " +
				"is no other way"}
		}
	}
	return nil
}

// Problem is one mistake in the configuration.
type Problem struct {
	// Place is where it is; Validate alone, which sees no text, leaves it empty.
	Place Place
	// Key is the full path of the key, such as routes[0].upstream; empty when the text is no
	// YAML at all.
	Key string
	// Text says what is wrong and Hint how to mend it. Neither repeats a value that might be a
	// secret.
	Text, Hint string

	because string // other keys, with spaces between, on whose values the problem rests: a mistake in one of them is the problem
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

// Error is the problem in one line: place: key: text; hint.
func (p Problem) Error() string {
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

// MarshalJSON returns the problem for a program: what is known of file, line, column and key,
// and the text and hint.
func (p Problem) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		File   string `json:"file,omitempty"`
		Line   int    `json:"line,omitempty"`
		Column int    `json:"column,omitempty"`
		Key    string `json:"key,omitempty"`
		Text   string `json:"text"`
		Hint   string `json:"hint,omitempty"`
	}{p.Place.Name, p.Place.Line, p.Place.Column, p.Key, p.Text, p.Hint})
}

// Problems are all mistakes of a configuration, sorted by place. It is the error of Load; none
// is nil.
type Problems []Problem

// Error has one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Each returns the errors that were joined into one; none for nil.
func Each(err error) (all []error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			all = append(all, Each(err)...)
		}
		return all
	}
	if err != nil {
		all = append(all, err)
	}
	return all
}

// loader collects what is found on the way from text to Config.
type loader struct {
	files    []string          // all that are read, in their order
	file     string            // the file being read
	chart    bool              // it is a values file
	said     bool              // some values file has the block authentication
	variable string            // the environment variable being read; "" while a file is
	places   map[string]Place  // key → where it was given
	bad      map[string]bool   // keys of which Validate would only repeat that something is wrong; "" stands for all
	unsplit  map[string]string // elements of lists in a variable that have the separator of other lists → what separates theirs
	problems Problems
	notes    []string
}

func newLoader(s Sources) *loader {
	return &loader{files: s.Files(), places: map[string]Place{}, bad: map[string]bool{}, unsplit: map[string]string{}}
}

// read puts the sources over c, one after the other.
func (l *loader) read(s Sources, c *Config) {
	if file := s.ConfigFile(); file != "" {
		l.readFile(file, maxFileBytes, func(text string) { l.decodeFile(text, c) })
	}
	for _, file := range s.Values {
		l.readFile(file, maxValuesBytes, func(text string) { l.decodeValues(text, c) })
	}
	if len(s.Values) > 0 && !l.said {
		l.notes = append(l.notes, "no values file has a block authentication: the gateway asks for tokens all the same, unlike the chart")
	}
	l.readEnvironment(c, s.Environ)
}

// compare orders by place: each file from top to bottom, in the order in which they were read,
// then the variables.
func (l *loader) compare(p, q Problem) int {
	rank := func(p Problem) int {
		if i := slices.Index(l.files, p.Place.Name); i >= 0 {
			return i
		}
		return len(l.files)
	}
	return cmp.Or(
		cmp.Compare(rank(p), rank(q)),
		cmp.Compare(p.Place.Name, q.Place.Name),
		cmp.Compare(p.Place.Line, q.Place.Line),
		cmp.Compare(p.Place.Column, q.Place.Column),
		cmp.Compare(p.Key, q.Key),
	)
}

// problem notes a mistake in the value of key.
func (l *loader) problem(at Place, key, text, hint string) {
	l.problems = append(l.problems, Problem{Place: at, Key: key, Text: text, Hint: hint})
	l.bad[key] = true
}

func (l *loader) place(key string) Place { return placeOf(key, l.places, l.files) }

// placeOf is where key was given, or the nearest key around it; if nothing was, the first file, or
// without one the variable that can give it.
func placeOf(key string, places map[string]Place, files []string) Place {
	for k := key; k != ""; k = parent(k) {
		if at, ok := places[k]; ok {
			return at
		}
	}
	if len(files) > 0 {
		return Place{Name: files[0]}
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

// isBad reports whether a problem was found already in key or around it.
func (l *loader) isBad(key string) bool {
	for ; key != ""; key = parent(key) {
		if l.bad[key] {
			return true
		}
	}
	return l.bad[""]
}

// ofUnsplit returns what separates the elements of the list that key is in, if its element has the
// separator of other lists and is perhaps more than one; "" if not.
func (l *loader) ofUnsplit(key string) string {
	for ; key != ""; key = parent(key) {
		if separated, ok := l.unsplit[key]; ok {
			return separated
		}
	}
	return ""
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

// readFile gives the text of a file to decode.
func (l *loader) readFile(file string, limit int64, decode func(text string)) {
	l.file = file
	text, err := readBounded(file, limit)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err // the place names the file already
		}
		l.problem(Place{Name: file}, "", "read the file: "+err.Error(),
			fmt.Sprintf("give a readable YAML file of at most %d KiB", limit>>10))
		return
	}
	decode(strings.TrimPrefix(string(text), "\ufeff")) // the byte order mark some editors leave
}

func readBounded(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = errors.New("too large")
	}
	return text, err
}

// plainText finds what no YAML may hold: the offset of the first byte that is not UTF-8 or a
// NUL, or -1.
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
