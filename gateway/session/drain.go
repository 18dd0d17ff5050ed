package session

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// Drain is how the live sessions are asked to leave.
type Drain struct {
	// Delay is for how long WebSockets are still taken, while load balancers notice that the
	// gateway is not ready.
	Delay time.Duration
	// Lead is for how long after that no session is told yet.
	Lead time.Duration
	// Spread is over how long they are told then, one after the other.
	Spread time.Duration
	// Ending is what they are told.
	Ending *outcome.Ending
	// Final reports whether the drain cannot be undone.
	Final bool
}

// drain is a Drain that lasts. Its fields are guarded by the registry's lock.
type drain struct {
	Drain
	begun time.Time
	timer *time.Timer // of the next step
	first time.Time   // when the first session is told
	turns []*Session  // who is to be told, in this order
	told  int         // how many of them were
}

// Drain ends all sessions, in random order and evenly spread, so that their clients do not come
// back all at once. It does not wait, and reports whether it has begun. A drain that lasts
// already goes on as it is; but one that can be undone gives way to a final one, which counts the
// delay from the beginning of the first and tells those who are left.
func (r *Registry) Drain(d Drain) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := &drain{Drain: d, begun: time.Now()}
	if before := r.drain; before != nil {
		if before.Final || !d.Final {
			return false
		}
		before.timer.Stop()
		next.begun = before.begun
	}
	r.drain = next
	if wait := time.Until(next.begun.Add(d.Delay)); wait > 0 && !r.draining {
		next.timer = time.AfterFunc(wait, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.refuse(next)
		})
	} else {
		r.refuse(next)
	}
	return true
}

// Undrain takes a drain back for those who were not told yet, and reports whether no drain lasts:
// a final one stays.
func (r *Registry) Undrain() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed || r.drain != nil && r.drain.Final:
		return false
	case r.drain != nil:
		r.drain.timer.Stop()
		r.drain, r.draining = nil, false
	}
	return true
}

// Leaving reports whether a drain lasts, from its very beginning.
func (r *Registry) Leaving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drain != nil || r.closed
}

// refuse takes no new WebSocket from now on, and gives each session its turn. r.mu is held.
func (r *Registry) refuse(d *drain) {
	if r.drain != d {
		return // undone, or another has taken its place
	}
	r.draining = true
	d.turns = make([]*Session, 0, len(r.live))
	for s := range r.live {
		d.turns = append(d.turns, s)
	}
	rand.Shuffle(len(d.turns), func(i, j int) { d.turns[i], d.turns[j] = d.turns[j], d.turns[i] })
	d.first = time.Now().Add(d.Lead)
	d.timer = time.AfterFunc(d.Lead, func() { r.tell(d) })
	r.noticeIfNone()
}

// tell ends the sessions whose turn has come.
func (r *Registry) tell(d *drain) {
	r.mu.Lock()
	var due []*Session
	if r.drain == d {
		due = r.due(d)
	}
	r.mu.Unlock()
	for _, s := range due {
		s.End(d.Ending)
	}
}

// due returns the sessions whose turn has come, and sets the timer of the next turn. The last turn
// is that of the plain requests which came meanwhile. r.mu is held.
func (r *Registry) due(d *drain) (due []*Session) {
	now, next, from := time.Since(d.first), d.Spread, d.told
	for ; d.told < len(d.turns); d.told++ {
		if at := d.Spread * time.Duration(d.told) / time.Duration(len(d.turns)); at > now {
			next = at
			break
		}
	}
	due = d.turns[from:d.told]
	if now < d.Spread {
		d.timer = time.AfterFunc(next-now, func() { r.tell(d) })
		return due
	}
	d.turns, d.told = nil, 0
	for s := range r.live {
		due = append(due, s)
	}
	return due
}

// Wait returns when no session is left and no WebSocket is taken any more, or when ctx ends.
func (r *Registry) Wait(ctx context.Context) {
	for !r.drained() {
		select {
		case <-r.left:
		case <-ctx.Done():
			return
		}
	}
}

// drained reports whether no session is left and no WebSocket is taken any more.
func (r *Registry) drained() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining && len(r.live) == 0
}

// noticeIfNone wakes Wait if no session is left. r.mu is held.
func (r *Registry) noticeIfNone() {
	if len(r.live) > 0 {
		return
	}
	select {
	case r.left <- struct{}{}:
	default:
	}
}
