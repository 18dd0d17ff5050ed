package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Kind is a kind of change. The names are in Redis, so they stay.
type Kind string

// The kinds of change.
const (
	Revocation Kind = "revocation" // made or lifted
	Logout     Kind = "logout"     // a logout token was used
	End        Kind = "end"        // sessions are ended
	Renewal    Kind = "renewal"    // sessions are renewed
)

// kept reports whether a replica keeps the body of a change that Redis has, and gives it back to a
// Redis that has lost it. Renewals are many and long, and a client soon makes another.
func (k Kind) kept() bool { return k != Renewal }

// room returns how many changes there may be, of all kinds, when one of this kind is added. Callers
// make as many renewals as they like; these must not keep a revocation from the others.
func (k Kind) room(most int) int {
	if k == Renewal {
		return most / 2
	}
	return most
}

// Change is one change that all replicas are to know. The newest of its kind and key counts.
type Change struct {
	Kind Kind
	// Key names what has changed.
	Key string
	// Made is when, to a microsecond. Share moves it forward if a change that was known before it
	// claims to be newer, so that clocks that differ do not turn the order round.
	Made time.Time
	// Until is when the change may be forgotten.
	Until time.Time
	// Body is what its owner reads.
	Body []byte
}

// id is the name under which the change is kept.
func (c Change) id() string { return string(c.Kind) + "/" + c.Key }

// newer reports whether c counts instead of d. Two at the same time must be decided alike on every
// replica.
func (c Change) newer(d Change) bool {
	if a, b := c.Made.UnixMicro(), d.Made.UnixMicro(); a != b {
		return a > b
	}
	return string(c.Body) > string(d.Body)
}

// text is the value in Redis: two times in microseconds and the body.
func (c Change) text() string {
	return strconv.FormatInt(c.Made.UnixMicro(), 10) + " " + strconv.FormatInt(c.Until.UnixMicro(), 10) + " " + string(c.Body)
}

// parseChange is the reverse of id and text.
func parseChange(id, text string) (Change, error) {
	kind, key, named := strings.Cut(id, "/")
	made, rest, _ := strings.Cut(text, " ")
	until, body, whole := strings.Cut(rest, " ")
	m, merr := strconv.ParseInt(made, 10, 64)
	u, uerr := strconv.ParseInt(until, 10, 64)
	if !named || !whole || merr != nil || uerr != nil {
		return Change{}, errors.New("not a change")
	}
	return Change{Kind(kind), key, time.UnixMicro(m), time.UnixMicro(u), []byte(body)}, nil
}

// changes are those that a replica knows.
type changes struct {
	mu      sync.Mutex
	known   map[string]*entry
	unsent  map[string]*entry // those of them that Redis does not have
	swept   time.Time         // when those that are over were dropped
	refused uint64

	// Owned by sync.
	since  int64     // the order up to which Redis was read
	read   time.Time // when all of it was
	looked time.Time // when overlap was
}

// entry is a change that is known.
type entry struct {
	Change
	bare  bool // the body was given up
	claim bool // Once is storing it
}

func (c *changes) count() (known, pending int, refused uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.known), len(c.unsent), c.refused
}

// Share makes a change known to all replicas, at the latest when Redis is back. It does not wait.
// It does not apply the change here.
func (c *Cluster) Share(ch Change) {
	if c.changes.share(&ch, c.MaxChanges) {
		c.rouse()
	} else {
		c.Log.Error("change not shared: there are too many", "kind", string(ch.Kind), "max", c.MaxChanges)
	}
}

func (c *changes) share(ch *Change, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, known := c.known[ch.id()]
	if known && ch.Made.UnixMicro() <= before.Made.UnixMicro() {
		ch.Made = before.Made.Add(time.Microsecond)
	}
	if !known && len(c.known) >= ch.Kind.room(most) {
		c.refused++
		return false
	}
	e := &entry{Change: *ch}
	c.known[ch.id()], c.unsent[ch.id()] = e, e
	return true
}

