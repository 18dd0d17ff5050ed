//go:build linux

// Command bench measures the gateway beside HAProxy, nginx and Envoy on this machine, over
// loopback: the CPU time that the proxy itself takes for a round trip, a stream, a handshake, the
// time for which clients wait, and the memory that it holds for a session.
//
// All run at the same time and take turns, round by round, so that other load on the machine
// affects all. The report has the median of the rounds with the lowest and the highest, and the
// median of the ratios of neighbouring rounds. One more process, this program again, holds all
// clients and the agent (load.go); its cost counts for no proxy.
//
//	go run ./bench                                everything; about half an hour
//	go run ./bench -run echo -rounds 21           some scenarios only, more often
//	go run ./bench -against ./before -peers ''    this build beside another one, alone
//	go run ./bench -scale                         1,000, 5,000 and 9,000 sessions
//	go run ./bench -docs docs/performance.md      puts the table into that file, too
//
// It needs Linux (/proc), the peers in PATH, and the go tool to build the gateway. Everything that
// it starts ends with it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// flags are what the command line says.
type flags struct {
	run      string
	rounds   int
	conns    int
	messages int
	sessions int
	still    time.Duration
	json     bool
	docs     string
	scale    bool
	hybrid   bool
	gateway  string
	against  string
	peers    string
}

// loadWord is the argument with which the program is the load process.
const loadWord = "load"

