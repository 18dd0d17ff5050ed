package policy

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
)

// route is one compiled route.
type route struct {
	name     string   // its path in the configuration: the label in log and metrics
	host     string   // lower case; ".x" stands for *.x; "" for any, or if it has names
	labels   []part   // of the host if it has names, else nil
	segments []part   // of the path
	named    bool     // a segment is a name
	upstream *url.URL // its scheme and path
	addr     string   // its host and port, with names if template
	template bool     // the agent's address depends on the request
	strip    bool

	tls            config.UpstreamTLS
	hostIsUpstream bool // the agent's Host is its own address
	public         bool
	agentJudges    bool            // the agent authenticates its callers
	forward        *bool           // whether the agent is given the token; nil: as its issuer says
	drop           map[string]bool // parameters whose every copy goes: true if because of query.drop, false for those of set
	set            [][2]string
	rules          auth.Rules // global and its own
	origins        origins
	cors           bool      // the gateway speaks CORS for the agent
	origin         string    // what the agent sees of an Origin: keep, own or drop
	resource       *resource // nil: clients are told nothing
	rejectClose    bool
	session        config.Session
	limits         config.Limits
}

// newRoutes compiles the routes and puts them in the order in which they are tried: the first that
// matches is the most exact one.
func newRoutes(c *config.Config, v *auth.Verifier) ([]*route, error) {
	routes := make([]*route, len(c.Routes))
	for i, rc := range c.Routes {
		u, err := url.Parse(config.WithoutNames(rc.Upstream))
		if err != nil {
			return nil, err
		}
		r := &route{
			name:     rc.Path,
			upstream: u,
			addr:     u.Host,
			template: config.WithoutNames(rc.Upstream) != rc.Upstream,
			strip:    rc.StripPrefix,

			tls:            rc.UpstreamTLS,
			hostIsUpstream: rc.HostHeader == "upstream",
			public:         rc.Public,
			agentJudges:    rc.AgentAuthenticates,
			forward:        rc.ForwardOriginalToken,
			drop:           map[string]bool{},
			rules:          v.Rules(rc.RequiredClaims),
			origins:        rc.AllowedOrigins,
			cors:           rc.CORS && len(rc.AllowedOrigins) > 0,
			origin:         rc.Origin,
			resource:       newResource(c, rc),
		}
		r.session, r.limits = c.Of(rc)
		r.rejectClose = rc.RejectWith == "close"
		if p := strings.Trim(rc.Path, "/"); p != "" {
			r.segments = parts(p, "/")
			r.named = literals(r.segments) < len(r.segments)
		}
		if labels := parts(rc.Host, "."); literals(labels) < len(labels) {
			for i, label := range labels {
				if !label.isName {
					labels[i].text = strings.ToLower(label.text)
				}
			}
			r.labels = labels
		} else {
			r.host = strings.TrimPrefix(strings.ToLower(rc.Host), "*")
		}
		if r.template { // names are in the host alone
			_, rest, _ := strings.Cut(rc.Upstream, "://")
			r.addr, _, _ = strings.Cut(rest, "/")
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

// byPrecedence puts the more exact route first: exact host, host with names (more literal labels
// first), wildcard host (longer first), no host; then segment by segment from the left a literal
// before a name; then the longer path. Where two hosts with names have equally many literal
// labels, they are compared as paths are.
func byPrecedence(a, b *route) int {
	kind := func(r *route) int {
		switch {
		case r.labels != nil:
			return 1
		case r.host == "":
			return 3
		case r.host[0] == '.':
			return 2
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(kind(a), kind(b)),
		cmp.Compare(len(b.host), len(a.host)),
		cmp.Compare(literals(b.labels), literals(a.labels)),
		literalFirst(a.labels, b.labels),
		literalFirst(a.segments, b.segments),
	)
}

// part is a segment of a path or a label of a host: text, or a name that takes one DNS label.
type part struct {
	text   string // the name without its braces, if isName
	isName bool
}

func parts(text, separator string) (all []part) {
	for t := range strings.SplitSeq(text, separator) {
		if name, isName := config.NameIn(t); isName {
			all = append(all, part{name, true})
		} else {
			all = append(all, part{t, false})
		}
	}
	return all
}

// literals returns how many of the parts are text.
func literals(parts []part) (n int) {
	for _, p := range parts {
		if !p.isName {
			n++
		}
	}
	return n
}

// literalFirst puts first what has text where the other has a name, at the leftmost such place;
// then the longer one.
func literalFirst(a, b []part) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i].isName == b[i].isName:
		case a[i].isName:
			return 1
		default:
			return -1
		}
	}
	return cmp.Compare(len(b), len(a))
}

