//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// scenario is one thing that is measured.
type scenario struct {
	name  string
	units []string // of what run returns
	most  float64  // what is asked of the first of them; 0: nothing is
	of    string   // what that is about: the ratio to a peer, or "gateway": its own number
	setup
	fresh  bool // a new process for each round, as memory shows what went before
	rounds int  // at most
	run    func(context.Context, *bench, *proxy) ([]float64, error)
}

// What is measured.
const (
	perTrip    = "µs CPU per round trip"
	perMessage = "µs CPU per message"
	perMiB     = "µs CPU per MiB"
	perOpening = "µs CPU per connection"
	perSession = "KiB RSS per session"
	moreInUse  = "KiB RSS more per session in use"
	median     = "µs, p50"
	p99        = "µs, p99"
	p999       = "µs, p99.9"
)

// scenarios are all of them, in the order in which they run.
func scenarios(f flags) []scenario {
	type run = func(context.Context, *bench, *proxy) ([]float64, error)
	echo := func(size, messages int) run {
		return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
			used, _, err := b.relayed(ctx, p, pathEcho, f.conns, "Echo", Messages{Number: messages, Size: size})
			return []float64{micros(used) / float64(f.conns*messages)}, err
		}
	}
	// Streams: few connections, as one alone would leave a core idle.
	const streams, frames = 4, 2000
	stream := func(path, what string) run {
		return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
			used, err := b.streamed(ctx, p, path, streams, what, Messages{Number: frames, Size: streamSize})
			return []float64{micros(used) / (streams * frames * streamSize / float64(1<<20))}, err
		}
	}
	sent, received := stream(pathSink, "Send"), stream(pathSource, "Receive")
	// Paced: many sessions, each of which sends a message now and then.
	paced := func(sessions, number int, every time.Duration) run {
		return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
			used, l, err := b.relayed(ctx, p, pathEcho, sessions, "Echo", Messages{Number: number, Size: 128, Every: every})
			return append([]float64{micros(used) / float64(sessions*number)}, l.values()...), err
		}
	}
	sparse := paced(1000, 3, 2*time.Second)
	// Answer: what agents do. A question, and its answer in many small messages.
	answer := func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		const sessions, questions, messages = 64, 6, 200
		m := Messages{Number: messages, Size: answerSize, Every: 300 * time.Millisecond, Questions: questions}
		used, l, err := b.relayed(ctx, p, pathAnswer, sessions, "Ask", m)
		return append([]float64{micros(used) / (sessions * questions * messages)}, l.values()...), err
	}
	handshake := func(fresh, resume bool) run {
		return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
			return b.handshakes(ctx, p, 500, fresh, resume)
		}
	}
	storm := func(ctx context.Context, b *bench, p *proxy) ([]float64, error) { return b.storm(ctx, p, 2000) }
	idle := func(still time.Duration) run {
		return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
			return b.held(ctx, p, f.sessions, still)
		}
	}
	inUse := func(ctx context.Context, b *bench, p *proxy) ([]float64, error) { return b.inUse(ctx, p, 1000) }
	flood := func(ctx context.Context, b *bench, p *proxy) ([]float64, error) { return b.flooded(ctx, p, 999) }

	timed := []string{perTrip, median, p99, p999}
	asked := []string{perMessage, median, p99, p999}
	plain, wss, apart := setup{}, setup{TLS: true}, setup{Apart: true}
	pinged := func(s setup) setup { s.Pings = 5 * time.Second; return s }
	quietly := func(s setup) setup { s.Pings = time.Hour; return s }
	opening, storming := []string{perOpening}, []string{perOpening, "ms for all"}
	flooding := []string{"p99 with a flood ÷ without", "µs, p99 without", "µs, p99 with", "MiB/s of the flood"}
	one := func(unit string) []string { return []string{unit} }
	const haproxy, best, gateway = "haproxy", "best", "gateway"
	var all []scenario
	add := func(s ...scenario) { all = append(all, s...) }
	add(
		scenario{name: "echo/128/wss", units: one(perTrip), most: 0.75, of: haproxy, setup: wss, run: echo(128, f.messages)},
		scenario{name: "echo/128/ws", units: one(perTrip), most: 0.9, of: haproxy, setup: plain, run: echo(128, f.messages)},
		scenario{name: "echo/16384/wss", units: one(perTrip), most: 0.8, of: best, setup: wss, run: echo(16<<10, f.messages/4)},
		scenario{name: "echo/16384/ws", units: one(perTrip), most: 1, of: best, setup: plain, run: echo(16<<10, f.messages/4)},
		scenario{name: "stream/to-agent/wss", units: one(perMiB), most: 0.8, of: best, setup: wss, run: sent},
		scenario{name: "stream/to-client/wss", units: one(perMiB), most: 0.8, of: best, setup: wss, run: received},
		scenario{name: "stream/to-agent/ws", units: one(perMiB), most: 1, of: best, setup: plain, run: sent},
		scenario{name: "stream/to-client/ws", units: one(perMiB), most: 1, of: best, setup: plain, run: received},
	)
	for _, s := range []setup{wss, plain} {
		scheme, answers, known, fresh, storms := "ws", 0.9, 1.1, 1.4, 0.0
		if s.TLS {
			scheme, answers, known, fresh, storms = "wss", 0.8, 0.7, 0.8, 0.8
		}
		rs, es := s, s
		rs.Alg, es.Alg = "RS256", "ES256"
		add(
			scenario{name: "sparse/" + scheme, units: timed, most: 0.9, of: haproxy, setup: s, rounds: 3, run: sparse},
			scenario{name: "paced/" + scheme, units: timed, most: 0.9, of: haproxy, setup: s, run: paced(100, 120, 50*time.Millisecond)},
			scenario{name: "answer/" + scheme, units: asked, most: answers, of: haproxy, setup: s, run: answer},
			scenario{name: "handshake/known/" + scheme, units: opening, most: known, of: haproxy, setup: s, run: handshake(false, false)},
			scenario{name: "handshake/RS256/" + scheme, units: opening, most: fresh, of: haproxy, setup: rs, run: handshake(true, false)},
			scenario{name: "handshake/ES256/" + scheme, units: opening, most: fresh, of: haproxy, setup: es, run: handshake(true, false)},
		)
		if s.TLS {
			add(scenario{name: "handshake/resumed/wss", units: opening, setup: s, run: handshake(false, true)})
		}
		add(scenario{name: "storm/" + scheme, units: storming, most: storms, of: haproxy, setup: s, rounds: 3, run: storm})
	}
	// A new process for each round: memory shows what went before.
	held := func(name, unit string, s setup, most float64, run run) scenario {
		return scenario{name: name, units: one(unit), most: most, of: gateway, setup: s, fresh: true, rounds: 1, run: run}
	}
	add(
		held("idle/wss", perSession, quietly(wss), 11, idle(f.still)),
		held("idle/ws", perSession, quietly(plain), 5, idle(f.still)),
		held("pinged/wss", perSession, pinged(wss), 11, idle(16*time.Second)),
		held("pinged/ws", perSession, pinged(plain), 5, idle(16*time.Second)),
		held("in-use/wss", moreInUse, wss, 2, inUse),
		held("in-use/ws", moreInUse, plain, 2, inUse),
		scenario{name: "flood/ws", units: flooding, most: 2, of: gateway, setup: apart, rounds: 5, run: flood},
	)
	return all
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// values are in the order of the units.
func (l Latency) values() []float64 {
	return []float64{micros(l.P50), micros(l.P99), micros(l.P999)}
}

