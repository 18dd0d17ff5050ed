package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Mapping is a YAML mapping that keeps the order of its keys. Its values are what a configuration
// is made of: text, booleans, numbers, durations, networks, lists, maps, and mappings again.
type Mapping []Pair

// Pair is one key of a Mapping and its value.
type Pair struct {
	Key   string
	Value any
}

// String is the mapping as YAML in block style. Every text that a reader of YAML 1.1 or 1.2 could
// take for something else is quoted.
func (m Mapping) String() string {
	var b strings.Builder
	writeMapping(&b, m, "")
	return b.String()
}

// Changes returns what c says differently from base, in the words of the configuration file.
// Decoding it over base gives c again.
func Changes(c, base *Config) Mapping {
	return changes(reflect.ValueOf(c).Elem(), reflect.ValueOf(base).Elem())
}

// ChangedKeys returns the keys in which two configurations differ, such as session.pingInterval: a
// list is one key.
func ChangedKeys(a, b *Config) (keys []string) { return keysOf(Changes(a, b), "") }

func keysOf(m Mapping, prefix string) (keys []string) {
	for _, p := range m {
		if inner, ok := p.Value.(Mapping); ok {
			keys = append(keys, keysOf(inner, prefix+p.Key+".")...)
		} else {
			keys = append(keys, prefix+p.Key)
		}
	}
	return keys
}

// Read decodes text over c, strictly; a list in it replaces that of c. It does not look at whether
// the result is valid. The problems name the text as name.
func Read(name, text string, c *Config) Problems {
	l := newLoader(Sources{File: name})
	l.file = name
	l.decodeFile(text, c)
	slices.SortStableFunc(l.problems, l.compare)
	return l.problems
}

func changes(v, base reflect.Value) (m Mapping) {
	for f := range v.Type().Fields() {
		name := f.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		now, was := v.FieldByIndex(f.Index), base.FieldByIndex(f.Index)
		switch {
		case same(now, was):
		case now.Kind() == reflect.Struct && !isScalar(now.Type()):
			if inner := changes(now, was); inner != nil {
				m = append(m, Pair{name, inner})
			}
		default:
			m = append(m, Pair{name, plainValue(now)})
		}
	}
	return m
}

// Same reports whether two values of one type say the same; a list that is nil and one that is
// empty do.
func Same(a, b any) bool { return same(reflect.ValueOf(a), reflect.ValueOf(b)) }

// same reports whether two values say the same; a list that is nil and one that is empty do.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	if a.Kind() == reflect.Struct && !isScalar(a.Type()) {
		return changes(a, b) == nil
	}
	if a.Kind() == reflect.Slice && a.Len() == b.Len() {
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// plainValue turns a value of the configuration into what a Mapping may hold.
func plainValue(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return plainValue(v.Elem())
	case isScalar(v.Type()):
		return v.Interface()
	case v.Kind() == reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = plainValue(v.Index(i))
		}
		return list
	case v.Kind() == reflect.Map:
		m := Mapping{}
		for _, key := range v.MapKeys() {
			m = append(m, Pair{key.String(), plainValue(v.MapIndex(key))})
		}
		slices.SortFunc(m, func(a, b Pair) int { return strings.Compare(a.Key, b.Key) })
		return m
	case v.Kind() == reflect.Struct:
		if m := changes(v, blank(v.Type())); m != nil {
			return m
		}
		return Mapping{}
	}
	return v.Interface()
}

func writeMapping(b *strings.Builder, m Mapping, indent string) {
	for i, p := range m {
		if i > 0 {
			b.WriteString(indent)
		}
		b.WriteString(quoted(p.Key) + ":")
		writeValue(b, p.Value, indent)
	}
}

// writeValue writes what stands after a colon, line end included.
func writeValue(b *strings.Builder, value any, indent string) {
	switch v := value.(type) {
	case Mapping:
		if len(v) == 0 {
			b.WriteString(" {}\n")
			return
		}
		b.WriteString("\n" + indent + "  ")
		writeMapping(b, v, indent+"  ")
	case []any:
		if len(v) == 0 {
			b.WriteString(" []\n")
			return
		}
		b.WriteByte('\n')
		for _, e := range v {
			b.WriteString(indent + "-")
			if m, ok := e.(Mapping); ok && len(m) > 0 {
				b.WriteByte(' ')
				writeMapping(b, m, indent+"  ")
			} else {
				writeValue(b, e, indent+"  ")
			}
		}
	case string:
		if !isBlock(v) {
			b.WriteString(" " + quoted(v) + "\n")
			return
		}
		b.WriteString(" |\n")
		for line := range strings.Lines(v) {
			if line != "\n" {
				b.WriteString(indent + "  ")
			}
			b.WriteString(line)
		}
	case time.Duration:
		b.WriteString(" " + shortDuration(v) + "\n")
	default:
		fmt.Fprintf(b, " %v\n", v)
	}
}

// isBlock reports whether a text is lines that can be written as a literal block without a loss.
func isBlock(s string) bool {
	return strings.Count(s, "\n") > 1 && strings.HasSuffix(s, "\n") && !strings.HasSuffix(s, "\n\n") && !unicode.IsSpace(rune(s[0])) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') })
}

// plainWord matches what needs no quotes; words of YAML 1.1 that are no text (yes, on, null …) are
// left out below.
var plainWord = regexp.MustCompile(`^[A-Za-z/_][A-Za-z0-9_./@-]*(:[A-Za-z0-9_./@-]+)*$`)

func quoted(s string) string {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
	default:
		if plainWord.MatchString(s) {
			return s
		}
	}
	return strconv.Quote(s)
}

// shortDuration is a duration without parts that are zero: 30s, 10m, 1h.
func shortDuration(d time.Duration) string {
	s := d.String()
	if cut, ok := strings.CutSuffix(s, "m0s"); ok {
		s = cut + "m"
	}
	if cut, ok := strings.CutSuffix(s, "h0m"); ok {
		s = cut + "h"
	}
	return s
}
