package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// lease is how long a place is held without a refresh. It ends sooner than 30 s after a
	// replica has died, whatever it did last.
	lease = 25 * time.Second
	// refresh is how often a replica refreshes its leases: two may fail.
	refresh = 8 * time.Second
	// leaseTimeout is how long a handshake waits for Redis.
	leaseTimeout = 500 * time.Millisecond
)

// Holder is a session that holds one of its user's places.
type Holder struct{ Session, Issuer, Subject string }

// key is that of the user's leases.
func (h Holder) key(prefix string) string {
	user := sha256.Sum256([]byte(h.Issuer + "\x00" + h.Subject))
	return prefix + "places:" + hex.EncodeToString(user[:16])
}

// leases are the places that are to be given back.
type leases struct {
	mu       sync.Mutex
	released map[string]map[string]time.Time // by the user's key: sessions, and when they left
	wake     chan struct{}                   // has room for one notice of them
	lost     chan struct{}                   // has room for one notice that Redis may have lost leases
}

// of returns the sessions of a user that have left and may still have a lease.
func (l *leases) of(key string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.released[key]))
}

// all returns the sessions that have left, by the users' keys. It forgets those whose leases have
// ended by themselves.
func (l *leases) all(now time.Time) map[string][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string][]string{}
	for key, sessions := range l.released {
		maps.DeleteFunc(sessions, func(_ string, left time.Time) bool { return now.Sub(left) > lease })
		if len(sessions) == 0 {
			delete(l.released, key)
			continue
		}
		all[key] = slices.Collect(maps.Keys(sessions))
	}
	return all
}

// done forgets sessions whose leases were given back.
func (l *leases) done(given map[string][]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, sessions := range given {
		for _, s := range sessions {
			delete(l.released[key], s)
		}
		if len(l.released[key]) == 0 {
			delete(l.released, key)
		}
	}
}

// takeScript takes a place if one is left, by Redis' clock. A session that has one keeps it.
//
// KEYS: the user's leases. ARGV: session, lease in microseconds, limit, then sessions that have
// left.
var takeScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local function text(n) return string.format('%.0f', n) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
for i = 4, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
redis.call('ZADD', KEYS[1], text(now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
return 1
`)

// Take takes a place for a session of a user who may have so many over all replicas, and reports
// whether there was one. While Redis is away there always is. A place that was taken must be
// released.
func (c *Cluster) Take(ctx context.Context, h Holder, limit int) bool {
	if !c.connected() {
		return true
	}
	short, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	// What was released and is still on its way counts: a client that was told so may be back
	// first.
	key := h.key(c.keys.prefix)
	args := append([]any{h.Session, lease.Microseconds(), limit}, anys(c.leases.of(key))...)
	took, err := takeScript.Run(short, c.redis, []string{key}, args...).Int()
	if err != nil {
		if ctx.Err() == nil {
			c.note(commands, fmt.Errorf("take a place: %w", err)) // the next handshake does not wait
			c.rouse()
		}
		return true
	}
	return took == 1
}

// Release gives the place of a session back. It does not wait.
func (c *Cluster) Release(h Holder) {
	key := h.key(c.keys.prefix)
	c.leases.mu.Lock()
	if c.leases.released[key] == nil {
		c.leases.released[key] = map[string]time.Time{}
	}
	c.leases.released[key][h.Session] = time.Now()
	c.leases.mu.Unlock()
	select {
	case c.leases.wake <- struct{}{}:
	default:
	}
}

// keepLeases gives places back and refreshes the others. It is one goroutine, so that no lease of
// a session that has left is renewed after it was given back.
func (c *Cluster) keepLeases(ctx context.Context) {
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			c.giveBackAll()
			return
		case <-c.leases.wake:
			c.giveBack(ctx)
			continue
		case <-c.leases.lost:
		case <-tick.C:
		}
		c.giveBack(ctx)
		if c.connected() {
			c.refreshLeases(ctx)
		}
	}
}

// giveBack removes the leases of sessions that have left. While Redis is away they end by
// themselves.
func (c *Cluster) giveBack(ctx context.Context) {
	left := c.leases.all(time.Now())
	if len(left) == 0 || !c.connected() {
		return
	}
	ctx, cancel := within(ctx)
	defer cancel()
	_, err := c.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for key, sessions := range left {
			p.ZRem(ctx, key, anys(sessions)...)
		}
		return nil
	})
	if err == nil {
		c.leases.done(left)
	}
}

// giveBackAll removes every lease of this replica.
func (c *Cluster) giveBackAll() {
	for _, h := range c.Holders() {
		c.Release(h)
	}
	c.giveBack(context.Background())
}

// refreshScript prolongs leases that there are, and returns the sessions that have none.
//
// KEYS: a user's leases. ARGV: lease in microseconds, then sessions.
const refreshScript = `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local function text(n) return string.format('%.0f', n) end
local without = {}
for i = 2, #ARGV do
  local ends = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if ends and tonumber(ends) > now then
    redis.call('ZADD', KEYS[1], 'XX', text(now + ARGV[1]), ARGV[i])
  else
    without[#without + 1] = ARGV[i]
  end
end
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[1] / 1000))
return without
`

// restoreScript makes leases anew, above a limit too.
//
// KEYS: a user's leases. ARGV: lease in microseconds, then sessions.
const restoreScript = `
local t = redis.call('TIME')
local ends = string.format('%.0f', t[1] * 1000000 + t[2] + ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], ends, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[1] / 1000))
return {}
`

// refreshLeases prolongs the leases of the live sessions. A session whose lease has ended
// meanwhile, because Redis was away, goes on and counts again.
func (c *Cluster) refreshLeases(ctx context.Context) {
	held := map[string][]string{}
	for _, h := range c.Holders() {
		key := h.key(c.keys.prefix)
		held[key] = append(held[key], h.Session)
	}
	without, err := c.eachUser(ctx, refreshScript, held)
	if err == nil {
		_, err = c.eachUser(ctx, restoreScript, without)
	}
	if err != nil && ctx.Err() == nil {
		c.note(commands, fmt.Errorf("refresh leases: %w", err))
		c.rouse()
	}
}

// eachUser runs a script for the sessions of each user, and returns the sessions that it returns.
func (c *Cluster) eachUser(ctx context.Context, script string, held map[string][]string) (map[string][]string, error) {
	type user struct {
		key      string
		sessions []string
	}
	var users []user
	for key, sessions := range held {
		for some := range slices.Chunk(sessions, batch) {
			users = append(users, user{key, some})
		}
	}
	returned := map[string][]string{}
	for some := range slices.Chunk(users, batch) {
		answers := make([]*redis.Cmd, len(some))
		ctx, cancel := within(ctx)
		_, err := c.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, u := range some {
				answers[i] = p.Eval(ctx, script, []string{u.key}, append([]any{lease.Microseconds()}, anys(u.sessions)...)...)
			}
			return nil
		})
		cancel()
		if err != nil {
			return nil, err
		}
		for i, u := range some {
			if sessions, _ := answers[i].StringSlice(); len(sessions) > 0 {
				returned[u.key] = append(returned[u.key], sessions...)
			}
		}
	}
	return returned, nil
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}
