package relay

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// Pace is how fast one side may send. What comes faster waits; then the side is not read, so that
// TCP holds it back. Control frames do not count.
type Pace struct {
	// MessagesPerSecond is how many messages may begin in a second, and MessagesBurst how many at
	// once, if that is not as many as in a second. 0: any number.
	MessagesPerSecond float64
	MessagesBurst     int
	// CountBinary reports whether binary messages count as text messages do.
	CountBinary bool
	// BytesPerSecond is how many bytes of data frames may pass in a second, and BytesBurst how
	// many at once, if that is not as many as in a second. 0: any number.
	BytesPerSecond int64
	BytesBurst     int64
}

// pace holds one way of a session to a Pace. It has no clock: the machine tells it the time.
type pace struct {
	messages, bytes *rate.Limiter // nil: not limited
	binary          bool
	step            int  // bytes that are worth a look, so that a slow pace is not one of single bytes
	paid            bool // for the message whose first frame has still to wait for its bytes
	owed            int  // bytes of a head that has passed; they are paid for with its payload

	now  time.Time
	wait time.Duration // until it is worth to ask again, if something was held back since now
}

// newPace returns nil if p limits nothing.
func newPace(p Pace) *pace {
	if p.MessagesPerSecond <= 0 && p.BytesPerSecond <= 0 {
		return nil
	}
	limiter := func(perSecond float64, burst int64) *rate.Limiter {
		if perSecond <= 0 {
			return nil
		}
		if burst <= 0 {
			burst = int64(math.Ceil(min(perSecond, math.MaxInt32)))
		}
		return rate.NewLimiter(rate.Limit(perSecond), int(burst))
	}
	q := &pace{
		messages: limiter(p.MessagesPerSecond, int64(p.MessagesBurst)),
		bytes:    limiter(float64(p.BytesPerSecond), p.BytesBurst),
		binary:   p.CountBinary,
	}
	if q.bytes != nil {
		q.step = max(q.bytes.Burst()/8, 1)
	}
	return q
}

// at tells what time it is.
func (p *pace) at(now time.Duration) { p.now, p.wait = time.Unix(0, 0).Add(now), 0 }

// begins reports whether a data frame may begin now. A message is paid for with its first frame.
func (p *pace) begins(f head) bool {
	if p.messages != nil && !p.paid && (f.op == opText || f.op == opBinary && p.binary) {
		if p.paid = p.messages.AllowN(p.now, 1); !p.paid {
			p.lacks(p.messages, 1)
			return false
		}
	}
	if p.bytes != nil {
		// More than a burst would wait for ever.
		if p.owed = min(f.head, p.bytes.Burst()-1); f.payload == 0 && !p.bytes.AllowN(p.now, p.owed) {
			p.lacks(p.bytes, p.owed)
			return false
		}
	}
	p.paid = false
	return true
}

// payload returns how many of the next n bytes of a payload may pass now.
func (p *pace) payload(n int) int {
	if p.bytes == nil {
		return n
	}
	if p.bytes.AllowN(p.now, p.owed+n) {
		p.owed = 0
		return n
	}
	there := int(p.bytes.TokensAt(p.now))
	if least := min(p.owed+n, max(p.owed+1, p.step)); there < least {
		p.lacks(p.bytes, least)
		return 0
	}
	n = there - p.owed
	p.bytes.AllowN(p.now, there)
	p.owed = 0
	return n
}

// shortest is the shortest wait: with a pace of very many messages or bytes, each look lets several
// pass.
const shortest = time.Millisecond

// lacks notes when so much may pass.
func (p *pace) lacks(l *rate.Limiter, n int) {
	missing := float64(n) - l.TokensAt(p.now)
	p.wait = max(time.Duration(math.Ceil(missing/float64(l.Limit())*float64(time.Second)))+1, shortest)
}
