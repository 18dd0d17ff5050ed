package gateway

import (
	"net/http"

	"github.com/altairalabs/omnia-gateway/auth"
)

// Reason is the one word for an outcome: the same in the log, the metrics, explain, the problem document and docs/outcomes.md.
type Reason = auth.Reason

// What lets a request through.
const (
	OK           Reason = "ok"
	ExcludedPath Reason = "excluded-path"
	PublicRoute  Reason = "public-route"
	AuthDisabled Reason = "auth-disabled"
	Probe        Reason = "probe" // /healthz or /readyz, answered by the gateway itself
)

// What refuses one, beside the reasons of auth.
const (
	BadPath                Reason = "bad-path"
	BadMethod              Reason = "bad-method"
	BadUpgrade             Reason = "bad-upgrade"
	BadOrigin              Reason = "bad-origin"
	NoRoute                Reason = "no-route"
	TooManyConnections     Reason = "too-many-connections"
	TooManyUserConnections Reason = "too-many-user-connections"
	TooManyAddrConnections Reason = "too-many-address-connections"
	UpstreamUnreachable    Reason = "upstream-unreachable"
	UpstreamTimeout        Reason = "upstream-timeout"
	UpstreamBadHandshake   Reason = "upstream-bad-handshake"
	UpstreamRefused        Reason = "upstream-refused" // the agent's own HTTP answer to an upgrade, passed on
	InternalError          Reason = "internal-error"
)

// What ends a session. Drain also refuses new ones, ClientLost also a handshake whose client went away.
const (
	Drain         Reason = "drain"
	MessageTooBig Reason = "message-too-big"
	ProtocolError Reason = "protocol-error"
	Idle          Reason = "idle"
	DeadPeer      Reason = "dead-peer"
	UpstreamLost  Reason = "upstream-lost"
	ClientLost    Reason = "client-lost"
	Closed        Reason = "closed"
)

// status is the answer to a request refused for r.
func status(r Reason) int {
	switch r {
	case auth.NoToken, auth.Malformed, auth.AlgNotAllowed, auth.AlgKeyMismatch, auth.CritUnsupported, auth.BadSignature, auth.Expired,
		auth.NotYetValid, auth.NoExpiry, auth.WrongIssuer, auth.WrongAudience, auth.UnknownKey, auth.WeakKey, auth.MultipleCredentials:
		return http.StatusUnauthorized
	case auth.ClaimMismatch, auth.NoPrincipal, auth.ClaimNotRepresentable, BadOrigin:
		return http.StatusForbidden
	case BadPath, BadUpgrade:
		return http.StatusBadRequest
	case BadMethod:
		return http.StatusMethodNotAllowed
	case NoRoute:
		return http.StatusNotFound
	case auth.JWKSUnavailable, TooManyConnections, Drain:
		return http.StatusServiceUnavailable
	case TooManyUserConnections, TooManyAddrConnections:
		return http.StatusTooManyRequests
	case UpstreamUnreachable, UpstreamBadHandshake:
		return http.StatusBadGateway
	case UpstreamTimeout:
		return http.StatusGatewayTimeout
	case ClientLost:
		return 499 // nobody reads it; the log and the metrics do (nginx's number for a client that went away)
	}
	return http.StatusInternalServerError
}

// challenge is the WWW-Authenticate header of a refusal (RFC 6750 §3), or "" when it has none. It names nothing of the request.
func challenge(r Reason) string {
	const realm = `Bearer realm="omnia-gateway"`
	switch {
	case r == auth.NoToken:
		return realm // RFC 6750 §3.1: no error code when no credential was sent
	case r == auth.ClaimMismatch:
		return realm + `, error="insufficient_scope", error_description="` + string(r) + `"`
	case status(r) == http.StatusUnauthorized:
		return realm + `, error="invalid_token", error_description="` + string(r) + `"`
	}
	return ""
}

// retryAfter is the Retry-After of a refusal in seconds, or "" when trying again would not help.
func retryAfter(r Reason) string {
	switch r {
	case auth.JWKSUnavailable, TooManyConnections, Drain:
		return "5"
	case TooManyUserConnections, TooManyAddrConnections:
		return "30"
	}
	return ""
}

// ending is why a session ended. Both sides are told the same: a Close with code and the reason's word.
type ending struct {
	reason Reason
	code   int    // of the Close (IANA registry of WebSocket close codes); 0 is a Close without one
	err    string // what the operator should know beside the word
}

// endingOf is the ending for a reason of the gateway's own.
func endingOf(r Reason, detail string) *ending {
	return &ending{reason: r, code: closeCode(r), err: detail}
}

// closeCode is the code with which a session is closed for r.
func closeCode(r Reason) int {
	switch r {
	case auth.Expired:
		return 3000 // Unauthorized
	case Drain, Idle, ClientLost:
		return 1001 // Going Away
	case MessageTooBig:
		return 1009
	case ProtocolError:
		return 1002
	case DeadPeer:
		return 3008 // Timeout
	case UpstreamLost:
		return 1014 // Bad Gateway
	}
	return 1011 // Internal Error
}
