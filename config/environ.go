package config

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/caarlos0/env/v11"
)

const variablePrefix = "OMNIA_GATEWAY_"

// variable is one environment variable and the key that it replaces.
type variable struct{ name, key string }

// everyDrop is the key of the one variable that is for all routes: a container without a file
// has no other place for it.
const everyDrop = "routes[].query.drop"

// variables are all there are, in the order of the types; the one for all routes comes after
// that of the routes.
func variables() []variable {
	return append(variablesOf(reflect.TypeFor[Config](), variablePrefix, ""), variable{variablePrefix + "QUERY_DROP", everyDrop})
}

func variablesOf(t reflect.Type, prefix, key string) (all []variable) {
	for f := range t.Fields() {
		k := join(key, f.Tag.Get("yaml"))
		if name := f.Tag.Get("env"); name != "" {
			all = append(all, variable{prefix + name, k})
		} else if f.Type.Kind() == reflect.Struct {
			all = append(all, variablesOf(f.Type, prefix+f.Tag.Get("envPrefix"), k)...)
		}
	}
	return all
}

// ofKubernetes are the variables that Kubernetes sets for a Service whose name begins with
// omnia-gateway, each with the form of its value. A variable of such a name with another value
// is an operator's mistake: OMNIA_GATEWAY_PORT=8443.
var ofKubernetes = []struct{ name, value *regexp.Regexp }{
	{regexp.MustCompile(`^([A-Z0-9_]+_)?SERVICE_HOST$`), regexp.MustCompile(`^[0-9a-fA-F.:]+$`)},
	{regexp.MustCompile(`^([A-Z0-9_]+_)?SERVICE_PORT(_[A-Z0-9_]+)?$`), regexp.MustCompile(`^[0-9]+$`)},
	{regexp.MustCompile(`^([A-Z0-9_]+_)?PORT(_[0-9]+_(TCP|UDP|SCTP))?$`), regexp.MustCompile(`^(tcp|udp|sctp)://[0-9a-fA-F.:\[\]]+$`)},
	{regexp.MustCompile(`^([A-Z0-9_]+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_PROTO$`), regexp.MustCompile(`^(tcp|udp|sctp)$`)},
	{regexp.MustCompile(`^([A-Z0-9_]+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_PORT$`), regexp.MustCompile(`^[0-9]+$`)},
	{regexp.MustCompile(`^([A-Z0-9_]+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_ADDR$`), regexp.MustCompile(`^[0-9a-fA-F.:]+$`)},
}

// isOfKubernetes reports whether Kubernetes has set a variable.
func isOfKubernetes(name, value string) bool {
	for _, form := range ofKubernetes {
		if form.name.MatchString(strings.TrimPrefix(name, variablePrefix)) && form.value.MatchString(value) {
			return true
		}
	}
	return false
}

// readEnvironment puts the variables over c. Each is given to the library alone, because its
// errors do not name the variable.
func (l *loader) readEnvironment(c *Config, environ []string) {
	given := map[string]string{}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, variablePrefix) {
			given[name] = value
		}
	}
	if value, ok := given[fileVariable]; ok && strings.TrimSpace(value) == "" {
		l.problems = append(l.problems, Problem{Place: Place{Name: fileVariable}, Text: "empty",
			Hint: "unset it, or name the configuration file"})
	}
	delete(given, fileVariable)
	for _, v := range variables() {
		value, ok := given[v.name]
		if !ok {
			continue
		}
		delete(given, v.name)
		l.variable = v.name
		if strings.TrimSpace(value) == "" {
			// An empty value is what a template leaves when something is missing, and would
			// silently switch a check off.
			l.problem(Place{Name: v.name}, v.key, "empty", "unset it, or write [] for an empty list")
			continue
		}
		if !utf8.ValidString(value) {
			l.problem(Place{Name: v.name}, v.key, "not UTF-8", "write it as UTF-8 text")
			continue
		}
		if v.key == everyDrop {
			l.dropOnEveryRoute(c, value)
			continue
		}
		l.forget(v.key)
		l.places[v.key] = Place{Name: v.name}
		before := len(l.problems)
		err := env.ParseWithOptions(c, env.Options{
			Environment: map[string]string{v.name: value},
			Prefix:      variablePrefix,
			FuncMap:     l.parsers(v.key),
		})
		if err != nil && len(l.problems) == before { // never the library's message: it repeats the value
			l.problem(Place{Name: v.name}, v.key, "not readable", "see docs/configuration.md for how it is written")
		}
	}
	l.reportUnknown(given)
}

// dropOnEveryRoute reads the list of parameters that all routes drop.
func (l *loader) dropOnEveryRoute(c *Config, value string) {
	var drop []string
	if !l.decodeVariable(strings.TrimSpace(value), reflect.ValueOf(&drop).Elem(), everyDrop) {
		return
	}
	for i := range c.Routes {
		c.Routes[i].Query.Drop = slices.Clone(drop)
		key := index("routes", i) + ".query.drop"
		l.forget(key)
		l.places[key] = Place{Name: l.variable}
	}
}

// reportUnknown reports variables with our prefix that mean nothing: the one that was meant
// would be missing, and with it perhaps a rule.
func (l *loader) reportUnknown(given map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if isOfKubernetes(name, given[name]) {
			continue
		}
		hint, meant := unknownVariable(name)
		l.problems = append(l.problems, Problem{Place: Place{Name: join("", name)}, Text: "unknown variable", Hint: hint})
		if meant != "" {
			l.bad[meant] = true // and do not say as well that it is missing
		}
	}
}

