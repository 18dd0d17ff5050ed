package policy

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/handshake"
	"github.com/altairalabs/omnia-gateway/internal/headers"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Admit decides about one request: path, route, origin, token, rules, headers, handshake, in
// this order (docs/authorization.md). It does not change the request. The one thing it may wait
// for is a fetch of an issuer's keys, bounded by ctx. The error is an *outcome.Refusal. The Pass
// is never nil.
func (p *Policy) Admit(ctx context.Context, r *http.Request) (*Pass, error) {
	return p.admit(ctx, r, nil)
}

func (p *Policy) admit(ctx context.Context, r *http.Request, t *trace) (*Pass, error) {
	pass := &Pass{}
	route, rest, query, err := p.locate(pass, r, t)
	switch {
	case err != nil:
		if pass.Route == "" {
			pass.CORS = p.corsOfAny(r.Header["Origin"])
		}
		return pass, err
	case pass.Own == Renew:
		return pass, p.admitRenewal(ctx, pass, r, t)
	case pass.Own == Logout:
		return pass, p.admitLogout(pass, r)
	case route == nil:
		return pass, nil
	}

	in := maps.Clone(r.Header) // Take removes from it, and looks into headers that agents never see, so it comes first
	if !handshake.Wanted(r) {
		withoutNominated(in)
	}
	var credential auth.Credential
	if !route.agentJudges { // else it is not the gateway's to take
		if credential, query, err = p.verifier.Take(in, query); err != nil {
			return pass, err
		}
	}
	pass.Protocols.Token, pass.Protocols.Fallback = credential.FromSubprotocol, credential.Subprotocol
	pass.Header, pass.Removed = p.headers.outgoing(in, pass.proxied)
	forward(pass.Header, r)
	if err := p.authorize(ctx, pass, route, credential, rest, t); err != nil {
		return pass, err
	}
	pass.Deadline = route.deadline(pass.Identity)

	pass.Upgrade = handshake.Wanted(r)
	if pass.Upgrade {
		if word, why := handshake.Fault(r); word != "" {
			return pass, outcome.Refuse(word, why)
		}
	}
	pass.Protocols.Offered = headers.List(pass.Header["Sec-Websocket-Protocol"])
	pass.Scheme, pass.Addr = route.address(pass.Names)
	pass.TLS, pass.Chosen = route.tls, route.template
	if pass.AgentHost = r.Host; route.hostIsUpstream {
		pass.AgentHost = pass.Addr
	}
	switch {
	case len(pass.Origins) == 0 || route.origin != "own" && route.origin != "drop": // keep
	case route.origin == "drop":
		delete(pass.Header, "Origin")
	default: // what an agent expects that compares Origin with Host
		scheme, _ := p.headers.authority(r)
		pass.Header["Origin"] = []string{scheme + "://" + pass.AgentHost}
	}
	if prefix := route.prefix(pass.Path); prefix != "" {
		pass.Header["X-Forwarded-Prefix"] = []string{strings.Join(append(pass.Header["X-Forwarded-Prefix"], prefix), ", ")}
	}
	pass.Target = route.path(pass.Path, rest)
	query, removed := route.query(query, pass.Names)
	if query != "" {
		pass.Target += "?" + query
	} else if strings.HasSuffix(r.RequestURI, "?") {
		pass.Target += "?" // to an agent that compares targets, /x? is not /x
	}
	pass.Removed = append(pass.Removed, removed...)
	for _, gone := range pass.Removed {
		t.ok("removed", "%s %s of the client: %s", gone.Kind, outcome.Clip(gone.Name), gone.Key)
	}
	t.ok("upstream", "%s://%s%s", pass.Scheme, pass.Addr, pass.Target)
	return pass, nil
}

// locate enters the rooms before that of the token: path, route, origin. It returns the route, the
// path that is left after its prefix, and the query. Without a route, and without an error, the
// gateway answers by itself.
func (p *Policy) locate(pass *Pass, r *http.Request, t *trace) (route *route, rest, query string, err error) {
	pass.Client, pass.proxied = p.headers.client(r.RemoteAddr, r.Header)
	path, query, err := target(r)
	if err != nil {
		return nil, "", "", err
	}
	pass.Host, pass.Path, pass.Origins = hostOf(r.Host), path, r.Header["Origin"]
	if pass.Host == "" && (r.Host != "" || r.ProtoAtLeast(1, 1)) { // RFC 9112 §3.2; a probe in HTTP/1.0 may leave it out
		return nil, "", "", outcome.Refuse(outcome.BadHost, "a Host that is empty, or names no host")
	}
	if (path == Renew || path == Logout) && p.authenticated {
		pass.Own = path
		t.ok("path", "%s", path)
		return nil, "", "", nil
	}
	if !allowedMethod(r.Method) {
		return nil, "", "", outcome.Refuse(outcome.BadMethod, "method "+outcome.Clip(r.Method))
	}
	t.ok("path", "%s", path)
	if p.describe(pass, r) {
		return nil, "", "", nil
	}

	route, rest, err = p.find(pass, r.Method)
	if err != nil || pass.Probe != "" {
		return nil, "", "", err
	}
	if len(pass.Names) > 0 {
		t.ok("route", "%s with %s", route.name, pass.Names)
	} else {
		t.ok("route", "%s", route.name)
	}
	pass.Session, pass.Limits, pass.rejectWithClose = &route.session, &route.limits, route.rejectClose
	pass.Hint = p.hint(r, route, pass.Names)
	if !route.origins.allow(pass.Origins) {
		pass.CORS = p.corsOf(route, nil)
		return nil, "", "", refuseOrigin(pass.Origins)
	}
	pass.CORS = p.corsOf(route, pass.Origins)
	if route.cors && isPreflight(r) {
		pass.Reason = outcome.Preflight
		t.ok("preflight", "answered by the gateway for %s", outcome.Clip(pass.Origins[0]))
		return nil, "", "", nil
	}
	return route, rest, query, nil
}

