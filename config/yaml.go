package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The YAML tree is walked here, not by the library: its decoder ends at the first mistake and forgets where each key stood.

// chartKeys are other blocks of Omnia's Helm values. They may stand in the file and mean nothing to the gateway.
var chartKeys = []string{"istio", "gateway", "internalGateway"}

// notYet are top-level keys that are designed but not built. To ignore them would promise what is not kept.
var notYet = []string{"cluster"}

// maxDepth bounds nesting, as the parser recurses.
const maxDepth = 64

// parseYAML gives the root of the one document in text, nil if there is none. On a mistake it reports where, and what.
func parseYAML(text string, report func(line, column int, text, hint string)) (root ast.Node, ok bool) {
	if i := plainText(text); i >= 0 {
		before := text[:i]
		line := strings.Count(before, "\n") + 1
		report(line, len([]rune(before[strings.LastIndex(before, "\n")+1:]))+1, "NUL byte, or not UTF-8", "save the file as UTF-8 text")
		return nil, false
	}
	tokens := lexer.Tokenize(text)
	if t := tooDeep(tokens); t != nil {
		report(t.Position.Line, t.Position.Column, "nested too deeply", fmt.Sprintf("at most %d levels are read", maxDepth))
		return nil, false
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		line, column, message := 0, 0, "not readable"
		var e yaml.Error
		if errors.As(err, &e) {
			message = e.GetMessage()
			if t := e.GetToken(); t != nil && t.Position != nil {
				line, column = t.Position.Line, t.Position.Column
			}
		}
		report(line, column, "not YAML: "+printable(message),
			`look at the indentation, brackets and quotes here and on the line before ("{agent}" inside braces needs quotes)`)
		return nil, false
	}
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case doc.Body.Type() == ast.DirectiveType:
		case root != nil:
			at := start(doc.Body)
			report(at.Line, at.Column, "a second document", "put everything into one, without --- between")
			return nil, false
		default:
			root = doc.Body
		}
	}
	return root, true
}

// printable is the library's message fit for a terminal: it may hold a character of the file, such as the tab that YAML does not allow.
func printable(s string) string {
	quoted := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// tooDeep finds the token at which brackets, or dashes and other marks of one line, nest deeper than anybody would write. Indentation
// cannot: each level of it costs a longer line.
func tooDeep(tokens token.Tokens) *token.Token {
	brackets, marks, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			marks, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			brackets++
		case token.MappingEndType, token.SequenceEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType, token.TagType, token.AnchorType:
			marks++
		}
		if brackets > maxDepth || marks > maxDepth {
			return t
		}
	}
	return nil
}

// start is the position of a node's first character. The library's own position of a mapping is that of its first colon.
func start(n ast.Node) token.Position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return start(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return start(m.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return *t.Position
	}
	return token.Position{}
}

// at is the place of a node: its own in the file, the whole variable in the environment.
func (l *loader) at(n ast.Node) Place {
	if l.variable != "" {
		return Place{Name: l.variable}
	}
	p := start(n)
	return Place{Name: l.file, Line: p.Line, Column: p.Column}
}

// decodeFile decodes the text of the file over c.
func (l *loader) decodeFile(text string, c *Config) {
	root, ok := parseYAML(text, func(line, column int, text, hint string) {
		l.problem(Place{l.file, line, column}, "", text, hint)
	})
	if ok && root != nil {
		l.decode(root, l.at(root), reflect.ValueOf(c).Elem(), "")
	}
}

// decode puts a node into v, the value of key, and reports whether it could. It goes on after a mistake, so that all of them are found.
func (l *loader) decode(n ast.Node, at Place, v reflect.Value, key string) bool {
	if l.variable == "" && key != "" {
		l.places[key] = at
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		l.problem(at, key, "anchors and aliases are not supported", "write the value out")
		return false
	case *ast.TagNode:
		l.problem(at, key, "tags are not supported", "write the value without it")
		return false
	}
	switch {
	case isScalar(v.Type()):
		return l.decodeScalar(n, at, v, key)
	case v.Kind() == reflect.Slice:
		return l.decodeList(n, at, v, key)
	}
	if _, null := n.(*ast.NullNode); null {
		return true // a block of which nothing is said
	}
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	default:
		l.problem(at, key, called(n)+" where keys with values belong", `write "key: value" lines`)
		return false
	}
	if v.Kind() == reflect.Map {
		return l.decodeMap(pairs, v, key)
	}
	return l.decodeStruct(pairs, v, key)
}