// aftermath is the time after many handshakes in which a proxy may still work for them, to clean up
// for example. It counts for the handshakes, not for the messages that come next.
const aftermath = 1200 * time.Millisecond

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// relayed returns the CPU time that p takes while its clients do something, and how long they wait
// for answers; opening and closing are not in it.
func (b *bench) relayed(ctx context.Context, p *proxy, path string, conns int, what string, m Messages) (
	used time.Duration, l Latency, err error,
) {
	if err := b.open(ctx, p, path, conns); err != nil {
		return 0, l, err
	}
	if m.Every > 0 { // all sessions together are not much busier than the aftermath
		if err := pause(ctx, aftermath); err != nil {
			return 0, l, err
		}
	}
	if used, err = b.cost(ctx, p, what, m, &l, 0); err != nil {
		return 0, l, err
	}
	b.late = max(b.late, micros(l.Late))
	return used, l, b.call(ctx, "Close", None{}, &None{})
}

// streamed is relayed for what has no answers.
func (b *bench) streamed(ctx context.Context, p *proxy, path string, conns int, what string, m Messages) (used time.Duration, err error) {
	if err := b.open(ctx, p, path, conns); err != nil {
		return 0, err
	}
	if used, err = b.cost(ctx, p, what, m, &None{}, 0); err != nil {
		return 0, err
	}
	return used, b.call(ctx, "Close", None{}, &None{})
}

