package auth

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// How an issuer is asked for its keys.
const (
	fetchLimit   = 10 * time.Second       // for all of one fetch, discovery included: an issuer that takes longer is one that is down
	refreshEvery = 10 * time.Minute       // less up to a tenth, so that replicas do not ask all at once
	firstRetry   = 250 * time.Millisecond // after a fetch that failed; doubled for each further one
	lastRetry    = 15 * time.Second
	refetchEvery = 30 * time.Second   // at most, for a kid that is not known
	refetchWait  = 3 * time.Second    // that a request with such a kid waits
	keepFor      = 7 * 24 * time.Hour // that keys are used through an outage
	maxDocument  = 1 << 20            // bytes
	maxKeys      = 100                // in one set; those behind are not looked at
	maxTried     = 32                 // keys for one token
	minRSA       = 2048               // bits (RFC 7518 §3.3)
	maxRSA       = 8192               // bits: verifying costs the square of them, so a longer key is skipped like a broken one
)

// jwk is one public key of a set.
type jwk struct {
	kid, alg string // "" matches every token's
	public   crypto.PublicKey
	weak     bool // too short: known only to say so when a token names it
}

// jwks is a key set that was fetched. It is not changed, and while the issuer's keys stay the same it is the same pointer: what was
// verified with it is still verified.
type jwks struct {
	keys []jwk // may be empty: a set in which nothing is usable is known to be so
}

// usable is how many keys can verify something.
func (s *jwks) usable() (n int) {
	for _, k := range s.keys {
		if !k.weak {
			n++
		}
	}
	return n
}

// equal says whether two sets hold the same keys.
func (s *jwks) equal(other *jwks) bool {
	return slices.EqualFunc(s.keys, other.keys, func(a, b jwk) bool {
		pub, ok := a.public.(interface{ Equal(crypto.PublicKey) bool })
		return a.kid == b.kid && a.alg == b.alg && ok && pub.Equal(b.public)
	})
}

// parseKeys reads a JWK set (RFC 7517 §5). Keys that are broken, or not for verifying signatures with one of our algorithms, are skipped
// and counted; the rest of the set works. It is an error if there is no key at all, usable or not.
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

// parseKey reads one key. Only kty and its parameters are given to the library: what stands beside them (x5c, x5u, private parts, an
// unknown use) can then neither break a good key nor be followed.
func parseKey(raw []byte) (k jwk, err error) {
	defer func() { // broken keys have made big-number code panic before
		if r := recover(); r != nil {
			err = fmt.Errorf("broken key: %v", r)
		}
	}()
	object, err := decodeObject(raw)
	if err != nil {
		return jwk{}, err
	}
	member := func(name string) string {
		s, ok := object[name].(string)
		if !ok && object[name] != nil && err == nil {
			err = fmt.Errorf("%s is not a string", name)
		}
		return s
	}
	k.kid, k.alg = member("kid"), member("alg")
	if use := member("use"); object["use"] != nil && use != "sig" {
		return jwk{}, errors.New("not for signatures")
	}
	if ops := object["key_ops"]; ops != nil {
		if list, _ := ops.([]any); !slices.Contains(list, any("verify")) {
			return jwk{}, errors.New("not for verifying")
		}
	}
	m := jwkset.JWKMarshal{
		KTY: jwkset.KTY(member("kty")), CRV: jwkset.CRV(member("crv")),
		X: member("x"), Y: member("y"), N: member("n"), E: member("e"),
	}
	if err != nil {
		return jwk{}, err
	}
	if len(m.E) > 8 { // the library would cut it to 64 bits
		return jwk{}, errors.New("RSA exponent out of range")
	}
	parsed, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return jwk{}, err
	}
	k.public = parsed.Key()
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		if pub.E&1 == 0 || pub.N.BitLen() > maxRSA {
			return jwk{}, errors.New("RSA exponent even or modulus too long")
		}
		k.weak = pub.N.BitLen() < minRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default: // oct is a secret, and not when it is published; X25519 signs nothing
		return jwk{}, errors.New("no key for verifying")
	}
	return k, nil
}

// fits says whether the key may verify signatures of the algorithm: its own alg, type and curve must agree (RFC 7518 §3.1, RFC 8037 §3.1).
func (k *jwk) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return alg == "ES256"
		case elliptic.P384():
			return alg == "ES384"
		case elliptic.P521():
			return alg == "ES512"
		}
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// find gives the keys to try for a token: those that its kid names, then those that have none. A token without kid may be from any. The
// refusal says why there is none.
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

// keySet is the keys of one issuer and how they are kept fresh: by run, in the background. It is never pooled with another's.
type keySet struct {
	issuer   string
	uri      string // "": discovery
	insecure bool
	client   *http.Client
	log      *slog.Logger

	set  atomic.Pointer[jwks] // the last good one; nil while there is none
	wake chan struct{}        // asks run for a fetch now

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
}

