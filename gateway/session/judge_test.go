package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// refusing returns a judge that refuses the subjects in a set, which a test may change between.
func refusing(subjects map[string]bool) Judge {
	return func(c policy.Case) *outcome.Refusal {
		if subjects[c.Identity.Subject] {
			return outcome.Refuse(outcome.ClaimMismatch, "")
		}
		return nil
	}
}

func TestJudgedSessionsEndSpreadAndAreJudgedOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, bad := New(), map[string]bool{}
		all := map[string]*Session{}
		for n := range 6 {
			s := caller(n)
			all[s.Subject()] = s
			l.Add(s, config.Limits{}, nil)
		}
		for _, subject := range []string{"0", "1", "2", "3", "4"} {
			bad[subject] = true
		}
		began := time.Now()
		if reasons := l.Judge(refusing(bad), 10*time.Second); len(reasons) != 1 || reasons[outcome.ClaimMismatch] != 5 {
			t.Errorf("%v", reasons)
		}
		ended := func() (n int) {
			synctest.Wait()
			for _, s := range all {
				if endedFor(s) == outcome.ClaimMismatch {
					n++
				}
			}
			return n
		}
		for want := 1; want <= 3; want++ {
			if n := ended(); n != want {
				t.Errorf("%s after: %d ended, want %d", time.Since(began), n, want)
			}
			time.Sleep(2 * time.Second)
		}
		ended()
		saved := 0
		for subject, s := range all { // those who are left are saved
			if endedFor(s) == "" && bad[subject] {
				bad[subject] = false
				saved++
			}
		}
		l.Judge(refusing(bad), 10*time.Second)
		time.Sleep(20 * time.Second)
		if n := ended(); n != 5-saved || saved != 1 {
			t.Errorf("%d ended, %d saved", n, saved)
		}
		for _, s := range all {
			l.Remove(s)
		}
	})
}

func TestSecondJudgementDoesNotDelayTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := New(), caller(1)
		l.Add(s, config.Limits{}, nil)
		judge := refusing(map[string]bool{"1": true})
		l.Add(caller(2), config.Limits{}, nil)
		s.doomIn(5*time.Second, judge)
		time.Sleep(4 * time.Second)
		s.doomIn(5*time.Second, judge)
		time.Sleep(time.Second)
		synctest.Wait()
		if r := endedFor(s); r != outcome.ClaimMismatch {
			t.Errorf("ended for %q", r)
		}
	})
}

// A client key is taken away at once, also while a reload ends its session slowly.
func TestSecondJudgementMayBeSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := New(), caller(1)
		l.Add(s, config.Limits{}, nil)
		bad := map[string]bool{"1": true}
		s.doomIn(time.Hour, refusing(bad))
		l.Judge(refusing(bad), 0)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if r := endedFor(s); r != outcome.ClaimMismatch {
			t.Errorf("ended for %q", r)
		}
	})
}

// The second judgement is made at its moment, and by its own judge; the first is not made any more.
func TestSessionIsJudgedOnceAtTheSoonerMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := New(), caller(1)
		l.Add(s, config.Limits{}, nil)
		asked := 0
		good := func(policy.Case) *outcome.Refusal { asked++; return nil }
		s.doomIn(time.Hour, good)
		s.doomIn(time.Minute, good)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if asked != 1 || endedFor(s) != "" {
			t.Errorf("asked %d times, ended for %q", asked, endedFor(s))
		}
	})
}

func TestSessionThatHasLeftIsNotEndedByAJudgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := New(), caller(1)
		l.Add(s, config.Limits{}, nil)
		judge := refusing(map[string]bool{"1": true})
		s.doomIn(time.Second, judge)
		l.Remove(s)
		s.doomIn(time.Second, judge)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if r := endedFor(s); r != "" {
			t.Errorf("ended for %s", r)
		}
	})
}

func TestSessionIsJudgedUnderTheLockWhenItIsAdded(t *testing.T) {
	l := New()
	refusal := l.Add(caller(1), config.Limits{}, refusing(map[string]bool{"1": true}))
	if refusal == nil || refusal.Reason != outcome.ClaimMismatch || l.Len() != 0 {
		t.Errorf("%v, %d live", refusal, l.Len())
	}
}
