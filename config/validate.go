package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// AnyOrigin in allowedOrigins allows every origin.
const AnyOrigin = "*"

// OriginWildcard in an allowed origin, as its first label, stands for any one DNS label.
const OriginWildcard = "*"

// claimFormats are the formats of ClaimHeader that have a name.
var claimFormats = []string{"json", "base64json", "first"}

// minHeaderBytes is room for a token and little else; net/http cannot be told less.
const minHeaderBytes = 4096

// How long limits.maxTokenBytes lets a token be: the least is that of a common one, and the most
// is what other servers on the way take as a request head. Beside the token the head has the
// request line and the other headers.
const (
	minTokenBytes = 1 << 10
	maxTokenBytes = 60 << 10
	otherHeaders  = 2 << 10
)

// maxClockSkew is more than clocks differ; a longer one is meant for another key, or has a wrong
// unit.
const maxClockSkew = 10 * time.Minute

// maxPrepared is more than the handshakes that an agent gets at once; a larger number is meant for
// another key.
const maxPrepared = 1000

// Validate finds everything wrong in a configuration that can be seen without looking at
// anything else: no file, no network. It is the only such check; constructors trust it. The
// problems have no place. A configuration in which Listen is empty may be valid.
func (c *Config) Validate() Problems {
	var k checker
	k.listeners(c)
	k.routes(c)
	k.networks("trustedProxies", c.TrustedProxies)
	k.networks("proxyProtocol.from", c.ProxyProtocol.From)
	k.authentication(c)
	k.cookies(c)
	k.session(c.Session)
	k.limits(c.Limits)
	k.revocations(c.Revocations)
	k.between("upstream.idleTimeout", c.Upstream.IdleTimeout, 0, 10*time.Minute)
	if n := c.Upstream.Prepared; n < 0 || n > maxPrepared {
		k.add("upstream.prepared", "out of range", fmt.Sprintf("from 0, which opens none ahead, to %d", maxPrepared))
	}
	k.redis("cluster.redis", c.Cluster.Redis)
	k.oneOf("log.format", c.Log.Format, "json", "text")
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	return k.problems
}

// checker collects problems.
type checker struct{ problems Problems }

// add reports a problem of key. The keys because are others on whose values it rests.
func (k *checker) add(key, text, hint string, because ...string) {
	k.problems = append(k.problems, Problem{Key: key, Text: text, Hint: hint, because: strings.Join(because, " ")})
}

