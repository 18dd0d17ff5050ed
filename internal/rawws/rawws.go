// Package rawws reads and writes valid and invalid WebSocket frames, for tests and benchmarks. It
// writes any frame and checks none that it reads. No program imports it.
package rawws

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Opcodes of RFC 6455 §5.2, and the bit that ends a message.
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xA
	Fin          = 0x80
)

// Key is the sample nonce of RFC 6455 §1.3, which every handshake here uses.
const Key = "dGhlIHNhbXBsZSBub25jZQ=="

// mask is a key that changes every byte.
var mask = [4]byte{0xa1, 0xb2, 0xc3, 0xd4}

// Append appends a frame to b: its first byte as given, the payload's length in the fewest
// bytes, and the payload, masked if so asked.
func Append(b []byte, first byte, payload []byte, masked bool) []byte {
	if !masked {
		return append(Head(b, first, len(payload), nil), payload...)
	}
	b = append(Head(b, first, len(payload), mask[:]), payload...)
	unmask(b[len(b)-len(payload):], mask[:])
	return b
}

// Head appends the head of a frame to b, with the masking key if that is not nil.
func Head(b []byte, first byte, size int, key []byte) []byte {
	b = append(b, first)
	bit := byte(0)
	if key != nil {
		bit = 0x80
	}
	switch {
	case size < 126:
		b = append(b, bit|byte(size))
	case size < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, bit|126), uint16(size))
	default:
		b = binary.BigEndian.AppendUint64(append(b, bit|127), uint64(size))
	}
	return append(b, key...)
}

// unmask applies a masking key, which is its own inverse (RFC 6455 §5.3).
func unmask(payload, key []byte) {
	for i := range payload {
		payload[i] ^= key[i%4]
	}
}

// Make is Append to nothing.
func Make(first byte, payload []byte, masked bool) []byte { return Append(nil, first, payload, masked) }

// MakeClose is a Close frame; code 0 leaves code and reason out.
func MakeClose(code int, reason string, masked bool) []byte {
	if code == 0 {
		return Make(Fin|Close, nil, masked)
	}
	return Make(Fin|Close, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...), masked)
}

// Frame is a frame as it was read, unmasked.
type Frame struct {
	First   byte // FIN, reserved bits and opcode
	Masked  bool
	Payload []byte
}

// Op is the frame's opcode.
func (f Frame) Op() byte { return f.First & 0x0f }

// Fin reports whether the frame ends its message.
func (f Frame) Fin() bool { return f.First&Fin != 0 }

// Code is the code of a Close frame; 0 when it has none, -1 when f is no Close.
func (f Frame) Code() int {
	switch {
	case f.Op() != Close:
		return -1
	case len(f.Payload) < 2:
		return 0
	}
	return int(binary.BigEndian.Uint16(f.Payload))
}

// String names the frame for messages of tests.
func (f Frame) String() string {
	if f.Op() == Close {
		return fmt.Sprintf("Close %d %q", f.Code(), f.Payload[min(2, len(f.Payload)):])
	}
	return fmt.Sprintf("opcode %d fin %v %d bytes %q", f.Op(), f.Fin(), len(f.Payload), f.Payload[:min(len(f.Payload), 64)])
}

// Read reads one frame.
func Read(r *bufio.Reader) (Frame, error) {
	first, size, key, err := ReadHead(r)
	if err != nil {
		return Frame{}, err
	}
	if size < 0 || size > 1<<28 {
		return Frame{}, fmt.Errorf("frame of %d bytes", size)
	}
	f := Frame{First: first, Masked: key != nil, Payload: make([]byte, size)}
	if _, err := io.ReadFull(r, f.Payload); err != nil {
		return f, err
	}
	if f.Masked {
		unmask(f.Payload, key)
	}
	return f, nil
}

// ReadHead reads the head of a frame: first byte, size of the payload that follows, and masking
// key, nil when there is none.
func ReadHead(r *bufio.Reader) (first byte, size int64, key []byte, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return 0, 0, nil, err
	}
	first, masked := b[0], b[1]&0x80 != 0
	size = int64(b[1] & 0x7f)
	clear(b[:])
	switch size {
	case 126:
		_, err = io.ReadFull(r, b[6:])
		size = int64(binary.BigEndian.Uint64(b[:]))
	case 127:
		_, err = io.ReadFull(r, b[:])
		size = int64(binary.BigEndian.Uint64(b[:]))
	}
	if err == nil && masked {
		key = make([]byte, 4)
		_, err = io.ReadFull(r, key)
	}
	return first, size, key, err
}

// Request is the text of a handshake for target (path and query) at host, with further header
// lines as they are.
func Request(host, target string, lines ...string) string {
	lines = append([]string{
		"GET " + target + " HTTP/1.1", "Host: " + host, "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + Key,
	}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// Response is the text of a right 101 to a request, with further header lines as they are.
func Response(r *http.Request, lines ...string) string {
	lines = append([]string{
		"HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Accept: " + AcceptKey(r.Header.Get("Sec-WebSocket-Key")),
	}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// AcceptKey is the Sec-WebSocket-Accept that answers a key (RFC 6455 §4.2.2).
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