// eachKey calls f for every pair whose key can be one and was not given before.
func (l *loader) eachKey(pairs []*ast.MappingValueNode, key string, f func(name string, at Place, value ast.Node)) (ok bool) {
	ok = true
	seen := map[string]int{}
	for _, pair := range pairs {
		at := l.at(pair.Key)
		scalar, isScalar := pair.Key.(ast.ScalarNode)
		if _, merge := pair.Key.(*ast.MergeKeyNode); merge || !isScalar {
			l.problem(at, key, "merge keys and other keys that are no plain text are not supported", "write the keys out")
			ok = false
			continue
		}
		name := scalar.GetToken().Value
		if line, twice := seen[name]; twice {
			hint := "keep one of the two"
			if line > 0 {
				hint = fmt.Sprintf("the first is in line %d: keep one of the two", line)
			}
			l.problem(at, join(key, name), "given twice", hint)
			ok = false
			continue
		}
		seen[name] = at.Line
		f(name, at, pair.Value)
	}
	return ok
}

func (l *loader) decodeStruct(pairs []*ast.MappingValueNode, v reflect.Value, key string) bool {
	fields := map[string]int{}
	var names []string
	for f := range v.Type().Fields() {
		if name := f.Tag.Get("yaml"); name != "-" {
			fields[name] = f.Index[0]
			names = append(names, name)
		}
	}
	good := true
	var ignored []string
	keysGood := l.eachKey(pairs, key, func(name string, at Place, value ast.Node) {
		i, known := fields[name]
		switch {
		case known:
			good = l.decode(value, at, v.Field(i), join(key, name)) && good
			return
		case key == "" && slices.Contains(chartKeys, name):
			ignored = append(ignored, name)
			return
		case key == "" && slices.Contains(notYet, name):
			l.problem(at, name, "not supported yet", "leave the key out")
		default:
			hint := "known here: " + strings.Join(names, ", ")
			if near := nearest(name, names); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
				l.bad[join(key, near)] = true // and do not say as well that it is missing
			}
			l.problem(at, join(key, name), "unknown key", hint)
		}
		good = false
	})
	if len(ignored) > 0 {
		l.notes = append(l.notes, fmt.Sprintf("%s: %s of the Helm chart ignored", l.file, strings.Join(ignored, ", ")))
	}
	return good && keysGood
}

func (l *loader) decodeMap(pairs []*ast.MappingValueNode, v reflect.Value, key string) bool {
	v.Set(reflect.MakeMap(v.Type()))
	good := true
	keysGood := l.eachKey(pairs, key, func(name string, at Place, value ast.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		good = l.decode(value, at, item, join(key, name)) && good
		v.SetMapIndex(reflect.ValueOf(name), item)
	})
	return good && keysGood
}

// decodeList replaces the list in v. Elements start from their own defaults.
func (l *loader) decodeList(n ast.Node, at Place, v reflect.Value, key string) bool {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		l.problem(at, key, called(n)+" where a list belongs", "write [a, b], or lines that begin with a dash; [] for an empty list")
		return false
	}
	list := reflect.MakeSlice(v.Type(), 0, len(s.Values))
	good := true
	for i, e := range s.Values {
		item, itemKey := blank(v.Type().Elem()), fmt.Sprintf("%s[%d]", key, i)
		if _, null := e.(*ast.NullNode); null {
			l.problem(l.at(e), itemKey, "nothing where an element belongs", "write the element after the dash, or remove it")
			good = false
		} else {
			good = l.decode(e, l.at(e), item, itemKey) && good
		}
		list = reflect.Append(list, item)
	}
	v.Set(list)
	return good
}

// blank is an element of a list of which nothing was said.
func blank(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	switch p := v.Interface().(type) {
	case *Route:
		*p = DefaultRoute()
	case *JWT:
		*p = DefaultJWT()
	}
	return v.Elem()
}

