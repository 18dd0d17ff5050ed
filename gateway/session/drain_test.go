package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

var goodbye = outcome.End(outcome.Drain, "")

// full returns a registry with so many sessions.
func full(t *testing.T, n int) (*Registry, []*Session) {
	t.Helper()
	r, all := New(), make([]*Session, n)
	for i := range all {
		all[i] = caller(i)
		if refusal := r.Add(all[i], config.Limits{}, nil); refusal != nil {
			t.Fatal(refusal)
		}
	}
	return r, all
}

// told returns how many sessions a drain has told.
func told(all []*Session) (n int) {
	synctest.Wait()
	for _, s := range all {
		if endedFor(s) == outcome.Drain {
			n++
		}
	}
	return n
}

// taken reports whether a WebSocket is taken.
func taken(r *Registry) bool {
	synctest.Wait()
	s := caller(1)
	refusal := r.Add(s, config.Limits{}, nil)
	r.Remove(s)
	return refusal == nil
}

func TestDrainTellsTwoThousandSessionsEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, all := full(t, 2000)
		r.Drain(Drain{Lead: time.Second, Spread: 20 * time.Second, Ending: goodbye, Final: true})
		time.Sleep(time.Second)
		for second := range 20 {
			if n := told(all); n < 100*second || n > 100*second+1 {
				t.Errorf("%d told after %d s", n, second)
			}
			time.Sleep(time.Second)
		}
		if n := told(all); n != len(all) {
			t.Errorf("%d told in the end", n)
		}
	})
}

func TestWebSocketsAreTakenUntilTheDelayIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, all := full(t, 10)
		r.Drain(Drain{Delay: 5 * time.Second, Spread: 10 * time.Second, Ending: goodbye, Final: true})
		gone := make(chan struct{})
		go func() {
			r.Wait(t.Context())
			close(gone)
		}()
		time.Sleep(5*time.Second - 1)
		if !r.Leaving() || !taken(r) || told(all) != 0 {
			t.Errorf("before the end of the delay: leaving %v, taken %v, %d told", r.Leaving(), taken(r), told(all))
		}
		late := caller(99)
		r.Add(late, config.Limits{}, nil)
		time.Sleep(time.Nanosecond)
		if taken(r) || told(all)+told([]*Session{late}) != 1 {
			t.Errorf("after the delay: taken %v, %d told", taken(r), told(all))
		}
		time.Sleep(10 * time.Second)
		if told(append(all, late)) != 11 {
			t.Errorf("%d told, and of those who came in the delay %d", told(all), told([]*Session{late}))
		}
		for _, s := range append(all, late) {
			select {
			case <-gone:
				t.Fatal("not waited for the last one")
			default:
			}
			r.Remove(s)
		}
		<-gone
	})
}

// With no session at all, a drain still lasts as long as its delay: load balancers send clients
// until they have noticed.
func TestEmptyRegistryWaitsForTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begun := New(), time.Now()
		r.Drain(Drain{Delay: 5 * time.Second, Spread: time.Hour, Ending: goodbye, Final: true})
		r.Wait(t.Context())
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("drained after %s", took)
		}
		r.Cut()
	})
}

func TestUndoneDrainTellsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, all := full(t, 10)
		if !r.Undrain() || r.Leaving() {
			t.Error("without a drain there is something to undo")
		}
		d := Drain{Delay: 5 * time.Second, Spread: 10 * time.Second, Ending: goodbye}
		for _, c := range []struct {
			after time.Duration
			told  int
		}{{time.Second, 0}, {8500 * time.Millisecond, 4}} {
			if !r.Drain(d) || r.Drain(d) || !r.Leaving() {
				t.Error("not begun, or begun twice")
			}
			time.Sleep(c.after)
			if !r.Undrain() || r.Leaving() || !taken(r) {
				t.Error("not undone")
			}
			time.Sleep(time.Minute)
			if n := told(all); n != c.told {
				t.Errorf("undone after %s: %d told, want %d", c.after, n, c.told)
			}
		}
		r.Drain(d)
		time.Sleep(time.Minute)
		if n := told(all); n != 10 {
			t.Errorf("%d told in the end", n)
		}
		if taken(r) || !r.Undrain() || !taken(r) {
			t.Error("a drain that has told all cannot be undone")
		}
	})
}

func TestFinalDrainTakesTheOthersPlace(t *testing.T) {
	for name, c := range map[string]struct {
		before time.Duration // of the first drain
		wait   time.Duration // until none is taken any more
	}{
		"in the delay":    {2 * time.Second, 3 * time.Second},
		"after the delay": {7 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, all := full(t, 100)
				r.Drain(Drain{Delay: 5 * time.Second, Spread: time.Hour, Ending: goodbye})
				time.Sleep(c.before)
				final := Drain{Delay: 5 * time.Second, Spread: 10 * time.Second, Ending: goodbye, Final: true}
				if !r.Drain(final) || r.Drain(final) {
					t.Error("the final drain has not begun, or twice")
				}
				if c.wait > 0 {
					if time.Sleep(c.wait - 1); !taken(r) {
						t.Error("none is taken before the end of the delay")
					}
					time.Sleep(time.Nanosecond)
				}
				if taken(r) || r.Undrain() {
					t.Error("one is taken, or the final drain can be undone")
				}
				time.Sleep(5 * time.Second)
				if n := told(all); n < 50 || n > 60 {
					t.Errorf("%d of 100 told after half of the time", n)
				}
				time.Sleep(5 * time.Second)
				if n := told(all); n != 100 {
					t.Errorf("%d told in the end", n)
				}
			})
		})
	}
}

func TestSessionEndsAfterItsMaxDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s, removed, forever := New(), caller(1), caller(2), caller(3)
		s.Start, s.MaxDuration = time.Now().Add(-time.Minute), time.Hour
		removed.Start, removed.MaxDuration = time.Now(), time.Second
		for _, s := range []*Session{s, removed, forever} {
			r.Add(s, config.Limits{}, nil)
		}
		r.Remove(removed)
		time.Sleep(59*time.Minute - 1)
		synctest.Wait()
		if got := endedFor(s); got != "" {
			t.Errorf("ended too early: %s", got)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if a, b, c := endedFor(s), endedFor(removed), endedFor(forever); a != outcome.MaxDuration || b != "" || c != "" {
			t.Errorf("ended for %q, %q and %q", a, b, c)
		}
	})
}
