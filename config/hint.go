package config

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// This file knows what operators meant when they wrote something else.

// leftover finds in a text what a template, a shell or an env file should have taken away, and
// returns what it is and what to do. No token and no request ever has a value like that.
func leftover(value string) (what, hint string) {
	switch {
	case isQuoted(value):
		return "quotes around the value are a part of it", "remove them; an env file keeps quotes"
	case unreplaced.MatchString(value):
		return "a variable in it was not replaced", "write its value; only a shell, compose and the like put variables in"
	case strings.Contains(value, "{{"):
		return "a template in it was not filled in", "give what the template makes, such as the output of helm template"
	case strings.Contains(value, " #"):
		return "a comment is a part of the value", "put the comment on a line of its own; an env file keeps it"
	case placeholder.MatchString(value):
		return "a placeholder in angle brackets was not replaced", "write what it stands for"
	case strings.TrimSpace(value) != value:
		return "white space at an end is a part of the value", "remove it"
	}
	return "", ""
}

// isQuoted reports whether a text begins and ends with the same quote.
func isQuoted(text string) bool {
	return len(text) > 1 && text[0] == text[len(text)-1] && strings.ContainsRune(`"'`, rune(text[0]))
}

// unreplaced matches ${NAME}, $(NAME), $NAME and %NAME%. What may be a percent-escape, or a path
// such as /$batch, is none.
var unreplaced = regexp.MustCompile(`\$[{(]|^\$[A-Za-z_]\w*$|(?:^|[/:.@=])\$[A-Z_][A-Z0-9_]*\b|^%[A-Za-z_]\w*%$|%[G-Zg-z_]\w*%`)

var placeholder = regexp.MustCompile(`<[A-Za-z][^<>]*>`)

// leftovers are the keys of all texts in c that leftover finds something in, and what.
func (c *Config) leftovers() map[string][2]string {
	found := map[string][2]string{}
	var walk func(v reflect.Value, key string)
	walk = func(v reflect.Value, key string) {
		switch {
		case v.Kind() == reflect.String:
			text := v.String()
			if strings.HasSuffix(key, ".prefix") { // that of a header ends in a space
				text = strings.TrimSuffix(text, " ")
			}
			if what, hint := leftover(text); what != "" {
				found[key] = [2]string{what, hint}
			}
		case isScalar(v.Type()):
		case v.Kind() == reflect.Interface && !v.IsNil():
			walk(v.Elem(), key)
		case v.Kind() == reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i), index(key, i))
			}
		case v.Kind() == reflect.Map:
			for _, name := range v.MapKeys() {
				walk(v.MapIndex(name), join(key, name.String()))
			}
		case v.Kind() == reflect.Struct:
			for f := range v.Type().Fields() {
				if name := f.Tag.Get("yaml"); name != "-" {
					walk(v.FieldByIndex(f.Index), under(key, name))
				}
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	maps.Copy(found, c.wordsInOne())
	return found
}

// wordsInOne are the values of several words that rules want of a claim whose text is a list with
// spaces between the elements, each of which is one word.
func (c *Config) wordsInOne() map[string][2]string {
	found := map[string][2]string{}
	look := func(key string, claims RequiredClaims, issuers ...JWT) {
		for i, claim := range claims {
			if slices.ContainsFunc(issuers, func(j JWT) bool { return !j.Splits(claim.Claim) }) {
				continue
			}
			for j, value := range claim.Values {
				if text, ok := value.(string); ok && len(strings.Fields(text)) > 1 {
					found[index(index(key, i)+".values", j)] = [2]string{
						"several words, where each word of " + claim.Claim + " is an element",
						"write one word; of several values one is enough, and each entry of requiredClaims must be met"}
				}
			}
		}
	}
	a := c.Authentication
	look("authentication.authorization.requiredClaims", a.Authorization.RequiredClaims, a.Issuers()...)
	look("authentication.jwt.requiredClaims", a.JWT.RequiredClaims, a.JWT)
	for i, j := range a.JWTRules {
		look(index("authentication.jwtRules", i)+".requiredClaims", j.RequiredClaims, j)
	}
	for i, r := range c.Routes {
		look(index("routes", i)+".requiredClaims", r.RequiredClaims, a.Issuers()...)
	}
	return found
}

