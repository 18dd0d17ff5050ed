//go:build linux

package main

import (
	"context"
	"fmt"
	"time"
)

// largest is how many sessions a process may have if it may open 20,000 files.
const largest = 9000

const memory = "MiB RSS"

// scales are the scenarios of -scale: memory, and CPU time with the gateway's Pings, of few and of
// many sessions.
func scales() (all []scenario) {
	for _, tls := range []bool{true, false} {
		scheme := "ws"
		if tls {
			scheme = "wss"
		}
		for _, n := range []int{1000, 5000, largest} {
			all = append(all, scenario{
				name: fmt.Sprintf("scale/%s/%d", scheme, n), units: []string{memory, "% of a core"},
				setup: setup{TLS: tls}, fresh: true, rounds: 1,
				run: func(ctx context.Context, b *bench, p *proxy) ([]float64, error) { return b.scaled(ctx, p, n) },
			})
		}
	}
	return all
}

// pingRounds is how long the gateway with its defaults takes to ping all sides twice: each has been
// silent for 25 s then, and for up to a tenth longer.
const pingRounds = 2 * (25*time.Second + 25*time.Second/20)

// scaled is the memory that n quiet sessions take, and the CPU time for their timers and Pings, as
// a share of one core, while each side of each session gets two Pings.
func (b *bench) scaled(ctx context.Context, p *proxy, n int) ([]float64, error) {
	before, err := p.settledRSS(ctx, 2*time.Second, settle)
	if err != nil {
		return nil, err
	}
	if err := b.open(ctx, p, pathEcho, n); err != nil {
		return nil, err
	}
	if err := b.call(ctx, "Rest", None{}, &None{}); err != nil {
		return nil, err
	}
	used, err := p.threads()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := pause(ctx, pingRounds); err != nil {
		return nil, err
	}
	after, err := p.threads()
	if err != nil {
		return nil, err
	}
	share := float64(after-used) / float64(time.Since(begin))
	held, err := p.settledRSS(ctx, 5*time.Second, settle)
	if err != nil {
		return nil, err
	}
	return []float64{float64(held-before) / (1 << 20), 100 * share}, b.call(ctx, "Close", None{}, &None{})
}

// straight returns the line that comes nearest to some points (least squares): y is about
// base + slope * x.
func straight(x, y []float64) (base, slope float64) {
	var n, sx, sy, sxx, sxy float64
	for i := range x {
		n, sx, sy, sxx, sxy = n+1, sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	slope = (n*sxy - sx*sy) / (n*sxx - sx*sx)
	return (sy - slope*sx) / n, slope
}

// lines tell what the line through the memory of few and many sessions is, and what it would be
// of a million.
func (r report) lines() (text []string) {
	for _, scheme := range []string{"wss", "ws"} {
		for _, name := range r.Machine.Proxies {
			var x, y []float64
			for _, s := range r.Results {
				var n float64
				_, err := fmt.Sscanf(s.Name, "scale/"+scheme+"/%g", &n)
				if err != nil || s.Unit != memory || len(s.Rounds[name]) == 0 {
					continue
				}
				x, y = append(x, n), append(y, spreadOf(s.Rounds[name]).median)
			}
			if len(x) < 2 {
				continue
			}
			base, slope := straight(x, y)
			text = append(text, fmt.Sprintf("%s, %s: %s KiB for each session and %s MiB for all; with a million that would be %s GiB",
				scheme, name, short(slope*1024), short(base), short((base+slope*1e6)/1024)))
		}
	}
	return text
}
