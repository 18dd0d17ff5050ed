package auth

import (
	"crypto/sha256"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// The bounds of the cache of verified tokens.
const (
	// maxRemembered is how long a token may be that is remembered. Longer ones are rare, and are
	// verified each time.
	maxRemembered = 8 << 10
	// cacheBytes bounds the memory of all that is remembered.
	cacheBytes = 8 << 20
	// entryBytes is about what an entry takes beside its claims.
	entryBytes = 512
)

// digest is the SHA-256 of a token.
type digest = [sha256.Size]byte

// verified is what is remembered of a token. It holds for as long as the issuer has the keys that
// the token was verified with.
type verified struct {
	identity *Identity
	keys     *jwks
}

// memory estimates how many bytes the entry takes.
func (v verified) memory() int {
	return entryBytes + len(v.identity.Subject) + v.identity.Claims.memory()
}

// cache remembers verified tokens, those asked for last. Only valid tokens come in, so an attacker
// without one cannot push the others out. It may be used concurrently.
type cache struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[digest, verified]
	bytes int // of all entries
}

func newCache() *cache {
	c := &cache{}
	// The number of entries is bounded by their bytes; NewLRU fails for a size of 0 only.
	c.lru, _ = simplelru.NewLRU(cacheBytes/entryBytes, func(_ digest, v verified) { c.bytes -= v.memory() })
	return c
}

func (c *cache) get(key digest) (verified, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Get(key)
}

func (c *cache) add(key digest, v verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Remove(key) // an entry that is replaced is not reported as evicted
	c.lru.Add(key, v)
	for c.bytes += v.memory(); c.bytes > cacheBytes; {
		c.lru.RemoveOldest()
	}
}

// size returns how many tokens are remembered, and about how many bytes they take.
func (c *cache) size() (tokens, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Len(), c.bytes
}
