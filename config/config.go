// Package config is what an operator may say: the types of the configuration file, how a file
// and the environment become one Config, and every check that needs nothing but the text itself.
//
// The story is Load: defaults, then the file (strictly: an unknown key is an error), then the
// environment, then Validate. All problems are reported at once, each with its place and a hint.
// The block `authentication` is the one of Omnia's Helm values, so that a values file can be
// given as it is.
//
// The package is plain data and imports nothing of ours. Other packages compile their own
// section once, in their constructors.
package config

import (
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// Config is the whole configuration. Its zero value is not usable: Default gives the documented
// defaults, Load reads a file over them. A Config is not changed after Load and may be shared.
type Config struct {
	// Listen is the public address, host:port. Empty means :8443 with TLS and :8080 without.
	Listen string `yaml:"listen" env:"LISTEN"`
	// TLS terminates wss:// on the public listener. Without a certificate the listener speaks
	// plain HTTP.
	TLS TLS `yaml:"tls" envPrefix:"TLS_"`
	// Admin is the listener of operators: health, metrics, sessions.
	Admin Admin `yaml:"admin" envPrefix:"ADMIN_"`
	// Routes say which agent a request goes to. At least one is needed. Order does not matter:
	// the most exact host and path win.
	Routes Routes `yaml:"routes" env:"ROUTES"`
	// TrustedProxies are the networks whose X-Forwarded-* headers are trusted. Empty: none.
	TrustedProxies []netip.Prefix `yaml:"trustedProxies" env:"TRUSTED_PROXIES"`
	// ProxyProtocol says which load balancers pass TCP connections on and name the client in
	// front of them.
	ProxyProtocol ProxyProtocol `yaml:"proxyProtocol" envPrefix:"PROXY_PROTOCOL_"`
	// Authentication says who is let in. It is the block of the same name in Omnia's Helm values.
	Authentication Authentication `yaml:"authentication"`
	// Session says how long a connection lives.
	Session Session `yaml:"session" envPrefix:"SESSION_"`
	// Limits bound what a client may use.
	Limits Limits `yaml:"limits" envPrefix:"LIMITS_"`
	// Revocations says how many there may be, and whether they outlive the process.
	Revocations Revocations `yaml:"revocations" envPrefix:"REVOCATIONS_"`
	// Upstream says how agents are reached.
	Upstream Upstream `yaml:"upstream" envPrefix:"UPSTREAM_"`
	// Cluster says what several gateways of one service share.
	Cluster Cluster `yaml:"cluster" envPrefix:"CLUSTER_"`
	// Log says what is written to standard error, and how.
	Log Log `yaml:"log" envPrefix:"LOG_"`

	// Notes are what Load found that an operator should know and that is no mistake: one line
	// each, to be logged at start.
	Notes []string `yaml:"-"`
	// Sources are where Load took it from, so that it can be loaded again.
	Sources Sources `yaml:"-"`

	places map[string]Place `yaml:"-"` // key → where Load found it
}

// Place returns where key was given, or the nearest key around it: for problems that only show
// when a file is read which the configuration names.
func (c *Config) Place(key string) Place { return placeOf(key, c.places, c.Sources.Files()) }

// TLS is the certificate of the public listener.
type TLS struct {
	// CertFile is the PEM file of the certificate chain. It is read again when it changes, also
	// through a symlink swap.
	CertFile string `yaml:"certFile" env:"CERT_FILE"`
	// KeyFile is the PEM file of the private key, read together with CertFile.
	KeyFile string `yaml:"keyFile" env:"KEY_FILE"`
	// MinVersion is the lowest TLS version spoken: "1.2" (the default) or "1.3".
	MinVersion string `yaml:"minVersion" env:"MIN_VERSION"`
	// ClientCAFile, when set, asks every client for a certificate that one of the authorities in
	// this PEM file has signed.
	ClientCAFile string `yaml:"clientCAFile" env:"CLIENT_CA_FILE"`
}

// Enabled reports whether the public listener speaks TLS.
func (t TLS) Enabled() bool { return t.CertFile != "" || t.KeyFile != "" }

// DefaultListen is the public address where none was said.
func (t TLS) DefaultListen() string {
	if t.Enabled() {
		return ":8443"
	}
	return ":8080"
}

// Admin is the listener of operators.
type Admin struct {
	// Listen is its address, host:port; loopback by default, because reading there needs no token.
	Listen string `yaml:"listen" env:"LISTEN"`
	// MetricsListen is the address of a second listener that serves /healthz, /readyz and
	// /metrics alone, for probes and Prometheus. Empty: there is none.
	MetricsListen string `yaml:"metricsListen" env:"METRICS_LISTEN"`
	// TokenFile holds the tokens of operators, one on each line: a name and the token, or the
	// token alone. What changes state needs one of them as Authorization: Bearer. Empty: only a
	// listener on loopback allows changes. It is read again when it changes.
	TokenFile string `yaml:"tokenFile" env:"TOKEN_FILE"`
	// Hosts are the names under which it may be asked, besides localhost and any address. Other
	// names are refused, so that no web page can reach it by DNS rebinding.
	Hosts []string `yaml:"hosts" env:"HOSTS"`
	// Profiling serves Go's profiles under /debug/pprof/. Default false.
	Profiling bool `yaml:"profiling" env:"PROFILING"`
}

// ProxyProtocol says which load balancers name the client by the PROXY protocol.
type ProxyProtocol struct {
	// From are the networks of load balancers that begin each connection with a PROXY protocol
	// header, version 1 or 2. A connection from there without one is closed; from anywhere else
	// a header is not looked for. Empty: from no network.
	From []netip.Prefix `yaml:"from" env:"FROM"`
}

// Route sends requests of one host and path prefix to one agent.
type Route struct {
	// Path is a prefix of whole segments made of letters, digits and - . _ ~; a segment may be a
	// {name}, such as {agent}, which takes any one DNS label.
	Path string `yaml:"path"`
	// Upstream is the agent's address, http:// or https://; a {name} in its host is replaced by the
	// label that it takes in path or host.
	Upstream string `yaml:"upstream"`
	// Upstreams are several addresses instead of one. Not supported yet.
	Upstreams []string `yaml:"upstreams"`
	// StripPrefix takes the prefix away before the agent sees the request. Default true.
	StripPrefix bool `yaml:"stripPrefix"`
	// Host limits the route to one host name, to the subdomains of one (*.agents.example.com), or
	// to those whose labels fit: {agent}.agents.example.com. A {name} that Path has too takes the
	// same label in both. Empty: any host.
	Host string `yaml:"host"`
	// Public lets requests in without a token. Identity headers are removed all the same.
	Public bool `yaml:"public"`
	// AgentAuthenticates leaves the credential to the agent: the gateway looks for none, and
	// whatever the client sends passes as it is. Identity headers are removed all the same.
	AgentAuthenticates bool `yaml:"agentAuthenticates"`
	// Query says what the client may not choose in the query string.
	Query Query `yaml:"query"`
	// ForwardOriginalToken counts here instead of the issuer's, for an agent that verifies the
	// token itself, or must not have it. Default: as the issuer of the token says.
	ForwardOriginalToken *bool `yaml:"forwardOriginalToken"`
	// HostHeader is the Host that the agent sees: keep (the client's, the default, because
	// agents compare it with Origin) or upstream (that of Upstream, for agents that answer only
	// to their own name).
	HostHeader string `yaml:"hostHeader"`
	// UpstreamTLS says how an agent with https:// is verified, and what the gateway shows to it.
	UpstreamTLS UpstreamTLS `yaml:"upstreamTLS"`
	// RequiredClaims are asked in addition to those of authentication.authorization; a {name}
	// stands for its label.
	RequiredClaims RequiredClaims `yaml:"requiredClaims"`
	// CORS answers preflights for the agent and lets pages of AllowedOrigins read every answer,
	// refusals too. Without AllowedOrigins it does nothing. Default true; false leaves CORS to the
	// agent.
	CORS bool `yaml:"cors"`
	// Origin is what the agent sees of an Origin that was found allowed: keep (the default), own
	// (scheme and authority of the Host that it sees, for agents that compare the two) or drop.
	Origin string `yaml:"origin"`
	// AllowedOrigins are the exact origins (scheme://host[:port]) from which a browser may come.
	// Empty: any. ["*"] says the same, and is needed where fromCookies is set.
	AllowedOrigins []string `yaml:"allowedOrigins"`
	// ProtectedResource tells OAuth clients, such as those of MCP, where to get a token for the
	// route (RFC 9728). One of its keys switches it on.
	ProtectedResource ProtectedResource `yaml:"protectedResource"`
	// RejectWith is how a browser's script learns why its WebSocket is refused, because it sees
	// nothing of an HTTP status: status (the default) answers with the status alone, close accepts
	// the handshake and closes it with the word. The 401 words get 3000, the 403 words 3003, the
	// 429 and 503 words 1013; other refusals stay HTTP.
	RejectWith string `yaml:"rejectWith"`
	// Limits count here instead of the keys of the same names in limits. A key that is left out
	// counts as it stands there.
	Limits RouteLimits `yaml:"limits"`
	// Session counts here instead of the keys of the same names in session, likewise.
	Session RouteSession `yaml:"session"`
}

// RouteLimits are the limits of one connection, for one route. Nil: as limits says.
type RouteLimits struct {
	// MaxMessageBytes is the size of a message, either way.
	MaxMessageBytes *int64 `yaml:"maxMessageBytes"`
	// MessagesPerSecond is how many text messages a client may send. 0: any number.
	MessagesPerSecond *float64 `yaml:"messagesPerSecond"`
	// MessagesBurst is how many of them may come at once.
	MessagesBurst *int `yaml:"messagesBurst"`
	// CountBinary counts binary messages too.
	CountBinary *bool `yaml:"countBinary"`
	// BytesPerSecond is how many bytes of messages a client may send. 0: any number.
	BytesPerSecond *int64 `yaml:"bytesPerSecond"`
	// BytesBurst is how many of them may come at once.
	BytesBurst *int64 `yaml:"bytesBurst"`
	// FromAgent are the same limits for what the agent sends.
	FromAgent RoutePace `yaml:"fromAgent"`
}

// RoutePace is a Pace for one route. Nil: as limits.fromAgent says.
type RoutePace struct {
	// MessagesPerSecond is how many text messages the agent may send. 0: any number.
	MessagesPerSecond *float64 `yaml:"messagesPerSecond"`
	// MessagesBurst is how many of them may come at once.
	MessagesBurst *int `yaml:"messagesBurst"`
	// CountBinary counts binary messages too.
	CountBinary *bool `yaml:"countBinary"`
	// BytesPerSecond is how many bytes of messages the agent may send. 0: any number.
	BytesPerSecond *int64 `yaml:"bytesPerSecond"`
	// BytesBurst is how many of them may come at once.
	BytesBurst *int64 `yaml:"bytesBurst"`
}

// RouteSession is how long a connection of one route lives. Nil: as session says.
type RouteSession struct {
	// CloseOnTokenExpiry ends a connection with its token.
	CloseOnTokenExpiry *bool `yaml:"closeOnTokenExpiry"`
	// ExpiryGrace is added to a token's life.
	ExpiryGrace *time.Duration `yaml:"expiryGrace"`
	// PingInterval is how long a side may be silent before it gets a Ping. 0: no Ping.
	PingInterval *time.Duration `yaml:"pingInterval"`
	// StallTimeout is how long a side may take no byte of what waits for it.
	StallTimeout *time.Duration `yaml:"stallTimeout"`
	// IdleTimeout ends a connection on which no message was seen for so long. 0: never.
	IdleTimeout *time.Duration `yaml:"idleTimeout"`
	// MaxDuration ends a connection after so long. 0: never.
	MaxDuration *time.Duration `yaml:"maxDuration"`
	// ExpiryNotice is what clients are told before a connection expires.
	ExpiryNotice RouteNotice `yaml:"expiryNotice"`
}

// RouteNotice is an ExpiryNotice for one route. Nil: as session.expiryNotice says.
type RouteNotice struct {
	// Before is how long before the expiry. 0: no notice.
	Before *time.Duration `yaml:"before"`
	// Text is the message.
	Text *string `yaml:"text"`
}

// Of returns the session and the limits of a route: its own, and the global ones for what it does
// not say.
func (c *Config) Of(r Route) (Session, Limits) {
	s, l := c.Session, c.Limits
	override(reflect.ValueOf(&s).Elem(), reflect.ValueOf(r.Session))
	override(reflect.ValueOf(&l).Elem(), reflect.ValueOf(r.Limits))
	return s, l
}

// override sets the fields of v for which own says something, in a field of the same name.
func override(v, own reflect.Value) {
	for f := range own.Type().Fields() {
		switch said := own.FieldByIndex(f.Index); {
		case said.Kind() == reflect.Struct:
			override(v.FieldByName(f.Name), said)
		case !said.IsNil():
			v.FieldByName(f.Name).Set(said.Elem())
		}
	}
}

// ProtectedResource is what OAuth clients are told of a route.
type ProtectedResource struct {
	// Scopes are what a client should ask the issuer for; a {name} stands for its label.
	Scopes []string `yaml:"scopes"`
	// Name is what the agent is called where a person is asked for consent.
	Name string `yaml:"name"`
	// Documentation is the address of a page for those who write clients.
	Documentation string `yaml:"documentation"`
}

// Enabled reports whether clients are told anything.
func (p ProtectedResource) Enabled() bool {
	return len(p.Scopes) > 0 || p.Name != "" || p.Documentation != ""
}

// UpstreamTLS is TLS between the gateway and an agent. Its files are read again when they change,
// and connections that are kept for the next request are then given up.
type UpstreamTLS struct {
	// CAFile is a PEM file of the authorities that sign the agent's certificate, instead of the
	// system's.
	CAFile string `yaml:"caFile"`
	// CertFile is the PEM file of the certificate chain that the gateway shows to an agent that
	// asks for one (mutual TLS).
	CertFile string `yaml:"certFile"`
	// KeyFile is the PEM file of its private key.
	KeyFile string `yaml:"keyFile"`
	// ServerName is the name that the agent is asked for (SNI) and that its certificate must be
	// for. Empty: the host of Upstream.
	ServerName string `yaml:"serverName"`
}

// Query says what of the query string the client may not choose.
type Query struct {
	// Set replaces every copy of a parameter by this value; a {name} stands for its label.
	Set map[string]string `yaml:"set"`
	// Drop removes every copy of a parameter. The default are those that Omnia's agents believe;
	// an empty list removes none. The variable is for all routes.
	Drop []string `yaml:"drop"`
}

// Authentication says who is let in.
type Authentication struct {
	// Enabled false admits every request, without a token. Identity headers are removed all the
	// same. Default true.
	Enabled bool `yaml:"enabled" env:"AUTHENTICATION_ENABLED"`
	// JWT is the issuer of the tokens.
	JWT JWT `yaml:"jwt"`
	// JWTRules are further issuers, each with keys, audiences and headers of its own.
	JWTRules JWTRules `yaml:"jwtRules" env:"JWT_RULES"`
	// ClientKeys are callers without a token of an issuer.
	ClientKeys ClientKeys `yaml:"clientKeys" envPrefix:"CLIENT_KEYS_"`
	// Authorization says what a verified caller must bring.
	Authorization Authorization `yaml:"authorization"`
	// EdgeTrust says which headers of the client are removed because agents trust them.
	EdgeTrust EdgeTrust `yaml:"edgeTrust" envPrefix:"EDGE_TRUST_"`
}

// ClientKeys are opaque keys that a client sends as Authorization: Bearer.
type ClientKeys struct {
	// File is a YAML file with the hashes and claims of the keys. It must be there at the start,
	// and is read every 5 s. Beside it an issuer is not needed. Empty: there are no keys.
	File string `yaml:"file" env:"FILE"`
}

// Issuers are all issuers, JWT first, which has no name where there are client keys alone.
func (a Authentication) Issuers() []JWT { return append([]JWT{a.JWT}, a.JWTRules...) }

// JWT is one issuer of tokens and what is asked of them.
type JWT struct {
	// Issuer is compared with the claim iss, exactly.
	Issuer string `yaml:"issuer" env:"JWT_ISSUER"`
	// JWKSURI is where its keys are. Empty: OIDC discovery, then <issuer>/.well-known/jwks.json.
	JWKSURI string `yaml:"jwksUri" env:"JWT_JWKS_URI"`
	// JWKS is the key set itself, as JSON, for an issuer that cannot be asked.
	JWKS string `yaml:"jwks" env:"JWT_JWKS"`
	// JWKSFile is a file with the key set. It must be there at the start, and is read every 5 s.
	JWKSFile string `yaml:"jwksFile" env:"JWT_JWKS_FILE"`
	// Fetch is how the issuer is asked for its keys.
	Fetch Fetch `yaml:"fetch" envPrefix:"JWT_FETCH_"`
	// Timeout is fetch.timeout under the name that Istio has for it.
	Timeout time.Duration `yaml:"timeout" env:"JWT_TIMEOUT"`
	// Audiences: the claim aud must hold one of them. Empty: not looked at.
	Audiences []string `yaml:"audiences" env:"JWT_AUDIENCES"`
	// ForwardOriginalToken gives the agent the token as Authorization: Bearer. Default true.
	ForwardOriginalToken bool `yaml:"forwardOriginalToken" env:"JWT_FORWARD_ORIGINAL_TOKEN"`
	// OutputClaimToHeaders are the identity headers the agent gets.
	OutputClaimToHeaders ClaimHeaders `yaml:"outputClaimToHeaders" env:"OUTPUT_CLAIM_TO_HEADERS"`
	// OutputPayloadToHeader is a header that gets all claims, as base64url of the token's payload.
	// Empty: none.
	OutputPayloadToHeader string `yaml:"outputPayloadToHeader" env:"JWT_OUTPUT_PAYLOAD_TO_HEADER"`
	// LogoutAudiences are those of logout tokens of this issuer: the client id of what users log in
	// with. Empty: Audiences. Both empty: no logout token is accepted.
	LogoutAudiences []string `yaml:"logoutAudiences" env:"JWT_LOGOUT_AUDIENCES"`
	// PrincipalClaim names the claim that is the user, or is a list of several, of which the first
	// that is not empty counts. Default sub.
	PrincipalClaim ClaimNames `yaml:"principalClaim" env:"JWT_PRINCIPAL_CLAIM"`
	// SpaceDelimitedClaims are further claims whose text is a list with spaces between the
	// elements. scope and permission always are.
	SpaceDelimitedClaims []string `yaml:"spaceDelimitedClaims" env:"JWT_SPACE_DELIMITED_CLAIMS"`
	// RequiredClaims are asked of this issuer's tokens, in addition to those of
	// authentication.authorization.
	RequiredClaims RequiredClaims `yaml:"requiredClaims" env:"JWT_REQUIRED_CLAIMS"`
	// FromHeaders are the headers in which a token may sit. This list and the next three stand
	// alone: each replaces its own default, and an empty one switches its place off.
	FromHeaders HeaderSources `yaml:"fromHeaders" env:"JWT_FROM_HEADERS"`
	// FromParams are the query parameters in which a token may sit.
	FromParams []string `yaml:"fromParams" env:"JWT_FROM_PARAMS"`
	// FromCookies are the cookies in which a token may sit. Default none: browsers send cookies
	// from any page.
	FromCookies []string `yaml:"fromCookies" env:"JWT_FROM_COOKIES"`
	// FromSubprotocols are the forms in which Sec-WebSocket-Protocol may hold a token: bearer
	// (the entry after it is the token), base64url.bearer.authorization.k8s.io (the token follows
	// a dot, in base64url), and prefixes that end in a dot (the token is the rest of the entry).
	FromSubprotocols []string `yaml:"fromSubprotocols" env:"JWT_FROM_SUBPROTOCOLS"`
	// ClockSkew is by how much clocks may differ, both ways. Default 60s, at most 10m.
	ClockSkew time.Duration `yaml:"clockSkew" env:"JWT_CLOCK_SKEW"`
	// RequireExpiration refuses tokens without exp. Default true.
	RequireExpiration bool `yaml:"requireExpiration" env:"JWT_REQUIRE_EXPIRATION"`
	// InsecureHTTP allows http:// beyond loopback in jwksUri, and in the issuer if it is asked
	// for its keys.
	InsecureHTTP bool `yaml:"insecureHTTP" env:"JWT_INSECURE_HTTP"`
	// Algorithms are those accepted; the default is all that are supported.
	Algorithms []string `yaml:"algorithms" env:"JWT_ALGORITHMS"`
}

// Splits reports whether the text of a claim is a list with spaces between the elements.
func (j JWT) Splits(claim string) bool {
	return claim == "scope" || claim == "permission" || slices.Contains(j.SpaceDelimitedClaims, claim)
}

// Discovers reports whether the issuer is asked where its keys are.
func (j JWT) Discovers() bool { return j.JWKSURI == "" && j.JWKS == "" && j.JWKSFile == "" }

// Fetch is how an issuer is asked for its keys.
type Fetch struct {
	// Proxy is the HTTP proxy to go through, http:// or https://, with user information if it
	// wants some. The environment's is not used.
	Proxy string `yaml:"proxy" env:"PROXY"`
	// CAFile is a PEM file of the authorities that sign the issuer's certificate, instead of the
	// system's. It is read for each fetch.
	CAFile string `yaml:"caFile" env:"CA_FILE"`
	// BearerTokenFile is a file with a token that the issuer, and a jwksUri that is written
	// here, are sent. It is read for each fetch.
	BearerTokenFile string `yaml:"bearerTokenFile" env:"BEARER_TOKEN_FILE"`
	// Timeout is for one fetch, discovery included. Default 10s, at most 1m.
	Timeout time.Duration `yaml:"timeout" env:"TIMEOUT"`
	// Interval is how long keys are used until they are asked for again. Default 10m, from 30s
	// to 24h.
	Interval time.Duration `yaml:"interval" env:"INTERVAL"`
}

// ClaimHeader maps one claim to one header.
type ClaimHeader struct {
	// Header is its name.
	Header string `yaml:"header"`
	// Claim is the claim's name; dots are a path, then the literal name.
	Claim string `yaml:"claim"`
	// Format of lists and objects: "" (lists joined by commas), json, base64json or first.
	Format string `yaml:"format"`
}

// HeaderSource is a request header in which a token may sit.
type HeaderSource struct {
	// Name of the header.
	Name string `yaml:"name"`
	// Prefix before the token. One that ends in a space is a scheme (RFC 9110 §11.4) and is
	// compared case-insensitively. Empty: the whole value is the token.
	Prefix string `yaml:"prefix"`
}

// Authorization says what a verified caller must bring.
type Authorization struct {
	// RequiredClaims must all be fulfilled.
	RequiredClaims RequiredClaims `yaml:"requiredClaims" env:"REQUIRED_CLAIMS"`
	// ExcludePaths need no token: /x exactly, /x* a prefix, *x a suffix, * everything, {*} one
	// segment, {**} the rest. Only a missing key means the default list; an empty list excludes
	// nothing.
	ExcludePaths []string `yaml:"excludePaths" env:"EXCLUDE_PATHS"`
}

// RequiredClaim asks one claim for one of several values.
type RequiredClaim struct {
	// Claim is the claim's name, literally; else dots are a path.
	Claim string `yaml:"claim"`
	// Values of which one must match: text, exact, * (present), abc* (prefix) or *abc (suffix);
	// or, without quotes, true, false or a number, which match that boolean or number alone.
	Values []ClaimValue `yaml:"values"`
}

// ClaimValue is what a claim must be: a string, a bool or a json.Number. In the environment it is
// always a string.
type ClaimValue any

// EdgeTrust says which request headers are removed because agents trust them. Headers of
// OutputClaimToHeaders are removed in any case.
type EdgeTrust struct {
	// StripInboundClaimHeaders false keeps the headers of the three lists below. Default true.
	StripInboundClaimHeaders bool `yaml:"stripInboundClaimHeaders" env:"STRIP_INBOUND_CLAIM_HEADERS"`
	// AdditionalStripHeaders are removed beside the default ones.
	AdditionalStripHeaders []string `yaml:"additionalStripHeaders" env:"ADDITIONAL_STRIP_HEADERS"`
	// DefaultStripHeaders are x-user-id, x-user-roles and x-user-email.
	DefaultStripHeaders []string `yaml:"defaultStripHeaders" env:"DEFAULT_STRIP_HEADERS"`
	// StripFamilies are further names, and beginnings of names that end in *. Omnia's agents
	// believe headers of these families. The list is not the chart's, so that a values file that
	// repeats the chart's lists cannot forget it. An empty list removes none.
	StripFamilies []string `yaml:"stripFamilies" env:"STRIP_FAMILIES"`
}

// Revocations are the tokens that operators and logouts have barred.
type Revocations struct {
	// Max is how many there may be at a time. Default 100000.
	Max int `yaml:"max" env:"MAX"`
	// File keeps them over a restart. Its folder must be writable, and the file is one gateway's
	// own. Empty: they are forgotten when the process ends.
	File string `yaml:"file" env:"FILE"`
}

// Session says how long a connection lives.
type Session struct {
	// CloseOnTokenExpiry ends a connection at exp + clockSkew + ExpiryGrace, with close code
	// 3000, and cuts an HTTP answer that still streams. Default true.
	CloseOnTokenExpiry bool `yaml:"closeOnTokenExpiry" env:"CLOSE_ON_TOKEN_EXPIRY"`
	// ExpiryGrace is added to a token's life while a connection is open.
	ExpiryGrace time.Duration `yaml:"expiryGrace" env:"EXPIRY_GRACE"`
	// DrainTimeout is how long a drain may take: a Close to every session, spread over it. Default
	// 30s.
	DrainTimeout time.Duration `yaml:"drainTimeout" env:"DRAIN_TIMEOUT"`
	// DrainDelay comes before that: /readyz is 503 at once, and connections are still taken for so
	// long, until every load balancer has noticed. Default 0s.
	DrainDelay time.Duration `yaml:"drainDelay" env:"DRAIN_DELAY"`
	// DrainCode is the code of a drain's Close: 1001 (going away, the default) or 1012 (service
	// restart), for clients that know it.
	DrainCode int `yaml:"drainCode" env:"DRAIN_CODE"`
	// MaxDuration ends a connection after so long, with close code 1001, and cuts a stream of
	// events. A renewal does not extend it. 0: never.
	MaxDuration time.Duration `yaml:"maxDuration" env:"MAX_DURATION"`
	// ExpiryNotice is what the client of a WebSocket is told before its connection ends with its
	// token, once for each expiry.
	ExpiryNotice ExpiryNotice `yaml:"expiryNotice" envPrefix:"EXPIRY_NOTICE_"`
	// PingInterval is how long a side may be silent before it gets a Ping, up to a tenth longer,
	// so that not all are asked at once; silent for as long again, it is given up. 0: no Ping.
	// Default 25s: agents that ping by themselves cut after 60 s, and the gateway is first.
	PingInterval time.Duration `yaml:"pingInterval" env:"PING_INTERVAL"`
	// StallTimeout is how long a side may take no byte of what waits for it, before it is given
	// up. Default 30s.
	StallTimeout time.Duration `yaml:"stallTimeout" env:"STALL_TIMEOUT"`
	// IdleTimeout ends a connection on which no message was seen for so long. 0: never.
	IdleTimeout time.Duration `yaml:"idleTimeout" env:"IDLE_TIMEOUT"`
	// ReloadSpread is over how long the connections are ended that a reloaded configuration no
	// longer admits, so that their clients do not come back all at once. Default 10s.
	ReloadSpread time.Duration `yaml:"reloadSpread" env:"RELOAD_SPREAD"`
}

// ExpiryNotice is a text message of the gateway's own to a client.
type ExpiryNotice struct {
	// Before is how long before the expiry it is sent: at once if less is left. Default 0s: never.
	Before time.Duration `yaml:"before" env:"BEFORE"`
	// Text is the message, of 4096 bytes at most, such as {"type":"token_expiring"}.
	Text string `yaml:"text" env:"TEXT"`
}

// Limits bound what clients may use. 0 is no limit, where the default is 0.
type Limits struct {
	// MaxConnections is how many WebSocket connections may be open.
	MaxConnections int `yaml:"maxConnections" env:"MAX_CONNECTIONS"`
	// MaxConnectionsPerUser is the same for one issuer and subject.
	MaxConnectionsPerUser int `yaml:"maxConnectionsPerUser" env:"MAX_CONNECTIONS_PER_USER"`
	// MaxConnectionsPerIP is the same for one client address (the trusted proxies' word counts).
	MaxConnectionsPerIP int `yaml:"maxConnectionsPerIP" env:"MAX_CONNECTIONS_PER_IP"`
	// MaxRequests is how many plain HTTP exchanges may be under way: a request and its answer,
	// for as long as that streams.
	MaxRequests int `yaml:"maxRequests" env:"MAX_REQUESTS"`
	// MaxRequestsPerUser is the same for one issuer and subject.
	MaxRequestsPerUser int `yaml:"maxRequestsPerUser" env:"MAX_REQUESTS_PER_USER"`
	// MaxRequestsPerIP is the same for one client address.
	MaxRequestsPerIP int `yaml:"maxRequestsPerIP" env:"MAX_REQUESTS_PER_IP"`
	// RefusedPerIP is how many tokens of one client address may be refused in a minute before it
	// has to wait: a second, then twice as long with each refusal, up to a minute. 0, the
	// default: it never waits.
	RefusedPerIP int `yaml:"refusedPerIP" env:"REFUSED_PER_IP"`
	// MaxMessageBytes is the size of a message, over all its fragments, either way. Default
	// 16777216.
	MaxMessageBytes int64 `yaml:"maxMessageBytes" env:"MAX_MESSAGE_BYTES"`
	// MessagesPerSecond is how many text messages a client may send on a connection. What comes
	// faster waits; then the client is not read, so that TCP holds it back.
	MessagesPerSecond float64 `yaml:"messagesPerSecond" env:"MESSAGES_PER_SECOND"`
	// MessagesBurst is how many of them may come at once. 0: as many as in a second.
	MessagesBurst int `yaml:"messagesBurst" env:"MESSAGES_BURST"`
	// CountBinary counts binary messages too, such as audio.
	CountBinary bool `yaml:"countBinary" env:"COUNT_BINARY"`
	// BytesPerSecond is how many bytes of messages, text and binary, a client may send on a
	// connection, with the heads of their frames. A message that is larger than the burst passes
	// bit by bit.
	BytesPerSecond int64 `yaml:"bytesPerSecond" env:"BYTES_PER_SECOND"`
	// BytesBurst is how many of them may come at once. 0: as many as in a second.
	BytesBurst int64 `yaml:"bytesBurst" env:"BYTES_BURST"`
	// FromAgent are the same limits for what an agent sends on a connection.
	FromAgent Pace `yaml:"fromAgent" envPrefix:"FROM_AGENT_"`
	// UpstreamTimeout bounds the agent's answer to a handshake, connection and TLS included.
	// Default 30s.
	UpstreamTimeout time.Duration `yaml:"upstreamTimeout" env:"UPSTREAM_TIMEOUT"`
	// HandshakeTimeout bounds TLS handshake and request head together. Default 10s.
	HandshakeTimeout time.Duration `yaml:"handshakeTimeout" env:"HANDSHAKE_TIMEOUT"`
	// MaxHeaderBytes bounds the request head. Default 32768; at least 4096, as tokens are long.
	MaxHeaderBytes int `yaml:"maxHeaderBytes" env:"MAX_HEADER_BYTES"`
	// MaxTokenBytes bounds a token; a longer one is malformed. Default 16384; from 1024 to 61440,
	// and 2048 less than MaxHeaderBytes, which has to hold the other headers too.
	MaxTokenBytes int `yaml:"maxTokenBytes" env:"MAX_TOKEN_BYTES"`
}

// Pace is how fast one side of a connection may send. 0 is no limit.
type Pace struct {
	// MessagesPerSecond is how many text messages it may send.
	MessagesPerSecond float64 `yaml:"messagesPerSecond" env:"MESSAGES_PER_SECOND"`
	// MessagesBurst is how many of them may come at once. 0: as many as in a second.
	MessagesBurst int `yaml:"messagesBurst" env:"MESSAGES_BURST"`
	// CountBinary counts binary messages too.
	CountBinary bool `yaml:"countBinary" env:"COUNT_BINARY"`
	// BytesPerSecond is how many bytes of messages it may send.
	BytesPerSecond int64 `yaml:"bytesPerSecond" env:"BYTES_PER_SECOND"`
	// BytesBurst is how many of them may come at once. 0: as many as in a second.
	BytesBurst int64 `yaml:"bytesBurst" env:"BYTES_BURST"`
}

// FromClient is the pace of clients.
func (l Limits) FromClient() Pace {
	return Pace{l.MessagesPerSecond, l.MessagesBurst, l.CountBinary, l.BytesPerSecond, l.BytesBurst}
}

// Upstream says how agents are reached.
type Upstream struct {
	// AllowLoopback lets a {name} in a route's upstream lead to this machine: to localhost, or
	// to a name that resolves to a loopback, link-local or unspecified address. Default false.
	AllowLoopback bool `yaml:"allowLoopback" env:"ALLOW_LOOPBACK"`
	// IdleTimeout is how long a connection for plain HTTP is kept for the agent's next request.
	// It should be less than the agents' own time, because a request may cross the end of its
	// connection; the gateway uses less where an agent announces or shows a shorter one. Default
	// 4s, at most 10m. 0: none is kept.
	IdleTimeout time.Duration `yaml:"idleTimeout" env:"IDLE_TIMEOUT"`
	// Prepared is how many connections to each agent are opened ahead, with TLS where the upstream
	// is https, so that a WebSocket handshake does not wait for them. They are opened after a
	// handshake and closed if none needs them within 30s; an upstream with a {name} has none.
	// Default 0, which opens none; at most 1000.
	Prepared int `yaml:"prepared" env:"PREPARED"`
}

// Cluster says what several gateways of one service share.
type Cluster struct {
	// Redis is where they share it. Without addresses each gateway stands alone.
	Redis Redis `yaml:"redis" envPrefix:"REDIS_"`
}

// Redis is a server, a set of servers with Sentinels, or a Redis Cluster; Valkey is the same.
type Redis struct {
	// Addresses are those of one server, of the Sentinels, or of some nodes of a Redis Cluster, of
	// which two or more are given; host:port. Empty: nothing is shared.
	Addresses []string `yaml:"addresses" env:"ADDRESSES"`
	// MasterName is the name of the master that the Sentinels know. Empty: Addresses are no
	// Sentinels.
	MasterName string `yaml:"masterName" env:"MASTER_NAME"`
	// Username is a user of Redis' access list. Empty: the default one.
	Username string `yaml:"username" env:"USERNAME"`
	// PasswordFile holds the password. It is read for each connection. Empty: there is none.
	PasswordFile string `yaml:"passwordFile" env:"PASSWORD_FILE"`
	// SentinelPasswordFile is the same for the Sentinels.
	SentinelPasswordFile string `yaml:"sentinelPasswordFile" env:"SENTINEL_PASSWORD_FILE"`
	// TLS is spoken with Redis, and with the Sentinels.
	TLS RedisTLS `yaml:"tls" envPrefix:"TLS_"`
	// KeyPrefix begins every key and channel in Redis, so that several services can use one server.
	// Default omnia-gateway:
	KeyPrefix string `yaml:"keyPrefix" env:"KEY_PREFIX"`
}

// Enabled reports whether anything is shared.
func (r Redis) Enabled() bool { return len(r.Addresses) > 0 }

// RedisTLS is how Redis' certificate is checked, and the gateway's own.
type RedisTLS struct {
	// Enabled true speaks TLS. Default false.
	Enabled bool `yaml:"enabled" env:"ENABLED"`
	// CAFile is a PEM file of the authorities that sign Redis' certificate, instead of the
	// system's.
	CAFile string `yaml:"caFile" env:"CA_FILE"`
	// CertFile is the PEM file of the gateway's own certificate, where Redis asks for one.
	CertFile string `yaml:"certFile" env:"CERT_FILE"`
	// KeyFile is the PEM file of its private key.
	KeyFile string `yaml:"keyFile" env:"KEY_FILE"`
	// ServerName is the name that Redis' certificate must have. Empty: the host of the address.
	ServerName string `yaml:"serverName" env:"SERVER_NAME"`
}

// Log says what is written to standard error, and how.
type Log struct {
	// Format is json (the default) or text.
	Format string `yaml:"format" env:"FORMAT"`
	// Level is debug, info (the default), warn or error.
	Level string `yaml:"level" env:"LEVEL"`
}

// The list types have names of their own so that each can say how it is written in an
// environment variable.
type (
	// Routes in the environment: /my-agent=http://my-agent:8080;/other=http://other:8080
	Routes []Route
	// JWTRules in the environment: the list as YAML or JSON.
	JWTRules []JWT
	// ClaimHeaders in the environment: x-user-id=sub,x-user-roles=roles:json
	ClaimHeaders []ClaimHeader
	// HeaderSources in the environment: Authorization=Bearer,X-Token
	HeaderSources []HeaderSource
	// ClaimNames are written as a list, or as one name. In the environment: sub,client_id
	ClaimNames []string
	// RequiredClaims in the environment: scope=agents:access;role=user|admin
	RequiredClaims []RequiredClaim
)

// Algorithms are the signature algorithms that can be accepted (RFC 7518 §3.1, RFC 8037 §3.1):
// asymmetric ones only, as a key set is public. Ed25519 is another name of EdDSA (RFC 9864).
var Algorithms = [...]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}

