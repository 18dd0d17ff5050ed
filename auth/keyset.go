package auth

import (
	"bytes"
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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// How an issuer is asked for its keys.
const (
	firstRetry   = 250 * time.Millisecond // after a fetch that failed; doubled for each further one
	lastRetry    = 15 * time.Second
	refetchEvery = 30 * time.Second   // at most, for a token that no key verifies, of a stranger or of one caller
	refetchPause = time.Second        // before a fetch for a caller, since the last one
	refetchWait  = 3 * time.Second    // that a request with such a token waits
	keepFor      = 7 * 24 * time.Hour // that keys are used through an outage
	maxKeys      = 100                // in one set; further ones are skipped
	maxTried     = 4                  // keys for one token: a stranger's costs that many signatures
)

// jwks is a key set that was read. It is not changed, and while the issuer's keys stay the same
// it is the same pointer: what was verified with it is still verified.
type jwks struct {
	keys    []jwk     // that can verify something; there may be none
	skipped []skipped // the others of the set
}

// skipped is a key that cannot be used. It is kept so that a token which names it can be told why.
type skipped struct {
	kid, why string
	weak     bool // it is too short
}

// String returns the key for a log line.
func (k skipped) String() string {
	if k.kid == "" {
		return "a key without kid: " + k.why
	}
	return outcome.Brief(k.kid) + ": " + k.why
}

// equal reports whether two sets hold the same keys.
func (s *jwks) equal(other *jwks) bool {
	return slices.Equal(s.skipped, other.skipped) && slices.EqualFunc(s.keys, other.keys, func(a, b jwk) bool {
		pub, ok := a.public.(interface{ Equal(crypto.PublicKey) bool })
		return a.kid == b.kid && a.alg == b.alg && ok && pub.Equal(b.public)
	})
}

// why returns the reasons for which keys were skipped: the first few of them, in one line.
func (s *jwks) why() string {
	const most = 4
	var words []string
	for _, k := range s.skipped[:min(len(s.skipped), most)] {
		words = append(words, k.String())
	}
	if len(s.skipped) > most {
		words = append(words, "…")
	}
	return strings.Join(words, ", ")
}

// parseKeys reads a JWK set (RFC 7517 §5). Keys that are broken, or not for verifying signatures
// with one of our algorithms, are skipped; the rest of the set works. It is an error if there is
// no key at all, usable or not.
func parseKeys(b []byte) (*jwks, error) {
	var document map[string]json.RawMessage // and no struct, which would also take KEYS
	if err := json.Unmarshal(b, &document); err != nil {
		return nil, errors.New("not a JSON object" + otherText(b))
	}
	var list []json.RawMessage
	if err := json.Unmarshal(document["keys"], &list); err != nil || len(list) == 0 {
		return nil, errors.New("no keys in it" + otherObject(document))
	}
	set := &jwks{}
	for n, raw := range list {
		k, err := jwk{}, errTooMany
		if n < maxKeys {
			k, err = parseKey(raw)
		}
		if err != nil {
			set.skipped = append(set.skipped, skipped{k.kid, err.Error(), errors.Is(err, errWeak)})
		} else {
			set.keys = append(set.keys, k)
		}
	}
	// Some issuers give their keys in another order each time.
	slices.SortStableFunc(set.keys, func(a, b jwk) int { return cmp.Or(cmp.Compare(a.kid, b.kid), cmp.Compare(a.alg, b.alg)) })
	slices.SortStableFunc(set.skipped, func(a, b skipped) int { return cmp.Or(cmp.Compare(a.kid, b.kid), cmp.Compare(a.why, b.why)) })
	return set, nil
}

// otherText tells what a text looks like that should be a key set, or returns "".
func otherText(b []byte) string {
	switch b = bytes.TrimSpace(b); {
	case bytes.HasPrefix(b, []byte("-----BEGIN")):
		return ", but PEM: a JWK set is needed"
	case bytes.HasPrefix(b, []byte("<")):
		return ", but HTML or XML, such as a page for people"
	case bytes.HasPrefix(b, []byte("[")):
		return `, but a list: a JWK set has it in {"keys": …}`
	case len(b) == 0:
		return ", but empty"
	}
	return ""
}

// otherObject tells what an object looks like that should be a key set, or returns "".
func otherObject(document map[string]json.RawMessage) string {
	switch {
	case document["keys"] != nil:
		return ": keys is no list, or an empty one"
	case document["kty"] != nil:
		return `: it is a single JWK, which a set has in {"keys": [ … ]}`
	case document["jwks_uri"] != nil:
		return ": it is a discovery document, whose jwks_uri is the address of the keys"
	}
	for _, value := range document {
		if bytes.HasPrefix(value, []byte(`"-----BEGIN`)) {
			return ": it is a map of certificates or keys in PEM, such as Google has beside its JWK sets: " +
				"write the address of the JWK set as jwksUri"
		}
	}
	return ""
}

var errTooMany = fmt.Errorf("more than %d keys", maxKeys)

// find returns the keys to try for a token: those that its kid names, then those that have none. A
// token without kid may be from any. The refusal tells why there is none.
func (s *jwks) find(alg, kid string) ([]jwk, *outcome.Refusal) {
	var named, others []jwk
	var unfit bool
	for _, k := range s.keys {
		byName := kid != "" && k.kid == kid
		switch {
		case kid != "" && k.kid != "" && !byName:
		case !k.fits(alg):
			unfit = unfit || byName
		case byName:
			named = append(named, k)
		default:
			others = append(others, k)
		}
	}
	if keys := append(named, others...); len(keys) > 0 {
		return keys[:min(len(keys), maxTried)], nil
	}
	n := slices.IndexFunc(s.skipped, func(k skipped) bool { return kid != "" && k.kid == kid })
	switch {
	case n >= 0 && s.skipped[n].weak:
		return nil, outcome.Refuse(outcome.WeakKey, "key "+outcome.Brief(kid)+" is skipped: "+s.skipped[n].why)
	case unfit:
		return nil, outcome.Refuse(outcome.AlgKeyMismatch, "key "+outcome.Brief(kid)+" is not for "+alg)
	case n >= 0:
		return nil, outcome.Refuse(outcome.UnknownKey, "key "+outcome.Brief(kid)+" is in the set and is skipped: "+s.skipped[n].why)
	case kid != "":
		return nil, outcome.Refuse(outcome.UnknownKey,
			fmt.Sprintf("key %s is not in the set of %d keys", outcome.Brief(kid), len(s.keys)+len(s.skipped)))
	case len(s.skipped) > 0:
		return nil, outcome.Refuse(outcome.UnknownKey, "the token has no kid, and no usable key is for "+alg+"; skipped are "+s.why())
	}
	return nil, outcome.Refuse(outcome.UnknownKey, "the token has no kid, and no key of the issuer is for "+alg)
}

// keySet is the keys of one issuer, kept fresh by run in the background.
type keySet struct {
	// Immutable.
	source
	transport http.RoundTripper // nil: one of its own for each fetch
	log       *slog.Logger

	set  atomic.Pointer[jwks] // the last good one; nil while there is none
	wake chan struct{}        // asks run for a fetch now
	once chan struct{}        // closed when the first fetch has ended

	// Guarded by mu.
	mu           sync.Mutex
	running      bool
	waiting      chan struct{} // closed when the fetch that requests wait for has ended; nil when none waits
	forStrangers time.Time     // when wake was last used for a stranger
	url          string        // where the keys were last asked for, fit for a log
	started      uint64        // fetches
	stored       uint64        // the fetch whose set is in use
	ended        uint64        // fetches, and how many of them failed
	answered     time.Time     // when the last of them ended
	late         bool          // Await has given up on the first one
	failures     uint64
	fetched      time.Time // when set was last confirmed
	lastErr      error
	warning      string // what is odd about the discovery document

	visitors visitors
}

// newKeySet returns the set of a source; first is what was read of it already, or nil.
func newKeySet(from source, first *jwks, o Options) *keySet {
	s := &keySet{
		source: from, transport: o.Transport, log: o.Log.With("issuer", from.issuer),
		wake: make(chan struct{}, 1), once: make(chan struct{}),
	}
	s.url = from.place()
	if first != nil {
		s.set.Store(first)
		s.fetched, s.started, s.stored, s.ended = time.Now(), 1, 1, 1
		close(s.once)
	}
	return s
}

// inherit takes over the keys of a set from the same place. They are used until s has fetched its
// own. s is not in use yet.
func (s *keySet) inherit(from *keySet) {
	from.mu.Lock()
	defer from.mu.Unlock()
	s.set.Store(from.current())
	s.url, s.fetched, s.warning = from.url, from.fetched, from.warning
}

// current returns the set to verify with, or nil when there is none.
func (s *keySet) current() *jwks { return s.set.Load() }

// asked reports whether the issuer has answered, or failed to, or took longer than Await waits.
func (s *keySet) asked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended > 0 || s.late
}

