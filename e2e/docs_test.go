package e2e

import (
	"encoding/json"
	"go/ast"
	"go/token"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pages are the documents for people, by their path from here.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, file := range append(files, "../README.md", "../CHANGELOG.md", "../CONTRIBUTING.md", "vectors/README.md") {
		all[file] = read(t, file)
	}
	return all
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	fence   = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notSlug = regexp.MustCompile(`[^\pL\pN _-]`)
)

// anchors are the names of a page's headings, as GitHub makes them.
func anchors(page string) map[string]bool {
	names := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		names[strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return names
}

func TestLinksOfTheDocsLeadSomewhere(t *testing.T) {
	all := pages(t)
	for page, text := range all {
		for _, l := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.HasPrefix(l[1], "https://") {
				continue
			}
			path, anchor, _ := strings.Cut(l[1], "#")
			file := page
			if path != "" {
				file = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: %s leads nowhere", page, l[1])
			} else if anchor != "" && !anchors(read(t, file))[anchor] {
				t.Errorf("%s: %s: no such heading", page, l[1])
			}
		}
	}
}

// TestConfigurationsOfTheDocsAreGood has `check` look at every YAML block that belongs to the
// gateway. Variables give what a fragment leaves out, and the certificate is one of the test's.
func TestConfigurationsOfTheDocsAreGood(t *testing.T) {
	elsewhere := regexp.MustCompile(`(?m)^(apiVersion|services|groups|scrape_configs|config|keys):`)
	c := newCertificate(t)
	account := "/var/run/secrets/kubernetes.io/serviceaccount/"
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("a.b.c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := strings.NewReplacer("/etc/omnia/tls.crt", c.certFile, "/etc/omnia/tls.key", c.keyFile, "/run/secrets/redis", c.keyFile,
		account+"ca.crt", c.certFile, account+"token", token)
	tested := 0
	for page, text := range pages(t) {
		for _, block := range fence.FindAllStringSubmatch(text, -1) {
			if block[1] == "yml" {
				t.Errorf("%s: a block of yml is not looked at; write yaml", page)
			}
			if block[1] != "yaml" || elsewhere.MatchString(block[2]) {
				continue
			}
			tested++
			file := filepath.Join(t.TempDir(), "gateway.yaml")
			if err := os.WriteFile(file, []byte(files.Replace(block[2])), 0o600); err != nil {
				t.Fatal(err)
			}
			check := exec.Command(binary, "check", "--config", file)
			check.Env = []string{} // nil would be the test's own
			if !strings.Contains(block[2], "routes:") {
				check.Env = append(check.Env, "OMNIA_GATEWAY_ROUTES=/my-agent=http://my-agent:8080")
			}
			if !strings.Contains(block[2], "issuer:") {
				check.Env = append(check.Env, "OMNIA_GATEWAY_JWT_ISSUER=https://issuer.example.com")
			}
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s in\n%s", page, err, out, block[2])
			}
		}
	}
	if tested < 14 {
		t.Errorf("only %d configurations found", tested)
	}
}

// TestGoOfTheDocsIsThatOfTheAgent holds the lines that the docs show to those that run.
func TestGoOfTheDocsIsThatOfTheAgent(t *testing.T) {
	blocks := 0
	for _, block := range fence.FindAllStringSubmatch(read(t, "../docs/clients.md"), -1) {
		if block[1] != "go" {
			continue
		}
		blocks++
		inside := regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(block[2], "\t$1")
		if !strings.Contains(read(t, "../dev/verify.go"), inside) {
			t.Errorf("dev/verify.go has not\n%s", inside)
		}
	}
	if blocks != 1 {
		t.Errorf("%d blocks of Go, want 1", blocks)
	}
}

func TestCommandsStandInTheREADME(t *testing.T) {
	help, err := exec.Command(binary, "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	readme := read(t, "../README.md")
	names := regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`).FindAllSubmatch(help, -1)
	if len(names) < 7 {
		t.Fatalf("commands of the help: %q", names)
	}
	for _, name := range names {
		if n := string(name[1]); n != "help" && !strings.Contains(readme, "| `"+n) {
			t.Errorf("the README's table has no %s", n)
		}
	}
}

