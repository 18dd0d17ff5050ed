package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// A schedule is a list of choices. What happens to a session follows from it alone: what the sides
// say and in which pieces, what their systems take, when they stall, hang up or break, when the
// session is ended, and how time goes by. Choices that are left out are 0.
type schedule []byte

// newSchedule returns the schedule of a seed.
func newSchedule(seed uint64) schedule {
	src := rand.New(rand.NewPCG(seed, 12))
	s := make(schedule, 16+src.IntN(300))
	for i := range s {
		s[i] = byte(src.Uint32())
	}
	return s
}

// world plays a session on a machine, without sockets and without a clock.
type world struct {
	m       machine
	choices schedule
	now     time.Duration
	sides   [2]*fake // client, agent
	fault   error    // the first broken promise
	asked   int      // how often the machine has asked what a side's system still holds
}

// fake is one side.
type fake struct {
	w         *world
	from, to  *way
	masked    bool
	script    []byte   // what it has still to send
	frames    [][]byte // all that it has sent or will, whole
	open      bool     // a fragmented message of its own is under way
	room      int      // bytes that its system takes
	got       []byte   // what it has got
	queue     []byte   // what waits for room
	reset     bool     // writes to it fail
	hung      bool     // it closes its socket after its script
	shut      bool     // it was told that nothing more comes
	countable int      // bytes written to it before the end
	written   []piled  // when they were
	pace      Pace     // how fast the other side may send

	gone time.Duration // when the machine was told that it has hung up; 0: it was not
}

// piled is that a side has been written all its bytes up to an offset by a time.
type piled struct {
	offset int
	at     time.Duration
	free   bool // they need not keep a pace, because the side has sent its Close
}

func (w *world) choose(n int) int {
	if len(w.choices) == 0 {
		return 0
	}
	c := w.choices[0]
	w.choices = w.choices[1:]
	return int(c) % n
}

func (w *world) broken(format string, args ...any) {
	if w.fault == nil {
		w.fault = fmt.Errorf(format, args...)
	}
}

const notice = "the token will expire"

func (w *world) sink(x *way) *fake {
	if x == &w.m.up {
		return w.sides[1]
	}
	return w.sides[0]
}

// write is the machine's. What goes unseen is written here as well.
func (w *world) write(x *way, b []byte) (bool, error) {
	f := w.sink(x)
	if f.reset {
		return false, errors.New("reset")
	}
	if f.shut {
		w.broken("written after it was shut")
	}
	if w.m.ending == nil {
		f.countable += len(b)
		f.written = append(f.written, piled{f.countable, w.now, w.m.first == x.other})
	}
	k := 0
	if len(f.queue) == 0 {
		k = min(f.room, len(b))
		f.room -= k
		f.got = append(f.got, b[:k]...)
	}
	f.queue = append(f.queue, b[k:]...)
	return len(f.queue) > 0, nil
}

// shut is the machine's.
func (w *world) shut(x *way) {
	f := w.sink(x)
	if f.shut || len(f.queue) > 0 {
		w.broken("shut twice, or before all was out")
	}
	f.shut = true
}

// unsent is the machine's.
func (w *world) unsent(x *way) (acked, left int64) {
	f := w.sink(x)
	w.asked++
	return int64(len(f.got)), int64(len(f.queue))
}

