package auth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// token is a JWT whose form is right (RFC 7519 §7.2, and stricter where the RFC lets a parser
// choose). It is read in two steps, so that a token without a good signature costs little: parse
// reads what is needed to find the key, content the rest of it.
type token struct {
	signed          string // header "." payload, over which the signature is made
	signature       []byte
	header, payload []byte // JSON objects

	alg, kid, issuer string
	sub              string   // the text of the claim, "" if it is missing
	protected        []string // the values of the members protected, "" for one that is missing
}

// registered are the claims that the gateway or an agent acts on (RFC 7519 §4.1), protected the
// members of the header. In any other case they are refused: a parser that folds names
// (encoding/json with a struct does, also iſſ) would read another token than we have verified.
var (
	registered = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}
	protected  = []string{"alg", "kid", "crit", "typ"}
)

// parse looks at the form of a token. The error tells what is wrong with it, without a part of it.
func parse(text string) (*token, error) {
	t, err := decodeJWS(text)
	if err != nil {
		return nil, err
	}
	if err := t.readHeader(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	found, err := glance(t.payload, "iss", "sub")
	if err == nil {
		t.sub = found[1]
		t.issuer, err = shortString("iss", found[0])
	}
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return t, nil
}

// decodeJWS takes a token apart: two dots, three parts of base64url that are not empty (RFC 7515
// §5.2). What the first two hold is not looked at.
func decodeJWS(text string) (*token, error) {
	switch n := strings.Count(text, "."); {
	case len(text) > 7 && strings.EqualFold(text[:7], "bearer "):
		return nil, errors.New("it begins with the word Bearer: give the token alone")
	case len(text) > 14 && strings.EqualFold(text[:14], "authorization:"):
		return nil, errors.New("it begins with the name of the header Authorization: give the token alone")
	case text != "" && text[0] == '{':
		return nil, errors.New("it is a JSON object, as an issuer answers: give the value of its access_token alone")
	case text != "" && (text[0] == '"' || text[0] == '\''):
		return nil, errors.New("it is in quotes: give the token without them")
	case n == 4:
		return nil, errors.New("it is encrypted (JWE, five parts): let the issuer give signed tokens")
	case text == "":
		return nil, errors.New("it is empty")
	case n == 0:
		return nil, errors.New("it is opaque, with 0 dots instead of 2: let the client ask the issuer for a JWT, which some give for an " +
			"audience only")
	case n != 2:
		return nil, fmt.Errorf("%d dots instead of 2", n)
	}
	head, rest, _ := strings.Cut(text, ".")
	body, tail, _ := strings.Cut(rest, ".")
	header, err := decodePart(head)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	payload, err := decodePart(body)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	signature, err := decodePart(tail)
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return &token{signed: text[:len(head)+1+len(body)], signature: signature, header: header, payload: payload}, nil
}

// decodePart decodes unpadded base64url whose unused bits are zero: one text for each value, so
// that a token cannot be changed and stay valid. Go's decoder skips line breaks even when it is
// strict.
func decodePart(s string) ([]byte, error) {
	if s == "" {
		return nil, errors.New("empty")
	}
	if strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0 {
		return nil, errors.New("a line break in base64url")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errors.New("not base64url without padding")
	}
	return b, nil
}

// readHeader takes out the members of the header that are acted on.
func (t *token) readHeader() error {
	found, err := glance(t.header, protected...)
	if err != nil {
		return err
	}
	t.protected = found
	if found[0] == "" {
		return errors.New("no alg")
	}
	if t.alg, err = shortString("alg", found[0]); err != nil {
		return err
	}
	t.alg = canonical(t.alg)
	t.kid, err = shortString("kid", found[1])
	return err
}

// content reads what parse has left out: the claims, and what may be odd in the header.
func (t *token) content() (content, error) {
	err := scanUnique(string(t.header), func(m member) error {
		if n := slices.Index(protected, m.name); n >= 0 && t.protected[n] == "" {
			return fmt.Errorf("%s is written with escapes", m.name)
		}
		return exactName(m.name, protected)
	})
	if err != nil {
		return content{}, fmt.Errorf("header: %w", err)
	}
	c, err := readContent(string(t.payload))
	if err == nil && c.issuer != t.issuer {
		err = errors.New("iss is there twice") // cannot be: readContent has looked
	}
	if err != nil {
		return content{}, fmt.Errorf("payload: %w", err)
	}
	return c, nil
}

// subject returns the claim sub of a token that nothing is verified of, or "".
func (t *token) subject() string {
	sub, _ := shortString("sub", t.sub)
	return sub
}

// content is the claims of a token, the registered ones taken out.
type content struct {
	Claims
	issuer, subject    string
	audience           []string
	expires, notBefore time.Time // zero: missing
	neverValid         bool      // exp is 0, which is not a date but an expiry all the same
}

// readContent reads a payload.
func readContent(payload string) (c content, err error) {
	if c.Claims, err = parseClaims(payload); err != nil {
		return content{}, err
	}
	if c.issuer, err = c.text("iss"); err != nil {
		return content{}, err
	}
	if c.subject, err = c.text("sub"); err != nil {
		return content{}, err
	}
	if _, err = c.text("jti"); err != nil {
		return content{}, err
	}
	if c.audience, err = audienceOf(c.raw("aud")); err != nil {
		return content{}, err
	}
	if c.expires, err = dateOf("exp", c.raw("exp")); err != nil {
		return content{}, err
	}
	c.neverValid = c.expires.Equal(time.Unix(0, 0))
	if c.notBefore, err = dateOf("nbf", c.raw("nbf")); err != nil {
		return content{}, err
	}
	_, err = dateOf("iat", c.raw("iat"))
	return c, err
}

// text is the registered claim of this name, which is a string.
func (c content) text(name string) (string, error) { return stringOf(name, c.raw(name)) }

// exactName refuses the names in any case but their own.
func exactName(have string, names []string) error {
	for _, name := range names {
		if have != name && strings.EqualFold(have, name) {
			return fmt.Errorf("%s is not %s", outcome.Brief(have), name)
		}
	}
	return nil
}

// stringOf decodes the value of a member that is a string, "" if it is missing; null is no string.
func stringOf(name, value string) (string, error) {
	switch {
	case value == "":
		return "", nil
	case value[0] != '"':
		return "", fmt.Errorf("%s is not a string", name)
	}
	return decodeString(value), nil
}

// shortString is stringOf for text that no scan has accepted yet, in which a long string with
// escapes is not worth its decoding.
func shortString(name, value string) (string, error) {
	const most = 2048
	if len(value) > most && strings.Contains(value, `\`) {
		return "", fmt.Errorf("%s is longer than %d bytes, with escapes", name, most)
	}
	if strings.HasPrefix(value, `"`) && scan(`{"":`+value+`}`, nil) != nil {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return stringOf(name, value)
}

// audienceOf decodes aud: a string, or a list of them (RFC 7519 §4.1.3).
func audienceOf(value string) (list []string, err error) {
	if value == "" {
		return nil, nil
	}
	switch v := decodeValue(value).(type) {
	case string:
		return []string{v}, nil
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("aud is a list of more than strings")
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, errors.New("aud is neither a string nor a list")
}

// lastDate is the last second of the year 9999. A later date becomes it, so that no arithmetic on
// dates overflows.
const lastDate = 253402300799

// dateOf decodes a NumericDate (RFC 7519 §2), the zero time if it is missing.
func dateOf(name, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	n, ok := decodeValue(value).(json.Number)
	if !ok {
		return time.Time{}, fmt.Errorf("%s is not a number", name)
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f >= 1<<63 {
		return time.Time{}, fmt.Errorf("%s is not a date", name)
	}
	seconds, fraction := math.Modf(min(f, lastDate))
	return time.Unix(int64(seconds), int64(fraction*1e9)), nil
}

// notAccess returns the type of a token that is for another purpose than access, "" for any other
// (RFC 8725 §3.12). A logout token is signed by the same keys as an access token.
func (t *token) notAccess() string {
	typ, _, _ := strings.Cut(t.mediaType(), ";") // parameters and blanks do not make it another type
	switch typ = strings.TrimPrefix(strings.TrimSpace(typ), "application/"); typ {
	case "logout+jwt", "secevent+jwt":
		return typ
	}
	return ""
}

// mediaType returns the type that the header names, in lower case and without application/: "" if
// it names none, and what it has there if that is no name.
func (t *token) mediaType() string {
	typ, err := shortString("typ", t.protected[3])
	if err != nil || typ == "" {
		return t.protected[3]
	}
	return strings.TrimPrefix(strings.ToLower(typ), "application/")
}
