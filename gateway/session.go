package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// session is one WebSocket connection, from the moment the caller was admitted until its log line.
type session struct {
	id       string
	route    string // its path in the configuration
	issuer   string
	subject  string
	remote   string     // host:port of the peer
	addr     netip.Addr // of the client, as limits see it
	start    time.Time
	deadline time.Time // when the caller's right to it ends; zero: never

	mu     sync.Mutex
	relay  conn            // nil until the agent has answered
	ending *outcome.Ending // why it must not start
	expiry *time.Timer

	holds bool // a place under the limits; guarded by the lock of sessions
}

// conn is what moves a session's bytes.
type conn interface {
	End(*outcome.Ending)
	Cut()
	Traffic() outcome.Traffic
}

// user is whose sessions are counted together.
type user struct{ issuer, subject string }

// end ends the session for a reason, from any goroutine, and does not wait. Only the first reason counts.
func (s *session) end(r outcome.Reason) {
	e := outcome.End(r, "")
	s.mu.Lock()
	relay := s.relay
	if relay == nil && s.ending == nil {
		s.ending = e
	}
	s.mu.Unlock()
	if relay != nil {
		relay.End(e)
	}
}

// begin gives the session its relay; a reason when it has been ended before.
func (s *session) begin(r conn) *outcome.Ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relay = r
	return s.ending
}

// counts are what has moved so far, in from the client and out to it.
func (s *session) counts() (c outcome.Traffic) {
	s.mu.Lock()
	r := s.relay
	s.mu.Unlock()
	if r == nil {
		return outcome.Traffic{}
	}
	return r.Traffic()
}

// sessions is the registry of live connections. Whatever ends sessions (drain, expiry, limits) goes through it; nothing is written to a
// network while its lock is held.
type sessions struct {
	limits config.Limits

	mu       sync.Mutex
	live     map[*session]struct{}
	places   int // taken, in total, and by whom
	users    map[user]int
	addrs    map[netip.Addr]int
	draining bool
	empty    chan struct{}   // closed when draining and none is left
	ended    outcome.Traffic // of sessions that are over
	opened   uint64          // sessions so far
}

func newSessions(l config.Limits) *sessions {
	return &sessions{limits: l, live: map[*session]struct{}{}, users: map[user]int{}, addrs: map[netip.Addr]int{}, empty: make(chan struct{})}
}

// add registers s, or says why it may not be: under one lock, so that no limit can be overrun and nobody slips in during a drain.
func (l *sessions) add(s *session) *outcome.Refusal {
	s.id = newID()
	u := user{s.issuer, s.subject}
	l.mu.Lock()
	defer l.mu.Unlock()
	over := func(n, limit int) bool { return limit > 0 && n >= limit }
	switch {
	case l.draining:
		return &outcome.Refusal{Reason: outcome.Drain}
	case over(l.places, l.limits.MaxConnections):
		return &outcome.Refusal{Reason: outcome.TooManyConnections}
	case s.subject != "" && over(l.users[u], l.limits.MaxConnectionsPerUser):
		return &outcome.Refusal{Reason: outcome.TooManyUserConnections}
	case over(l.addrs[s.addr], l.limits.MaxConnectionsPerIP):
		return &outcome.Refusal{Reason: outcome.TooManyAddrConnections}
	}
	l.live[s] = struct{}{}
	l.opened++
	s.holds = true
	l.places++
	l.users[u]++
	l.addrs[s.addr]++
	if !s.deadline.IsZero() {
		s.expiry = time.AfterFunc(time.Until(s.deadline), func() { s.end(outcome.Expired) })
	}
	return nil
}

// free gives the place of s to others, at the latest when s is removed. Whoever is told that a session is over, by an answer or by a log
// line, may count on it.
func (l *sessions) free(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(s)
}

// release is free, with the lock held.
func (l *sessions) release(s *session) {
	if !s.holds {
		return
	}
	s.holds = false
	l.places--
	u := user{s.issuer, s.subject}
	if l.users[u]--; l.users[u] == 0 {
		delete(l.users, u)
	}
	if l.addrs[s.addr]--; l.addrs[s.addr] == 0 {
		delete(l.addrs, s.addr)
	}
}

// remove forgets s: a drain does not wait for it any more. Its traffic stays counted.
func (l *sessions) remove(s *session) {
	if s.expiry != nil {
		s.expiry.Stop()
	}
	moved := s.counts()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.live, s)
	l.release(s)
	l.ended.Add(moved)
	if l.draining && len(l.live) == 0 {
		close(l.empty)
	}
}

// list is who is connected, longest first.
func (l *sessions) list() []*session {
	l.mu.Lock()
	all := make([]*session, 0, len(l.live))
	for s := range l.live {
		all = append(all, s)
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b *session) int { return a.start.Compare(b.start) })
	return all
}

// totals are how many sessions are live and all traffic there ever was.
func (l *sessions) totals() (live int, t outcome.Traffic) {
	l.mu.Lock()
	t = l.ended
	all := make([]*session, 0, len(l.live))
	for s := range l.live {
		all = append(all, s)
	}
	l.mu.Unlock()
	for _, s := range all {
		t.Add(s.counts())
	}
	return len(all), t
}

// sofar is how many sessions there ever were, and how many of them are live.
func (l *sessions) sofar() (opened, live uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opened, uint64(len(l.live))
}

// refuse stops taking new sessions, for good.
func (l *sessions) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return
	}
	l.draining = true
	if len(l.live) == 0 {
		close(l.empty)
	}
}

func (l *sessions) refusing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draining
}

// drain ends all sessions, in random order and spread evenly over the window, so that their clients do not come back all at once. The
// first waits for lead, in which a load balancer can notice that the gateway is not ready. It returns when none is left, or when ctx ends.
func (l *sessions) drain(ctx context.Context, lead, window time.Duration) {
	l.refuse()
	all := l.list()
	mrand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	start := time.Now().Add(lead)
	for i, s := range all {
		at := start.Add(window * time.Duration(i) / time.Duration(len(all)))
		select {
		case <-time.After(time.Until(at)):
		case <-l.empty:
			return
		case <-ctx.Done():
			return
		}
		s.end(outcome.Drain)
	}
	select {
	case <-l.empty:
	case <-ctx.Done():
	}
}

// cut ends what is left without waiting for anybody, and returns when nothing is.
func (l *sessions) cut() {
	l.refuse()
	for _, s := range l.list() {
		s.end(outcome.Drain)
		s.mu.Lock()
		r := s.relay
		s.mu.Unlock()
		if r != nil {
			r.Cut()
		}
	}
	<-l.empty
}

// newID is a name for a session that nobody can guess.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
