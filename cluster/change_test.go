package cluster

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/redistest"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

func TestChangeReachesEveryOtherReplica(t *testing.T) {
	_, a, b, c := three(t)
	began := time.Now()
	a.Share(a.revocation("1", "alice"))
	b.learns(Revocation, "1", "alice")
	c.learns(Revocation, "1", "alice")
	if took := time.Since(began); took > time.Second {
		t.Errorf("after %s", took)
	}
	if _, told := a.knows(Revocation, "1"); told {
		t.Error("its own maker was told of it")
	}
}

func TestNewestChangeWins(t *testing.T) {
	_, a, b, c := three(t)
	made := a.revocation("1", "made")
	a.Share(made)
	b.learns(Revocation, "1", "made")
	lift := b.revocation("1", "lifted")
	lift.Made = made.Made.Add(-time.Hour) // b's clock is an hour late, and b knows what it lifts
	b.Share(lift)
	a.learns(Revocation, "1", "lifted")
	c.learns(Revocation, "1", "lifted")
	late := c.revocation("2", "new")
	c.Share(late)
	a.learns(Revocation, "2", "new")
	late.Made, late.Body = late.Made.Add(-time.Minute), []byte("old") // as from a replica that was away
	if n, _, err := a.store(t.Context(), []Change{late}); n != 0 || err != nil {
		t.Errorf("an older change was stored: %d, %v", n, err)
	}
}

func TestLateReplicaReadsAllThereIs(t *testing.T) {
	s, a, _, _ := three(t)
	const many = 3*batch + 7 // over several pages
	for n := range many {
		a.Share(a.revocation(fmt.Sprint(n), "x"))
	}
	a.Share(Change{Kind: End, Key: "over", Made: a.Now(), Until: a.Now().Add(-time.Second)})
	wstest.Eventually(t, "nothing is pending", func() bool { return a.State().Pending == 0 })
	d := join(t, "d", at(s.Addr))
	<-d.Synced()
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[string]bool{}
	for _, ch := range d.applied {
		seen[ch.Key] = true
	}
	if len(seen) != many || len(d.applied) != many || seen["over"] {
		t.Errorf("%d changes, %d of them different", len(d.applied), len(seen))
	}
}

func TestWhatWasChangedWhileRedisWasAwayIsBroughtTogether(t *testing.T) {
	t.Parallel()
	s, a, b, c := three(t)
	a.Share(a.revocation("before", "x"))
	b.learns(Revocation, "before", "x")
	c.learns(Revocation, "before", "x")
	a.Share(Change{Kind: Renewal, Key: "alice", Made: a.Now(), Until: a.Now().Add(time.Hour), Body: []byte("claims")})
	b.learns(Renewal, "alice", "claims")
	s.Kill()
	for _, m := range []*member{a, b, c} {
		wstest.Eventually(t, m.Name+" alone", func() bool { return !m.State().Connected })
	}
	a.Share(a.revocation("meanwhile", "by a"))
	b.Share(b.revocation("meanwhile too", "by b"))
	if p := a.State().Pending; p != 1 {
		t.Errorf("%d pending", p)
	}
	s.Restart(t) // without its data
	for _, m := range []*member{a, c} {
		m.learns(Revocation, "meanwhile too", "by b")
	}
	for _, m := range []*member{b, c} {
		m.learns(Revocation, "meanwhile", "by a")
	}
	d := join(t, "d", at(s.Addr)) // Redis has what it had lost
	d.learns(Revocation, "before", "x")
	for _, m := range []*member{a, b, c} {
		if n := m.log.count("redis not reachable"); n != 1 {
			t.Errorf("%s: logged %d times that Redis is away", m.Name, n)
		}
	}
}

