package auth

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// methods verify signatures. Those of PS are our own: golang-jwt's accept a salt of any length,
// RFC 7518 §3.5 that of the hash only.
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

// Verify judges the token of a credential: form, algorithm, issuer, key, signature, times,
// audience, subject, revocations, in this order. The error is an *outcome.Refusal with the reason
// of the first check that fails; what a token says is not believed, nor put into an answer, before
// its signature is verified. Verify waits for the network only when a token of a known issuer
// names an unknown key, for refetchWait at most, and no longer than ctx. Whether the subject can
// be a principal is for the caller to ask: where no token is needed it does not matter.
func (v *Verifier) Verify(ctx context.Context, c Credential, t Trace) (*Identity, error) {
	return v.unrevoked(v.identify(ctx, c, t))
}

// Unrevoked returns a refusal if a revocation bars the caller now.
func (v *Verifier) Unrevoked(id *Identity) error {
	if by := v.revoked.Barring(id); by != "" {
		return outcome.Refuse(outcome.Revoked, "by revocation "+by)
	}
	return nil
}

// unrevoked takes what has verified a caller, and refuses one that a revocation bars.
func (v *Verifier) unrevoked(id *Identity, err error) (*Identity, error) {
	if err == nil {
		err = v.Unrevoked(id)
	}
	if err != nil {
		return nil, err
	}
	return id, nil
}

// Knows returns why no caller of an issuer can be let in, or nil.
func (v *Verifier) Knows(issuer string) error {
	if v.issuerOf(&Identity{Issuer: issuer}) == nil {
		return v.strange(issuer)
	}
	return nil
}

