package relay

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// Opcodes of RFC 6455 §5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Bits of the first two bytes of a frame.
const (
	finBit  = 0x80
	rsvBits = 0x70
	rsv1Bit = 0x40
	maskBit = 0x80
)

// The reserved bits, for New: RSV1 is that of permessage-deflate (RFC 7692 §6), RSV are all of
// them.
const (
	RSV1 byte = rsv1Bit
	RSV  byte = rsvBits
)

// maxControl is the longest payload of a control frame (RFC 6455 §5.5), maxHead the longest frame
// head.
const (
	maxControl = 125
	maxHead    = 14
)

// emptyFragment is what a fragment without payload costs of the message limit: without a price,
// one message could hold endless fragments.
const emptyFragment = 64

// walker follows the frames of one peer through a stream of bytes and never touches a payload. It
// tells how many of the bytes at hand may go on as they are, stops where the machine has to know
// (a Close, a Pong that may answer a Ping of the gateway's own), and finds every violation of RFC
// 6455 that a frame head can show, before a byte of the offending frame has gone on.
//
// What it lets through always ends at a frame boundary or inside the payload of a data frame:
// heads and control frames are passed whole. So whenever rest is 0, a frame may be put in, and
// whenever open is false as well, a message. It is pure: no I/O, no clock.
type walker struct {
	fromClient bool   // frames must be masked; those of an agent must not be (RFC 6455 §5.1)
	rsv        byte   // reserved bits for which an extension was negotiated
	max        uint64 // bytes of a message, over all its fragments

	frame    uint64 // payload of the current data frame, or of the last one
	rest     uint64 // of it, what is still to come
	size     uint64 // bytes of the current message so far
	open     bool   // a fragmented message is under way
	messages uint64 // messages that have passed whole

	// What has passed since the last look; the machine resets it.
	moved  bool // a data frame, or a part of one
	pinged bool // a Ping
	ponged bool // a Pong

	pace *pace // how fast data frames may pass; nil: as they come
}

// control is a control frame at which walk stopped.
type control struct {
	op     byte
	length int // of the frame, head included
	code   int // of a Close; 0 when it has none (RFC 6455 §7.1.5)
}

// violation is why a peer's frame cannot go on.
type violation struct {
	reason outcome.Reason
	detail string
}

func illegal(detail string) *violation { return &violation{outcome.ProtocolError, detail} }

// walk looks at the next bytes of the stream: b[:n] may go on. Then either c is a control frame
// that begins at b[n], or v says why the frame there is illegal, or b[n:] is the beginning of a
// head or control frame and must be offered again with what follows, or has to wait for its pace.
// With oneFrame it also stops at the first boundary after a byte that may go on.
func (w *walker) walk(b []byte, oneFrame bool) (n int, c control, v *violation) {
	for n < len(b) {
		if w.rest > 0 {
			k := int(min(w.rest, uint64(len(b)-n)))
			if w.pace != nil {
				if k = w.pace.payload(k); k == 0 {
					return n, control{}, nil
				}
			}
			w.skip(k)
			n += k
			continue
		}
		if oneFrame && n > 0 {
			break
		}
		f, whole, v := w.head(b[n:])
		if v != nil || !whole {
			return n, control{}, v
		}
		if f.op < opClose {
			if w.pace != nil && !w.pace.begins(f) {
				return n, control{}, nil
			}
			w.begin(f)
			n += f.head
			w.count()
			continue
		}
		length := f.head + int(f.payload)
		if len(b)-n < length {
			return n, control{}, nil
		}
		c, v := w.control(f, b[n:n+length])
		if v != nil || c.op != 0 {
			return n, c, v
		}
		n += length
	}
	return n, control{}, nil
}

// head is a parsed frame head.
type head struct {
	op      byte
	fin     bool
	masked  bool
	head    int    // bytes of the head itself
	payload uint64 // bytes that follow it
}

// head parses and judges the head at the beginning of b; whole is false when b ends inside of it.
func (w *walker) head(b []byte) (f head, whole bool, v *violation) {
	if len(b) < 2 {
		return f, false, nil
	}
	f = head{op: b[0] & 0x0f, fin: b[0]&finBit != 0, masked: b[1]&maskBit != 0, head: 2}
	length := b[1] &^ maskBit
	if v := w.judge(f, b[0]&rsvBits, length); v != nil {
		return f, false, v
	}
	switch length {
	case 126:
		if len(b) < 4 {
			return f, false, nil
		}
		f.head, f.payload = 4, uint64(binary.BigEndian.Uint16(b[2:]))
		if f.payload < 126 {
			return f, false, illegal("length in more bytes than it needs") // RFC 6455 §5.2: the minimal number of bytes must be used
		}
	case 127:
		if len(b) < 10 {
			return f, false, nil
		}
		f.head, f.payload = 10, binary.BigEndian.Uint64(b[2:])
		if f.payload>>63 != 0 {
			return f, false, illegal("length with the most significant bit set")
		}
		if f.payload < 1<<16 {
			return f, false, illegal("length in more bytes than it needs")
		}
	default:
		f.payload = uint64(length)
	}
	if f.masked {
		f.head += 4
	}
	if f.op < opClose && w.cost(f) > w.max {
		return f, false, &violation{outcome.MessageTooBig, "message over the limit"}
	}
	return f, len(b) >= f.head, nil
}

