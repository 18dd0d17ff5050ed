package gateway

import (
	"context"
	"time"
)

const (
	clockLook = time.Second // how often the wall clock is compared with the time that has passed
	clockSlip = time.Second // by how much they may differ: clocks are corrected by less all the time
)

// watchClock calls jumped when the wall clock has been set, or the machine has slept, until ctx
// ends. wall returns the time of day; passed returns how much time has passed, by a clock that
// cannot be set and that stands still while the machine sleeps.
func watchClock(ctx context.Context, ticks <-chan time.Time, wall func() time.Time, passed func() time.Duration, jumped func()) {
	for day, before := wall(), passed(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		nextDay, next := wall(), passed()
		if slip := nextDay.Sub(day) - (next - before); slip.Abs() > clockSlip {
			jumped()
			day, before = nextDay, next // not sooner: small corrections add up
		}
	}
}
