package policy

import (
	"cmp"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
)

// route is one compiled route.
type route struct {
	name     string // its path in the configuration: the label in log and metrics
	host     string // lower case; ".x" stands for *.x; "" for any
	segments []string
	upstream *url.URL
	strip    bool

	hostIsUpstream bool // the agent's Host is its own address
	public         bool
	drop           map[string]bool // parameters whose every copy goes: true if because of query.drop, false for those of set
	set            [][2]string
	rules          auth.Rules // global and its own
	origins        origins
	cors           bool      // the gateway speaks CORS for the agent
	origin         string    // what the agent sees of an Origin: keep, own or drop
	resource       *resource // nil: clients are told nothing
}

// newRoutes compiles the routes and puts them in the order in which they are tried: the first that
// matches is the most exact one.
func newRoutes(c *config.Config, v *auth.Verifier) ([]*route, error) {
	routes := make([]*route, len(c.Routes))
	for i, rc := range c.Routes {
		u, err := url.Parse(strings.ReplaceAll(rc.Upstream, config.AgentLabel, agentMark))
		if err != nil {
			return nil, err
		}
		r := &route{
			name:     rc.Path,
			host:     strings.TrimPrefix(strings.ToLower(rc.Host), "*"),
			upstream: u,
			strip:    rc.StripPrefix,

			hostIsUpstream: rc.HostHeader == "upstream",
			public:         rc.Public,
			drop:           map[string]bool{},
			rules:          v.Rules(rc.RequiredClaims),
			origins:        rc.AllowedOrigins,
			cors:           rc.CORS && len(rc.AllowedOrigins) > 0,
			origin:         rc.Origin,
			resource:       newResource(c, rc),
		}
		if p := strings.Trim(rc.Path, "/"); p != "" {
			r.segments = strings.Split(p, "/")
		}
		for _, name := range rc.Query.Drop {
			r.drop[name] = true
		}
		for name, value := range rc.Query.Set {
			r.drop[name] = false // every copy of the client's
			r.set = append(r.set, [2]string{name, value})
		}
		slices.SortFunc(r.set, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
		routes[i] = r
	}
	slices.SortStableFunc(routes, byPrecedence)
	return routes, nil
}

// byPrecedence puts the more exact route first: exact host, wildcard host (longer first), no host;
// then segment by segment from the left a literal before {agent}; then the longer path.
func byPrecedence(a, b *route) int {
	kind := func(r *route) int {
		switch {
		case r.host == "":
			return 2
		case r.host[0] == '.':
			return 1
		}
		return 0
	}
	if c := cmp.Or(cmp.Compare(kind(a), kind(b)), cmp.Compare(len(b.host), len(a.host))); c != 0 {
		return c
	}
	for i := range min(len(a.segments), len(b.segments)) {
		if x, y := a.segments[i] == config.AgentLabel, b.segments[i] == config.AgentLabel; x != y {
			if x {
				return 1
			}
			return -1
		}
	}
	return cmp.Compare(len(b.segments), len(a.segments))
}

// isFor reports whether the route takes requests for a host name.
func (r *route) isFor(host string) bool {
	switch {
	case r.host == "":
		return true
	case r.host[0] == '.':
		return strings.HasSuffix(host, r.host) && len(host) > len(r.host)
	}
	return host == r.host
}

// match reports whether the route takes the request. It returns what {agent} stands for, and the
// path that is left after its prefix.
func (r *route) match(host, path string) (agent, rest string, ok bool) {
	if !r.isFor(host) {
		return "", "", false
	}
	rest = path
	for _, want := range r.segments {
		if rest == "" {
			return "", "", false
		}
		seg, tail, more := strings.Cut(rest[1:], "/")
		switch {
		case want == config.AgentLabel:
			if !isLabel(seg) {
				return "", "", false
			}
			agent = seg
		case want != seg:
			return "", "", false
		}
		if rest = ""; more {
			rest = "/" + tail
		}
	}
	if rest == "" {
		rest = "/"
	}
	return agent, rest, true
}

// isLabel reports whether s is one lower-case DNS label (RFC 1123 §2.1): the only thing that may
// become a part of an upstream's host name.
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// hostOf is the host name of a Host header: without port, in lower case.
func hostOf(h string) string {
	if name, _, err := net.SplitHostPort(h); err == nil {
		h = name
	}
	return strings.ToLower(strings.TrimSuffix(h, "."))
}

// agentMark stands for {agent} while a URL is parsed, as braces are not legal in a host.
const agentMark = "agent--label"

// address is the upstream's scheme and host for one request.
func (r *route) address(agent string) (scheme, host string) {
	return r.upstream.Scheme, strings.ReplaceAll(r.upstream.Host, agentMark, agent)
}

// path returns what the agent is asked for: its own path in front, and the prefix gone if the
// route says so.
func (r *route) path(public, rest string) string {
	return strings.TrimSuffix(r.upstream.EscapedPath(), "/") + r.seen(public, rest)
}

// query returns the query the agent gets: every copy of a dropped or set parameter is gone, the
// rest keeps its bytes and order, and the set ones follow. It also returns the parameters that
// query.drop removed, each once.
func (r *route) query(raw, agent string) (query string, removed []Removed) {
	var kept []string
	gone := func(name string, err error) bool {
		listed, ok := r.drop[name]
		if err != nil || !ok {
			return false
		}
		if p := (Removed{Parameter, name, "routes[].query.drop"}); listed && !slices.Contains(removed, p) {
			removed = append(removed, p)
		}
		return true
	}
	if raw != "" {
		for pair := range strings.SplitSeq(raw, "&") {
			name, _, _ := strings.Cut(pair, "=")
			if gone(url.PathUnescape(name)) || gone(url.QueryUnescape(name)) { // an agent may read + as a space
				continue
			}
			kept = append(kept, pair)
		}
	}
	for _, p := range r.set {
		kept = append(kept, escape(p[0])+"="+escape(strings.ReplaceAll(p[1], config.AgentLabel, agent)))
	}
	return strings.Join(kept, "&"), removed
}

// escape percent-encodes for a query, spaces too: a + would be read as one only by some.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// seen returns the path the agent would see, without its own prefix.
func (r *route) seen(public, rest string) string {
	if r.strip {
		return rest
	}
	return public
}

// prefix returns what is taken from the front of a path that the route has matched; "" if
// nothing is.
func (r *route) prefix(path string) string {
	if !r.strip {
		return ""
	}
	end := 0
	for range r.segments {
		if next := strings.IndexByte(path[end+1:], '/'); next >= 0 {
			end += 1 + next
		} else {
			end = len(path)
		}
	}
	return path[:end]
}
