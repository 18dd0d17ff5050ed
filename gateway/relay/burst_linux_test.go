package relay

import (
	"testing"
	"time"
)

func TestBurst(t *testing.T) {
	const soon, late = burstGap - 1, burstGap
	type piece struct {
		after time.Duration // the one before
		size  int
		reply bool // the other side has spoken before it
	}
	small := piece{soon, 64, false}
	for _, tt := range []struct {
		name   string
		pieces []piece
		want   bool // of the last of them
	}{
		{"one piece", []piece{small}, false},
		{"the first three", []piece{small, small, small}, false},
		{"the fourth", []piece{small, small, small, small}, true},
		{"after a pause", []piece{small, small, small, small, {late, 64, false}}, false},
		{"again, after a pause", []piece{small, small, small, small, {late, 64, false}, small, small, small}, true},
		{"a large piece", []piece{small, small, small, small, {soon, burstPiece, false}}, false},
		{"a message and its answer, in turns", []piece{{soon, 64, true}, {soon, 64, true}, {soon, 64, true}, {soon, 64, true}}, false},
		{"the other side speaks in the middle", []piece{small, small, small, {soon, 64, true}, small, small}, false},
	} {
		now, b, got := time.Hour, &burst{}, false
		for _, p := range tt.pieces {
			if p.reply {
				b.end()
			}
			now += p.after
			got = b.read(p.size, now)
		}
		if got != tt.want {
			t.Errorf("%s: burst is %v, want %v", tt.name, got, tt.want)
		}
	}
}
