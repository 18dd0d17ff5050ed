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
	"net/http"
	"slices"
	"strings"
)

// Wanted reports whether a request asks for a tunnel, in a right or a wrong way.
func Wanted(r *http.Request) bool { return len(r.Header["Upgrade"]) > 0 }

// Fault returns what is wrong with a client's handshake (RFC 6455 §4.2.1), or "". Every Upgrade
// that is no WebSocket is wrong: a tunnel for another protocol (h2c) would go around every rule.
func Fault(r *http.Request) string {
	switch {
	case !strings.EqualFold(one(r.Header, "Upgrade"), "websocket"):
		return "Upgrade is not one websocket"
	case !slices.ContainsFunc(List(r.Header["Connection"]), isUpgrade):
		return "Connection does not say Upgrade"
	case r.Method != http.MethodGet:
		return "the method is not GET"
	case !r.ProtoAtLeast(1, 1):
		return "HTTP/1.0"
	case one(r.Header, "Sec-Websocket-Version") != "13":
		return "Sec-WebSocket-Version is not one 13"
	case !validKey(one(r.Header, "Sec-Websocket-Key")):
		return "Sec-WebSocket-Key is not one key of 16 bytes"
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return "a handshake with a body"
	case r.Header.Get("Expect") != "":
		return "a handshake with Expect"
	}
	return ""
}

// AnswerFault returns what is wrong with an agent's 101 (RFC 6455 §4.1), given the headers that it
// answers, or "".
func AnswerFault(answer, asked http.Header) string {
	switch {
	case !strings.EqualFold(one(answer, "Upgrade"), "websocket"):
		return "101 without Upgrade: websocket"
	case !slices.ContainsFunc(List(answer["Connection"]), isUpgrade):
		return "101 without Connection: Upgrade"
	case one(answer, "Sec-Websocket-Accept") != AcceptKey(asked.Get("Sec-WebSocket-Key")):
		return "101 with a wrong Sec-WebSocket-Accept"
	}
	offered := func(list, name string) bool {
		return slices.ContainsFunc(List(asked[list]), func(s string) bool { return token(s) == name })
	}
	switch chosen := answer["Sec-Websocket-Protocol"]; {
	case len(chosen) > 1:
		return "101 with several subprotocols"
	case len(chosen) == 1 && !offered("Sec-Websocket-Protocol", chosen[0]):
		return "101 with a subprotocol that was not offered"
	}
	for _, e := range List(answer["Sec-Websocket-Extensions"]) {
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
	for _, e := range List(answer["Sec-Websocket-Extensions"]) {
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

// List returns the elements of comma-separated header lines; empty ones do not count (RFC 9110
// §5.6.1).
func List(lines []string) (out []string) {
	for _, line := range lines {
		for s := range strings.SplitSeq(line, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

// one returns the value of a header that has exactly one line, else "".
func one(h http.Header, name string) string {
	if v := h[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

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
