//go:build !race

package auth

import (
	"testing"
	"time"
)

// The ratio is 2 at most; the bound leaves room for other machines.
func TestA27LargeFalseTokenCostsLittleMoreThanASmallOne(t *testing.T) {
	a := ready(t, allKeys(), nil)
	for _, key := range []string{"rsa1", "ec256", "ed25519"} {
		tokens := strangers(key)
		for name, token := range tokens {
			small, large := time.Hour, time.Hour
			for range 300 {
				small, large = min(small, refusal(t, a, tokens["small"])), min(large, refusal(t, a, token))
			}
			if ratio := float64(large) / float64(small); ratio > 2.5 {
				t.Errorf("%s, %s: %v, and %v for a small one: %.2f times", ownAlg[key], name, large, small, ratio)
			}
		}
	}
}
