package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/redistest"
)

// shell runs a command of the program against the admin listener.
func (g *gateway) shell(args ...string) string {
	g.t.Helper()
	cmd := exec.Command(binary, append(args, "--admin", g.admin)...)
	cmd.Env = environment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestShellSeesTheSessionsOfAllReplicas(t *testing.T) {
	i, redis := newIssuer(t), redistest.Start(t)
	all := startReplicas(t, plain(i, newAgent(t, nil).URL), 2, func(int) string { return redis.Addr })
	open := everywhere(t, all, i, "alice")
	listed := all[0].shell("sessions")
	for _, g := range all {
		if name := g.cluster(t).Replica; strings.Count(listed, name) != 1 {
			t.Errorf("replica %s has one session:\n%s", name, listed)
		}
	}
	if !strings.Contains(strings.Split(listed, "\n")[0], "REPLICA") || strings.Count(listed, "alice") != 2 {
		t.Errorf("%s", listed)
	}
	if said := all[0].shell("sessions", "end", "--subject", "alice"); said != "sessions that end: 2\n" {
		t.Errorf("%q", said)
	}
	for _, s := range open {
		if word := s.closed(1000); word != "ended" {
			t.Errorf("reason %q", word)
		}
	}
	open = everywhere(t, all, i, "alice")
	all[0].shell("revoke", "--issuer", i.URL, "--subject", "alice")
	for _, s := range open {
		if word := s.closed(3000); word != "revoked" {
			t.Errorf("reason %q", word)
		}
	}
}
