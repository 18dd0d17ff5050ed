// Package policy decides what becomes of a request: which agent it goes to, whether it may, and
// what the agent is told.
//
// A Policy is one immutable value, made by New from a configuration and the issuers' keys. The
// gateway holds it behind one atomic pointer and loads it once a request, so a request sees one
// configuration, whatever is reloaded meanwhile. Admit is the story (admit.go): path, route,
// origin, token, rules, headers, handshake, in this order. Explain runs the same code and shows
// each step (explain.go). What a live session needs to be judged again is its Case.
//
// The package does no I/O, but that an unknown key makes it wait for one fetch of an issuer's
// keys.
package policy

import (
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/handshake"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Policy is the compiled rules of one configuration. It is immutable and may be used concurrently.
type Policy struct {
	config        *config.Config
	authenticated bool // authentication.enabled
	verifier      *auth.Verifier
	routes        []*route // in the order in which they are tried
	excluded      []exclusion
	headers       headerRules
	cookies       bool // a token may be in a cookie
}

// New compiles a configuration that config.Load has found good. It registers the issuers with
// keys, uses no network and reads no file. The revocations may be nil.
func New(c *config.Config, keys *auth.Keys, revocations *auth.Revocations) (*Policy, error) {
	verifier, err := auth.New(c.Authentication, c.Limits.MaxTokenBytes, keys, revocations)
	if err != nil {
		return nil, err
	}
	p := &Policy{
		config:        c,
		authenticated: c.Authentication.Enabled,
		verifier:      verifier,
		headers:       newHeaderRules(c),
	}
	if p.routes, err = newRoutes(c, verifier); err != nil {
		return nil, err
	}
	for _, issuer := range c.Authentication.Issuers() {
		p.cookies = p.cookies || len(issuer.FromCookies) > 0
	}
	for _, pattern := range c.Authentication.Authorization.ExcludePaths {
		p.excluded = append(p.excluded, newExclusion(pattern))
	}
	return p, nil
}

// Case is what a request was judged by. A session keeps it, so that it can be judged again.
type Case struct {
	// Host is the host name of the request, and Path its public path in the one spelling.
	Host, Path string
	// Origins are the lines of the Origin header.
	Origins []string
	// Route is the path of the route in the configuration, and Agent the label that {agent} took,
	// if the route has that name.
	Route, Agent string
	// Names are all names of the route and the labels that they took.
	Names config.Names
	// Identity is the verified caller; nil without a token.
	Identity *auth.Identity
}

// take notes the route that takes the request.
func (c *Case) take(r *route, names config.Names) {
	c.Route, c.Names, c.Agent = r.name, names, names.Of("agent")
}

// Pass is an admitted request: everything that the rooms after Admit need to know of it. A
// refused one comes with a Pass too, filled as far as Admit got, so that the log can name route
// and caller.
type Pass struct {
	Case
	// Reason is the word that says why the request was let in.
	Reason outcome.Reason
	// Probe is "/healthz" or "/readyz" when the gateway itself must answer, else "".
	Probe string
	// Own is one of the gateway's own paths, such as Renew, when the gateway must answer for it,
	// else "".
	Own string
	// Allow are the methods that a refusal for the method names; "": those of every route.
	Allow string
	// Metadata is the document of RFC 9728, when the gateway must answer with that, else nil.
	Metadata []byte
	// Hint is what a challenge adds to its error: parameters, each after ", ". It may be empty.
	Hint string
	// Session and Limits are those of the route. They are not changed.
	Session *config.Session
	Limits  *config.Limits
	// Upgrade reports whether the request is a WebSocket handshake.
	Upgrade bool
	// CORS is what the answer must tell a page of another origin.
	CORS CORS
	// Client is the client's address, as limits see it.
	Client  netip.Addr
	proxied bool // a trusted proxy has sent the request
	// Deadline is when the caller's right to a connection ends; zero: never.
	Deadline time.Time

	// Scheme and Addr are those of the agent; Addr may lack a port.
	Scheme, Addr string
	// TLS is how the agent is verified, if Scheme is https.
	TLS config.UpstreamTLS
	// Chosen reports whether the client's path or host has chosen Addr, by a name in the route's
	// upstream.
	Chosen bool
	// AgentHost is the Host header that the agent sees.
	AgentHost string
	// Target is path and query for the agent, as they go over the wire.
	Target string
	// Header are the headers for the agent, without those of the handshake.
	Header http.Header
	// Removed is what the agent does not get of the client's headers and query.
	Removed []Removed
	// Protocols is what is needed to answer the client's subprotocols.
	Protocols handshake.Protocols

	rejectWithClose bool // the route wants WebSockets refused by a Close
}

// RejectCode returns the code of the Close by which the client is refused, or 0 if by an HTTP
// status: because the route wants that, or r is no valid handshake, or the reason has no code.
func (p *Pass) RejectCode(r *http.Request, reason outcome.Reason) int {
	if !p.rejectWithClose || !handshake.Wanted(r) {
		return 0
	}
	if fault, _ := handshake.Fault(r); fault != "" {
		return 0
	}
	return reason.RejectCode()
}

// The kinds of what is Removed.
const (
	Header    = "header"
	Parameter = "parameter"
)

// Removed is something of the client's that the agent does not get, because agents believe it.
type Removed struct {
	// Kind is Header or Parameter, and Name what the client called it.
	Kind, Name string
	// Key is the key of the configuration because of which it is removed.
	Key string
}

// Allowed reports whether its key can allow it. A header that claims are put into never passes.
func (r Removed) Allowed() bool { return r.Key != claimHeaders }

// Config returns the configuration that the policy was compiled from: limits and times belong
// to the same configuration as the rules. It must not be changed.
func (p *Policy) Config() *config.Config { return p.config }

// Verifier returns what verifies tokens, for the keeper of the keys.
func (p *Policy) Verifier() *auth.Verifier { return p.verifier }

// Ready reports whether tokens can be judged: see auth.Verifier.Ready.
func (p *Policy) Ready() bool { return p.verifier.Ready() }

// Remembered returns how many verified tokens are remembered, and about how many bytes they take.
func (p *Policy) Remembered() (tokens, bytes int) { return p.verifier.Remembered() }

// Issuers returns the states of all issuers, in the order of the configuration.
func (p *Policy) Issuers() []auth.IssuerState { return p.verifier.Issuers() }

// Client returns the address of a request's client, as limits see it.
func (p *Policy) Client(r *http.Request) netip.Addr {
	addr, _ := p.headers.client(r.RemoteAddr, r.Header)
	return addr
}

// Tokenless returns what can be said of a request without its token, and reports whether the
// gateway answers it without one: probes, preflights, metadata.
func (p *Policy) Tokenless(r *http.Request) (*Pass, bool) {
	pass := &Pass{}
	route, _, _, err := p.locate(pass, r, nil)
	return pass, err == nil && route == nil && pass.Own == ""
}

// Upstream is an agent whose address is fixed.
type Upstream struct {
	Route, Scheme, Addr string
	TLS                 config.UpstreamTLS
}

// Upstreams returns the agents whose addresses are fixed, one for each route that names one.
func (p *Policy) Upstreams() (all []Upstream) {
	for _, r := range p.routes {
		if !r.template {
			scheme, addr := r.address(nil)
			all = append(all, Upstream{r.name, scheme, addr, r.tls})
		}
	}
	return all
}

// Templates returns the routes whose agents have no fixed address.
func (p *Policy) Templates() (routes []string) {
	for _, r := range p.routes {
		if r.template {
			routes = append(routes, r.name)
		}
	}
	return routes
}

// Deadline returns when the right to a session ends that was admitted with c; zero: never.
func (p *Policy) Deadline(c Case) time.Time {
	route, _, err := p.find(&Pass{Case: c}, "")
	if err != nil {
		return time.Time{}
	}
	return route.deadline(c.Identity)
}

// Latest returns when the last session ends to which a caller may have a right; zero: never.
func (p *Policy) Latest(id *auth.Identity) (latest time.Time) {
	for _, r := range p.routes {
		deadline := r.deadline(id)
		if deadline.IsZero() {
			return deadline
		}
		if deadline.After(latest) {
			latest = deadline
		}
	}
	return latest
}

// excludes reports whether a path needs no token: as the client wrote it, or as the agent sees it.
// Where the route has taken a name from the path, an exact pattern is compared only with what is
// left after the prefix: else the pattern /metrics would open an agent called metrics.
func (p *Policy) excludes(path, seen string, named bool) bool {
	return slices.ContainsFunc(p.excluded, func(e exclusion) bool {
		if e.exact() && named {
			return seen != path && e.matches(seen)
		}
		return e.matches(path) || e.matches(seen)
	})
}