func index(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

func (k *checker) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	hint := "one of " + strings.Join(allowed, ", ")
	if near := nearest(value, allowed); near != "" && len(value) > 3 { // shorter ones are near to anything
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	k.add(key, "unknown value", hint)
}

func (k *checker) networks(key string, networks []netip.Prefix) {
	for i, p := range networks {
		if key := index(key, i); !p.IsValid() {
			k.add(key, "not a network", "write address/bits, such as 10.0.0.0/8")
		} else if p.Addr().Is4In6() {
			k.add(key, "an IPv4 network written as IPv6", "write it as IPv4, such as 10.0.0.0/8")
		}
	}
}

func (k *checker) listeners(c *Config) {
	if c.Listen != "" {
		k.address("listen", c.Listen)
	}
	k.address("admin.listen", c.Admin.Listen)
	for i, name := range c.Admin.Hosts {
		if !isHostName(strings.ToLower(name)) {
			k.add(index("admin.hosts", i), "not a host name", "write it without scheme and port, such as gateway.ops.example.com")
		}
	}
	if c.Listen == c.Admin.Listen && !strings.HasSuffix(c.Listen, ":0") {
		k.add("admin.listen", "the same address as listen", "give operators a port of their own, such as 127.0.0.1:9090", "listen")
	}
	if m := c.Admin.MetricsListen; m != "" {
		k.address("admin.metricsListen", m)
		if (m == c.Listen || m == c.Admin.Listen) && !strings.HasSuffix(m, ":0") {
			k.add("admin.metricsListen", "the same address as another listener", "give it a port of its own, such as :9091")
		}
	}
	switch t := c.TLS; {
	case t.CertFile != "" && t.KeyFile == "":
		k.add("tls.keyFile", "missing beside certFile", "name the PEM file of the certificate's private key")
	case t.CertFile == "" && t.KeyFile != "":
		k.add("tls.certFile", "missing beside keyFile", "name the PEM file of the certificate chain")
	case t.ClientCAFile != "" && !t.Enabled():
		k.add("tls.clientCAFile", "clients cannot be asked for certificates without TLS", "set tls.certFile and tls.keyFile as well",
			"tls.certFile", "tls.keyFile")
	}
	k.oneOf("tls.minVersion", c.TLS.MinVersion, "1.2", "1.3")
}

func (k *checker) address(key, value string) {
	host, port, err := net.SplitHostPort(value)
	n, perr := strconv.ParseUint(port, 10, 16)
	_, ierr := netip.ParseAddr(host)
	if err != nil || perr != nil || strconv.FormatUint(n, 10) != port || host != "" && ierr != nil && !isHostName(strings.ToLower(host)) {
		hint := "write host:port, or :port for all interfaces, such as :8443 or 127.0.0.1:9090"
		if isDigits(value) {
			hint = portHint(key, value)
		}
		k.add(key, "not an address", hint)
	}
}

func (k *checker) routes(c *Config) {
	routes := c.Routes
	if len(routes) == 0 {
		k.add("routes", "no routes", "say where requests go: routes: [{path: /my-agent, upstream: http://my-agent:8080}]")
	}
	seen := map[string]int{}
	for i, r := range routes {
		key := index("routes", i)
		k.routePath(key+".path", r.Path)
		// Two routes that differ in their names alone would take the same requests.
		id := braced.ReplaceAllString(strings.ToLower(r.Host)+" "+strings.TrimSuffix(r.Path, "/"), "{}")
		if first, twice := seen[id]; twice && r.Path != "" {
			k.add(key+".path", fmt.Sprintf("the same host and path as routes[%d]", first),
				"keep one of the two, or give one of them a host", key+".host", index("routes", first)+".host")
		}
		seen[id] = i
		bound := append(namesIn(r.Path), namesIn(r.Host)...)
		k.upstream(key+".upstream", r.Upstream, bound)
		if len(r.Upstreams) > 0 {
			k.add(key+".upstreams", "not supported yet", "name one address as upstream")
		}
		k.routeHost(key+".host", r.Host)
		if k.oneOf(key+".origin", r.Origin, "keep", "own", "drop"); r.Origin != "keep" && r.Origin != "" {
			if len(r.AllowedOrigins) == 0 || slices.Contains(r.AllowedOrigins, AnyOrigin) {
				k.add(key+".origin", "would make every origin look right to the agent", "list allowedOrigins, or write keep")
			}
		}
		k.oneOf(key+".hostHeader", r.HostHeader, "keep", "upstream")
		k.oneOf(key+".rejectWith", r.RejectWith, "status", "close")
		k.upstreamTLS(key, r)
		k.query(key+".query", r.Query, bound)
		k.requiredClaims(key+".requiredClaims", r.RequiredClaims)
		k.open(key, r)
		for j, claim := range r.RequiredClaims {
			for n, value := range claim.Values {
				text, _ := value.(string)
				k.bound(index(index(key+".requiredClaims", j)+".values", n), text, bound)
			}
		}
		k.protectedResource(key+".protectedResource", r.ProtectedResource, bound)
		k.overrides(key, c, r)
		for j, origin := range r.AllowedOrigins {
			switch at := index(key+".allowedOrigins", j); {
			case origin != AnyOrigin:
				k.origin(at, origin)
			case len(r.AllowedOrigins) > 1:
				k.add(at, "beside other origins", "* stands for every origin: write it alone, or remove it")
			}
		}
	}
}

// open says which keys mean nothing on a route that asks for no token.
func (k *checker) open(key string, r Route) {
	var because, name string
	switch {
	case r.Public && r.AgentAuthenticates:
		k.add(key+".agentAuthenticates", "beside public", "keep one of the two: a public route verifies a token that is sent "+
			"all the same, agentAuthenticates never looks at one", key+".public")
		return
	case r.Public:
		because, name = ", as the route is public", "public"
	case r.AgentAuthenticates:
		because, name = ", as the agent authenticates", "agentAuthenticates"
	default:
		return
	}
	hint := ", or " + name + ": true"
	if len(r.RequiredClaims) > 0 {
		k.add(key+".requiredClaims", "never asked"+because, "remove them"+hint, key+"."+name)
	}
	if r.ProtectedResource.Enabled() {
		k.add(key+".protectedResource", "never asked for"+because, "remove it"+hint, key+"."+name)
	}
	if r.AgentAuthenticates && r.ForwardOriginalToken != nil {
		k.add(key+".forwardOriginalToken", "without effect"+because, "remove it: what the client sends passes as it is", key+"."+name)
	}
}

// overrides checks what a route says of its own sessions. It is put over the defaults, which are
// good, so that a mistake of the global keys is not reported here once more.
func (k *checker) overrides(key string, c *Config, r Route) {
	base := Default()
	s, l := base.Of(r)
	k.lifetime(key+".session", s)
	all, allLimits := c.Of(r)
	if r.Session.ExpiryNotice != (RouteNotice{}) {
		k.notice(key+".session.expiryNotice", all.ExpiryNotice)
	}
	key += ".limits"
	k.bounds(key, l)
	_, own := (&Config{}).Of(r)
	unused := func(key string, own, all Pace) {
		own.MessagesPerSecond, own.BytesPerSecond = all.MessagesPerSecond, all.BytesPerSecond
		k.unusedPace(key, own)
	}
	unused(key, own.FromClient(), allLimits.FromClient())
	unused(key+".fromAgent", own.FromAgent, allLimits.FromAgent)
}

func (k *checker) protectedResource(key string, p ProtectedResource, bound []string) {
	for i, scope := range p.Scopes {
		at := index(key+".scopes", i)
		if scope == "" || strings.ContainsFunc(scope, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' }) {
			k.add(at, "not a scope", `write one word without spaces and quotes, such as agents:access; more of them are more elements`)
		}
		k.bound(at, scope, bound)
	}
	if strings.ContainsFunc(p.Name, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		k.add(key+".name", "a control character", "write it on one line")
	}
	if p.Documentation != "" && !IsURL(p.Documentation) {
		k.add(key+".documentation", "not an http:// or https:// URL", "write the whole address, such as https://docs.example.com/agents")
	}
}

func (k *checker) routePath(key, path string) {
	const hint = "write whole segments, such as /my-agent, /my-agent/v2 or /{agent}"
	if path == "" {
		k.add(key, "missing", hint)
		return
	}
	plain := WithoutNames(path)
	if clean, err := CleanPath(plain); err != nil {
		k.add(key, err.Error(), hint)
		return
	} else if clean != plain && !strings.ContainsAny(plain, "{}") {
		k.add(key, "not in its one spelling, which is "+clean, "use letters, digits and - . _ ~ only")
		return
	}
	if path == "/.gateway" || strings.HasPrefix(path, "/.gateway/") {
		k.add(key, "the gateway's own: no request gets from there to a route", hint)
		return
	}
	for segment := range strings.SplitSeq(path, "/") {
		switch isName, ok := k.whole(key, segment, "segment", "/agents/{agent}"); {
		case !ok:
			return
		case isName:
		case strings.Contains(segment, "*"):
			k.add(key, "* in the path of a route", "a route takes all that is below its path anyway")
			return
		case strings.ContainsFunc(segment, func(c rune) bool { return c > 0x7f || !isUnreserved(byte(c)) }):
			// Anything else has two spellings, plain and escaped, which an agent may take as
			// one: the route's rules could be walked around.
			k.add(key, "a character that has several spellings", "use letters, digits and - . _ ~ only")
			return
		}
	}
	k.once(key, path)
}

// whole reports whether a part of a path or of a host is a name. It is not ok, and a problem, if
// there are other braces in it; what is the kind of the part, and example has one that is a name.
func (k *checker) whole(key, part, what, example string) (isName, ok bool) {
	if _, isName := NameIn(part); isName {
		return true, true
	}
	switch names := namesIn(part); {
	case len(names) > 0:
		k.add(key, "{"+names[0]+"} beside other text in its "+what, "give it a "+what+" of its own, such as "+example)
		return false, false
	case strings.ContainsAny(part, "{}"):
		k.add(key, "braces without a name", "a name is a letter and then letters, digits, - or _, such as {agent}")
		return false, false
	}
	return false, true
}

func (k *checker) routeHost(key, host string) {
	if host == "" {
		return
	}
	for label := range strings.SplitSeq(host, ".") {
		if _, ok := k.whole(key, label, "label", "{agent}.agents.example.com"); !ok {
			return
		}
	}
	plain := WithoutNames(host)
	rest, wild := strings.CutPrefix(plain, "*.")
	switch {
	case !isHostName(strings.ToLower(rest)):
		k.add(key, "not a host name", "write it without scheme and port: agents.example.com, "+
			"{agent}.agents.example.com or *.agents.example.com")
	case wild && plain != host:
		k.add(key, "* beside a name", "* takes any number of labels and a name takes one: write a name for each label, or * alone")
	}
	k.once(key, host)
}

// once says that a name stands twice in a path or in a host.
func (k *checker) once(key, text string) {
	names := namesIn(text)
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			k.add(key, "{"+name+"} more than once", "keep one: it stands for one label")
			return
		}
	}
}

