// Package auth answers two questions about a request: who is it, and may they?
//
// A Verifier finds and removes a request's one credential: Take (source.go). Verify (verify.go)
// looks at its form (token.go) and turns it into an Identity with the keys of the token's own
// issuer, or, if it is no JWT, with the client keys of the configuration (clientkey.go). Rules
// (rule.go) tell whether that identity may pass, and Headers (claim.go) what the agent is told
// about it. A Signer (mint.go) makes tokens for development and tests.
//
// Revocations (revocations.go, and ledger.go for the file in which they outlive the process) bar
// tokens that are valid; Verify asks them last.
//
// Keys (keys.go) hold one key set for each issuer (keyset.go, of keys read by jwk.go) and fetch it
// (fetch.go). They live longer than a Verifier, which is made anew for every configuration.
//
// Every way to be refused is an outcome.Refusal with one Reason; the words are the same in the
// log, the metrics, `explain` and the docs.
package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Identity is a verified caller. It holds values only, nothing of the rules that it was verified
// by, so it can be kept and judged by other rules later. It is shared between requests with the
// same token and must not be changed.
type Identity struct {
	// Issuer is the claim iss, and Subject the claim sub, or another that principalClaim names.
	// The subject may be empty or unusable: see HasPrincipal.
	Issuer, Subject string
	// Expiry is the claim exp; zero when the token has none.
	Expiry time.Time
	// Deadline is until when a new connection with this token is let in: Expiry and the issuer's
	// clock skew; zero without Expiry.
	Deadline time.Time
	// Claims are all claims.
	Claims Claims
	// ForwardToken reports whether the agent is given the token.
	ForwardToken bool
	// ClientKey is the keyHash of the client key that the credential is, which no agent is given;
	// "" for a token.
	ClientKey string
}

// HasPrincipal reports whether the subject can be a principal: not empty, in one line, and without
// white space at either end, which a receiver would trim so that two subjects became one.
func (id *Identity) HasPrincipal() bool {
	return id.Subject != "" && strings.TrimSpace(id.Subject) == id.Subject && !strings.ContainsAny(id.Subject, "\n\r\v\f\u0085\u2028\u2029")
}

// Trace is told each check that a token passed, in order, for explain. A nil Trace is told
// nothing.
type Trace func(check, detail string)

// trace tells t, if there is one.
func (t Trace) trace(check, format string, a ...any) {
	if t != nil {
		t(check, fmt.Sprintf(format, a...))
	}
}

// Verifier verifies tokens of the configured issuers: compiled rules, which refer to Keys. Its
// methods may be used concurrently. Until Keys have been run or refreshed, tokens are refused with
// JWKSUnavailable.
type Verifier struct {
	issuers    []*issuer
	byName     map[string]*issuer
	clients    *clientKeys     // nil without client keys
	algorithms map[string]bool // allowed by some issuer
	places     places          // of all issuers
	required   config.RequiredClaims
	cache      *cache
	revoked    *Revocations
	maxToken   int // how long a token may be, in bytes
	now        func() time.Time
}

// issuer is one issuer and what is asked of its tokens.
type issuer struct {
	config.JWT
	algorithms map[string]bool
	places     map[string]bool // in which its tokens may sit
	required   []rule          // the claims that it asks for beside the global ones
	from       source
	first      *jwks // what was read of the source by New, or nil
	keys       *keySet
}

// New compiles the block authentication; tokens have at most maxToken bytes. The key sets that it
// needs are taken from keys, or added there. It uses no network: keys.Run or keys.Refresh fetch
// them. The revocations may be nil.
func New(c config.Authentication, maxToken int, keys *Keys, revocations *Revocations) (*Verifier, error) {
	v := &Verifier{
		required: c.Authorization.RequiredClaims, byName: map[string]*issuer{}, algorithms: map[string]bool{},
		cache: newCache(), revoked: revocations, maxToken: maxToken, now: time.Now,
	}
	if !c.Enabled {
		return v, nil
	}
	var first *clientKeySet
	var err error
	if file := c.ClientKeys.File; file != "" {
		if first, err = readClientKeys(file); err != nil {
			return nil, fmt.Errorf("authentication.clientKeys.file: %w", err)
		}
		v.clients = newClientKeys(c.JWT)
		for _, p := range v.places.add(v.clients.JWT) {
			v.clients.places[p] = true
		}
	}
	for n, j := range c.Issuers() {
		if n == 0 && j.Issuer == "" { // callers with keys alone, or agents that authenticate
			v.places.add(j) // no agent is given what its clients take for a credential
			continue
		}
		if err := v.add(j); err != nil {
			return nil, fmt.Errorf("issuer %s: %w", outcome.Brief(j.Issuer), err)
		}
	}
	for _, i := range v.issuers { // only now, so that a configuration with a mistake adds none
		i.keys = keys.set(i.from, i.first)
	}
	if v.clients != nil {
		v.clients.file = keys.clientKeys(c.ClientKeys.File, first)
	}
	return v, nil
}

