//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

var (
	//go:embed haproxy.cfg
	haproxyText string
	//go:embed nginx.conf
	nginxText string
	//go:embed envoy.yaml
	envoyText string
	//go:embed gateway.yaml
	gatewayText string
	//go:embed bare.json
	bareText string
)

// setup is what a scenario asks of the proxies.
type setup struct {
	TLS   bool
	Alg   string        // all check tokens, which are signed with this; the gateway always does
	Pings time.Duration // of the gateway, as no other sends any; 0: its default
	Apart bool          // the proxy runs on the first half of the cores, clients and agents on the others
}

// filling is what goes into the configuration of a proxy.
type filling struct {
	setup
	Listen, Admin string
	Agent         string // where the agent listens
	Flooded       string // where the one listens that is flooded
	Issuer        string // URL of the issuer
	Dir           string // where certificates and keys are
	Cores         []int  // where the proxy may run
	MaxConn       int    // sessions at most, for those that want to know
}

// The parts of the addresses, for a configuration that has them apart.
func (f filling) Host() string        { return part(f.Listen, 0) }
func (f filling) Port() string        { return part(f.Listen, 1) }
func (f filling) AgentHost() string   { return part(f.Agent, 0) }
func (f filling) AgentPort() string   { return part(f.Agent, 1) }
func (f filling) FloodedHost() string { return part(f.Flooded, 0) }
func (f filling) FloodedPort() string { return part(f.Flooded, 1) }

// Threads is how many threads or workers a proxy has: one for each core, which is the default of
// all.
func (f filling) Threads() int { return len(f.Cores) }

// Sockets is how many sockets there are at most.
func (f filling) Sockets() int { return 2*f.MaxConn + 100 }

func part(addr string, i int) string {
	host, port, _ := net.SplitHostPort(addr)
	return [...]string{host, port}[i]
}

// kind is a program that is measured.
type kind struct {
	name    string
	file    string // of its configuration
	config  *template.Template
	args    func(file string, threads int) []string
	binary  string
	version string // the argument that asks for it; "": it is of this build
	noJWT   bool   // it cannot check tokens
}

func newGateway(name, binary string) kind {
	args := func(file string, _ int) []string { return []string{"serve", "--config", file} }
	return kind{name, name + ".yaml", template.Must(template.New("").Parse(gatewayText)), args, binary, "version", false}
}

// newPeerKind returns one of the programs that the gateway is compared with.
func newPeerKind(name string) (kind, error) {
	if name == bareWord {
		self, err := os.Executable()
		args := func(file string, _ int) []string { return []string{bareWord, file} }
		return kind{name, "bare.json", template.Must(template.New("").Parse(bareText)), args, self, "", true}, err
	}
	binary, err := exec.LookPath(name)
	if err != nil {
		return kind{}, fmt.Errorf("%s is not here (%w); tools/install %[1]s, or leave it out of -peers", name, err)
	}
	switch name {
	case "haproxy":
		args := func(file string, _ int) []string { return []string{"-db", "-f", file} } // -db: one process, in the foreground
		return kind{name, "haproxy.cfg", template.Must(template.New("").Parse(haproxyText)), args, binary, "-v", false}, nil
	case "nginx":
		args := func(file string, _ int) []string { return []string{"-c", file} }
		return kind{name, "nginx.conf", template.Must(template.New("").Parse(nginxText)), args, binary, "-v", true}, nil
	case "envoy":
		args := func(file string, threads int) []string {
			return []string{"-c", file, "--concurrency", strconv.Itoa(threads), "--disable-hot-restart", "--log-level", "error"}
		}
		return kind{name, "envoy.yaml", template.Must(template.New("").Parse(envoyText)), args, binary, "--version", false}, nil
	}
	return kind{}, fmt.Errorf("%q is no peer: haproxy, nginx, envoy and bare are", name)
}

// proxy is a kind that runs.
type proxy struct {
	name   string
	addr   string
	tls    bool
	issuer *issuer // whose tokens it takes
	log    string  // file of its output
	cmd    *exec.Cmd
	ended  chan struct{}
}

