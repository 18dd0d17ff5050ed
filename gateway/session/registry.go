package session

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Registry is all live sessions. Its methods may be called from any goroutine.
type Registry struct {
	mu       sync.Mutex
	live     map[*Session]struct{}
	callers  map[user]map[*Session]struct{} // live, of those who have a subject
	places   [kinds]places
	drain    *drain          // the drain that lasts; nil: none
	draining bool            // no new WebSocket is taken
	closed   bool            // no new session of any kind is taken
	ended    outcome.Traffic // of sessions that are over
	opened   uint64          // sessions so far

	left chan struct{} // has room for one notice that no session is left
}

// places counts the sessions of one kind that hold a place under its limits.
type places struct {
	taken int
	users map[user]int
	addrs map[netip.Addr]int
}

// user is whose sessions are counted, and renewed, together.
type user struct{ issuer, subject string }

// limits bound the places of one kind; 0 is no limit.
type limits struct{ total, perUser, perIP int }

// New returns an empty registry.
func New() *Registry {
	r := &Registry{live: map[*Session]struct{}{}, callers: map[user]map[*Session]struct{}{}, left: make(chan struct{}, 1)}
	for k := range r.places {
		r.places[k] = places{users: map[user]int{}, addrs: map[netip.Addr]int{}}
	}
	return r
}

// Judge tells why a session may no longer be, or nil. It is a pure question, asked under locks.
type Judge func(policy.Case) *outcome.Refusal

// Deadline tells when the right to a session ends; zero: never. It is a pure question, asked under
// locks.
type Deadline func(policy.Case) time.Time

// Add registers s, or returns why it may not be. It decides under one lock, so that no limit
// can be overrun and no session slips in during a drain. Under the same lock it asks judge,
// unless that is nil, about what may have happened since the request was admitted: a change
// that is made first and then looked for among the live sessions misses none. A session that
// was added must be removed.
func (r *Registry) Add(s *Session, l config.Limits, judge Judge) *outcome.Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	if judge != nil {
		if refusal := judge(s.Case); refusal != nil {
			return refusal
		}
	}
	if refusal := r.take(s, limitsOf(s.Kind, l)); refusal != nil {
		return refusal
	}
	s.watch()
	return nil
}

func limitsOf(k Kind, l config.Limits) limits {
	if k == HTTP {
		return limits{l.MaxRequests, l.MaxRequestsPerUser, l.MaxRequestsPerIP}
	}
	return limits{l.MaxConnections, l.MaxConnectionsPerUser, l.MaxConnectionsPerIP}
}

// take gives s a place. r.mu is held.
func (r *Registry) take(s *Session, l limits) *outcome.Refusal {
	u, addr := user{s.Issuer(), s.Subject()}, policy.Network(s.Client)
	over := func(n, limit int) bool { return limit > 0 && n >= limit }
	p := &r.places[s.Kind]
	switch {
	case r.closed, r.draining && s.Kind == WebSocket: // a plain request is still answered while a drain lasts
		return outcome.Refuse(outcome.Drain, "")
	case over(p.taken, l.total):
		return outcome.Refuse(outcome.TooManyConnections, "")
	case u.subject != "" && over(p.users[u], l.perUser):
		return outcome.Refuse(outcome.TooManyUserConnections, "")
	case over(p.addrs[addr], l.perIP):
		return outcome.Refuse(outcome.TooManyAddrConnections, "")
	}
	r.live[s] = struct{}{}
	if u.subject != "" {
		if r.callers[u] == nil {
			r.callers[u] = map[*Session]struct{}{}
		}
		r.callers[u][s] = struct{}{}
	}
	r.opened++
	s.holds = true
	p.taken++
	p.users[u]++
	p.addrs[addr]++
	return nil
}

// Free gives the place of s to others, at the latest when s is removed, and reports whether s still
// had one. A client that is told that a session is over, by an answer or by a log line, may count
// on it.
func (r *Registry) Free(s *Session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.release(s)
}

// release is Free, with the lock held.
func (r *Registry) release(s *Session) bool {
	if !s.holds {
		return false
	}
	s.holds = false
	p := &r.places[s.Kind]
	p.taken--
	u := user{s.Issuer(), s.Subject()}
	if p.users[u]--; p.users[u] == 0 {
		delete(p.users, u)
	}
	addr := policy.Network(s.Client)
	if p.addrs[addr]--; p.addrs[addr] == 0 {
		delete(p.addrs, addr)
	}
	return true
}

