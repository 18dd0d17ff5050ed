//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
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
	CPU     string   `json:"cpu"`
	Cores   int      `json:"cores"`
	Kernel  string   `json:"kernel"`
	Go      string   `json:"go"`
	Proxies []string `json:"proxies"` // in the order of their turns, the gateway first
	// Versions are those of the proxies, in the same order.
	Versions []string `json:"versions"`
}

// result is one thing that was measured in one scenario.
type result struct {
	Name   string               `json:"name"`
	Unit   string               `json:"unit"`
	Most   float64              `json:"most,omitempty"` // what is asked for
	Of     string               `json:"of,omitempty"`   // what that is about: the ratio to a proxy, or to the best of them; or the gateway
	Rounds map[string][]float64 `json:"rounds"`         // by proxy, in order
	Load   float64              `json:"load,omitempty"` // the share of the machine's CPU time that the load process took, at most
	Late   float64              `json:"late,omitempty"` // by how many µs its clients were woken too late, 99 of 100, at most
}

// The load process sets the pace, and not the proxy, from this share of the CPU time on; and
// latencies say little when its clients are woken later than this, in microseconds.
const (
	busy  = 0.6
	tardy = 2000
)

// spread is the lowest, the median and the highest of several numbers.
type spread struct{ low, median, high float64 }

func spreadOf(v []float64) spread {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return spread{v[0], (v[(n-1)/2] + v[n/2]) / 2, v[n-1]}
}

func (s spread) String() string {
	if s.low == s.high {
		return short(s.median)
	}
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

// ratios are those of the gateway to a peer in neighbouring rounds.
func (r result) ratios(peer string) []float64 {
	ratios := slices.Clone(r.Rounds["gateway"])
	for i, v := range r.Rounds[peer] {
		ratios[i] /= v
	}
	return ratios
}

// is returns the number about which something is asked, and whether there is one.
func (r result) is() (is float64, ok bool) {
	if r.Most == 0 {
		return 0, false
	}
	if r.Of == "gateway" {
		return spreadOf(r.Rounds["gateway"]).median, true
	}
	for peer := range r.Rounds {
		if peer != "gateway" && peer != "against" && (r.Of == peer || r.Of == "best") {
			is, ok = max(is, spreadOf(r.ratios(peer)).median), true
		}
	}
	return is, ok
}

// wanted tells what is asked for, and whether that is so.
func (r result) wanted() string {
	is, ok := r.is()
	if !ok {
		return ""
	}
	what := map[string]string{"gateway": "", "best": " × the best"}
	of, special := what[r.Of]
	if !special {
		of = " × " + r.Of
	}
	if is <= r.Most {
		return fmt.Sprintf("≤ %g%s: met", r.Most, of)
	}
	return fmt.Sprintf("≤ %g%s: %s", r.Most, of, short(is))
}

// cells are what a table has about each proxy: the median with its spread, and the ratio to it.
func (r result) cells(proxies []string) []string {
	cells := make([]string, len(proxies))
	for i, name := range proxies {
		switch v := r.Rounds[name]; {
		case len(v) == 0:
			cells[i] = "–"
		case i == 0:
			cells[i] = spreadOf(v).String()
		default:
			cells[i] = spreadOf(v).String()
			if ratio := spreadOf(r.ratios(name)).median; !math.IsInf(ratio, 0) && !math.IsNaN(ratio) { // the peer's is not 0
				cells[i] += "; × " + short(ratio)
			}
		}
	}
	return cells
}

// head are the machine and the versions, one a line.
func (r report) head() []string {
	m := r.Machine
	lines := []string{fmt.Sprintf("%s, %d cores, Linux %s, %s", m.CPU, m.Cores, m.Kernel, m.Go)}
	for i, name := range m.Proxies {
		lines = append(lines, name+": "+m.Versions[i])
	}
	if r.TLS != "" {
		lines = append(lines, "TLS: "+r.TLS)
	}
	return lines
}

// remarks are what a reader has to know beside the single results.
func (r report) remarks() []string {
	lines := r.lines()
	for _, s := range r.Results {
		if s.Load > busy {
			lines = append(lines, fmt.Sprintf("%s: clients and agent took %.0f %% of the machine's CPU time: "+
				"they set the pace, not the proxies", s.Name, 100*s.Load))
		}
		if s.Late > tardy {
			lines = append(lines, fmt.Sprintf("%s: one of 100 clients was woken %.1f ms too late: "+
				"the machine was busy, and latencies say little", s.Name, s.Late/1000))
		}
	}
	return lines
}

func (r report) table(w io.Writer) error {
	for _, line := range r.head() {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w, "median of the rounds (lowest–highest); × is the gateway's cost divided by that of the peer")
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "\nscenario\tunit\t%s\twanted\n", strings.Join(r.Machine.Proxies, "\t"))
	for _, s := range r.Results {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Name, s.Unit, strings.Join(s.cells(r.Machine.Proxies), "\t"), s.wanted())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, line := range r.remarks() {
		fmt.Fprintln(w, line)
	}
	return nil
}

// The marks between which a Markdown file has the table.
const (
	tableBegin = "<!-- bench: begin -->"
	tableEnd   = "<!-- bench: end -->"
)

// around returns what a Markdown file has before and after the table.
func around(file string) (before, after string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !ok || !ended {
		return "", "", fmt.Errorf("%s has no line %s with a line %s after it", file, tableBegin, tableEnd)
	}
	return before, after, nil
}

// document puts the table into a Markdown file.
func (r report) document(file string) error {
	before, after, err := around(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(before+tableBegin+"\n"+r.markdown()+tableEnd+after), 0o644)
}

func (r report) markdown() string {
	var b strings.Builder
	row := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	for _, line := range r.head() {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	b.WriteString("\n")
	head := append(append([]string{"scenario", "unit"}, r.Machine.Proxies...), "wanted")
	row(head...)
	row(slices.Repeat([]string{"---"}, len(head))...)
	for _, s := range r.Results {
		row(append(append([]string{"`" + s.Name + "`", s.Unit}, s.cells(r.Machine.Proxies)...), s.wanted())...)
	}
	if remarks := r.remarks(); len(remarks) > 0 {
		fmt.Fprintf(&b, "\n- %s\n", strings.Join(remarks, "\n- "))
	}
	return b.String()
}

func (r report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// describe returns the machine and the versions. What cannot be found out stays empty.
func describe(ctx context.Context, kinds []kind) machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
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
		if k.version == "" {
			m.Proxies, m.Versions = append(m.Proxies, k.name), append(m.Versions, "http.ReadRequest and io.Copy")
			continue
		}
		text, _ := exec.CommandContext(ctx, k.binary, k.version).CombinedOutput()
		line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		if _, after, ok := strings.Cut(line, "version: "); ok { // without the path of the program
			line = after
		}
		m.Proxies, m.Versions = append(m.Proxies, k.name), append(m.Versions, line)
	}
	return m
}
