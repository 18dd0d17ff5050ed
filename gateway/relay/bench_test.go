package relay

import (
	"crypto/tls"
	"io"
	"runtime"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// What a relayed frame costs: a message to the agent and its answer, one after the other. It fails
// when the relay allocates for a frame. crypto/tls itself allocates once each time that it tries
// to read a record, at the peers' ends as at the gateway's, and the gateway's end tries a second
// time to find out that there is no more; so over TLS the measure is what a connection without a
// relay allocates.
func BenchmarkRelayedFrame(b *testing.B) {
	var there, back []byte
	trip := func(b *testing.B, client, agent io.ReadWriter, buf []byte) {
		client.Write(there)
		io.ReadFull(agent, buf[:len(there)])
		agent.Write(back)
		if _, err := io.ReadFull(client, buf[:len(back)]); err != nil {
			b.Fatal(err)
		}
	}
	ample := Pace{MessagesPerSecond: 1e9, CountBinary: true, BytesPerSecond: 1e12, BytesBurst: 1 << 40} // limits that hold nothing back
	for _, kind := range []struct {
		name    string
		version uint16
		pace    Pace
		size    int
	}{
		{"plain", 0, Pace{}, 128}, {"plain with limits", 0, ample, 128}, {"plain and long", 0, Pace{}, 3 * long},
		{"TLS", tls.VersionTLS13, Pace{}, 128}, {"TLS with limits", tls.VersionTLS13, ample, 128},
	} {
		b.Run(kind.name, func(b *testing.B) {
			there = rawws.Make(rawws.Fin|rawws.Text, make([]byte, kind.size), true)
			back = rawws.Make(rawws.Fin|rawws.Text, make([]byte, kind.size), false)
			buf := make([]byte, len(there))
			inside, outside := connect(b, kind.version, true)
			direct := mallocs(500, func() { trip(b, outside, inside, buf) })

			client, outerClient := connect(b, kind.version, true)
			agent, outerAgent := connect(b, kind.version, false)
			rules := lasting
			rules.Lanes, rules.FromClient, rules.FromAgent = running(b), kind.pace, kind.pace
			r, err := New(client, agent, nil, nil, 0, rules)
			if err != nil {
				b.Fatal(err)
			}
			over := make(chan *outcome.Ending, 1)
			r.Launch(func(e *outcome.Ending) { over <- e })
			for range 100 { // until every buffer has its size
				trip(b, outerClient, outerAgent, buf)
			}
			if n := mallocs(500, func() { trip(b, outerClient, outerAgent, buf) }); n > 3*direct+0.05 {
				b.Errorf("%.3f allocations a round trip, of which TLS needs %.3f", n, 3*direct)
			}
			for b.Loop() {
				trip(b, outerClient, outerAgent, buf)
			}
			outerClient.Close()
			outerAgent.Close()
			<-over
		})
	}
}

// mallocs returns how often the process allocates while f is called once, over n calls.
func mallocs(n int, f func()) float64 {
	var before, after runtime.MemStats
	f()
	runtime.ReadMemStats(&before)
	for range n {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n)
}
