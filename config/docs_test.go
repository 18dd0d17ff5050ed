package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The table of docs/configuration.md stands between these two lines.
const (
	tableBegin = "<!-- The table is generated: go test ./config -run TestConfigurationTable -update -->\n"
	tableEnd   = "<!-- end of the table -->\n"
)

// TestConfigurationTable makes the table from the types: key, variable and default by
// reflection, the meaning from the fields' comments.
func TestConfigurationTable(t *testing.T) {
	const file = "../docs/configuration.md"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatal("the lines around the table are missing")
	}
	want := before + tableBegin + "\n" + table(t) + "\n" + tableEnd + after
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(raw) != want {
		t.Error("the table does not fit the types any more: go test ./config -run TestConfigurationTable -update")
	}
}

func table(t *testing.T) string {
	comments := fieldComments(t)
	names := map[string]string{}
	for _, v := range variables() {
		names[v.key] = v.name
	}
	var b strings.Builder
	b.WriteString("| key | environment variable | default | meaning |\n|---|---|---|---|\n")
	var walk func(v reflect.Value, key string)
	walk = func(v reflect.Value, key string) {
		for f := range v.Type().Fields() {
			name := f.Tag.Get("yaml")
			if name == "-" {
				continue
			}
			k := join(key, name)
			if key != "" {
				k = key + "." + name // join would quote the brackets of a list
			}
			comment := comments[v.Type().Name()+"."+f.Name]
			if comment == "" {
				t.Errorf("%s.%s has no comment", v.Type().Name(), f.Name)
			}
			value, isBlock := v.FieldByIndex(f.Index), f.Type.Kind() == reflect.Struct
			cells := []string{code(k), code(names[k]), "", comment}
			if !isBlock {
				cells[2] = code(flow(value))
			}
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
			if isBlock {
				walk(value, k)
			} else if e := f.Type; hasKeys(e) && e != reflect.TypeFor[JWTRules]() {
				walk(blank(e.Elem()), k+"[]")
			}
		}
	}
	walk(reflect.ValueOf(Default()), "")
	return b.String()
}

// hasKeys reports whether t is a list whose elements have keys.
func hasKeys(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && t.Elem() != prefixType
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
}

// flow writes a default as the file would.
func flow(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); s == "" || strings.ContainsAny(s, ": ") || s == "1.2" {
			return fmt.Sprintf("%q", s)
		}
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = flow(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map:
		return "{}"
	case reflect.Pointer:
		return "" // nothing said
	case reflect.Struct:
		var pairs []string
		for f := range v.Type().Fields() {
			if value := v.FieldByIndex(f.Index); !value.IsZero() {
				pairs = append(pairs, f.Tag.Get("yaml")+": "+flow(value))
			}
		}
		return "{" + strings.Join(pairs, ", ") + "}"
	}
	return strings.Replace(fmt.Sprint(v), "1m0s", "60s", 1)
}

// fieldComments are the comments of all fields of config.go as one line each, with the names of
// fields replaced by those of their keys.
func fieldComments(t *testing.T) map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments, keys := map[string]string{}, map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				comments[spec.Name.Name+"."+f.Names[0].Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
				keys[f.Names[0].Name] = reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml")
			}
		}
		return false
	})
	markdown := strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;")
	word := regexp.MustCompile(`\b[A-Za-z]+\b`)
	for field, comment := range comments {
		first := true
		comments[field] = markdown.Replace(word.ReplaceAllStringFunc(comment, func(w string) string {
			own := first && strings.HasSuffix(field, "."+w)
			first = false
			// Words like TLS and Ping are names of fields and words of their own; at the
			// beginning they are names.
			if key, ok := keys[w]; ok && (own || strings.ContainsFunc(w[1:], isUpper) && strings.ToUpper(w) != w) {
				return "`" + key + "`"
			}
			return w
		}))
	}
	return comments
}

func isUpper(c rune) bool { return c >= 'A' && c <= 'Z' }

func TestVariablesAreDistinct(t *testing.T) {
	var names []string
	for _, v := range variables() {
		names = append(names, v.name)
	}
	if len(names) < 40 {
		t.Errorf("only %d variables", len(names))
	}
	slices.Sort(names)
	if n := len(names); len(slices.Compact(names)) != n {
		t.Error("two keys have one variable")
	}
}