// Default is the configuration in which nothing was said.
func Default() Config {
	return Config{
		TLS:            TLS{MinVersion: "1.2"},
		Admin:          Admin{Listen: "127.0.0.1:9090"},
		Authentication: DefaultAuthentication(),
		Session: Session{
			CloseOnTokenExpiry: true,
			DrainTimeout:       30 * time.Second,
			DrainCode:          1001,
			PingInterval:       25 * time.Second,
			StallTimeout:       30 * time.Second,
			ReloadSpread:       10 * time.Second,
		},
		Limits: Limits{
			MaxMessageBytes:  16 << 20,
			HandshakeTimeout: 10 * time.Second,
			UpstreamTimeout:  30 * time.Second,
			MaxHeaderBytes:   32 << 10,
			MaxTokenBytes:    16 << 10,
		},
		Revocations: Revocations{Max: 100_000},
		Upstream:    Upstream{IdleTimeout: 4 * time.Second},
		Cluster:     Cluster{Redis: Redis{KeyPrefix: "omnia-gateway:"}},
		Log:         Log{Format: "json", Level: "info"},
	}
}

// DefaultAuthentication is the block authentication in which nothing was said.
func DefaultAuthentication() Authentication {
	return Authentication{
		Enabled:       true,
		JWT:           DefaultJWT(),
		Authorization: Authorization{ExcludePaths: []string{"/healthz", "/readyz"}},
		EdgeTrust: EdgeTrust{
			StripInboundClaimHeaders: true,
			DefaultStripHeaders:      []string{"x-user-id", "x-user-roles", "x-user-email"},
			StripFamilies:            []string{"x-user-*", "x-omnia-*", "x-end-user-id"},
		},
	}
}

