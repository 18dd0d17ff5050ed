package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The YAML tree is walked here, not by the library: its decoder forgets where each key was, and
// accepts a duplicate key.

// chartKeys are other blocks of Omnia's Helm values: three that may stand in a configuration
// file and mean nothing to the gateway, and some by which a values file is known that was given
// as the configuration file.
var (
	ignoredChartKeys = []string{"istio", "gateway", "internalGateway"}
	chartKeys        = []string{
		"replicaCount", "image", "operator", "dashboard", "facade", "framework", "enterprise", "postgres", "redis", "podDisruptionBudget",
		"serviceAccount", "global", "nameOverride", "fullnameOverride", "imagePullSecrets", "workspaces", "workspaceServices",
		"prometheus", "grafana",
	}
)

// parseYAML returns the root of the one document in text, nil if there is none. It reports where
// the first mistake is, and what. Its time is linear in the length of text.
func parseYAML(text string, report func(line, column int, text, hint string)) (root *yaml.Node, ok bool) {
	if i := plainText(text); i >= 0 {
		before := text[:i]
		line := strings.Count(before, "\n") + 1
		report(line, len([]rune(before[strings.LastIndex(before, "\n")+1:]))+1, "NUL byte, or not UTF-8", "save the file as UTF-8 text")
		return nil, false
	}
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var doc yaml.Node
		switch err := d.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return root, true
		case err != nil:
			line, message := syntaxError(err)
			line, hint := syntaxHint(text, line, message)
			report(line, 0, "not YAML: "+message, hint)
			return nil, false
		case len(doc.Content) == 0 || isNull(doc.Content[0]):
		case root != nil:
			at := doc.Content[0]
			report(at.Line, at.Column, "a second document", "put everything into one, without --- between")
			return nil, false
		default:
			root = doc.Content[0]
		}
	}
}

var (
	librarysWords = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)
	parsersWords  = regexp.MustCompile(`^did not find expected (<|key|node content|'-'|',')`)
)

// syntaxError returns the line that the library complains about, and its complaint fit for a
// terminal: it may hold a character of the file.
func syntaxError(err error) (line int, message string) {
	message = "not readable"
	line = 1 // the library leaves the first line out
	if m := librarysWords.FindStringSubmatch(err.Error()); m != nil {
		message = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
			if parsersWords.MatchString(message) { // its parser counts lines from 0, its scanner from 1
				line++
			}
		}
	}
	if strings.HasPrefix(message, "unknown anchor") {
		line, message = 0, "an alias of an anchor that is not there" // its name might be a secret that begins with a star
	}
	quoted := strconv.QuoteToGraphic(message)
	return line, strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// at is the place of a node: its own in the file, the whole variable in the environment.
func (l *loader) at(n *yaml.Node) Place {
	if l.variable != "" {
		return Place{Name: l.variable}
	}
	return Place{Name: l.file, Line: n.Line, Column: n.Column}
}

// decodeFile decodes the text of the file into c, over what is there.
func (l *loader) decodeFile(text string, c *Config) {
	root, ok := parseYAML(text, func(line, column int, text, hint string) {
		l.problem(Place{l.file, line, column}, "", text, hint)
	})
	if ok && root != nil {
		l.decode(root, l.at(root), reflect.ValueOf(c).Elem(), "")
	}
}

// decode puts a node into v, the value of key, and reports whether it could. It goes on after a
// mistake, so that all of them are found.
func (l *loader) decode(n *yaml.Node, at Place, v reflect.Value, key string) bool {
	if l.variable == "" && key != "" {
		l.places[key] = at
	}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		l.problem(at, key, "anchors and aliases are not supported", "write the value out")
		return false
	case n.Style&yaml.TaggedStyle != 0:
		l.problem(at, key, "tags are not supported", "write the value without it")
		return false
	case isScalar(v.Type()):
		return l.decodeScalar(n, at, v, key)
	case v.Type() == claimValueType:
		return l.decodeClaimValue(n, at, v, key)
	case v.Kind() == reflect.Interface:
		return l.decodeAny(n, at, v, key)
	case v.Kind() == reflect.Slice:
		return l.decodeList(n, at, v, key)
	case isNull(n):
		return true // a block without a value
	case n.Kind != yaml.MappingNode:
		l.problem(at, key, called(n)+" where keys with values belong", `write "key: value" lines`)
		return false
	}
	if v.Kind() == reflect.Map {
		return l.decodeMap(n, v, key)
	}
	return l.decodeStruct(n, v, key)
}

