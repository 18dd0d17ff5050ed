package auth

import (
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Admits returns the identity of a live session's caller as these rules see it, without its token.
// It does not ask the clock: whether the token is valid still was settled when the session got its
// expiry, and no session ends because a clock setting was changed. The error is an
// *outcome.Refusal.
func (v *Verifier) Admits(id *Identity) (*Identity, error) {
	if err := v.Unrevoked(id); err != nil {
		return nil, err
	}
	if id.ClientKey != "" && v.clients != nil {
		return v.clients.again(id)
	}
	i := v.byName[id.Issuer]
	if i == nil {
		return nil, v.strange(id.Issuer)
	}
	c, err := readContent(id.Claims.JSON())
	if err != nil {
		return nil, outcome.Refuse(outcome.InternalError, "claims: "+err.Error()) // cannot be: they were verified
	}
	if c.expires.IsZero() && i.RequireExpiration {
		return nil, outcome.Refuse(outcome.NoExpiry, "no exp")
	}
	if err := intended(c.audience, i.Audiences, nil); err != nil {
		return nil, err
	}
	now := *id
	now.Subject, now.ForwardToken = i.principal(c), i.ForwardOriginalToken
	return &now, nil
}

// Vouched returns the identity of a caller whom another replica has verified. The signature is not
// there any more and is not asked for; everything else is judged as Verify does. For a client key
// clientKey is its hash, and the claims are those of the file. The error is an *outcome.Refusal.
func (v *Verifier) Vouched(issuer, claims, clientKey string) (*Identity, error) {
	return v.unrevoked(v.vouched(issuer, claims, clientKey))
}

func (v *Verifier) vouched(issuer, claims, clientKey string) (*Identity, error) {
	if clientKey != "" && v.clients != nil {
		return v.clients.vouched(clientKey, v.now())
	}
	i := v.byName[issuer]
	if i == nil {
		return nil, v.strange(issuer)
	}
	c, err := readContent(claims)
	if err != nil {
		return nil, outcome.Refuse(outcome.Malformed, err.Error())
	}
	return i.judge(c, v.now(), nil)
}
