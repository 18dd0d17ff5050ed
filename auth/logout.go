package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// logoutEvent is the event of a logout token (OpenID Connect Back-Channel Logout 1.0, §2.4).
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// maxLogoutLife is how far exp may be from iat in a logout token. The specification asks for two
// minutes; some providers give it the life of an ID token.
const maxLogoutLife = 24 * time.Hour

// Logout is what a logout token says: the revocation that follows from it, and the token itself,
// which counts once.
type Logout struct {
	Revocation
	// Token is the claim jti, and Expires when the token is refused for its age.
	Token   string
	Expires time.Time
}

// Logout judges a logout token (OpenID Connect Back-Channel Logout 1.0, §2.6) by the keys of its
// own issuer. The error is an *outcome.Refusal. Whether the token was used before is for Spent to
// say.
func (v *Verifier) Logout(ctx context.Context, text string, client netip.Addr) (Logout, error) {
	tok, err := v.read(text, nil)
	if err != nil {
		return Logout{}, err
	}
	switch typ := tok.mediaType(); typ { // explicit typing is recommended, and not what all providers do
	case "", "jwt", "logout+jwt":
	default:
		return Logout{}, outcome.Refuse(outcome.WrongType, "a token of type "+outcome.Brief(typ)+" is not for logout")
	}
	i, err := v.signer(tok)
	if err != nil {
		return Logout{}, err
	}
	audiences := i.LogoutAudiences
	if len(audiences) == 0 {
		audiences = i.Audiences
	}
	if len(audiences) == 0 {
		return Logout{}, badLogout("neither logoutAudiences nor audiences are configured: the logout may be another client's")
	}
	if _, err := i.check(ctx, tok, client, nil); err != nil {
		return Logout{}, err
	}
	c, err := tok.content()
	if err != nil {
		return Logout{}, outcome.Refuse(outcome.Malformed, err.Error())
	}
	if err := intended(c.audience, audiences, nil); err != nil {
		return Logout{}, err
	}
	return i.logout(c, v.now())
}

// logout reads the claims of a logout token that its issuer has signed for us.
func (i *issuer) logout(c content, now time.Time) (Logout, error) {
	issued, err := dateOf("iat", c.raw("iat"))
	if err != nil {
		return Logout{}, outcome.Refuse(outcome.Malformed, err.Error())
	}
	jti, _ := c.text("jti") // a string: content has looked
	sid, err := c.text("sid")
	switch {
	case err != nil:
		return Logout{}, badLogout(err.Error())
	case !isLogout(c.raw("events")):
		return Logout{}, badLogout("events does not name a back-channel logout")
	case c.raw("nonce") != "":
		return Logout{}, badLogout("nonce is there, as in an ID token")
	case jti == "":
		return Logout{}, badLogout("jti is missing")
	case c.subject == "" && sid == "":
		return Logout{}, badLogout("neither sub nor sid is there")
	case len(jti) > maxName || len(sid) > maxName || len(c.subject) > maxName:
		return Logout{}, badLogout("a name is too long")
	case issued.IsZero():
		return Logout{}, badLogout("iat is missing")
	case c.expires.IsZero():
		return Logout{}, badLogout("exp is missing")
	case c.expires.Before(issued) || c.expires.After(issued.Add(maxLogoutLife)):
		return Logout{}, badLogout(fmt.Sprintf("exp is not within %s after iat", maxLogoutLife))
	case now.Before(issued.Add(-i.ClockSkew)):
		return Logout{}, &outcome.Refusal{Reason: outcome.NotYetValid, Detail: "issued at " + stamp(issued)}
	}
	id := &Identity{Expiry: c.expires}
	if err := i.times(c, id, now, nil); err != nil {
		return Logout{}, err
	}
	l := Logout{Token: jti, Expires: id.Deadline}
	l.Revocation = Revocation{Issuer: i.Issuer, SID: sid, Logout: true, Until: now.Add(defaultUntil)}
	if sid == "" {
		// Whatever was issued in the second of the logout, too: most issuers round to seconds.
		l.Subject, l.IssuedBefore = c.subject, issued.Truncate(time.Second).Add(time.Second)
	}
	return l, nil
}

func badLogout(why string) error { return outcome.Refuse(outcome.BadLogout, why) }

// isLogout reports whether the value of a claim events has the event of a logout.
func isLogout(events string) bool {
	if events == "" || events[0] != '{' {
		return false
	}
	event, err := pick(events, logoutEvent)
	return err == nil && event[0] != "" && event[0][0] == '{'
}

// maxSpent is how many logout tokens are remembered. A token that is forgotten before its time
// ends no session that its first use has not ended.
const maxSpent = 100_000

// Spent are the logout tokens that were used. The methods may be used concurrently.
type Spent struct {
	mu  sync.Mutex
	now func() time.Time
	lru *simplelru.LRU[string, time.Time]
}

// NewSpent returns an empty set.
func NewSpent() *Spent {
	lru, _ := simplelru.NewLRU[string, time.Time](maxSpent, nil) // it fails only for a size below 1
	return &Spent{now: time.Now, lru: lru}
}

// Use remembers a logout token until it expires, and reports whether it was not used before.
func (s *Spent) Use(l Logout) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := l.Key()
	if until, used := s.lru.Peek(key); used && !s.now().After(until) {
		return false
	}
	s.lru.Add(key, l.Expires)
	return true
}

// Forget makes a logout token usable again, because it could not be followed.
func (s *Spent) Forget(l Logout) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Remove(l.Key())
}

// Key returns the name under which the token is remembered, here and by other replicas.
func (l Logout) Key() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", l.Issuer, l.Token))
	return hex.EncodeToString(sum[:16])
}
