package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// hold makes a replica hold places.
func (m *member) hold(all ...Holder) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holders = all
}

func TestPlacesCountOverAllReplicas(t *testing.T) {
	_, a, b, c := three(t)
	const limit = 7
	for range 3 {
		var got atomic.Int64
		var taken sync.Map
		var wg sync.WaitGroup
		for n := range 10 {
			for _, m := range []*member{a, b, c} {
				wg.Go(func() {
					h := Holder{fmt.Sprint(m.Name, n), "issuer", "alice"}
					if m.Take(t.Context(), h, limit) {
						got.Add(1)
						taken.Store(h, m)
					}
				})
			}
		}
		wg.Wait()
		if got.Load() != limit {
			t.Errorf("%d places of %d", got.Load(), limit)
		}
		if !a.Take(t.Context(), Holder{"s", "issuer", "bob"}, 1) || !a.Take(t.Context(), Holder{"s", "other", "alice"}, 1) {
			t.Error("another user has no place")
		}
		for h, m := range taken.Range {
			m.(*member).Release(h.(Holder))
		}
		a.Release(Holder{"s", "issuer", "bob"})
		a.Release(Holder{"s", "other", "alice"})
		wstest.Eventually(t, "all are given back", func() bool { return len(a.redis.Keys(t.Context(), "*places*").Val()) == 0 })
	}
}

func TestLeasesEndByRedisClock(t *testing.T) {
	s, a, b, _ := three(t)
	h := Holder{"1", "issuer", "alice"}
	key := h.key(a.keys.prefix)
	if !a.Take(t.Context(), h, 1) || b.Take(t.Context(), Holder{"2", "issuer", "alice"}, 1) {
		t.Fatal("not one place")
	}
	if ttl := s.Client(t).PTTL(t.Context(), key).Val(); ttl > 30*time.Second || ttl < 20*time.Second {
		t.Errorf("a lease of %s", ttl)
	}
	// As if its time were over: nothing has refreshed it.
	s.Client(t).ZIncrBy(t.Context(), key, -float64(lease.Microseconds()), "1")
	if !b.Take(t.Context(), Holder{"2", "issuer", "alice"}, 1) {
		t.Error("a lease that is over is in the way")
	}
}

func TestRefreshOfALeaseCreatesNone(t *testing.T) {
	s, a, _, _ := three(t)
	h := Holder{"1", "issuer", "alice"}
	key := h.key(a.keys.prefix)
	without, err := a.eachUser(t.Context(), refreshScript, map[string][]string{key: {"1"}})
	if err != nil || len(without[key]) != 1 || s.Client(t).Exists(t.Context(), key).Val() != 0 {
		t.Errorf("%v, %v", without, err)
	}
	a.Take(t.Context(), h, 1)
	s.Client(t).ZIncrBy(t.Context(), key, -5e6, "1")
	before := s.Client(t).ZScore(t.Context(), key, "1").Val()
	without, err = a.eachUser(t.Context(), refreshScript, map[string][]string{key: {"1"}})
	if after := s.Client(t).ZScore(t.Context(), key, "1").Val(); err != nil || len(without) != 0 || after-before < 4e6 {
		t.Errorf("%v, %v, prolonged by %v µs", without, err, after-before)
	}
}

func TestSessionsCountAgainAfterRedisHasLostTheirLeases(t *testing.T) {
	s, a, b, _ := three(t)
	h := Holder{"1", "issuer", "alice"}
	a.Take(t.Context(), h, 1)
	a.hold(h)
	s.Restart(t) // without its data
	began := time.Now()
	r := s.Client(t)
	wstest.Eventually(t, "the live session counts", func() bool { return r.Exists(t.Context(), h.key(a.keys.prefix)).Val() == 1 })
	if took := time.Since(began); took > refresh/2 {
		t.Errorf("after %s", took)
	}
	wstest.Eventually(t, "b connected", func() bool { return b.State().Connected })
	if b.Take(t.Context(), Holder{"2", "issuer", "alice"}, 1) {
		t.Error("it does not count")
	}
	a.hold()
	a.Release(h)
	wstest.Eventually(t, "given back", func() bool { return r.Exists(t.Context(), h.key(a.keys.prefix)).Val() == 0 })
}

func TestPlacesAreFreeWhileRedisIsAway(t *testing.T) {
	s, a, _, _ := three(t)
	s.Pause()
	t.Cleanup(s.Resume)
	began := time.Now()
	for range 20 { // the first waits, the others know
		if !a.Take(t.Context(), Holder{"1", "issuer", "alice"}, 0) {
			t.Error("refused")
		}
	}
	if took := time.Since(began); took > 2*leaseTimeout {
		t.Errorf("%s for 20 places", took)
	}
	s.Resume()
	wstest.Eventually(t, "connected", func() bool { return a.State().Connected })
	if a.Take(t.Context(), Holder{"1", "issuer", "alice"}, 0) {
		t.Error("not refused")
	}
}

func TestLeavingReplicaGivesItsPlacesBack(t *testing.T) {
	_, a, b, _ := three(t)
	h := Holder{"1", "issuer", "alice"}
	a.Take(t.Context(), h, 1)
	a.hold(h)
	a.stop()
	if !b.Take(t.Context(), Holder{"2", "issuer", "alice"}, 1) {
		t.Error("its place is not free")
	}
}
