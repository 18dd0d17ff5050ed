package gateway

import (
	"context"
	"time"
)

const (
	// quietFor is how long no session may have started before a rush counts as over.
	quietFor = time.Second / 2
	// rush is how often that must have happened: fewer sessions leave too little memory for a
	// collection to pay.
	rush = 256
)

// giveBack calls free, which returns memory to the system, at the first tick after a rush is
// over; until ctx ends. stir returns how many sessions have started so far, and how many there
// are. A handshake leaves several times the memory that its session needs. By itself Go keeps as
// much garbage as there is live data: with quiet sessions, for as long as they last. A
// collection costs as much as all sessions hold, so the more sessions there are, the more of
// them must have started before the next one. A steady trickle of sessions is never over and
// causes no collection.
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
