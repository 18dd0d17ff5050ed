// Package istio writes the block authentication of a configuration as Istio's resources, and reads
// it back: a RequestAuthentication, an ALLOW and a DENY AuthorizationPolicy, and the EnvoyFilter
// that removes identity headers, in the form in which the Omnia chart renders them.
//
// Export writes what is in force, defaults included, and Import writes down what Istio does
// where its resources are silent, because the two programs have different defaults. What one
// side cannot express is a Remark or an error, and never silently left out. What Istio cannot
// express stays in an annotation, so that Import of an Export is the same configuration.
package istio

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/config"
)

// Annotation is where Export keeps what Istio's resources cannot express: keys of the
// configuration file, as YAML. It is on the RequestAuthentication. Import lets a key of it count
// only as long as the documents themselves do not say otherwise.
const Annotation = "omnia-gateway/config"

// Names are the names of the four resources.
type Names struct{ RequestAuthentication, Allow, Deny, EnvoyFilter string }

// NamesOf returns the names that a chart gives to the resources: seed (omnia-jwt-auth,
// omnia-require-jwt, …) or chart, the ones of today's Omnia chart for a release called omnia.
func NamesOf(scheme string) (Names, error) {
	switch scheme {
	case "seed":
		return Names{"omnia-jwt-auth", "omnia-require-jwt", "omnia-deny-unauthenticated", "omnia-strip-headers"}, nil
	case "chart":
		return Names{"omnia-agent-jwt", "omnia-agent-require-jwt", "omnia-agent-deny-unauthenticated",
			"omnia-agent-strip-edge-trust-headers"}, nil
	}
	return Names{}, fmt.Errorf("unknown names %q: seed or chart", scheme)
}

// Options say where the resources go and which pods they are for.
type Options struct {
	Names     Names
	Namespace string
	Selector  Labels
}

// Labels select pods.
type Labels map[string]string

// AgentLabels are those of Omnia's agents.
func AgentLabels() Labels { return Labels{"omnia.altairalabs.ai/component": "agent"} }

// ParseLabels reads name=value,name=value.
func ParseLabels(s string) (Labels, error) {
	labels := Labels{}
	for pair := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" || strings.ContainsAny(name+value, " \t=") {
			return nil, fmt.Errorf("label %q: write name=value", pair)
		}
		labels[name] = value
	}
	return labels, nil
}

// String is name=value,name=value in the order of the names.
func (l Labels) String() string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(l)) {
		pairs = append(pairs, name+"="+l[name])
	}
	return strings.Join(pairs, ",")
}

func (l Labels) mapping() (m config.Mapping) {
	for _, name := range slices.Sorted(maps.Keys(l)) {
		m = append(m, config.Pair{Key: name, Value: l[name]})
	}
	return m
}

// Remark is one line about what an export could not carry over, or about what is different on
// the other side.
type Remark struct {
	// Key is that of the configuration; empty when the remark is about all of it.
	Key string
	// Text is the remark itself.
	Text string
	// Lost: Istio will not do what the configuration says. Otherwise the remark is a note.
	Lost bool
}

// String is the remark in one line.
func (r Remark) String() string {
	text := "note: "
	if r.Lost {
		text = "not carried: "
	}
	if r.Key != "" {
		text += r.Key + ": "
	}
	return text + r.Text
}

// Istio looks here for a token where a rule names no place.
const (
	bearerHeader = "Authorization"
	bearerPrefix = "Bearer "
	tokenParam   = "access_token"
)

// ChartAddress is where the Omnia chart looks for keys when no address is given. Nothing is
// trimmed.
func ChartAddress(issuer string) string { return issuer + "/.well-known/jwks.json" }

// dotted is a claim's name as a path of Istio: realm_access.roles is claims[realm_access][roles]
// there. A name that is a URL has dots and is one name all the same.
func dotted(claim string) (path string, changed bool) {
	if !strings.Contains(claim, ".") || strings.Contains(claim, "://") || strings.ContainsAny(claim, "[]") {
		return claim, false
	}
	return strings.ReplaceAll(claim, ".", "]["), true
}
