// Package cluster is what several gateways of one service, its replicas, share by way of Redis.
//
//   - Changes (change.go): revocations, logouts, ends and renewals. Each replica keeps what it
//     knows, and Redis holds the same. A publish tells the others that there is something to read,
//     so a change takes some milliseconds; what a replica has missed it reads later.
//   - Leases (lease.go): the places of one user over all replicas. They end by Redis' clock, so
//     those of a replica that died do too.
//   - Questions (question.go): what each replica answers for itself, such as its sessions.
//
// Redis is an aid and never a condition: while it is away each replica goes on with what it knows
// and with its own counts. What was changed meanwhile, on either side, is brought together when it
// is back.
//
// The package does not know what a change says or what a question asks: its owner does.
package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/altairalabs/omnia-gateway/config"
)

const (
	// commandTimeout bounds one command, its retry included.
	commandTimeout = 3 * time.Second
	// look is how often a replica reads what it may have missed, and shows that it is there.
	look = 5 * time.Second
	// presence is how long a replica is taken for live after it has shown itself.
	presence = 15 * time.Second
	// retry is the pause after a command that failed.
	retry = 500 * time.Millisecond
	// pingInterval is how often the subscription is asked whether it lives; pingTimeout is how
	// long it may stay silent after that.
	pingInterval, pingTimeout = 2 * time.Second, 5 * time.Second
)

// Options are what a Cluster needs beside its configuration. All fields are needed.
type Options struct {
	// Name is the replica's own; no other has it.
	Name string
	// Log takes one line when Redis is lost and one when it is back.
	Log *slog.Logger
	// MaxChanges is how many changes there may be. Renewals have half of the room.
	MaxChanges int
	// Apply takes a change that another replica has made, and is called by one goroutine.
	Apply func(Change)
	// Answer answers a question of another replica. It may be called concurrently.
	Answer func(Question) []byte
	// Holders returns the live sessions that hold places under a limit that all replicas share.
	Holders func() []Holder
}

// Cluster is one replica's part. Its methods may be called from any goroutine.
type Cluster struct {
	Options
	redis redis.UniversalClient
	keys  keys

	wake   chan struct{} // has room for one notice that there is something to read or to write
	settle func()        // closes synced, once
	synced chan struct{} // closed when all changes were read for the first time, or Redis is away
	whole  atomic.Bool   // everything is to be read, not only what is new
	offset atomic.Int64  // nanoseconds that Redis' clock is ahead of this machine's

	changes changes
	leases  leases
	asked   asked

	mu       sync.Mutex
	links    [2]link
	replicas []string // those that are live, as of the last look
}

// The two ways to Redis, whose state is told apart because each can fail alone.
const (
	commands = iota
	subscription
)

// link is the state of one way to Redis.
type link struct {
	up  bool
	err error // why it is not; nil before the first try
}

// State is how a replica stands with Redis.
type State struct {
	// Connected reports whether Redis answers and the subscription is confirmed.
	Connected bool
	// Error is why not, or "".
	Error string
	// Replicas are the names of the live ones, this one among them.
	Replicas []string
	// Changes are those that are known, Pending those of them that Redis does not have yet.
	Changes, Pending int
	// Refused counts the changes for which there was no room.
	Refused uint64
}

// keys are the names of what is in Redis. A part in braces puts keys of one script into one slot
// of a Redis Cluster.
type keys struct {
	prefix                          string
	values, order, untils, replicas string
	channel, mine                   string
}

func newKeys(prefix, name string) keys {
	return keys{
		prefix: prefix,
		values: prefix + "{changes}:values", order: prefix + "{changes}:order",
		untils: prefix + "{changes}:untils", replicas: prefix + "{changes}:replicas",
		channel: prefix + "all", mine: prefix + "to:" + name,
	}
}

// NewName returns a name for a replica that no other has, and that tells the machine.
func NewName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "gateway"
	}
	var b [4]byte
	rand.Read(b[:])
	return host + "-" + hex.EncodeToString(b[:])
}

// silence keeps the library's own lines from standard error, where they would stand among those of
// the log. What they say is in the errors too.
var silence = sync.OnceFunc(func() { redis.SetLogger(quiet{}) })

type quiet struct{}

// Printf writes nothing.
func (quiet) Printf(context.Context, string, ...any) {}

// New returns a replica's part. It reads the certificate files and uses no network.
func New(r config.Redis, o Options) (*Cluster, error) {
	silence()
	security, err := tlsConfig(r.TLS)
	if err != nil {
		return nil, err
	}
	sentinels, err := password(r.SentinelPasswordFile)
	if err != nil {
		return nil, err
	}
	if _, err := password(r.PasswordFile); err != nil {
		return nil, err
	}
	c := &Cluster{
		Options: o, keys: newKeys(r.KeyPrefix, o.Name),
		wake: make(chan struct{}, 1), synced: make(chan struct{}),
		changes: changes{known: map[string]*entry{}, unsent: map[string]*entry{}},
		asked:   asked{waiting: map[string]*inquiry{}, silent: map[string]time.Time{}},
		leases: leases{
			released: map[string]map[string]time.Time{}, wake: make(chan struct{}, 1), lost: make(chan struct{}, 1),
		},
	}
	c.settle = sync.OnceFunc(func() { close(c.synced) })
	c.redis = redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: r.Addresses, MasterName: r.MasterName, SentinelPassword: sentinels, TLSConfig: security,
		CredentialsProviderContext: func(context.Context) (string, string, error) {
			secret, err := password(r.PasswordFile)
			return r.Username, secret, err
		},
		Protocol: 2, DisableIdentity: true, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries:               1, DialerRetries: 1,
		DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
	})
	return c, nil
}