// says adds a frame to what a side has to send.
func (f *fake) says() {
	payload := bytes.Repeat([]byte{'a' + byte(f.w.choose(26))}, f.w.choose(9)*f.w.choose(9))
	var frame []byte
	switch f.w.choose(24) {
	case 0, 1, 2, 3, 4, 5, 6:
		first := byte(rawws.Fin | rawws.Text)
		if f.open {
			first = rawws.Fin | rawws.Continuation
		}
		f.open = false
		frame = rawws.Make(first, payload, f.masked)
	case 7, 8, 9:
		first := byte(rawws.Binary)
		if f.open {
			first = rawws.Continuation
		}
		f.open = true
		frame = rawws.Make(first, payload, f.masked)
	case 10:
		frame = rawws.Make(rawws.Fin|rawws.Ping, []byte("ping"), f.masked)
	case 11:
		frame = rawws.Make(rawws.Fin|rawws.Pong, []byte("pong"), f.masked)
	case 12, 13, 14, 15:
		frame = rawws.Make(rawws.Fin|rawws.Pong, []byte(ownPing), f.masked)
	case 16:
		first := byte(rawws.Fin | rawws.Binary)
		if f.open {
			first = rawws.Fin | rawws.Continuation
		}
		f.open = false
		frame = rawws.Make(first, bytes.Repeat([]byte("x"), 70_000), f.masked)
	case 17:
		frame = rawws.MakeClose(1000+f.w.choose(4)*1000, "bye", f.masked)
		if f.w.choose(2) == 0 {
			frame = rawws.MakeClose(0, "", f.masked)
		}
	case 18:
		frame = rawws.Make(rawws.Fin|7, payload, f.masked)
	case 19:
		frame = rawws.Head(nil, rawws.Fin|rawws.Binary, 1<<20, nil)
		if f.masked {
			frame = rawws.Head(nil, rawws.Fin|rawws.Binary, 1<<20, []byte{1, 2, 3, 4})
		}
	default:
		return
	}
	f.script = append(f.script, frame...)
	f.frames = append(f.frames, frame)
}

// comes delivers a piece of what a side has to send, or the end of its stream.
func (f *fake) comes(most int) {
	m := &f.w.m
	if !m.reads(f.from, f.w.now) {
		return
	}
	if len(f.script) == 0 {
		if f.hung {
			m.gone(f.from, "", f.w.now)
		}
		return
	}
	if n := m.unseen(f.from); n > 0 && f.w.choose(2) == 0 {
		k := min(n, len(f.script), most)
		full, err := f.w.write(f.from, f.script[:k])
		f.script = f.script[k:]
		m.went(f.from, k, full, err, f.w.now)
		return
	}
	if m.streams(f.from) && f.w.choose(2) == 0 {
		if most = min(most, m.room(f.from)-len(f.from.carry)); most <= 0 {
			f.w.broken("no room after %d bytes that are carried", len(f.from.carry))
			return
		}
	}
	k := min(len(f.script), most)
	b := append(slices.Clone(f.from.carry), f.script[:k]...)
	f.script = f.script[k:]
	m.came(f.from, b, f.w.now)
	if n := len(f.from.carry); n > maxHead+maxControl && !f.from.held {
		f.w.broken("%d bytes are carried", n)
	}
}

// sends delivers bytes at once.
func (f *fake) sends(b []byte) {
	f.w.m.came(f.from, append(slices.Clone(f.from.carry), b...), f.w.now)
}

// takes lets a side's system take bytes that have waited.
func (f *fake) takes(most int) {
	if f.reset || f.w.m.over {
		return
	}
	f.room += most
	k := min(f.room, len(f.queue))
	if k == 0 {
		return
	}
	f.room -= k
	f.got = append(f.got, f.queue[:k]...)
	f.queue = f.queue[k:]
	f.w.m.took(f.to, len(f.queue) > 0, f.w.now)
}

// passes lets time go by.
func (w *world) passes(d time.Duration) {
	for end := w.now + d; ; {
		next := w.m.next()
		if next > end {
			w.now = end
			return
		}
		w.now = max(w.now, next)
		w.m.tick(w.now)
		for _, f := range w.sides {
			if x := f.from; f.gone > 0 && w.now >= f.gone+closeGrace && x.held && x.walk.pace != nil && w.m.ending == nil {
				w.broken("what a side had to say that hung up at %v waits at %v", f.gone, w.now)
			}
		}
		if after := w.m.next(); after <= w.now {
			w.broken("the next look is at %v, and it is %v", after, w.now)
			return
		}
	}
}

// pace chooses how fast a side may send.
func (w *world) pace() (p Pace) {
	switch w.choose(6) {
	case 0:
		p = Pace{MessagesPerSecond: 20, MessagesBurst: 1 + w.choose(3), CountBinary: w.choose(2) == 0}
	case 1:
		p = Pace{BytesPerSecond: 100_000, BytesBurst: int64(50 + w.choose(100)*w.choose(100))}
	case 2:
		p = Pace{MessagesPerSecond: 30, BytesPerSecond: 200_000}
	}
	return p
}

