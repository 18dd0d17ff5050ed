package config

import (
	"errors"
	"fmt"
	"strings"
)

// The ways in which a path is not in its one spelling.
var (
	errPathRelative = errors.New("path does not begin with /")
	errPathRaw      = errors.New("control character, space, backslash, ? or # in the path")
	errPathASCII    = errors.New("a character in the path that is not ASCII and not percent-encoded")
	errPathEscape   = errors.New("broken percent-escape in the path")
	errPathEncoded  = errors.New("encoded slash, backslash or control character in the path")
	errPathDots     = errors.New("dot segment in the path")
	errPathSlashes  = errors.New("doubled slash in the path")
)

// CleanPath returns the one spelling of a path, as it is matched, authorised and forwarded:
// escapes of unreserved characters are decoded, once (RFC 3986 §6.2.2.2), characters that no URL
// holds and that clients send all the same are escaped (as Envoy and browsers do), all else
// keeps its bytes. A path on which two servers may disagree is refused instead of resolved: dot
// segments (plain, encoded, with ;parameters), doubled slashes, encoded slashes and backslashes,
// raw backslashes, control characters in either form, raw bytes that are not ASCII, broken
// escapes. The same rule serves requests and the paths of the configuration. Cleaning twice
// changes nothing. Errors never repeat the path.
func CleanPath(raw string) (string, error) {
	if !strings.HasPrefix(raw, "/") {
		return "", errPathRelative
	}
	for i := range len(raw) {
		switch c := raw[i]; {
		case c <= ' ', c == 0x7f, c == '\\', c == '?', c == '#':
			return "", errPathRaw
		case c > 0x7f:
			return "", errPathASCII
		}
	}
	path, err := oneSpelling(raw)
	if err != nil {
		return "", err
	}
	for rest, more := path[1:], true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch name := withoutParameters(segment); {
		case segment == "" && more:
			return "", errPathSlashes
		case name == ".", name == "..":
			return "", errPathDots
		}
	}
	return path, nil
}

// unwise are characters that RFC 3986 gives no place in a URL, so servers disagree about
// them: some escape them, some do not.
const unwise = "\"<>^`{|}"

// oneSpelling decodes the escapes that mean the same as the character itself, refuses those that
// could become path syntax later, and escapes what a URL cannot hold.
func oneSpelling(raw string) (string, error) {
	if !strings.ContainsAny(raw, "%"+unwise) {
		return raw, nil
	}
	out := make([]byte, 0, len(raw)+8)
	for i := 0; i < len(raw); i++ {
		if strings.IndexByte(unwise, raw[i]) >= 0 {
			out = fmt.Appendf(out, "%%%02X", raw[i])
			continue
		}
		if raw[i] != '%' {
			out = append(out, raw[i])
			continue
		}
		if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
			return "", errPathEscape
		}
		switch c := unhex(raw[i+1])<<4 | unhex(raw[i+2]); {
		case c < ' ', c == 0x7f, c == '/', c == '\\':
			return "", errPathEncoded
		case isUnreserved(c):
			out = append(out, c)
		default:
			out = append(out, raw[i:i+3]...)
		}
		i += 2
	}
	return string(out), nil
}

// withoutParameters returns a segment as some servers read it: they cut it at its first
// semicolon before they look for dots.
func withoutParameters(segment string) string {
	for i := range len(segment) {
		if segment[i] == ';' || len(segment) >= i+3 && strings.EqualFold(segment[i:i+3], "%3B") {
			return segment[:i]
		}
	}
	return segment
}

// isUnreserved is RFC 3986 §2.3.
func isUnreserved(c byte) bool {
	return isAlphanumeric(c) || c == '-' || c == '.' || c == '_' || c == '~'
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
