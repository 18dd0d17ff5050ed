package gateway

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// pass is an admitted request: everything that the rooms behind admit need to know of it.
type pass struct {
	reason   outcome.Reason // why it was let in
	route    *route         // nil for a probe
	probe    string         // "/healthz" or "/readyz", to be answered by the gateway itself
	upgrade  bool           // a WebSocket handshake
	identity *auth.Identity
	addr     netip.Addr // the client's

	scheme, host string      // of the agent
	target       string      // path and query for the agent, as they go over the wire
	header       http.Header // headers for the agent, without those of the handshake
	protocol     protocols
}

// protocols is what is needed to answer a client's subprotocols (RFC 6455 §4.2.2).
type protocols struct {
	offered  []string // without the token's entries: what the agent sees
	token    bool     // a token was among them, so that a browser needs an answer
	fallback string   // what to answer if nothing else was offered; "" when no answer would be right
}

// answer is the subprotocol for the client, given the agent's choice.
func (p protocols) answer(chosen string) string {
	switch {
	case chosen != "" || !p.token:
		return chosen
	case len(p.offered) > 0:
		return p.offered[0]
	}
	return p.fallback
}

// trace collects what explain shows. A nil trace collects nothing, so that serving and explaining are one code.
type trace struct{ steps []Step }

func (t *trace) ok(name, format string, a ...any) {
	if t != nil {
		t.steps = append(t.steps, Step{Name: name, Detail: fmt.Sprintf(format, a...), OK: true})
	}
}

func (t *trace) auth() auth.Trace {
	if t == nil {
		return nil
	}
	return func(check, detail string) { t.ok(check, "%s", detail) }
}

// admit decides about one request: path, route, origin, token, rules, headers, handshake, in this order (docs/security.md). It changes
// nothing but its trace; the one thing it may wait for is a refetch of an issuer's keys. The error is an *auth.Refusal. A pass comes with
// every refusal behind the route, so that the log can name route and caller.
func (g *Gateway) admit(ctx context.Context, r *http.Request, t *trace) (*pass, error) {
	refuse := func(reason outcome.Reason, why string) error { return &outcome.Refusal{Reason: reason, Detail: why} }
	p := &pass{}

	path, query, err := target(r)
	if err != nil {
		return p, err
	}
	if !allowedMethod(r.Method) {
		return p, refuse(outcome.BadMethod, "method "+clip(r.Method))
	}
	t.ok("path", "%s", path)

	agent, rest, err := g.find(p, r, path)
	if err != nil || p.probe != "" {
		return p, err
	}
	if agent != "" {
		t.ok("route", "%s with agent %s", p.route.name, agent)
	} else {
		t.ok("route", "%s", p.route.name)
	}

	if origins := r.Header["Origin"]; !p.route.allowsOrigin(origins) {
		return p, refuse(outcome.BadOrigin, clip(strings.Join(origins, ", "))+" is not among the origins of the route")
	}

	var fromProxy bool
	p.addr, fromProxy = g.headers.client(r.RemoteAddr, r.Header)
	in := maps.Clone(r.Header) // Take removes from it, and looks into headers that agents never see, so it comes first
	credential, query, err := g.auth.Take(in, query)
	if err != nil {
		return p, err
	}
	p.protocol.token, p.protocol.fallback = credential.FromSubprotocol, credential.Subprotocol
	p.header = g.headers.outgoing(in, fromProxy)
	forward(p.header, r)
	if err := g.authorize(ctx, p, credential, agent, path, rest, t); err != nil {
		return p, err
	}

	p.upgrade = len(r.Header["Upgrade"]) > 0
	if p.upgrade {
		if why := badUpgrade(r); why != "" {
			return p, refuse(outcome.BadUpgrade, why)
		}
	}
	p.protocol.offered = listed(p.header["Sec-Websocket-Protocol"])
	p.scheme, p.host = p.route.address(agent)
	p.target = p.route.path(path, rest)
	if q := p.route.query(query, agent); q != "" {
		p.target += "?" + q
	}
	t.ok("upstream", "%s://%s%s", p.scheme, p.host, p.target)
	return p, nil
}

// find enters the room of routes.
func (g *Gateway) find(p *pass, r *http.Request, path string) (agent, rest string, err error) {
	host := hostOf(r.Host)
	own := path == "/.gateway" || strings.HasPrefix(path, "/.gateway/") // the gateway's own, never an agent's
	for _, candidate := range g.routes {
		if agent, rest, ok := candidate.match(host, path); ok && !own {
			p.route = candidate
			return agent, rest, nil
		}
	}
	if (path == "/healthz" || path == "/readyz") && (r.Method == http.MethodGet || r.Method == http.MethodHead) && g.excludes(path, path) {
		p.probe, p.reason = path, outcome.Probe
		return "", "", nil
	}
	return "", "", &outcome.Refusal{Reason: outcome.NoRoute, Detail: "no route for this host and path"}
}

