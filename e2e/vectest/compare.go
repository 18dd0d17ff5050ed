package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// class is one row of the table in docs/istio.md: something that Istio and the gateway do
// differently on purpose.
type class struct {
	Row      string         // the first cell
	Vectors  []string       // group/name of the vectors that show it, as regular expressions
	Untested string         // why no request can show it
	seen     map[string]int // what has shown it in this run: vectors, generated
	patterns []*regexp.Regexp
}

func loadClasses(file string) ([]*class, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var classes []*class
	if err := yaml.Unmarshal(text, &classes); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, c := range classes {
		c.seen = map[string]int{}
		for _, p := range c.Vectors {
			pattern, err := regexp.Compile("^(" + p + ")$")
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", file, c.Row, err)
			}
			c.patterns = append(c.patterns, pattern)
		}
	}
	return classes, nil
}

// answer is what became of one request on one side.
type answer struct {
	status int // 0: no answer at all
	seen   []seen
	err    error
}

// ask sends a request, byte for byte, and gives the answer and what the agent was told.
func ask(address, raw, method string, agents *upstreams) answer {
	agents.begin(behaviour{})
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return answer{err: err}
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		return answer{err: err}
	}
	br := bufio.NewReader(c)
	var resp *http.Response
	for resp == nil || resp.StatusCode == http.StatusContinue {
		if resp, err = http.ReadResponse(br, &http.Request{Method: method}); err != nil {
			return answer{err: err, seen: agents.recorded()}
		}
	}
	if resp.StatusCode != 101 {
		io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	} else if err := tunnelWorks(c, br); err != nil {
		return answer{status: 101, err: err, seen: agents.recorded()}
	}
	return answer{status: resp.StatusCode, seen: agents.recorded()}
}

// told is what the agent got, as far as the two sides can be compared: the request line and all
// headers but those that describe the hop.
func (a answer) told() map[string]string {
	if len(a.seen) == 0 {
		return nil
	}
	s := a.seen[0]
	out := map[string]string{"method": s.method, "target": s.target}
	for _, kv := range s.headers {
		name := strings.ToLower(kv[0])
		if hop[name] {
			continue
		}
		if before, twice := out["header "+name]; twice {
			out["header "+name] = before + "," + kv[1]
		} else {
			out["header "+name] = kv[1]
		}
	}
	return out
}

// hop are headers that a proxy writes anew for each connection, and what each side says of itself.
var hop = map[string]bool{
	"connection": true, "upgrade": true, "content-length": true, "transfer-encoding": true, "x-forwarded-for": true,
	"x-forwarded-proto": true,
	"x-forwarded-host":  true, "x-request-id": true, "x-envoy-expected-rq-timeout-ms": true, "x-envoy-attempt-count": true,
	"x-envoy-decorator-operation": true, "x-gateway-session": true, "via": true, "accept-encoding": true, "sec-websocket-key": true,
	"sec-websocket-version": true,
}

// differences names what two answers do not have in common.
func differences(gateway, istio answer) (out []string) {
	if gateway.status != istio.status {
		out = append(out, fmt.Sprintf("status %d, Istio %d", gateway.status, istio.status))
	}
	g, i := gateway.told(), istio.told()
	if (g == nil) != (i == nil) {
		return append(out, fmt.Sprintf("agent asked %v, Istio %v", g != nil, i != nil))
	}
	names := maps.Clone(g)
	maps.Copy(names, i)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a, b := g[name], i[name]; a != b {
			out = append(out, fmt.Sprintf("%s %q, Istio %q", name, short(a), short(b)))
		}
	}
	return out
}

// comparison compares the gateway with Envoy.
type comparison struct {
	bin, envoy, folder string // folder of the translations and classes
	write              bool   // write exported resources instead of comparing
	n                  int
	seed               uint64
	verbose            bool

	dir      string
	ring     *keyRing
	issuers  *issuerServer
	classes  []*class
	failures []string

	equal, different, skipped int
}