// password returns what a file holds; "" without one.
func password(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("cluster.redis: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

func tlsConfig(t config.RedisTLS) (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cluster.redis.tls.caFile: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("cluster.redis.tls.caFile: no certificate in %s", t.CAFile)
		}
	}
	if t.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return nil, fmt.Errorf("cluster.redis.tls.certFile: %w", err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &pair, err
		}
	}
	return c, nil
}

// Run shares until ctx ends, and then takes this replica and its leases away.
func (c *Cluster) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.listen(ctx) })
	wg.Go(func() { c.sync(ctx) })
	wg.Go(func() { c.keepLeases(ctx) })
	wg.Wait()
	c.asked.handlers.Wait()
	c.redis.Close()
}

// Check returns why Redis cannot be used, or nil. Run need not run.
func (c *Cluster) Check(ctx context.Context) error {
	ctx, cancel := within(ctx)
	defer cancel()
	return c.redis.Ping(ctx).Err()
}

// Synced is closed when the replica has read the changes of the others for the first time, and
// also when Redis was found not to be there: a replica that begins then begins alone.
func (c *Cluster) Synced() <-chan struct{} { return c.synced }

// Now is the time by Redis' clock, as this replica knows it: the one time that all replicas share.
func (c *Cluster) Now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// Local returns what this machine's clock shows at a time of the shared clock.
func (c *Cluster) Local(shared time.Time) time.Time {
	return shared.Add(-time.Duration(c.offset.Load()))
}

// State returns how this replica stands with Redis.
func (c *Cluster) State() State {
	s := State{Connected: true}
	s.Changes, s.Pending, s.Refused = c.changes.count()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Replicas = slices.Clone(c.replicas)
	for _, l := range c.links {
		if !l.up {
			s.Connected = false
			if l.err != nil {
				s.Error = cmp.Or(s.Error, l.err.Error())
			}
		}
	}
	return s
}

// connected reports whether both ways to Redis are up.
func (c *Cluster) connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.links[commands].up && c.links[subscription].up
}

// note keeps how a way to Redis is, and logs once when one is lost and when both are back.
func (c *Cluster) note(way int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.links
	c.links[way] = link{err == nil, err}
	wasUp := before[commands].up && before[subscription].up
	isUp := c.links[commands].up && c.links[subscription].up
	if err != nil {
		c.settle()
	}
	told := before[commands].err != nil || before[subscription].err != nil
	switch {
	case isUp && !wasUp:
		c.Log.Info("redis connected", "replica", c.Name)
	case err != nil && (wasUp || !told):
		c.Log.Warn("redis not reachable; this replica goes on alone", "replica", c.Name, "err", err.Error())
	}
}

// rouse tells sync that there is something to do.
func (c *Cluster) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// within returns a context for one command.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, commandTimeout)
}

// pause waits, unless ctx ends, which it reports.
func pause(ctx context.Context, d time.Duration) (ended bool) {
	select {
	case <-ctx.Done():
		return true
	case <-time.After(d):
		return false
	}
}

// errAway is why nothing is asked of Redis.
var errAway = errors.New("redis is not reachable")

// errSilent is why a subscription is made anew.
var errSilent = fmt.Errorf("the subscription was silent for %s after a PING", pingTimeout)

// listen keeps a subscription, and makes it anew whenever it fails.
func (c *Cluster) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.hear(ctx)
		if ctx.Err() != nil {
			return
		}
		c.note(subscription, err)
		pause(ctx, retry)
	}
}

// hear takes what one subscription brings, until it fails. It asks the server for a sign of life,
// because a connection that was lost on the way looks like one on which nothing happens.
func (c *Cluster) hear(ctx context.Context) error {
	s := c.redis.Subscribe(ctx, c.keys.channel, c.keys.mine)
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	var silent atomic.Bool
	giveUp := time.AfterFunc(pingInterval+pingTimeout, func() {
		silent.Store(true)
		s.Close()
	})
	defer giveUp.Stop()
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(done)
	wg.Go(func() {
		tick := time.NewTicker(pingInterval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				s.Ping(ctx) // a failure shows as silence, or as an error of Receive
			}
		}
	})
	for confirmed := 0; ; {
		m, err := s.Receive(ctx)
		switch {
		case silent.Load():
			return errSilent
		case err != nil:
			return fmt.Errorf("subscription: %w", err)
		}
		giveUp.Reset(pingInterval + pingTimeout)
		switch m := m.(type) {
		case *redis.Subscription:
			if confirmed++; confirmed == 2 {
				c.note(subscription, nil)
				c.whole.Store(true) // what was published before this moment was not heard
				c.rouse()
			}
			if confirmed > 2 { // the library has connected anew by itself
				return errors.New("subscription: connection lost")
			}
		case *redis.Message:
			c.heard(m.Payload)
		}
	}
}
