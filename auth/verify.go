package auth

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// cacheSize is how many verified tokens are remembered. Only valid ones are, so that an attacker cannot push the others out.
const cacheSize = 8192

// digest is the SHA-256 of a token.
type digest = [sha256.Size]byte

// verified is what is remembered of a token: it holds for as long as the issuer has the keys that it was verified with.
type verified struct {
	identity *Identity
	keys     *jwks
}

// methods verify signatures. Those of PS are our own: golang-jwt's accept a salt of any length, RFC 7518 §3.5 that of the hash only.
var methods = map[string]jwt.SigningMethod{
	"RS256": jwt.SigningMethodRS256, "RS384": jwt.SigningMethodRS384, "RS512": jwt.SigningMethodRS512,
	"PS256": pss("PS256", crypto.SHA256), "PS384": pss("PS384", crypto.SHA384), "PS512": pss("PS512", crypto.SHA512),
	"ES256": jwt.SigningMethodES256, "ES384": jwt.SigningMethodES384, "ES512": jwt.SigningMethodES512,
	"EdDSA": jwt.SigningMethodEdDSA,
}

func pss(name string, hash crypto.Hash) jwt.SigningMethod {
	return &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: &jwt.SigningMethodRSA{Name: name, Hash: hash},
		Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
	}
}

// Verify judges the token of a credential: form, algorithm, issuer, key, signature, times, audience,
// subject, in this order. The error is an *outcome.Refusal with the reason of the first check that
// fails; what a token says is not believed, nor put into an answer, before its signature is
// verified. Verify waits for the network only when a token of a known issuer names an unknown key,
// for refetchWait at most, and no longer than ctx. Whether the subject can be a principal is for the
// caller to ask: where no token is needed it does not matter.
func (v *Verifier) Verify(ctx context.Context, c Credential, t Trace) (*Identity, error) {
	key := sha256.Sum256([]byte(c.Token))
	if t == nil { // else every check is to be told
		if known, ok := v.verified.Get(key); ok {
			if i := v.byName[known.identity.Issuer]; i.keys.current() == known.keys {
				if err := i.takes(c); err != nil {
					return nil, err
				}
				if err := i.current(known.identity, v.now()); err != nil {
					return nil, err
				}
				return known.identity, nil
			}
		}
	}
	id, keys, err := v.verify(ctx, c, t)
	if err != nil {
		return nil, err
	}
	v.verified.Add(key, verified{id, keys})
	return id, nil
}

// verify judges without remembering.
func (v *Verifier) verify(ctx context.Context, c Credential, t Trace) (*Identity, *jwks, error) {
	tok, err := parse(c.Token)
	if err != nil {
		return nil, nil, &outcome.Refusal{Reason: outcome.Malformed, Detail: err.Error()}
	}
	t.trace("form", "a signed JWT of %d bytes, alg %s, kid %s", len(c.Token), clip(tok.alg), clip(tok.kid))

	if !v.algorithms[tok.alg] {
		return nil, nil, &outcome.Refusal{Reason: outcome.AlgNotAllowed, Detail: "algorithm " + clip(tok.alg)}
	}
	if _, there := tok.header["crit"]; there {
		// RFC 7515 §4.1.11: what must be understood and is not. We understand no extension.
		return nil, nil, &outcome.Refusal{Reason: outcome.CritUnsupported, Detail: "the header has crit"}
	}
	i := v.byName[tok.issuer]
	if i == nil {
		return nil, nil, &outcome.Refusal{Reason: outcome.WrongIssuer, Detail: "issuer " + clip(tok.issuer)}
	}
	if !i.algorithms[tok.alg] {
		return nil, nil, &outcome.Refusal{Reason: outcome.AlgNotAllowed, Detail: fmt.Sprintf("algorithm %s for issuer %s", tok.alg, i.Issuer)}
	}
	t.trace("algorithm", "%s is allowed", tok.alg)
	if err := i.takes(c); err != nil {
		return nil, nil, err
	}
	t.trace("issuer", "%s", i.Issuer)

	keys, err := i.check(ctx, tok, t)
	if err != nil {
		return nil, nil, err
	}
	id := &Identity{
		Issuer: tok.issuer, Subject: tok.subject, Claims: tok.claims, Expiry: tok.expires, ForwardToken: i.ForwardOriginalToken,
	}
	if err := i.times(tok, id, v.now(), t); err != nil {
		return nil, nil, err
	}
	if err := i.intended(tok, t); err != nil {
		return nil, nil, err
	}
	if id.HasPrincipal() {
		t.trace("subject", "%s", clip(id.Subject))
	} else {
		t.trace("subject", "%s cannot be a principal", clip(id.Subject))
	}
	return id, keys, nil
}

