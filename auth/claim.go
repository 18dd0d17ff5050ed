package auth

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unsafe"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// maxDigits is how long a number may be when it is written out: 1e999999999 is eleven bytes in a
// token.
const maxDigits = 1024

// Claims are the claims of a token: its payload, kept as the text that it is and decoded where a
// rule or a header asks. Text takes a tenth of the memory that maps of it take, and can be kept
// and judged again. The zero value has no claim.
type Claims struct {
	json    string
	members []member // of the object, in order; their text is a part of json
}

// parseClaims reads one JSON object that no two parsers read differently: no name is there
// twice, at any depth, and none is a registered name in another case.
func parseClaims(payload string) (Claims, error) {
	c := Claims{json: payload}
	err := scanUnique(payload, func(m member) error {
		c.members = append(c.members, m)
		return exactName(m.name, registered)
	})
	if err != nil {
		return Claims{}, err
	}
	c.members = slices.Clip(c.members)
	return c, nil
}

// JSON returns the claims as the token has them: one JSON object, or "".
func (c Claims) JSON() string { return c.json }

// raw returns the text of the claim's value, or "" if there is none.
func (c Claims) raw(name string) string {
	for _, m := range c.members {
		if m.name == name {
			return m.value
		}
	}
	return ""
}

// nested returns the text of the value of a claim inside a claim: realm_access.roles, or
// realm_access][roles as in Istio's request.auth.claims[a][b]. It is "" if there is none, or null.
func (c Claims) nested(name string) string {
	separator := "."
	if strings.Contains(name, "][") {
		separator = "]["
	}
	first, path, deeper := strings.Cut(name, separator)
	value := c.raw(first)
	for deeper && value != "" {
		if value[0] != '{' {
			return ""
		}
		first, path, deeper = strings.Cut(path, separator)
		found, _ := pick(value, first) // cannot fail: the text was read before
		value = found[0]
	}
	if value == "null" {
		return ""
	}
	return value
}

// memory estimates how many bytes are kept for the claims.
func (c Claims) memory() int { return len(c.json) + cap(c.members)*int(unsafe.Sizeof(member{})) }

// HeaderValue is one header that an agent is told.
type HeaderValue struct{ Name, Value string }

// Headers returns what the agent is told about id: the claims that its issuer maps to headers,
// in the order of the configuration, one value for each. A claim that is missing, null, "" or an
// empty list gives no header. The error is an *outcome.Refusal: WrongIssuer when no such issuer
// is configured, ClaimNotRepresentable for the first claim whose text cannot be a header. The
// headers that are possible are returned all the same, for paths on which no token is asked for.
func (v *Verifier) Headers(id *Identity) ([]HeaderValue, error) {
	i := v.issuerOf(id)
	if i == nil {
		return nil, v.strange(id.Issuer)
	}
	var told []HeaderValue
	var refused error
	for _, m := range i.OutputClaimToHeaders {
		text, err := headerText(decodeValue(cmp.Or(id.Claims.nested(m.Claim), id.Claims.raw(m.Claim))), m.Format)
		if err != nil {
			if refused == nil {
				refused = &outcome.Refusal{Reason: outcome.ClaimNotRepresentable,
					Detail: fmt.Sprintf("claim %s for header %s: %v", outcome.Brief(m.Claim), m.Header, err)}
			}
			continue
		}
		if text != "" {
			told = append(told, HeaderValue{m.Header, text})
		}
	}
	if i.OutputPayloadToHeader != "" { // as Envoy writes it: base64url without padding
		told = append(told, HeaderValue{i.OutputPayloadToHeader, base64.RawURLEncoding.EncodeToString([]byte(id.Claims.JSON()))})
	}
	return told, refused
}

// headerText returns a claim's text for a header, or "" if no header is to be set.
func headerText(value any, format string) (string, error) {
	text, err := claimText(value, format)
	if err != nil {
		return "", err
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return "", errors.New("a control character")
	}
	if strings.TrimSpace(text) != text {
		return "", errors.New("white space at an end, which a receiver would trim")
	}
	return text, nil
}

// claimText writes a claim out. The format is for lists and objects; a scalar is always plain.
func claimText(value any, format string) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case json.Number:
		return plainNumber(v.String())
	case []any:
		if len(v) == 0 {
			return "", nil
		}
		switch format {
		case "first":
			return claimText(v[0], "")
		case "":
			return joined(v)
		}
	case map[string]any:
		if format == "first" { // the members of an object have no order
			return "", nil
		}
	}
	text, err := compactJSON(value)
	if err == nil && format == "base64json" {
		text = base64.StdEncoding.EncodeToString([]byte(text))
	}
	return text, err
}

// joined returns a list of scalars with commas between them. Any other list, and one with a
// comma in an element, becomes JSON.
func joined(list []any) (string, error) {
	parts := make([]string, len(list))
	for n, e := range list {
		switch e.(type) {
		case string, bool, json.Number:
		default:
			return compactJSON(list)
		}
		text, err := claimText(e, "")
		if err != nil {
			return "", err
		}
		if strings.Contains(text, ",") {
			return compactJSON(list)
		}
		parts[n] = text
	}
	return strings.Join(parts, ","), nil
}

// compactJSON returns the JSON text of a value in one line: keys sorted, numbers as the token
// has them, and every control character escaped.
func compactJSON(value any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return "", err
	}
	var out strings.Builder
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		if unicode.IsControl(r) { // U+007F to U+009F, which JSON leaves alone
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.String(), nil
}

// plainNumber writes a JSON number with all its digits, without an exponent and without
// insignificant zeros.
func plainNumber(n string) (string, error) {
	unsigned, negative := strings.CutPrefix(n, "-")
	mantissa, exponent := unsigned, ""
	if i := strings.IndexAny(unsigned, "eE"); i >= 0 {
		mantissa, exponent = unsigned[:i], unsigned[i+1:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	point := len(whole) // how many of the digits are before the point
	digits := whole + fraction
	significant := strings.TrimLeft(digits, "0")
	point -= len(digits) - len(significant)
	if significant = strings.TrimRight(significant, "0"); significant == "" {
		return "0", nil
	}
	if exponent != "" {
		shift, err := strconv.Atoi(exponent)
		if err != nil || shift > maxDigits || shift < -maxDigits {
			return "", errors.New("a number with too many digits")
		}
		point += shift
	}
	if point > maxDigits || len(significant)-point > maxDigits {
		return "", errors.New("a number with too many digits")
	}
	var out string
	switch {
	case point <= 0:
		out = "0." + strings.Repeat("0", -point) + significant
	case point >= len(significant):
		out = significant + strings.Repeat("0", point-len(significant))
	default:
		out = significant[:point] + "." + significant[point:]
	}
	if negative {
		out = "-" + out
	}
	return out, nil
}
