package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/redistest"
)

// sharing returns s with a cluster at an address of Redis.
func (s settings) sharing(address string) settings {
	return s.with("cluster", settings{"redis": settings{"addresses": []string{address}}})
}

// startReplicas runs gateways that share, and waits until they know each other. Each is started
// with the address of Redis that at returns.
func startReplicas(t *testing.T, s settings, n int, at func(replica int) string) []*gateway {
	t.Helper()
	all := make([]*gateway, n)
	for i := range all {
		all[i] = start(t, s.sharing(at(i)))
	}
	for _, g := range all {
		eventually(t, "a whole cluster", func() bool { return g.cluster(t).Connected && len(g.cluster(t).Replicas) == n })
	}
	return all
}

// clusterState is what /readyz says of the cluster.
type clusterState struct {
	Replica   string
	Connected bool
	Error     string
	Replicas  []string
	Pending   int
}

func (g *gateway) cluster(t *testing.T) clusterState {
	t.Helper()
	_, body := g.ask("/readyz")
	var ready struct{ Cluster clusterState }
	if err := json.Unmarshal([]byte(body), &ready); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return ready.Cluster
}

func TestReplicasCountAUsersConnectionsTogether(t *testing.T) {
	i, redis := newIssuer(t), redistest.Start(t)
	s := plain(i, newAgent(t, (*visit).echo).URL).with("limits.maxConnectionsPerUser", 3)
	all := startReplicas(t, s, 3, func(int) string { return redis.Addr })
	alice := i.bearer(t, "sub", "alice")
	var open []*socket
	for _, g := range all {
		open = append(open, g.connect(t, "/my-agent/ws", alice))
	}
	for _, g := range all {
		g.refused(t, http.StatusTooManyRequests, "too-many-user-connections", "/my-agent/ws", alice)
		g.connect(t, "/my-agent/ws", i.bearer(t, "sub", "bob"))
	}
	open[0].Close()
	all[0].awaitLine("msg", "ended", "subject", "alice")
	all[0].connect(t, "/my-agent/ws", alice) // its own replica knows at once

	all[1].kill()
	died := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		c, r := all[2].handshake(t, "/my-agent/ws", alice)
		took := time.Since(died).Round(time.Millisecond)
		if r.StatusCode == http.StatusSwitchingProtocols {
			t.Logf("the place of a killed replica was free after %s", took)
			break
		}
		c.Close()
		if took > 30*time.Second {
			t.Fatalf("the place of a killed replica is still taken after %s", took)
		}
	}
}

func TestSessionsOfAllReplicasAreShown(t *testing.T) {
	i, redis := newIssuer(t), redistest.Start(t)
	all := startReplicas(t, plain(i, newAgent(t, (*visit).echo).URL), 3, func(int) string { return redis.Addr })
	for n, g := range all {
		g.connect(t, "/my-agent/ws", i.bearer(t, "sub", fmt.Sprint("user", n)))
	}
	subjects := func(g *gateway, path string) (found map[string]string) {
		_, body := g.ask(path)
		var sessions []struct{ Subject, Replica string }
		if err := json.Unmarshal([]byte(body), &sessions); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		found = map[string]string{}
		for _, s := range sessions {
			found[s.Subject] = s.Replica
		}
		return found
	}
	for n, g := range all {
		got := subjects(g, "/sessions?cluster=true")
		for m, other := range all {
			if replica := got[fmt.Sprint("user", m)]; replica != other.cluster(t).Replica {
				t.Errorf("asked replica %d: user%d is at %q", n, m, replica)
			}
		}
		if got := subjects(g, "/sessions"); len(got) != 1 || got[fmt.Sprint("user", n)] != "" {
			t.Errorf("replica %d alone: %v", n, got)
		}
	}
	if code, _ := all[0].ask("/sessions?cluster=maybe"); code != http.StatusBadRequest {
		t.Errorf("cluster=maybe: %d", code)
	}
	redis.Kill() // each goes on alone, and says so
	for _, g := range all {
		eventually(t, "alone", func() bool { return !g.cluster(t).Connected })
		if g.metric("omnia_gateway_cluster_connected") != 0 {
			t.Error("the metric says connected")
		}
		if code, _ := g.ask("/readyz"); code != http.StatusOK {
			t.Errorf("/readyz: %d", code)
		}
	}
	r, err := http.Get("http://" + all[0].admin + "/sessions?cluster=true")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if missing := r.Header.Get("X-Gateway-Missing-Replicas"); missing == "" {
		t.Error("the replicas that were not asked are not named")
	}
	all[0].connect(t, "/my-agent/ws", i.bearer(t, "sub", "late")).echoes("hello")
}

func TestGatewayStartsWithoutItsRedis(t *testing.T) {
	i := newIssuer(t)
	began := time.Now()
	g := start(t, plain(i, newAgent(t, (*visit).echo).URL).with("limits.maxConnectionsPerUser", 1).sharing("127.0.0.1:1"))
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("ready after %s", took)
	}
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("hello")
	g.refused(t, http.StatusTooManyRequests, "too-many-user-connections", "/my-agent/ws", i.bearer(t)) // its own count
	if s := g.cluster(t); s.Connected || s.Error == "" {
		t.Errorf("%+v", s)
	}
	if n := len(g.log.with("msg", "redis not reachable; this replica goes on alone")); n != 1 {
		t.Errorf("logged %d times", n)
	}
}
