// Package istio turns the resources that istio export prints into the configuration of Envoy, by
// Istio's own code. It is a module of its own: Istio and what it needs never enter the gateway's
// go.mod. The results are test data, so that comparing the gateway with Envoy needs no build of
// Istio.
package istio

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/core"
	"istio.io/istio/pkg/config/schema/collections"
)

var update = flag.Bool("update", false, "write testdata anew")

// agent is the workload that the resources select, as the mesh knows it.
const agent = `
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: agent, namespace: omnia-system}
spec:
  hosts: [agent.omnia-system.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8080, name: http, protocol: HTTP}]
  endpoints: [{address: 1.1.1.1, labels: {omnia.altairalabs.ai/component: agent}}]
`

// TestTranslation holds every file of testdata against Istio's own validation, and its translation
// against the file beside it.
func TestTranslation(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			validate(t, string(text))
			got := translate(t, string(text))
			name := strings.TrimSuffix(file, ".yaml") + ".json"
			if *update {
				if err := os.WriteFile(name, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is not what Istio makes of %s (%v); make istio writes it anew", name, file, err)
			}
		})
	}
}

// validate does what Istio's webhook does.
func validate(t *testing.T, text string) {
	t.Helper()
	configs, other, err := crd.ParseInputs(text)
	if err != nil || len(other) > 0 || len(configs) < 3 {
		t.Fatalf("%d resources, %d others, %v", len(configs), len(other), err)
	}
	for _, c := range configs {
		schema, ok := collections.Pilot.FindByGroupVersionKind(c.GroupVersionKind)
		if !ok {
			t.Fatalf("no schema of %v", c.GroupVersionKind)
		}
		if _, err := schema.ValidateConfig(c); err != nil {
			t.Errorf("Istio refuses %s %s: %v", c.GroupVersionKind.Kind, c.Name, err)
		}
	}
}

// translate gives the HTTP connection manager with which a sidecar receives plain requests for the
// agent's port. What only Istio's build of Envoy has, and what reports, is taken out; neither
// decides about a request.
func translate(t *testing.T, text string) []byte {
	t.Helper()
	g := core.NewConfigGenTest(t, core.TestOptions{ConfigString: inline(text) + agent})
	labels := map[string]string{"omnia.altairalabs.ai/component": "agent"}
	proxy := g.SetupProxy(&model.Proxy{ConfigNamespace: "omnia-system", Labels: labels,
		Metadata: &model.NodeMetadata{Namespace: "omnia-system", Labels: labels, IstioVersion: "1.30.0"}})
	for _, l := range g.Listeners(proxy) {
		for _, chain := range l.FilterChains {
			if l.Name == model.VirtualInboundListenerName && chain.FilterChainMatch.GetDestinationPort().GetValue() == 8080 &&
				chain.FilterChainMatch.GetTransportProtocol() == "raw_buffer" {
				return connectionManager(t, chain)
			}
		}
	}
	t.Fatal("no filter chain for the agent's port")
	return nil
}

// inline puts a key set that only names its address in the place of each address: istiod would
// fetch it.
func inline(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if indent, address, ok := strings.Cut(line, "jwksUri: "); ok && strings.TrimLeft(indent, " -") == "" {
			set, _ := json.Marshal(map[string]any{"keys": []any{}, "at": strings.Trim(strings.TrimSpace(address), `"`)})
			quoted, _ := json.Marshal(string(set))
			line = indent + "jwks: " + string(quoted) + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

func connectionManager(t *testing.T, chain *listener.FilterChain) []byte {
	t.Helper()
	text, err := protojson.Marshal(chain)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Filters []struct {
			Name        string
			TypedConfig map[string]any
		}
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Filters {
		if f.Name != "envoy.filters.network.http_connection_manager" {
			continue
		}
		delete(f.TypedConfig, "tracing")
		delete(f.TypedConfig, "accessLog")
		var kept []any
		for _, h := range f.TypedConfig["httpFilters"].([]any) {
			if name := h.(map[string]any)["name"].(string); !strings.HasPrefix(name, "istio.") && name != "envoy.filters.http.grpc_stats" {
				kept = append(kept, h)
			}
		}
		f.TypedConfig["httpFilters"] = kept
		out, err := json.MarshalIndent(f.TypedConfig, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return append(out, '\n')
	}
	t.Fatal("no HTTP connection manager")
	return nil
}
