//go:build linux

package main

import (
	"net"
	"testing"
)

// Without a proxy between them, clients and agent must agree on every message; else a proxy
// would be blamed for it.
func TestClientsAndAgentAgree(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveAgent(l)
	target := func(path string) Target {
		return Target{Addr: l.Addr().String(), Path: path, Tokens: repeat("token", 5)}
	}
	load := &Load{}
	if err := load.Handshakes(target(pathEcho), nil); err != nil {
		t.Error("handshakes:", err)
	}
	for _, c := range []struct {
		path string
		do   func(Messages, *None) error
		m    Messages
	}{
		{pathEcho, load.Echo, Messages{Number: 10, Size: 0}},
		{pathEcho, load.Echo, Messages{Number: 10, Size: 125}},
		{pathEcho, load.Echo, Messages{Number: 10, Size: 128}},
		{pathEcho, load.Echo, Messages{Number: 3, Size: 1 << 16}},
		{pathSink, load.Send, Messages{Number: 10, Size: streamSize}},
		{pathSource, load.Receive, Messages{Number: 10, Size: streamSize}},
		{pathAnswer, load.Ask, Messages{Number: 10, Size: answerSize}},
	} {
		var agreed string
		if err := load.Open(target(c.path), &agreed); err != nil {
			t.Fatalf("%s: open: %v", c.path, err)
		}
		if agreed != "" {
			t.Errorf("%s: plain connections have agreed on %s", c.path, agreed)
		}
		if err := c.do(c.m, nil); err != nil {
			t.Errorf("%s, %d of %d bytes: %v", c.path, c.m.Number, c.m.Size, err)
		}
		if err := load.Rest(None{}, nil); err != nil {
			t.Errorf("%s: rest: %v", c.path, err)
		}
		if err := load.Close(None{}, nil); err != nil {
			t.Errorf("%s: close: %v", c.path, err)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want string
	}{
		{[]float64{2}, "2.00 (2.00–2.00)"},
		{[]float64{30, 10, 20}, "20.0 (10.0–30.0)"},
		{[]float64{400, 100, 300, 200}, "250 (100–400)"},
	} {
		if got := spreadOf(c.of).String(); got != c.want {
			t.Errorf("%v: %s, want %s", c.of, got, c.want)
		}
	}
}

func TestRatiosAreOfNeighbours(t *testing.T) {
	r := result{Rounds: map[string][]float64{"gateway": {2, 9}, "haproxy": {4, 3}}}
	if got := r.ratios(); got[0] != 0.5 || got[1] != 3 || r.Rounds["gateway"][0] != 2 {
		t.Errorf("ratios %v, rounds %v", got, r.Rounds)
	}
}
