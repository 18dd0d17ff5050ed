package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Departure is how the gateway takes its leave: at once it is not ready any more.
type Departure struct {
	// Delay is for how long WebSockets are still taken.
	Delay time.Duration
	// Spread is over how long the sessions are told after that.
	Spread time.Duration
	// Window is how long after Delay what is left is cut.
	Window time.Duration
}

// NewDeparture returns the departure that a configuration asks for. The last session to be told
// needs time to answer its Close, too.
func NewDeparture(s config.Session) Departure {
	return Departure{Delay: s.DrainDelay, Spread: s.DrainTimeout * 4 / 5, Window: s.DrainTimeout}
}

// leave drains. The listeners stay open while it lasts, so that probes and refused handshakes
// get an answer.
func (g *Gateway) leave(ctx context.Context, public *http.Server, d Departure) {
	begun := time.Now()
	g.drain(d, true)
	g.fleet.leave()
	ctx, cancel := context.WithDeadline(ctx, begun.Add(d.Delay+d.Window))
	defer cancel()
	g.sessions.Wait(ctx)
	public.Shutdown(ctx) // plain HTTP that is still under way
	g.log.Info("drained")
}

// drain begins a drain of all sessions, unless one lasts that must not give way to it. It does not
// wait.
func (g *Gateway) drain(d Departure, final bool) {
	lead := min(d.Spread/10, time.Second) // in which a load balancer can notice that the gateway is not ready
	ending := outcome.End(outcome.Drain, "")
	ending.Code = g.Config().Session.DrainCode
	if g.sessions.Drain(session.Drain{Delay: d.Delay, Lead: lead, Spread: d.Spread - lead, Ending: ending, Final: final}) {
		g.log.Info("draining", "delay", d.Delay.Seconds(), "window", d.Window.Seconds())
	}
}

// drainSummary is the answer to /drain.
type drainSummary struct {
	Draining bool `json:"draining"`
	Sessions int  `json:"sessions"` // live ones
}

// answerDrain begins a drain after which the process stays. One that lasts already is not
// changed.
func (g *Gateway) answerDrain(w *changeWriter, _ *http.Request) {
	g.drain(NewDeparture(g.Config().Session), false)
	writeJSON(w, http.StatusAccepted, drainSummary{true, g.sessions.Len()})
}

// answerUndrain takes a drain back for the sessions that were not told yet.
func (g *Gateway) answerUndrain(w *changeWriter, _ *http.Request) {
	if !g.sessions.Undrain() {
		writeProblem(w, http.StatusConflict, "the process is ending; this cannot be undone")
		return
	}
	writeJSON(w, http.StatusOK, drainSummary{false, g.sessions.Len()})
}