// pending reports whether something waits for its pace, or to be read.
func (w *world) pending() bool {
	return slices.ContainsFunc(w.sides[:], func(f *fake) bool { return f.from.held || len(f.script) > 0 && f.from.src == speaking })
}

// play runs a schedule, and returns the first promise that the machine has broken.
func (s schedule) play() error {
	w := &world{choices: s}
	rules := Rules{
		MaxMessage: 1 << 19, PingInterval: 25 * time.Second, StallTimeout: 30 * time.Second,
		closeGrace: closeGrace, replyWait: replyWait, linger: linger, long: long,
	}
	if w.choose(2) == 0 {
		rules.long = 1
	}
	if w.choose(3) == 0 {
		rules.IdleTimeout = time.Minute
	}
	if w.choose(4) == 0 {
		rules.PingInterval = 0
	}
	paces := [2]Pace{w.pace(), w.pace()}
	rules.FromClient, rules.FromAgent = paces[0], paces[1]
	w.m.init(rules, 0, w, 0)
	w.m.up.jitter, w.m.down.jitter, w.m.grid = 0, 0, 1
	w.sides = [2]*fake{
		{w: w, from: &w.m.up, to: &w.m.down, masked: true, room: 1 << 20, pace: paces[1]},
		{w: w, from: &w.m.down, to: &w.m.up, room: 1 << 20, pace: paces[0]},
	}
	for len(w.choices) > 0 && w.fault == nil && !w.m.over {
		f := w.sides[w.choose(2)]
		switch w.choose(16) {
		case 0, 1, 2:
			f.says()
		case 3, 4, 5:
			f.comes(1 + w.choose(40))
		case 6, 7:
			f.comes(1 << 16)
		case 8, 9:
			f.takes(w.choose(3000))
		case 10:
			if f.room = 0; w.choose(2) == 0 {
				f.takes(1 << 20)
			}
		case 11:
			if w.choose(4) == 0 {
				f.hung = true
			}
			if f.hung && f.gone == 0 && w.choose(2) == 0 { // its system tells so at once
				f.gone = max(w.now, 1)
				w.m.hung(f.from, w.choose(2) == 0, w.now)
			}
		case 12:
			if w.choose(8) == 0 {
				f.reset = true
				if len(f.queue) > 0 {
					f.queue = nil
					w.m.failed(f.to, w.now)
				}
			}
		case 13:
			if w.choose(12) == 0 {
				w.m.end(outcome.End(outcome.Drain, ""), w.now)
			}
			if w.choose(6) == 0 {
				w.m.notify(notice, w.now)
			}
		case 14:
			w.passes(time.Duration(w.choose(100)) * time.Millisecond)
		case 15:
			w.passes(time.Duration(w.choose(16)) * time.Second)
		}
	}
	// All that was said arrives in its time, and all that was written is taken; then both hang up.
	for n := 0; n < 3 || n < 1000 && w.m.ending == nil && w.pending(); n++ {
		for _, f := range w.sides {
			w.sides[0].takes(1 << 20)
			w.sides[1].takes(1 << 20)
			for len(f.script) > 0 && w.m.reads(f.from, w.now) && w.fault == nil {
				f.comes(1 << 16)
				w.sides[0].takes(1 << 20)
				w.sides[1].takes(1 << 20)
			}
		}
		w.passes(50 * time.Millisecond)
	}
	before := w.m.ending
	for _, f := range w.sides {
		if before == nil && len(f.script) > 0 && f.from.src == speaking {
			w.broken("%d bytes do not get through", len(f.script))
		}
		f.hung = true
		f.takes(1 << 20)
	}
	for range 20 {
		if w.m.over {
			break
		}
		for _, f := range w.sides {
			f.comes(1 << 16)
			f.takes(1 << 20)
		}
		w.passes(time.Second)
	}
	if !w.m.over || w.m.ending == nil {
		w.broken("it is not over: ending %+v, up %+v, down %+v", w.m.ending, w.m.up, w.m.down)
	}
	if w.fault == nil {
		w.sides[0].check(w.sides[1], before)
		w.sides[1].check(w.sides[0], before)
	}
	return w.fault
}

