package relay

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/outcome"
)

func text(s string, masked bool) []byte { return rawws.Make(rawws.Fin|rawws.Text, []byte(s), masked) }

func newWalker(fromClient bool) *walker { return &walker{fromClient: fromClient, max: 1 << 20} }

func TestWalkerStopsBeforeAnIllegalFrame(t *testing.T) {
	for _, fromClient := range []bool{true, false} {
		for name, bad := range rawws.Illegal(fromClient) {
			good := text("hello", fromClient)
			n, _, v := newWalker(fromClient).walk(append(bytes.Clone(good), bad...), false)
			if v == nil || v.reason != outcome.ProtocolError {
				t.Errorf("%s, from client %v: got violation %v, want protocol-error", name, fromClient, v)
			}
			if n < len(good) {
				t.Errorf("%s: the frame before it was not let through", name)
			}
		}
	}
}

func TestWalkerLetsLegalFramesThrough(t *testing.T) {
	cases := map[string][]byte{
		"empty text":    text("", true),
		"text of 125":   text(strings.Repeat("x", 125), true),
		"text of 126":   text(strings.Repeat("x", 126), true),
		"text of 65536": text(strings.Repeat("x", 65536), true),
		"invalid UTF-8": text("\xff\xfe", true),
		"fragments": bytes.Join([][]byte{rawws.Make(opText, []byte("a"), true), rawws.Make(opContinuation, nil, true),
			rawws.Make(finBit|opContinuation, []byte("b"), true)}, nil),
		"ping inside": bytes.Join([][]byte{rawws.Make(opBinary, []byte("a"), true), rawws.Make(finBit|opPing, []byte("p"), true),
			rawws.Make(finBit|opContinuation, []byte("b"), true)}, nil),
		"unsolicited pong": rawws.Make(finBit|opPong, []byte("12345678"), true),
	}
	for name, b := range cases {
		w := newWalker(true)
		n, c, v := w.walk(b, false)
		if n != len(b) || c.op != 0 || v != nil || w.rest != 0 || w.open {
			t.Errorf("%s: passed %d of %d, control %v, violation %v", name, n, len(b), c, v)
		}
	}
}

func TestWalkerStopsAtClose(t *testing.T) {
	for _, tt := range []struct {
		payload string
		code    int
	}{{"", 0}, {"\x03\xe8", 1000}, {"\x03\xe9bye", 1001}, {"\x03\xf6", 1014}, {"\x0b\xb8", 3000}, {"\x13\x87", 4999}} {
		b := rawws.Make(finBit|opClose, []byte(tt.payload), true)
		n, c, v := newWalker(true).walk(b, false)
		if n != 0 || v != nil || c != (control{opClose, len(b), tt.code}) {
			t.Errorf("Close %q: n %d, control %+v, violation %v", tt.payload, n, c, v)
		}
	}
}

func TestWalkerKnowsTheAnswerToItsOwnPing(t *testing.T) {
	w := newWalker(true)
	other := rawws.Make(finBit|opPong, []byte("whatever"), true)
	own := rawws.Make(finBit|opPong, binary.BigEndian.AppendUint64(nil, pingMark), true)
	n, c, v := w.walk(append(bytes.Clone(other), own...), false)
	if n != len(other) || c.op != opPong || c.length != len(own) || v != nil {
		t.Errorf("n %d, control %+v, violation %v", n, c, v)
	}
}

func TestWalkerHoldsBackHeadsAndControlFramesUntilTheyAreWhole(t *testing.T) {
	data := rawws.Make(finBit|opBinary, bytes.Repeat([]byte("x"), 300), true)
	for cut := range 8 {
		w := newWalker(true)
		if n, _, _ := w.walk(data[:cut], false); n != 0 {
			t.Errorf("%d bytes of a head: %d went on", cut, n)
		}
	}
	ping := rawws.Make(finBit|opPing, []byte("are you there"), true)
	for cut := range len(ping) {
		if n, _, _ := newWalker(true).walk(ping[:cut], false); n != 0 {
			t.Errorf("%d bytes of a Ping: %d went on", cut, n)
		}
	}
}