// eachKey calls f for every pair of a mapping whose key can be one and was not given before.
func (l *loader) eachKey(n *yaml.Node, key string, f func(name string, at Place, value *yaml.Node)) (ok bool) {
	ok = true
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		word, value := n.Content[i], n.Content[i+1]
		at := l.at(word)
		if word.Kind != yaml.ScalarNode || word.Anchor != "" || word.Style&yaml.TaggedStyle != 0 || word.ShortTag() == "!!merge" {
			l.problem(at, key, "merge keys and other keys that are no plain text are not supported", "write the keys out")
			ok = false
			continue
		}
		name := word.Value
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
		f(name, at, value)
	}
	return ok
}

func (l *loader) decodeStruct(n *yaml.Node, v reflect.Value, key string) bool {
	fields := map[string]int{}
	var names []string
	for f := range v.Type().Fields() {
		if name := f.Tag.Get("yaml"); name != "-" {
			fields[name] = f.Index[0]
			names = append(names, name)
		}
	}
	good := true
	isConfig := v.Type() == reflect.TypeFor[Config]()
	var ignored []string
	var unknown Problems
	keysGood := l.eachKey(n, key, func(name string, at Place, value *yaml.Node) {
		i, known := fields[name]
		switch {
		case known && l.chart && isNull(value):
			l.restore(v.Field(i), join(key, name))
			return
		case known:
			good = l.decode(value, at, v.Field(i), join(key, name)) && good
			return
		case isConfig && slices.Contains(ignoredChartKeys, name):
			ignored = append(ignored, name)
			return
		default:
			hint, meant := unknownKey(key, name, names)
			if meant != "" {
				l.bad[meant] = true // and do not say as well that it is missing
			}
			unknown = append(unknown, Problem{Place: at, Key: join(key, name), Text: "unknown key", Hint: hint})
		}
		good = false
	})
	if isConfig {
		unknown = gatherChartKeys(unknown)
	}
	for _, p := range unknown {
		l.problem(p.Place, p.Key, p.Text, p.Hint)
	}
	if len(ignored) > 0 {
		l.notes = append(l.notes, fmt.Sprintf("%s: %s of the Helm chart ignored", l.file, strings.Join(ignored, ", ")))
	}
	return good && keysGood
}

// gatherChartKeys makes one problem of all unknown keys, if they show that the file is a values
// file of the chart.
func gatherChartKeys(unknown Problems) Problems {
	i := slices.IndexFunc(unknown, func(p Problem) bool { return slices.Contains(chartKeys, p.Key) })
	if i < 0 {
		return unknown
	}
	p := unknown[i]
	p.Text = fmt.Sprintf("a key of the Helm chart (one of %d that are unknown here)", len(unknown))
	p.Hint = "give a values file with --values instead of --config"
	return Problems{p}
}

// restore gives the value of key back its default: in a values file null takes back what was
// said before.
func (l *loader) restore(v reflect.Value, key string) {
	l.forget(key)
	if at := reflect.ValueOf(Default()); !strings.Contains(key, "[") { // the elements of lists have their defaults already
		for name := range strings.SplitSeq(key, ".") {
			for f := range at.Type().Fields() {
				if f.Tag.Get("yaml") == name {
					at = at.FieldByIndex(f.Index)
					break
				}
			}
		}
		v.Set(at)
	}
}

func (l *loader) decodeMap(n *yaml.Node, v reflect.Value, key string) bool {
	v.Set(reflect.MakeMap(v.Type()))
	good := true
	keysGood := l.eachKey(n, key, func(name string, at Place, value *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		good = l.decode(value, at, item, join(key, name)) && good
		v.SetMapIndex(reflect.ValueOf(name), item)
	})
	return good && keysGood
}