// bound says that a name stands for nothing where neither path nor host of the route has it.
func (k *checker) bound(key, value string, bound []string) {
	for _, name := range namesIn(value) {
		if slices.Contains(bound, name) {
			continue
		}
		hint := "put {" + name + "} into the route's path or host as well, or write the text out"
		if near := nearest(name, bound); near != "" {
			hint = "did you mean {" + near + "}?"
		}
		k.add(key, "{"+name+"} stands for nothing here", hint)
		return
	}
}

func (k *checker) upstream(key, value string, bound []string) {
	const hint = "write scheme and host, such as http://my-agent:8080"
	if value == "" {
		k.add(key, "missing", hint)
		return
	}
	u, err := url.Parse(WithoutNames(value))
	_, path, _ := strings.Cut(value, "://")
	_, path, _ = strings.Cut(path, "/")
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || !isURLHost(u):
		k.add(key, "not an http:// or https:// URL with a host", hint)
	case u.User != nil:
		k.add(key, "user information in the URL", "agents are not logged in to; "+hint)
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(value, "#"):
		k.add(key, "query or fragment in the URL", "use query.set for parameters")
	case len(namesIn(path)) > 0:
		k.add(key, "{"+namesIn(path)[0]+"} in the path of the URL", "only its host may have it, such as http://{agent}.agents:8080")
	default:
		if u.Path != "" {
			if clean, err := CleanPath(u.EscapedPath()); err != nil {
				k.add(key, err.Error(), "write a plain path, or none")
			} else if clean != u.EscapedPath() {
				k.add(key, "its path is not in its one spelling, which is "+clean,
					"write characters that need no percent-escape as they are")
			}
		}
		k.bound(key, value, bound)
	}
}

func (k *checker) upstreamTLS(key string, r Route) {
	t, upstream := r.UpstreamTLS, key+".upstream"
	key += ".upstreamTLS"
	switch {
	case t == UpstreamTLS{}:
		return
	case strings.HasPrefix(r.Upstream, "http://"):
		k.add(key, "no TLS to an http:// upstream", "write https:// in upstream, or remove it", upstream)
	case t.CertFile != "" && t.KeyFile == "":
		k.add(key+".keyFile", "missing beside certFile", "name the PEM file of the certificate's private key")
	case t.CertFile == "" && t.KeyFile != "":
		k.add(key+".certFile", "missing beside keyFile", "name the PEM file of the certificate chain")
	}
	if _, err := netip.ParseAddr(t.ServerName); t.ServerName != "" && err != nil && !isHostName(strings.ToLower(t.ServerName)) {
		k.add(key+".serverName", "not a host name", "write it without scheme and port, as in the agent's certificate, such as "+
			"agent.internal.example.com")
	}
}

func (k *checker) query(key string, q Query, bound []string) {
	for name, value := range q.Set {
		if name == "" {
			k.add(key+".set", "empty parameter name", `write name: value, such as agent: "{agent}"`)
		}
		k.bound(join(key+".set", name), value, bound)
	}
	for i, name := range q.Drop {
		if name == "" {
			k.add(index(key+".drop", i), "empty parameter name", "name the parameter that is to be removed, such as namespace")
		}
	}
}

func (k *checker) origin(key, value string) {
	const hint = "write it as browsers do: scheme://host[:port], lower case, no path, such as https://app.example.com; " +
		"https://*.example.com takes one label"
	if value == "null" { // sandboxed frames and local files; they cannot be told apart
		return
	}
	plain := strings.Replace(value, "://"+OriginWildcard+".", "://any.", 1)
	u, err := url.Parse(plain)
	switch {
	case strings.Contains(plain, "*"):
		k.add(key, "* is understood as the first label only", hint)
	case err != nil || u.Scheme == "" || !isURLHost(u) || u.Scheme+"://"+u.Host != plain || strings.ToLower(value) != value:
		k.add(key, "not an origin", hint)
	case plain != value && isDigits(u.Hostname()[strings.LastIndexByte(u.Hostname(), '.')+1:]):
		k.add(key, "* in front of an IP address, which has no labels", "write each address, such as https://10.0.0.1")
	case u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80":
		k.add(key, "the scheme's own port", "leave it out, as browsers do")
	}
}

func (k *checker) authentication(c *Config) {
	const key = "authentication"
	a := c.Authentication
	// Agents that authenticate need no issuer, and clients with keys are let in without one.
	named := a.Enabled && a.ClientKeys.File == "" && (len(c.Routes) == 0 ||
		slices.ContainsFunc(c.Routes, func(r Route) bool { return !r.AgentAuthenticates }))
	seen := map[string]string{}
	for i, jwt := range a.Issuers() {
		key := key + ".jwt"
		if i > 0 {
			key = index("authentication.jwtRules", i-1)
		}
		k.jwt(key, jwt, named || a.Enabled && i > 0)
		if first, twice := seen[jwt.Issuer]; twice && jwt.Issuer != "" {
			k.add(key+".issuer", "the same issuer as "+first, "keep one of the two: an issuer has one set of rules")
		} else {
			seen[jwt.Issuer] = key
		}
	}
	k.requiredClaims(key+".authorization.requiredClaims", a.Authorization.RequiredClaims)
	for i, pattern := range a.Authorization.ExcludePaths {
		k.exclusion(index(key+".authorization.excludePaths", i), pattern)
	}
	for i, name := range a.EdgeTrust.AdditionalStripHeaders {
		k.headerName(index(key+".edgeTrust.additionalStripHeaders", i), name)
	}
	for i, name := range a.EdgeTrust.StripFamilies {
		at := index(key+".edgeTrust.stripFamilies", i)
		if start, isFamily := strings.CutSuffix(name, "*"); isFamily && (start == "" || strings.Trim(start, "-_") == "") {
			k.add(at, "would remove every header", "name a beginning, such as x-user-*")
		} else {
			k.headerName(at, start)
		}
	}
	for i, name := range a.EdgeTrust.DefaultStripHeaders {
		k.headerName(index(key+".edgeTrust.defaultStripHeaders", i), name)
	}
}