// DefaultJWT is an issuer of which nothing was said; each element of jwtRules starts from it too.
func DefaultJWT() JWT {
	return JWT{
		ForwardOriginalToken: true,
		OutputClaimToHeaders: ClaimHeaders{
			{Header: "x-user-id", Claim: "sub"},
			{Header: "x-user-email", Claim: "email"},
			{Header: "x-user-roles", Claim: "roles"},
		},
		FromHeaders:          HeaderSources{{Name: "Authorization", Prefix: "Bearer "}},
		FromParams:           []string{"access_token"},
		FromSubprotocols:     []string{"bearer", "base64url.bearer.authorization.k8s.io"},
		PrincipalClaim:       ClaimNames{"sub"},
		SpaceDelimitedClaims: []string{},
		Fetch:                Fetch{Timeout: 10 * time.Second, Interval: 10 * time.Minute},
		ClockSkew:            60 * time.Second,
		RequireExpiration:    true,
		Algorithms:           append([]string(nil), Algorithms[:]...),
	}
}

// DefaultRoute is a route of which nothing was said.
func DefaultRoute() Route {
	return Route{
		StripPrefix: true, HostHeader: "keep", CORS: true, Origin: "keep", RejectWith: "status",
		Query: Query{Drop: []string{"agent", "namespace", "workspace", "device_id"}},
	}
}