// decodeList replaces the list in v. Elements start from their own defaults.
func (l *loader) decodeList(n *yaml.Node, at Place, v reflect.Value, key string) bool {
	if names, ok := v.Addr().Interface().(*ClaimNames); ok && n.Kind == yaml.ScalarNode && called(n) == "text" {
		*names = ClaimNames{n.Value}
		return true
	}
	if n.Kind != yaml.SequenceNode {
		l.problem(at, key, called(n)+" where a list belongs", "write [a, b], or lines that begin with a dash; [] for an empty list")
		return false
	}
	if l.chart && !strings.Contains(key, "[") {
		l.forget(key) // what an earlier file has said of its elements
		l.places[key] = at
	}
	list := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	good := true
	for i, e := range n.Content {
		item, itemKey := blank(v.Type().Elem()), fmt.Sprintf("%s[%d]", key, i)
		if isNull(e) {
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

// blank returns an element of a list with its defaults.
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

func (l *loader) decodeScalar(n *yaml.Node, at Place, v reflect.Value, key string) bool {
	if v.Kind() == reflect.Pointer {
		said := reflect.New(v.Type().Elem())
		good := l.decodeScalar(n, at, said.Elem(), key)
		if good {
			v.Set(said)
		}
		return good
	}
	if isNull(n) {
		l.problem(at, key, "no value", "give one, or leave the key out for its default")
		return false
	}
	text, ok := scalarText(n, v.Type())
	if !ok {
		l.problem(at, key, called(n)+" where "+wanted(v.Type())+" belongs", hintFor(key, v.Type(), n.Value))
		return false
	}
	if !parseScalar(v, text) {
		l.problem(at, key, "not "+wanted(v.Type()), hintFor(key, v.Type(), text))
		return false
	}
	return true
}

// decodeClaimValue reads what a claim must be: a text, or without quotes a boolean or a number. A
// variable knows texts only, because most of them are written by hand in a shell.
func (l *loader) decodeClaimValue(n *yaml.Node, at Place, v reflect.Value, key string) bool {
	const hint = `write one text in quotes ("{agent}" needs them), true, false or a number`
	what := called(n)
	switch {
	case n.Kind != yaml.ScalarNode:
		l.problem(at, key, what+" where a value belongs", hint)
		return false
	case l.variable != "" && what != "text":
		l.problem(at, key, what+", and a variable can ask for text only", "write it in quotes for the text, or without them in the file")
		return false
	case !l.decodeAny(n, at, v, key):
		return false
	}
	if number, ok := v.Interface().(json.Number); ok && !isClaimNumber(number) {
		l.problem(at, key, "a number that no token has", "write one of less than 64 characters that a double can hold")
		return false
	}
	if n.Style == 0 && slices.Contains([]string{"yes", "no", "on", "off"}, strings.ToLower(n.Value)) {
		l.notes = append(l.notes, fmt.Sprintf("%s: %s: %s is a text here and a boolean for other readers of YAML; write it in quotes, "+
			"or write true or false", at, key, n.Value))
	}
	return true
}

// isClaimNumber reports whether a token can hold a number, and its digits can be written out.
func isClaimNumber(n json.Number) bool {
	f, err := n.Float64()
	isZero := strings.Trim(n.String(), "-0.") == ""
	return err == nil && (f == 0) == isZero && len(n) < 64
}

// scalarText is the text of a scalar node if YAML took it for something from which a t may be
// made: no quoted booleans, no bare numbers as text (1.20 would lose its 0 on the way through
// other programs).
func scalarText(n *yaml.Node, t reflect.Type) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		return "", false
	}
	switch n.ShortTag() {
	case "!!bool":
		return n.Value, t.Kind() == reflect.Bool
	case "!!int":
		if t == durationType {
			return n.Value, n.Value == "0" // any other number would need a unit
		}
		return n.Value, t.Kind() == reflect.Int || t.Kind() == reflect.Int64 || t.Kind() == reflect.Float64
	case "!!float":
		return n.Value, t.Kind() == reflect.Float64
	}
	return n.Value, t.Kind() == reflect.String || t == durationType || t == prefixType || t == timeType
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
	timeType     = reflect.TypeFor[time.Time]()

	claimValueType = reflect.TypeFor[ClaimValue]()
)

func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		return true
	}
	return t == prefixType || t == timeType || t.Kind() == reflect.Pointer && isScalar(t.Elem()) // nil where nothing was said
}

// parseScalar reads the text of a scalar, from the file or from a variable, into v.
func parseScalar(v reflect.Value, text string) bool {
	switch v.Type() {
	case durationType:
		d, err := time.ParseDuration(text)
		v.SetInt(int64(d))
		return err == nil
	case prefixType:
		p, ok := parseNetwork(text)
		v.Set(reflect.ValueOf(p))
		return ok
	case timeType:
		at, err := time.Parse(time.RFC3339, text)
		v.Set(reflect.ValueOf(at))
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

// parseNetwork reads address/bits, or an address alone, which is a network of one address.
func parseNetwork(text string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	p, err := netip.ParsePrefix(text)
	return p, err == nil
}

// wanted returns the name of a type for the operator.
func wanted(t reflect.Type) string {
	switch t {
	case durationType:
		return "a duration"
	case prefixType:
		return "a network"
	case timeType:
		return "a time"
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

// exampleOf returns the hint for a scalar that could not be read.
func exampleOf(t reflect.Type) string {
	switch t {
	case durationType:
		return "write it with its unit, such as 30s, 5m or 1h30m"
	case prefixType:
		return "write address/bits, such as 10.0.0.0/8, or one address, such as 192.0.2.1"
	case timeType:
		return "write date, time and zone (RFC 3339), such as 2027-01-31T00:00:00Z"
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

// called names what is in the file.
func called(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys with values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "nothing"
	}
	return "text"
}

// join appends a name to the path of the keys around it. A name that is not a plain word is
// quoted, because it is printed to a terminal.
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

// nearest returns the word that s may be a misspelling of, or "" if none is near.
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

// distance returns the Levenshtein distance: how many letters must be inserted, removed or
// replaced.
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