// under is the key of a field.
func under(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// homesOf are the blocks that have a key of this name: "" is the file as a whole. Of the blocks
// in lists only those of routes count.
func homesOf(name string) (blocks []string) {
	name = joinedWords(name)
	var walk func(t reflect.Type, key string)
	walk = func(t reflect.Type, key string) {
		for f := range t.Fields() {
			word := f.Tag.Get("yaml")
			if joinedWords(word) == name && word != "-" {
				blocks = append(blocks, key)
			}
			switch {
			case f.Type == reflect.TypeFor[Routes]():
				walk(f.Type.Elem(), under(key, word)+"[]")
			case f.Type == reflect.TypeFor[RouteLimits](), f.Type == reflect.TypeFor[RouteSession](): // keys of elsewhere
			case f.Type.Kind() == reflect.Struct && !isScalar(f.Type):
				walk(f.Type, under(key, word))
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
	return blocks
}

// joinedWords returns a key without what may stand between its words, in lower case.
func joinedWords(s string) string { return betweenWords.Replace(strings.ToLower(s)) }

var betweenWords = strings.NewReplacer("_", "", "-", "")

// unknownKey returns the hint for a key that a block does not have, and the full path of the key
// that was meant, if it can be told.
func unknownKey(key, name string, known []string) (hint, meant string) {
	near := nearest(name, known)
	if near != "" && distance(strings.ToLower(name), strings.ToLower(near)) <= 1 {
		return fmt.Sprintf("did you mean %q?", near), join(key, near)
	}
	homes := homesOf(name)
	if inside := slices.DeleteFunc(slices.Clone(homes), func(h string) bool { return !strings.HasPrefix(h, key+".") }); len(inside) > 0 {
		homes = inside
	}
	if len(homes) > 0 {
		if len(homes) == 1 && !strings.Contains(homes[0], "[") {
			meant = under(homes[0], name)
		}
		for i, home := range homes {
			if homes[i] = home; home == "" {
				homes[i] = "the file as a whole"
			}
		}
		return "it is a key of " + strings.Join(homes, " or of "), meant
	}
	if near != "" {
		return fmt.Sprintf("did you mean %q?", near), join(key, near)
	}
	return "known here: " + strings.Join(known, ", "), ""
}

// unknownVariable returns the hint for a variable that is none, and the key that was meant, if
// it can be told.
func unknownVariable(name string) (hint, meant string) {
	name = strings.TrimPrefix(name, variablePrefix)
	var names []string
	keys := map[string]string{}
	for _, v := range variables() {
		short := strings.TrimPrefix(v.name, variablePrefix)
		names = append(names, short)
		keys[short] = v.key
	}
	near := nearest(name, names)
	if near == "" {
		near = variableLike(name, names, keys)
	}
	if near == "" {
		return "docs/configuration.md has all; unset it", ""
	}
	return "did you mean " + variablePrefix + near + "?", keys[near]
}

// otherWords are what other programs call a variable.
var otherWords = map[string]string{
	"PORT": "LISTEN", "ADDR": "LISTEN", "ADDRESS": "LISTEN", "UPSTREAM": "ROUTES", "DEBUG": "LOG_LEVEL", "AUDIENCES": "JWT_AUDIENCES",
}

// variableLike returns the variable whose key, or whose last words, a name spells out; "" if
// there is not exactly one.
func variableLike(name string, names []string, keys map[string]string) string {
	if near, ok := otherWords[name]; ok {
		return near
	}
	var like []string
	for _, n := range names {
		switch {
		case snake(keys[n]) == name:
			return n
		case strings.HasSuffix(n, "_"+name) || strings.HasSuffix(name, "_"+n):
			like = append(like, n)
		}
	}
	if len(like) != 1 {
		return ""
	}
	return like[0]
}

var wordStart = regexp.MustCompile(`([a-z])([A-Z])`)

// snake is a key as a variable would spell it: authentication.jwt.jwksUri is
// AUTHENTICATION_JWT_JWKS_URI.
func snake(key string) string {
	return strings.ToUpper(strings.ReplaceAll(wordStart.ReplaceAllString(key, "${1}_${2}"), ".", "_"))
}

// hintFor is the hint for a scalar of another type than key has.
func hintFor(key string, t reflect.Type, text string) string {
	switch {
	case (key == "listen" || key == "admin.listen") && isDigits(text):
		return portHint(key, text)
	case key == "tls.minVersion":
		return `write it in quotes: "1.2" or "1.3"`
	case t == durationType && strings.HasSuffix(text, "d"):
		return "the largest unit is the hour: write a day as 24h"
	}
	if what, hint := leftover(text); what != "" {
		return what + "; " + hint
	}
	return exampleOf(t)
}

// portHint is the hint for an address that is a port alone. A port is no secret.
func portHint(key, port string) string {
	if key == "admin.listen" {
		return fmt.Sprintf(`write "127.0.0.1:%s", or ":%s" for all interfaces`, port, port)
	}
	return fmt.Sprintf(`write ":%s"`, port)
}

func isDigits(s string) bool {
	return s != "" && len(s) <= 5 && !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' })
}

// syntaxHint returns what to look for in a text that is not YAML, and in which line: the library
// complains about a line that may be the first of the block in which the mistake is.
func syntaxHint(text string, line int, complaint string) (int, string) {
	lines := strings.Split(text, "\n")
	first := max(line-2, 0) // of those that may be meant
	said := func(words string) bool { return strings.Contains(complaint, words) }
	if n := slices.IndexFunc(lines[min(first, len(lines)):min(line+1, len(lines))], tabbed.MatchString); n >= 0 {
		return first + n + 1, "indent with spaces: YAML takes no tab for it"
	}
	if n := slices.IndexFunc(lines[min(first, len(lines)):], bracedText.MatchString); n >= 0 && said("did not find expected") {
		return first + n + 1, `put the text in quotes, such as "http://{agent}.agents:8080": a brace begins a block`
	}
	switch {
	case said("expected key") || said("expected '-' indicator"):
		if n := misindented(lines, first); n > 0 {
			return n, "this line has other indentation than the lines beside it: give it as many spaces"
		}
	case said("expected alphabetic") || said("an alias"):
		return line, `put a text that begins with * or & in quotes, such as "*"`
	case said("cannot start any token"):
		return line, "put a text that begins with @, % or a backquote in quotes"
	case said("mapping values are not allowed"):
		return line, `put a text with ": " in it in quotes; or this line is too far to the right, or the colon before it lacks a space`
	case said("end of stream"):
		return line, "a quote that is opened here or before is not closed"
	case said("could not find expected ':'"):
		return line, `write "key: value", with a space after the colon`
	}
	return line, `look at the indentation, brackets and quotes here and on the line before ("{agent}" inside braces needs quotes)`
}

var (
	tabbed     = regexp.MustCompile(`^ *\t+\s*[^\s#]`)
	bracedText = regexp.MustCompile(`(?:[:,[-]|^) *[^\s"'{,[]*\{[A-Za-z][A-Za-z0-9_-]*\}[^\s,}\]]`)
)

// misindented returns the number of the first line after so many whose indentation is that of no
// block around it, or 0. It knows nothing of texts and brackets over several lines.
func misindented(lines []string, first int) int {
	var open []int // indentations of the blocks around a line
	for n, line := range lines {
		content := strings.TrimLeft(line, " ")
		if content = strings.TrimRight(content, "\r"); content == "" || content[0] == '#' {
			continue
		}
		indent, closed := len(line)-len(strings.TrimLeft(line, " ")), false
		for len(open) > 0 && open[len(open)-1] > indent {
			open, closed = open[:len(open)-1], true
		}
		if len(open) == 0 || open[len(open)-1] < indent {
			if closed && n >= first {
				return n + 1
			}
			open = append(open, indent)
		}
		for strings.HasPrefix(content, "- ") { // what follows a dash is a block of its own
			rest := strings.TrimLeft(content[1:], " ")
			indent += len(content) - len(rest)
			content, open = rest, append(open, indent)
		}
	}
	return 0
}