// judge holds the rules that the first two bytes can break.
func (w *walker) judge(f head, rsv, length byte) *violation {
	switch f.op {
	case opText, opBinary:
		if w.open {
			return illegal("new message inside a fragmented one")
		}
	case opContinuation:
		if !w.open {
			return illegal("continuation of nothing")
		}
		if w.rsv == rsv1Bit && rsv&rsv1Bit != 0 {
			return illegal("RSV1 on a continuation") // RFC 7692 §6: only the first fragment carries it
		}
	case opClose, opPing, opPong:
		if !f.fin {
			return illegal("fragmented control frame")
		}
		if length > maxControl {
			return illegal("control frame over 125 bytes")
		}
		if w.rsv == rsv1Bit && rsv&rsv1Bit != 0 {
			return illegal("RSV1 on a control frame") // RFC 7692 §6.1
		}
	default:
		return illegal("reserved opcode")
	}
	if rsv&^w.rsv != 0 {
		return illegal("reserved bit without an extension")
	}
	if w.fromClient != f.masked {
		if w.fromClient {
			return illegal("unmasked frame from the client")
		}
		return illegal("masked frame from the agent")
	}
	return nil
}

// cost is the size of the current message once f is in it.
func (w *walker) cost(f head) uint64 {
	size := uint64(0)
	if f.op == opContinuation {
		size = w.size
	}
	if f.payload == 0 && !f.fin {
		return size + emptyFragment
	}
	return size + f.payload
}

// begin enters a data frame.
func (w *walker) begin(f head) {
	w.size, w.frame, w.rest, w.open, w.moved = w.cost(f), f.payload, f.payload, !f.fin, true
}

// skip goes on by n bytes of the payload of a data frame, which may have passed unseen.
func (w *walker) skip(n int) {
	w.rest, w.moved = w.rest-uint64(n), true
	w.count()
}

// count counts a message when its last byte has passed.
func (w *walker) count() {
	if w.rest == 0 && !w.open {
		w.messages++
	}
}

// control judges a whole control frame; its op is 0 when it goes on like any other bytes.
func (w *walker) control(f head, frame []byte) (control, *violation) {
	payload := frame[f.head:]
	at := func(i int) byte {
		if f.masked {
			return payload[i] ^ frame[f.head-4+i%4]
		}
		return payload[i]
	}
	c := control{op: f.op, length: len(frame)}
	switch {
	case f.op == opClose && len(payload) == 1:
		return c, illegal("Close with half a code")
	case f.op == opClose && len(payload) > 1:
		if c.code = int(at(0))<<8 | int(at(1)); !validCode(c.code) {
			return c, illegal("Close with an illegal code")
		}
		return c, nil
	case f.op == opClose:
		return c, nil
	case f.op == opPing:
		w.pinged = true
		return control{}, nil
	}
	w.ponged = true
	if len(payload) == 8 {
		var got uint64
		for i := range 8 {
			got = got<<8 | uint64(at(i))
		}
		if got == pingMark {
			return c, nil
		}
	}
	return control{}, nil
}

// validCode reports whether a Close frame may carry the code (RFC 6455 §7.4 and the IANA registry
// of close codes).
func validCode(code int) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code >= 1000 && code <= 1014:
		return code != 1004 && code != 1005 && code != 1006
	}
	return false
}

// CloseFrame returns a Close frame for a client.
func CloseFrame(code int, reason string) []byte { return closeFrame(code, reason, false) }

// closeFrame is a Close of the gateway's own: code and reason, or neither when code is 0. Towards
// an agent it is masked.
func closeFrame(code int, reason string, masked bool) []byte {
	var payload []byte
	if code != 0 {
		payload = append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason[:min(len(reason), maxControl-2)]...)
	}
	return appendControl(nil, opClose, payload, masked)
}

// pingMark is the payload of the gateway's own Pings, by which their Pongs are known. It is
// another one in each process, so that no peer can know it before it gets a Ping, and of two
// gateways on the same way each knows its own.
var pingMark = rand.Uint64()

// appendPing appends a Ping of the gateway's own.
func appendPing(b []byte, masked bool) []byte {
	var payload [8]byte
	binary.BigEndian.PutUint64(payload[:], pingMark)
	return appendControl(b, opPing, payload[:], masked)
}

// textFrame returns a text message of the gateway's own, in one frame and uncompressed.
func textFrame(text string, masked bool) []byte {
	b := []byte{finBit | opText, 0}
	switch n := len(text); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return appendMasked(b, []byte(text), masked)
}

// appendControl appends a control frame.
func appendControl(b []byte, op byte, payload []byte, masked bool) []byte {
	return appendMasked(append(b, finBit|op, byte(len(payload))), payload, masked)
}

// appendMasked appends a payload to the frame head that b begins with, masked with a new key if so
// asked.
func appendMasked(b, payload []byte, masked bool) []byte {
	if !masked {
		return append(b, payload...)
	}
	b[1] |= maskBit
	b = binary.BigEndian.AppendUint32(b, rand.Uint32())
	key := b[len(b)-4:]
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}