// parsers read the variable of key, whatever type it has, by the rules of the file.
func (l *loader) parsers(key string) map[reflect.Type]env.ParserFunc {
	parsers := map[reflect.Type]env.ParserFunc{}
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		for f := range t.Fields() {
			if f.Tag.Get("env") == "" {
				if f.Type.Kind() == reflect.Struct {
					add(f.Type)
				}
				continue
			}
			parsers[f.Type] = func(text string) (any, error) {
				v := reflect.New(f.Type).Elem()
				l.decodeVariable(strings.TrimSpace(text), v, key) // reports by itself
				return v.Interface(), nil
			}
		}
	}
	add(reflect.TypeFor[Config]())
	return parsers
}

// decodeVariable reads the text of the variable into v: a scalar, a list as YAML or JSON when it
// begins with a bracket, else a list in the short form of its type.
func (l *loader) decodeVariable(text string, v reflect.Value, key string) bool {
	at := Place{Name: l.variable}
	if isScalar(v.Type()) {
		if !parseScalar(v, text) {
			l.problem(at, key, "not "+wanted(v.Type()), hintFor(key, v.Type(), text))
			return false
		}
		return true
	}
	if isQuoted(text) { // its first and its last item would have one quote each
		what, hint := leftover(text)
		l.problem(at, key, what, hint)
		return false
	}
	if strings.HasPrefix(text, "[") {
		root, ok := parseYAML(text, func(int, int, string, string) {
			// The parser's words may repeat the value.
			l.problem(at, key, "not a list in YAML or JSON", "look at its quotes and brackets")
		})
		return ok && l.decode(root, at, v, key)
	}
	switch list := v.Addr().Interface().(type) {
	case *[]string:
		return decodeItems(l, list, key, text, ",", "a,b", func(item string) (string, bool) { return item, true })
	case *ClaimNames:
		return decodeItems(l, list, key, text, ",", "sub,client_id", func(item string) (string, bool) { return item, true })
	case *[]netip.Prefix:
		return decodeItems(l, list, key, text, ",", "10.0.0.0/8,192.0.2.1", func(item string) (netip.Prefix, bool) {
			return parseNetwork(item)
		})
	case *Routes:
		return decodeItems(l, list, key, text, ";", "/my-agent=http://my-agent:8080;/other=http://other:8080",
			func(item string) (Route, bool) {
				r, ok := DefaultRoute(), false
				r.Path, r.Upstream, ok = cutTrimmed(item, "=")
				return r, ok
			})
	case *ClaimHeaders:
		return decodeItems(l, list, key, text, ",", "x-user-id=sub,x-user-roles=roles:json", func(item string) (ClaimHeader, bool) {
			header, claim, ok := cutTrimmed(item, "=")
			h := ClaimHeader{Header: header, Claim: claim}
			// A claim may be a URL, so only a format that exists is one.
			if i := strings.LastIndexByte(claim, ':'); i >= 0 && slices.Contains(claimFormats, claim[i+1:]) {
				h.Claim, h.Format = claim[:i], claim[i+1:]
			}
			return h, ok
		})
	case *HeaderSources:
		return decodeItems(l, list, key, text, ",", "Authorization=Bearer,X-Token", func(item string) (HeaderSource, bool) {
			name, scheme, ok := cutTrimmed(item, "=")
			if ok {
				scheme += " "
			}
			return HeaderSource{Name: name, Prefix: scheme}, true
		})
	case *RequiredClaims:
		return decodeItems(l, list, key, text, ";", "scope=agents:access;role=user|admin", func(item string) (RequiredClaim, bool) {
			claim, values, ok := cutTrimmed(item, "=")
			c := RequiredClaim{Claim: claim}
			for value := range strings.SplitSeq(values, "|") {
				c.Values = append(c.Values, strings.TrimSpace(value))
			}
			return c, ok
		})
	}
	l.problem(at, key, "not a list in YAML or JSON", `write it like [{"issuer": "https://other.example.com", "audiences": ["agents"]}]`)
	return false
}

// decodeItems reads a list in its short form.
func decodeItems[E any, L ~[]E](l *loader, list *L, key, text, separator, example string, read func(item string) (E, bool)) bool {
	*list = nil
	good := true
	other := ";"
	if separator == other {
		other = ","
	}
	for item := range strings.SplitSeq(text, separator) {
		item = strings.TrimSpace(item)
		e, ok := read(item)
		at, hint := index(key, len(*list)), "write the list like "+example
		if strings.Contains(item, other) {
			separated := fmt.Sprintf("entries are separated by %q", separator)
			l.unsplit[at], hint = separated, separated+": "+hint
			l.notes = append(l.notes, fmt.Sprintf("%s: %s has %q in one of its entries; %s", l.variable, key, other, separated))
		}
		if item == "" || !ok {
			l.problem(Place{Name: l.variable}, at, "not readable", hint)
			l.bad[key] = true
			good = false
		}
		*list = append(*list, e)
	}
	return good
}

func cutTrimmed(s, sep string) (before, after string, found bool) {
	before, after, found = strings.Cut(s, sep)
	return strings.TrimSpace(before), strings.TrimSpace(after), found
}