func (l *loader) decodeScalar(n ast.Node, at Place, v reflect.Value, key string) bool {
	if _, null := n.(*ast.NullNode); null {
		l.problem(at, key, "no value", "give one, or leave the key out for its default")
		return false
	}
	text, ok := scalarText(n, v.Type())
	if !ok {
		l.problem(at, key, called(n)+" where "+wanted(v.Type())+" belongs", exampleOf(v.Type()))
		return false
	}
	if !parseScalar(v, text) {
		l.problem(at, key, "not "+wanted(v.Type()), exampleOf(v.Type()))
		return false
	}
	return true
}

// scalarText is the text of a scalar node if YAML took it for something from which a t may be made: no quoted booleans, no bare numbers as
// text (1.20 would lose its 0 on the way through other programs).
func scalarText(n ast.Node, t reflect.Type) (string, bool) {
	text := n.GetToken().Value
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, t.Kind() == reflect.String || t == durationType || t == prefixType
	case *ast.LiteralNode:
		return n.Value.Value, t.Kind() == reflect.String
	case *ast.BoolNode:
		return text, t.Kind() == reflect.Bool
	case *ast.IntegerNode:
		return text, t.Kind() == reflect.Int || t.Kind() == reflect.Int64 || t.Kind() == reflect.Float64
	case *ast.FloatNode:
		return text, t.Kind() == reflect.Float64
	}
	return "", false
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
)

func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		return true
	}
	return t == prefixType
}

// parseScalar reads the text of a scalar, from the file or from a variable, into v.
func parseScalar(v reflect.Value, text string) bool {
	switch v.Type() {
	case durationType:
		d, err := time.ParseDuration(text)
		v.SetInt(int64(d))
		return err == nil
	case prefixType:
		p, err := netip.ParsePrefix(text)
		v.Set(reflect.ValueOf(p))
		return err == nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(text == "true")
		return text == "true" || text == "false"
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		v.SetFloat(f)
		return err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
	default:
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		v.SetInt(i)
		return err == nil && strconv.FormatInt(i, 10) == text // 010 is eight to some
	}
	return true
}

// wanted names a type to the operator.
func wanted(t reflect.Type) string {
	switch t {
	case durationType:
		return "a duration"
	case prefixType:
		return "a network"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// exampleOf is the hint for a scalar that could not be read.
func exampleOf(t reflect.Type) string {
	switch t {
	case durationType:
		return "write it with its unit, such as 30s, 5m or 1h30m"
	case prefixType:
		return "write address/bits, such as 10.0.0.0/8, or 192.0.2.1/32 for one address"
	}
	switch t.Kind() {
	case reflect.String:
		return `write one text, in quotes: "…"`
	case reflect.Bool:
		return "write true or false, without quotes"
	case reflect.Float64:
		return "write it like 5 or 0.5"
	}
	return "write decimal digits, without unit or quotes, such as 16777216"
}

// called names what stands in the file.
func called(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "a boolean"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.NullNode:
		return "nothing"
	}
	return "text"
}

// join puts a name behind the path of the keys around it. A name that is no plain word is quoted, as it ends up in somebody's terminal.
func join(key, name string) string {
	plain := name != "" && len(name) <= 64
	for i := range len(name) {
		plain = plain && (isAlphanumeric(name[i]) || name[i] == '-' || name[i] == '_')
	}
	if !plain {
		if len(name) > 64 {
			name = name[:64] + "…"
		}
		name = strconv.QuoteToASCII(name)
	}
	if key == "" {
		return name
	}
	return key + "." + name
}

// nearest is the word of which s may be a misspelling, or "" if none is near.
func nearest(s string, words []string) string {
	best, limit := "", max(1, len(s)/3)
	if len(s) > 64 {
		return ""
	}
	for _, w := range words {
		if d := distance(strings.ToLower(s), strings.ToLower(w)); d <= limit && d < len(w) {
			best, limit = w, d-1
		}
	}
	return best
}

// distance is Levenshtein's: how many letters must be put in, taken out or replaced.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
