package relay

import "time"

// parkAfter is for how long no message must have moved, either way, for a session to be quiet.
const parkAfter = time.Second

// maxParked is how often a direction is parked within the time that makes it quiet. A Ping and a
// Pong, of either side, are within that; a peer that sends them without a pause would have
// goroutines made and ended all the time.
const maxParked = 4

// NewLanes returns lanes that the caller must Run, and Close when no relay is left.
func NewLanes() (*Lanes, error) { return newLanes(parkAfter) }

// Settled returns how often a direction has fallen silent after messages so far; a silence after
// Pings and Pongs alone does not count.
func (l *Lanes) Settled() uint64 { return l.settled.Load() }

// wake makes the direction look around: its read returns with a timeout, or it gets a goroutine
// again.
func (p *pump) wake() {
	p.r.parking.Lock()
	defer p.r.parking.Unlock()
	if !p.unpark() {
		p.src.readBy(time.Unix(1, 0))
	}
}

// resume gives the direction a goroutine, if it is parked.
func (p *pump) resume() {
	p.r.parking.Lock()
	defer p.r.parking.Unlock()
	p.unpark()
}

// unpark is resume, with the lock held; it reports whether the direction was parked.
func (p *pump) unpark() bool {
	if !p.parked {
		return false
	}
	p.parked = false
	if p.alarm != nil {
		p.alarm.Stop()
	}
	p.r.rules.Lanes.forget(p)
	go p.run()
	return true
}

// park leaves the direction without a goroutine: the caller's must return. False when there is
// something to do first, or no room.
func (p *pump) park() bool {
	p.r.parking.Lock()
	defer p.r.parking.Unlock()
	if p.r.ending.Load() != nil || p.r.first.Load() != nil {
		return false
	}
	lot, now := p.r.rules.Lanes, p.r.now()
	if err := lot.watch(p); err != nil {
		p.awake = true
		return false
	}
	if next := p.next(); next != never {
		wait := next - now
		if p.alarm == nil {
			p.alarm = time.AfterFunc(wait, p.resume)
		} else {
			p.alarm.Reset(wait)
		}
	}
	if moved := p.r.lastMoved(); moved != p.settled {
		p.settled = moved
		lot.settled.Add(1)
	}
	if now-p.since >= lot.after {
		p.often, p.since = 0, now
	}
	p.often++
	p.parked = true
	return true
}