// cost is the CPU time that p takes for what the load process does, and for a time after that. It
// notes how much of the machine the load process takes meanwhile.
func (b *bench) cost(ctx context.Context, p *proxy, what string, args, reply any, after time.Duration) (time.Duration, error) {
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	begin, load := time.Now(), b.loadCPU()
	if err := b.call(ctx, what, args, reply); err != nil {
		return 0, p.failed(err)
	}
	b.share = max(b.share, float64(b.loadCPU()-load)/float64(time.Since(begin))/float64(len(b.cores)))
	if err := pause(ctx, after); err != nil {
		return 0, err
	}
	end, err := p.cpu()
	return end - before, err
}

// handshakes is the CPU time in microseconds of one connection that is opened and closed again,
// with a token that is new to the proxy or one that it knows, and with a TLS session of before or
// a new one.
func (b *bench) handshakes(ctx context.Context, p *proxy, n int, fresh, resume bool) ([]float64, error) {
	t := b.target(p, pathEcho, repeat(p.issuer.known, n))
	if fresh {
		var err error
		if t.Tokens, err = p.issuer.tokens(n); err != nil {
			return nil, err
		}
	}
	t.Resume = resume
	var resumed int
	used, err := b.cost(ctx, p, "Handshakes", t, &resumed, aftermath)
	if err == nil && resume && resumed < n-parallel {
		err = fmt.Errorf("%s: %d of %d connections have resumed a TLS session", p.name, resumed, n)
	}
	return []float64{micros(used) / float64(n)}, err
}

// storm has n clients connect at once. It returns the CPU time of one connection in microseconds
// and the time for all in milliseconds.
func (b *bench) storm(ctx context.Context, p *proxy, n int) ([]float64, error) {
	t := b.target(p, pathEcho, repeat(p.issuer.known, n))
	var took time.Duration
	used, err := b.cost(ctx, p, "Storm", t, &took, aftermath)
	if err != nil {
		return nil, err
	}
	return []float64{micros(used) / float64(n), float64(took) / float64(time.Millisecond)}, b.call(ctx, "Close", None{}, &None{})
}

// held is the memory in KiB that p holds for one session that is quiet after one message, as soon
// as it has not changed for a while. Some sessions are opened and closed before, so that the
// program's own pages do not count.
func (b *bench) held(ctx context.Context, p *proxy, n int, still time.Duration) ([]float64, error) {
	one := Messages{Number: 1, Size: 128}
	if _, _, err := b.relayed(ctx, p, pathEcho, 100, "Echo", one); err != nil {
		return nil, err
	}
	before, err := p.settledRSS(ctx, min(10*time.Second, still), settle)
	if err != nil {
		return nil, err
	}
	if err := b.open(ctx, p, pathEcho, n); err != nil {
		return nil, err
	}
	if err := b.call(ctx, "Echo", one, &Latency{}); err != nil {
		return nil, p.failed(err)
	}
	if err := b.call(ctx, "Rest", None{}, &None{}); err != nil {
		return nil, err
	}
	after, err := p.settledRSS(ctx, still, settle)
	if err != nil {
		return nil, err
	}
	if err := b.call(ctx, "Close", None{}, &None{}); err != nil {
		return nil, p.failed(err)
	}
	return []float64{float64(after-before) / float64(n) / 1024}, nil
}

