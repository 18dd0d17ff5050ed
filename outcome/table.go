package outcome

// What lets a request through.
const (
	OK           Reason = "ok"
	ExcludedPath Reason = "excluded-path"
	PublicRoute  Reason = "public-route"
	AuthDisabled Reason = "auth-disabled"

	AgentAuthenticates Reason = "agent-authenticates"

	Probe     Reason = "probe"     // /healthz or /readyz, answered by the gateway itself
	Preflight Reason = "preflight" // of CORS, answered by the gateway itself

	ResourceMetadata Reason = "resource-metadata" // of RFC 9728, answered by the gateway itself
	Renewal          Reason = "renewal"           // of the caller's sessions, by the gateway itself
	Logout           Reason = "logout"            // of a user at the issuer, who tells the gateway itself
)

// What refuses a request for its form or its address.
const (
	BadPath    Reason = "bad-path"
	BadHost    Reason = "bad-host"
	BadMethod  Reason = "bad-method"
	BadUpgrade Reason = "bad-upgrade"
	BadVersion Reason = "bad-version"
	BadBody    Reason = "bad-body"
	BadOrigin  Reason = "bad-origin"
	NoRoute    Reason = "no-route"
	NoSession  Reason = "no-session" // to renew
	BadLogout  Reason = "bad-logout" // an issuer's token, but none for logout
)

// What refuses a request for its token. Expired and Revoked also end a session.
const (
	NoToken               Reason = "no-token"
	MultipleCredentials   Reason = "multiple-credentials"
	Malformed             Reason = "malformed"
	AlgNotAllowed         Reason = "alg-not-allowed"
	CritUnsupported       Reason = "crit-unsupported"
	WrongType             Reason = "wrong-type"
	WrongIssuer           Reason = "wrong-issuer"
	JWKSUnavailable       Reason = "jwks-unavailable"
	UnknownKey            Reason = "unknown-key"
	UnknownClientKey      Reason = "unknown-client-key"
	WeakKey               Reason = "weak-key"
	AlgKeyMismatch        Reason = "alg-key-mismatch"
	BadSignature          Reason = "bad-signature"
	NoExpiry              Reason = "no-expiry"
	Expired               Reason = "expired"
	NotYetValid           Reason = "not-yet-valid"
	Revoked               Reason = "revoked"
	WrongAudience         Reason = "wrong-audience"
	NoPrincipal           Reason = "no-principal"
	ClaimMismatch         Reason = "claim-mismatch"
	ClaimNotRepresentable Reason = "claim-not-representable"
)

// What refuses an admitted request.
const (
	TooManyConnections     Reason = "too-many-connections"
	TooManyUserConnections Reason = "too-many-user-connections"
	TooManyAddrConnections Reason = "too-many-address-connections"
	TooManyRefused         Reason = "too-many-refused-tokens"
	TooManyRevocations     Reason = "too-many-revocations" // for a logout
	UpstreamUnreachable    Reason = "upstream-unreachable"
	UpstreamTimeout        Reason = "upstream-timeout"
	UpstreamBadHandshake   Reason = "upstream-bad-handshake"
	UpstreamRefused        Reason = "upstream-refused" // the agent's own answer, passed on
	UpstreamLoop           Reason = "upstream-loop"    // the request has come through this process before
	InternalError          Reason = "internal-error"
)

// What ends a session. Drain also refuses new ones, ClientLost also a handshake whose client went
// away, Ended and MaxDuration also a request that the agent has not answered yet.
const (
	Drain         Reason = "drain"
	MaxDuration   Reason = "max-duration"
	MessageTooBig Reason = "message-too-big"
	ProtocolError Reason = "protocol-error"
	Idle          Reason = "idle"
	DeadPeer      Reason = "dead-peer"
	UpstreamLost  Reason = "upstream-lost"
	ClientLost    Reason = "client-lost"
	Closed        Reason = "closed"
	Ended         Reason = "ended" // by an operator
)

// challenge is the error code of a WWW-Authenticate header (RFC 6750 §3.1).
type challenge string

const (
	noChallenge  challenge = ""
	bare         challenge = "-" // no error code, because no credential was sent
	invalidToken challenge = "invalid_token"
	insufficient challenge = "insufficient_scope"
)

// Close codes of RFC 6455 §7.4.1 and of the IANA registry. Only those that every client can read:
// several take 1012 to 1014 for a protocol error. After normal a client does not come back by
// itself; after goingAway it does.
const (
	normal        = 1000
	goingAway     = 1001
	protocolError = 1002
	tooBig        = 1009
	internalError = 1011
	tryAgainLater = 1013
	unauthorized  = 3000
	forbidden     = 3003
	timeout       = 3008
)

// row is what one word means.
type row struct {
	reason     Reason
	through    bool      // it says why a request was let in
	status     int       // of the answer to a request refused for it; 0: none is. passedOn: the agent's own
	code       int       // of the Close of a session ended for it; 0: none is. passedOn: the peer's own
	retryAfter int       // seconds; 0: trying again would not help
	challenge  challenge // of a refusal
	check      string    // of explain
}

