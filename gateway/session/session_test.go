package session

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// caller returns a session of one of many users and addresses.
func caller(n int) *Session { return of("https://issuer", fmt.Sprint(n), n) }

// of returns a session of a user; n chooses the address.
func of(issuer, subject string, n int) *Session {
	return &Session{
		Case:   policy.Case{Identity: &auth.Identity{Issuer: issuer, Subject: subject}},
		Client: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}),
	}
}

// conn is a connection that remembers what it was told.
type conn struct {
	moved outcome.Traffic
	over  func() // called by Cut

	mu    sync.Mutex
	ended []outcome.Reason
}

func (c *conn) End(e *outcome.Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, e.Reason)
}

func (c *conn) reasons() []outcome.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ended)
}

func (c *conn) Cut()                     { c.over() }
func (c *conn) Traffic() outcome.Traffic { return c.moved }

// end ends a session for a reason.
func end(s *Session, r outcome.Reason) { s.End(outcome.End(r, "")) }

func TestLimitsAreExactHoweverManyComeAtOnce(t *testing.T) {
	const limit, callers = 17, 200
	same := func(change func(s *Session, n int)) func(int) *Session {
		return func(n int) *Session {
			s := caller(n)
			change(s, n)
			return s
		}
	}
	cases := []struct {
		name    string
		limits  config.Limits
		session func(int) *Session
		refused outcome.Reason // "" when all must get in
	}{
		{"connections", config.Limits{MaxConnections: limit}, caller, outcome.TooManyConnections},
		{"of one user", config.Limits{MaxConnectionsPerUser: limit}, same(func(s *Session, _ int) { s.Case.Identity.Subject = "sub" }),
			outcome.TooManyUserConnections},
		{"of one address", config.Limits{MaxConnectionsPerIP: limit},
			same(func(s *Session, _ int) { s.Client = netip.MustParseAddr("::1") }), outcome.TooManyAddrConnections},
		{"of users of one name at several issuers", config.Limits{MaxConnectionsPerUser: 1}, same(func(s *Session, n int) {
			s.Case.Identity = &auth.Identity{Issuer: fmt.Sprint(n), Subject: "sub"}
		}), ""},
		{"of no user", config.Limits{MaxConnectionsPerUser: 1}, same(func(s *Session, _ int) { s.Case.Identity = nil }), ""},
		{"none", config.Limits{}, caller, ""},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			l := New()
			for range 2 { // and again when all have left
				var admitted, refused atomic.Int64
				var live sync.Map
				var wg sync.WaitGroup
				for n := range callers {
					wg.Go(func() {
						s := tt.session(n)
						switch refusal := l.Add(s, tt.limits, nil); {
						case refusal == nil:
							admitted.Add(1)
							live.Store(s, nil)
						case refusal.Reason == tt.refused:
							refused.Add(1)
						default:
							t.Errorf("refused for %s", refusal.Reason)
						}
					})
				}
				wg.Wait()
				want := int64(callers)
				if tt.refused != "" {
					want = limit
				}
				if admitted.Load() != want || refused.Load() != callers-want {
					t.Errorf("%d admitted and %d refused, want %d and %d", admitted.Load(), refused.Load(), want, callers-want)
				}
				for s := range live.Range {
					wg.Go(func() { l.Remove(s.(*Session)) })
				}
				wg.Wait()
			}
			if p := l.places[WebSocket]; len(l.live) != 0 || p.taken != 0 || len(p.users) != 0 || len(p.addrs) != 0 {
				t.Errorf("left over: %d sessions, %+v", len(l.live), p)
			}
		})
	}
}

func TestSessionIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for n := range 100 {
		if id := NewID(); len(id) != 32 || seen[id] {
			t.Fatalf("id %d: %q", n, id)
		} else {
			seen[id] = true
		}
	}
}

// endedFor is the reason for which a session without a relay was ended, or "".
func endedFor(s *Session) outcome.Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending == nil {
		return ""
	}
	return s.ending.Reason
}

// drainAll ends all sessions for good, spread over a while after a second, and waits for it.
func drainAll(ctx context.Context, l *Registry, spread time.Duration) {
	l.Drain(Drain{Lead: time.Second, Spread: spread, Ending: outcome.End(outcome.Drain, ""), Final: true})
	l.Wait(ctx)
}

func TestDrainIsSpreadOverTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		all := make([]*Session, 5)
		for n := range all {
			all[n] = caller(n)
			l.Add(all[n], config.Limits{}, nil)
		}
		drained := make(chan struct{})
		go func() {
			drainAll(t.Context(), l, 20*time.Second)
			close(drained)
		}()
		told := func() (n int) {
			synctest.Wait()
			for _, s := range all {
				if endedFor(s) == outcome.Drain {
					n++
				}
			}
			return n
		}
		if n := told(); n != 0 {
			t.Errorf("%d told at once", n)
		}
		if late := l.Add(caller(9), config.Limits{}, nil); late == nil || late.Reason != outcome.Drain {
			t.Errorf("a late session: %v", late)
		}
		time.Sleep(time.Second)
		for want := 1; want <= len(all); want++ {
			if n := told(); n != want {
				t.Errorf("%d told, want %d", n, want)
			}
			time.Sleep(4 * time.Second)
		}
		select {
		case <-drained:
			t.Error("drained while sessions are left")
		default:
		}
		for _, s := range all {
			l.Remove(s)
		}
		<-drained
	})
}

func TestDrainIsOverWhenTheLastOneLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		one, two := caller(1), caller(2)
		l.Add(one, config.Limits{}, nil)
		l.Add(two, config.Limits{}, nil)
		began := time.Now()
		go func() {
			time.Sleep(3 * time.Second)
			l.Remove(one)
			l.Remove(two)
		}()
		drainAll(t.Context(), l, time.Hour)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("drained after %s", took)
		}
		l.Cut() // of no session: returns
		began = time.Now()
		drainAll(t.Context(), l, time.Hour)
		if took := time.Since(began); took != 0 {
			t.Errorf("no session is left, but drained after %s", took)
		}
	})
}

func TestDrainGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		stays := caller(1)
		l.Add(stays, config.Limits{}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		drainAll(ctx, l, 20*time.Second)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("gave up after %s", took)
		}
		l.Remove(stays)
	})
}

func TestSessionEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		stays, leaves, forever, late := caller(1), caller(2), caller(3), caller(4)
		stays.Expires, leaves.Expires, late.Expires = time.Now().Add(time.Minute), time.Now().Add(time.Minute), time.Now().Add(-time.Second)
		for _, s := range []*Session{stays, leaves, forever, late} {
			l.Add(s, config.Limits{}, nil)
		}
		synctest.Wait()
		if r := endedFor(late); r != outcome.Expired {
			t.Errorf("past its deadline from the start: ended for %q", r)
		}
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		if r := endedFor(stays); r != "" {
			t.Errorf("ended for %s before its time", r)
		}
		l.Remove(leaves)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if r := endedFor(stays); r != outcome.Expired {
			t.Errorf("ended for %q, want expired", r)
		}
		if r := endedFor(leaves); r != "" {
			t.Errorf("a session that has left was ended for %s", r)
		}
		if r := endedFor(forever); r != "" {
			t.Errorf("a session without a deadline was ended for %s", r)
		}
		for _, s := range []*Session{stays, forever, late} {
			l.Remove(s)
		}
	})
}

// The expiry is a time of day. A clock that was set forward ends sessions, one that was set back
// does not keep them for longer than their timers say.
func TestRecheckFollowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := New(), caller(1)
		s.Expires = time.Now().Add(time.Hour)
		l.Add(s, config.Limits{}, nil)
		s.deadline = time.Now().Add(time.Minute) // as it looks after the clock was set forward by 59 minutes
		l.Recheck()
		time.Sleep(time.Minute)
		synctest.Wait()
		if r := endedFor(s); r != outcome.Expired {
			t.Errorf("ended for %q", r)
		}
		l.Remove(s)
		l.Recheck()
		s.recheck() // of a session that has left: no timer
	})
}

func TestSessionThatWasEndedWhileTheAgentWasDialled(t *testing.T) {
	s, c := caller(1), &conn{}
	end(s, outcome.Expired)
	end(s, outcome.Drain)
	if e := s.Begin(c); e == nil || e.Reason != outcome.Expired || e.Code != 3000 {
		t.Fatalf("Begin gives %v, want the first reason", e)
	}
	end(s, outcome.Idle)
	if !slices.Equal(c.ended, []outcome.Reason{outcome.Idle}) {
		t.Errorf("the connection was ended for %v", c.ended)
	}
}

