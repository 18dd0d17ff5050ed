package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// The bounds of one JSON text. They are far above what issuers write.
const (
	maxDepth   = 64   // levels of objects and lists
	maxMembers = 1024 // of all its objects
)

// member is one member of a JSON object: its name without escapes, and the text of its value.
type member struct{ name, value string }

// scan reads text as one JSON object (RFC 8259) and calls visit, if it is not nil, for each member
// of it in order. What parsers do not agree on is an error: invalid UTF-8, a surrogate without its
// other half, which Go would turn into U+FFFD so that two subjects became one, a number beyond a
// double. It takes linear time, and allocates only for names with escapes.
func scan(text string, visit func(member) error) error {
	s := scanner{text: text}
	return s.whole(visit)
}

// scanUnique is scan, and refuses a name that is there twice, at any depth.
func scanUnique(text string, visit func(member) error) error {
	s := scanner{text: text, unique: true}
	return s.whole(visit)
}

// pick returns the values of the named members of an object, "" for one that is not there.
func pick(text string, names ...string) ([]string, error) {
	found := make([]string, len(names))
	err := scan(text, func(m member) error {
		n := slices.Index(names, m.name)
		switch {
		case n < 0:
		case found[n] != "":
			return fmt.Errorf("%s is there twice", m.name)
		default:
			found[n] = m.value
		}
		return nil
	})
	return found, err
}

// glance finds the named members of an object and is not stopped by most mistakes in the rest of
// the text, so that it costs a fraction of a scan: a nanosecond a byte. Of a value that is no
// string it returns no more than the beginning. A name with escapes is not found. What it finds is
// what a scan finds, if that accepts the text, no name is there twice and none of the names is
// written with escapes.
func glance(text []byte, names ...string) ([]string, error) {
	found := make([]string, len(names))
	text = bytes.TrimLeft(text, blanks)
	if len(text) == 0 || text[0] != '{' {
		return nil, errNoObject
	}
	depth, members := 0, 0
	for i := 0; i < len(text); i++ {
		kind := structure[text[i]]
		if kind == 0 { // most are, and a switch costs more
			continue
		}
		switch kind {
		case opening:
			if depth++; depth > maxDepth {
				return nil, errDeep
			}
		case closing:
			depth--
		case quote:
			start := i
			for i++; i < len(text) && text[i] != '"'; i++ { // as stringEnd, without a call for each of many
				if text[i] == '\\' {
					i++
				} else if i-start > short {
					i = stringEnd(text, i-1) - 1
					break
				}
			}
			end := i
			for i+1 < len(text) && structure[text[i+1]] == blank {
				i++
			}
			if i+1 >= len(text) || text[i+1] != ':' {
				continue // no name
			}
			if members++; members > maxMembers {
				return nil, errMany
			}
			if depth > 1 {
				continue
			}
			for n, name := range names {
				if name != string(text[start+1:end]) {
					continue
				}
				if found[n] != "" {
					return nil, fmt.Errorf("%s is there twice", name)
				}
				found[n] = glanceValue(bytes.TrimLeft(text[i+2:], blanks))
			}
		}
	}
	return found, nil
}

// glanceValue returns the string with which text begins, or else the first byte of it.
func glanceValue(text []byte) string {
	if bytes.HasPrefix(text, []byte(`"`)) {
		return string(text[:stringEnd(text, 0)])
	}
	return string(text[:min(1, len(text))])
}

// blanks are what JSON takes for white space.
const blanks = " \t\r\n"

// structure tells what a byte is outside of strings.
var structure = [256]byte{
	'{': opening, '[': opening, '}': closing, ']': closing, '"': quote, ' ': blank, '\t': blank, '\r': blank, '\n': blank,
}

const (
	opening = iota + 1
	closing
	quote
	blank
)

// short is how many bytes of a string are looked at one by one, which costs less than a search.
const short = 32

