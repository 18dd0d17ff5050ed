//go:build linux

// Command bench measures the gateway beside HAProxy on this machine, over loopback: the CPU time
// that the proxy itself takes for a round trip, a stream, a handshake, and the memory that it
// holds for a quiet session.
//
// Both run at the same time and take turns, round by round, so that other load on the machine
// affects both. The report has the median of the rounds with the lowest and the highest, and the
// median of the ratios of neighbouring rounds. No result depends on elapsed time. A third
// process, this program again, holds all clients and the agent (load.go); its cost counts for
// neither proxy.
//
//	go run ./bench                          everything; some minutes
//	go run ./bench -run echo -rounds 21     some scenarios only, more often
//	go run ./bench -json > result.json
//	go run ./bench -gateway ./other-build   a binary that is there already
//
// It needs Linux (/proc), haproxy in PATH, and the go tool to build the gateway. Everything that
// it starts ends with it.
package main

import (
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
	settle   time.Duration
	json     bool
	hybrid   bool
	gateway  string
	haproxy  string
}

// loadWord is the argument with which the program is the load process.
const loadWord = "load"

func main() {
	if len(os.Args) == 2 && os.Args[1] == loadWord {
		exitOn(serveLoad())
		return
	}
	var f flags
	flag.StringVar(&f.run, "run", "", "only scenarios whose name matches this `regexp`")
	flag.IntVar(&f.rounds, "rounds", 11, "rounds of each scenario and proxy; those of memory are 2 at most")
	flag.IntVar(&f.conns, "conns", 32, "connections of the echo scenarios")
	flag.IntVar(&f.messages, "messages", 1000, "round trips of each of them in a round")
	flag.IntVar(&f.sessions, "sessions", 3000, "sessions of the idle scenarios")
	flag.DurationVar(&f.still, "still", 35*time.Second,
		"for how long memory must not change to count; the default sees the gateway's first Pings")
	flag.DurationVar(&f.settle, "settle", 3*time.Minute, "how long memory may take for that")
	flag.BoolVar(&f.hybrid, "hybrid", false,
		"clients offer the key exchange with ML-KEM, as Go's do by default, even if only one proxy knows it")
	flag.BoolVar(&f.json, "json", false, "print JSON instead of a table")
	flag.StringVar(&f.gateway, "gateway", "", "`file` of the gateway; built from ./cmd/omnia-gateway if not given")
	flag.StringVar(&f.haproxy, "haproxy", "haproxy", "`file` of HAProxy")
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
	kinds   []kind // the gateway and its peer, in the order of their turns
	load    *rpc.Client
	agent   string
	issuer  *issuer
	known   string // a token
	maxConn int    // more connections than a scenario has
	ca      []byte
	agreed  []string // what TLS clients and proxies have agreed on
	hybrid  bool     // clients offer the key exchange with ML-KEM
}

// measure runs the scenarios that are asked for and reports.
func measure(ctx context.Context, f flags) error {
	match, err := regexp.Compile(f.run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if f.rounds < 1 || f.conns < 1 || f.messages < 1 || f.sessions < 1 {
		return errors.New("-rounds, -conns, -messages and -sessions are at least 1")
	}
	b := &bench{hybrid: f.hybrid}
	if b.dir, err = os.MkdirTemp("", "omnia-gateway-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.prepare(ctx, f); err != nil {
		return err
	}
	defer b.load.Close()
	out := report{Machine: describe(ctx, b.kinds)}
	for _, s := range scenarios(f) {
		if !match.MatchString(s.name) {
			continue
		}
		rounds := f.rounds
		if s.rounds > 0 {
			rounds = min(rounds, s.rounds)
		}
		fmt.Fprintf(os.Stderr, "%s: %d rounds\n", s.name, rounds)
		r, err := b.compare(ctx, s, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		out.Results = append(out.Results, r)
	}
	out.TLS = strings.Join(b.agreed, "; ")
	if f.json {
		return out.json(os.Stdout)
	}
	return out.table(os.Stdout)
}

// prepare finds or builds the programs, and starts issuer and load process.
func (b *bench) prepare(ctx context.Context, f flags) error {
	haproxy, err := exec.LookPath(f.haproxy)
	if err != nil {
		return fmt.Errorf("HAProxy is not here (%w); on Debian: apt-get install haproxy", err)
	}
	if f.gateway == "" {
		f.gateway = filepath.Join(b.dir, "omnia-gateway")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", f.gateway,
			"github.com/altairalabs/omnia-gateway/cmd/omnia-gateway")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the gateway: %w\n%s", err, text)
		}
	}
	b.kinds = []kind{newGateway(f.gateway), newHAProxy(haproxy)}
	b.maxConn = max(f.sessions, f.conns) + 1000

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
	if b.ca, err = newCertificate(b.dir); err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	if b.issuer, err = newIssuer(b.dir); err != nil {
		return fmt.Errorf("start the issuer: %w", err)
	}
	tokens, err := b.issuer.tokens(1)
	if err != nil {
		return err
	}
	b.known = tokens[0]
	return b.startLoad(ctx)
}

// startLoad starts the load process.
func (b *bench) startLoad(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, loadWord)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the load process: %w", err)
	}
	b.load = rpc.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{out, in})
	return b.call(ctx, "Agent", None{}, &b.agent)
}

// call has the load process do something.
func (b *bench) call(ctx context.Context, method string, args, reply any) error {
	call := b.load.Go("Load."+method, args, reply, nil)
	select {
	case <-call.Done:
		return call.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}

// compare runs one scenario: a round that does not count, then rounds in turns.
func (b *bench) compare(ctx context.Context, s scenario, rounds int) (result, error) {
	r := result{Name: s.name, Unit: s.unit, Need: s.need, Of: s.of, Rounds: map[string][]float64{}}
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
			p := running[k.name]
			if p == nil {
				var err error
				f := filling{
					setup: s.setup, Agent: b.agent, Issuer: b.issuer.url, Dir: b.dir, Threads: runtime.NumCPU(), MaxConn: b.maxConn,
				}
				if p, err = k.start(ctx, f); err != nil {
					return r, err
				}
				running[k.name] = p
				if err := b.ready(ctx, p); err != nil {
					return r, err
				}
			}
			v, err := s.run(ctx, b, p)
			if err != nil {
				return r, err
			}
			if round > 0 {
				r.Rounds[k.name] = append(r.Rounds[k.name], v)
			}
			if s.fresh {
				p.stop()
				delete(running, k.name)
			}
		}
	}
	return r, nil
}

// ready waits until a connection gets through: the gateway has to fetch the issuer's keys first.
func (b *bench) ready(ctx context.Context, p *proxy) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := b.call(ctx, "Handshakes", b.target(p, pathEcho, []string{b.known}), &None{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return p.failed(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
