package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// askNew is how long a reload waits for the keys of issuers that are new.
const askNew = 5 * time.Second

// mutable are the keys that a reload can change, with all below them. All others need a
// restart, which is what a new key needs until the gateway can do better.
var mutable = []string{"routes", "trustedProxies", "authentication", "session", "limits", "upstream"}

// bound are the keys below mutable ones with which something was made that stays.
var bound = []string{"limits.handshakeTimeout", "limits.maxHeaderBytes"}

// Reloaded tells what a reload has done, or what one would do.
type Reloaded struct {
	// Sessions counts the live sessions.
	Sessions int
	// Ending counts those of them that are no longer admitted, by reason.
	Ending map[outcome.Reason]int
	// Waiting are the issuers that have given no keys yet, and did not lack them before.
	Waiting []string
	// Notes are what is worth knowing about the configuration.
	Notes []string
}

// RestartError is why a configuration was not applied: these keys cannot change while the gateway
// runs.
type RestartError struct{ Keys []string }

// Error names the keys.
func (e *RestartError) Error() string {
	return "not applied, because this needs a restart: " + strings.Join(e.Keys, ", ")
}

// reloads is what is known of the reloads of the configuration so far.
type reloads struct {
	turn sync.Mutex // held by the reload that is under way

	mu     sync.Mutex
	seen   [sha256.Size]byte // of the files when they were last read
	loaded time.Time         // when the configuration in use was
	failed error             // why the last one is not in use, or nil
}

// state returns when the configuration in use was loaded, and why a later one is not in use.
func (r *reloads) state() (loaded time.Time, failed error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loaded, r.failed
}

// looked remembers what the files hold, and reports whether that is new.
func (r *reloads) looked(sum [sha256.Size]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	news := sum != r.seen
	r.seen = sum
	return news
}

// ended remembers how a reload has ended.
func (r *reloads) ended(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed = err; err == nil {
		r.loaded = time.Now()
	}
}

// Reload reads the certificate, the operators' tokens and the configuration again, while Run
// runs. What is bad changes nothing and is reported: by the error, in the log, the metrics and
// /readyz. A good configuration is for the requests that come from now on. Live sessions that
// it no longer admits end within session.reloadSpread. It may be called from any goroutine.
func (g *Gateway) Reload(ctx context.Context) (Reloaded, error) {
	g.reloads.turn.Lock()
	defer g.reloads.turn.Unlock()
	err := errors.Join(g.reloadCertificate(), g.reloadOperators(), g.reloadFleet())
	g.reloads.looked(contents(g.config.Sources.Files()))
	done, failed := g.reloadConfig(ctx)
	return done, errors.Join(err, failed)
}

// reloadChanged is Reload for those files only that have changed since they were read.
func (g *Gateway) reloadChanged(ctx context.Context) {
	g.reloads.turn.Lock()
	defer g.reloads.turn.Unlock()
	g.reloadCertificate()
	g.reloadOperators()
	g.reloadFleet()
	if g.reloads.looked(contents(g.config.Sources.Files())) {
		g.reloadConfig(ctx)
	}
}

// watched returns the files that are read again when they change.
func (g *Gateway) watched() (files []string) {
	files = append(files, g.config.Sources.Files()...)
	if g.config.Admin.TokenFile != "" {
		files = append(files, g.config.Admin.TokenFile)
	}
	if g.certs != nil {
		files = append(files, g.certs.files()...)
	}
	return append(files, g.fleet.files()...)
}

// contents returns a sum over what files hold. One that cannot be read counts as another content.
func contents(files []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range files {
		fmt.Fprintf(h, "%q", name)
		f, err := os.Open(name)
		if err != nil {
			fmt.Fprint(h, err)
			continue
		}
		_, err = io.Copy(h, io.LimitReader(f, 64<<20))
		fmt.Fprint(h, err)
		f.Close()
	}
	h.Sum(sum[:0])
	return sum
}

// reloadCertificate reads the certificate files again. A bad one changes nothing and is
// reported once.
func (g *Gateway) reloadCertificate() error {
	if g.certs == nil {
		return nil
	}
	changed, err := g.certs.load()
	switch {
	case err != nil:
		g.log.Error("certificate not reloaded; the old one stays", "err", err.Error())
	case changed:
		g.log.Info("certificate reloaded", "expires", g.certs.expiry())
		g.warnOfCertificates()
	default:
		return nil
	}
	g.metrics.certificateReloaded(err)
	return err
}

// reloadFleet reads the files of upstreamTLS again. Bad ones change nothing and are reported once.
func (g *Gateway) reloadFleet() error {
	changed, err := g.fleet.refresh(g.Config())
	if err != nil {
		g.log.Error("certificates for agents not reloaded; the old ones stay", "err", err.Error())
	}
	if changed {
		g.log.Info("certificates for agents reloaded")
		g.warnOfCertificates()
	}
	return err
}