// identify is Verify without the revocations.
func (v *Verifier) identify(ctx context.Context, c Credential, t Trace) (*Identity, error) {
	if v.clients.judges(c) {
		return v.clients.verify(c.Token, v.now(), t)
	}
	small := len(c.Token) <= maxRemembered
	var key digest
	if small {
		key = sha256.Sum256([]byte(c.Token))
	}
	if small && t == nil { // else every check is to be told
		if known, ok := v.cache.get(key); ok {
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
	if small {
		v.cache.add(key, verified{id, keys})
	}
	return id, nil
}

// verify judges without remembering. A stranger's token must not cost more than its signature, so
// its claims are read only once that is good.
func (v *Verifier) verify(ctx context.Context, c Credential, t Trace) (*Identity, *jwks, error) {
	tok, err := v.read(c.Token, t)
	if err != nil {
		return nil, nil, err
	}
	if typ := tok.notAccess(); typ != "" {
		return nil, nil, notForAccess(typ)
	}
	i, err := v.signer(tok)
	if err != nil {
		return nil, nil, err
	}
	t.trace("algorithm", "%s is allowed", tok.alg)
	if err := i.takes(c); err != nil {
		return nil, nil, err
	}
	t.trace("issuer", "%s", i.Issuer)

	keys, err := i.check(ctx, tok, c.Client, t)
	if err != nil {
		return nil, nil, err
	}
	content, err := tok.content()
	if err != nil {
		return nil, nil, outcome.Refuse(outcome.Malformed, err.Error())
	}
	if isLogout(content.raw("events")) { // whatever its type: it may be for the same audience
		return nil, nil, notForAccess("logout+jwt")
	}
	id, err := i.judge(content, v.now(), t)
	if err == nil {
		i.keys.visitors.saw(visitor{c.Client, content.subject})
	}
	return id, keys, err
}

// read looks at the form of a token, and at what no issuer can make up for.
func (v *Verifier) read(text string, t Trace) (*token, error) {
	if n := len(text); n > v.maxToken {
		return nil, outcome.Refuse(outcome.Malformed, fmt.Sprintf("%d bytes, more than %d (limits.maxTokenBytes)", n, v.maxToken))
	}
	tok, err := parse(text)
	if err != nil {
		if v.clients != nil && isOpaque(text) {
			return nil, outcome.Refuse(outcome.Malformed, "it is no JWT, and a client key counts in Authorization: Bearer alone")
		}
		return nil, outcome.Refuse(outcome.Malformed, err.Error())
	}
	t.trace("form", "a signed JWT of %d bytes, alg %s, kid %s", len(text), outcome.Brief(tok.alg), outcome.Brief(tok.kid))

	if len(v.issuers) == 0 { // client keys alone
		return nil, v.strange(tok.issuer)
	}
	if !v.algorithms[tok.alg] {
		return nil, v.refuseAlgorithm(tok)
	}
	if tok.protected[2] != "" {
		// RFC 7515 §4.1.11: what must be understood and is not. We understand no extension.
		return nil, &outcome.Refusal{Reason: outcome.CritUnsupported, Detail: "the header has crit"}
	}
	return tok, nil
}

// signer returns the issuer that a token names, if it may sign so.
func (v *Verifier) signer(tok *token) (*issuer, error) {
	i := v.byName[tok.issuer]
	if i == nil {
		return nil, v.strange(tok.issuer)
	}
	if !i.algorithms[tok.alg] {
		return nil, v.refuseAlgorithm(tok)
	}
	return i, nil
}

// refuseAlgorithm refuses a token for its algorithm, and tells what to do.
func (v *Verifier) refuseAlgorithm(tok *token) error {
	i := v.byName[tok.issuer]
	if i == nil && len(v.issuers) == 1 {
		i = v.issuers[0]
	}
	why := ""
	switch upper := strings.ToUpper(tok.alg); {
	case upper == "NONE":
		why = "is never accepted: such a token is not signed"
	case upper == "HS256" || upper == "HS384" || upper == "HS512":
		why = "is never accepted, nor is another of HS256, HS384 and HS512: who can verify with their shared secret can also sign"
	case methods[tok.alg] == nil:
		why = "is not supported"
	case i != nil:
		return outcome.Refuse(outcome.AlgNotAllowed, fmt.Sprintf("algorithm %s is not in the list algorithms of issuer %s, which is %v; "+
			"add it there, or have the issuer sign with one of these", tok.alg, outcome.Quote(i.Issuer), i.Algorithms))
	default:
		return outcome.Refuse(outcome.AlgNotAllowed, fmt.Sprintf("algorithm %s is in the list algorithms of none of %d issuers; "+
			"add it to that of the token's issuer", tok.alg, len(v.issuers)))
	}
	return outcome.Refuse(outcome.AlgNotAllowed,
		fmt.Sprintf("algorithm %s %s; have the issuer sign with RS256, ES256 or EdDSA", outcome.Brief(tok.alg), why))
}

// notForAccess refuses a token of a type that is for another purpose.
func notForAccess(typ string) error {
	return outcome.Refuse(outcome.WrongType, "a token of type "+outcome.Brief(typ)+" is not for access")
}

// strange refuses a token of an issuer that is not configured, and tells which one may be meant.
func (v *Verifier) strange(name string) error {
	given := "the token's issuer is " + outcome.Quote(name)
	if name == "" {
		given = "the token names no issuer"
	}
	for _, i := range v.issuers {
		if how := difference(name, i.Issuer); how != "" {
			return outcome.Refuse(outcome.WrongIssuer, "configured is "+outcome.Quote(i.Issuer)+", which "+how+"; "+given)
		}
	}
	switch n := len(v.issuers); n {
	case 0:
		given = "no issuer is configured; " + given
	case 1:
		given = "configured is " + outcome.Quote(v.issuers[0].Issuer) + "; " + given
	default:
		given = fmt.Sprintf("configured is %s, and %d more; %s", outcome.Quote(v.issuers[0].Issuer), n-1, given)
	}
	return outcome.Refuse(outcome.WrongIssuer, given)
}

// difference tells how a configured issuer differs from one that it is nearly, or returns "".
func difference(name, configured string) string {
	bare := func(s string) string { return strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://") }
	switch {
	case name == "":
		return ""
	case configured == name+"/":
		return "ends in a slash"
	case configured+"/" == name:
		return "does not end in a slash"
	case strings.EqualFold(configured, name):
		return "differs in upper and lower case"
	case bare(configured) == bare(name):
		return "differs in http and https"
	case strings.TrimSpace(configured) == strings.TrimSpace(name):
		return "differs in white space"
	case strings.HasPrefix(name, configured):
		return "is only its beginning"
	case strings.HasPrefix(configured, name):
		return "is longer"
	}
	return ""
}

// judge makes an identity of claims whose signature is good, if their times and audience are.
func (i *issuer) judge(c content, now time.Time, t Trace) (*Identity, error) {
	id := &Identity{Issuer: i.Issuer, Subject: i.principal(c), Claims: c.Claims, Expiry: c.expires, ForwardToken: i.ForwardOriginalToken}
	if err := i.times(c, id, now, t); err != nil {
		return nil, err
	}
	if err := intended(c.audience, i.Audiences, t); err != nil {
		return nil, err
	}
	if id.HasPrincipal() { // else it is for Principal to tell, where one is needed
		t.trace("subject", "%s", outcome.Brief(id.Subject))
	}
	return id, nil
}

// principal returns who a token is about: the first of principalClaim that is there and not empty.
func (i *issuer) principal(c content) string {
	for _, name := range i.PrincipalClaim {
		if s, _ := decodeValue(cmp.Or(c.raw(name), c.nested(name))).(string); s != "" {
			return s
		}
	}
	return ""
}

// Principal returns a refusal if a caller that was verified has no subject that can be a principal.
func (v *Verifier) Principal(id *Identity) error {
	if id.HasPrincipal() {
		return nil
	}
	i := v.issuerOf(id)
	if i == nil {
		return v.strange(id.Issuer)
	}
	const key = "; the issuer's key principalClaim names what the gateway looks for"
	if id.Subject != "" {
		return outcome.Refuse(outcome.NoPrincipal, "the user is "+outcome.Quote(id.Subject)+", of the claim "+
			strings.Join(i.PrincipalClaim, " or ")+", with white space at an end or a line break"+key)
	}
	return outcome.Refuse(outcome.NoPrincipal, "the token has no user: the claim "+strings.Join(i.PrincipalClaim, " or ")+
		" is missing, empty or no text"+key)
}

// takes returns a refusal when a token of this issuer may not sit where it was found. Places are
// searched for all issuers together, because the issuer is not known before; a place that the
// token's own issuer does not list is another issuer's.
func (i *issuer) takes(c Credential) error {
	if len(c.Places) == 0 || slices.ContainsFunc(c.Places, func(p string) bool { return i.places[p] }) {
		return nil
	}
	return &outcome.Refusal{Reason: outcome.WrongIssuer, Detail: fmt.Sprintf("issuer %s has no tokens in %s", i.Issuer, c.Places[0])}
}

// check verifies the signature with the issuer's keys and returns the set that it has used.
func (i *issuer) check(ctx context.Context, tok *token, client netip.Addr, t Trace) (*jwks, error) {
	set := i.keys.current()
	if set == nil {
		return nil, i.unavailable()
	}
	tried, refusal := set.verify(tok)
	if refusal != nil {
		// After a rotation the issuer has keys that we have not, perhaps under a kid that we know.
		newer := i.keys.refetch(ctx, func() visitor { return visitor{client, tok.subject()} })
		if newer == nil {
			return nil, i.unavailable()
		}
		if newer != set {
			set = newer
			tried, refusal = set.verify(tok)
		}
	}
	if tried > 0 {
		t.trace("key", "%d of the issuer's %d keys may have signed", tried, len(set.keys))
	}
	if refusal != nil {
		return nil, refusal
	}
	t.trace("signature", "good")
	return set, nil
}

// verify looks for a key that verifies the signature. It returns how many were tried.
func (s *jwks) verify(tok *token) (tried int, refusal *outcome.Refusal) {
	keys, refusal := s.find(tok.alg, tok.kid)
	if refusal == nil && !signedByOne(tok, keys) {
		refusal = outcome.Refuse(outcome.BadSignature,
			fmt.Sprintf("none of the matching keys verifies the signature (%d tried)", len(keys)))
	}
	return len(keys), refusal
}

// signedByOne reports whether one of the keys has made the token's signature.
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

// times looks at exp and nbf (RFC 7519 §4.1.4, §4.1.5). Clocks may differ by the skew,
// inclusively.
func (i *issuer) times(c content, id *Identity, now time.Time, t Trace) error {
	switch {
	case c.neverValid:
		return &outcome.Refusal{Reason: outcome.Expired, Detail: "exp is 0"}
	case id.Expiry.IsZero() && i.RequireExpiration:
		return &outcome.Refusal{Reason: outcome.NoExpiry, Detail: "no exp"}
	case !id.Expiry.IsZero():
		id.Deadline = id.Expiry.Add(i.ClockSkew)
	}
	if err := i.current(id, now); err != nil {
		return err
	}
	if now.Before(c.notBefore.Add(-i.ClockSkew)) {
		return &outcome.Refusal{Reason: outcome.NotYetValid, Detail: "not before " + stamp(c.notBefore)}
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

// intended looks at aud: one of those that are wanted must be there, if any are.
func intended(audience, wanted []string, t Trace) error {
	if len(wanted) == 0 {
		t.trace("audience", "not asked for")
		return nil
	}
	for _, aud := range audience {
		bare := bareAudience(aud)
		if slices.ContainsFunc(wanted, func(w string) bool { return bareAudience(w) == bare }) {
			t.trace("audience", "%s", aud)
			return nil
		}
	}
	return &outcome.Refusal{Reason: outcome.WrongAudience, Detail: fmt.Sprintf("%s; needed is one of %q", heard(audience), wanted)}
}

// heard tells what a token has as audience.
func heard(audience []string) string {
	const most = 8
	if len(audience) == 0 {
		return "the token has no aud"
	}
	var words []string
	for _, aud := range audience[:min(len(audience), most)] {
		words = append(words, outcome.Quote(aud))
	}
	if len(audience) > most {
		words = append(words, "…")
	}
	return "the token is for " + strings.Join(words, ", ")
}

// bareAudience returns an audience as Envoy compares it: without http:// or https:// and without
// one slash at the end.
func bareAudience(s string) string {
	if bare, ok := strings.CutPrefix(s, "https://"); ok {
		s = bare
	} else {
		s = strings.TrimPrefix(s, "http://")
	}
	return strings.TrimSuffix(s, "/")
}