// excludes says whether a path needs no token: as the client wrote it, or as it is left after the route's prefix.
func (g *Gateway) excludes(path, rest string) bool {
	return slices.ContainsFunc(g.excluded, func(e exclusion) bool { return e.matches(path) || e.matches(rest) })
}

// authorize enters the rooms of the token: verified, asked for its claims, turned into headers.
func (g *Gateway) authorize(ctx context.Context, p *pass, credential auth.Credential, agent, path, rest string, t *trace) (err error) {
	if !g.config.Authentication.Enabled {
		p.reason = outcome.AuthDisabled
		t.ok("token", "not looked for: authentication is disabled")
		return nil
	}
	if credential.Token != "" {
		t.ok("token", "found in %v", credential.Places)
		if p.identity, err = g.auth.Verify(ctx, credential, t.auth()); err != nil {
			return err
		}
	}
	open := true
	switch {
	case p.route.public:
		p.reason = outcome.PublicRoute
	case g.excludes(path, p.route.seen(path, rest)):
		p.reason = outcome.ExcludedPath
	default:
		p.reason, open = outcome.OK, false
	}
	if p.identity == nil {
		if !open {
			return &outcome.Refusal{Reason: outcome.NoToken, Detail: "no token in any of the places where one may sit"}
		}
		t.ok("token", "none, and none is needed: %s", p.reason)
		return nil
	}
	if !open {
		if !p.identity.HasPrincipal() {
			return &outcome.Refusal{Reason: outcome.NoPrincipal, Detail: "the token has no usable subject"}
		}
		if err := p.route.rules.Check(p.identity, agent, t.auth()); err != nil {
			return err
		}
	} else {
		t.ok("rule", "not asked: %s", p.reason)
	}
	told, err := g.auth.Headers(p.identity)
	if err != nil && !open {
		return err
	}
	for _, h := range told {
		p.header[http.CanonicalHeaderKey(h.Name)] = []string{h.Value}
		t.ok("header", "%s: %s", h.Name, h.Value)
	}
	if p.identity.ForwardToken {
		p.header["Authorization"] = []string{"Bearer " + credential.Token}
	}
	return nil
}

// seen is the path the agent would see, without its own prefix.
func (r *route) seen(public, rest string) string {
	if r.strip {
		return rest
	}
	return public
}

// badUpgrade says what is wrong with a handshake (RFC 6455 §4.2.1), or "". Every Upgrade that is no WebSocket is refused: a tunnel for
// another protocol (h2c) would go around every rule.
func badUpgrade(r *http.Request) string {
	one := func(name string) string {
		if v := r.Header[name]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	key := one("Sec-Websocket-Key")
	switch {
	case !strings.EqualFold(one("Upgrade"), "websocket"):
		return "Upgrade is not one websocket"
	case !slices.ContainsFunc(listed(r.Header["Connection"]), func(s string) bool { return strings.EqualFold(s, "upgrade") }):
		return "Connection does not say Upgrade"
	case r.Method != http.MethodGet:
		return "method " + clip(r.Method)
	case !r.ProtoAtLeast(1, 1):
		return "HTTP/1.0"
	case one("Sec-Websocket-Version") != "13":
		return "Sec-WebSocket-Version is not one 13"
	case !validKey(key):
		return "Sec-WebSocket-Key is not one key of 16 bytes"
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return "a handshake with a body"
	case r.Header.Get("Expect") != "":
		return "a handshake with Expect"
	}
	return ""
}

// listed takes comma-separated header lines apart; empty elements do not count (RFC 9110 §5.6.1).
func listed(lines []string) (out []string) {
	for _, line := range lines {
		for s := range strings.SplitSeq(line, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

// clip keeps a client's words short in a log line.
func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// Explain says what would become of r, by the very code that serves. r needs Method, RequestURI, Host, Header and RemoteAddr.
func (g *Gateway) Explain(ctx context.Context, r *http.Request) Explanation {
	t := &trace{}
	p, err := g.admit(ctx, r, t)
	if err != nil {
		refusal := outcome.RefusalOf(err)
		return Explanation{
			Steps:  append(t.steps, Step{Name: string(refusal.Reason), Detail: refusal.Text()}),
			Reason: refusal.Reason, Status: refusal.Reason.Status(),
		}
	}
	e := Explanation{Steps: t.steps, Admitted: true, Reason: p.reason}
	if p.probe == "" {
		e.Upstream, e.Header = p.scheme+"://"+p.host+p.target, p.header
	}
	return e
}