// match reports whether the route takes the request. It returns what its names stand for, and the
// path that is left after its prefix.
func (r *route) match(host, path string) (names config.Names, rest string, ok bool) {
	if names, ok = r.matchHost(host); !ok {
		return nil, "", false
	}
	rest = path
	for _, want := range r.segments {
		if rest == "" {
			return nil, "", false
		}
		segment, tail, more := strings.Cut(rest[1:], "/")
		if names, ok = want.bind(names, segment); !ok {
			return nil, "", false
		}
		if rest = ""; more {
			rest = "/" + tail
		}
	}
	if rest == "" {
		rest = "/"
	}
	return names, rest, true
}

// matchHost reports whether the route takes requests for a host name, which is in lower case. It
// returns what the names of its own host stand for.
func (r *route) matchHost(host string) (names config.Names, ok bool) {
	switch {
	case r.labels != nil:
		labels := strings.Split(host, ".")
		if len(labels) != len(r.labels) {
			return nil, false
		}
		for i, want := range r.labels {
			if names, ok = want.bind(names, labels[i]); !ok {
				return nil, false
			}
		}
		return names, true
	case r.host == "":
		return nil, true
	case r.host[0] == '.':
		return nil, strings.HasSuffix(host, r.host) && len(host) > len(r.host)
	}
	return nil, host == r.host
}

// bind reports whether got is what the part takes, and returns names with the one that it has
// bound. A name that is bound already takes the same label once more, and no other.
func (p part) bind(names config.Names, got string) (config.Names, bool) {
	if !p.isName {
		return names, got == p.text
	}
	if label := names.Of(p.text); label != "" {
		return names, got == label
	}
	if !isLabel(got) {
		return names, false
	}
	return append(names, config.Name{Name: p.text, Label: got}), true
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

// deadline returns when a caller's right to a connection ends; zero: never. id may be nil.
func (r *route) deadline(id *auth.Identity) time.Time {
	if id == nil || id.Deadline.IsZero() || !r.session.CloseOnTokenExpiry {
		return time.Time{}
	}
	return id.Deadline.Add(r.session.ExpiryGrace)
}

// hostOf returns the host name of a Host header: without port, in lower case. It is "" if the
// header names no host, or has what stands in no host's name. Servers disagree about the rest:
// evil,a.example ends in .example, and in a list its first element is evil.
func hostOf(authority string) string {
	name, port := authority, ""
	if colon := strings.LastIndexByte(authority, ':'); colon > strings.LastIndexByte(authority, ']') {
		name, port = authority[:colon], authority[colon+1:]
	}
	if strings.Trim(port, "0123456789") != "" {
		return ""
	}
	if address, is := strings.CutPrefix(name, "["); is {
		address, closed := strings.CutSuffix(address, "]")
		if a, err := netip.ParseAddr(address); err != nil || !a.Is6() || a.Zone() != "" || !closed {
			return ""
		}
		return strings.ToLower(address)
	}
	if strings.ContainsFunc(name, isOddInHost) {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// isOddInHost reports whether a character stands in no host's name. Clients of a Unix socket
// write its path there, with escapes.
func isOddInHost(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-._~%", c))
}

// address is the upstream's scheme and host for one request.
func (r *route) address(names config.Names) (scheme, host string) {
	return r.upstream.Scheme, names.Fill(r.addr)
}

// path returns what the agent is asked for: its own path in front, and the prefix gone if the
// route says so.
func (r *route) path(public, rest string) string {
	return strings.TrimSuffix(r.upstream.EscapedPath(), "/") + r.seen(public, rest)
}

// query returns the query the agent gets: every copy of a dropped or set parameter is gone, the
// rest keeps its bytes and order, and the set ones follow. It also returns the parameters that
// query.drop removed, each once.
func (r *route) query(raw string, names config.Names) (query string, removed []Removed) {
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
		kept = append(kept, escape(p[0])+"="+escape(names.Fill(p[1])))
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
