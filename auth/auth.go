// Package auth answers two questions about a request: who is it, and may they?
//
// A request's one credential is found and removed by Take (source.go). Verify (verify.go) looks at its form (token.go) and turns it into
// an Identity with the keys of the token's own issuer (keys.go): one key set per issuer, never pooled, as a shared one would let any issuer
// sign for all. Rules (rule.go) say whether that identity may pass, and Headers (claim.go) what the agent is told about it. A Signer
// (mint.go) makes tokens for development and tests.
//
// Every way to be refused is a Refusal with one Reason; the words are the same in the log, the metrics, `explain` and the docs.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	lru "github.com/hashicorp/golang-lru/v2"
)

// Identity is a verified caller. It is shared between requests with the same token and must not be changed.
type Identity struct {
	// Issuer and Subject are the claims iss and sub. Subject may be empty or unusable: HasPrincipal tells.
	Issuer, Subject string
	// Expiry is the claim exp; zero when the token has none.
	Expiry time.Time
	// Deadline is until when a new connection with this token would be let in: Expiry and the issuer's clock skew; zero without Expiry.
	Deadline time.Time
	// Claims are all claims. Numbers are json.Number, so that no digit is lost.
	Claims map[string]any
	// ForwardToken says whether the agent is given the token.
	ForwardToken bool

	issuer *issuer // whose rules apply
}

// HasPrincipal says whether the subject can name somebody: not empty, in one line, and without white space at either end, which a
// receiver would trim so that two subjects became one.
func (id *Identity) HasPrincipal() bool {
	return id.Subject != "" && strings.TrimSpace(id.Subject) == id.Subject && !strings.ContainsAny(id.Subject, "\n\r\v\f\u0085\u2028\u2029")
}

// Trace is told each check that a token passed, in order, for explain. A nil Trace is told nothing.
type Trace func(check, detail string)

// trace tells t, if there is one.
func (t Trace) trace(check, format string, a ...any) {
	if t != nil {
		t(check, fmt.Sprintf(format, a...))
	}
}

// Options are what an Authenticator needs beside its configuration. The zero value is usable.
type Options struct {
	// Log takes a line when an issuer's keys change, and when they cannot be fetched or can be again. Nil: nothing is logged.
	Log *slog.Logger
	// Transport carries the requests for keys. Nil: one of its own that uses no proxy.
	Transport http.RoundTripper
}

// Authenticator verifies tokens of the configured issuers. Its methods may be used concurrently. Until Run or Refresh has fetched an
// issuer's keys, its tokens are refused with JWKSUnavailable.
type Authenticator struct {
	issuers    []*issuer
	byName     map[string]*issuer
	algorithms map[string]bool // allowed by some issuer
	places     places          // of all issuers
	verified   *lru.Cache[digest, verified]
	now        func() time.Time
}

// issuer is one issuer and what is asked of its tokens.
type issuer struct {
	config.JWT
	algorithms map[string]bool
	audiences  []string        // as bareAudience makes them
	places     map[string]bool // in which its tokens may sit
	keys       *keySet
}

// New compiles the block authentication. It uses no network: Run or Refresh fetch the keys.
func New(c config.Authentication, o Options) (*Authenticator, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		o.Transport = newTransport()
	}
	cache, err := lru.New[digest, verified](cacheSize)
	if err != nil {
		return nil, fmt.Errorf("cache of verified tokens: %w", err)
	}
	a := &Authenticator{byName: map[string]*issuer{}, algorithms: map[string]bool{}, verified: cache, now: time.Now}
	if !c.Enabled {
		return a, nil
	}
	for _, j := range c.Issuers() {
		if j.Issuer == "" {
			return nil, errors.New("an issuer without a name")
		}
		if a.byName[j.Issuer] != nil {
			return nil, fmt.Errorf("issuer %s: configured twice", j.Issuer)
		}
		keys, err := newKeySet(j, o)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", j.Issuer, err)
		}
		i := &issuer{JWT: j, algorithms: map[string]bool{}, places: map[string]bool{}, keys: keys}
		for _, alg := range j.Algorithms {
			if methods[alg] == nil {
				return nil, fmt.Errorf("issuer %s: algorithm %q is not supported", j.Issuer, alg)
			}
			i.algorithms[alg], a.algorithms[alg] = true, true
		}
		for _, aud := range j.Audiences {
			i.audiences = append(i.audiences, bareAudience(aud))
		}
		for _, p := range a.places.add(j) {
			i.places[p] = true
		}
		a.issuers, a.byName[j.Issuer] = append(a.issuers, i), i
	}
	return a, nil
}

// Run keeps the keys of every issuer fresh until ctx ends, and waits for all that it has started.
func (a *Authenticator) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, i := range a.issuers {
		wg.Go(func() { i.keys.run(ctx) })
	}
	wg.Wait()
}

// Refresh fetches the keys of every issuer once, side by side. The error joins one for each issuer whose keys could not be fetched.
func (a *Authenticator) Refresh(ctx context.Context) error {
	errs := make([]error, len(a.issuers))
	var wg sync.WaitGroup
	for n, i := range a.issuers {
		wg.Go(func() { errs[n] = i.keys.fetch(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Ready says whether tokens can be judged: every issuer was asked for its keys, and one at least has given some. One whose keys are
// missing fails for its own tokens only. Without authentication it is always true.
func (a *Authenticator) Ready() bool {
	if len(a.issuers) == 0 {
		return true
	}
	asked := !slices.ContainsFunc(a.issuers, func(i *issuer) bool { return !i.keys.asked() })
	return asked && slices.ContainsFunc(a.issuers, func(i *issuer) bool { return i.keys.current() != nil })
}

// IssuerState says how things stand with an issuer's keys.
type IssuerState struct {
	// Issuer is its name.
	Issuer string
	// KeysURL is where the keys come from, without userinfo and query. Empty until discovery has found out.
	KeysURL string
	// Keys is how many can be used; Skipped how many of the last set could not.
	Keys, Skipped int
	// Fetched is when the keys in use were last confirmed by the issuer. Zero: never.
	Fetched time.Time
	// LastError is why the last fetch failed, or "".
	LastError string
	// Refreshes counts the fetches, Failures those of them that failed.
	Refreshes, Failures uint64
}

// Issuers are the states of all issuers, in the order of the configuration.
func (a *Authenticator) Issuers() []IssuerState {
	states := make([]IssuerState, len(a.issuers))
	for n, i := range a.issuers {
		states[n] = i.keys.state()
	}
	return states
}
