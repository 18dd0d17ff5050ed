package istio

import (
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/altairalabs/omnia-gateway/config"
)

// TestExportIsWhatTheChartRenders imports what the Omnia chart renders of values that say
// everything, and exports it again under the chart's names: the same resources, field by field,
// but for the list of header names, which has every spelling, and what Helm says of itself.
func TestExportIsWhatTheChartRenders(t *testing.T) {
	rendered, err := os.ReadFile("testdata/import/chart/in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := Import([]File{{Name: "in.yaml", Text: string(rendered)}})
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	if o.Names, err = NamesOf("chart"); err != nil {
		t.Fatal(err)
	}
	o.Namespace = "agents"
	text, _, err := Export(c, o)
	if err != nil {
		t.Fatal(err)
	}
	want, got := resources(t, string(rendered)), resources(t, text)
	if len(got) != 4 || len(want) != 4 {
		t.Fatalf("%d resources, and the chart renders %d", len(got), len(want))
	}
	for name, theirs := range want {
		ours, there := got[name]
		if !there {
			t.Errorf("no %s", name)
			continue
		}
		delete(theirs["metadata"].(map[string]any), "labels")
		delete(ours["metadata"].(map[string]any), "annotations")
		stripped, chart := program(ours), program(theirs)
		for _, header := range chart {
			if !slices.Contains(stripped, header) {
				t.Errorf("%s is not stripped", header)
			}
		}
		for _, header := range stripped {
			if !slices.Contains(chart, config.FoldHeader(header)) {
				t.Errorf("%s is stripped, and the chart does not", header)
			}
		}
		if !reflect.DeepEqual(ours, theirs) {
			t.Errorf("%s: exported\n%v\nthe chart renders\n%v", name, ours, theirs)
		}
	}
}

// resources are the documents of a text by kind and name.
func resources(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	r := reader{}
	for _, d := range r.documents(File{Name: "resources", Text: text}) {
		var m map[string]any
		if err := d.at.Decode(&m); err != nil {
			t.Fatal(err)
		}
		out[d.get("kind").text()+" "+d.get("metadata").get("name").text()] = m
	}
	return out
}

// program takes the headers out of a resource that strips some.
func program(resource map[string]any) []string {
	patches, _ := resource["spec"].(map[string]any)["configPatches"].([]any)
	if len(patches) == 0 {
		return nil
	}
	value := patches[0].(map[string]any)["patch"].(map[string]any)["value"].(map[string]any)
	config := value["typed_config"].(map[string]any)
	names, _ := headersOfLua(config["inline_code"].(string))
	delete(config, "inline_code")
	return names
}