func TestWalkerLimitsMessages(t *testing.T) {
	w := &walker{fromClient: true, max: 1000}
	first := rawws.Make(opBinary, make([]byte, 600), true)
	if n, _, v := w.walk(first, false); v != nil || n != len(first) {
		t.Fatalf("first fragment: %v", v)
	}
	if _, _, v := w.walk(rawws.Make(finBit|opContinuation, make([]byte, 401), true), false); v == nil || v.reason != outcome.MessageTooBig {
		t.Errorf("1001 bytes in fragments: %v, want message-too-big", v)
	}
	w = &walker{fromClient: true, max: 1000}
	if _, _, v := w.walk(rawws.Make(finBit|opBinary, make([]byte, 1000), true), false); v != nil {
		t.Errorf("exactly the limit: %v", v)
	}
	if _, _, v := w.walk([]byte{finBit | opBinary, maskBit | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4},
		false); v == nil || v.reason != outcome.MessageTooBig {
		t.Errorf("2^63-1 bytes: %v, want message-too-big", v)
	}
}

// H07: a message may have any number of fragments, but not for nothing.
func TestEmptyFragmentFloodEndsAtTheMessageLimit(t *testing.T) {
	w := newWalker(true)
	w.walk(rawws.Make(opText, []byte("x"), true), false)
	empty := rawws.Make(opContinuation, nil, true)
	for i := range 1 << 20 {
		if _, _, v := w.walk(empty, false); v != nil {
			if v.reason != outcome.MessageTooBig {
				t.Errorf("after %d empty fragments: %v", i, v)
			}
			return
		}
	}
	t.Error("a million empty fragments in one message")
}

func TestCompressedFramesPassOnlyIfNegotiated(t *testing.T) {
	w := newWalker(true)
	w.rsv = rsv1Bit
	if _, _, v := w.walk(rawws.Make(finBit|rsv1Bit|opText, []byte("x"), true), false); v != nil {
		t.Errorf("RSV1 with permessage-deflate: %v", v)
	}
	for name, b := range map[string][]byte{
		"RSV2":                   rawws.Make(finBit|0x20|opText, []byte("x"), true),
		"RSV1 on a Ping":         rawws.Make(finBit|rsv1Bit|opPing, nil, true),
		"RSV1 on a continuation": append(rawws.Make(opText, []byte("x"), true), rawws.Make(finBit|rsv1Bit|opContinuation, nil, true)...),
	} {
		if _, _, v := w.walk(b, false); v == nil {
			t.Errorf("%s with permessage-deflate passed", name)
		}
		w.open = false
	}
}

func TestOwnFramesAreLegal(t *testing.T) {
	for _, masked := range []bool{true, false} {
		w := newWalker(masked)
		if n, _, v := w.walk(appendPing(nil, masked), false); v != nil || n == 0 {
			t.Errorf("Ping, masked %v: %v", masked, v)
		}
		b := closeFrame(3000, strings.Repeat("long ", 50), masked)
		if _, c, v := w.walk(b, false); v != nil || c.code != 3000 || c.length != len(b) {
			t.Errorf("Close, masked %v: %+v %v", masked, c, v)
		}
		if _, c, v := w.walk(closeFrame(0, "", masked), false); v != nil || c.op != opClose || c.code != 0 {
			t.Errorf("Close without code, masked %v: %+v %v", masked, c, v)
		}
	}
}

func TestWalkerCountsMessagesNotFrames(t *testing.T) {
	w := newWalker(true)
	for n, b := range [][]byte{
		rawws.Make(finBit|opPing, []byte("p"), true),
		rawws.Make(opText, []byte("a"), true),
		rawws.Make(finBit|opPong, nil, true),
		rawws.Make(finBit|opContinuation, []byte("b"), true),
		text("c", true),
		text("", true),
	} {
		if _, _, v := w.walk(b, false); v != nil {
			t.Fatal(v)
		}
		if want := [...]uint64{0, 0, 0, 1, 2, 3}[n]; w.messages != want {
			t.Errorf("after %d frames %d messages, want %d", n+1, w.messages, want)
		}
		if moved := n != 0 && n != 2; w.moved != moved {
			t.Errorf("frame %d: moved %v; control frames are no data", n+1, w.moved)
		}
		w.moved = false
	}
}

