package auth

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Rules are the claims that a caller must have; all of them.
type Rules struct {
	v       *Verifier
	entries []rule
}

// rule asks one claim for one of several values.
type rule struct {
	config.RequiredClaim
	own bool // a route's own: its names are filled in
}

// Rules returns the global rules, those of the caller's issuer, and a route's own: all are asked.
func (v *Verifier) Rules(own config.RequiredClaims) Rules {
	r := Rules{v: v}
	for _, c := range v.required {
		r.entries = append(r.entries, rule{c, false})
	}
	for _, c := range own {
		r.entries = append(r.entries, rule{c, true})
	}
	return r
}

// Check returns nil if id has what the rules ask for; names are those of the route. The error is
// an *outcome.Refusal: ClaimMismatch, or WrongIssuer when no such issuer is configured. Claims are
// compared as Istio compares request.auth.claims: strings and lists of strings only,
// case-sensitive.
func (r Rules) Check(id *Identity, names config.Names, t Trace) error {
	i := r.v.issuerOf(id)
	if i == nil {
		return r.v.strange(id.Issuer)
	}
	for _, rule := range slices.Concat(r.entries, i.required) {
		held, wanted := i.texts(rule.Claim, id.Claims), rule.wanted(names)
		n := slices.IndexFunc(wanted, func(want string) bool { return fits(want, held) })
		if n < 0 {
			return &outcome.Refusal{Reason: outcome.ClaimMismatch,
				Detail: fmt.Sprintf("claim %s has %s, which is none of %q", outcome.Brief(rule.Claim), shown(held), wanted)}
		}
		t.trace("rule", "claim %s has %s", rule.Claim, wanted[n])
	}
	return nil
}

// wanted are the values of which one must match.
func (r rule) wanted(names config.Names) []string {
	if !r.own || len(names) == 0 {
		return r.Values
	}
	values := make([]string, len(r.Values))
	for n, v := range r.Values {
		values[n] = names.Fill(v)
	}
	return values
}

// shown returns the value of a claim for a log line.
func shown(held []string) string {
	const most = 8
	if len(held) == 0 {
		return "no text"
	}
	var words []string
	for _, s := range held[:min(len(held), most)] {
		words = append(words, outcome.Quote(s))
	}
	if len(held) > most {
		words = append(words, "…")
	}
	return strings.Join(words, ", ")
}

// texts returns the strings that a claim holds. A number, a boolean, an object and what is in a
// list inside a list are none.
func (i *issuer) texts(name string, claims Claims) (out []string) {
	switch v := decodeValue(cmp.Or(claims.raw(name), claims.nested(name))).(type) {
	case string:
		if !slices.Contains(i.SpaceDelimitedClaims, name) {
			return []string{v}
		}
		for part := range strings.SplitSeq(v, " ") {
			if part != "" {
				out = append(out, part)
			}
		}
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// fits reports whether one of the texts is wanted: * is any text that is not empty and has no
// line break, abc* and *abc are prefix and suffix, all else is exact.
func fits(want string, held []string) bool {
	for _, have := range held {
		var ok bool
		if want == "*" {
			ok = have != "" && !strings.Contains(have, "\n")
		} else if suffix, is := strings.CutPrefix(want, "*"); is {
			ok = strings.HasSuffix(have, suffix)
		} else if prefix, is := strings.CutSuffix(want, "*"); is {
			ok = strings.HasPrefix(have, prefix)
		} else {
			ok = have == want
		}
		if ok {
			return true
		}
	}
	return false
}