// check compares what a side has got with what the other has sent.
func (f *fake) check(from *fake, before *outcome.Ending) {
	stream := append(slices.Clone(f.got), f.queue...)
	sent := from.frames
	data := bytes.NewReader(stream)
	r := bufio.NewReaderSize(data, 16)
	unread := func() int { return data.Len() + r.Buffered() }
	bill := newBill(f)
	counted, closed, open := 0, false, false
	messages := uint64(0)
	for unread() > 0 {
		begun := len(stream) - unread()
		got, err := rawws.Read(r)
		if err != nil { // a frame that has not ended
			rest := stream[begun:]
			for len(sent) > 0 && !bytes.HasPrefix(sent[0], rest) && isOwnPong(sent[0]) {
				sent = sent[1:]
			}
			if !f.reset && (len(sent) == 0 || !bytes.HasPrefix(sent[0], rest)) {
				f.w.broken("%d bytes at the end that were not sent", len(rest))
			}
			counted += max(0, min(len(stream), f.countable)-begun)
			own := rawws.Make(rawws.Fin|rawws.Text, []byte(notice), false)
			if len(rest) > 1 && rest[0]&0x0f < opClose && !bytes.HasPrefix(own, rest) {
				bill.pay(rest[0], begun, len(stream))
			}
			break
		}
		end := len(stream) - unread()
		frame := stream[begun:end]
		if closed {
			f.w.broken("%v after a Close", got)
			return
		}
		switch {
		case got.Op() == rawws.Ping && string(got.Payload) == ownPing:
			continue
		case got.Op() == rawws.Text && string(got.Payload) == notice:
			if open {
				f.w.broken("the notice stands in a message")
			}
			continue
		case got.Op() == rawws.Close && f.w.m.ending.Reason != outcome.Closed &&
			!slices.ContainsFunc(sent, func(b []byte) bool { return bytes.Equal(b, frame) }):
			closed = true
			continue
		}
		for len(sent) > 0 && !bytes.Equal(sent[0], frame) && isOwnPong(sent[0]) {
			sent = sent[1:]
		}
		if len(sent) == 0 || !bytes.Equal(sent[0], frame) {
			f.w.broken("got %v, which is not what was sent", got)
			return
		}
		sent = sent[1:]
		closed = got.Op() == rawws.Close
		if got.Op() < rawws.Close {
			open = !got.Fin()
			bill.pay(frame[0], begun, end)
		}
		counted += max(0, min(end, f.countable)-begun)
		if got.Op() < rawws.Close && got.Fin() && end <= f.countable {
			messages++
		}
	}
	if !f.reset && (f.to.bytes != uint64(counted) || f.to.messages != messages) {
		f.w.broken("%d bytes and %d messages are counted, %d and %d were written before the end",
			f.to.bytes, f.to.messages, counted, messages)
	}
	if f.to.dst == told && !closed && !f.reset {
		f.w.broken("it was told, and has no Close")
	}
	if f.to.dst == listening && f.to.walk.rest == 0 && !f.reset {
		f.w.broken("it was not told")
	}
	if before == nil && f.w.m.first == nil && !f.reset && !from.reset { // nothing but the hanging up has ended it
		for _, b := range sent {
			if !isOwnPong(b) {
				f.w.broken("%d frames are missing", len(sent))
				return
			}
		}
	}
}

// bill checks that what a side was written kept the pace of the other: a token bucket each, filled
// by the time between two pieces.
type bill struct {
	f               *fake
	messages, bytes float64 // what is left in the buckets
	at              time.Duration
}

func newBill(f *fake) *bill {
	p := &f.pace
	if p.MessagesBurst == 0 {
		p.MessagesBurst = int(p.MessagesPerSecond)
	}
	if p.BytesBurst == 0 {
		p.BytesBurst = p.BytesPerSecond
	}
	return &bill{f: f, messages: float64(p.MessagesBurst), bytes: float64(p.BytesBurst)}
}