// stringEnd returns where the string ends that begins with the quote at n, or the end of the text.
func stringEnd(text []byte, n int) int {
	for at := n + 1; at < len(text); {
		for near := min(at+short, len(text)); at < near; at++ {
			switch text[at] {
			case '"':
				return at + 1
			case '\\':
				at++
			}
		}
		next := bytes.IndexByte(text[min(at, len(text)):], '"')
		if next < 0 {
			break
		}
		backslashes := at + next
		for backslashes > at && text[backslashes-1] == '\\' {
			backslashes--
		}
		if at += next + 1; (at-1-backslashes)%2 == 0 {
			return at
		}
	}
	return len(text)
}

// decodeObject decodes text that scanUnique accepts. Numbers are json.Number.
func decodeObject(text string) (map[string]any, error) {
	if err := scanUnique(text, nil); err != nil {
		return nil, err
	}
	object, _ := decodeValue(text).(map[string]any)
	return object, nil
}

// decodeValue decodes one value out of a text that scan has accepted. Numbers are json.Number.
func decodeValue(text string) any {
	switch {
	case text == "" || text == "null":
		return nil
	case text == "true":
		return true
	case text == "false":
		return false
	case text[0] == '"':
		return decodeString(text)
	case text[0] == '-' || text[0] >= '0' && text[0] <= '9':
		return json.Number(text)
	}
	var v any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil // not reached: scan has accepted the text
	}
	return v
}

// decodeString decodes a string with its quotes, out of a text that scan has accepted.
func decodeString(quoted string) string {
	if strings.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	var s string
	if json.Unmarshal([]byte(quoted), &s) != nil {
		return "" // not reached
	}
	return s
}

// scanner is one scan under way.
type scanner struct {
	text    string
	at      int // what is before it was read
	depth   int
	members int
	unique  bool     // names are compared
	names   []string // of the objects that are open, if unique
}

var (
	errNotJSON = errors.New("not JSON")
	errDeep    = fmt.Errorf("more than %d levels of JSON", maxDepth)
	errMany    = fmt.Errorf("more than %d members in JSON", maxMembers)

	errNoObject  = errors.New("not a JSON object")
	errSurrogate = errors.New("half a surrogate pair")
)

// whole reads the text.
func (s *scanner) whole(visit func(member) error) error {
	if !utf8.ValidString(s.text) {
		return errors.New("not UTF-8")
	}
	s.space()
	if s.peek() != '{' {
		if s.value() != nil || s.rest() {
			return errNotJSON
		}
		return errNoObject
	}
	if err := s.items('}', visit); err != nil {
		return err
	}
	if s.rest() {
		return errNotJSON
	}
	return nil
}

// rest reports whether more than white space is left.
func (s *scanner) rest() bool {
	s.space()
	return s.at < len(s.text)
}

