package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// caller is a session of one of many users and addresses.
func caller(n int) *session {
	return &session{issuer: "https://issuer", subject: fmt.Sprint(n), addr: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})}
}

func TestLimitsAreExactHoweverManyComeAtOnce(t *testing.T) {
	const limit, callers = 17, 200
	same := func(change func(s *session, n int)) func(int) *session {
		return func(n int) *session {
			s := caller(n)
			change(s, n)
			return s
		}
	}
	cases := []struct {
		name    string
		limits  config.Limits
		session func(int) *session
		refused outcome.Reason // "" when all must get in
	}{
		{"connections", config.Limits{MaxConnections: limit}, caller, outcome.TooManyConnections},
		{"of one user", config.Limits{MaxConnectionsPerUser: limit}, same(func(s *session, _ int) { s.subject = "sub" }), outcome.TooManyUserConnections},
		{"of one address", config.Limits{MaxConnectionsPerIP: limit}, same(func(s *session, _ int) { s.addr = netip.MustParseAddr("::1") }), outcome.TooManyAddrConnections},
		{"of users of one name at several issuers", config.Limits{MaxConnectionsPerUser: 1}, same(func(s *session, n int) {
			s.issuer, s.subject = fmt.Sprint(n), "sub"
		}), ""},
		{"of nobody", config.Limits{MaxConnectionsPerUser: 1}, same(func(s *session, _ int) { s.issuer, s.subject = "", "" }), ""},
		{"none", config.Limits{}, caller, ""},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			l := newSessions(tt.limits)
			for range 2 { // and again when all have left
				var admitted, refused atomic.Int64
				var live sync.Map
				var wg sync.WaitGroup
				for n := range callers {
					wg.Go(func() {
						s := tt.session(n)
						switch refusal := l.add(s); {
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
					wg.Go(func() { l.remove(s.(*session)) })
				}
				wg.Wait()
			}
			if n, _ := l.totals(); n != 0 || len(l.users) != 0 || len(l.addrs) != 0 {
				t.Errorf("left behind: %d sessions, %d users, %d addresses", n, len(l.users), len(l.addrs))
			}
		})
	}
}

func TestSessionIDsAreNobodysGuess(t *testing.T) {
	l, seen := newSessions(config.Limits{}), map[string]bool{}
	for n := range 100 {
		s := caller(n)
		if l.add(s); len(s.id) != 32 || seen[s.id] {
			t.Fatalf("id %q", s.id)
		}
		seen[s.id] = true
	}
}

// endedFor is the reason for which a session without a relay was ended, or "".
func endedFor(s *session) outcome.Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending == nil {
		return ""
	}
	return s.ending.Reason
}

func TestDrainIsSpreadOverTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSessions(config.Limits{})
		all := make([]*session, 5)
		for n := range all {
			all[n] = caller(n)
			l.add(all[n])
		}
		drained := make(chan struct{})
		go func() {
			l.drain(t.Context(), time.Second, 20*time.Second)
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
		if late := l.add(caller(9)); late == nil || late.Reason != outcome.Drain {
			t.Errorf("whoever comes late: %v", late)
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
			l.remove(s)
		}
		<-drained
	})
}

func TestDrainIsOverWhenTheLastOneLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSessions(config.Limits{})
		one, two := caller(1), caller(2)
		l.add(one)
		l.add(two)
		began := time.Now()
		go func() {
			time.Sleep(3 * time.Second)
			l.remove(one)
			l.remove(two)
		}()
		l.drain(t.Context(), time.Second, time.Hour)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("drained after %s", took)
		}
		l.cut() // of nobody: returns
		began = time.Now()
		l.drain(t.Context(), time.Second, time.Hour)
		if took := time.Since(began); took != 0 {
			t.Errorf("nobody is left, but drained after %s", took)
		}
	})
}

func TestDrainGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSessions(config.Limits{})
		stays := caller(1)
		l.add(stays)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		l.drain(ctx, time.Second, 20*time.Second)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("gave up after %s", took)
		}
		l.remove(stays)
	})
}

func TestSessionEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSessions(config.Limits{})
		stays, leaves, forever, late := caller(1), caller(2), caller(3), caller(4)
		stays.deadline, leaves.deadline, late.deadline = time.Now().Add(time.Minute), time.Now().Add(time.Minute), time.Now().Add(-time.Second)
		for _, s := range []*session{stays, leaves, forever, late} {
			l.add(s)
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
		l.remove(leaves)
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
		for _, s := range []*session{stays, forever, late} {
			l.remove(s)
		}
	})
}

// wire is a conn that ends as soon as it is cut.
type wire struct {
	ended atomic.Pointer[outcome.Ending]
	moved outcome.Traffic
	over  func()
}

func (w *wire) End(e *outcome.Ending)    { w.ended.CompareAndSwap(nil, e) }
func (w *wire) Cut()                     { go w.over() }
func (w *wire) Traffic() outcome.Traffic { return w.moved }

func TestSessionThatWasEndedWhileTheAgentWasDialled(t *testing.T) {
	s := &session{}
	s.end(outcome.Expired)
	s.end(outcome.Drain)
	e := s.begin(&wire{moved: outcome.Traffic{BytesIn: 1}})
	if e == nil || e.Reason != outcome.Expired {
		t.Fatalf("begin gives %v, want the first reason", e)
	}
	if s.counts().BytesIn != 1 {
		t.Error("the session does not know its relay: cut would not find it")
	}
}

func TestCutReturnsWhenAllAreGone(t *testing.T) {
	l := newSessions(config.Limits{})
	const n = 20
	var over atomic.Int64
	for i := range n {
		s := caller(i)
		l.add(s)
		s.begin(&wire{over: func() {
			over.Add(1)
			l.remove(s)
		}})
	}
	l.cut()
	if over.Load() != n {
		t.Errorf("%d of %d relays are over", over.Load(), n)
	}
	if refusal := l.add(caller(99)); refusal == nil || refusal.Reason != outcome.Drain {
		t.Errorf("after the cut: %v", refusal)
	}
}

func TestTrafficOfEndedSessionsStaysCounted(t *testing.T) {
	l := newSessions(config.Limits{})
	for i := range 3 {
		s := caller(i)
		s.start = time.Now().Add(-time.Duration(i) * time.Minute)
		l.add(s)
		s.begin(&wire{moved: outcome.Traffic{BytesIn: 10, BytesOut: 200, MessagesIn: 1, MessagesOut: 2}})
	}
	list := l.list()
	if len(list) != 3 || list[0].subject != "2" || list[2].subject != "0" {
		t.Errorf("the longest is not first: %v", list)
	}
	for left := 3; left >= 0; left-- {
		if n, moved := l.totals(); n != left || moved != (outcome.Traffic{BytesIn: 30, BytesOut: 600, MessagesIn: 3, MessagesOut: 6}) {
			t.Errorf("%d live, %+v", n, moved)
		}
		if left > 0 {
			l.remove(list[left-1])
		}
	}
}
