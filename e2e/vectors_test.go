package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// The vectors are authorization decisions as data (vectors/README.md); vectest runs them, one
// process of the gateway for each configuration.
func TestAuthorizationVectors(t *testing.T) {
	runner := filepath.Join(t.TempDir(), "vectest")
	build := exec.Command("go", "build", "-C", "vectest", "-o", runner, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build vectest: %v\n%s", err, out)
	}
	files, err := filepath.Glob("vectors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	run := exec.Command(runner, append([]string{"-bin", binary}, files...)...)
	run.Env = environment()
	out, err := run.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^0 reasons differ of [1-9]\d\d+ .*\n[1-9]\d\d+ passed, 0 failed$`).Match(out) {
		t.Error("a reason word differs, or hardly a vector was run")
	}
}
