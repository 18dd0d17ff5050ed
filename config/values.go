package config

import (
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// maxValuesBytes bounds a values file, which is long and mostly not for the gateway.
const maxValuesBytes = 1 << 20

// decodeValues decodes the block authentication of a Helm values file over c, as strictly as
// that of a configuration file. All other blocks are the chart's.
func (l *loader) decodeValues(text string, c *Config) {
	root, ok := parseYAML(text, func(line, column int, text, hint string) {
		l.problem(Place{l.file, line, column}, "", text, hint)
	})
	switch {
	case !ok || root == nil:
		return
	case root.Kind != yaml.MappingNode:
		l.problem(l.at(root), "", called(root)+" where keys with values belong", "give a values file of Omnia's Helm chart")
		return
	}
	l.chart = true
	defer func() { l.chart = false }()
	first, ignored, misspelt := 0, 0, "" // the line of the block, how many others there are, and one that may be it
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		switch name := key.Value; {
		case key.ShortTag() == "!!merge":
			// It could bring in a block authentication, with rules that would then be missing.
			l.problem(l.at(key), "", "merge keys are not supported at the top of a values file", "write the keys out")
		case name == "authentication" && first > 0:
			l.problem(l.at(key), name, "given twice", fmt.Sprintf("the first is in line %d: keep one of the two", first))
		case name == "authentication":
			l.said, first = true, key.Line
			block := reflect.ValueOf(&c.Authentication).Elem()
			if isNull(value) {
				l.restore(block, name)
			} else {
				l.decode(value, l.at(key), block, name)
			}
		default:
			ignored++
			if nearest(name, []string{"authentication"}) != "" {
				misspelt = name
			}
			if name == "istio" && isTrue(value, "enabled") {
				l.notes = append(l.notes, l.file+": istio.enabled means nothing to the gateway, which verifies tokens by itself")
			}
		}
	}
	if ignored > 0 {
		l.notes = append(l.notes, fmt.Sprintf("%s: %d other top-level keys are the chart's and ignored", l.file, ignored))
	}
	if misspelt != "" {
		l.notes = append(l.notes, fmt.Sprintf("%s: %s is one of them; did you mean \"authentication\"?", l.file, join("", misspelt)))
	}
}

// isTrue reports whether a mapping has the key with the value true.
func isTrue(n *yaml.Node, key string) bool {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1].ShortTag() == "!!bool" && n.Content[i+1].Value == "true"
		}
	}
	return false
}
