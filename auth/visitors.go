package auth

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// maxVisitors is how many callers of an issuer are known at a time.
const maxVisitors = 4096

// visitor is a subject and the address from which it came. A stranger may know the name of a user,
// but cannot come from the user's address.
type visitor struct {
	addr    netip.Addr
	subject string
}

// visitors are those of an issuer whose tokens were verified not long ago: only a hash of each, in
// a ring. The zero value is usable, also concurrently.
type visitors struct {
	mu    sync.Mutex
	seed  maphash.Seed
	ring  []uint64
	next  int
	asked map[uint64]time.Time // when keys were last fetched for each; zero: never
}

// saw makes a caller known.
func (c *visitors) saw(who visitor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == nil {
		c.seed, c.asked = maphash.MakeSeed(), map[uint64]time.Time{}
	}
	h := maphash.Comparable(c.seed, who)
	if _, known := c.asked[h]; known {
		return
	}
	if len(c.ring) < maxVisitors {
		c.ring = append(c.ring, h)
	} else {
		delete(c.asked, c.ring[c.next])
		c.ring[c.next] = h
		c.next = (c.next + 1) % maxVisitors
	}
	c.asked[h] = time.Time{}
}

// ask reports whether keys may be fetched for a caller: one that is known, once in refetchEvery.
func (c *visitors) ask(who visitor, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == nil {
		return false
	}
	h := maphash.Comparable(c.seed, who)
	last, known := c.asked[h]
	if !known || !last.IsZero() && now.Sub(last) < refetchEvery {
		return false
	}
	c.asked[h] = now
	return true
}