// Once makes a change known, and reports whether it is the first of its kind and key, over all
// replicas. While Redis is away, or has no room, only what this replica knows counts.
func (c *Cluster) Once(ctx context.Context, ch Change) (first bool) {
	ch.Made = ch.Until // the same for all: a second one is not newer
	if !c.changes.claim(ch) {
		return false
	}
	stored, refused, err := int64(0), int64(0), errAway
	if c.connected() {
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
		stored, refused, err = c.store(short, []Change{ch})
		cancel()
	}
	c.changes.claimed(ch, err == nil)
	if err != nil {
		c.rouse()
		return true
	}
	return stored+refused > 0
}

// claim keeps a change that is not known, and reports whether it was not.
func (c *changes) claim(ch Change) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.known[ch.id()]; known {
		return false
	}
	c.known[ch.id()] = &entry{Change: ch, claim: true}
	return true
}

// claimed notes whether Redis has a change that was claimed.
func (c *changes) claimed(ch Change, stored bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.known[ch.id()]; e != nil && e.claim {
		if e.claim = false; !stored {
			c.unsent[ch.id()] = e
		}
	}
}

// sync writes what Redis does not have and reads what this replica does not know, whenever there
// is a reason and every few seconds without one.
func (c *Cluster) sync(ctx context.Context) {
	defer c.leave()
	for {
		err := c.exchange(ctx)
		if ctx.Err() != nil {
			return
		}
		c.note(commands, err)
		wait := look
		if err != nil {
			wait = retry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		case <-c.wake:
			if err != nil && pause(ctx, retry/10) { // whatever the reason, not at once
				return
			}
		}
	}
}

// exchange is one turn of sync.
func (c *Cluster) exchange(ctx context.Context) error {
	swept := c.changes.forget(c.Now())
	if err := c.push(ctx); err != nil {
		return err
	}
	whole := c.whole.Swap(false)
	differs, emptied, err := c.pull(ctx, whole)
	if err != nil {
		if whole {
			c.whole.Store(true)
		}
		return err
	}
	switch {
	case whole:
		if c.changes.read.IsZero() {
			c.publish(ctx, c.keys.channel, message{}) // so that the others see this replica
		}
		c.changes.read = time.Now()
		c.settle()
		select {
		case c.leases.lost <- struct{}{}:
		default:
		}
		return c.push(ctx)
	case swept && differs && (emptied || time.Since(c.changes.read) > wholeAgain):
		c.whole.Store(true)
		c.rouse()
	}
	return nil
}

// batch is how many changes go over at once.
const batch = 200

// agreeScript is the beginning of the scripts that use values, order and untils. Redis may evict
// one of them, or lose it otherwise. What is left is deleted then, and given back as after the loss
// of all.
//
// KEYS: values, order, untils.
const agreeScript = `
local count = redis.call('HLEN', KEYS[1])
if count ~= redis.call('ZCARD', KEYS[2]) or count ~= redis.call('ZCARD', KEYS[3]) then
  for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], 0) end
end
`

// storeScript puts changes into Redis that are newer than those that are there, and tells the
// replicas. The order grows by Redis' clock, which no replica can be ahead of. What is over is
// forgotten, and all of it a while after the last change is over.
//
// KEYS: values, order, untils. ARGV: channel, then id, room, made, until and text of each. It
// returns how many were stored, and how many were refused.
var storeScript = redis.NewScript(agreeScript + `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local function text(n) return string.format('%.0f', n) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', text(now), 'LIMIT', 0, 1000)) do
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
end
local top = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local order = now
if top[2] and tonumber(top[2]) >= order then order = tonumber(top[2]) + 1 end
local stored, refused = 0, 0
for i = 2, #ARGV, 5 do
  local id, room, made, ends, value = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4]
  local old = redis.call('HGET', KEYS[1], id)
  local newer = true
  local was, body = string.match(old or '', '^(%d+) %d+ (.*)$')
  if was and tonumber(was) == made then
    newer = string.match(value, '^%d+ %d+ (.*)$') > body
  elseif was then
    newer = made > tonumber(was)
  end
  if newer and not old and redis.call('HLEN', KEYS[1]) >= room then
    refused = refused + 1
  elseif newer then
    redis.call('HSET', KEYS[1], id, value)
    redis.call('ZADD', KEYS[2], text(order), id)
    redis.call('ZADD', KEYS[3], ends, id)
    order = order + 1
    stored = stored + 1
  end
end
if stored > 0 then
  local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIREAT', key, text(math.floor(tonumber(last[2]) / 1000) + 60000))
  end
  redis.call('PUBLISH', ARGV[1], '{}')
end
return {stored, refused}
`)