// pay takes a data frame that lies at [begun, end) of what was written out of the buckets.
func (b *bill) pay(first byte, begun, end int) {
	p, op := b.f.pace, first&0x0f
	message := op == opText || op == opBinary && p.CountBinary
	from := begun
	for _, w := range b.f.written {
		if w.offset <= from || from >= end {
			continue
		}
		if w.free {
			return
		}
		passed := (w.at - b.at).Seconds()
		b.messages = min(b.messages+passed*p.MessagesPerSecond, float64(p.MessagesBurst))
		b.bytes = min(b.bytes+passed*float64(p.BytesPerSecond), float64(p.BytesBurst))
		b.at = w.at
		if message && from == begun {
			b.messages--
		}
		b.bytes -= float64(min(w.offset, end) - from)
		from = w.offset
		if p.MessagesPerSecond > 0 && b.messages < -1e-3 || p.BytesPerSecond > 0 && b.bytes < -maxHead {
			b.f.w.broken("at %v the pace %+v is exceeded by %f messages and %f bytes", w.at, p, -b.messages, -b.bytes)
			return
		}
	}
}

func isOwnPong(frame []byte) bool {
	f, err := rawws.Read(bufio.NewReader(bytes.NewReader(frame)))
	return err == nil && f.Op() == rawws.Pong && string(f.Payload) == ownPing
}

// safely turns a panic into an error.
func (s schedule) safely() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = mistakenError{v}
		}
	}()
	return s.play()
}

type mistakenError struct{ v any }

func (e mistakenError) Error() string { return mistaken(e.v).Detail }

// shrink takes choices away as long as the schedule still fails.
func (s schedule) shrink() schedule {
	for size := len(s) / 2; size > 0; {
		smaller := false
		for at := 0; at+size <= len(s); {
			if t := slices.Delete(slices.Clone(s), at, at+size); t.safely() != nil {
				s, smaller = t, true
			} else {
				at += size
			}
		}
		if !smaller {
			size /= 2
		}
	}
	for i := range s { // and makes what is left plain
		t := slices.Clone(s)
		if t[i] = 0; t.safely() != nil {
			s = t
		}
	}
	return s
}

// TestMachineKeepsItsPromisesOnEverySchedule: the bytes are equal and in order, a Close stands at
// a frame boundary and is the last frame, the notice stands between messages, every side that can
// be told is told, every session ends, and what is counted was written.
func TestMachineKeepsItsPromisesOnEverySchedule(t *testing.T) {
	schedules := uint64(30_000)
	if n, err := strconv.ParseUint(os.Getenv("OMNIA_SCHEDULES"), 10, 64); err == nil {
		schedules = n
	}
	first := rand.Uint64()
	for seed := first; seed < first+schedules; seed++ {
		if err := newSchedule(seed).safely(); err != nil {
			small := newSchedule(seed).shrink()
			t.Fatalf("seed %d: %v\nthe shortest schedule that fails: %v\nbecause: %v", seed, err, []byte(small), small.safely())
		}
	}
}

// A side that floods when nothing of it goes on is read slowly: after its Close, also before the
// answer, and after the end.
func TestFloodThatGoesNowhereIsReadSlowly(t *testing.T) {
	const lasts = time.Second // less than linger: after that, nothing is read
	for _, tt := range []struct {
		name string
		end  func(f, other *fake)
	}{
		{"after a Close without answer", func(f, _ *fake) { f.sends(rawws.MakeClose(1000, "", f.masked)) }},
		{"after an answered Close", func(f, other *fake) {
			f.sends(rawws.MakeClose(1000, "", f.masked))
			other.sends(rawws.MakeClose(1000, "", other.masked))
		}},
		{"after a violation", func(f, _ *fake) { f.sends(rawws.Make(rawws.Fin|7, nil, f.masked)) }},
		{"after the end", func(f, _ *fake) { f.w.m.end(outcome.End(outcome.Drain, ""), 0) }},
	} {
		for n, side := range []string{"client", "agent"} {
			t.Run(tt.name+", of the "+side, func(t *testing.T) {
				w := &world{}
				w.m.init(Rules{MaxMessage: 1 << 40, StallTimeout: stall,
					closeGrace: closeGrace, replyWait: replyWait, linger: linger}, 0, w, 0)
				w.sides = [2]*fake{
					{w: w, from: &w.m.up, to: &w.m.down, masked: true, room: 1 << 30},
					{w: w, from: &w.m.down, to: &w.m.up, room: 1 << 30},
				}
				f, other := w.sides[n], w.sides[1-n]
				tt.end(f, other)
				flood := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, bufSize), f.masked)
				read := 0
				for w.now < lasts {
					for w.m.reads(f.from, w.now) && read < 1<<30 {
						f.sends(flood)
						read += len(flood)
					}
					w.passes(time.Millisecond)
				}
				if read == 0 || read > 2<<20 {
					t.Errorf("%d bytes were read in %s", read, lasts)
				}
			})
		}
	}
}