// newTransport is the transport for keys. The environment has no say in it: a proxy could give us any keys over http.
func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            (&net.Dialer{Timeout: fetchLimit}).DialContext,
		TLSHandshakeTimeout:    fetchLimit,
		DisableCompression:     true, // the limit of a document counts what was sent
		DisableKeepAlives:      true, // the next request is minutes away
		MaxResponseHeaderBytes: 64 << 10,
	}
}

func newKeySet(j config.JWT, o Options) (*keySet, error) {
	s := &keySet{
		issuer: j.Issuer, uri: j.JWKSURI, insecure: j.InsecureHTTP, log: o.Log.With("issuer", j.Issuer), wake: make(chan struct{}, 1),
		client: &http.Client{
			Transport: o.Transport,
			// A redirect could lead to another host's keys, or from https to http.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if s.uri != "" {
		if _, err := s.allowed(s.uri); err != nil {
			return nil, fmt.Errorf("jwksUri: %w", err)
		}
		s.url = redacted(s.uri)
	}
	return s, nil
}

// current is the set to verify with, or nil when there is none.
func (s *keySet) current() *jwks { return s.set.Load() }

// asked says whether the issuer has answered, or failed to.
func (s *keySet) asked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended > 0
}

func (s *keySet) state() IssuerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := IssuerState{Issuer: s.issuer, KeysURL: s.url, Fetched: s.fetched, Refreshes: s.ended, Failures: s.failures}
	if set := s.current(); set != nil {
		state.Keys, state.Skipped = set.usable(), s.skipped
	}
	if s.lastErr != nil {
		state.LastError = s.lastErr.Error()
	}
	return state
}

// run fetches until ctx ends: at once, then regularly, after a failure soon again, and when wake asks.
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
		awaited := s.waiting != nil // else those who come meanwhile wait for the next one, as this may have begun too early for them
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

// release lets go those who wait for a fetch. s.mu is held.
func (s *keySet) release() {
	if s.waiting != nil {
		close(s.waiting)
		s.waiting = nil
	}
}

// refetch gets the keys anew because a token names one that is not known, and gives the set there is then. All who ask share one fetch,
// which belongs to run and not to any of them: a client that goes away cannot spoil it. If the last such fetch is less than refetchEvery
// ago the answer is immediate, so that made-up names cost the issuer nothing.
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

// fetch asks the issuer once and keeps what it gives. Fetches may overlap; the one that began last counts.
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
	case ctx.Err() != nil: // it was the caller who has given up
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
		// That is how a broken deployment of the issuer looks; with such a set everybody would be logged out.
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

// failed notes a fetch that failed: the keys there are stay in use for keepFor. One line is logged for an outage, not for each try. s.mu
// is held.
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

// get finds the issuer's key set and reads it. from is where it was looked for last.
func (s *keySet) get(ctx context.Context) (set *jwks, skipped int, from string, err error) {
	uri, discovery := s.uri, error(nil)
	if uri == "" {
		base := strings.TrimSuffix(s.issuer, "/") + "/.well-known/"
		if uri, discovery = s.discover(ctx, base+"openid-configuration"); discovery != nil {
			uri = base + "jwks.json"
		}
	}
	from = redacted(uri)
	body, err := s.read(ctx, uri)
	if err == nil {
		set, skipped, err = parseKeys(body)
	}
	switch {
	case err != nil && discovery != nil:
		err = fmt.Errorf("%s: %w; before that, discovery: %w", from, err, discovery)
	case err != nil:
		err = fmt.Errorf("%s: %w", from, err)
	}
	return set, skipped, from, err
}

// discover reads an issuer's metadata (OpenID Connect Discovery 1.0 §4) and gives the address of its keys. A document that speaks for
// another issuer is not believed (§4.3).
func (s *keySet) discover(ctx context.Context, uri string) (keys string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", redacted(uri), err)
		}
	}()
	body, err := s.read(ctx, uri)
	if err != nil {
		return "", err
	}
	object, err := decodeObject(body)
	if err != nil {
		return "", err
	}
	if name, _ := object["issuer"].(string); name != s.issuer {
		return "", fmt.Errorf("it speaks for the issuer %s", clip(name))
	}
	if keys, _ = object["jwks_uri"].(string); keys == "" {
		return "", errors.New("no jwks_uri")
	}
	return keys, nil
}

// read gets one document. The error does not name uri.
func (s *keySet) read(ctx context.Context, uri string) ([]byte, error) {
	u, err := s.allowed(uri)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("no request can be made of it")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "omnia-gateway")
	resp, err := s.client.Do(req)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err // without the address and its secrets
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxDocument {
		return nil, fmt.Errorf("more than %d bytes", maxDocument)
	}
	return body, nil
}

// allowed parses an address from which keys may come: https, or http on this machine, or with insecureHTTP.
func (s *keySet) allowed(uri string) (*url.URL, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" {
		return nil, errors.New("no URL to fetch from")
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && (s.insecure || config.IsLoopback(u)):
	default:
		return nil, errors.New("only https is allowed beyond this machine, without insecureHTTP")
	}
	return u, nil
}

// redacted is an address without what may be secret in it: userinfo, query, fragment.
func redacted(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "(no URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}
