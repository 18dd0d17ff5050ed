package session

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/outcome"
)

func admitting(policy.Case) *outcome.Refusal { return nil }

func every(*Session) bool { return true }

// fresh is the case of a renewal with a later token of the caller of s.
func fresh(s *Session) policy.Case {
	return policy.Case{Identity: &auth.Identity{Issuer: s.Issuer(), Subject: s.Subject()}}
}

func TestRenewalNeverMakesAnExpiryEarlier(t *testing.T) {
	now := time.Now()
	soon, late := now.Add(time.Hour), now.Add(2*time.Hour)
	for _, tt := range []struct {
		name           string
		was, next, end time.Time
		changes        bool
	}{
		{"later", soon, late, late, true},
		{"the same", soon, soon, soon, true},
		{"earlier", late, soon, late, false},
		{"never any more", soon, time.Time{}, time.Time{}, true},
		{"an end for what had none", time.Time{}, late, time.Time{}, false},
		{"none for what had none", time.Time{}, time.Time{}, time.Time{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, s := New(), caller(1)
			s.Expires = tt.was
			l.Add(s, config.Limits{}, nil)
			defer l.Remove(s)
			later := fresh(s)
			all := l.Renew(later, until(tt.next), every, admitting)
			if len(all) != 1 || all[0].Session != s || all[0].Refusal != nil || !all[0].Deadline.Equal(tt.end) {
				t.Errorf("%+v", all)
			}
			if got := s.Deadline(); !got.Equal(tt.end) {
				t.Errorf("lives until %s, want %s", got, tt.end)
			}
			if (s.Judged().Identity == later.Identity) != tt.changes { // the claims are those of the token that gives the end
				t.Errorf("has the new claims: %v", !tt.changes)
			}
		})
	}
}

func TestRenewalAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := New(), caller(1)
		s.Expires = time.Now().Add(5 * time.Second)
		l.Add(s, config.Limits{}, nil)
		time.Sleep(5*time.Second - time.Nanosecond)
		l.Renew(fresh(s), until(time.Now().Add(5*time.Second)), every, admitting)
		time.Sleep(5*time.Second - time.Nanosecond)
		synctest.Wait()
		if r := endedFor(s); r != "" {
			t.Errorf("ended for %s before its new end", r)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if r := endedFor(s); r != outcome.Expired {
			t.Errorf("at its new end it is ended for %q", r)
		}
		l.Remove(s)
	})
}

func TestRenewalFindsNoSessionThatHasEnded(t *testing.T) {
	l := New()
	ended, left, other := of("https://issuer", "alice", 1), of("https://issuer", "alice", 2), of("https://other", "alice", 3)
	for _, s := range []*Session{ended, left, other} {
		l.Add(s, config.Limits{}, nil)
		s.Begin(&conn{})
	}
	end(ended, outcome.Expired)
	l.Remove(left)
	if all := l.Renew(fresh(left), until(time.Time{}), every, admitting); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	l.Remove(ended)
	l.Remove(other)
	if len(l.callers) != 0 {
		t.Errorf("callers are left: %v", l.callers)
	}
}

func TestRefusedRenewalLeavesASessionAsItWas(t *testing.T) {
	l, s := New(), caller(1)
	s.Expires = time.Now().Add(time.Hour)
	l.Add(s, config.Limits{}, nil)
	defer l.Remove(s)
	all := l.Renew(fresh(s), until(time.Now().Add(2*time.Hour)), every, refusing(map[string]bool{"1": true}))
	if len(all) != 1 || all[0].Refusal == nil || all[0].Refusal.Reason != outcome.ClaimMismatch {
		t.Errorf("%+v", all)
	}
	if !s.Deadline().Equal(s.Expires) || s.Judged().Identity != s.Case.Identity || endedFor(s) != "" {
		t.Errorf("it lives until %s with %+v", s.Deadline(), s.Judged())
	}
}

// A reload swaps the rules and then judges every session. A renewal that was admitted by the rules
// before must not bring in claims that the new ones refuse: here the reload comes after the
// renewal has asked, and before its answer.
func TestRenewalDoesNotSlipPastAReload(t *testing.T) {
	l, s := New(), caller(1)
	l.Add(s, config.Limits{}, nil)
	defer l.Remove(s)
	demoted := fresh(s)
	var reloaded atomic.Bool
	judge := func(c policy.Case) *outcome.Refusal {
		if reloaded.Load() && c.Identity == demoted.Identity {
			return outcome.Refuse(outcome.ClaimMismatch, "")
		}
		return nil
	}
	doomed := make(chan []*Session, 1)
	l.Renew(demoted, until(time.Time{}), every, func(c policy.Case) *outcome.Refusal {
		refusal := judge(c)
		asked := make(chan struct{})
		go func() {
			reloaded.Store(true)
			refused, _ := l.Refused(judge)
			doomed <- refused
			close(asked)
		}()
		select {
		case <-asked: // by a registry that lets it slip past
		case <-time.After(50 * time.Millisecond): // the reload waits for the renewal
		}
		return refusal
	})
	if got := <-doomed; s.Judged().Identity != demoted.Identity || len(got) != 1 {
		t.Errorf("the session lives with claims that no rule admits: %v", got)
	}
}

// A renewal and an ending that meet: what the renewal reports as renewed is not ended by an expiry
// or a judgement that was due before.
func TestRenewedSessionIsNotEndedByWhatWasDueBefore(t *testing.T) {
	for range 2000 {
		l, s, c := New(), caller(1), &conn{}
		s.Expires = time.Now().Add(time.Hour)
		l.Add(s, config.Limits{}, nil)
		s.Begin(c)
		number, old := s.expiries, s.Judged().Identity
		judge := func(c policy.Case) *outcome.Refusal {
			if c.Identity == old {
				return outcome.Refuse(outcome.ClaimMismatch, "")
			}
			return nil
		}
		s.doomIn(0, judge)
		done := make(chan struct{})
		go func() {
			s.expire(number)
			close(done)
		}()
		all := l.Renew(fresh(s), until(time.Now().Add(2*time.Hour)), every, judge)
		<-done
		if ended := c.reasons(); len(all) == 1 && len(ended) > 0 {
			t.Fatalf("renewed, and ended for %v", ended)
		}
		l.Remove(s)
	}
}

// until is a deadline that is the same for every session.
func until(t time.Time) Deadline { return func(policy.Case) time.Time { return t } }
