package e2e

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A gateway that runs out of file descriptors keeps what it has, and goes on when there is room
// again.
func TestI03RunningOutOfFileDescriptorsIsSurvived(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("log.level", "debug"))
	gone := g.leftovers()
	before := g.connect(t, "/my-agent/ws", i.bearer(t))
	fds := uint64(g.metric("process_open_fds"))
	if err := unix.Prlimit(g.cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: fds + 20, Max: fds + 20}, nil); err != nil {
		t.Fatal(err)
	}
	var crowd []net.Conn
	for range 60 {
		crowd = append(crowd, g.dial(t)) // the kernel takes them even when the gateway cannot
	}
	eventually(t, "exhausted", func() bool { return strings.Contains(g.log.text(), "too many open files") })
	before.echoes("I was here first")
	for _, c := range crowd {
		c.Close()
	}
	after := g.connect(t, "/my-agent/ws", i.bearer(t))
	after.echoes("there is room again")
	before.echoes("I am still here")
	after.Close()
	before.Close()
	gone()
}