// jwt checks an issuer, which may be nameless unless it is needed.
func (k *checker) jwt(key string, j JWT, needed bool) {
	k.issuer(key, j, needed)
	for i, audience := range j.Audiences {
		if strings.TrimSpace(audience) == "" {
			k.add(index(key+".audiences", i), "empty audience", "name one, or write audiences: [] if aud is not to be checked")
		}
	}
	for i, audience := range j.LogoutAudiences {
		if strings.TrimSpace(audience) == "" {
			k.add(index(key+".logoutAudiences", i), "empty audience", "name the client id of what users log in with")
		}
	}
	k.claimHeaders(key+".outputClaimToHeaders", j.OutputClaimToHeaders)
	k.payloadHeader(key+".outputPayloadToHeader", j)
	k.claimNames(key+".principalClaim", j.PrincipalClaim)
	if len(j.PrincipalClaim) == 0 {
		k.add(key+".principalClaim", "empty: no token would have a user", "leave the key out for sub")
	}
	k.claimNames(key+".spaceDelimitedClaims", j.SpaceDelimitedClaims)
	k.requiredClaims(key+".requiredClaims", j.RequiredClaims)

	var names []string
	for i, source := range j.FromHeaders {
		at := index(key+".fromHeaders", i)
		if k.headerName(at+".name", source.Name) && notForTokens[FoldHeader(source.Name)] {
			k.add(at+".name", "this header cannot hold a token",
				"name another, such as X-Token; cookies and subprotocols have lists of their own")
		}
		if strings.ContainsFunc(source.Prefix, isControl) {
			k.add(at+".prefix", "control character", `write the scheme and a space: "Bearer "`)
		}
		names = append(names, FoldHeader(source.Name))
	}
	k.unique(key+".fromHeaders", names)
	for i, name := range j.FromParams {
		if name == "" {
			k.add(index(key+".fromParams", i), "empty parameter name", "name one such as access_token, or write fromParams: []")
		}
	}
	k.unique(key+".fromParams", j.FromParams)
	for i, name := range j.FromCookies {
		if !isToken(name) {
			k.add(index(key+".fromCookies", i), "not a cookie name", "use letters, digits, - and _ (RFC 6265 §4.1.1)")
		}
	}
	k.unique(key+".fromCookies", j.FromCookies)
	for i, name := range j.FromSubprotocols {
		if prefix, ok := strings.CutSuffix(name, "."); !ok || !isToken(prefix) || strings.HasPrefix(name, "base64url.bearer.") {
			k.oneOf(index(key+".fromSubprotocols", i), name, "bearer", "base64url.bearer.authorization.k8s.io",
				"a prefix of the token that ends in a dot")
		}
	}
	k.unique(key+".fromSubprotocols", j.FromSubprotocols)

	if k.notNegative(key+".clockSkew", j.ClockSkew); j.ClockSkew > maxClockSkew {
		k.add(key+".clockSkew", "more than clocks differ", "at most 10m; session.expiryGrace lets open connections live longer")
	}
	if len(j.Algorithms) == 0 {
		k.add(key+".algorithms", "no algorithm", "leave the key out to accept all that are supported")
	}
	for i, name := range j.Algorithms {
		switch strings.ToUpper(name) {
		case "HS256", "HS384", "HS512":
			k.add(index(key+".algorithms", i), "never accepted: the key would be in a key set that everybody can read",
				"let the issuer sign with RS256, ES256 or EdDSA")
		case "NONE":
			k.add(index(key+".algorithms", i), "never accepted: such a token is not signed",
				"let the issuer sign with RS256, ES256 or EdDSA")
		case "ES256K":
			k.add(index(key+".algorithms", i), "not supported: it is for the curve secp256k1", "one of "+strings.Join(Algorithms[:], ", "))
		default:
			k.oneOf(index(key+".algorithms", i), name, Algorithms[:]...)
		}
	}
	k.unique(key+".algorithms", j.Algorithms)
}

// cookies asks for origins where a cookie may hold a token. Browsers send cookies with a
// WebSocket handshake from any page, and let that page read what comes back, so that any site
// could act as the user (cross-site WebSocket hijacking, RFC 6455 §10.2).
func (k *checker) cookies(c *Config) {
	source := slices.IndexFunc(c.Authentication.Issuers(), func(j JWT) bool { return len(j.FromCookies) > 0 })
	if source < 0 || !c.Authentication.Enabled {
		return
	}
	from := "authentication.jwt.fromCookies"
	if source > 0 {
		from = index("authentication.jwtRules", source-1) + ".fromCookies"
	}
	for i, r := range c.Routes {
		if len(r.AllowedOrigins) == 0 {
			k.add(index("routes", i)+".allowedOrigins",
				"missing beside "+from+": browsers send cookies from every page, so any site could act as the user",
				`list the origins of your own pages, or write ["*"] to allow every page all the same`, from, "authentication.enabled")
		}
	}
}

// unique says that an element of a list was given before. Empty elements have a problem of their
// own.
func (k *checker) unique(key string, list []string) {
	seen := map[string]int{}
	for i, s := range list {
		if first, twice := seen[s]; !twice {
			seen[s] = i
		} else if s != "" {
			k.add(index(key, i), fmt.Sprintf("the same as %s", index(key[strings.LastIndexByte(key, '.')+1:], first)),
				"keep one of the two")
		}
	}
}