func TestReplicaOnASilentNetworkConnectsAnew(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	link := redistest.NewLink(t, s.Addr)
	a, b := join(t, "a", at(s.Addr)), join(t, "b", at(link.Addr))
	ready(t, a, b)
	link.Cut()
	a.Share(a.revocation("1", "by a"))
	b.Share(b.revocation("2", "by b"))
	wstest.Eventually(t, "b notices", func() bool { return !b.State().Connected })
	link.Heal()
	b.learns(Revocation, "1", "by a")
	a.learns(Revocation, "2", "by b")
}

// A connection on which nothing arrives looks like one on which nothing happens.
func TestSubscriptionThatAnswersNoPingIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := join(t, "a", at(s.Addr))
	ready(t, a)
	s.Pause()
	began := time.Now()
	wstest.Eventually(t, "the subscription is given up", func() bool {
		a.Cluster.mu.Lock()
		defer a.Cluster.mu.Unlock()
		return a.links[subscription].err == errSilent
	})
	if took := time.Since(began); took > pingInterval+pingTimeout+2*time.Second {
		t.Errorf("after %s", took)
	}
	s.Resume()
	ready(t, a)
}

func TestDataThatRedisHasLostIsGivenBack(t *testing.T) {
	s, a, b, _ := three(t)
	a.Share(a.revocation("1", "x"))
	b.learns(Revocation, "1", "x")
	s.Client(t).FlushAll(t.Context())
	wstest.Eventually(t, "given back", func() bool { return s.Client(t).HLen(t.Context(), a.keys.values).Val() == 1 })
}

// A Redis that evicts keys takes one of them and leaves the others.
func TestOneKeyThatRedisHasLostIsGivenBack(t *testing.T) {
	for _, tt := range []struct {
		lost string
		key  func(keys) string
	}{
		{"values", func(k keys) string { return k.values }},
		{"order", func(k keys) string { return k.order }},
		{"untils", func(k keys) string { return k.untils }},
	} {
		t.Run(tt.lost, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			a, b := join(t, "a", at(s.Addr)), join(t, "b", at(s.Addr))
			ready(t, a, b)
			a.Share(a.revocation("1", "x"))
			b.learns(Revocation, "1", "x")
			for n := range batch + 1 { // replicas do not keep these
				a.Share(Change{Kind: Renewal, Key: fmt.Sprint(n), Made: a.Now(), Until: a.Now().Add(time.Hour), Body: []byte("claims")})
			}
			b.learns(Renewal, fmt.Sprint(batch), "claims")
			s.Client(t).Del(t.Context(), tt.key(a.keys))
			wstest.Eventually(t, "both are in Redis, whole", func() bool {
				r := s.Client(t)
				return r.HExists(t.Context(), a.keys.values, "revocation/1").Val() &&
					r.ZScore(t.Context(), a.keys.order, "revocation/1").Val() > 0 &&
					r.ZScore(t.Context(), a.keys.untils, "revocation/1").Val() > 0
			})
			a.Share(a.revocation("2", "y"))
			c := join(t, "c", at(s.Addr))
			c.learns(Revocation, "1", "x")
			c.learns(Revocation, "2", "y")
		})
	}
}

func TestValueThatIsNoChangeIsReplaced(t *testing.T) {
	s := redistest.Start(t)
	a, b := join(t, "a", at(s.Addr)), join(t, "b", at(s.Addr))
	ready(t, a, b)
	a.Share(a.revocation("1", "x"))
	b.learns(Revocation, "1", "x")
	s.Client(t).HSet(t.Context(), a.keys.values, "revocation/1", "foreign")
	a.Share(a.revocation("1", "y"))
	b.learns(Revocation, "1", "y")
	if st := a.State(); !st.Connected {
		t.Errorf("%+v", st)
	}
}

// A user who cannot be logged out for want of room in Redis would stay logged in.
func TestOnceIsOnceWithoutRoom(t *testing.T) {
	s := redistest.Start(t)
	a := joinOf(t, "a", at(s.Addr), 1)
	ready(t, a)
	a.Share(a.revocation("1", "x"))
	wstest.Eventually(t, "stored", func() bool { return a.State().Pending == 0 })
	logout := Change{Kind: Logout, Key: "token", Until: a.Now().Add(time.Hour)}
	if !a.Once(t.Context(), logout) {
		t.Error("a token that was not used was refused")
	}
	if a.Once(t.Context(), logout) {
		t.Error("a token was used twice")
	}
}