// Remove forgets s: a drain no longer waits for it. Its traffic stays counted. It reports whether s
// still had its place.
func (r *Registry) Remove(s *Session) bool {
	s.unwatch()
	var moved outcome.Traffic
	if s.Kind == WebSocket { // the metrics of traffic are about WebSockets
		moved = s.Traffic()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.live[s]; !there {
		return false
	}
	delete(r.live, s)
	u := user{s.Issuer(), s.Subject()}
	if delete(r.callers[u], s); len(r.callers[u]) == 0 {
		delete(r.callers, u)
	}
	r.ended.Add(moved)
	r.noticeIfNone()
	return r.release(s)
}

// End ends the sessions that match, and returns how many that were.
func (r *Registry) End(match func(*Session) bool, e *outcome.Ending) (n int) {
	for _, s := range r.all() {
		if match(s) {
			s.End(e)
			n++
		}
	}
	return n
}

// Judge asks about every live session and ends those that are refused, in random order and
// spread evenly over a while. Each is judged once more at its moment, so that a renewal or
// another change in between can save it. Judge does not wait for that. It returns how many
// there are, by reason.
func (r *Registry) Judge(judge Judge, spread time.Duration) map[outcome.Reason]int {
	refused, reasons := r.Refused(judge)
	rand.Shuffle(len(refused), func(i, j int) { refused[i], refused[j] = refused[j], refused[i] })
	for i, s := range refused {
		s.doomIn(spread*time.Duration(i)/time.Duration(len(refused)), judge)
	}
	return reasons
}

// Refused returns the live sessions that judge refuses, and how many there are by reason.
func (r *Registry) Refused(judge Judge) (refused []*Session, reasons map[outcome.Reason]int) {
	reasons = map[outcome.Reason]int{}
	for _, s := range r.all() {
		if refusal := judge(s.Judged()); refusal != nil {
			refused = append(refused, s)
			reasons[refusal.Reason]++
		}
	}
	return refused, reasons
}

// Renewal is what a renewal has done to one session: it lives until Deadline now, which is zero
// for ever; or Refusal tells why it was left as it was.
type Renewal struct {
	Session  *Session
	Deadline time.Time
	Refusal  *outcome.Refusal
}

// Renew gives the live sessions of a caller, of any kind, the identity of a fresh token, which the
// case of the renewal has, and the deadline that comes with it on the session's route; only those
// that chosen reports. The caller has a subject. judge is asked about each session with the new
// identity, at the moment in which the session gets it: so a reload or a revocation either is
// known to judge, or finds the session with its new claims. Renew returns what became of each, the
// longest session first.
func (r *Registry) Renew(fresh policy.Case, deadline Deadline, chosen func(*Session) bool, judge Judge) (all []Renewal) {
	for _, s := range r.of(user{fresh.Identity.Issuer, fresh.Identity.Subject}) {
		if !chosen(s) {
			continue
		}
		if done, ok := s.renew(fresh, deadline, judge); ok {
			all = append(all, done)
		}
	}
	return all
}

// of returns the live sessions of a user, the longest first.
func (r *Registry) of(u user) []*Session {
	r.mu.Lock()
	all := slices.Collect(maps.Keys(r.callers[u]))
	r.mu.Unlock()
	return byAge(all)
}

// List returns the live sessions, the longest first.
func (r *Registry) List() []*Session { return byAge(r.all()) }

// byAge sorts sessions, the longest first.
func byAge(all []*Session) []*Session {
	slices.SortFunc(all, func(a, b *Session) int { return a.Start.Compare(b.Start) })
	return all
}

func (r *Registry) all() []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*Session, 0, len(r.live))
	for s := range r.live {
		all = append(all, s)
	}
	return all
}

// Holding returns the live sessions of a kind that hold a place, each of a user.
func (r *Registry) Holding(k Kind) (all []*Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.live {
		if s.Kind == k && s.holds && s.Subject() != "" {
			all = append(all, s)
		}
	}
	return all
}

// Totals returns how many sessions of each kind are live, and all that WebSockets have ever moved.
func (r *Registry) Totals() (websockets, requests int, moved outcome.Traffic) {
	r.mu.Lock()
	moved = r.ended
	r.mu.Unlock()
	for _, s := range r.all() {
		if s.Kind == HTTP {
			requests++
			continue
		}
		websockets++
		moved.Add(s.Traffic())
	}
	return websockets, requests, moved
}

// Len returns how many sessions are live.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live)
}

// Counts returns how many sessions there ever were, and how many of them are live.
func (r *Registry) Counts() (opened, live uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opened, uint64(len(r.live))
}

// Recheck sets the timers of all sessions anew: the wall clock was set, or the machine has
// slept. A timer measures time that passes, a token's expiry is a time of day.
func (r *Registry) Recheck() {
	for _, s := range r.all() {
		s.recheck()
	}
}

// Cut ends what is left without waiting for a peer, takes no session any more, and returns when
// none is left.
func (r *Registry) Cut() {
	r.mu.Lock()
	r.draining, r.closed = true, true
	r.mu.Unlock()
	for _, s := range r.all() {
		s.cut()
	}
	r.Wait(context.Background())
}