// settle is how long memory may take to settle.
const settle = 3 * time.Minute

// inUse is how much more memory in KiB p holds at most for a session while its agent answers
// questions than when all are quiet.
func (b *bench) inUse(ctx context.Context, p *proxy, n int) ([]float64, error) {
	if err := b.open(ctx, p, pathAnswer, n); err != nil {
		return nil, err
	}
	quiet, err := p.settledRSS(ctx, 3*time.Second, settle)
	if err != nil {
		return nil, err
	}
	asked := make(chan error, 1)
	go func() {
		m := Messages{Number: 50, Size: answerSize, Every: time.Second, Questions: 5}
		asked <- b.call(ctx, "Ask", m, &Latency{})
	}()
	most := quiet
	for {
		select {
		case err := <-asked:
			if err != nil {
				return nil, p.failed(err)
			}
			return []float64{float64(most-quiet) / float64(n) / 1024}, b.call(ctx, "Close", None{}, &None{})
		case <-time.After(100 * time.Millisecond):
			now, err := p.rss()
			if err != nil {
				return nil, err
			}
			most = max(most, now)
		}
	}
}

// flooded is by how much a session that floods its agent makes n others wait, each of which sends
// a message every two seconds. What is measured is how long messages wait in the proxy, not how
// long anything waits for a processor: the proxy has cores of its own, and client and agent of the
// flood get only the time that the other clients and their agent leave.
func (b *bench) flooded(ctx context.Context, p *proxy, n int) ([]float64, error) {
	if err := b.flood.call(ctx, "Open", b.target(p, pathFlood, repeat(p.issuer.known, 1)), new(string)); err != nil {
		return nil, p.failed(err)
	}
	if err := b.open(ctx, p, pathEcho, n); err != nil {
		return nil, err
	}
	if err := pause(ctx, aftermath); err != nil {
		return nil, err
	}
	m := Messages{Number: 4, Size: 128, Every: 2 * time.Second}
	var without, with Latency
	if err := b.call(ctx, "Echo", m, &without); err != nil {
		return nil, p.failed(err)
	}
	if err := b.flood.call(ctx, "Flood", Messages{Size: streamSize}, &None{}); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := b.call(ctx, "Echo", m, &with); err != nil {
		return nil, p.failed(err)
	}
	var bytes int64
	if err := b.flood.call(ctx, "Ebb", None{}, &bytes); err != nil {
		return nil, err
	}
	rate := float64(bytes) / (1 << 20) / time.Since(begin).Seconds()
	for _, l := range []*loader{b.load, b.flood} {
		if err := l.call(ctx, "Close", None{}, &None{}); err != nil {
			return nil, p.failed(err)
		}
	}
	return []float64{float64(with.P99) / float64(without.P99), micros(without.P99), micros(with.P99), rate}, nil
}

// target is p for clients that bring these tokens.
func (b *bench) target(p *proxy, path string, tokens []string) Target {
	t := Target{Addr: p.addr, Path: path, Tokens: tokens, Hybrid: b.hybrid}
	if p.tls {
		t.CA = b.ca
	}
	return t
}

// open has n clients connect through p. They must agree on the same TLS parameters with all
// proxies, unless the hybrid was asked for.
func (b *bench) open(ctx context.Context, p *proxy, path string, n int) error {
	var agreed string
	if err := b.call(ctx, "Open", b.target(p, path, repeat(p.issuer.known, n)), &agreed); err != nil {
		return p.failed(err)
	}
	switch {
	case !p.tls || slices.Contains(b.agreed, agreed):
	case len(b.agreed) == 0 || b.hybrid:
		b.agreed = append(b.agreed, agreed)
	default:
		return fmt.Errorf("%s speaks %s, another %s: they cannot be compared", p.name, agreed, b.agreed[0])
	}
	return nil
}

func repeat(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}