// reloadConfig loads the configuration again, if it came from files, and reports how that went.
func (g *Gateway) reloadConfig(ctx context.Context) (Reloaded, error) {
	if len(g.config.Sources.Files()) == 0 {
		return Reloaded{Sessions: g.sessions.Len()}, nil
	}
	done, err := g.applyFiles(ctx)
	g.reloads.ended(err)
	g.metrics.reloaded(err)
	if err != nil {
		g.log.Error("configuration not reloaded; the old one stays", "problems", strings.Split(err.Error(), "\n"))
		return done, err
	}
	for _, note := range done.Notes {
		g.log.Warn("configuration", "note", note)
	}
	g.log.Info("configuration reloaded", "sessions", done.Sessions, "ending", sumOf(done.Ending), "reasons", done.Ending,
		"issuers_without_keys", done.Waiting)
	return done, nil
}

// applyFiles loads the configuration and swaps the policy. After an error everything is as it was.
func (g *Gateway) applyFiles(ctx context.Context) (Reloaded, error) {
	next, err := config.Load(g.config.Sources)
	if err != nil {
		return Reloaded{}, err
	}
	if err := g.needsRestart(next); err != nil {
		return Reloaded{}, err
	}
	before := g.policy.Load()
	defer func() { g.fleet.keep(g.policy.Load().Config()) }()
	if err := errors.Join(checkFetch(next), g.fleet.prepare(next)); err != nil {
		return Reloaded{}, err
	}
	p, err := policy.New(next, g.keys, g.revoked)
	if err != nil {
		g.keys.Keep(before.Verifier())
		return Reloaded{}, err
	}
	asking, cancel := context.WithTimeout(ctx, askNew)
	g.keys.Await(asking, p.Verifier())
	cancel()
	if ctx.Err() != nil {
		g.keys.Keep(before.Verifier())
		return Reloaded{}, ctx.Err()
	}
	g.policy.Store(p)
	g.keys.Keep(p.Verifier())
	done := Reloaded{
		Sessions: g.sessions.Len(),
		Ending:   g.sessions.Judge(g.judge, next.Session.ReloadSpread),
		Notes:    next.Notes,
	}
	known := before.Issuers()
	for _, i := range p.Issuers() {
		if i.Fetched.IsZero() && !slices.ContainsFunc(known, func(old auth.IssuerState) bool {
			return old.Issuer == i.Issuer && old.Fetched.IsZero()
		}) {
			done.Waiting = append(done.Waiting, i.Issuer)
		}
	}
	return done, nil
}

// Preview tells what a reload of c would do to the live sessions, and does nothing. c is good.
func (g *Gateway) Preview(c *config.Config) (Reloaded, error) {
	if err := g.needsRestart(c); err != nil {
		return Reloaded{}, err
	}
	if err := errors.Join(checkFetch(c), newFleet(g.stall, g.log).prepare(c)); err != nil {
		return Reloaded{}, err
	}
	p, err := policy.New(c, auth.NewKeys(auth.Options{}), nil) // keys that are never fetched: none is needed to judge again
	if err != nil {
		return Reloaded{}, err
	}
	_, reasons := g.sessions.Refused(func(c policy.Case) *outcome.Refusal { return refusalOf(p.Judge(c)) })
	return Reloaded{Sessions: g.sessions.Len(), Ending: reasons, Notes: c.Notes}, nil
}

// needsRestart returns a *RestartError if c differs from the running configuration in a key that
// cannot change.
func (g *Gateway) needsRestart(c *config.Config) error {
	var keys []string
	for _, key := range config.ChangedKeys(c, g.config) {
		if !under(key, mutable) || under(key, bound) {
			keys = append(keys, key)
		}
	}
	if keys != nil {
		return &RestartError{keys}
	}
	return nil
}

// under reports whether key is one of the keys, or below one.
func under(key string, keys []string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { return key == k || strings.HasPrefix(key, k+".") })
}

// judge asks the present policy about a session.
func (g *Gateway) judge(c policy.Case) *outcome.Refusal { return refusalOf(g.policy.Load().Judge(c)) }

// judgeClientKeys ends the sessions of client keys that are gone from their file, or have changed
// there, at once: a key that has leaked is taken away so.
func (g *Gateway) judgeClientKeys() {
	reasons := g.sessions.Judge(g.judge, 0)
	if ending := sumOf(reasons); ending > 0 {
		g.log.Info("sessions end with their client keys", "ending", ending, "reasons", reasons)
	}
}

// still returns what is asked about a request, under the registry's lock, after p has admitted it:
// whether it still would be, and whether its caller was revoked meanwhile.
func (g *Gateway) still(p *policy.Policy) session.Judge {
	return func(c policy.Case) *outcome.Refusal {
		if g.policy.Load() != p || c.Identity != nil && c.Identity.ClientKey != "" { // whose file changes on its own
			return g.judge(c)
		}
		return refusalOf(p.Verifier().Unrevoked(c.Identity))
	}
}

// refusalOf returns the refusal in err, or nil.
func refusalOf(err error) *outcome.Refusal {
	if err == nil {
		return nil
	}
	return outcome.RefusalOf(err)
}

func sumOf(counts map[outcome.Reason]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
