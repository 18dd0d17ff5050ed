package policy

import (
	"net/http"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/headers"
)

// origins are the origins from which a browser may use a route (RFC 6454). None: any.
type origins []string

// allow reports whether a request with these Origin lines may use the route. Without one it comes
// from no browser (RFC 6455 §4.1: browsers always send one with a WebSocket handshake). Two are
// refused: the agent might believe the one that was not looked at.
func (o origins) allow(lines []string) bool {
	if len(o) == 0 || len(lines) == 0 {
		return true
	}
	return len(lines) == 1 && slices.ContainsFunc(o, func(allowed string) bool {
		return allowed == config.AnyOrigin || allowed == lines[0] || matchesOrigin(allowed, lines[0])
	})
}

// matchesOrigin reports whether a wildcard such as https://*.preview.example.com takes an origin:
// one label, the same scheme and port.
func matchesOrigin(pattern, origin string) bool {
	before, after, ok := strings.Cut(pattern, config.OriginWildcard)
	if !ok || !strings.HasPrefix(origin, before) || !strings.HasSuffix(origin, after) || len(origin) < len(before)+len(after) {
		return false
	}
	label := origin[len(before) : len(origin)-len(after)]
	return isLabel(label)
}

// CORS is what a page of another origin must be told before its browser lets it read an answer, or
// send a request that is not simple (the Fetch standard, "CORS protocol"). The zero value adds
// nothing.
type CORS struct {
	varies      bool   // the answer depends on the page, even if none has sent the request
	origin      string // of the page, which the route lists; "" when there is nothing to tell
	credentials bool   // the token may be a cookie
}

// corsOf returns what the page that sent a request must be told. The origin was found allowed;
// lines are empty for a request without one, and for one that was refused.
func (p *Policy) corsOf(r *route, lines []string) CORS {
	switch {
	case !r.cors:
		return CORS{}
	case len(lines) == 0:
		return CORS{varies: true}
	}
	return CORS{varies: true, origin: lines[0], credentials: p.cookies}
}

// corsOfAny is corsOf for a refusal before the route is known: a page that any route lists may read
// the word.
func (p *Policy) corsOfAny(lines []string) (c CORS) {
	for _, r := range p.routes {
		switch {
		case !r.cors:
		case r.origins.allow(lines):
			return p.corsOf(r, lines)
		default:
			c.varies = true
		}
	}
	return c
}

// exposed are the headers of an answer that a page may read beside the simple ones and those that
// the agent exposes. An MCP client must read the last one.
var exposed = [...]string{"WWW-Authenticate", "Retry-After", "X-Gateway-Session", "Mcp-Session-Id"}

// Tell puts the gateway's words into the headers of an answer, in place of the agent's own.
func (c CORS) Tell(h http.Header) {
	if c.varies && !slices.ContainsFunc(headers.List(h["Vary"]), func(name string) bool {
		return name == "*" || strings.EqualFold(name, "Origin")
	}) {
		h.Add("Vary", "Origin")
	}
	if c.origin == "" {
		return
	}
	expose := exposed[:]
	for _, name := range headers.List(h["Access-Control-Expose-Headers"]) {
		if !slices.ContainsFunc(expose, func(known string) bool { return strings.EqualFold(known, name) }) {
			expose = append(slices.Clip(expose), name)
		}
	}
	for name := range h {
		if strings.HasPrefix(config.FoldHeader(name), "access-control-") {
			delete(h, name)
		}
	}
	h.Set("Access-Control-Allow-Origin", c.origin)
	h.Set("Access-Control-Expose-Headers", strings.Join(expose, ", "))
	if c.credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
}

// preflightAge is how long, in seconds, a browser may remember the answer to a preflight. Browsers
// take two hours at most.
const preflightAge = "7200"

// Preflight answers a preflight into the headers of an answer: the page may send what it asks for.
// No token comes with a preflight, and the request itself is judged when it comes.
func (c CORS) Preflight(h, asked http.Header) {
	c.Tell(h)
	h.Del("Access-Control-Expose-Headers")
	h.Set("Access-Control-Allow-Methods", asked.Get("Access-Control-Request-Method"))
	if names := asked.Get("Access-Control-Request-Headers"); names != "" {
		h.Set("Access-Control-Allow-Headers", names)
	}
	if asked.Get("Access-Control-Request-Private-Network") == "true" { // from a public page to a gateway in a private network
		h.Set("Access-Control-Allow-Private-Network", "true")
	}
	h.Set("Access-Control-Max-Age", preflightAge)
	h["Vary"] = []string{"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
}

// isPreflight reports whether a browser asks before it sends the request itself.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) == 1 && len(r.Header["Access-Control-Request-Method"]) == 1
}