// passedOn stands for a status or a close code that is not the gateway's to choose.
const passedOn = -1

// clientClosed is the status in the log for a client that went away before its answer. No client
// reads it; nginx uses the same number.
const clientClosed = 499

// table is the one place that decides what a word means.
var table = [...]row{
	{reason: OK, through: true},
	{reason: ExcludedPath, through: true},
	{reason: PublicRoute, through: true},
	{reason: AuthDisabled, through: true},
	{reason: AgentAuthenticates, through: true},
	{reason: Probe, through: true},
	{reason: Preflight, through: true},
	{reason: ResourceMetadata, through: true},
	{reason: Renewal, through: true},
	{reason: Logout, through: true},

	{reason: BadPath, status: 400, check: "path"},
	{reason: BadHost, status: 400, check: "host"},
	{reason: BadMethod, status: 405, check: "method"},
	{reason: BadUpgrade, status: 400, check: "upgrade"},
	{reason: BadVersion, status: 426, check: "upgrade"},
	{reason: BadBody, status: 400},
	{reason: BadOrigin, status: 403, code: forbidden, check: "origin"},
	{reason: NoRoute, status: 404, code: forbidden, check: "route"},
	{reason: NoSession, status: 404},
	{reason: BadLogout, status: 400},

	{reason: NoToken, status: 401, code: unauthorized, challenge: bare, check: "token"},
	{reason: MultipleCredentials, status: 401, challenge: invalidToken, check: "token"},
	{reason: Malformed, status: 401, challenge: invalidToken, check: "form"},
	{reason: AlgNotAllowed, status: 401, challenge: invalidToken, check: "algorithm"},
	{reason: CritUnsupported, status: 401, challenge: invalidToken, check: "algorithm"},
	{reason: WrongType, status: 401, challenge: invalidToken, check: "form"},
	{reason: WrongIssuer, status: 401, code: unauthorized, challenge: invalidToken, check: "issuer"},
	{reason: JWKSUnavailable, status: 503, retryAfter: 5, check: "key"},
	{reason: UnknownKey, status: 401, challenge: invalidToken, check: "key"},
	{reason: UnknownClientKey, status: 401, code: unauthorized, challenge: invalidToken, check: "key"},
	{reason: WeakKey, status: 401, challenge: invalidToken, check: "key"},
	{reason: AlgKeyMismatch, status: 401, challenge: invalidToken, check: "key"},
	{reason: BadSignature, status: 401, challenge: invalidToken, check: "signature"},
	{reason: NoExpiry, status: 401, code: unauthorized, challenge: invalidToken, check: "times"},
	{reason: Expired, status: 401, code: unauthorized, challenge: invalidToken, check: "times"},
	{reason: NotYetValid, status: 401, challenge: invalidToken, check: "times"},
	{reason: Revoked, status: 401, code: unauthorized, challenge: invalidToken},
	{reason: WrongAudience, status: 401, code: unauthorized, challenge: invalidToken, check: "audience"},
	{reason: NoPrincipal, status: 403, code: forbidden, check: "subject"},
	{reason: ClaimMismatch, status: 403, code: forbidden, challenge: insufficient, check: "rule"},
	{reason: ClaimNotRepresentable, status: 403, code: forbidden, check: "header"},

	{reason: TooManyConnections, status: 503, retryAfter: 5},
	{reason: TooManyUserConnections, status: 429, retryAfter: 30},
	{reason: TooManyAddrConnections, status: 429, retryAfter: 30},
	{reason: TooManyRefused, status: 429, retryAfter: 1},
	{reason: TooManyRevocations, status: 507},
	{reason: UpstreamUnreachable, status: 502},
	{reason: UpstreamTimeout, status: 504},
	{reason: UpstreamBadHandshake, status: 502},
	{reason: UpstreamRefused, status: passedOn},
	{reason: UpstreamLoop, status: 508},
	{reason: InternalError, status: 500, code: internalError},

	{reason: Drain, status: 503, code: goingAway, retryAfter: 5},
	{reason: MaxDuration, status: 503, code: goingAway, retryAfter: 5},
	{reason: MessageTooBig, code: tooBig},
	{reason: ProtocolError, code: protocolError},
	{reason: Idle, code: normal},
	{reason: DeadPeer, code: timeout},
	{reason: UpstreamLost, status: 502, code: goingAway},
	{reason: ClientLost, status: clientClosed, code: goingAway},
	{reason: Closed, code: passedOn},
	{reason: Ended, status: 503, code: normal, retryAfter: 5},
}

// rows is the table by word.
var rows = func() map[Reason]row {
	m := make(map[Reason]row, len(table))
	for _, r := range table {
		m[r.reason] = r
	}
	return m
}()
