package relay

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// spread decides over how many lanes the sessions are spread: as few as are needed. To wake a lane
// costs more than to pass a message on. One lane for all finds more to do each time it wakes, and
// when two wake at once, Go's scheduler wakes a thread. But no session waits for long for a lane
// that has too much to do while a processor is free.
type spread struct {
	width atomic.Int32 // lanes in use, the first ones
	then  atomic.Int64 // when weigh last looked, as lanes count time

	mu     sync.Mutex
	busy   []time.Duration // for how long each lane had worked by then
	shares []float64       // of the time since the look before, for which it had
	calm   time.Duration   // for how long one lane less would have been enough
}

const (
	// weighEvery is how often lanes are weighed, and how long one may have too much to do.
	weighEvery = 50 * time.Millisecond
	// One lane more is used when one of them works for more than fullShare of the time; one less
	// when each would work for less than idleShare of it without that one, for calmFor.
	fullShare = 0.6
	idleShare = 0.3
	calmFor   = 2 * time.Second
)

func newSpread(lanes int) *spread {
	s := &spread{busy: make([]time.Duration, lanes), shares: make([]float64, lanes)}
	s.width.Store(1)
	return s
}

// place returns which lane the session of a number belongs to.
func (s *spread) place(number uint32) int { return int(number % uint32(s.width.Load())) }

// weigh looks at what the lanes have done since it last did, if that is long enough ago. Any lane
// may call it.
func (s *spread) weigh(lanes []*lane, now time.Duration) {
	if now-time.Duration(s.then.Load()) < weighEvery || !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	passed := now - time.Duration(s.then.Load())
	if passed < weighEvery {
		return // another lane has looked just now
	}
	for i, l := range lanes {
		busy := time.Duration(l.busy.Load())
		s.shares[i] = float64(busy-s.busy[i]) / float64(passed)
		s.busy[i] = busy
	}
	s.then.Store(int64(now))
	s.adapt(s.shares, passed)
}

// adapt takes the share of some time for which each lane has worked, and changes the width.
func (s *spread) adapt(shares []float64, passed time.Duration) {
	width := int(s.width.Load())
	total := 0.0
	for _, share := range shares {
		total += share
	}
	if width > 1 && total < idleShare*float64(width-1) {
		s.calm += passed
	} else {
		s.calm = 0
	}
	switch {
	case width < len(shares) && slices.Max(shares[:width]) > fullShare:
		s.width.Store(int32(width + 1))
	case s.calm >= calmFor:
		s.width.Store(int32(width - 1))
		s.calm = 0
	}
}
