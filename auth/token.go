package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxToken is how long a token may be, in bytes. Decoding costs about thirty times the length in memory, before any signature is looked at.
const maxToken = 16 << 10

// token is a JWT whose form is right (RFC 7519 §7.2, and stricter where the RFC lets a parser choose). Nothing in it is verified.
type token struct {
	signed    string // header "." payload, over which the signature is made
	signature []byte
	header    map[string]any
	claims    map[string]any

	alg, kid, issuer, subject string
	audience                  []string
	expires, notBefore        time.Time // zero: missing
	neverValid                bool      // exp is 0, which is not a date but an expiry all the same
}

// registered are the claims that the gateway or an agent acts on (RFC 7519 §4.1), protected the members of the header. In any other case
// they are refused: a parser that folds names (encoding/json with a struct does, also iſſ) would read another token than we have verified.
var (
	registered = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}
	protected  = []string{"alg", "kid", "crit"}
)

// parse looks at the form of a token. The error says what is wrong with it, without a part of it.
func parse(text string) (*token, error) {
	t, err := decode(text)
	if err != nil {
		return nil, err
	}
	if err := t.readHeader(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if err := t.readClaims(); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return t, nil
}

// decode takes a token apart: two dots, three parts of base64url that are not empty, the first two of them JSON objects.
func decode(text string) (*token, error) {
	t, payload, err := decodeJWS(text)
	if err != nil {
		return nil, err
	}
	if t.claims, err = decodeObject(payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return t, nil
}

// decodeJWS does so for a payload of any kind (RFC 7515 §5.2).
func decodeJWS(text string) (*token, []byte, error) {
	if len(text) > maxToken {
		return nil, nil, fmt.Errorf("longer than %d bytes", maxToken)
	}
	if n := strings.Count(text, "."); n != 2 {
		return nil, nil, fmt.Errorf("%d dots instead of 2", n)
	}
	head, rest, _ := strings.Cut(text, ".")
	body, tail, _ := strings.Cut(rest, ".")
	header, err := decodePart(head)
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	payload, err := decodePart(body)
	if err != nil {
		return nil, nil, fmt.Errorf("payload: %w", err)
	}
	signature, err := decodePart(tail)
	if err != nil {
		return nil, nil, fmt.Errorf("signature: %w", err)
	}
	t := &token{signed: text[:len(head)+1+len(body)], signature: signature}
	if t.header, err = decodeObject(header); err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	return t, payload, nil
}

// decodePart decodes unpadded base64url whose unused bits are zero: one text for each value, so that nobody can change a token and keep
// it valid. Go's decoder skips line breaks even when it is strict.
func decodePart(s string) ([]byte, error) {
	if s == "" {
		return nil, errors.New("empty")
	}
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("a line break in base64url")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errors.New("not base64url without padding")
	}
	return b, nil
}

// decodeObject decodes one JSON object with nothing behind it. Numbers are json.Number. What parsers do not agree on is an error: a name
// that is there twice, at any depth; invalid UTF-8; a surrogate without its other half.
func decodeObject(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	if !json.Valid(b) {
		return nil, errors.New("not JSON")
	}
	if loneSurrogate(b) {
		return nil, errors.New("half a surrogate pair")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := decodeValue(d)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	return object, nil
}

// decodeValue reads the next value of a text that is valid JSON.
func decodeValue(d *json.Decoder) (any, error) {
	next, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch next {
	case json.Delim('{'):
		object := map[string]any{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			key := name.(string) // as the text is valid
			if _, twice := object[key]; twice {
				return nil, fmt.Errorf("%s is there twice", clip(key))
			}
			if object[key], err = decodeValue(d); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return object, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := decodeValue(d)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	}
	return next, nil
}

// loneSurrogate says whether valid JSON has an escape that is half a character (RFC 8259 §8.2). Go makes U+FFFD of each, so that subjects
// that differ would become one.
func loneSurrogate(b []byte) bool {
	unit := func(i int) uint64 { // of the escape at i, or 0
		if i+6 > len(b) || b[i] != '\\' || b[i+1] != 'u' {
			return 0
		}
		u, _ := strconv.ParseUint(string(b[i+2:i+6]), 16, 16)
		return u
	}
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		switch u := unit(i); {
		case u >= 0xDC00 && u < 0xE000:
			return true
		case u >= 0xD800 && u < 0xDC00:
			if low := unit(i + 6); low < 0xDC00 || low >= 0xE000 {
				return true
			}
			i += 11
		default:
			i++ // the escaped character, which may be a backslash
		}
	}
	return false
}

// readHeader takes out the members of the header that are acted on.
func (t *token) readHeader() (err error) {
	if err := exactNames(t.header, protected); err != nil {
		return err
	}
	if _, there := t.header["alg"]; !there {
		return errors.New("no alg")
	}
	if t.alg, err = stringAt(t.header, "alg"); err != nil {
		return err
	}
	t.kid, err = stringAt(t.header, "kid")
	return err
}

// readClaims takes out the registered claims.
func (t *token) readClaims() (err error) {
	if err := exactNames(t.claims, registered); err != nil {
		return err
	}
	if t.issuer, err = stringAt(t.claims, "iss"); err != nil {
		return err
	}
	if t.subject, err = stringAt(t.claims, "sub"); err != nil {
		return err
	}
	if _, err = stringAt(t.claims, "jti"); err != nil {
		return err
	}
	switch aud, ok := t.claims["aud"]; v := aud.(type) {
	case string:
		t.audience = []string{v}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return errors.New("aud is a list of more than strings")
			}
			t.audience = append(t.audience, s)
		}
	default:
		if ok {
			return errors.New("aud is neither a string nor a list")
		}
	}
	if t.expires, err = dateAt(t.claims, "exp"); err != nil {
		return err
	}
	t.neverValid = t.expires.Equal(time.Unix(0, 0))
	if t.notBefore, err = dateAt(t.claims, "nbf"); err != nil {
		return err
	}
	_, err = dateAt(t.claims, "iat")
	return err
}

// exactNames refuses the names in any case but their own.
func exactNames(object map[string]any, names []string) error {
	for have := range object {
		for _, name := range names {
			if have != name && strings.EqualFold(have, name) {
				return fmt.Errorf("%s is not %s", clip(have), name)
			}
		}
	}
	return nil
}

// stringAt is the string called name, or "" if there is none; null is not a string.
func stringAt(object map[string]any, name string) (string, error) {
	v, there := object[name]
	s, ok := v.(string)
	if there && !ok {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return s, nil
}

// lastDate is the last second of the year 9999: dates behind it become it, so that no arithmetic on dates overflows.
const lastDate = 253402300799

// dateAt is the NumericDate called name (RFC 7519 §2), or the zero time if there is none.
func dateAt(object map[string]any, name string) (time.Time, error) {
	v, there := object[name]
	if !there {
		return time.Time{}, nil
	}
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, fmt.Errorf("%s is not a number", name)
	}
	f, _ := n.Float64() // out of range is ±Inf
	if f < 0 || f >= 1<<63 {
		return time.Time{}, fmt.Errorf("%s is not a date", name)
	}
	seconds, fraction := math.Modf(min(f, lastDate))
	return time.Unix(int64(seconds), int64(fraction*1e9)), nil
}

// clip makes somebody else's words fit for a log line: quoted, short, in one line.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.Quote(s)
}
