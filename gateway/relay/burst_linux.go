package relay

import "time"

// burst follows what a side sends, to find an answer that comes in many small pieces, as agents
// write them. To pass each piece on at once costs a waking and three system calls; gathered for a
// moment they cost that once, and the answer is not later for it, because the processor has more
// time for those who write and read it. The first pieces are never gathered, nor is what comes in
// turns (a message, its answer, a message), nor a stream of large pieces.
type burst struct {
	last   time.Duration // when the side was last read
	pieces int           // small ones without a pause, up to then
}

const (
	burstGap   = 200 * time.Microsecond // a longer pause ends a burst
	burstPiece = 16 << 10               // bytes; as many at once are no small piece
	burstFrom  = 4                      // pieces, from which on they are gathered
	gatherFor  = 50 * time.Microsecond  // how long, without what the system adds; about as much again
)

// read takes note of n bytes that the side has sent, and reports whether they are part of a burst.
func (b *burst) read(n int, now time.Duration) bool {
	if n >= burstPiece || now-b.last >= burstGap {
		b.pieces = 0
	}
	b.pieces++
	b.last = now
	return b.pieces >= burstFrom
}

// end ends the burst: the other side has spoken.
func (b *burst) end() { b.pieces = 0 }
