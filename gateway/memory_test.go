package gateway

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/session"
)

func TestMemoryIsGivenBackOnceARushIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, freed := session.New(), 0
		ticks := make(chan time.Time)
		go giveBack(t.Context(), ticks, l.Counts, func() { freed++ })
		for n, step := range []struct {
			come, freed int // sessions that come before the tick, and how often memory was given back by then
		}{
			{0, 0},
			{rush - 1, 0}, {0, 0}, // too few
			{1, 0}, {0, 1}, // enough, and no session since the last tick
			{0, 1}, {rush, 1}, {rush, 1}, {1, 1}, {0, 2}, // not while they keep coming
			{10 * rush, 2}, {0, 3},
			{rush, 3}, {0, 3}, // too few for so many that are there
			{rush, 3}, {0, 4},
		} {
			for range step.come {
				if refusal := l.Add(&session.Session{}, config.Limits{}, nil); refusal != nil {
					t.Fatal(refusal)
				}
			}
			ticks <- time.Time{}
			synctest.Wait()
			if freed != step.freed {
				t.Errorf("tick %d: given back %d times, want %d", n, freed, step.freed)
			}
		}
	})
}

func TestSessionsThatHaveEndedCauseNoCollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ticks, times, live, freed := make(chan time.Time), uint64(0), uint64(0), 0
		go giveBack(t.Context(), ticks, func() (uint64, uint64) { return times, live }, func() { freed++ })
		for _, step := range []struct {
			times, live uint64
			freed       int
		}{
			{10 * rush, 0, 0}, {10 * rush, 0, 0}, // all have ended
			{11 * rush, rush - 1, 0}, {11 * rush, rush - 1, 0}, // but for a few
			{12 * rush, rush, 0}, {12 * rush, rush, 1}, // a rush has stayed
		} {
			times, live = step.times, step.live
			ticks <- time.Time{}
			synctest.Wait()
			if freed != step.freed {
				t.Errorf("%d sessions have started, %d are live: given back %d times, want %d", times, live, freed, step.freed)
			}
		}
	})
}

func TestSomeGarbageMayWait(t *testing.T) {
	const mib = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ticks, over := make(chan time.Time), make(chan struct{})
		live, percent, times := uint64(0), normal, 0
		set := func(p int) int {
			old := percent
			percent, times = p, times+1
			return old
		}
		go func() {
			collectLater(ctx, ticks, func() uint64 { return live }, set)
			close(over)
		}()
		synctest.Wait()
		for _, step := range []struct {
			live          uint64
			percent, sets int
		}{
			{0, 200, 2}, {4 * mib, 200, 2}, {4*mib + mib/2, 200, 2}, // a little more changes nothing
			{8 * mib, 100, 3}, {16 * mib, 100, 3}, {1 << 40, 100, 3}, {2 * mib, 200, 4},
		} {
			live = step.live
			select {
			case ticks <- time.Time{}:
			case <-over:
				t.Fatal("it has ended")
			}
			synctest.Wait()
			if percent != step.percent || times != step.sets {
				t.Errorf("%d MiB live: %d %%, set %d times, want %d %% and %d", step.live/mib, percent, times, step.percent, step.sets)
			}
		}
		cancel()
		<-over
		if percent != normal {
			t.Errorf("%d %% afterwards", percent)
		}
	})
}

func TestGarbageIsAsTheOperatorHasSetIt(t *testing.T) {
	percent := 50
	set := func(p int) int { old := percent; percent = p; return old }
	collectLater(t.Context(), nil, func() uint64 { t.Error("asked"); return 0 }, set)
	if percent != 50 {
		t.Errorf("%d %%, not the operator's", percent)
	}
}

func TestLiveBytesAreKnown(t *testing.T) {
	runtime.GC()
	if n := liveBytes(); n < 1<<10 || n > 1<<40 {
		t.Errorf("%d bytes live", n)
	}
}