// issuer checks the two addresses of an issuer. Keys that came over plain HTTP could be an
// attacker's.
func (k *checker) issuer(key string, j JWT, needed bool) {
	const insecure = "use https://, or set insecureHTTP: true where the network is your own"
	issuer, isURL := httpURL(j.Issuer)
	switch {
	case j.Issuer == "" && !needed:
	case strings.TrimSpace(j.Issuer) == "":
		k.add(key+".issuer", "missing", "write it exactly as in the claim iss, such as https://issuer.example.com, trailing slash included",
			"authentication.enabled")
	case strings.ContainsFunc(j.Issuer, func(c rune) bool { return isControl(c) || strings.ContainsRune(" {}<>\"", c) }):
		k.add(key+".issuer", "a space, brace, bracket, quote or control character, which no issuer has",
			"write it exactly as in the claim iss, with variables and templates filled in")
	case unreplaced.MatchString(j.Issuer):
		k.add(key+".issuer", "not an issuer", "write it exactly as in the claim iss")
	case !isURL && j.Discovers():
		k.add(key+".issuer", "not an http:// or https:// URL, so its keys cannot be found", "set jwksUri as well", key+".jwksUri")
	case !isURL:
	case issuer.User != nil:
		k.add(key+".issuer", "user information in the URL", "remove it: the address is public")
	case j.Discovers() && (issuer.RawQuery != "" || issuer.ForceQuery || strings.Contains(j.Issuer, "#")):
		k.add(key+".issuer", "query or fragment in the URL, so its keys cannot be found", "set jwksUri as well", key+".jwksUri")
	case issuer.Scheme == "http" && j.Discovers() && !IsLoopback(issuer) && !j.InsecureHTTP:
		k.add(key+".issuer", "http:// beyond loopback", insecure+"; with jwksUri, jwks or jwksFile it is only a name", key+".insecureHTTP")
	}
	k.fetch(key, j)
	if j.JWKSURI == "" {
		return
	}
	keys, isURL := httpURL(j.JWKSURI)
	switch {
	case !isURL:
		k.add(key+".jwksUri", "not an http:// or https:// URL with a host",
			"write it like https://issuer.example.com/.well-known/jwks.json, or leave it out for discovery")
	case keys.User != nil:
		k.add(key+".jwksUri", "user information in the URL", "remove it: a key set is public")
	case strings.Contains(j.JWKSURI, "#"):
		k.add(key+".jwksUri", "fragment in the URL", "remove it: it is never sent")
	case keys.Scheme == "http" && !IsLoopback(keys) && !j.InsecureHTTP:
		k.add(key+".jwksUri", "http:// beyond loopback", insecure, key+".insecureHTTP")
	}
}

// fetch checks where an issuer's keys come from, and how.
func (k *checker) fetch(key string, j JWT) {
	var given []string
	for _, from := range []struct{ name, value string }{{"jwksUri", j.JWKSURI}, {"jwks", j.JWKS}, {"jwksFile", j.JWKSFile}} {
		if from.value != "" {
			given = append(given, from.name)
		}
	}
	if len(given) > 1 {
		k.add(key+"."+given[1], "a second source of keys beside "+given[0], "keep one of the two")
	}
	if j.JWKS != "" && !json.Valid([]byte(j.JWKS)) {
		k.add(key+".jwks", "not JSON", `write the key set itself, such as '{"keys": [{"kty": "EC", …}]}', or its address as jwksUri`)
	}
	at, f, own := key+".fetch", j.Fetch, DefaultJWT().Fetch
	if (j.JWKS != "" || j.JWKSFile != "") && f != own {
		k.add(at, "nothing is fetched beside "+given[0], "remove it, or name an address as jwksUri")
		return
	}
	if f.Proxy != "" {
		if u, ok := httpURL(f.Proxy); !ok || u.Path != "" && u.Path != "/" || u.RawQuery != "" || strings.Contains(f.Proxy, "#") {
			k.add(at+".proxy", "not the http:// or https:// URL of a proxy",
				"write scheme, host and port, such as http://proxy.example.com:3128")
		}
	}
	if u, ok := httpURL(cmp.Or(j.JWKSURI, j.Issuer)); f.BearerTokenFile != "" && ok && u.Scheme == "http" && !IsLoopback(u) {
		k.add(at+".bearerTokenFile", "the token would be sent over http://", "use https:// for the issuer and jwksUri")
	}
	k.between(at+".timeout", f.Timeout, time.Second, time.Minute)
	k.between(at+".interval", f.Interval, 30*time.Second, 24*time.Hour)
	if j.Timeout != 0 {
		k.between(key+".timeout", j.Timeout, time.Second, time.Minute)
		if f.Timeout != own.Timeout && f.Timeout != j.Timeout {
			k.add(key+".timeout", "another value than fetch.timeout, which is the same", "keep one of the two")
		}
	}
}

func (k *checker) between(key string, d, least, most time.Duration) {
	if d < least || d > most {
		k.add(key, "out of range", fmt.Sprintf("from %s to %s", short(least), short(most)))
	}
}

