// Package session knows who is connected.
//
// A Registry holds every live session: a WebSocket connection from the moment the caller was
// admitted until its log line, or a plain HTTP exchange while it lasts, which for a stream of
// events is long. It counts them under the limits and ends them: at their expiry, by drain, by
// cut, or because a caller asks for it with a reason. It does not know how frames move: a
// session's connection is a Conn.
//
// Nothing is written to a network while the registry's lock is held.
package session

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Conn is what carries a session: a relay of frames, or a plain HTTP exchange. Its methods may be
// called from any goroutine and do not wait for a peer.
type Conn interface {
	// End ends it for a reason. Only the first reason counts.
	End(*outcome.Ending)
	// Cut closes its sockets at once. End was called before.
	Cut()
	// Traffic returns what has moved so far.
	Traffic() outcome.Traffic
}

// notifier is a Conn whose client can be told something: a relay. A plain HTTP exchange has no
// place for it.
type notifier interface {
	// Notify sends the client a text message. It does not wait.
	Notify(text string)
}

// Kind is the kind of a session's connection. Each kind has limits of its own.
type Kind int

// The kinds.
const (
	WebSocket Kind = iota
	HTTP           // one plain HTTP exchange: a request and its answer, however long that streams
	kinds
)

// String returns the kind's name, as /sessions shows it.
func (k Kind) String() string {
	if k == HTTP {
		return "http"
	}
	return "websocket"
}

// Session is one live session. The exported fields are set before Add and not changed after it.
type Session struct {
	// ID is its name, which cannot be guessed. NewID makes one.
	ID string
	// Kind is the kind of its connection.
	Kind Kind
	// Case is what it was admitted with. Judged returns what it is judged by today.
	Case policy.Case
	// Remote is the peer's address, host:port. Client is the client's, as limits see it: behind a
	// trusted proxy they differ.
	Remote string
	Client netip.Addr
	// Start is when the request came.
	Start time.Time
	// Expires is when the caller's right to it ended at first; zero: never. Deadline returns
	// when it ends today.
	Expires time.Time
	// Stop is called, unless it is nil, when the session ends before Begin: the agent need not be
	// asked any longer. It must not wait.
	Stop func()
	// MaxDuration is how long after Start it ends in any case; 0: never.
	MaxDuration time.Duration
	// Notice is what a WebSocket's client is told before each deadline.
	Notice config.ExpiryNotice

	mu       sync.Mutex
	conn     Conn            // nil until the agent has answered
	ending   *outcome.Ending // the first reason that the gateway had to end it
	judged   policy.Case     // Case, with the caller's latest claims
	deadline time.Time       // Expires, or what renewals have made of it
	expiry   *time.Timer     // of the next notice, or of the deadline
	limit    *time.Timer     // of MaxDuration
	expiries int             // timers set for it so far
	noticed  time.Time       // the deadline of which the client was told last
	doom     *time.Timer     // will judge it once more, and end it
	doomAt   time.Time       // when
	over     bool            // it was removed: no timer is set any more

	holds bool // a place under the limits; guarded by the registry's lock
}

// NewID returns a session id: 128 random bits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Issuer returns the issuer of the caller's token, or "".
func (s *Session) Issuer() string {
	if id := s.Case.Identity; id != nil {
		return id.Issuer
	}
	return ""
}

// Subject returns the subject of the caller's token, or "".
func (s *Session) Subject() string {
	if id := s.Case.Identity; id != nil {
		return id.Subject
	}
	return ""
}

// End ends the session for a reason, from any goroutine, and does not wait. Only the first reason
// counts. While the agent is still being asked, the session remembers it and calls Stop.
func (s *Session) End(e *outcome.Ending) {
	s.endFor(func() *outcome.Ending { return e })
}

// endFor ends the session for the reason that why returns, unless that is nil. It asks under the
// lock, so that a renewal either comes first and may save the session, or finds it ended.
func (s *Session) endFor(why func() *outcome.Ending) {
	s.mu.Lock()
	e, conn := why(), s.conn
	early := e != nil && conn == nil && s.ending == nil
	if s.ending == nil {
		s.ending = e
	}
	s.mu.Unlock()
	switch {
	case e == nil:
	case conn != nil:
		conn.End(e)
	case early && s.Stop != nil:
		s.Stop()
	}
}

// Ending returns why the session has ended, or nil.
func (s *Session) Ending() *outcome.Ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

