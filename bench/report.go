//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is what is printed in the end.
type report struct {
	Machine machine  `json:"machine"`
	TLS     string   `json:"tls,omitempty"` // what clients and proxies have agreed on
	Results []result `json:"results"`
}

// machine is the machine and the versions that were measured.
type machine struct {
	CPU    string            `json:"cpu"`
	Cores  int               `json:"cores"`
	Kernel string            `json:"kernel"`
	Go     string            `json:"go"`
	Peers  map[string]string `json:"versions"`
}

// result is one scenario.
type result struct {
	Name   string               `json:"name"`
	Unit   string               `json:"unit"`
	Need   float64              `json:"need,omitempty"` // at most
	Of     string               `json:"of,omitempty"`   // what Need is about
	Rounds map[string][]float64 `json:"rounds"`         // by proxy, in order
}

// spread is the lowest, the median and the highest of several numbers.
type spread struct{ low, median, high float64 }

func spreadOf(v []float64) spread {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return spread{v[0], (v[(n-1)/2] + v[n/2]) / 2, v[n-1]}
}

func (s spread) String() string {
	return fmt.Sprintf("%s (%s–%s)", short(s.median), short(s.low), short(s.high))
}

// short has three digits that count.
func short(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}

// ratios are those of the gateway to HAProxy in neighbouring rounds.
func (r result) ratios() []float64 {
	ratios := slices.Clone(r.Rounds["gateway"])
	for i, v := range r.Rounds["haproxy"] {
		ratios[i] /= v
	}
	return ratios
}

func (r report) table(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d cores, Linux %s, %s\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Go)
	for _, name := range []string{"gateway", "haproxy"} {
		fmt.Fprintf(w, "%s: %s\n", name, r.Machine.Peers[name])
	}
	if r.TLS != "" {
		fmt.Fprintf(w, "TLS: %s\n", r.TLS)
	}
	fmt.Fprintln(w, "median of the rounds (lowest–highest)")
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "\nscenario\tunit\tgateway\thaproxy\tratio\twanted")
	for _, s := range r.Results {
		wanted := ""
		if s.Need > 0 {
			wanted = fmt.Sprintf("%s ≤ %g", s.Of, s.Need)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Unit,
			spreadOf(s.Rounds["gateway"]), spreadOf(s.Rounds["haproxy"]), spreadOf(s.ratios()), wanted)
	}
	return t.Flush()
}

func (r report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// describe returns the machine and the versions. What cannot be found out stays empty.
func describe(ctx context.Context, kinds []kind) machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Peers: map[string]string{}}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(release))
	for _, k := range kinds {
		text, _ := exec.CommandContext(ctx, k.binary, k.version).Output()
		m.Peers[k.name], _, _ = strings.Cut(string(text), "\n")
	}
	return m
}
