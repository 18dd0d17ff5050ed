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
	name string
	unit string
	need float64 // what is asked for, at most; 0: nothing is
	of   string  // what that is about: "ratio" or "gateway"
	setup
	fresh  bool // a new process for each round, as memory shows what went before
	rounds int  // at most
	run    func(context.Context, *bench, *proxy) (float64, error)
}

// scenarios are all of them, in the order in which they run.
func scenarios(f flags) []scenario {
	echo := func(ctx context.Context, b *bench, p *proxy) (float64, error) {
		m := Messages{Number: f.messages, Size: 128}
		used, err := b.relayed(ctx, p, pathEcho, f.conns, "Echo", m)
		return micros(used) / float64(f.conns*m.Number), err
	}
	// Streams: few connections, as one alone would leave a core idle.
	const streams, frames = 4, 2000
	stream := func(path, what string) func(context.Context, *bench, *proxy) (float64, error) {
		return func(ctx context.Context, b *bench, p *proxy) (float64, error) {
			used, err := b.relayed(ctx, p, path, streams, what, Messages{Number: frames, Size: streamSize})
			return micros(used) / (streams * frames * streamSize / float64(1<<20)), err
		}
	}
	// Paced: many sessions, each of which sends a message now and then.
	paced := func(sessions, number int, every time.Duration) func(context.Context, *bench, *proxy) (float64, error) {
		return func(ctx context.Context, b *bench, p *proxy) (float64, error) {
			used, err := b.relayed(ctx, p, pathEcho, sessions, "Echo", Messages{number, 128, every})
			return micros(used) / float64(sessions*number), err
		}
	}
	answer := func(ctx context.Context, b *bench, p *proxy) (float64, error) {
		const answers, messages = 64, 200
		used, err := b.relayed(ctx, p, pathAnswer, answers, "Ask", Messages{Number: messages, Size: answerSize})
		return micros(used) / (answers * messages), err
	}
	handshake := func(fresh bool) func(context.Context, *bench, *proxy) (float64, error) {
		return func(ctx context.Context, b *bench, p *proxy) (float64, error) {
			return b.handshakes(ctx, p, 500, fresh)
		}
	}
	idle := func(ctx context.Context, b *bench, p *proxy) (float64, error) {
		held, err := b.held(ctx, p, f)
		return float64(held) / 1024, err
	}
	const perMessage = "µs CPU per message"
	const perTrip, perMiB = "µs CPU per round trip", "µs CPU per MiB"
	const perOpening, perSession = "µs CPU per connection", "KiB RSS per session"
	wss := setup{TLS: true}
	return []scenario{
		{name: "echo/wss", unit: perTrip, need: 1.1, of: "ratio", setup: wss, run: echo},
		{name: "echo/ws", unit: perTrip, run: echo},
		{name: "sparse/wss", unit: perTrip, setup: wss, rounds: 3, run: paced(1000, 3, 2*time.Second)},
		{name: "sparse/ws", unit: perTrip, rounds: 3, run: paced(1000, 3, 2*time.Second)},
		{name: "paced/wss", unit: perTrip, setup: wss, rounds: 5, run: paced(100, 60, 50*time.Millisecond)},
		{name: "paced/ws", unit: perTrip, rounds: 5, run: paced(100, 60, 50*time.Millisecond)},
		{name: "answer/wss", unit: perMessage, setup: wss, run: answer},
		{name: "answer/ws", unit: perMessage, run: answer},
		{name: "idle/wss", unit: perSession, need: 20, of: "gateway", setup: wss, fresh: true, rounds: 2, run: idle},
		{name: "idle/ws", unit: perSession, need: 10, of: "gateway", fresh: true, rounds: 2, run: idle},
		{name: "stream/wss/to-agent", unit: perMiB, setup: wss, run: stream(pathSink, "Send")},
		{name: "stream/wss/to-client", unit: perMiB, setup: wss, run: stream(pathSource, "Receive")},
		{name: "stream/ws/to-agent", unit: perMiB, run: stream(pathSink, "Send")},
		{name: "stream/ws/to-client", unit: perMiB, run: stream(pathSource, "Receive")},
		{name: "handshake/wss/known-token", unit: perOpening, setup: wss, run: handshake(false)},
		{name: "handshake/wss/new-token", unit: perOpening, setup: setup{TLS: true, JWT: true}, run: handshake(true)},
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// relayed is the CPU time that p takes while its clients do something; opening and closing are
// not in it.
func (b *bench) relayed(ctx context.Context, p *proxy, path string, conns int, what string, m Messages) (time.Duration, error) {
	if err := b.open(ctx, p, path, b.known, conns); err != nil {
		return 0, err
	}
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	if err := b.call(ctx, what, m, &None{}); err != nil {
		return 0, p.failed(err)
	}
	after, err := p.cpu()
	if err != nil {
		return 0, err
	}
	return after - before, b.call(ctx, "Close", None{}, &None{})
}

// handshakes is the CPU time in microseconds of one connection that is opened and closed again,
// with a token that is new to the proxy or one that it knows.
func (b *bench) handshakes(ctx context.Context, p *proxy, n int, fresh bool) (float64, error) {
	tokens := repeat(b.known, n)
	if fresh {
		var err error
		if tokens, err = b.issuer.tokens(n); err != nil {
			return 0, err
		}
	}
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	if err := b.call(ctx, "Handshakes", b.target(p, pathEcho, tokens), &None{}); err != nil {
		return 0, p.failed(err)
	}
	after, err := p.cpu()
	return micros(after-before) / float64(n), err
}

// held is the memory in bytes that p holds for one session that is quiet after one message.
// Some sessions are opened and closed before, so that the program's own pages do not count.
func (b *bench) held(ctx context.Context, p *proxy, f flags) (int, error) {
	one := Messages{Number: 1, Size: 128}
	if _, err := b.relayed(ctx, p, pathEcho, 100, "Echo", one); err != nil {
		return 0, err
	}
	before, err := p.settledRSS(ctx, min(10*time.Second, f.still), f.settle)
	if err != nil {
		return 0, err
	}
	if err := b.open(ctx, p, pathEcho, b.known, f.sessions); err != nil {
		return 0, err
	}
	if err := b.call(ctx, "Echo", one, &None{}); err != nil {
		return 0, p.failed(err)
	}
	if err := b.call(ctx, "Rest", None{}, &None{}); err != nil {
		return 0, err
	}
	after, err := p.settledRSS(ctx, f.still, f.settle)
	if err != nil {
		return 0, err
	}
	if err := b.call(ctx, "Close", None{}, &None{}); err != nil {
		return 0, p.failed(err)
	}
	return (after - before) / f.sessions, nil
}

// target is p for clients that bring these tokens.
func (b *bench) target(p *proxy, path string, tokens []string) Target {
	t := Target{Addr: p.addr, Path: path, Tokens: tokens, Hybrid: b.hybrid}
	if p.tls {
		t.CA = b.ca
	}
	return t
}

// open has n clients connect through p. They must agree on the same TLS parameters with both
// proxies, unless the hybrid was asked for.
func (b *bench) open(ctx context.Context, p *proxy, path, token string, n int) error {
	var agreed string
	if err := b.call(ctx, "Open", b.target(p, path, repeat(token, n)), &agreed); err != nil {
		return p.failed(err)
	}
	switch {
	case !p.tls || slices.Contains(b.agreed, agreed):
	case len(b.agreed) == 0 || b.hybrid:
		b.agreed = append(b.agreed, agreed)
	default:
		return fmt.Errorf("%s speaks %s, the other %s: they cannot be compared", p.name, agreed, b.agreed[0])
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