func (c *comparison) fail(format string, a ...any) {
	c.failures = append(c.failures, fmt.Sprintf(format, a...))
}

// pair is one configuration on both sides.
type pair struct {
	vectors []*vector
	why     string // not comparable
	address string // of Envoy's listener
	keys    map[string]*keySet
}

// run compares vectors, and then generated requests. It reports whether all is as documented.
func (c *comparison) run(vectors []*vector) (ok bool, err error) {
	if c.classes, err = loadClasses(filepath.Join(c.folder, "classes.yaml")); err != nil {
		return false, err
	}
	pairs := map[string]*pair{}
	var order []*pair
	for _, v := range append(vectors, generatedConfig(true), generatedConfig(false)) {
		if v.Expect.ConfigError {
			continue
		}
		key := v.setup()
		if pairs[key] == nil {
			pairs[key] = &pair{}
			order = append(order, pairs[key])
		}
		pairs[key].vectors = append(pairs[key].vectors, v)
	}
	envoy, err := newSidecar(c.dir)
	if err != nil {
		return false, err
	}
	defer envoy.stop()
	if c.write {
		old, _ := filepath.Glob(filepath.Join(c.folder, "testdata", "*"))
		for _, f := range old {
			os.Remove(f)
		}
	}
	for _, p := range order {
		if err := c.prepare(p, envoy); err != nil {
			return false, err
		}
	}
	if c.write {
		return true, nil
	}
	if err := envoy.start(c.envoy); err != nil {
		return false, err
	}
	for n, p := range order {
		if err := c.compare(p, envoy, fmt.Sprintf("c%03d", n)); err != nil {
			return false, err
		}
	}
	return c.report(), nil
}

// prepare exports a configuration and gives Envoy its translation.
func (c *comparison) prepare(p *pair, envoy *sidecar) error {
	v := p.vectors[0]
	switch {
	case !v.authEnabled():
		p.why = "authentication is off, so that Istio gets nothing"
	case v.Discovery != "":
		p.why = "keys are found by discovery"
	case v.Routes != nil || v.Top != nil:
		p.why = "routes and other keys outside of authentication"
	}
	if p.why != "" {
		return nil
	}
	name, text, err := exported(c.bin, c.dir, v)
	if err != nil {
		p.why = err.Error()
		return nil
	}
	base := filepath.Join(c.folder, "testdata", name)
	if c.write {
		return os.WriteFile(base+".yaml", []byte(text), 0o644)
	}
	if p.address, err = envoy.add(base+".json", func(at string) string { return c.keySet(v, at) }); err != nil {
		return fmt.Errorf("%s: %w", v.Name, err)
	}
	return nil
}

// keySet is what istiod would have pushed of the set at an address: one that it cannot fetch it
// replaces by a key that has signed nothing.
func (c *comparison) keySet(v *vector, at string) string {
	set := v.JWKS
	if name := strings.TrimSuffix(strings.TrimPrefix(at, keysAt), ".json"); name != "jwks" {
		set = v.MoreJWKS[name]
	}
	if set == nil {
		set = defaultKeys
	}
	if set.Unreachable || set.Status != 0 {
		set = &keySet{Keys: []any{map[string]any{"key": "unknown", "kid": "none"}}}
	}
	return set.body(c.ring)
}

// compare asks both sides everything of one configuration.
func (c *comparison) compare(p *pair, envoy *sidecar, id string) error {
	if p.why != "" {
		c.skipped += len(p.vectors)
		if c.verbose {
			fmt.Printf("not compared: %s and %d more: %s\n", p.vectors[0].Name, len(p.vectors)-1, p.why)
		}
		return nil
	}
	g, err := newGateway(c.bin, c.dir, id, p.vectors[0], c.issuers)
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.start(); err != nil {
		return err
	}
	if err := g.awaitUp(p.vectors[0].keysComing()); err != nil {
		return fmt.Errorf("gateway of %s: %w", p.vectors[0].Name, err)
	}
	for _, v := range p.vectors {
		if v.Name == generatedName {
			c.generated(g, envoy, p.address, v.forwards())
			continue
		}
		c.vector(g, envoy, p.address, v)
	}
	return nil
}