// Payload that goes unseen is a sign of life of its source, and is waited for like any other.
func TestUnseenPayloadCountsAsWhatIsRead(t *testing.T) {
	w, client, agent := newWorld(t, Rules{PingInterval: 25 * time.Second, IdleTimeout: 20 * time.Second})
	frame := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, 10*long), false)
	agent.say(frame[:maxHead])
	slides := func(n int, full bool) {
		if w.m.unseen(agent.from) < n {
			t.Fatalf("%d bytes may go unseen, want %d", w.m.unseen(agent.from), n)
		}
		w.m.went(agent.from, n, full, nil, w.now)
	}
	for range 5 {
		w.passes(15 * time.Second)
		slides(long, false)
		client.sends(rawws.Make(rawws.Fin|rawws.Pong, nil, true))
	}
	if w.m.ending != nil {
		t.Fatalf("ended as %+v", w.m.ending)
	}
	slides(long, true)
	if w.m.reads(agent.from, w.now) {
		t.Error("the agent is read while the client takes nothing")
	}
	w.m.rules.IdleTimeout, w.m.rules.PingInterval = 0, 0
	w.passes(61 * time.Second) // the first look finds that the client has taken what came before
	w.ended(t, outcome.DeadPeer, outcome.Client, 3008, "takes no bytes")
	if n := uint64(maxHead + 6*long); w.m.down.bytes != n {
		t.Errorf("%d bytes are counted, want %d", w.m.down.bytes, n)
	}
}

func TestOnlyLongPayloadGoesUnseen(t *testing.T) {
	short := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, long-1), true)
	whole := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, long), true)
	for _, tt := range []struct {
		name   string
		rules  Rules
		said   []byte
		end    func(*world)
		unseen int
		room   int // 0: as much as ever
	}{
		{"a short frame", Rules{}, short[:maxHead], nil, 0, 0},
		{"a long frame", Rules{}, whole[:maxHead], nil, long - maxHead + 8, 0},
		{"little of a long frame", Rules{}, whole[:len(whole)-long/2], nil, 0, long/2 + 256},
		{"after a long frame", Rules{}, whole, nil, 0, 256},
		{"after a long frame and a Ping", Rules{}, append(bytes.Clone(whole), rawws.Make(rawws.Fin|rawws.Ping, nil, true)...), nil, 0, 256},
		{"after a long frame and a short one", Rules{}, append(bytes.Clone(whole), short...), nil, 0, 0},
		{"with a pace", Rules{FromClient: Pace{BytesPerSecond: 1 << 40}}, whole[:maxHead], nil, 0, 0},
		{"to a sink that is dead", Rules{}, whole[:maxHead], func(w *world) { w.m.failed(&w.m.up, w.now) }, 0, 0},
		{"when the session has ended", Rules{}, whole[:maxHead],
			func(w *world) { w.m.end(outcome.End(outcome.Drain, ""), w.now) }, long - maxHead + 8, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, client, _ := newWorld(t, tt.rules)
			client.sends(tt.said)
			if tt.end != nil {
				tt.end(w)
			}
			if n := w.m.unseen(client.from); n != tt.unseen {
				t.Errorf("%d bytes, want %d", n, tt.unseen)
			}
			switch {
			case tt.unseen > 0:
			case w.m.streams(client.from) != (tt.room > 0):
				t.Errorf("it streams: %t", w.m.streams(client.from))
			case tt.room > 0 && w.m.room(client.from) != tt.room:
				t.Errorf("room for %d bytes, want %d", w.m.room(client.from), tt.room)
			}
		})
	}
}

// FuzzMachine looks for schedules that a random choice does not find.
func FuzzMachine(f *testing.F) {
	for seed := range uint64(8) {
		f.Add([]byte(newSchedule(seed)))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		if err := schedule(s).play(); err != nil {
			t.Fatal(err)
		}
	})
}
