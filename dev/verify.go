package dev

import (
	"context"
	"fmt"
	"strings"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// Verify verifies a token and returns its subject.
type Verify func(token string) (subject string, err error)

// NewVerify returns what an agent that trusts no header does with the token that the gateway
// forwards: it verifies it again, with the keys that the issuer publishes at /keys. It fetches
// the keys now, every hour, and when a token names an unknown one, until ctx ends.
func NewVerify(ctx context.Context, issuer, audience string) (Verify, error) {
	keys, err := keyfunc.NewDefaultCtx(ctx, []string{strings.TrimSuffix(issuer, "/") + "/keys"})
	if err != nil {
		return nil, fmt.Errorf("keys of the issuer: %w", err)
	}
	algorithms := []string{"ES256", "RS256", "EdDSA"} // never HMAC: a public key is no secret
	return func(token string) (string, error) {
		var claims jwt.RegisteredClaims
		_, err := jwt.ParseWithClaims(token, &claims, keys.Keyfunc, jwt.WithValidMethods(algorithms),
			jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired())
		return claims.Subject, err
	}, nil
}