func TestSweepGoesOnAfterTheClockWasSetBack(t *testing.T) {
	c := changes{known: map[string]*entry{}, unsent: map[string]*entry{}}
	now := time.Now()
	if !c.forget(now) || c.forget(now.Add(look/2)) {
		t.Error("not once in a while")
	}
	if !c.forget(now.Add(-time.Hour)) {
		t.Error("nothing is swept until the clock shows the same time again")
	}
}

func TestOnceIsOnceOverAllReplicas(t *testing.T) {
	t.Parallel()
	s, a, b, c := three(t)
	once := func(key string, all ...*member) int64 {
		var first atomic.Int64
		var wg sync.WaitGroup
		for range 5 {
			for _, m := range all {
				wg.Go(func() {
					if m.Once(t.Context(), Change{Kind: Logout, Key: key, Until: a.Now().Truncate(time.Hour).Add(2 * time.Hour)}) {
						first.Add(1)
					}
				})
			}
		}
		wg.Wait()
		return first.Load()
	}
	for n := range 20 {
		if got := once(fmt.Sprint(n), a, b, c); got != 1 {
			t.Errorf("%d times", got)
		}
	}
	s.Kill()
	wstest.Eventually(t, "alone", func() bool { return !a.State().Connected })
	if got := once("away", a); got != 1 {
		t.Errorf("without Redis: %d times", got)
	}
	s.Restart(t)
	ready(t, a, b, c)
	b.learns(Logout, "away", "")
	if got := once("away", a, b, c); got != 0 {
		t.Errorf("a token that was used while Redis was away was taken %d times more", got)
	}
	if got := once("1", a, b, c); got != 0 {
		t.Errorf("a token that was used before Redis lost its data was taken %d times more", got)
	}
}

func TestChangesAreBounded(t *testing.T) {
	s := redistest.Start(t)
	a := joinOf(t, "a", at(s.Addr), 3)
	ready(t, a)
	for n := range 5 {
		a.Share(a.revocation(fmt.Sprint(n), "x"))
	}
	a.Share(a.revocation("1", "y")) // one that is known needs no room
	wstest.Eventually(t, "stored", func() bool { return a.State().Pending == 0 })
	if st := a.State(); st.Changes != 3 || st.Refused != 2 {
		t.Errorf("%+v", st)
	}
	if n := s.Client(t).HLen(t.Context(), a.keys.values).Val(); n != 3 {
		t.Errorf("%d in Redis", n)
	}
}

// A caller may renew as often as it likes, under names of its own.
func TestManyRenewalsKeepNoRevocationFromTheOthers(t *testing.T) {
	s := redistest.Start(t)
	a, b, c := joinOf(t, "a", at(s.Addr), 8), joinOf(t, "b", at(s.Addr), 8), joinOf(t, "c", at(s.Addr), 8)
	ready(t, a, b, c)
	for n := range 5 {
		for _, m := range []*member{a, b} {
			now := m.Now()
			m.Share(Change{Kind: Renewal, Key: m.Name + fmt.Sprint(n), Made: now, Until: now.Add(time.Hour), Body: []byte("claims")})
		}
	}
	wstest.Eventually(t, "no renewal is pending", func() bool { return a.State().Pending+b.State().Pending == 0 })
	if n := s.Client(t).HLen(t.Context(), a.keys.values).Val(); n != 4 {
		t.Errorf("%d renewals in Redis, want 4", n)
	}
	a.Share(a.revocation("1", "x"))
	c.learns(Revocation, "1", "x")
}

