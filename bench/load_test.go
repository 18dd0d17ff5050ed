//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	if err := load.Handshakes(target(pathEcho), new(int)); err != nil {
		t.Error("handshakes:", err)
	}
	for _, c := range []struct {
		path string
		do   func(Messages) error
		m    Messages
	}{
		{pathEcho, timed(load.Echo), Messages{Number: 10, Size: 0}},
		{pathEcho, timed(load.Echo), Messages{Number: 10, Size: 125}},
		{pathEcho, timed(load.Echo), Messages{Number: 10, Size: 128, Every: time.Millisecond}},
		{pathEcho, timed(load.Echo), Messages{Number: 3, Size: 1 << 16}},
		{pathSink, func(m Messages) error { return load.Send(m, nil) }, Messages{Number: 10, Size: streamSize}},
		{pathSource, func(m Messages) error { return load.Receive(m, nil) }, Messages{Number: 10, Size: streamSize}},
		{pathAnswer, timed(load.Ask), Messages{Number: 10, Size: answerSize, Questions: 2}},
		{pathFlood, func(m Messages) error {
			var took int64
			err := errors.Join(load.Flood(m, nil), load.Ebb(None{}, &took))
			if least := int64(5 * m.Size); took < least {
				t.Errorf("a flood of five clients had %d bytes, want %d at least", took, least)
			}
			return err
		}, Messages{Size: streamSize}},
	} {
		var agreed string
		if err := load.Open(target(c.path), &agreed); err != nil {
			t.Fatalf("%s: open: %v", c.path, err)
		}
		if agreed != "" {
			t.Errorf("%s: plain connections have agreed on %s", c.path, agreed)
		}
		if err := c.do(c.m); err != nil {
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

func TestLatencyIsCountedFromWhenTheMessageWasDue(t *testing.T) {
	here, there := net.Pipe()
	load := &Load{peers: []*peer{newPeer(here, here, pathEcho, true)}}
	defer there.Close()
	var took Latency
	// The first answer is late by several messages, whose own answers come at once.
	first := true
	err := load.timed(4, 10*time.Millisecond, &took, func(*peer) error {
		if first {
			first = false
			<-time.After(100 * time.Millisecond)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if took.P50 < 60*time.Millisecond || took.P999 < 100*time.Millisecond {
		t.Errorf("a client that waits for an answer does not count for the messages that it could not send: %+v", took)
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want string
	}{
		{[]float64{2}, "2.00"},
		{[]float64{30, 10, 20}, "20.0 (10.0–30.0)"},
		{[]float64{400, 100, 300, 200}, "250 (100–400)"},
	} {
		if got := spreadOf(c.of).String(); got != c.want {
			t.Errorf("%v: %s, want %s", c.of, got, c.want)
		}
	}
}

// timed is a call of which only the error counts.
func timed(do func(Messages, *Latency) error) func(Messages) error {
	return func(m Messages) error { return do(m, &Latency{}) }
}

func TestRatiosAreOfNeighbours(t *testing.T) {
	r := result{Rounds: map[string][]float64{"gateway": {2, 9}, "haproxy": {4, 3}}}
	if got := r.ratios("haproxy"); got[0] != 0.5 || got[1] != 3 || r.Rounds["gateway"][0] != 2 {
		t.Errorf("ratios %v, rounds %v", got, r.Rounds)
	}
}

func TestWhatIsWantedIsOfTheBestPeer(t *testing.T) {
	rounds := map[string][]float64{"gateway": {9}, "haproxy": {10}, "nginx": {8}, "against": {1}}
	for _, c := range []struct {
		of   string
		most float64
		want string
	}{
		{"haproxy", 1, "≤ 1 × haproxy: met"},
		{"best", 1, "≤ 1 × the best: 1.12"},
		{"gateway", 10, "≤ 10: met"},
		{"envoy", 1, ""},
		{"", 0, ""},
	} {
		if got := (result{Rounds: rounds, Most: c.most, Of: c.of}).wanted(); got != c.want {
			t.Errorf("of %q: %q, want %q", c.of, got, c.want)
		}
	}
}

func TestTheTableGoesBetweenItsMarks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "performance.md")
	r := report{Machine: machine{Proxies: []string{"gateway", "haproxy"}, Versions: []string{"1", "2"}}, Results: []result{
		{Name: "echo", Unit: "µs", Rounds: map[string][]float64{"gateway": {1}, "haproxy": {2}}, Load: 0.7, Late: 5000},
	}}
	if err := os.WriteFile(file, []byte("a\n"+tableBegin+"\nold\n"+tableEnd+"\nz\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.document(file); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(file)
	for _, want := range []string{
		"a\n" + tableBegin, "| `echo` | µs | 1.00 | 2.00; × 0.50 |  |",
		"took 70 %", "woken 5.0 ms too late", tableEnd + "\nz\n",
	} {
		if !strings.Contains(string(text), want) || strings.Contains(string(text), "old") {
			t.Errorf("%q is not in the text, or what was there before is:\n%s", want, text)
		}
	}
	os.WriteFile(file, []byte("no marks"), 0o600)
	if err := r.document(file); err == nil {
		t.Error("a file without the marks was written")
	}
}

func TestALineGoesThroughTheMemoryOfFewAndManySessions(t *testing.T) {
	r := report{Machine: machine{Proxies: []string{"gateway"}}}
	for n, held := range map[int]float64{1000: 20, 5000: 60, 9000: 100} {
		name := fmt.Sprintf("scale/ws/%d", n)
		r.Results = append(r.Results, result{Name: name, Unit: memory, Rounds: map[string][]float64{"gateway": {held}}})
	}
	want := "ws, gateway: 10.2 KiB for each session and 10.0 MiB for all; with a million that would be 9.78 GiB"
	if got := r.remarks(); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
}