// await returns when the issuer was asked, or when ctx ends; then the set counts as asked all the
// same.
func (s *keySet) await(ctx context.Context) {
	select {
	case <-s.once:
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.late = true
	}
}

func (s *keySet) state() IssuerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := IssuerState{Issuer: s.issuer, Warning: s.warning, KeysURL: s.url, Fetched: s.fetched, Refreshes: s.ended, Failures: s.failures}
	if set := s.current(); set != nil {
		state.Keys, state.Skipped = len(set.keys), len(set.skipped)
	}
	if s.lastErr != nil {
		state.LastError = s.lastErr.Error()
	}
	return state
}

// run fetches until ctx ends: at once, then regularly, after a failure soon again, and when wake
// asks.
func (s *keySet) run(ctx context.Context) {
	if s.inline != "" { // nothing of it can change
		<-ctx.Done()
		return
	}
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
		// Requests that come during this fetch wait for the next one: this may have begun too
		// early.
		awaited := s.waiting != nil
		s.mu.Unlock()
		err := s.fetch(ctx)
		if awaited {
			s.mu.Lock()
			s.release()
			s.mu.Unlock()
		}
		wait := s.interval()
		if err != nil {
			wait, retry = min(retry, wait), min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-time.After(wait - rand.N(wait/10)): // so that replicas do not ask all at once
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

// refetch gets the keys anew because those that are there do not verify a token, and returns the
// set that is there then. All requests that ask share one fetch, which belongs to run and not to
// any of them: a client that goes away cannot spoil it. If the last such fetch is less than
// refetchEvery ago refetch returns at once, so that made-up tokens cost the issuer nothing.
// Strangers cannot use up the fetch that users need after a rotation: a caller that is known has
// one of its own, unless the keys have come just now: a second fetch would bring the same. who
// returns the caller that the token names, of which nothing is verified.
func (s *keySet) refetch(ctx context.Context, who func() visitor) *jwks {
	s.mu.Lock()
	if s.waiting == nil {
		now := time.Now()
		passed := func(since time.Time, wait time.Duration) bool { return since.IsZero() || now.Sub(since) >= wait }
		switch {
		case !s.running:
			s.mu.Unlock()
			return s.current()
		case passed(s.forStrangers, refetchEvery):
			s.forStrangers = now
		case passed(s.answered, refetchPause) && s.visitors.ask(who(), now):
		default:
			s.mu.Unlock()
			return s.current()
		}
		s.waiting = make(chan struct{})
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
	limited, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	set, from, err := s.get(limited)
	switch {
	case err == nil:
	case ctx.Err() != nil: // the caller has given up, which says nothing about the issuer
		return fmt.Errorf("issuer %s: fetch keys: %w", s.issuer, ctx.Err())
	case limited.Err() != nil:
		err = fmt.Errorf("%s: no whole answer within %s", from, s.timeout())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if from != "" {
		s.url = from
	}
	s.answered = time.Now()
	if s.ended++; s.ended == 1 {
		close(s.once)
	}
	if err == nil && len(set.keys) == 0 {
		err = fmt.Errorf("%s: none of %d keys is usable: %s", from, len(set.skipped), set.why())
		// A set in which nothing is usable does not replace one with keys: that is how a broken
		// deployment of the issuer looks, and it would log every user out.
		if before := s.current(); before == nil || len(before.keys) == 0 && !before.equal(set) {
			s.set.Store(set)
			s.fetched = time.Now()
		}
	}
	if err != nil {
		s.failed(err)
		return fmt.Errorf("issuer %s: fetch keys: %w", s.issuer, err)
	}
	if number > s.stored {
		s.stored = number
		s.succeeded(set)
	}
	return nil
}

// failed notes a fetch that failed: the keys that are there stay in use for keepFor. One line is
// logged for an outage, not for each try; for a file one for each cause, as an operator works on it
// meanwhile. s.mu is held.
func (s *keySet) failed(err error) {
	level := slog.LevelWarn
	if s.lastErr != nil && (s.file == "" || s.lastErr.Error() == err.Error()) {
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
		s.log.Info("keys fetched", "url", s.url, "keys", len(set.keys), "skipped", len(set.skipped), "why", set.why())
	}
	s.fetched, s.lastErr = time.Now(), nil
}
