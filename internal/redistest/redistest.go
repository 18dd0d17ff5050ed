// Package redistest runs real Redis servers for tests: one server, a master with a replica and a
// Sentinel, or a Cluster of three nodes. They are processes on ephemeral ports of loopback, keep
// nothing on disk, and end with the test. A Link stands between a client and a server and can
// swallow what is sent.
package redistest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// Server is one redis-server.
type Server struct {
	// Addr is where it listens.
	Addr string

	args   []string
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start runs a server with further arguments, as on its command line, and waits until it answers.
// Without redis-server the test is skipped, or fails where CI is true.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := start(t, append([]string{"--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...))
	s.await(t)
	return s
}

// StartTLS runs a server that speaks TLS alone and asks its clients for certificates.
func StartTLS(t testing.TB, certFile, keyFile string) *Server {
	t.Helper()
	s := start(t, []string{"--save", "", "--appendonly", "no", "--dir", t.TempDir(), "--tls-cert-file", certFile,
		"--tls-key-file", keyFile, "--tls-ca-cert-file", certFile, "--port", "0", "--tls-port"})
	s.await(t)
	return s
}

// start runs a redis-server on a free port.
func start(t testing.TB, args []string) *Server {
	t.Helper()
	const program = "redis-server"
	if _, err := exec.LookPath(program); err != nil {
		why := program + " is missing: tools/install redis"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	port := freePort(t)
	s := &Server{Addr: net.JoinHostPort("127.0.0.1", port)}
	s.args = append([]string{program}, args...)
	if args[len(args)-1] != "--tls-port" {
		s.args = append(s.args, "--port")
	}
	s.args = append(s.args, port, "--bind", "127.0.0.1")
	s.run(t)
	t.Cleanup(s.Kill)
	return s
}

func (s *Server) run(t testing.TB) {
	t.Helper()
	s.cmd, s.exited = exec.Command(s.args[0], s.args[1:]...), make(chan struct{})
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.cmd.Wait(); close(s.exited) }()
}

// await waits until the server answers.
func (s *Server) await(t testing.TB) {
	t.Helper()
	wstest.Eventually(t, "an answer of "+s.Addr, func() bool {
		c, err := net.Dial("tcp", s.Addr)
		if err != nil {
			return false
		}
		c.Close() // it listens when it has read what it was told
		return true
	})
}

// Client returns a client of this server, closed with the test.
func (s *Server) Client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { c.Close() })
	return c
}

// Kill ends the server at once. It may be called twice.
func (s *Server) Kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// Restart runs the server again, on the same port, with nothing in it.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Kill()
	s.run(t)
	s.await(t)
}

// Pause stops the process: its connections stay, and nothing is answered. Resume lets it go on.
func (s *Server) Pause() { s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.cmd.Process.Signal(syscall.SIGCONT) }

// Sentinel is a master with one replica, watched by one Sentinel.
type Sentinel struct {
	*Server // the Sentinel itself

	// Master and Replica are the two servers, as they begin.
	Master, Replica *Server
}

// StartSentinel runs a master called "mymaster", a replica and a Sentinel.
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	s := &Sentinel{Master: Start(t)}
	host, port, _ := net.SplitHostPort(s.Master.Addr)
	s.Replica = Start(t, "--replicaof", host, port, "--repl-diskless-sync-delay", "0")
	replica := s.Replica.Client(t)
	wstest.Eventually(t, "a replica in step", func() bool {
		return strings.Contains(replica.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor mymaster %s %s 1\nsentinel down-after-milliseconds mymaster 500\n"+
		"sentinel failover-timeout mymaster 2000\n", host, port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Server = start(t, []string{file, "--sentinel"})
	s.await(t)
	ask := redis.NewSentinelClient(&redis.Options{Addr: s.Addr, Protocol: 2})
	t.Cleanup(func() { ask.Close() })
	wstest.Eventually(t, "a Sentinel that knows the replica", func() bool { return len(ask.Replicas(t.Context(), "mymaster").Val()) == 1 })
	return s
}

// StartCluster runs a Cluster of three nodes without replicas.
func StartCluster(t testing.TB) []*Server {
	t.Helper()
	const slots = 16384
	nodes := make([]*Server, 3)
	for i := range nodes {
		nodes[i] = Start(t, "--cluster-enabled", "yes", "--cluster-port", freePort(t))
	}
	host, port, _ := net.SplitHostPort(nodes[0].Addr)
	bus := strings.TrimSpace(argument(nodes[0].args, "--cluster-port"))
	for i, n := range nodes {
		c := n.Client(t)
		if err := c.ClusterAddSlotsRange(t.Context(), i*slots/3, (i+1)*slots/3-1).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.Do(t.Context(), "cluster", "meet", host, port, bus).Err(); i > 0 && err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		c := n.Client(t)
		wstest.Eventually(t, "a whole Cluster", func() bool {
			info := c.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return nodes
}

// argument returns what follows name.
func argument(args []string, name string) string {
	for i, a := range args {
		if a == name {
			return args[i+1]
		}
	}
	return ""
}

// freePort returns a port that was free a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
