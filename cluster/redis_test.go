package cluster

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/redistest"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	r := at(s.Addr)
	r.MasterName = "mymaster"
	a, b := join(t, "a", r), join(t, "b", r)
	ready(t, a, b)
	a.Share(a.revocation("1", "x"))
	b.learns(Revocation, "1", "x")
	s.Master.Kill()
	a.Share(a.revocation("2", "x"))
	b.learns(Revocation, "2", "x")
	replica := s.Replica.Client(t)
	if !strings.Contains(replica.Info(t.Context(), "replication").Val(), "role:master") {
		t.Error("no failover")
	}
	wstest.Eventually(t, "both changes are at the new master", func() bool {
		return replica.HLen(t.Context(), a.keys.values).Val() == 2
	})
	h := Holder{"1", "i", "u"}
	wstest.Eventually(t, "a has a place at the new master", func() bool {
		return a.Take(t.Context(), h, 1) && replica.ZCard(t.Context(), h.key(a.keys.prefix)).Val() == 1
	})
	wstest.Eventually(t, "b has none", func() bool { return !b.Take(t.Context(), Holder{"2", "i", "u"}, 1) })
}

func TestRedisClusterOfThreeNodes(t *testing.T) {
	t.Parallel()
	nodes := redistest.StartCluster(t)
	r := at(nodes[0].Addr, nodes[1].Addr, nodes[2].Addr)
	a, b := join(t, "a", r), join(t, "b", r)
	ready(t, a, b)
	a.Share(a.revocation("1", "x"))
	b.learns(Revocation, "1", "x")
	for _, user := range []string{"alice", "bob", "carol", "dave", "erin"} { // in several slots
		one, two := Holder{"1" + user, "issuer", user}, Holder{"2" + user, "issuer", user}
		if !a.Take(t.Context(), one, 1) || b.Take(t.Context(), two, 1) {
			t.Errorf("%s: not one place", user)
		}
		a.hold(append(a.Holders(), one)...)
	}
	a.refreshLeases(t.Context())
	if answers, missing, err := a.Ask(t.Context(), Question{Kind: "long"}); len(answers) != 1 || len(missing) > 0 || err != nil {
		t.Errorf("%d answers, %q missing, %v", len(answers), missing, err)
	}
	if st := a.State(); !st.Connected {
		t.Errorf("%+v", st)
	}
}

// rights are those that docs/sessions.md asks for.
const rights = "+eval +evalsha +script|load +hget +hset +hdel +hlen +zadd +zrem +zrange +zrevrange +zrangebyscore +zremrangebyscore " +
	"+zcard +zcount +zscore +pexpire +pexpireat +time +set +getdel +publish +subscribe +ping"

// The documented rights are enough, and no more than the keys and channels
// of the prefix.
func TestPasswordAndRightsOfAnAccessList(t *testing.T) {
	s := redistest.Start(t)
	rules := strings.Fields("on >secret resetkeys resetchannels ~omnia-gateway:* &omnia-gateway:* -@all " + rights)
	for _, rule := range [][]string{append([]string{"gateway"}, rules...), {"default", "off"}} {
		if err := s.Client(t).Do(t.Context(), append([]any{"acl", "setuser"}, anys(rule)...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r := at(s.Addr)
	r.Username, r.PasswordFile = "gateway", filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(r.PasswordFile, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := join(t, "a", r), join(t, "b", r)
	wstest.Eventually(t, "refused", func() bool { return strings.Contains(a.State().Error, "WRONGPASS") })
	if err := os.WriteFile(r.PasswordFile, []byte("secret\n"), 0o600); err != nil { // it is read for each connection
		t.Fatal(err)
	}
	ready(t, a, b)
	a.Share(a.revocation("1", "x"))
	b.learns(Revocation, "1", "x")
	h := Holder{"1", "i", "u"}
	if !a.Take(t.Context(), h, 1) || b.Take(t.Context(), Holder{"2", "i", "u"}, 1) {
		t.Error("not one place")
	}
	a.hold(h)
	a.refreshLeases(t.Context())
	if answers, _, err := a.Ask(t.Context(), Question{Kind: "long"}); len(answers) != 1 || err != nil {
		t.Errorf("%d answers, %v", len(answers), err)
	}
	a.stop()
	wstest.Eventually(t, "given back", func() bool { return b.Take(t.Context(), Holder{"2", "i", "u"}, 1) })
	if st := b.State(); !st.Connected {
		t.Errorf("%+v", st)
	}
}

func TestTLSTowardsRedis(t *testing.T) {
	pair := wstest.KeyPair(t, 1, time.Now().Add(time.Hour))
	dir := t.TempDir()
	write := func(name string, block *pem.Block) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert := write("tls.crt", &pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	priv := write("tls.key", &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	s := redistest.StartTLS(t, cert, priv)
	r := at(s.Addr)
	stranger := join(t, "stranger", r)
	r.TLS.Enabled = true
	distrusting := join(t, "distrusting", r)
	r.TLS.CAFile = cert
	certless := join(t, "certless", r)
	r.TLS.CertFile, r.TLS.KeyFile = cert, priv
	a := join(t, "a", r)
	ready(t, a)
	for _, m := range []*member{stranger, distrusting, certless} {
		wstest.Eventually(t, m.Name+" fails", func() bool { return m.State().Error != "" })
	}
}

func TestFilesThatAreMissingOrBadAreSaidAtOnce(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.pem")
	if err := os.WriteFile(bad, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	r := at("127.0.0.1:1")
	for _, tt := range []struct{ password, ca, cert, want string }{
		{missing, "", "", "cluster.redis: open " + missing},
		{"", missing, "", "cluster.redis.tls.caFile: open " + missing},
		{"", bad, "", "cluster.redis.tls.caFile: no certificate in " + bad},
		{"", "", bad, "cluster.redis.tls.certFile: "},
	} {
		r.PasswordFile = tt.password
		r.TLS.Enabled, r.TLS.CAFile, r.TLS.CertFile, r.TLS.KeyFile = true, tt.ca, tt.cert, tt.cert
		if _, err := New(r, Options{}); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}