func main() {
	if len(os.Args) == 2 && os.Args[1] == loadWord {
		exitOn(serveLoad())
		return
	}
	if len(os.Args) == 3 && os.Args[1] == bareWord {
		exitOn(serveBare(os.Args[2]))
		return
	}
	var f flags
	flag.StringVar(&f.run, "run", "", "only scenarios whose name matches this `regexp`")
	flag.IntVar(&f.rounds, "rounds", 5, "rounds of each scenario and proxy, at most")
	flag.IntVar(&f.conns, "conns", 32, "connections of the echo scenarios")
	flag.IntVar(&f.messages, "messages", 1000, "round trips of each of them in a round")
	flag.IntVar(&f.sessions, "sessions", 3000, "sessions of the idle scenarios")
	flag.DurationVar(&f.still, "still", 5*time.Second, "for how long the memory of quiet sessions must not change to count")
	flag.BoolVar(&f.scale, "scale", false, "only memory and CPU of 1,000, 5,000 and 9,000 quiet sessions, with a line through them")
	flag.BoolVar(&f.hybrid, "hybrid", false,
		"clients offer the key exchange with ML-KEM, as Go's do by default, even if only some proxies know it")
	flag.BoolVar(&f.json, "json", false, "print JSON instead of a table")
	flag.StringVar(&f.docs, "docs", "", "Markdown `file` that gets the table between its two marks, too")
	flag.StringVar(&f.gateway, "gateway", "", "`file` of the gateway; built from ./cmd/omnia-gateway if not given")
	flag.StringVar(&f.against, "against", "", "`file` of another build of the gateway, which is measured like a peer")
	flag.StringVar(&f.peers, "peers", "haproxy,nginx,envoy",
		"peers, by their names in PATH, separated by commas; bare is a Go program that only copies")
	flag.Parse()

	// A child process dies with the thread that started it (proxy.go), so that thread must last.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exitOn(measure(ctx, f))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what all scenarios share.
type bench struct {
	dir     string // for everything that is written
	kinds   []kind // the gateway and its peers, in the order of their turns
	load    *loader
	flood   *loader            // for the flood alone; it gets only the time that all others leave
	cores   []int              // that it may use
	issuers map[string]*issuer // by the algorithm of their tokens
	maxConn int                // more connections than a scenario has
	ca      []byte
	agreed  []string // what TLS clients and proxies have agreed on
	hybrid  bool     // clients offer the key exchange with ML-KEM
	share   float64  // of the machine's CPU time, that the load process has taken at most in this scenario
	late    float64  // by how many µs its clients were woken too late, at most
}

// measure runs the scenarios that are asked for and reports.
func measure(ctx context.Context, f flags) error {
	match, err := regexp.Compile(f.run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if f.rounds < 1 || f.conns < 1 || f.messages < 4 || f.sessions < 1 {
		return errors.New("-rounds, -conns and -sessions are at least 1, -messages at least 4")
	}
	if f.docs != "" { // half an hour must not be for nothing
		if _, _, err := around(f.docs); err != nil {
			return err
		}
	}
	b := &bench{hybrid: f.hybrid}
	if b.dir, err = os.MkdirTemp("", "omnia-gateway-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.prepare(ctx, f); err != nil {
		return err
	}
	defer b.load.calls.Close()
	defer b.flood.calls.Close()
	out := report{Machine: describe(ctx, b.kinds)}
	chosen := scenarios(f)
	if f.scale {
		chosen = scales()
	}
	for _, s := range chosen {
		if !match.MatchString(s.name) {
			continue
		}
		rounds := f.rounds
		if s.rounds > 0 {
			rounds = min(rounds, s.rounds)
		}
		begin := time.Now()
		results, err := b.compare(ctx, s, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %d rounds in %.0f s\n", s.name, rounds, time.Since(begin).Seconds())
		out.Results = append(out.Results, results...)
	}
	out.TLS = strings.Join(b.agreed, "; ")
	write := out.table
	if f.json {
		write = out.json
	}
	if err := write(os.Stdout); err != nil || f.docs == "" {
		return err
	}
	return out.document(f.docs)
}

// prepare finds or builds the programs, and starts issuers and load process.
func (b *bench) prepare(ctx context.Context, f flags) error {
	if f.gateway == "" {
		f.gateway = filepath.Join(b.dir, "omnia-gateway")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", f.gateway,
			"github.com/altairalabs/omnia-gateway/cmd/omnia-gateway")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the gateway: %w\n%s", err, text)
		}
	}
	b.kinds = []kind{newGateway("gateway", f.gateway)}
	if f.against != "" {
		b.kinds = append(b.kinds, newGateway("against", f.against))
	}
	for name := range strings.SplitSeq(f.peers, ",") {
		if name == "" {
			continue
		}
		k, err := newPeerKind(name)
		if err != nil {
			return err
		}
		b.kinds = append(b.kinds, k)
	}
	b.maxConn = max(f.sessions, f.conns, 2000) + 500
	if f.scale {
		b.maxConn = largest + 500
	}

	// Two descriptors for each session in the proxy, and two in the load process.
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	if need := uint64(2*b.maxConn + 500); files.Max < need {
		return fmt.Errorf("%d open files are allowed, %d are needed; raise ulimit -Hn, or use fewer -sessions", files.Max, need)
	}
	var err error
	if b.cores, err = usable(); err != nil {
		return err
	}
	if b.ca, err = newCertificate(b.dir); err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	b.issuers = map[string]*issuer{}
	for _, alg := range []string{"RS256", "ES256"} {
		if b.issuers[alg], err = newIssuer(b.dir, alg); err != nil {
			return fmt.Errorf("start the issuer: %w", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if b.load, err = startLoad(ctx, self, loadWord); err != nil {
		return err
	}
	b.flood, err = startLoad(ctx, "chrt", "--idle", "0", self, loadWord)
	return err
}

// loader is a process that makes load.
type loader struct {
	calls *rpc.Client
	pid   int
	agent string // where its agent listens
}

// pin lets the load processes run on some cores only.
func (b *bench) pin(ctx context.Context, cores []int) error {
	for _, l := range []*loader{b.load, b.flood} {
		args := []string{"--all-tasks", "--pid", "--cpu-list", listed(cores), strconv.Itoa(l.pid)}
		if text, err := exec.CommandContext(ctx, "taskset", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("pin a load process: %w\n%s", err, text)
		}
	}
	return nil
}

// startLoad starts a load process with a command.
func startLoad(ctx context.Context, command string, args ...string) (*loader, error) {
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a load process: %w", err)
	}
	l := &loader{pid: cmd.Process.Pid, calls: rpc.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{out, in})}
	return l, l.call(ctx, "Agent", None{}, &l.agent)
}

// call has the load process do something.
func (b *bench) call(ctx context.Context, method string, args, reply any) error {
	return b.load.call(ctx, method, args, reply)
}

func (l *loader) call(ctx context.Context, method string, args, reply any) error {
	call := l.calls.Go("Load."+method, args, reply, nil)
	select {
	case <-call.Done:
		return call.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loadCPU is the CPU time that the load process has taken so far.
func (b *bench) loadCPU() time.Duration {
	used, _ := cpuOf(b.load.pid) // it is there as long as calls get answers
	return used
}

// compare runs one scenario: a round that does not count, then rounds in turns. There is a result
// for each unit.
func (b *bench) compare(ctx context.Context, s scenario, rounds int) ([]result, error) {
	results := make([]result, len(s.units))
	for i, unit := range s.units {
		results[i] = result{Name: s.name, Unit: unit, Rounds: map[string][]float64{}}
	}
	results[0].Most, results[0].Of = s.most, s.of
	b.share, b.late = 0, 0
	if s.Apart {
		if err := b.pin(ctx, b.cores[len(b.cores)/2:]); err != nil {
			return nil, err
		}
		defer b.pin(context.WithoutCancel(ctx), b.cores)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running := map[string]*proxy{}
	defer func() {
		for _, p := range running {
			p.stop()
		}
	}()
	for round := range rounds + 1 {
		if s.fresh && round == 0 { // there is nothing to warm up
			continue
		}
		for _, k := range b.kinds {
			if s.Alg != "" && k.noJWT {
				continue
			}
			p := running[k.name]
			if p == nil {
				var err error
				if p, err = b.begin(ctx, k, s.setup); err != nil {
					return nil, err
				}
				running[k.name] = p
			}
			values, err := s.run(ctx, b, p)
			if err != nil {
				return nil, err
			}
			for i, v := range values {
				if round > 0 {
					results[i].Rounds[k.name] = append(results[i].Rounds[k.name], v)
				}
			}
			if s.fresh {
				p.stop()
				delete(running, k.name)
			}
		}
	}
	results[0].Load, results[0].Late = b.share, b.late
	return results, nil
}

// begin starts a proxy and waits until connections get through.
func (b *bench) begin(ctx context.Context, k kind, s setup) (*proxy, error) {
	i := b.issuers[cmp.Or(s.Alg, "RS256")]
	f := filling{setup: s, Agent: b.load.agent, Flooded: b.flood.agent, Issuer: i.url, Dir: b.dir, Cores: b.cores, MaxConn: b.maxConn}
	if s.Apart {
		f.Cores = b.cores[:max(1, len(b.cores)/2)]
	}
	p, err := k.start(ctx, f)
	if err != nil {
		return nil, err
	}
	p.issuer = i
	if err := b.ready(ctx, p); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// ready waits until a connection gets through: the gateway has to fetch the issuer's keys first.
func (b *bench) ready(ctx context.Context, p *proxy) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := b.call(ctx, "Handshakes", b.target(p, pathEcho, []string{p.issuer.known}), new(int))
		if err == nil {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return p.failed(err)
		}
	}
}