// store runs storeScript, and returns how many were stored, and for how many there was no room.
func (c *Cluster) store(ctx context.Context, all []Change) (stored, refused int64, err error) {
	args := []any{c.keys.channel}
	for _, ch := range all {
		args = append(args, ch.id(), ch.Kind.room(c.MaxChanges), ch.Made.UnixMicro(), ch.Until.UnixMicro(), ch.text())
	}
	n, err := storeScript.Run(ctx, c.redis, []string{c.keys.values, c.keys.order, c.keys.untils}, args...).Int64Slice()
	if err != nil {
		return 0, 0, fmt.Errorf("store changes: %w", err)
	}
	if n[1] > 0 {
		c.Log.Error("changes not stored in redis: there are too many", "refused", n[1], "max", c.MaxChanges)
		c.changes.mu.Lock()
		c.changes.refused += uint64(n[1])
		c.changes.mu.Unlock()
	}
	return n[0], n[1], nil
}

// push stores what is pending.
func (c *Cluster) push(ctx context.Context) error {
	for all := range slices.Chunk(c.changes.pending(), batch) {
		ctx, cancel := within(ctx)
		_, _, err := c.store(ctx, all)
		cancel()
		if err != nil {
			return err
		}
		c.changes.stored(all)
	}
	return nil
}

// pending returns what Redis does not have, the oldest first.
func (c *changes) pending() (all []Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.unsent {
		all = append(all, e.Change)
	}
	slices.SortFunc(all, func(a, b Change) int { return a.Made.Compare(b.Made) })
	return all
}

// stored notes that Redis has changes, unless there are newer ones meanwhile.
func (c *changes) stored(all []Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range all {
		if e, known := c.known[ch.id()]; known && !e.newer(ch) {
			c.settle(e)
		}
	}
}

// settle notes that Redis has a change. c.mu is held.
func (c *changes) settle(e *entry) {
	if delete(c.unsent, e.id()); !e.Kind.kept() {
		e.Body, e.bare = nil, true
	}
}

// forget drops what is over, now and then, and reports whether it did.
func (c *changes) forget(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.swept).Abs() < look { // a clock may be set back
		return false
	}
	c.swept = now
	over := func(_ string, e *entry) bool { return !now.Before(e.Until) }
	maps.DeleteFunc(c.known, over)
	maps.DeleteFunc(c.unsent, over)
	return true
}

// readScript returns Redis' time in microseconds, how many changes there are, the live replicas,
// and changes in their order from one on, each as id, order and text. It notes that this replica
// is there.
//
// KEYS: values, order, untils, replicas. ARGV: name, presence in microseconds, order, most.
var readScript = redis.NewScript(agreeScript + `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local function text(n) return string.format('%.0f', n) end
redis.call('ZADD', KEYS[4], text(now + ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', text(now))
redis.call('PEXPIRE', KEYS[4], 60000)
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local all = {}
for i = 1, #found, 2 do
  local value = redis.call('HGET', KEYS[1], found[i])
  if value then
    all[#all + 1] = found[i]
    all[#all + 1] = text(tonumber(found[i + 1]))
    all[#all + 1] = value
  end
end
local over = redis.call('ZCOUNT', KEYS[3], '-inf', text(now))
return {text(now), tostring(redis.call('HLEN', KEYS[1]) - over), redis.call('ZRANGE', KEYS[4], 0, -1), all}
`)

const (
	// overlap is how far back what was read is read again now and then: a server that took over
	// from another may lack its last changes, and number new ones in their place.
	overlap = 15 * time.Second
	// wholeAgain is how long after a whole read another may follow because the two sides differ,
	// unless Redis is empty: then it costs nothing.
	wholeAgain = time.Minute
)

