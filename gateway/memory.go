package gateway

import (
	"context"
	"time"
)

const (
	// quietFor is how long nobody must have come for a rush of connections to be over.
	quietFor = time.Second
	// rush is how many connections make one: fewer leave too little behind to be worth a collection.
	rush = 256
)

// giveBack calls free, which returns memory to the system, at the first tick at which a rush of connections is over; until ctx ends. A
// handshake leaves several times the memory behind that its session needs, and by itself Go keeps as much garbage as there is of what
// lives: with sessions that are quiet, for as long as they last. A collection costs what all sessions hold, so the more there are, the more
// must have come for the next one; and a steady trickle, which is never over, pays nothing.
func (l *sessions) giveBack(ctx context.Context, ticks <-chan time.Time, free func()) {
	var before, given uint64 // connections so far: at the last tick, and when memory was last given back
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		opened, live := l.sofar()
		if opened == before && opened-given >= max(rush, live/8) {
			free()
			given = opened
		}
		before = opened
	}
}
