package gateway

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http/httputil"
	"slices"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// way is all that the configuration says of how agents are reached. Connections that are kept for
// one way are never used for another.
type way struct {
	tls      config.UpstreamTLS
	guarded  bool          // a client has chosen the address, and it may not be of this machine
	timeout  time.Duration // for connection, TLS and the answer to a handshake together
	idle     time.Duration // how long a connection for plain HTTP is kept
	prepared int           // how many connections to an address are opened ahead
}

// wayTo returns the way to agents of a route; chosen reports whether a client's path or host
// chooses their address.
func wayTo(c *config.Config, t config.UpstreamTLS, chosen bool) way {
	w := way{tls: t, timeout: c.Limits.UpstreamTimeout, idle: c.Upstream.IdleTimeout}
	if chosen { // no client makes the gateway open more connections than it asks for
		w.guarded = !c.Upstream.AllowLoopback
	} else {
		w.prepared = c.Upstream.Prepared
	}
	return w
}

// waysOf returns the ways to the agents of all routes, in their order.
func waysOf(c *config.Config) (all []way) {
	for _, r := range c.Routes {
		all = append(all, wayTo(c, r.UpstreamTLS, config.WithoutNames(r.Upstream) != r.Upstream))
	}
	return all
}

// agents reaches agents by one way: by WebSocket and by plain HTTP.
type agents struct {
	dialer   *dialer
	prepared *prepared
	kept     *keeper
	proxy    *httputil.ReverseProxy
}

// giveUp closes the connections that no request has.
func (a *agents) giveUp() {
	a.prepared.close()
	a.kept.CloseIdleConnections()
}

// fleet holds what reaches agents, one agents for each way. What a way's files hold may change
// while it is in use: then new connections are made with that, and kept ones are given up.
type fleet struct {
	log   *slog.Logger
	dead  *deadAddresses
	stall time.Duration // how long an agent may take no byte of plain HTTP

	openers sync.WaitGroup // of prepared connections

	mu      sync.RWMutex
	all     map[way]*agents
	seen    map[way][sha256.Size]byte // of the files when they were last read
	leaving bool                      // nothing is opened ahead any more
}

func newFleet(stall time.Duration, log *slog.Logger) *fleet {
	return &fleet{log: log, dead: newDeadAddresses(), stall: stall, all: map[way]*agents{}, seen: map[way][sha256.Size]byte{}}
}

// newAgents makes what reaches agents by a way, with TLS as t says. f.mu is held.
func (f *fleet) newAgents(w way, t *tls.Config) *agents {
	var control control
	if w.guarded {
		control = notThisMachine
	}
	d := newDialer(w.timeout, f.stall, control, t, f.dead)
	k := newKeeper(d, w.idle, d.probed)
	p := newPrepared(d, w.prepared, preparedLasts, &f.openers)
	if f.leaving {
		p.close()
	}
	return &agents{d, p, k, newProxy(k, quiet(f.log))}
}

// leave closes what was opened ahead, and ends that for good.
func (f *fleet) leave() {
	f.mu.Lock()
	f.leaving = true
	for _, a := range f.all {
		a.prepared.close()
	}
	f.mu.Unlock()
	f.openers.Wait()
}

// by returns what reaches agents by a way. A new way has its files read first.
func (f *fleet) by(w way) (*agents, error) {
	f.mu.RLock()
	a := f.all[w]
	f.mu.RUnlock()
	if a != nil {
		return a, nil
	}
	t, sum, err := readUpstreamTLS(w.tls)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all[w] == nil {
		f.all[w], f.seen[w] = f.newAgents(w, t), sum
	}
	return f.all[w], nil
}

// to returns what reaches the agent of an admitted request. The error is a *outcome.Refusal.
func (f *fleet) to(p *policy.Pass, c *config.Config) (*agents, error) {
	a, err := f.by(wayTo(c, p.TLS, p.Chosen))
	if err != nil {
		return nil, &outcome.Refusal{Reason: outcome.UpstreamUnreachable, Err: err}
	}
	return a, nil
}

// prepare makes sure that the agents of every route can be reached as c says. The error is a
// config.Problems with everything that is wrong with the files of upstreamTLS.
func (f *fleet) prepare(c *config.Config) error {
	var found config.Problems
	for i, w := range waysOf(c) {
		_, err := f.by(w)
		if problems, ok := errors.AsType[config.Problems](err); ok {
			found = append(found, ofUpstreamTLS(c, i, problems)...)
		}
	}
	return orNil(found)
}