// add compiles one issuer.
func (v *Verifier) add(j config.JWT) error {
	if j.Issuer == "" {
		return errors.New("it has no name")
	}
	if v.byName[j.Issuer] != nil {
		return errors.New("configured twice")
	}
	from, first, err := newSource(j)
	if err != nil {
		return err
	}
	i := &issuer{JWT: j, from: from, first: first, algorithms: map[string]bool{}, places: map[string]bool{}}
	for _, alg := range j.Algorithms {
		alg = canonical(alg)
		if methods[alg] == nil {
			return fmt.Errorf("algorithm %q is not supported", alg)
		}
		i.algorithms[alg], v.algorithms[alg] = true, true
	}
	for _, p := range v.places.add(j) {
		i.places[p] = true
	}
	i.required = newRules(j.RequiredClaims, false)
	v.issuers, v.byName[j.Issuer] = append(v.issuers, i), i
	return nil
}

// issuerOf returns what is asked of a caller, or nil if its issuer is not configured.
func (v *Verifier) issuerOf(id *Identity) *issuer {
	if id.Issuer == clientKeyIssuer && v.clients != nil {
		return v.clients.issuer
	}
	return v.byName[id.Issuer]
}

// refersTo reports whether v verifies with s.
func (v *Verifier) refersTo(s *keySet) bool {
	return slices.ContainsFunc(v.issuers, func(i *issuer) bool { return i.keys == s })
}

// Ready reports whether tokens can be judged: every issuer was asked for its keys, and at least
// one has given a set, even if nothing in it is usable: its tokens are then judged, and refused.
// An issuer whose keys are missing fails for its own tokens only. Without authentication it is
// always true.
func (v *Verifier) Ready() bool {
	if len(v.issuers) == 0 {
		return true
	}
	asked := !slices.ContainsFunc(v.issuers, func(i *issuer) bool { return !i.keys.asked() })
	return asked && slices.ContainsFunc(v.issuers, func(i *issuer) bool { return i.keys.current() != nil })
}

// IssuerState tells how things stand with an issuer's keys.
type IssuerState struct {
	// Issuer is its name.
	Issuer string
	// KeysURL is where the keys come from, without userinfo and query. Empty until discovery has
	// found out.
	KeysURL string
	// Keys counts those that can be used, Skipped those of the last set that could not.
	Keys, Skipped int
	// Fetched is when the keys in use were last confirmed by the issuer. Zero: never.
	Fetched time.Time
	// LastError tells why the last fetch failed, or is "".
	LastError string
	// Warning tells what is wrong although keys can be fetched: a discovery document that speaks
	// for another issuer. "" if nothing is.
	Warning string
	// Refreshes counts the fetches, Failures those of them that failed.
	Refreshes, Failures uint64
}

// Issuers returns the states of all issuers, in the order of the configuration.
func (v *Verifier) Issuers() []IssuerState {
	states := make([]IssuerState, len(v.issuers))
	for n, i := range v.issuers {
		states[n] = i.keys.state()
	}
	return states
}

// ClientKeysState is what is known of the file of client keys.
type ClientKeysState struct {
	// Keys counts those in use, expired ones too.
	Keys int
	// Reads counts how often the file was read again, Failures how often that failed.
	Reads, Failures uint64
}

// ClientKeys returns the state of the client keys, and false if there are none.
func (v *Verifier) ClientKeys() (state ClientKeysState, ok bool) {
	if v.clients == nil {
		return state, false
	}
	f := v.clients.file
	return ClientKeysState{len(f.current().identities), f.reads.Load(), f.failures.Load()}, true
}

// Remembered returns how many verified tokens are remembered, and about how many bytes of memory
// they take.
func (v *Verifier) Remembered() (tokens, bytes int) { return v.cache.size() }
