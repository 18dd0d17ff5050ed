// Package handshake holds every rule of the WebSocket opening handshake (RFC 6455 §4), of both
// sides: what a client must send, what an agent must answer, which subprotocol the client gets,
// and which reserved bits the negotiated extensions use.
//
// It is pure: it looks at requests and headers and does no I/O. The policy asks it about the
// client, the gateway about the agent.
package handshake

import (
	"crypto/sha1"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/internal/headers"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Wanted reports whether a request asks for a WebSocket, in a right or a wrong way. An Upgrade to
// any other protocol is ignored (RFC 9110 §7.8): Java's HttpClient sends h2c with every request.
func Wanted(r *http.Request) bool {
	return slices.ContainsFunc(headers.List(r.Header["Upgrade"]), isWebSocket)
}

// Fault returns the word and the detail of what is wrong with a client's handshake (RFC 6455
// §4.2.1); the word is "" if all is well.
func Fault(r *http.Request) (outcome.Reason, string) {
	versions := r.Header["Sec-Websocket-Version"]
	switch {
	case !slices.ContainsFunc(headers.List(r.Header["Connection"]), isUpgrade):
		return outcome.BadUpgrade, "Connection does not say Upgrade"
	case r.Method != http.MethodGet:
		return outcome.BadUpgrade, "the method is not GET"
	case !r.ProtoAtLeast(1, 1):
		return outcome.BadUpgrade, "HTTP/1.0"
	case len(versions) == 0:
		return outcome.BadUpgrade, "no Sec-WebSocket-Version"
	case one(r.Header, "Sec-Websocket-Version") != Version:
		return outcome.BadVersion, "Sec-WebSocket-Version is not one 13"
	case !validKey(one(r.Header, "Sec-Websocket-Key")):
		return outcome.BadUpgrade, "Sec-WebSocket-Key is not one key of 16 bytes"
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return outcome.BadUpgrade, "a handshake with a body"
	case r.Header.Get("Expect") != "":
		return outcome.BadUpgrade, "a handshake with Expect"
	}
	return "", ""
}

// Version is the one version of the protocol (RFC 6455 §4.1).
const Version = "13"

// spelling is how RFC 6455 writes its headers, by the name that net/http gives to them.
var spelling = map[string]string{
	"Sec-Websocket-Key": "Sec-WebSocket-Key", "Sec-Websocket-Accept": "Sec-WebSocket-Accept",
	"Sec-Websocket-Version":  "Sec-WebSocket-Version",
	"Sec-Websocket-Protocol": "Sec-WebSocket-Protocol", "Sec-Websocket-Extensions": "Sec-WebSocket-Extensions",
}

// Spelled returns headers with the names of the handshake as RFC 6455 spells them. They are
// meant to be written, not looked up. Names do not depend on case (RFC 9110 §5.1), but some
// agents do: Debian's broadwayd knows only this spelling.
func Spelled(h http.Header) http.Header {
	out := maps.Clone(h)
	Spell(out)
	return out
}

// Spell is Spelled in place.
func Spell(h http.Header) {
	for name, right := range spelling {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[right] = values
		}
	}
}

// AnswerFault returns what is wrong with an agent's 101 (RFC 6455 §4.1), given the headers that it
// answers, or "".
func AnswerFault(answer, asked http.Header) string {
	switch {
	case !strings.EqualFold(one(answer, "Upgrade"), "websocket"):
		return "101 without Upgrade: websocket"
	case !slices.ContainsFunc(headers.List(answer["Connection"]), isUpgrade):
		return "101 without Connection: Upgrade"
	case one(answer, "Sec-Websocket-Accept") != AcceptKey(asked.Get("Sec-WebSocket-Key")):
		return "101 with a wrong Sec-WebSocket-Accept"
	}
	offered := func(list, name string) bool {
		return slices.ContainsFunc(headers.List(asked[list]), func(s string) bool { return token(s) == name })
	}
	switch chosen := answer["Sec-Websocket-Protocol"]; {
	case len(chosen) > 1:
		return "101 with several subprotocols"
	case len(chosen) == 1 && !offered("Sec-Websocket-Protocol", chosen[0]):
		return "101 with a subprotocol that was not offered"
	}
	for _, e := range headers.List(answer["Sec-Websocket-Extensions"]) {
		if !offered("Sec-Websocket-Extensions", token(e)) {
			return "101 with an extension that was not offered"
		}
	}
	return ""
}

// ReservedBits returns the reserved bits of a frame's first byte that the extensions of an
// agent's answer use: RSV1 for permessage-deflate (RFC 7692 §6), all three for one the gateway
// does not know.
func ReservedBits(answer http.Header) (bits byte) {
	const rsv1, all = 0x40, 0x70
	for _, e := range headers.List(answer["Sec-Websocket-Extensions"]) {
		if token(e) == "permessage-deflate" {
			bits |= rsv1
		} else {
			bits = all
		}
	}
	return bits
}

// AcceptKey returns the Sec-WebSocket-Accept for a key (RFC 6455 §4.2.2).
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Protocols is what is needed to answer a client's subprotocols (RFC 6455 §4.2.2).
type Protocols struct {
	// Offered are the client's, without the entries of a token: what the agent sees.
	Offered []string
	// Token reports whether a token was among them. A browser then needs an answer.
	Token bool
	// Fallback is the answer if nothing else was offered; "" when no answer would be right.
	Fallback string
}

// Answer returns the subprotocol for the client, given the agent's choice, or "" for none.
func (p Protocols) Answer(chosen string) string {
	switch {
	case chosen != "" || !p.Token:
		return chosen
	case len(p.Offered) > 0:
		return p.Offered[0]
	}
	return p.Fallback
}

// one returns the value of a header that has exactly one line, else "".
func one(h http.Header, name string) string {
	if v := h[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

func isWebSocket(s string) bool { return strings.EqualFold(s, "websocket") }

func isUpgrade(s string) bool { return strings.EqualFold(s, "upgrade") }

// token returns a list element's name, without its parameters.
func token(element string) string {
	name, _, _ := strings.Cut(element, ";")
	return strings.TrimSpace(name)
}

// validKey reports whether a Sec-WebSocket-Key is 16 bytes of base64 (RFC 6455 §4.2.1).
func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16
}