func (s *scanner) space() {
	for s.at < len(s.text) && s.text[s.at] <= ' ' {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// peek returns the next byte, or 0 at the end of the text.
func (s *scanner) peek() byte {
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

// accept reads c, if it is next.
func (s *scanner) accept(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

func (s *scanner) value() error {
	switch c := s.peek(); c {
	case '{':
		return s.items('}', nil)
	case '[':
		return s.items(']', nil)
	case '"':
		_, err := s.string()
		return err
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) word(w string) error {
	if !strings.HasPrefix(s.text[s.at:], w) {
		return errNotJSON
	}
	s.at += len(w)
	return nil
}

// items reads an object or a list, from its bracket to the one that ends it.
func (s *scanner) items(end byte, visit func(member) error) error {
	if s.depth++; s.depth > maxDepth {
		return errDeep
	}
	first := len(s.names)
	s.at++
	s.space()
	if !s.accept(end) {
		for {
			var err error
			if end == '}' {
				err = s.member(visit)
			} else {
				err = s.value()
			}
			if err != nil {
				return err
			}
			s.space()
			if s.accept(end) {
				break
			}
			if !s.accept(',') {
				return errNotJSON
			}
			s.space()
		}
	}
	s.depth--
	return s.compare(first)
}

// member reads a name, the colon and a value.
func (s *scanner) member(visit func(member) error) error {
	if s.members++; s.members > maxMembers {
		return errMany
	}
	if s.peek() != '"' {
		return errNotJSON
	}
	name, err := s.string()
	if err != nil {
		return err
	}
	if s.unique || visit != nil {
		name = decodeString(name)
	}
	if s.unique {
		s.names = append(s.names, name)
	}
	s.space()
	if !s.accept(':') {
		return errNotJSON
	}
	s.space()
	start := s.at
	if err := s.value(); err != nil || visit == nil {
		return err
	}
	return visit(member{name, s.text[start:s.at]})
}

// compare looks for equal names in the object that ends, whose names begin at first.
func (s *scanner) compare(first int) error {
	names := s.names[first:]
	s.names = s.names[:first]
	slices.Sort(names)
	for n := 1; n < len(names); n++ {
		if names[n] == names[n-1] {
			return fmt.Errorf("%s is there twice", outcome.Brief(names[n]))
		}
	}
	return nil
}

// string reads a string and returns it with its quotes.
func (s *scanner) string() (string, error) {
	start := s.at
	for s.at++; ; s.at++ {
		s.at = plain(s.text, s.at)
		switch s.peek() {
		case '"':
			s.at++
			return s.text[start:s.at], nil
		case '\\':
			if err := s.escape(); err != nil {
				return "", err
			}
		default:
			return "", errNotJSON
		}
	}
}

// plain returns where the bytes end that stand for themselves in a string, from n on.
func plain(text string, n int) int {
	for n < len(text) && text[n] >= ' ' && text[n] != '"' && text[n] != '\\' {
		n++
	}
	return n
}

// escape reads what a backslash begins, up to its last byte. Half of a character is no character
// (RFC 8259 §8.2).
func (s *scanner) escape() error {
	s.at++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
	default:
		return errNotJSON
	}
	unit, ok := s.unit(s.at + 1)
	if !ok {
		return errNotJSON
	}
	s.at += 4
	switch {
	case unit >= 0xDC00 && unit < 0xE000:
		return errSurrogate
	case unit >= 0xD800 && unit < 0xDC00:
		if !strings.HasPrefix(s.text[s.at+1:], `\u`) {
			return errSurrogate
		}
		if low, _ := s.unit(s.at + 3); low < 0xDC00 || low >= 0xE000 {
			return errSurrogate
		}
		s.at += 6
	}
	return nil
}

// unit reads the four hexadecimal digits at n.
func (s *scanner) unit(n int) (u rune, ok bool) {
	if n+4 > len(s.text) {
		return 0, false
	}
	for _, c := range []byte(s.text[n : n+4]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		u = u<<4 | rune(c)
	}
	return u, true
}

// number reads a number that fits into a double.
func (s *scanner) number() error {
	start, whole := s.at, s.at
	if s.peek() == '-' {
		whole++
	}
	s.at = digits(s.text, whole)
	if s.at == whole || s.at > whole+1 && s.text[whole] == '0' {
		return errNotJSON
	}
	if s.peek() == '.' {
		fraction := s.at + 1
		if s.at = digits(s.text, fraction); s.at == fraction {
			return errNotJSON
		}
	}
	exponent := s.peek()|0x20 == 'e'
	if exponent {
		s.at++
		if c := s.peek(); c == '+' || c == '-' {
			s.at++
		}
		power := s.at
		if s.at = digits(s.text, power); s.at == power {
			return errNotJSON
		}
	}
	if text := s.text[start:s.at]; exponent || len(text) > 300 {
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			return errors.New("a number beyond a double")
		}
	}
	return nil
}

// digits returns where the digits end that begin at n.
func digits(text string, n int) int {
	for n < len(text) && text[n]-'0' <= 9 {
		n++
	}
	return n
}
