package gateway

import (
	"context"
	"time"
)

const (
	// quietFor is how long nobody must have come or fallen silent for a rush to be over. A rush of connections is one of silences a second later.
	quietFor = time.Second / 2
	// rush is how often that must have happened: less leaves too little behind to be worth a collection.
	rush = 256
)

// giveBack calls free, which returns memory to the system, at the first tick at which a rush is over; until ctx ends. stir says how often
// somebody has come, or has fallen silent, so far, and how many are there. A handshake leaves several times the memory behind that its
// session needs, and a message two goroutines; and by itself Go keeps as much garbage as there is of what lives: with sessions that are
// quiet, for as long as they last. A collection costs what all sessions hold, so the more there are, the more must have stirred for the next
// one; and a steady trickle, which is never over, pays nothing.
func giveBack(ctx context.Context, ticks <-chan time.Time, stir func() (times, live uint64), free func()) {
	var before, given uint64 // times: at the last tick, and when memory was last given back
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		times, live := stir()
		if times == before && times-given >= max(rush, live/8) {
			free()
			given = times
		}
		before = times
	}
}
