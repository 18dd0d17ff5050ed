package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
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
	shell := func(args ...string) (string, string) {
		var out, notes bytes.Buffer
		sessions := exec.Command(binary, append(append([]string{"sessions"}, args...), "--admin", all[0].admin)...)
		sessions.Stdout, sessions.Stderr = &out, &notes
		if err := sessions.Run(); err != nil {
			t.Errorf("sessions %v: %v: %s", args, err, notes.String())
		}
		return out.String(), notes.String()
	}
	out, notes := shell("list")
	for m, g := range all {
		if !strings.Contains(out, fmt.Sprint("user", m)) || !strings.Contains(out, g.cluster(t).Replica) || notes != "" {
			t.Errorf("sessions list does not show replica %d:\n%s%s", m, out, notes)
		}
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
	if out, notes := shell("list"); strings.Contains(out, "user1") || !strings.Contains(notes, all[1].cluster(t).Replica) {
		t.Errorf("sessions list without Redis:\n%s%s", out, notes)
	}
	var ended struct {
		Ended   int
		Missing []string
	}
	out, notes = shell("end", "--subject", "user0", "-o", "json")
	if err := json.Unmarshal([]byte(out), &ended); err != nil || ended.Ended != 1 || len(ended.Missing) != 2 {
		t.Errorf("sessions end without Redis: %v\n%s", err, out)
	}
	for _, name := range ended.Missing {
		if !strings.Contains(notes, name) {
			t.Errorf("sessions end says %q, and %s is missing", notes, name)
		}
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
	const away = "redis not reachable; this replica goes on alone"
	g.awaitLine("msg", away)
	if n := len(g.log.with("msg", away)); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// revoke bars a user's tokens at one replica, and returns the id of the revocation.
func (g *gateway) revoke(t *testing.T, i *issuer, subject string) (id string) {
	t.Helper()
	var made struct{ ID string }
	body := fmt.Sprintf(`{"issuer": %q, "subject": %q}`, i.URL, subject)
	if code := g.command("POST", "/revocations", body, &made); code != http.StatusCreated {
		t.Fatalf("revoke %s: %d", subject, code)
	}
	return made.ID
}

// everywhere connects a user to every replica.
func everywhere(t *testing.T, all []*gateway, i *issuer, subject string) (open []*socket) {
	t.Helper()
	for _, g := range all {
		open = append(open, g.connect(t, "/my-agent/ws", i.bearer(t, "sub", subject)))
	}
	return open
}

func TestRevocationEndsAUsersSessionsOnEveryReplicaWithinASecond(t *testing.T) {
	const times = 200
	i, redis := newIssuer(t), redistest.Start(t)
	all := startReplicas(t, plain(i, newAgent(t, (*visit).echo).URL), 3, func(int) string { return redis.Addr })
	stays := everywhere(t, all, i, "stays")
	var worst time.Duration
	for n := range times {
		user := fmt.Sprint("user", n)
		open := everywhere(t, all, i, user)
		began := time.Now()
		all[n%3].revoke(t, i, user)
		for _, c := range open {
			c.closed(3000)
		}
		if took := time.Since(began); took > worst {
			worst = took
		}
	}
	t.Logf("%d revocations, each of three sessions on three replicas: the worst took %s", times, worst.Round(10*time.Microsecond))
	if worst > time.Second {
		t.Error("longer than a second")
	}
	for n, g := range all {
		g.refused(t, http.StatusUnauthorized, "revoked", "/my-agent/ws", i.bearer(t, "sub", fmt.Sprint("user", n)))
		stays[n].echoes("hello")
	}
	late := start(t, plain(i, newAgent(t, (*visit).echo).URL).sharing(redis.Addr)) // knows all from its first request on
	late.refused(t, http.StatusUnauthorized, "revoked", "/my-agent/ws", i.bearer(t, "sub", "user199"))
}

func TestWhatIsRevokedWhileRedisIsAwayIsEnforcedAfterwards(t *testing.T) {
	i, redis := newIssuer(t), redistest.Start(t)
	link := redistest.NewLink(t, redis.Addr)
	all := startReplicas(t, plain(i, newAgent(t, (*visit).echo).URL), 3, func(n int) string {
		if n == 2 {
			return link.Addr
		}
		return redis.Addr
	})
	alice, bob, carol := everywhere(t, all, i, "alice"), everywhere(t, all, i, "bob"), everywhere(t, all, i, "carol")
	stays := everywhere(t, all, i, "stays")
	lifted := all[0].revoke(t, i, "dave")
	eventually(t, "known", func() bool { code, _ := all[2].ask("/revocations/" + lifted); return code == http.StatusOK })

	redis.Kill()
	down := time.Now()
	all[0].revoke(t, i, "alice")
	alice[0].closed(3000)
	for _, g := range all {
		eventually(t, "alone", func() bool { return !g.cluster(t).Connected })
	}
	for _, c := range []*socket{alice[1], alice[2], bob[0], bob[2], carol[1]} {
		c.echoes("nothing ends because Redis is away")
	}
	link.Cut() // from here on the third replica is alone, although Redis is back
	time.Sleep(time.Until(down.Add(10 * time.Second)))
	for n := range all {
		stays[n].echoes("ten seconds without Redis")
	}
	redis.Restart(t) // without its data
	alice[1].closed(3000)
	all[1].revoke(t, i, "bob")
	bob[0].closed(3000)
	bob[1].closed(3000)
	if code := all[1].command("DELETE", "/revocations/"+lifted, "", nil); code != http.StatusNoContent {
		t.Fatalf("lift: %d", code)
	}
	all[2].refused(t, http.StatusUnauthorized, "revoked", "/my-agent/ws", i.bearer(t, "sub", "dave")) // it does not know better
	all[2].revoke(t, i, "carol")
	carol[2].closed(3000)
	bob[2].echoes("still here")
	link.Heal()
	alice[2].closed(3000)
	bob[2].closed(3000)
	carol[0].closed(3000)
	carol[1].closed(3000)
	for n, g := range all {
		eventually(t, "lifted", func() bool { code, _ := g.ask("/revocations/" + lifted); return code == http.StatusNotFound })
		g.connect(t, "/my-agent/ws", i.bearer(t, "sub", "dave")).echoes("hello")
		stays[n].echoes("hello")
	}
}

func TestLogoutCountsOnceAndOnEveryReplica(t *testing.T) {
	i, redis := newIssuer(t), redistest.Start(t)
	all := startReplicas(t, plain(i, newAgent(t, (*visit).echo).URL), 3, func(int) string { return redis.Addr })
	alice, bob := everywhere(t, all, i, "alice"), everywhere(t, all, i, "bob")
	now := time.Now()
	token := i.token(t, "sub", "alice", "jti", "1", "iat", now.Unix(), "exp", now.Add(2*time.Minute).Unix(),
		"events", map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}})
	logout := func(g *gateway) int {
		r, err := http.PostForm("http://"+g.public+"/.gateway/logout", url.Values{"logout_token": {token}})
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	if code := logout(all[0]); code != http.StatusOK {
		t.Fatalf("%d", code)
	}
	for n, g := range all {
		alice[n].closed(3000)
		bob[n].echoes("hello")
		if code := logout(g); code != http.StatusBadRequest {
			t.Errorf("again, at replica %d: %d", n, code)
		}
	}
}

// A replica whose process stood still finds out when it goes on.
func TestStoppedReplicaCatchesUp(t *testing.T) {
	i, redis := newIssuer(t), redistest.Start(t)
	all := startReplicas(t, plain(i, newAgent(t, (*visit).echo).URL), 2, func(int) string { return redis.Addr })
	alice, stays := everywhere(t, all, i, "alice"), everywhere(t, all, i, "stays")
	all[1].cmd.Process.Signal(syscall.SIGSTOP)
	all[0].revoke(t, i, "alice")
	alice[0].closed(3000)
	all[1].cmd.Process.Signal(syscall.SIGCONT)
	alice[1].closed(3000)
	stays[1].echoes("hello")
}

func TestOperatorEndsSessionsOfAllReplicas(t *testing.T) {
	i, redis := newIssuer(t), redistest.Start(t)
	all := startReplicas(t, plain(i, newAgent(t, (*visit).echo).URL), 3, func(int) string { return redis.Addr })
	alice, bob := everywhere(t, all, i, "alice"), everywhere(t, all, i, "bob")
	var done struct {
		Ended   int
		Missing []string
	}
	code := all[0].command("DELETE", "/sessions?subject=alice", "", &done)
	if code != http.StatusOK || done.Ended != 3 || done.Missing != nil {
		t.Errorf("%d, %+v", code, done)
	}
	for n := range all {
		alice[n].closed(1000)
		bob[n].echoes("hello")
	}
	again := everywhere(t, all, i, "alice") // they are not barred
	all[2].awaitLine("msg", "ended", "reason", "ended", "subject", "alice")
	var sessions []struct{ Session, Subject, Replica string }
	_, body := all[1].ask("/sessions?cluster=true")
	if err := json.Unmarshal([]byte(body), &sessions); err != nil {
		t.Fatal(err)
	}
	one := ""
	for _, s := range sessions {
		if s.Subject == "bob" && s.Replica == all[2].cluster(t).Replica {
			one = s.Session
		}
	}
	if code := all[0].command("DELETE", "/sessions/"+one, "", &done); code != http.StatusOK || done.Ended != 1 {
		t.Errorf("one at another replica: %d, %+v", code, done)
	}
	bob[2].closed(1000)
	if code := all[0].command("DELETE", "/sessions/"+one, "", nil); code != http.StatusNotFound {
		t.Errorf("one that is gone: %d", code)
	}
	for n := range all {
		again[n].echoes("hello")
	}
}

func TestRenewalAtAnyReplicaRenewsTheSessionsOfAll(t *testing.T) {
	i, redis := newIssuer(t), redistest.Start(t)
	s := plain(i, newAgent(t, (*visit).echo).URL).with("authentication.jwt.clockSkew", "0s")
	all := startReplicas(t, s, 3, func(int) string { return redis.Addr })
	token := func() string { return i.token(t, "sub", "alice", "exp", time.Now().Add(5*time.Second).Unix()) }
	var open []*socket
	for _, g := range all {
		open = append(open, g.connect(t, "/my-agent/ws", "Authorization: Bearer "+token()))
	}
	for n := range 3 {
		if r := all[n].renew(t, token(), ""); r.Status != http.StatusOK || len(r.Sessions) != 3 {
			t.Fatalf("%+v", r)
		}
		for _, c := range open {
			c.echoes("hello")
		}
		time.Sleep(2 * time.Second) // a token would have ended by the last of them
	}
	_, body := all[0].ask("/sessions?cluster=true")
	if n := strings.Count(body, `"subject": "alice"`); n != 3 {
		t.Errorf("%d sessions are left: %s", n, body)
	}
	for _, c := range open { // and then they end
		c.closed(3000)
	}
}