// short returns a duration without the parts of it that are 0.
func short(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

func (k *checker) payloadHeader(key string, j JWT) {
	name := j.OutputPayloadToHeader
	if name == "" || !k.headerName(key, name) {
		return
	}
	if isReserved(FoldHeader(name)) {
		k.add(key, "reserved: this header has a meaning of its own", "choose another name, such as x-jwt-payload")
	}
	if n := slices.IndexFunc(j.OutputClaimToHeaders, func(m ClaimHeader) bool { return FoldHeader(m.Header) == FoldHeader(name) }); n >= 0 {
		k.add(key, "the same header as "+index("outputClaimToHeaders", n), "give each a name of its own")
	}
}

func (k *checker) claimNames(key string, names []string) {
	for i, name := range names {
		if name == "" {
			k.add(index(key, i), "empty claim name", "name the claim, such as sub, or remove it")
		}
	}
	k.unique(key, names)
}

func (k *checker) claimHeaders(key string, mappings ClaimHeaders) {
	seen := map[string]int{}
	for i, m := range mappings {
		at := index(key, i)
		name := FoldHeader(m.Header)
		if k.headerName(at+".header", m.Header) && isReserved(name) {
			k.add(at+".header", "reserved: this header has a meaning of its own", "choose another name, such as x-user-id")
		}
		if first, twice := seen[name]; twice && name != "" {
			k.add(at+".header", fmt.Sprintf("the same header as %s", index("outputClaimToHeaders", first)),
				"keep one of the two: servers make one name of upper and lower case, _ and -")
		} else {
			seen[name] = i
		}
		if m.Claim == "" {
			k.add(at+".claim", "missing", "name the claim, such as sub, email or realm_access.roles")
		}
		if m.Format != "" {
			k.oneOf(at+".format", m.Format, claimFormats...)
		}
	}
}

func (k *checker) requiredClaims(key string, claims RequiredClaims) {
	for i, c := range claims {
		at := index(key, i)
		if c.Claim == "" {
			k.add(at+".claim", "missing", "name the claim, such as scope or realm_access.roles")
		}
		if len(c.Values) == 0 {
			k.add(at+".values", "empty: no request could pass", `list at least one value; "*" asks only that the claim is there`)
		}
		for j, value := range c.Values {
			text, isText := value.(string)
			if isText && text == "" {
				k.add(index(at+".values", j), "empty value", `write a value; "*" asks only that the claim is there`)
			} else if _, ok := withoutStar(text); !ok {
				k.add(index(at+".values", j), "* is understood at one end only", `write "abc*", "*abc", "*", or a value without *`)
			}
		}
	}
}

// withoutStar takes the star from one end of a pattern and reports whether no other is left.
func withoutStar(s string) (string, bool) {
	if t, ok := strings.CutSuffix(s, "*"); ok {
		s = t
	} else {
		s = strings.TrimPrefix(s, "*")
	}
	return s, !strings.Contains(s, "*")
}

func (k *checker) exclusion(key, pattern string) {
	if pattern == "" {
		k.add(key, "empty path", "name a path such as /healthz, or write excludePaths: []")
		return
	}
	if strings.ContainsAny(pattern, "{}") {
		k.template(key, pattern)
		return
	}
	path, ok := withoutStar(pattern)
	switch {
	case !ok:
		k.add(key, "* is understood at one end only", "write /x*, *x, *, or {*} for one segment")
	case strings.HasPrefix(pattern, "*"):
		k.spelling(key, pattern, "/x"+path) // the end of some path
	case !strings.HasPrefix(pattern, "/"):
		k.add(key, "path does not begin with /", "write /x, or *x for every path that ends in it")
	case path != pattern:
		k.spelling(key, pattern, path+"x") // the beginning of some path
	default:
		k.spelling(key, pattern, path)
	}
}

// template checks a pattern with {*} or {**}.
func (k *checker) template(key, pattern string) {
	segments := strings.Split(pattern, "/")
	for i, segment := range segments {
		switch {
		case segment == "{*}", segment == "{**}" && i == len(segments)-1:
			segments[i] = "x"
		case segment == "{**}":
			k.add(key, "{**} before other segments", "it takes all the rest: put it at the end")
			return
		case strings.ContainsAny(segment, "{}*"):
			k.add(key, "unsupported template", "{*} is one whole segment and {**} the rest, as in /a/{*}/b or /a/{**}; a brace of the "+
				"path itself is %7B or %7D")
			return
		}
	}
	k.spelling(key, pattern, strings.Join(segments, "/"))
}

// spelling checks path, one of those that the pattern matches.
func (k *checker) spelling(key, pattern, path string) {
	if clean, err := CleanPath(path); err != nil {
		k.add(key, err.Error(), "such a request is refused anyway; write the path plainly, without query")
	} else if clean != path {
		shown, _ := oneSpelling(pattern)
		shown = strings.NewReplacer("%7B*%7D", "{*}", "%7B**%7D", "{**}").Replace(shown)
		k.add(key, "not in its one spelling, which is "+shown, "paths are matched in that form; as it stands it would never match")
	}
}

// headerName reports whether name can be one, and adds a problem if not.
func (k *checker) headerName(key, name string) bool {
	if name == "" {
		k.add(key, "missing", "name the header, such as x-user-id")
		return false
	}
	if strings.ContainsFunc(name, func(c rune) bool { return c > 0x7f || !isAlphanumeric(byte(c)) && c != '-' && c != '_' }) {
		k.add(key, "not a header name", "use letters, digits, - and _, such as x-user-id")
		return false
	}
	return true
}

func (k *checker) session(s Session) {
	k.lifetime("session", s)
	k.notice("session.expiryNotice", s.ExpiryNotice)
	k.notNegative("session.drainTimeout", s.DrainTimeout)
	k.notNegative("session.drainDelay", s.DrainDelay)
	if s.DrainCode != 1001 && s.DrainCode != 1012 {
		k.add("session.drainCode", "not a code for a drain", "write 1001 (going away) or 1012 (service restart)")
	}
	k.notNegative("session.reloadSpread", s.ReloadSpread)
}

// lifetime checks what is about one connection.
func (k *checker) lifetime(key string, s Session) {
	k.notNegative(key+".expiryGrace", s.ExpiryGrace)
	k.notNegative(key+".pingInterval", s.PingInterval)
	k.positive(key+".stallTimeout", s.StallTimeout, "a side that takes nothing must be given up; the default is 30s")
	k.notNegative(key+".idleTimeout", s.IdleTimeout)
	k.notNegative(key+".maxDuration", s.MaxDuration)
}

// maxNotice is how long the text of a notice may be, in bytes: clients bound their messages.
const maxNotice = 4096

func (k *checker) notice(key string, n ExpiryNotice) {
	before, text := key+".before", key+".text"
	switch k.notNegative(before, n.Before); {
	case n.Before > 0 && n.Text == "":
		k.add(text, "missing", `write what clients are told, such as '{"type":"token_expiring"}'`)
	case n.Before == 0 && n.Text != "":
		k.add(before, "missing", "write how long before the expiry clients are told, such as 60s")
	case len(n.Text) > maxNotice:
		k.add(text, fmt.Sprintf("%d bytes", len(n.Text)), fmt.Sprintf("at most %d", maxNotice))
	case !utf8.ValidString(n.Text):
		k.add(text, "not UTF-8", "a text message of WebSocket is UTF-8")
	}
}

// longest is how long a time may be: several of them are added up.
const longest = 100 * 365 * 24 * time.Hour

func (k *checker) notNegative(key string, d time.Duration) {
	if d < 0 {
		k.add(key, "negative", "write a duration such as 30s, or 0s")
	}
	k.notTooLong(key, d)
}

func (k *checker) positive(key string, d time.Duration, hint string) {
	if d <= 0 {
		k.add(key, "0 or less", hint)
	}
	k.notTooLong(key, d)
}

func (k *checker) notTooLong(key string, d time.Duration) {
	if d > longest {
		k.add(key, "longer than a century", "at most "+short(longest))
	}
}

func (k *checker) limits(l Limits) {
	for _, n := range []struct {
		key   string
		value int
	}{
		{"limits.maxConnections", l.MaxConnections},
		{"limits.maxConnectionsPerUser", l.MaxConnectionsPerUser},
		{"limits.maxConnectionsPerIP", l.MaxConnectionsPerIP},
		{"limits.maxRequests", l.MaxRequests},
		{"limits.maxRequestsPerUser", l.MaxRequestsPerUser},
		{"limits.maxRequestsPerIP", l.MaxRequestsPerIP},
		{"limits.refusedPerIP", l.RefusedPerIP},
	} {
		if n.value < 0 {
			k.add(n.key, "negative", "write 0 for no limit")
		}
	}
	k.bounds("limits", l)
	k.unusedPace("limits", l.FromClient())
	k.unusedPace("limits.fromAgent", l.FromAgent)
	k.positive("limits.handshakeTimeout", l.HandshakeTimeout, "handshakes must be bounded; the default is 10s")
	k.positive("limits.upstreamTimeout", l.UpstreamTimeout, "an agent's answer must be bounded; the default is 30s")
	if l.MaxHeaderBytes < minHeaderBytes {
		k.add("limits.maxHeaderBytes", "too little for a token and other headers",
			fmt.Sprintf("at least %d; the default is 32768", minHeaderBytes))
	}
	if n := l.MaxTokenBytes; n < minTokenBytes || n > maxTokenBytes {
		k.add("limits.maxTokenBytes", "out of range", fmt.Sprintf("from %d to %d; the default is 16384", minTokenBytes, maxTokenBytes))
	} else if l.MaxHeaderBytes >= minHeaderBytes && n > l.MaxHeaderBytes-otherHeaders {
		k.add("limits.maxTokenBytes", "no room for such a token in limits.maxHeaderBytes",
			fmt.Sprintf("with a token of %d bytes and other headers a request head has %d", n, n+otherHeaders), "limits.maxHeaderBytes")
	}
}

func (k *checker) revocations(r Revocations) {
	if r.Max <= 0 {
		k.add("revocations.max", "0 or less", "without room nothing can be revoked; the default is 100000")
	}
}

// bounds checks what is about one connection.
func (k *checker) bounds(key string, l Limits) {
	if l.MaxMessageBytes <= 0 {
		k.add(key+".maxMessageBytes", "0 or less", "messages must be bounded; the default is 16777216")
	}
	k.pace(key, l.FromClient())
	k.pace(key+".fromAgent", l.FromAgent)
}

// minPace is the least that messagesPerSecond may be: a message in a minute and a half.
const minPace = 0.01

func (k *checker) pace(key string, p Pace) {
	const none = "write 0 for no limit"
	switch {
	case p.MessagesPerSecond < 0:
		k.add(key+".messagesPerSecond", "negative", none)
	case p.MessagesPerSecond != 0 && p.MessagesPerSecond < minPace:
		k.add(key+".messagesPerSecond", "too little: a message would wait for minutes", fmt.Sprintf("at least %v; 0 for no limit", minPace))
	}
	if p.BytesPerSecond < 0 {
		k.add(key+".bytesPerSecond", "negative", none)
	}
	const ofSecond = "write 0 for as many as in a second"
	if p.MessagesBurst < 0 {
		k.add(key+".messagesBurst", "negative", ofSecond)
	}
	if p.BytesBurst < 0 {
		k.add(key+".bytesBurst", "negative", ofSecond)
	}
}

// unusedPace finds what means nothing without a rate beside it.
func (k *checker) unusedPace(key string, p Pace) {
	if p.MessagesPerSecond == 0 && p.MessagesBurst > 0 {
		k.add(key+".messagesBurst", "means nothing without messagesPerSecond", "set messagesPerSecond as well", key+".messagesPerSecond")
	}
	if p.MessagesPerSecond == 0 && p.CountBinary {
		k.add(key+".countBinary", "means nothing without messagesPerSecond", "set messagesPerSecond as well", key+".messagesPerSecond")
	}
	if p.BytesPerSecond == 0 && p.BytesBurst > 0 {
		k.add(key+".bytesBurst", "means nothing without bytesPerSecond", "set bytesPerSecond as well", key+".bytesPerSecond")
	}
}

// remarks are what is allowed and an operator should know all the same.
func (c *Config) remarks() (notes []string) {
	if !c.TLS.Enabled() {
		notes = append(notes, "tls is not configured: the public listener speaks plain HTTP")
	}
	a := c.Authentication
	switch e := a.EdgeTrust; {
	case !e.StripInboundClaimHeaders:
		notes = append(notes, "authentication.edgeTrust.stripInboundClaimHeaders is false: clients can send headers that agents "+
			"believe, those of stripFamilies too")
	case len(e.StripFamilies) == 0:
		notes = append(notes, "authentication.edgeTrust.stripFamilies is empty: clients can send headers that Omnia's agents believe, "+
			"such as x-user-groups")
	}
	for i, r := range c.Routes {
		for j, origin := range r.AllowedOrigins {
			_, domain, ok := strings.Cut(origin, "://"+OriginWildcard+".")
			if name, _, _ := strings.Cut(domain, ":"); ok && !strings.Contains(name, ".") && name != "localhost" {
				notes = append(notes, fmt.Sprintf("%s allows every domain of %s: anybody can have one",
					index(index("routes", i)+".allowedOrigins", j), name))
			}
		}
	}
	fixed := func(r Route) bool { return WithoutNames(r.Upstream) == r.Upstream }
	if c.Upstream.Prepared > 0 && !slices.ContainsFunc(c.Routes, fixed) {
		notes = append(notes, "upstream.prepared has no effect: every route has an upstream with a {name}")
	}
	if !c.Session.CloseOnTokenExpiry && c.Session.ExpiryNotice.Text != "" {
		notes = append(notes, "session.expiryNotice is never sent while session.closeOnTokenExpiry is false: "+
			"no connection ends with its token")
	}
	if !a.Enabled {
		return append(notes, "authentication.enabled is false: everybody is let in")
	}
	for i, jwt := range a.Issuers() {
		key := "authentication.jwt"
		if i > 0 {
			key = index("authentication.jwtRules", i-1)
		}
		if len(jwt.Audiences) == 0 && jwt.Issuer != "" {
			notes = append(notes, key+".audiences is empty: tokens that this issuer made for others are accepted")
		}
		if len(jwt.OutputClaimToHeaders) == 0 {
			notes = append(notes, key+".outputClaimToHeaders is empty: agents are not told who is calling; leave the key out for "+
				"x-user-id, x-user-email and x-user-roles")
		}
	}
	for i, pattern := range a.Authorization.ExcludePaths {
		if slices.Contains([]string{"*", "/*", "/{**}"}, pattern) {
			notes = append(notes, index("authentication.authorization.excludePaths", i)+" excludes every path: everybody is let in")
		}
	}
	return notes
}

// FoldHeader returns the form in which header names are compared: CGI and its heirs (RFC 3875
// §4.1.18) make one name of X-User-Id, x_user_id and X.User.Id, so they are one name here too.
func FoldHeader(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '_' || c == '.':
			return '-'
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		}
		return c
	}, name)
}