// Subprotocol returns the answer to the subprotocols of a refused client: the first that it has
// offered, as a browser wants one, but never a token; "" if there is none.
func (p *Policy) Subprotocol(r *http.Request) string {
	const header = "Sec-Websocket-Protocol"
	h := http.Header{header: r.Header[header]}
	credential, _, _ := p.verifier.Take(h, "") // removes tokens, one or several
	if offered := headers.List(h[header]); len(offered) > 0 {
		return offered[0]
	}
	if credential.Subprotocol == "" && slices.Contains(headers.List(r.Header[header]), bearer) {
		return bearer // beside several tokens
	}
	return credential.Subprotocol
}

// bearer is the subprotocol after which a token stands.
const bearer = "bearer"

// refuseOrigin is the refusal of a page that a route does not list.
func refuseOrigin(origins []string) error {
	return outcome.Refuse(outcome.BadOrigin, outcome.Clip(strings.Join(origins, ", "))+" is not among the origins of the route")
}

// find enters the room of routes. It returns the route and the path that is left after its prefix,
// or makes the request a probe.
func (p *Policy) find(pass *Pass, method string) (_ *route, rest string, err error) {
	path := pass.Path
	probe := path == "/healthz" || path == "/readyz"
	if path != "/.gateway" && !strings.HasPrefix(path, "/.gateway/") { // the gateway's own, never an agent's
		for _, r := range p.routes {
			// No name takes the gateway's own probes for a label.
			if names, rest, ok := r.match(pass.Host, path); ok && !(probe && r.named) {
				pass.take(r, names)
				return r, rest, nil
			}
		}
	}
	asks := method == http.MethodGet || method == http.MethodHead
	if probe && asks && p.excludes(path, path, false) {
		pass.Probe, pass.Reason = path, outcome.Probe
		return nil, "", nil
	}
	return nil, "", outcome.Refuse(outcome.NoRoute, "no route for this host and path")
}

// authorize enters the rooms of the token: verified, asked for its claims, turned into headers.
func (p *Policy) authorize(ctx context.Context, pass *Pass, r *route, credential auth.Credential, rest string, t *trace) (err error) {
	if !p.authenticated {
		pass.Reason = outcome.AuthDisabled
		t.ok("token", "not looked for: authentication is disabled")
		return nil
	}
	if r.agentJudges {
		pass.Reason = outcome.AgentAuthenticates
		t.ok("token", "not looked for: the agent authenticates")
		return nil
	}
	if credential.Token != "" {
		t.ok("token", "found in %v", credential.Places)
		credential.Client = pass.Client
		if pass.Identity, err = p.verifier.Verify(ctx, credential, t.auth()); err != nil {
			return err
		}
	}
	pass.Reason = p.entry(pass.Path, r, rest)
	open := pass.Reason != outcome.OK
	if pass.Identity == nil {
		if !open {
			return outcome.Refuse(outcome.NoToken,
				"no token in any of the places where one may sit"+otherScheme(pass.Header["Authorization"]))
		}
		t.ok("token", "none, and none is needed: %s", pass.Reason)
		return nil
	}
	if open {
		t.ok("rule", "not asked: %s", pass.Reason)
	} else if err := p.permit(r, pass.Identity, pass.Names, t); err != nil {
		return err
	}
	return p.tell(pass, r, credential.Token, open, t)
}

// otherScheme tells of a header Authorization in which no token was found, without what may be a
// secret in it.
func otherScheme(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	scheme, _, more := strings.Cut(strings.TrimSpace(lines[0]), " ")
	switch {
	case strings.Count(scheme, ".") == 2:
		return "; Authorization has a token without the word Bearer and a space before it"
	case more && isWord(scheme):
		return "; Authorization has the scheme " + scheme + ", not Bearer"
	}
	return "; Authorization has no scheme, which would be Bearer"
}

// isWord reports whether a text is a few letters, which are no secret.
func isWord(s string) bool {
	return len(s) <= 16 && !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsLetter(r) })
}

// entry returns the word by which requests for a path of a route are let in: OK where a token is
// needed.
func (p *Policy) entry(path string, r *route, rest string) outcome.Reason {
	switch {
	case r.public:
		return outcome.PublicRoute
	case p.excludes(path, r.seen(path, rest), r.named):
		return outcome.ExcludedPath
	}
	return outcome.OK
}

// permit asks the rules of a route about a verified caller.
func (p *Policy) permit(r *route, id *auth.Identity, names config.Names, t *trace) error {
	if err := p.verifier.Principal(id); err != nil {
		return err
	}
	return r.rules.Check(id, names, t.auth())
}

// tell puts what the agent is told about the caller into the headers. On an open path a claim that
// cannot be a header is left out.
func (p *Policy) tell(pass *Pass, r *route, token string, open bool, t *trace) error {
	told, err := p.verifier.Headers(pass.Identity)
	if err != nil && !open {
		return err
	}
	for _, h := range told {
		pass.Header[http.CanonicalHeaderKey(h.Name)] = []string{h.Value}
		t.ok("header", "%s: %s", h.Name, h.Value)
	}
	forward := pass.Identity.ForwardToken
	if r.forward != nil {
		forward = *r.forward
	}
	if forward && pass.Identity.ClientKey == "" {
		pass.Header["Authorization"] = []string{"Bearer " + token}
	}
	return nil
}