// both asks the two sides the same.
func both(g *gateway, envoy *sidecar, address, raw, method string) (gateway, istio answer) {
	done := make(chan answer)
	go func() { done <- ask(address, raw, method, envoy.agents) }()
	gateway = ask(g.listen, raw, method, g.upstreams)
	return gateway, <-done
}

// vector compares one vector: the gateway as it must be, Envoy as the column istio says, and every
// difference in a class.
func (c *comparison) vector(g *gateway, envoy *sidecar, address string, v *vector) {
	column := v.Istio
	if status, _ := column["status"].(string); status == "n/a" {
		c.skipped++
		return
	}
	if v.UpstreamDoes != (behaviour{}) {
		c.skipped++
		return
	}
	tokens := map[string]string{"": c.ring.mint(v.Token, g.vars)}
	for n, t := range v.Tokens {
		tokens[n] = c.ring.mint(t, g.vars)
	}
	raw, _ := requestBytes(v, tokens)
	mine, theirs := both(g, envoy, address, raw, v.Request.Method)
	if !v.Expect.Status.has(mine.status) {
		c.fail("%s: the gateway answers %d, not %v (%v)", v.Name, mine.status, v.Expect.Status, mine.err)
	}
	switch want := column["status"].(type) {
	case int:
		if theirs.status != want {
			c.fail("%s: Envoy answers %d, not %d as its column says (%v)", v.Name, theirs.status, want, theirs.err)
		}
	case nil:
		if column["config_error"] == nil && !v.Expect.Status.has(theirs.status) {
			c.fail("%s: Envoy answers %d, not %v like the gateway (%v)", v.Name, theirs.status, v.Expect.Status, theirs.err)
		}
	}
	if headers, ok := column["upstream_headers"].(map[string]any); ok {
		told := theirs.told()
		for name, want := range headers {
			if got := told["header "+name]; got != tokenText(fmt.Sprint(want), tokens) {
				c.fail("%s: Envoy tells the agent %s %q, not %q as its column says", v.Name, name, short(got), want)
			}
		}
	}
	differ := differences(mine, theirs)
	if len(differ) == 0 {
		c.equal++
		return
	}
	c.different++
	id, found := v.Group+"/"+v.Name, false
	for _, class := range c.classes {
		if slices.ContainsFunc(class.patterns, func(p *regexp.Regexp) bool { return p.MatchString(id) }) {
			found = true
			class.seen["vectors"]++
		}
	}
	if !found {
		c.fail("%s: differs, and no class has it: %s", id, strings.Join(differ, "; "))
	} else if c.verbose {
		fmt.Printf("%s: %s\n", id, strings.Join(differ, "; "))
	}
}

// report prints what was found and reports whether all is as documented.
func (c *comparison) report() bool {
	for _, class := range c.classes {
		if class.Untested == "" && class.seen["vectors"]+class.seen["generated"] == 0 {
			c.fail("class %q: nothing in this run has shown it", class.Row)
		}
	}
	if c.verbose {
		for _, class := range c.classes {
			fmt.Printf("%5d vectors %5d generated  %s\n", class.seen["vectors"], class.seen["generated"], class.Row)
		}
	}
	shown := c.failures
	if len(shown) > 60 && !c.verbose {
		shown = shown[:60]
	}
	for _, f := range shown {
		fmt.Println(f)
	}
	fmt.Printf("%d equal, %d different as documented, %d failures, %d vectors without a counterpart in Istio\n",
		c.equal, c.different, len(c.failures), c.skipped)
	return len(c.failures) == 0
}