// pull reads the changes that Redis has: all of them if whole, else those that are new. After a
// whole read, what Redis lacks is pending. It reports whether the two differ after the new ones
// were read, as they do when Redis has lost data and kept its connections, and whether Redis has
// none at all.
func (c *Cluster) pull(ctx context.Context, whole bool) (differs, emptied bool, err error) {
	since, seen := c.changes.since, map[string]struct{}{}
	switch {
	case whole:
		since = 0
	case time.Since(c.changes.looked) > look:
		since = max(since-overlap.Microseconds(), 0)
		c.changes.looked = time.Now()
	}
	var there int64
	for {
		began := time.Now()
		answer, err := c.read(ctx, since)
		if err != nil {
			return false, false, err
		}
		ended := time.Now()
		c.offset.Store(int64(answer.now.Sub(began.Add(ended.Sub(began) / 2))))
		slices.Sort(answer.replicas)
		c.mu.Lock()
		c.replicas = answer.replicas
		c.mu.Unlock()
		for _, ch := range answer.changes {
			if whole {
				seen[ch.id()] = struct{}{}
			}
			if c.Now().Before(ch.Until) && c.changes.learn(ch) {
				c.Apply(ch)
			}
		}
		there, since = answer.count, max(since, answer.last)
		if answer.full < batch {
			break
		}
	}
	c.changes.since = since
	if whole {
		c.changes.mark(seen)
		return false, false, nil
	}
	known, pending, _ := c.changes.count()
	return int64(known-pending) != there, there == 0, nil
}

// learn keeps a change that Redis has, and reports whether it is new here.
func (c *changes) learn(ch Change) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, known := c.known[ch.id()]
	switch {
	case known && e.Made.UnixMicro() == ch.Made.UnixMicro() && (e.bare || string(e.Body) == string(ch.Body)):
		c.settle(e)
		return false
	case known && !ch.newer(e.Change):
		return false
	}
	e = &entry{Change: ch}
	c.known[ch.id()] = e
	c.settle(e)
	return true
}

// mark makes pending what Redis was seen not to have. What cannot be given back is forgotten.
func (c *changes) mark(seen map[string]struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, e := range c.known {
		if _, there := seen[id]; there || e.claim {
			continue
		}
		if e.bare {
			delete(c.known, id)
		} else {
			c.unsent[id] = e
		}
	}
}

// reading is an answer of readScript.
type reading struct {
	now      time.Time
	count    int64 // of all changes in Redis that are not over
	replicas []string
	changes  []Change
	last     int64 // order of the last one
	full     int   // how many were read
}

func (c *Cluster) read(ctx context.Context, since int64) (r reading, err error) {
	ctx, cancel := within(ctx)
	defer cancel()
	raw, err := readScript.Run(ctx, c.redis, []string{c.keys.values, c.keys.order, c.keys.untils, c.keys.replicas},
		c.Name, presence.Microseconds(), since, batch).Slice()
	if err != nil {
		return r, fmt.Errorf("read changes: %w", err)
	}
	parts := make([][]string, 2)
	now, err1 := strconv.ParseInt(fmt.Sprint(raw[0]), 10, 64)
	count, err2 := strconv.ParseInt(fmt.Sprint(raw[1]), 10, 64)
	for i := range parts {
		list, _ := raw[2+i].([]any)
		for _, v := range list {
			parts[i] = append(parts[i], fmt.Sprint(v))
		}
	}
	if err := errors.Join(err1, err2); err != nil {
		return r, fmt.Errorf("read changes: %w", err)
	}
	r = reading{now: time.UnixMicro(now), count: count, replicas: parts[0], full: len(parts[1]) / 3}
	for v := range slices.Chunk(parts[1], 3) {
		order, err := strconv.ParseInt(v[1], 10, 64)
		if err != nil {
			return r, fmt.Errorf("read changes: %w", err)
		}
		r.last = order
		ch, err := parseChange(v[0], v[2])
		if err != nil {
			c.Log.Warn("redis holds what is no change", "id", v[0])
			continue
		}
		r.changes = append(r.changes, ch)
	}
	return r, nil
}

// leave takes this replica out of the live ones.
func (c *Cluster) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), leaseTimeout)
	defer cancel()
	c.push(ctx)
	c.redis.ZRem(ctx, c.keys.replicas, c.Name)
}