// same says which words the code has and the docs do not, and the other way round.
func same(t *testing.T, what string, code, docs map[string]bool) {
	t.Helper()
	if len(code) == 0 || len(docs) == 0 {
		t.Fatalf("%s: %d in the code, %d in the docs", what, len(code), len(docs))
	}
	for _, word := range slices.Sorted(maps.Keys(code)) {
		if !docs[word] {
			t.Errorf("%s %s is not in docs/operating.md", what, word)
		}
	}
	for _, word := range slices.Sorted(maps.Keys(docs)) {
		if !code[word] {
			t.Errorf("%s %s of docs/operating.md is not in the code", what, word)
		}
	}
}

func TestMetricsOfTheDocsAreThoseOfTheCode(t *testing.T) {
	code, docs := map[string]bool{}, map[string]bool{}
	files, _ := house(t)
	for _, f := range files {
		if f.pkg != "gateway" {
			continue
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr: // counter("handshakes_total", …) puts the prefix in front
				if fn, ok := n.Fun.(*ast.Ident); ok && fn.Name == "counter" && len(n.Args) > 0 {
					if name, ok := literal(n.Args[0]); ok {
						code["omnia_gateway_"+name] = true
					}
				}
			case *ast.BasicLit:
				if name, ok := literal(n); ok && strings.HasPrefix(name, "omnia_gateway_") && name != "omnia_gateway_" {
					code[name] = true
				}
			}
			return true
		})
	}
	for _, name := range regexp.MustCompile(`omnia_gateway_[a-z_]+`).FindAllString(read(t, "../docs/operating.md"), -1) {
		docs[name] = true
	}
	same(t, "metric", code, docs)
}

func TestLogKeysOfTheDocsAreThoseOfTheCode(t *testing.T) {
	code, docs := map[string]bool{}, map[string]bool{}
	files, _ := house(t)
	for _, f := range files {
		if !slices.Contains([]string{"auth", "cluster", "gateway", "cmd/omnia-gateway"}, f.pkg) {
			continue
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				for _, key := range logKeys(call) {
					code[key] = true
				}
			}
			return true
		})
	}
	_, section, _ := strings.Cut(read(t, "../docs/operating.md"), "| key | in | meaning |\n|---|---|---|\n")
	section, _, _ = strings.Cut(section, "\n\n")
	for row := range strings.SplitSeq(section, "\n") {
		for _, key := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(strings.Split(row, "|")[1], -1) {
			docs[key[1]] = true
		}
	}
	same(t, "log key", code, docs)

	lines := 0
	for _, block := range fence.FindAllStringSubmatch(read(t, "../docs/operating.md"), -1) {
		if block[1] != "json" {
			continue
		}
		for line := range strings.Lines(block[2]) {
			lines++
			var example map[string]any
			if err := json.Unmarshal([]byte(line), &example); err != nil {
				t.Errorf("the line of the log %q: %v", line, err)
			}
			for key := range example {
				if !docs[key] && key != slog.TimeKey && key != slog.LevelKey && key != slog.MessageKey {
					t.Errorf("%s of a line of the log is not in the table", key)
				}
			}
		}
	}
	if lines == 0 {
		t.Error("docs/operating.md shows no line of the log")
	}
}

// logKeys are the keys in one call: of a slog.Attr, or between the arguments of a logger's method.
func logKeys(call *ast.CallExpr) (keys []string) {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	first := -1
	if x, ok := method.X.(*ast.Ident); ok && x.Name == "slog" {
		if slices.Contains([]string{"String", "Int", "Uint64", "Float64", "Duration", "Bool", "Time", "Any"}, method.Sel.Name) {
			first = len(call.Args) - 2
		}
	} else if called(method.X, "log", "Log") {
		switch method.Sel.Name {
		case "With":
			first = 0
		case "Debug", "Info", "Warn", "Error":
			first = 1
		case "Log":
			first = 3
		}
	}
	if first < 0 {
		return nil
	}
	for n := first; n+1 < len(call.Args); n += 2 {
		if key, ok := literal(call.Args[n]); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// called reports whether an expression is a variable or a field of one of the names.
func called(x ast.Expr, names ...string) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return slices.Contains(names, x.Name)
	case *ast.SelectorExpr:
		return slices.Contains(names, x.Sel.Name)
	}
	return false
}

func literal(x ast.Expr) (string, bool) {
	l, ok := x.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}
