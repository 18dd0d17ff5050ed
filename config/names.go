package config

import (
	"regexp"
	"slices"
	"strings"
)

// Names are the names of a route, such as {agent} and {namespace}, with what each stands for in
// one request. The zero value has none.
type Names []Name

// Name is a name, without its braces, and the DNS label for which it stands.
type Name struct{ Name, Label string }

// Of returns what a name stands for, "" if it stands for nothing.
func (n Names) Of(name string) string {
	if i := slices.IndexFunc(n, func(b Name) bool { return b.Name == name }); i >= 0 {
		return n[i].Label
	}
	return ""
}

// Fill returns text with every name that stands for something, in its braces, replaced by its
// label. A label has no braces, so nothing is replaced twice.
func (n Names) Fill(text string) string {
	for _, b := range n {
		text = strings.ReplaceAll(text, "{"+b.Name+"}", b.Label)
	}
	return text
}

// String returns names and labels for people: agent my-agent, namespace team-a.
func (n Names) String() string {
	texts := make([]string, len(n))
	for i, b := range n {
		texts[i] = b.Name + " " + b.Label
	}
	return strings.Join(texts, ", ")
}

// braced is a name in its braces. Other text in braces, such as JSON, is no name.
var braced = regexp.MustCompile(`\{([A-Za-z][A-Za-z0-9_-]*)\}`)

// NameIn returns the name that a segment of a path or a label of a host consists of, and false if
// it is literal.
func NameIn(part string) (name string, ok bool) {
	if m := braced.FindStringSubmatch(part); m != nil && m[0] == part {
		return m[1], true
	}
	return "", false
}

// namesIn returns the names in a text, in their order.
func namesIn(text string) (names []string) {
	for _, m := range braced.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

// WithoutNames returns text with a plain word in the place of each name, as braces are legal
// neither in a path nor in the host of a URL.
func WithoutNames(text string) string { return braced.ReplaceAllString(text, "name") }