// ofUpstreamTLS gives the problems of upstreamTLS of a route their whole keys, and their places.
func ofUpstreamTLS(c *config.Config, route int, problems config.Problems) (placed config.Problems) {
	for _, p := range problems {
		p.Key = fmt.Sprintf("routes[%d].upstreamTLS.%s", route, p.Key)
		p.Place = c.Place(p.Key)
		placed = append(placed, p)
	}
	return placed
}

// orNil returns problems as an error, which is nil if there are none.
func orNil(problems config.Problems) error {
	if problems == nil {
		return nil
	}
	return problems
}

// keep gives up all ways but those of c. Requests that are under way are not disturbed.
func (f *fleet) keep(c *config.Config) {
	wanted := waysOf(c)
	f.mu.Lock()
	defer f.mu.Unlock()
	for w, a := range f.all {
		if !slices.Contains(wanted, w) {
			a.giveUp()
			delete(f.all, w)
			delete(f.seen, w)
		}
	}
}

// refresh reads the files of every way of c again and reports whether something is new. Bad ones
// change nothing, and the error is given once, as a config.Problems. One goroutine at a time may
// call it.
func (f *fleet) refresh(c *config.Config) (changed bool, err error) {
	f.mu.RLock()
	before := maps.Clone(f.seen)
	f.mu.RUnlock()
	var faults config.Problems
	for i, w := range waysOf(c) {
		seen, known := before[w]
		delete(before, w) // the next route may have the same
		if !known {
			continue
		}
		t, sum, err := readUpstreamTLS(w.tls)
		if sum == seen {
			continue
		}
		if problems, ok := errors.AsType[config.Problems](err); ok {
			faults = append(faults, ofUpstreamTLS(c, i, problems)...)
		}
		changed = f.replace(w, t, sum) || changed
	}
	return changed, orNil(faults)
}

// replace notes what the files of a way hold, and makes its new connections with t, unless that is
// nil. It reports whether it did.
func (f *fleet) replace(w way, t *tls.Config, sum [sha256.Size]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.all[w]
	if old == nil { // given up meanwhile
		return false
	}
	if f.seen[w] = sum; t == nil {
		return false
	}
	f.all[w] = f.newAgents(w, t)
	old.giveUp()
	return true
}

// fault returns which certificates of the gateway's own no agent can trust at a time, as a
// config.Problems. A file that several routes of c have is named once.
func (f *fleet) fault(c *config.Config, now time.Time) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var faults config.Problems
	named := map[string]bool{}
	for i, w := range waysOf(c) {
		a, name := f.all[w], w.tls.CertFile
		if a == nil || name == "" || named[name] {
			continue
		}
		named[name] = true
		err := outOfTime(&file{key: "certFile", name: name}, a.dialer.tls.Certificates[0].Leaf, now)
		if problem, ok := errors.AsType[config.Problem](err); ok {
			faults = append(faults, ofUpstreamTLS(c, i, config.Problems{problem})...)
		}
	}
	return orNil(faults)
}

// files returns the names of the files of all ways.
func (f *fleet) files() (names []string) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for w := range f.all {
		for _, name := range []string{w.tls.CAFile, w.tls.CertFile, w.tls.KeyFile} {
			if name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// readUpstreamTLS returns what TLS to an agent is made of, and a sum over the files for it, which
// is right also after an error. The error is a config.Problems; its keys are those of c.
func readUpstreamTLS(c config.UpstreamTLS) (*tls.Config, [sha256.Size]byte, error) {
	authorities := &file{key: "caFile", name: c.CAFile}
	cert, key := &file{key: "certFile", name: c.CertFile}, &file{key: "keyFile", name: c.KeyFile}
	var problems config.Problems
	found := func(err error) {
		if problem, ok := errors.AsType[config.Problem](err); ok {
			problem.Hint = cmp.Or(problem.Hint, "name the right file, in PEM form")
			problems = append(problems, problem)
		}
	}
	for _, f := range []*file{authorities, cert, key} {
		if err := f.read(); err != nil {
			found(f.unreadable(err))
		}
	}
	sum := sumOfFiles(authorities, cert, key)
	if problems != nil {
		return nil, sum, problems
	}
	t := &tls.Config{
		ServerName: c.ServerName,
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		// See tls.go for record sizes.
		DynamicRecordSizingDisabled: true,
	}
	var err error
	if c.CAFile != "" {
		t.RootCAs, err = readAuthorities(authorities)
		found(err)
	}
	if c.CertFile != "" {
		t.Certificates = make([]tls.Certificate, 1)
		t.Certificates[0], err = readPair(cert, key)
		found(err)
	}
	if problems != nil {
		return nil, sum, problems
	}
	return t, sum, nil
}