// A long payload passes through reads of any size; only between frames is rest 0.
func TestWalkerKnowsWhereAFrameEnds(t *testing.T) {
	w := newWalker(false)
	b := rawws.Make(finBit|opBinary, make([]byte, 70_000), false)
	for len(b) > 0 {
		k := min(len(b), 1000)
		if n, c, v := w.walk(b[:k], false); n != k || c.op != 0 || v != nil {
			t.Fatalf("%d of %d bytes, %+v, %v", n, k, c, v)
		}
		if b = b[k:]; w.rest != uint64(len(b)) {
			t.Fatalf("rest %d with %d bytes to come", w.rest, len(b))
		}
	}
}

func TestControlFramesDoNotCountTowardsTheMessageLimit(t *testing.T) {
	w := &walker{fromClient: true, max: 100}
	ping := rawws.Make(finBit|opPing, make([]byte, maxControl), true)
	stream := append(rawws.Make(opBinary, make([]byte, 60), true), bytes.Repeat(ping, 10)...)
	stream = append(stream, rawws.Make(finBit|opContinuation, make([]byte, 40), true)...)
	if n, _, v := w.walk(stream, false); v != nil || n != len(stream) {
		t.Errorf("%d of %d bytes: %v", n, len(stream), v)
	}
	if _, _, v := w.walk(rawws.Make(finBit|opBinary, make([]byte, 100), true), false); v != nil {
		t.Errorf("the next message: %v", v)
	}
}

func TestUnknownExtensionMayUseEveryReservedBit(t *testing.T) {
	w := newWalker(true)
	w.rsv = rsvBits
	for _, first := range []byte{finBit | 0x70 | opText, 0x10 | opBinary, 0x70 | opContinuation, finBit | 0x40 | opPing,
		finBit | opContinuation} {
		if _, _, v := w.walk(rawws.Make(first, []byte("x"), true), false); v != nil {
			t.Errorf("%#x: %v", first, v)
		}
	}
}

// FuzzWalker holds that the outcome does not depend on how the stream is cut into reads, that
// nothing is lost or made up, and that the walker stops at the end of its own words: what it lets
// through ends at a boundary or inside a payload.
func FuzzWalker(f *testing.F) {
	for _, b := range rawws.Illegal(true) {
		f.Add(b, uint8(3))
	}
	f.Add(append(text("hello", true), rawws.Make(finBit|opClose, []byte{3, 232}, true)...), uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		type result struct {
			passed   []byte
			ending   string
			messages uint64
		}
		run := func(step int) (r result) {
			w := &walker{fromClient: true, max: 1 << 16}
			var carry []byte
			for rest := stream; len(rest) > 0; {
				k := min(step, len(rest))
				b := append(carry, rest[:k]...)
				rest = rest[k:]
				n, c, v := w.walk(b, false)
				r.passed = append(r.passed, b[:n]...)
				switch {
				case v != nil:
					r.ending = v.detail
					return r
				case c.op == opClose:
					if c.length > len(b)-n || c.length > maxControl+6 {
						t.Fatalf("Close of %d bytes in %d", c.length, len(b)-n)
					}
					r.ending = "close"
					return r
				}
				if carry = bytes.Clone(b[n:]); len(carry) > maxControl+maxHead {
					t.Fatalf("%d bytes held back", len(carry))
				}
				if len(carry) > 0 && w.rest > 0 {
					t.Fatal("payload held back")
				}
			}
			r.messages = w.messages
			return r
		}
		whole, parts := run(max(len(stream), 1)), run(int(step)+1)
		if !bytes.HasPrefix(stream, whole.passed) {
			t.Fatal("what went on is not what came")
		}
		if !bytes.Equal(whole.passed, parts.passed) || whole.ending != parts.ending || whole.messages != parts.messages {
			t.Fatalf("in one piece: %d bytes, %q; in pieces of %d: %d bytes, %q", len(whole.passed), whole.ending, step+1,
				len(parts.passed), parts.ending)
		}
	})
}

// BenchmarkWalker is the walker's share of a stream, by the size of the frames in it.
func BenchmarkWalker(b *testing.B) {
	for _, size := range []int{128, 4 << 10, 64 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			stream := bytes.Repeat(rawws.Make(finBit|opBinary, make([]byte, size), true), max(1, bufSize/size))
			w := newWalker(true)
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				if n, _, v := w.walk(stream, false); n != len(stream) || v != nil {
					b.Fatal(n, v)
				}
			}
		})
	}
}