// start runs a proxy and returns when it accepts connections. It dies with ctx, and with this
// process.
func (k kind) start(ctx context.Context, f filling) (*proxy, error) {
	var err error
	if f.Listen, err = freeAddr(); err != nil {
		return nil, err
	}
	if f.Admin, err = freeAddr(); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := k.config.Execute(&text, f); err != nil {
		return nil, fmt.Errorf("configure %s: %w", k.name, err)
	}
	file := filepath.Join(f.Dir, k.file)
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return nil, err
	}
	p := &proxy{name: k.name, addr: f.Listen, tls: f.TLS, log: filepath.Join(f.Dir, k.name+".log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := slices.Concat([]string{"--cpu-list", listed(f.Cores), k.binary}, k.args(file, f.Threads()))
	p.cmd = exec.CommandContext(ctx, "taskset", args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(f.Threads()))
	// nginx has processes of its own, which it ends when it is asked to end.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", k.name, err)
	}
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	if err := p.accepts(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// usable returns the numbers of the cores that this process may use.
func usable() (cores []int, err error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		list, ok := strings.CutPrefix(line, "Cpus_allowed_list:")
		if !ok {
			continue
		}
		for span := range strings.SplitSeq(strings.TrimSpace(list), ",") {
			from, to, _ := strings.Cut(span, "-")
			first, err := strconv.Atoi(from)
			if err != nil {
				return nil, fmt.Errorf("cores %q: %w", list, err)
			}
			last, err := strconv.Atoi(cmp.Or(to, from))
			if err != nil {
				return nil, fmt.Errorf("cores %q: %w", list, err)
			}
			for ; first <= last; first++ {
				cores = append(cores, first)
			}
		}
	}
	if len(cores) == 0 {
		return nil, errors.New("/proc/self/status does not say which cores there are")
	}
	return cores, nil
}

// listed returns cores as taskset wants them.
func listed(cores []int) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(cores)), ","), "[]")
}

// freeAddr returns a loopback address on which no process listens.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startTimeout is how long a proxy may take to listen, and to be ready after that.
const startTimeout = 10 * time.Second

// accepts waits until the proxy listens.
func (p *proxy) accepts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return p.failed(errors.New("it has ended"))
		case <-ctx.Done():
			return p.failed(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// failed adds the end of the proxy's output to an error, unless the user has stopped the program.
func (p *proxy) failed(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	said, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s: %w\n%s", p.name, err, said[max(0, len(said)-2000):])
}

func (p *proxy) stop() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // all of its processes
	<-p.ended
}

// cpu returns the CPU time of all threads of the proxy since its start, user and system together,
// as soon as it is idle. The scheduler's own account of a thread has nanoseconds;
// utime and stime have 10 ms.
func (p *proxy) cpu() (time.Duration, error) {
	last := time.Duration(-1)
	for range 200 {
		now, err := p.threads()
		if err != nil {
			return 0, err
		}
		if now-last < 50*time.Microsecond {
			return now, nil
		}
		last = now
		time.Sleep(20 * time.Millisecond)
	}
	return 0, fmt.Errorf("%s does not come to rest", p.name)
}

func (p *proxy) threads() (sum time.Duration, err error) {
	for _, pid := range p.processes() {
		used, err := cpuOf(pid)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.name, err)
		}
		sum += used
	}
	return sum, nil
}

// processes are the proxy's own and its children.
func (p *proxy) processes() []int {
	all := []int{p.cmd.Process.Pid}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.cmd.Process.Pid))
	for _, field := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// cpuOf returns the CPU time of all threads of a process.
func cpuOf(pid int) (sum time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no thread", pid)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// rss is the memory that the proxy holds, in bytes.
func (p *proxy) rss() (sum int, err error) {
	for _, pid := range p.processes() {
		n, err := rssOf(pid)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.name, err)
		}
		sum += n
	}
	return sum, nil
}

func rssOf(pid int) (int, error) {
	file := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s: no VmRSS", file)
}

// settledRSS is the memory that the proxy holds when it has not changed by more than 1% for a
// while, or after limit.
func (p *proxy) settledRSS(ctx context.Context, still, limit time.Duration) (int, error) {
	end := time.Now().Add(limit)
	reference, since := 0, time.Now()
	for {
		now, err := p.rss()
		if err != nil {
			return 0, err
		}
		if d := now - reference; max(d, -d) > reference/100 {
			reference, since = now, time.Now()
		}
		if time.Since(since) >= still || time.Now().After(end) {
			return now, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}
