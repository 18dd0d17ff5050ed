package config

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// ofTheChart are the keys that the Helm chart sets itself.
var ofTheChart = []string{"listen", "tls", "authentication", "admin.metricsListen"}

// TestConfigurationTableAsSchema makes the part of the Helm chart's schema that describes the
// gateway's own keys: its `$defs`, which end the file. What stands before them is written by hand.
func TestConfigurationTableAsSchema(t *testing.T) {
	const file = "../deploy/helm/omnia-gateway/values.schema.json"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := strings.Cut(string(raw), "  \"$defs\": ")
	if !ok {
		t.Fatal(`the schema has no line that begins with "$defs"`)
	}
	comments := fieldComments(t)
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("  ", "  ")
	err = e.Encode(map[string]any{
		"authentication": schema(reflect.TypeFor[Authentication](), "authentication", comments),
		"config":         schema(reflect.TypeFor[Config](), "", comments),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := before + "  \"$defs\": " + out.String() + "}\n"
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(raw) != want {
		t.Error("the chart's schema does not fit the types any more: go test ./config -run TestConfigurationTable -update")
	}
}

// schema is the JSON Schema of what the file may say for a type.
func schema(t reflect.Type, key string, comments map[string]string) map[string]any {
	switch {
	case t == durationType:
		return map[string]any{"type": "string", "pattern": `^(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$`}
	case t == reflect.TypeFor[ClaimNames]():
		text := map[string]any{"type": "string"}
		return map[string]any{"anyOf": []any{text, map[string]any{"type": "array", "items": text}}}
	case t == claimValueType:
		return map[string]any{"type": []string{"string", "boolean", "number"}}
	case t.Kind() == reflect.Pointer:
		return schema(t.Elem(), key, comments)
	case isScalar(t):
		kinds := map[reflect.Kind]string{reflect.Bool: "boolean", reflect.Int: "integer", reflect.Int64: "integer",
			reflect.Float64: "number"}
		if kind, ok := kinds[t.Kind()]; ok {
			return map[string]any{"type": kind}
		}
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schema(t.Elem(), key, comments)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schema(t.Elem(), key, comments)}
	case reflect.Struct:
		properties := map[string]any{}
		for f := range t.Fields() {
			name := f.Tag.Get("yaml")
			if name == "-" || name == "" || slices.Contains(ofTheChart, join(key, name)) {
				continue
			}
			of := schema(f.Type, join(key, name), comments)
			if comment := comments[t.Name()+"."+f.Name]; comment != "" {
				of["description"] = strings.NewReplacer(`\|`, "|", `\*`, "*", "&lt;", "<").Replace(comment)
			}
			properties[name] = of
		}
		if len(properties) > 0 {
			return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
		}
	}
	return map[string]any{} // a type that reads several forms: the gateway's own check decides
}
