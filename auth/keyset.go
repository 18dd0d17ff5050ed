package auth

import (
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// How an issuer is asked for its keys.
const (
	refreshEvery = 10 * time.Minute       // less up to a tenth, so that replicas do not ask all at once
	firstRetry   = 250 * time.Millisecond // after a fetch that failed; doubled for each further one
	lastRetry    = 15 * time.Second
	refetchEvery = 30 * time.Second   // at most, for a kid that is not known
	refetchWait  = 3 * time.Second    // that a request with such a kid waits
	keepFor      = 7 * 24 * time.Hour // that keys are used through an outage
	maxKeys      = 100                // in one set; further ones are skipped
	maxTried     = 4                  // keys for one token: a stranger's costs that many signatures
)

// jwks is a key set that was fetched. It is not changed, and while the issuer's keys stay the same
// it is the same pointer: what was verified with it is still verified.
type jwks struct {
	keys []jwk // may be empty: a set in which nothing is usable is known to be so
}

// usable returns how many keys can verify something.
func (s *jwks) usable() (n int) {
	for _, k := range s.keys {
		if !k.weak {
			n++
		}
	}
	return n
}

// equal reports whether two sets hold the same keys.
func (s *jwks) equal(other *jwks) bool {
	return slices.EqualFunc(s.keys, other.keys, func(a, b jwk) bool {
		pub, ok := a.public.(interface{ Equal(crypto.PublicKey) bool })
		return a.kid == b.kid && a.alg == b.alg && ok && pub.Equal(b.public)
	})
}

// parseKeys reads a JWK set (RFC 7517 §5). Keys that are broken, or not for verifying signatures
// with one of our algorithms, are skipped and counted; the rest of the set works. It is an error if
// there is no key at all, usable or not.
func parseKeys(b []byte) (set *jwks, skipped int, err error) {
	var document map[string]json.RawMessage // and no struct, which would also take KEYS
	if err := json.Unmarshal(b, &document); err != nil {
		return nil, 0, errors.New("not a JSON object")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(document["keys"], &list); err != nil || len(list) == 0 {
		return nil, 0, errors.New("no keys in it")
	}
	set = &jwks{}
	for _, raw := range list[:min(len(list), maxKeys)] {
		if k, err := parseKey(raw); err == nil {
			set.keys = append(set.keys, k)
		}
	}
	// Some issuers give their keys in another order each time.
	slices.SortStableFunc(set.keys, func(a, b jwk) int { return cmp.Or(cmp.Compare(a.kid, b.kid), cmp.Compare(a.alg, b.alg)) })
	return set, len(list) - set.usable(), nil
}

// find returns the keys to try for a token: those that its kid names, then those that have none. A
// token without kid may be from any. The refusal tells why there is none.
func (s *jwks) find(alg, kid string) ([]jwk, *outcome.Refusal) {
	var named, others []jwk
	var weak, unfit bool
	for _, k := range s.keys {
		byName := kid != "" && k.kid == kid
		switch {
		case kid != "" && k.kid != "" && !byName:
		case k.weak:
			weak = weak || byName
		case !k.fits(alg):
			unfit = unfit || byName
		case byName:
			named = append(named, k)
		default:
			others = append(others, k)
		}
	}
	keys := append(named, others...)
	switch {
	case len(keys) > 0:
		return keys[:min(len(keys), maxTried)], nil
	case weak:
		return nil, &outcome.Refusal{Reason: outcome.WeakKey, Detail: "key " + clip(kid) + " is shorter than " + fmt.Sprint(minRSA) + " bits"}
	case unfit:
		return nil, &outcome.Refusal{Reason: outcome.AlgKeyMismatch, Detail: "key " + clip(kid) + " is not for " + alg}
	case kid == "":
		return nil, &outcome.Refusal{Reason: outcome.UnknownKey, Detail: "the issuer has no key for " + alg}
	}
	return nil, &outcome.Refusal{Reason: outcome.UnknownKey, Detail: "the issuer has no key " + clip(kid)}
}

// source is where the keys of an issuer come from. Sets with equal sources are one.
type source struct {
	issuer   string
	uri      string // "": discovery
	insecure bool   // http:// is allowed beyond loopback
}

// newSource returns the source that a configuration names, if keys may come from there.
func newSource(j config.JWT) (source, error) {
	from := source{issuer: j.Issuer, uri: j.JWKSURI, insecure: j.InsecureHTTP}
	if from.uri != "" {
		if _, err := from.allowed(from.uri); err != nil {
			return source{}, fmt.Errorf("jwksUri: %w", err)
		}
	}
	return from, nil
}

// keySet is the keys of one issuer, kept fresh by run in the background.
type keySet struct {
	// Immutable.
	source
	client *http.Client
	log    *slog.Logger

	set  atomic.Pointer[jwks] // the last good one; nil while there is none
	wake chan struct{}        // asks run for a fetch now

	// Guarded by mu.
	mu        sync.Mutex
	running   bool
	waiting   chan struct{} // closed when the fetch that requests wait for has ended; nil when none waits
	refetched time.Time     // when wake was last used
	url       string        // where the keys were last asked for, fit for a log
	started   uint64        // fetches
	stored    uint64        // the fetch whose set is in use
	ended     uint64        // fetches, and how many of them failed
	failures  uint64
	fetched   time.Time // when set was last confirmed
	skipped   int       // keys that came with it and are not usable
	lastErr   error
	warning   string // what is odd about the discovery document
}

func newKeySet(from source, o Options) *keySet {
	s := &keySet{
		source: from, log: o.Log.With("issuer", from.issuer), wake: make(chan struct{}, 1),
		client: &http.Client{
			Transport: o.Transport,
			// A redirect could lead to another host's keys, or from https to http.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if from.uri != "" {
		s.url = redacted(from.uri)
	}
	return s
}

// current returns the set to verify with, or nil when there is none.
func (s *keySet) current() *jwks { return s.set.Load() }

// asked reports whether the issuer has answered, or failed to.
func (s *keySet) asked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended > 0
}

func (s *keySet) state() IssuerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := IssuerState{Issuer: s.issuer, Warning: s.warning, KeysURL: s.url, Fetched: s.fetched, Refreshes: s.ended, Failures: s.failures}
	if set := s.current(); set != nil {
		state.Keys, state.Skipped = set.usable(), s.skipped
	}
	if s.lastErr != nil {
		state.LastError = s.lastErr.Error()
	}
	return state
}

// run fetches until ctx ends: at once, then regularly, after a failure soon again, and when wake
// asks.
func (s *keySet) run(ctx context.Context) {
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running = false
		s.release()
		s.mu.Unlock()
	}()
	retry := firstRetry
	for {
		s.mu.Lock()
		// Requests that come during this fetch wait for the next one: this may have begun too early.
		awaited := s.waiting != nil
		s.mu.Unlock()
		err := s.fetch(ctx)
		if awaited {
			s.mu.Lock()
			s.release()
			s.mu.Unlock()
		}
		wait := refreshEvery
		if err != nil {
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-time.After(wait - rand.N(wait/10)):
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

// release lets the requests go on that wait for a fetch. s.mu is held.
func (s *keySet) release() {
	if s.waiting != nil {
		close(s.waiting)
		s.waiting = nil
	}
}

// refetch gets the keys anew because a token names one that is not known, and returns the set that
// is there then. All requests that ask share one fetch, which belongs to run and not to any of them:
// a client that goes away cannot spoil it. If the last such fetch is less than refetchEvery ago
// refetch returns at once, so that made-up names cost the issuer nothing.
func (s *keySet) refetch(ctx context.Context) *jwks {
	s.mu.Lock()
	if s.waiting == nil {
		now := time.Now()
		if !s.running || !s.refetched.IsZero() && now.Sub(s.refetched) < refetchEvery {
			s.mu.Unlock()
			return s.current()
		}
		s.refetched, s.waiting = now, make(chan struct{})
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	waiting := s.waiting
	s.mu.Unlock()
	select {
	case <-waiting:
	case <-time.After(refetchWait):
	case <-ctx.Done():
	}
	return s.current()
}

// fetch asks the issuer once and keeps what it gives. Fetches may overlap; the one that began last
// counts.
func (s *keySet) fetch(ctx context.Context) error {
	s.mu.Lock()
	s.started++
	number := s.started
	s.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	set, skipped, from, err := s.get(limited)
	switch {
	case err == nil:
	case ctx.Err() != nil: // the caller has given up, which says nothing about the issuer
		return fmt.Errorf("issuer %s: fetch keys: %w", s.issuer, ctx.Err())
	case limited.Err() != nil:
		err = fmt.Errorf("%s: no whole answer within %s", from, fetchLimit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if from != "" {
		s.url = from
	}
	s.ended++
	if before := s.current(); err == nil && set.usable() == 0 && before != nil && before.usable() > 0 {
		// That is how a broken deployment of the issuer looks; such a set would log every user out.
		err = fmt.Errorf("%s: none of %d keys is usable", from, skipped)
	}
	if err != nil {
		s.failed(err)
		return fmt.Errorf("issuer %s: fetch keys: %w", s.issuer, err)
	}
	if number > s.stored {
		s.stored, s.skipped = number, skipped
		s.succeeded(set)
	}
	return nil
}

// failed notes a fetch that failed: the keys that are there stay in use for keepFor. One line is
// logged for an outage, not for each try. s.mu is held.
func (s *keySet) failed(err error) {
	level := slog.LevelWarn
	if s.lastErr != nil {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, "keys cannot be fetched", "err", err)
	s.failures++
	s.lastErr = err
	if s.current() != nil && time.Since(s.fetched) > keepFor {
		s.set.Store(nil)
		s.log.Error("keys are too old and no longer used", "fetched", s.fetched)
	}
}

// succeeded puts a set into use. s.mu is held.
func (s *keySet) succeeded(set *jwks) {
	before := s.current()
	changed := before == nil || !before.equal(set)
	if changed {
		s.set.Store(set)
	}
	if changed || s.lastErr != nil {
		s.log.Info("keys fetched", "url", s.url, "keys", set.usable(), "skipped", s.skipped)
	}
	s.fetched, s.lastErr = time.Now(), nil
}