// reserved are headers that claims may not become, folded: credentials, framing, and what
// describes the connection.
var reserved = []string{
	"authorization", "cookie", "set-cookie", "host", "origin", "content-length", "content-type", "content-encoding",
	"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
	"upgrade", "http2-settings", "expect", "forwarded", "x-real-ip", "true-client-ip", "x-original-url", "x-rewrite-url",
}

// ofUsers are headers about a user, folded, that look as if they were about the connection.
// oauth2-proxy sets them, so agents know them.
var ofUsers = []string{"x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username"}

func isReserved(folded string) bool {
	return !slices.Contains(ofUsers, folded) &&
		(slices.Contains(reserved, folded) || strings.HasPrefix(folded, "x-forwarded-") || strings.HasPrefix(folded, "sec-websocket-"))
}

// notForTokens are headers in which no token can be looked for, folded: they are taken apart in
// their own way.
var notForTokens = map[string]bool{
	"cookie": true, "host": true, "connection": true, "upgrade": true, "te": true, "trailer": true, "transfer-encoding": true,
	"content-length": true, "sec-websocket-protocol": true, "sec-websocket-key": true, "sec-websocket-version": true,
	"sec-websocket-extensions": true,
}

// httpURL is s as a URL and whether it is one with http or https and a host.
func httpURL(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, false
	}
	return u, (u.Scheme == "http" || u.Scheme == "https") && isURLHost(u)
}