func TestCutReturnsWhenAllAreGone(t *testing.T) {
	l := New()
	const n = 20
	var over atomic.Int64
	for i := range n {
		s := caller(i)
		if i%2 == 0 {
			s.Kind = HTTP
		}
		l.Add(s, config.Limits{}, nil)
		s.Begin(&conn{over: func() {
			go func() {
				over.Add(1)
				l.Remove(s)
			}()
		}})
	}
	l.Cut()
	if over.Load() != n {
		t.Errorf("%d of %d connections are over", over.Load(), n)
	}
	for _, kind := range []Kind{WebSocket, HTTP} {
		late := caller(99)
		late.Kind = kind
		if refusal := l.Add(late, config.Limits{}, nil); refusal == nil || refusal.Reason != outcome.Drain {
			t.Errorf("%s after the cut: %v", kind, refusal)
		}
	}
}

func TestKindsHaveLimitsOfTheirOwn(t *testing.T) {
	l, limits := New(), config.Limits{MaxConnections: 1, MaxRequests: 2, MaxRequestsPerUser: 1}
	request := func(n int) *Session {
		s := caller(n)
		s.Kind = HTTP
		return s
	}
	for i, step := range []struct {
		s    *Session
		want outcome.Reason
	}{
		{caller(1), ""},
		{request(1), ""},
		{caller(2), outcome.TooManyConnections},
		{request(1), outcome.TooManyUserConnections},
		{request(2), ""},
		{request(3), outcome.TooManyConnections},
	} {
		got := outcome.Reason("")
		if refusal := l.Add(step.s, limits, nil); refusal != nil {
			got = refusal.Reason
		}
		if got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
	if w, r, _ := l.Totals(); w != 1 || r != 2 {
		t.Errorf("%d WebSockets and %d requests", w, r)
	}
}

func TestPlainRequestsAreTakenWhileADrainLasts(t *testing.T) {
	l, s := New(), caller(1)
	l.Drain(Drain{Spread: time.Millisecond, Ending: outcome.End(outcome.Drain, ""), Final: true})
	s.Kind = HTTP
	if refusal := l.Add(s, config.Limits{}, nil); refusal != nil {
		t.Fatalf("refused: %v", refusal)
	}
	c := &conn{}
	s.Begin(c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		l.Wait(ctx)
		close(done)
	}()
	for len(c.reasons()) == 0 {
		runtime.Gosched()
	}
	l.Remove(s)
	<-done
	if got := c.reasons(); got[0] != outcome.Drain {
		t.Errorf("told %v", got)
	}
}

func TestPlaceIsGivenBackOnce(t *testing.T) {
	l := New()
	freed, removed := caller(1), caller(2)
	for _, s := range []*Session{freed, removed} {
		if refusal := l.Add(s, config.Limits{}, nil); refusal != nil {
			t.Fatal(refusal)
		}
	}
	if !l.Free(freed) || l.Free(freed) || l.Remove(freed) {
		t.Error("the place that was freed was not given back exactly once")
	}
	if !l.Remove(removed) || l.Remove(removed) || l.Free(removed) {
		t.Error("the place of the removed session was not given back exactly once")
	}
}

func TestTrafficOfEndedSessionsStaysCounted(t *testing.T) {
	l := New()
	for i := range 3 {
		s := caller(i)
		s.Start = time.Now().Add(-time.Duration(i) * time.Minute)
		l.Add(s, config.Limits{}, nil)
		s.Begin(&conn{moved: outcome.Traffic{BytesIn: 10, BytesOut: 200, MessagesIn: 1, MessagesOut: 2}})
	}
	list := l.List()
	if len(list) != 3 || list[0].Subject() != "2" || list[2].Subject() != "0" {
		t.Errorf("the longest is not first: %v", list)
	}
	for left := 3; left >= 0; left-- {
		if n, _, moved := l.Totals(); n != left || moved != (outcome.Traffic{BytesIn: 30, BytesOut: 600, MessagesIn: 3, MessagesOut: 6}) {
			t.Errorf("%d live, %+v", n, moved)
		}
		if left > 0 {
			l.Remove(list[left-1])
		}
	}
}
