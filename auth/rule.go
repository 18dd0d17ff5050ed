package auth

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
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
	claim  string
	wanted []scalar
	own    bool // a route's own: its names are filled in
}

// newRules compiles rules; own says that they are a route's.
func newRules(claims config.RequiredClaims, own bool) (rules []rule) {
	for _, c := range claims {
		r := rule{claim: c.Claim, own: own}
		for _, value := range c.Values {
			if s, ok := newScalar(value); ok {
				r.wanted = append(r.wanted, s)
			}
		}
		rules = append(rules, r)
	}
	return rules
}

// Rules returns the global rules, those of the caller's issuer, and a route's own: all are asked.
func (v *Verifier) Rules(own config.RequiredClaims) Rules {
	return Rules{v: v, entries: append(newRules(v.required, false), newRules(own, true)...)}
}

// Check returns nil if id has what the rules ask for; names are those of the route. The error is
// an *outcome.Refusal: ClaimMismatch, or WrongIssuer when no such issuer is configured. Texts are
// compared as Istio compares request.auth.claims, case-sensitive; booleans and numbers, which
// Istio does not know, by their value. A claim that is a list has what one of its elements is.
func (r Rules) Check(id *Identity, names config.Names, t Trace) error {
	i := r.v.issuerOf(id)
	if i == nil {
		return r.v.strange(id.Issuer)
	}
	for _, rule := range slices.Concat(r.entries, i.required) {
		held, wanted := i.held(rule.claim, id.Claims), rule.wantedFor(names)
		n := slices.IndexFunc(wanted, func(want scalar) bool { return slices.ContainsFunc(held.scalars, want.fits) })
		if n < 0 {
			return outcome.Refuse(outcome.ClaimMismatch, "claim "+outcome.Brief(rule.claim)+" "+held.against(wanted))
		}
		t.trace("rule", "claim %s has %s", rule.claim, wanted[n].brief())
	}
	return nil
}

// wantedFor are the values of which one must match.
func (r rule) wantedFor(names config.Names) []scalar {
	if !r.own || len(names) == 0 {
		return r.wanted
	}
	values := slices.Clone(r.wanted)
	for n := range values {
		if values[n].kind == textKind {
			values[n].text = names.Fill(values[n].text)
		}
	}
	return values
}

// kind is what a scalar is.
type kind string

const (
	textKind    kind = "text"
	booleanKind kind = "boolean"
	numberKind  kind = "number"
)

// scalar is a text, a boolean or a number, of a claim or of a rule.
type scalar struct {
	kind kind
	text string // of a number all its digits, so that 3, 3.0 and 30e-1 are one
}

// newScalar returns what a value of JSON is, and false for null, a list, an object, and a number
// of too many digits.
func newScalar(value any) (scalar, bool) {
	switch v := value.(type) {
	case string:
		return scalar{textKind, v}, true
	case bool:
		return scalar{booleanKind, strconv.FormatBool(v)}, true
	case json.Number:
		digits, err := plainNumber(v.String())
		return scalar{numberKind, digits}, err == nil
	}
	return scalar{}, false
}

// fits reports whether have is what s wants. Of texts, * is any that is not empty and has no line
// break, abc* and *abc are prefix and suffix, all else is exact.
func (s scalar) fits(have scalar) bool {
	if s.kind != have.kind {
		return false
	}
	if s.kind != textKind {
		return s == have
	}
	if s.text == "*" {
		return have.text != "" && !strings.Contains(have.text, "\n")
	}
	if suffix, is := strings.CutPrefix(s.text, "*"); is {
		return strings.HasSuffix(have.text, suffix)
	}
	if prefix, is := strings.CutSuffix(s.text, "*"); is {
		return strings.HasPrefix(have.text, prefix)
	}
	return have == s
}

// looksLike reports whether have is what s wants, but for its kind.
func (s scalar) looksLike(have scalar) bool {
	if s.kind == have.kind {
		return false
	}
	return s.spelling() == have.spelling() || s.kind == textKind && s.text == "*"
}

// spelling is the text of a scalar; of a text that is a number, that of the number.
func (s scalar) spelling() string {
	var n json.Number
	if s.kind == textKind && json.Unmarshal([]byte(s.text), &n) == nil && n != "" {
		if same, ok := newScalar(n); ok {
			return same.text
		}
	}
	return s.text
}

// brief is a wanted scalar for explain.
func (s scalar) brief() string {
	if s.kind == textKind {
		return s.text
	}
	return s.named()
}

// named is a scalar with its kind, for a message.
func (s scalar) named() string {
	if s.kind == textKind && s.text == "*" {
		return "a text, whatever it is"
	}
	return fmt.Sprintf("the %s %s", s.kind, outcome.Clip(s.text))
}

// quoted is a scalar as a file would have it.
func (s scalar) quoted() string {
	if s.kind == textKind {
		return outcome.Quote(s.text)
	}
	return outcome.Clip(s.text)
}

// held is what a claim has that a rule can ask for.
type held struct {
	scalars []scalar
	what    string // the claim is: missing, a list, …
}

// held returns what a claim has. What is in a list inside a list does not count.
func (i *issuer) held(name string, claims Claims) held {
	raw := cmp.Or(claims.raw(name), claims.nested(name))
	if raw == "" {
		return held{what: "missing"}
	}
	switch v := decodeValue(raw).(type) {
	case nil:
		return held{what: "null"}
	case map[string]any:
		return held{what: "an object"}
	case string:
		if !i.Splits(name) {
			return held{scalars: []scalar{{textKind, v}}}
		}
		h := held{what: "a text of spaces"}
		for part := range strings.SplitSeq(v, " ") {
			if part != "" {
				h.scalars = append(h.scalars, scalar{textKind, part})
			}
		}
		return h
	case []any:
		h := held{what: "a list without text, boolean or number"}
		for _, e := range v {
			if s, ok := newScalar(e); ok {
				h.scalars = append(h.scalars, s)
			}
		}
		return h
	default:
		s, ok := newScalar(v)
		if !ok {
			return held{what: "a number of too many digits"}
		}
		return held{scalars: []scalar{s}}
	}
}

// against tells why none of the wanted values is there.
func (h held) against(wanted []scalar) string {
	for _, have := range h.scalars {
		for _, want := range wanted {
			if want.looksLike(have) {
				verb := "is"
				if len(h.scalars) > 1 {
					verb = "has"
				}
				return fmt.Sprintf("%s %s; this rule wants %s", verb, have.named(), want.named())
			}
		}
	}
	if len(h.scalars) == 0 {
		return fmt.Sprintf("is %s; this rule wants one of [%s]", h.what, strings.Join(quoted(wanted), " "))
	}
	const most = 8
	words := quoted(h.scalars[:min(len(h.scalars), most)])
	if len(h.scalars) > most {
		words = append(words, "…")
	}
	return fmt.Sprintf("has %s, which is none of [%s]", strings.Join(words, ", "), strings.Join(quoted(wanted), " "))
}

func quoted(scalars []scalar) (words []string) {
	for _, s := range scalars {
		words = append(words, s.quoted())
	}
	return words
}