// isURLHost reports whether the host of a URL is one that can be dialled.
func isURLHost(u *url.URL) bool {
	if port := u.Port(); port == "" && strings.HasSuffix(u.Host, ":") || port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	_, err := netip.ParseAddr(u.Hostname())
	return err == nil || isHostName(strings.ToLower(u.Hostname()))
}

// IsURL reports whether s is an http or https URL with a host.
func IsURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// IsLoopback reports whether a URL's host is this machine by its very name: localhost, or a
// loopback address (RFC 6761 §6.3, RFC 1122 §3.2.1.3). Nothing is resolved. Without insecureHTTP
// only such hosts may be asked for keys by http.
func IsLoopback(u *url.URL) bool {
	if strings.EqualFold(u.Hostname(), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.Unmap().IsLoopback()
}

// isHostName reports whether s is labels of letters, digits, inner hyphens, and the underscores
// that compose files use.
func isHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(c rune) bool { return c > 0x7f || !isAlphanumeric(byte(c)) && c != '-' && c != '_' }) {
			return false
		}
	}
	return true
}

// isToken is RFC 9110 §5.6.2.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c > 0x7f || !isAlphanumeric(byte(c)) && !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	})
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

func (k *checker) redis(key string, r Redis) {
	for i, address := range r.Addresses {
		at := index(key+".addresses", i)
		const hint = "write host:port, such as redis:6379"
		host, port, _ := net.SplitHostPort(address)
		switch n, err := strconv.ParseUint(port, 10, 16); {
		case strings.Contains(address, "://"):
			k.add(at, "a URL", hint+"; user, password and TLS have keys of their own")
		case host == "" || err != nil || n == 0 || strconv.FormatUint(n, 10) != port:
			k.add(at, "not host:port", hint)
		default:
			k.address(at, address)
		}
		if slices.Contains(r.Addresses[:i], address) {
			k.add(at, "given twice", "keep one of the two")
		}
	}
	if !r.Enabled() {
		for _, said := range []struct {
			key string
			is  bool
		}{
			{"masterName", r.MasterName != ""}, {"username", r.Username != ""}, {"passwordFile", r.PasswordFile != ""},
			{"sentinelPasswordFile", r.SentinelPasswordFile != ""}, {"tls", r.TLS != RedisTLS{}},
		} {
			if said.is {
				k.add(key+"."+said.key, "nothing is shared without addresses", "add addresses: [redis:6379], or leave the key out",
					key+".addresses")
			}
		}
		return
	}
	if r.Username != "" && r.PasswordFile == "" {
		k.add(key+".passwordFile", "missing beside username", "name the file that holds the user's password")
	}
	if r.SentinelPasswordFile != "" && r.MasterName == "" {
		k.add(key+".sentinelPasswordFile", "never used, as addresses are no Sentinels without masterName",
			"add masterName, or leave the key out")
	}
	switch t := r.TLS; {
	case !t.Enabled && t != RedisTLS{}:
		k.add(key+".tls", "never used without enabled: true", "add it, or leave the other keys out")
	case t.CertFile != "" && t.KeyFile == "":
		k.add(key+".tls.keyFile", "missing beside certFile", "name the PEM file of the certificate's private key")
	case t.CertFile == "" && t.KeyFile != "":
		k.add(key+".tls.certFile", "missing beside keyFile", "name the PEM file of the certificate")
	}
	strange := func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`{}*?[]\`, c) }
	if p := r.KeyPrefix; p == "" || len(p) > 64 || strings.ContainsFunc(p, strange) {
		k.add(key+".keyPrefix", "not a prefix",
			"write up to 64 letters, digits and marks other than { } * ? [ ] \\, such as omnia-gateway:")
	}
}
