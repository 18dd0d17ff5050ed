package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestClockThatIsSetIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ticks := make(chan time.Time)
		day, passed, jumps := time.Unix(1e9, 0), time.Duration(0), 0
		go watchClock(ctx, ticks, func() time.Time { return day }, func() time.Duration { return passed }, func() { jumps++ })
		for n, step := range []struct {
			day, passed time.Duration
			jumps       int
		}{
			{time.Second, time.Second, 0},
			{time.Minute, time.Minute, 0},                        // the process did not run for a while
			{time.Second + 900*time.Millisecond, time.Second, 0}, // corrected, as clocks are
			{time.Hour, time.Second, 1},                          // the machine has slept, or the clock was set
			{time.Second, time.Second, 1},                        // once
			{-24 * time.Hour, time.Second, 2},                    // set back
			{time.Second + 600*time.Millisecond, time.Second, 2}, // corrected
			{time.Second + 600*time.Millisecond, time.Second, 3}, // corrected again and again, it adds up
			{time.Second, time.Second, 3},
		} {
			synctest.Wait() // it waits for a tick
			day, passed = day.Add(step.day), passed+step.passed
			ticks <- time.Time{}
			synctest.Wait()
			if jumps != step.jumps {
				t.Errorf("step %d: %d jumps noticed, want %d", n, jumps, step.jumps)
			}
		}
	})
}
