package relay

import (
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// A process may be stopped for a while, with what its sessions have got meanwhile not read.
func TestSessionIsNotIdleBecauseItsGoroutinesHaveStoppedForAWhile(t *testing.T) {
	rules := lasting
	rules.IdleTimeout = time.Minute
	j := join(t, rules, 0, nil, nil)
	driver, ok := j.run.(*threads)
	if !ok {
		t.Fatalf("it is driven by %T", j.run)
	}
	stops := func(meanwhile func()) {
		driver.mu.Lock()
		meanwhile()
		driver.start = driver.start.Add(-2 * rules.IdleTimeout)
		driver.mu.Unlock()
		driver.tick()
	}
	stops(func() { j.client.Say(j.client.Frame(rawws.Fin|rawws.Text, "still here")) })
	j.agent.Hears(rawws.Fin|rawws.Text, "still here")
	wstest.Eventually(t, "the machine knows that the agent has taken it", func() bool {
		driver.mu.Lock()
		defer driver.mu.Unlock()
		return !driver.m.up.full
	})
	stops(func() {})
	j.client.HearsClose(1000, "idle")
	j.agent.HearsClose(1001, "idle")
	j.over(outcome.Idle, 1000, "")
}