// Begin gives the session its connection. It returns why the session has ended meanwhile, or nil.
func (s *Session) Begin(c Conn) *outcome.Ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = c
	if s.owesNotice() {
		s.setExpiry()
	}
	return s.ending
}

// Traffic returns what has moved so far.
func (s *Session) Traffic() outcome.Traffic {
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c == nil {
		return outcome.Traffic{}
	}
	return c.Traffic()
}

// cut closes the session's sockets, if it has any.
func (s *Session) cut() {
	s.End(outcome.End(outcome.Drain, ""))
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c != nil {
		c.Cut()
	}
}

// Judged returns what the session is judged by today: the case that it was admitted with, and the
// claims of the token that renewed it last.
func (s *Session) Judged() policy.Case {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.judged
}

// Deadline returns when the caller's right to the session ends; zero: never.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline
}

// watch begins the session's life in a registry: it will end at its deadline, or after
// MaxDuration.
func (s *Session) watch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judged, s.deadline = s.Case, s.Expires
	s.setExpiry()
	if s.MaxDuration > 0 {
		s.limit = time.AfterFunc(time.Until(s.Start.Add(s.MaxDuration)), func() { s.End(outcome.End(outcome.MaxDuration, "")) })
	}
}

// recheck sets the timer anew, because the wall clock was set.
func (s *Session) recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setExpiry()
}

// setExpiry sets the timer of what comes next, by the wall clock as it is now: the notice, if one
// is owed, then the deadline. s.mu is held.
func (s *Session) setExpiry() {
	if s.expiry != nil {
		s.expiry.Stop()
	}
	if s.over || s.deadline.IsZero() {
		return
	}
	due := s.deadline
	if s.owesNotice() {
		due = due.Add(-s.Notice.Before)
	}
	s.expiries++
	number := s.expiries
	s.expiry = time.AfterFunc(time.Until(due), func() { s.expire(number) })
}

// owesNotice reports whether the client is to be told of the deadline and was not yet. s.mu is
// held.
func (s *Session) owesNotice() bool {
	_, able := s.conn.(notifier)
	return able && s.Notice.Text != "" && !s.noticed.Equal(s.deadline)
}

// expire gives the notice or ends the session when a timer has fired, unless it is not the last
// one: the session was renewed at the last moment.
func (s *Session) expire(number int) {
	s.endFor(func() *outcome.Ending {
		if s.expiries != number {
			return nil
		}
		if s.owesNotice() {
			s.noticed = s.deadline
			s.conn.(notifier).Notify(s.Notice.Text)
			s.setExpiry()
			return nil
		}
		return outcome.End(outcome.Expired, "")
	})
}

// renew gives the session the identity of fresh and the deadline that comes with it, if judge lets
// the session be with that identity. A deadline never becomes earlier: what would end sooner
// changes nothing, so that the claims and the deadline are always of the same token. It reports
// whether the session was there to be renewed.
func (s *Session) renew(fresh policy.Case, deadlineOf Deadline, judge Judge) (Renewal, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.ending != nil {
		return Renewal{}, false
	}
	next := s.judged
	next.Identity = fresh.Identity
	if refusal := judge(next); refusal != nil {
		return Renewal{Session: s, Refusal: refusal}, true
	}
	if deadline := deadlineOf(next); !sooner(deadline, s.deadline) {
		s.judged, s.deadline = next, deadline
		s.setExpiry()
	}
	return Renewal{Session: s, Deadline: s.deadline}, true
}

// sooner reports whether a deadline is before another; zero is never.
func sooner(a, b time.Time) bool { return !a.IsZero() && (b.IsZero() || a.Before(b)) }

// doomIn has the session judged once more after a while, and ended if it is still refused. When
// that is to happen already, the sooner moment counts.
func (s *Session) doomIn(d time.Duration, judge Judge) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Now().Add(d)
	if s.over || s.doom != nil && (!at.Before(s.doomAt) || !s.doom.Stop()) {
		return
	}
	s.doomAt = at
	s.doom = time.AfterFunc(d, func() {
		s.endFor(func() *outcome.Ending {
			s.doom = nil // from here on, what changes has it judged anew
			if refusal := judge(s.judged); refusal != nil {
				return outcome.End(refusal.Reason, refusal.Text())
			}
			return nil
		})
	})
}

// unwatch stops the timers, for good.
func (s *Session) unwatch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for _, t := range []*time.Timer{s.expiry, s.limit, s.doom} {
		if t != nil {
			t.Stop()
		}
	}
}