func TestNothingIsLeftInRedisForGood(t *testing.T) {
	s, a, b, _ := three(t)
	a.Share(a.revocation("1", "x"))
	a.Share(Change{Kind: Renewal, Key: "1", Made: a.Now(), Until: a.Now().Add(time.Hour), Body: []byte("c")})
	b.learns(Revocation, "1", "x")
	if !a.Take(t.Context(), Holder{"s", "i", "u"}, 1) {
		t.Error("no place")
	}
	r := s.Client(t)
	keys := r.Keys(t.Context(), "*").Val()
	for _, key := range keys {
		if ttl := r.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > 2*time.Hour {
			t.Errorf("%s stays for %s", key, ttl)
		}
	}
	if len(keys) != 5 {
		t.Errorf("%q", keys)
	}
}

func TestRenewalsAreNotKeptByReplicas(t *testing.T) {
	_, a, b, _ := three(t)
	a.Share(Change{Kind: Renewal, Key: "u", Made: a.Now(), Until: a.Now().Add(time.Hour), Body: []byte("claims")})
	b.learns(Renewal, "u", "claims")
	for _, m := range []*member{a, b} {
		wstest.Eventually(t, m.Name+" has given the claims up", func() bool {
			m.changes.mu.Lock()
			defer m.changes.mu.Unlock()
			e := m.changes.known["renewal/u"]
			return e.bare && e.Body == nil
		})
	}
}

func TestLeavingReplicaIsNotWaitedFor(t *testing.T) {
	_, a, b, c := three(t)
	c.stop()
	a.rouse()
	wstest.Eventually(t, "two are left", func() bool { return slices.Equal(a.State().Replicas, []string{"a", "b"}) })
	_ = b
}

// A service with many users renews all the time.
func TestManyRenewalsCostLittle(t *testing.T) {
	const many = 5000
	s := redistest.Start(t)
	a, b, c := joinOf(t, "a", at(s.Addr), 3*many), joinOf(t, "b", at(s.Addr), 3*many), joinOf(t, "c", at(s.Addr), 3*many)
	ready(t, a, b, c)
	claims := bytes.Repeat([]byte("x"), 1000)
	began := time.Now()
	for n := range many {
		a.Share(Change{Kind: Renewal, Key: fmt.Sprint(n), Made: a.Now(), Until: a.Now().Add(time.Hour), Body: claims})
	}
	b.learns(Renewal, fmt.Sprint(many-1), string(claims))
	wstest.Eventually(t, "all are stored", func() bool { return a.State().Pending == 0 })
	t.Logf("%d renewals reached the others in %s", many, time.Since(began).Round(time.Millisecond))
	stat := func() (calls int64) {
		info := s.Client(t).Info(t.Context(), "commandstats").Val()
		for line := range strings.Lines(info) {
			if rest, ok := strings.CutPrefix(line, "cmdstat_hget:calls="); ok {
				fmt.Sscan(strings.Split(rest, ",")[0], &calls)
			}
		}
		return calls
	}
	before := stat()
	for n := range 20 {
		a.Share(Change{Kind: Renewal, Key: fmt.Sprint("late", n), Made: a.Now(), Until: a.Now().Add(time.Hour), Body: claims})
		b.learns(Renewal, fmt.Sprint("late", n), string(claims))
	}
	// Each is looked for once when it is stored and once by each replica; beside that, at most
	// what one look reads again.
	if calls := stat() - before; calls > 3*many+20*5 {
		t.Errorf("%d changes were looked at for 20 new ones", calls)
	}
}

func FuzzParseChange(f *testing.F) {
	f.Add("revocation/1", "1 2 {}")
	f.Add("end/", "-1 9223372036854775807 ")
	f.Fuzz(func(t *testing.T, id, text string) {
		ch, err := parseChange(id, text)
		if err != nil {
			return
		}
		again, err := parseChange(ch.id(), ch.text())
		same := again.id() == ch.id() && again.text() == ch.text()
		if err != nil || !same {
			t.Errorf("%q %q: %+v, then %+v, %v", id, text, ch, again, err)
		}
	})
}
