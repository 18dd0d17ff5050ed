package gateway

import (
	"context"
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"time"
)

const (
	// quietFor is how long no session may have started before a rush counts as over.
	quietFor = time.Second / 2
	// rush is how often that must have happened, and how many sessions must have stayed: fewer
	// leave too little memory for a collection to pay.
	rush = 256
)

// giveBack calls free, which returns memory to the system, at the first tick after a rush is
// over; until ctx ends. stir returns how many sessions have started so far, and how many there
// are. A handshake leaves several times the memory that its session needs. By itself Go keeps as
// much garbage as there is live data: with quiet sessions, for as long as they last. A
// collection costs as much as all sessions hold, so the more sessions there are, the more of
// them must have started before the next one. A steady trickle of sessions is never over and
// causes no collection. Nor do sessions that have ended: the next ones use their memory again, and
// if none come, Go collects it by itself within two minutes.
func giveBack(ctx context.Context, ticks <-chan time.Time, stir func() (times, live uint64), free func()) {
	var before, given uint64 // times: at the last tick, and when memory was last given back
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		times, live := stir()
		if times == before && live >= rush && times-given >= max(rush, live/8) {
			free()
			given = times
		}
		before = times
	}
}

const (
	// spare is how much garbage there may be before it is collected, even if there is less live
	// data. Handshakes leave almost nothing but garbage: with Go's own least of 4 MiB for both,
	// one of some thirty over TLS would cause a collection.
	spare = 8 << 20
	// normal is the garbage that Go allows, in percent of the live data.
	normal = 100
)

// collectLater lets Go's collector wait until there is some garbage, at each tick until ctx ends.
// live returns how many bytes were live at the last collection; set is debug.SetGCPercent, which
// stops the process for a moment.
func collectLater(ctx context.Context, ticks <-chan time.Time, live func() uint64, set func(percent int) int) {
	now := set(normal)
	if now != normal { // the operator has set GOGC
		set(now)
		return
	}
	defer func() { set(normal) }()
	for {
		if want := percentFor(live()); want < now*3/4 || want > now*4/3 {
			set(want)
			now = want
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}

// percentFor returns how much garbage there may be, in percent of the live data.
func percentFor(live uint64) int {
	const least = 4 << 20 // Go counts less as this
	return max(normal, int(spare*100/max(live, least)))
}

// liveBytes returns how many bytes were live at the last collection.
func liveBytes() uint64 {
	sample := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}}
	gometrics.Read(sample)
	return sample[0].Value.Uint64()
}

// freeAll returns all memory that is not in use to the system. What waits in a sync.Pool is garbage
// after two collections, not after one.
func freeAll() {
	runtime.GC()
	debug.FreeOSMemory()
}
