package gateway

import (
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/altairalabs/omnia-gateway/gateway/policy"
)

const (
	manyAddresses = 8192             // that are remembered; the one that was refused longest ago goes first
	longestWait   = time.Minute      // of an address
	forgiven      = 10 * time.Minute // without a refusal, and its next wait is the first again
)

// refused makes addresses wait whose tokens were refused too often: each attempt costs a
// signature, and guesses should not be free. The wait doubles with each further refusal.
type refused struct {
	now func() time.Time

	mu sync.Mutex
	by *lru.LRU[netip.Addr, *attempts]
}

// attempts are the refused tokens of one address, or of one /64.
type attempts struct {
	since time.Time // when count began, anew each minute
	count int
	wait  time.Duration // the last one
	until time.Time     // when it is over
}

func newRefused() *refused {
	by, _ := lru.NewLRU[netip.Addr, *attempts](manyAddresses, nil) // it fails only for a size below 1
	return &refused{now: time.Now, by: by}
}

// waits returns how long an address still has to wait; 0: not at all. No address waits if
// perMinute, the limit, is 0.
func (r *refused) waits(client netip.Addr, perMinute int) time.Duration {
	if perMinute == 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.by.Peek(policy.Network(client))
	if !ok {
		return 0
	}
	return max(0, a.until.Sub(r.now()))
}

// add counts a refused token of an address, of which perMinute cost nothing.
func (r *refused) add(client netip.Addr, perMinute int) {
	if perMinute == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key, now := policy.Network(client), r.now()
	a, ok := r.by.Get(key)
	if !ok {
		a = &attempts{since: now}
		r.by.Add(key, a)
	}
	if now.Sub(a.until) > forgiven {
		a.wait = 0
	}
	if now.Sub(a.since) > time.Minute {
		a.since, a.count = now, 0
	}
	if a.count++; a.count > perMinute {
		a.wait = min(max(2*a.wait, time.Second), longestWait)
		a.until = now.Add(a.wait)
	}
}
