package istio

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/altairalabs/omnia-gateway/config"
)

// File is a text to import and the name by which its mistakes are reported.
type File struct{ Name, Text string }

// reader collects problems and notes over all files.
type reader struct {
	problems config.Problems
	notes    []string
}

// node is a value in a file, with the field in which it stands. The zero value is a field that
// is not there.
type node struct {
	r     *reader
	file  string
	field string
	at    *yaml.Node
}

// documents are all documents of a file that say anything.
func (r *reader) documents(f File) (out []node) {
	for d := yaml.NewDecoder(strings.NewReader(strings.TrimPrefix(f.Text, "\ufeff"))); ; {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			r.problems = append(r.problems, config.Problem{Place: config.Place{Name: f.Name}, Text: "not YAML: " +
				strings.TrimPrefix(err.Error(), "yaml: "), Hint: "give what kubectl apply takes"})
			return nil
		}
		if n := (node{r, f.Name, "", doc.Content[0]}); n.said() {
			out = append(out, n)
		}
	}
}

func (n node) place() config.Place {
	return config.Place{Name: n.file, Line: n.at.Line, Column: n.at.Column}
}

func (n node) problem(text, hint string) {
	n.r.problems = append(n.r.problems, config.Problem{Place: n.place(), Key: n.field, Text: text, Hint: hint})
}

func (n node) note(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	if n.field != "" {
		text = n.field + ": " + text
	}
	n.r.notes = append(n.r.notes, n.place().String()+": "+text)
}

// there reports whether the field was given.
func (n node) there() bool { return n.at != nil }

// said reports whether the field has a value.
func (n node) said() bool { return n.there() && n.at.ShortTag() != "!!null" }

// empty reports whether a list says nothing: Istio does not tell [] and null from a field that is
// not there.
func (n node) empty() bool { return len(n.items()) == 0 }

// of reports whether the node is of a kind; if it has a value and is not, that is a problem.
func (n node) of(kind yaml.Kind, text, hint string) bool {
	switch {
	case !n.said():
		return false
	case n.at.Kind == yaml.AliasNode || n.at.Anchor != "":
		n.problem("anchors and aliases are not read", "write the value out")
		return false
	case n.at.Kind != kind:
		n.problem(text, hint)
		return false
	}
	return true
}

// fields are the pairs of a mapping in their order; none for null. A name that is there twice is
// a problem.
func (n node) fields() (names []string, values map[string]node) {
	values = map[string]node{}
	if !n.of(yaml.MappingNode, "no mapping", "write name: value lines") {
		return nil, values
	}
	for k := 0; k+1 < len(n.at.Content); k += 2 {
		name, field := n.at.Content[k].Value, n.at.Content[k].Value
		if n.field != "" {
			field = n.field + "." + name
		}
		value := node{n.r, n.file, field, n.at.Content[k+1]}
		if n.at.Content[k].ShortTag() == "!!merge" {
			value.problem("anchors and aliases are not read", "write the fields out")
			continue
		}
		if _, twice := values[name]; twice {
			value.problem("given twice", "keep one of the two")
			continue
		}
		names = append(names, name)
		values[name] = value
	}
	return names, values
}

// get is one field of a mapping whose other fields do not matter.
func (n node) get(name string) node {
	_, values := n.fields()
	return values[name]
}

// only gives the fields of a mapping, all of which must be known: Istio would act on the others.
func (n node) only(known ...string) map[string]node {
	names, values := n.fields()
	for _, name := range names {
		if !slices.Contains(known, name) {
			values[name].problem("the gateway has nothing that does the same", "known here: "+strings.Join(known, ", "))
		}
	}
	return values
}

// items are the elements of a list; none for null.
func (n node) items() (out []node) {
	if n.of(yaml.SequenceNode, "no list", "write a list, [a, b]") {
		for k, e := range n.at.Content {
			out = append(out, node{n.r, n.file, fmt.Sprintf("%s[%d]", n.field, k), e})
		}
	}
	return out
}

// text is a scalar as text; "" when it is not there.
func (n node) text() string {
	if !n.of(yaml.ScalarNode, "no text", "write it in quotes") {
		return ""
	}
	if n.at.ShortTag() != "!!str" {
		n.problem("no text", "write it in quotes")
	}
	return n.at.Value
}

func (n node) texts() (out []string) {
	for _, e := range n.items() {
		out = append(out, e.text())
	}
	return out
}

// flag is a boolean; false when it is not there, as in Istio.
func (n node) flag() bool {
	if n.said() && n.at.ShortTag() != "!!bool" {
		n.problem("neither true nor false", "write true or false")
	}
	return n.said() && n.at.Value == "true"
}

// labels are a mapping of text to text.
func (n node) labels() Labels {
	out := Labels{}
	names, values := n.fields()
	for _, name := range names {
		out[name] = values[name].text()
	}
	return out
}
