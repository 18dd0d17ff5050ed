package gateway

import (
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
