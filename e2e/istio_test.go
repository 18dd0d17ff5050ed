package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestDecisionsAreThoseOfIstio sends the vectors and generated requests to the gateway and to a
// real Envoy, which the code of Istio has configured from the same configuration. Every difference
// must belong to a row of the table in docs/istio.md, and each side must do what its column says.
// make istio runs it with other seeds.
func TestDecisionsAreThoseOfIstio(t *testing.T) {
	needs(t, "envoy")
	vectest := filepath.Join(t.TempDir(), "vectest")
	build := exec.Command("go", "build", "-C", "vectest", "-o", vectest, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build vectest: %v\n%s", err, out)
	}
	files, err := filepath.Glob("vectors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	arguments := []string{"-bin", binary, "-envoy", "envoy", "-istio", "istio", "-n", "4000", "-seed", "1"} // luck must not decide
	run := clientFor(t, 15*patience, vectest, append(arguments, files...)...)
	out, err := run.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^\d{4} equal, \d{4} different as documented, 0 failures`).Match(out) {
		t.Error("hardly a request was compared")
	}
}

// TestTableOfIstioIsWhole compares the rows of the table in docs/istio.md with the classes of
// differences that the comparison knows.
func TestTableOfIstioIsWhole(t *testing.T) {
	var classes []struct{ Row string }
	text, err := os.ReadFile("istio/classes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &classes); err != nil || len(classes) < 40 {
		t.Fatalf("%d classes, %v", len(classes), err)
	}
	_, table, _ := strings.Cut(read(t, "../docs/istio.md"), "\n| | Istio | gateway | why |\n|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := map[string]bool{}
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		if !strings.HasPrefix(cell, "**") { // a heading
			rows[cell] = true
		}
	}
	for _, c := range classes {
		if !rows[c.Row] {
			t.Errorf("docs/istio.md has no row %q", c.Row)
		}
		delete(rows, c.Row)
	}
	for row := range rows {
		t.Errorf("istio/classes.yaml has no class %q", row)
	}
}