// takes says whether a token of this issuer may sit where it was found. Places are searched for all issuers together, as the issuer is
// not known before; one that the token's own issuer does not list is another issuer's.
func (i *issuer) takes(c Credential) error {
	if len(c.Places) == 0 || slices.ContainsFunc(c.Places, func(p string) bool { return i.places[p] }) {
		return nil
	}
	return &outcome.Refusal{Reason: outcome.WrongIssuer, Detail: fmt.Sprintf("issuer %s has no tokens in %s", i.Issuer, c.Places[0])}
}

// check verifies the signature with the issuer's keys and gives the set it has verified with.
func (i *issuer) check(ctx context.Context, tok *token, t Trace) (*jwks, error) {
	set := i.keys.current()
	if set == nil {
		return nil, i.unavailable()
	}
	keys, refusal := set.find(tok.alg, tok.kid)
	if refusal != nil && refusal.Reason == outcome.UnknownKey && tok.kid != "" {
		if set = i.keys.refetch(ctx); set == nil {
			return nil, i.unavailable()
		}
		keys, refusal = set.find(tok.alg, tok.kid)
	}
	if refusal != nil {
		return nil, refusal
	}
	t.trace("key", "%d of the issuer's %d keys may have signed", len(keys), set.usable())
	if !signedByOne(tok, keys) {
		return nil, &outcome.Refusal{Reason: outcome.BadSignature, Detail: fmt.Sprintf("no key that may have signed verifies it (%d tried)", len(keys))}
	}
	t.trace("signature", "good")
	return set, nil
}

// signedByOne says whether one of the keys has made the token's signature.
func signedByOne(tok *token, keys []jwk) bool {
	return slices.ContainsFunc(keys, func(k jwk) bool {
		return methods[tok.alg].Verify(tok.signed, tok.signature, k.public) == nil
	})
}

func (i *issuer) unavailable() error {
	why := "not asked yet"
	if s := i.keys.state(); s.LastError != "" {
		why = s.LastError
	}
	return &outcome.Refusal{Reason: outcome.JWKSUnavailable, Detail: "no keys of issuer " + i.Issuer + ": " + why}
}

// times looks at exp and nbf (RFC 7519 §4.1.4, §4.1.5); clocks may differ by the skew, inclusively.
func (i *issuer) times(tok *token, id *Identity, now time.Time, t Trace) error {
	switch {
	case tok.neverValid:
		return &outcome.Refusal{Reason: outcome.Expired, Detail: "exp is 0"}
	case id.Expiry.IsZero() && i.RequireExpiration:
		return &outcome.Refusal{Reason: outcome.NoExpiry, Detail: "no exp"}
	case !id.Expiry.IsZero():
		id.Deadline = id.Expiry.Add(i.ClockSkew)
	}
	if err := i.current(id, now); err != nil {
		return err
	}
	if now.Before(tok.notBefore.Add(-i.ClockSkew)) {
		return &outcome.Refusal{Reason: outcome.NotYetValid, Detail: "not before " + stamp(tok.notBefore)}
	}
	if id.Expiry.IsZero() {
		t.trace("times", "never expires")
	} else {
		t.trace("times", "expires at %s, skew %s", stamp(id.Expiry), i.ClockSkew)
	}
	return nil
}

// current returns a refusal when the deadline has passed.
func (i *issuer) current(id *Identity, now time.Time) error {
	if !id.Deadline.IsZero() && now.After(id.Deadline) {
		return &outcome.Refusal{Reason: outcome.Expired, Detail: fmt.Sprintf("expired at %s, skew %s", stamp(id.Expiry), i.ClockSkew)}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// intended looks at aud: one of the configured ones must be there, if any are.
func (i *issuer) intended(tok *token, t Trace) error {
	if len(i.audiences) == 0 {
		t.trace("audience", "not asked for")
		return nil
	}
	for _, aud := range tok.audience {
		if slices.Contains(i.audiences, bareAudience(aud)) {
			t.trace("audience", "%s", aud)
			return nil
		}
	}
	return &outcome.Refusal{Reason: outcome.WrongAudience, Detail: fmt.Sprintf("audience is none of %q", i.Audiences)}
}

// bareAudience is an audience as Envoy compares it: without http:// or https:// and without one slash at the end.
func bareAudience(s string) string {
	if bare, ok := strings.CutPrefix(s, "https://"); ok {
		s = bare
	} else {
		s = strings.TrimPrefix(s, "http://")
	}
	return strings.TrimSuffix(s, "/")
}
