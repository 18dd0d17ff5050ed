package e2e

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const module = "github.com/altairalabs/omnia-gateway/"

// arrows are who may import whom; a package that is not here may not import anything of ours.
var arrows = map[string][]string{
	"cmd/omnia-gateway": {
		"auth", "config", "config/istio", "dev", "gateway", "gateway/policy", "internal/buildinfo", "internal/selfsigned", "outcome",
	},
	"config/istio": {"config"},
	"gateway": {
		"auth", "cluster", "config", "gateway/handshake", "gateway/policy", "gateway/relay", "gateway/session", "internal/buildinfo",
		"internal/headers", "outcome",
	},
	"gateway/handshake":  {"internal/headers", "outcome"},
	"gateway/policy":     {"auth", "config", "gateway/handshake", "internal/headers", "outcome"},
	"gateway/relay":      {"outcome"},
	"gateway/session":    {"config", "gateway/policy", "outcome"},
	"cluster":            {"config"},
	"auth":               {"config", "internal/headers", "outcome"},
	"dev":                {"auth", "config"},
	"bench":              {"auth", "internal/rawws", "internal/selfsigned"},
	"internal/redistest": {"internal/wstest"},
	"internal/wstest":    {"auth", "config", "internal/rawws", "internal/selfsigned"},
}

// homes are the packages in which a third-party module may be used.
var homes = map[string][]string{
	"github.com/MicahParks/jwkset":        {"auth"},
	"github.com/MicahParks/keyfunc/v3":    {"dev"},
	"github.com/caarlos0/env/v11":         {"config"},
	"github.com/coder/websocket":          {"dev"},
	"github.com/fsnotify/fsnotify":        {"gateway"},
	"github.com/go-chi/chi/v5":            {"gateway"},
	"go.yaml.in/yaml/v3":                  {"config", "config/istio"},
	"github.com/golang-jwt/jwt/v5":        {"auth", "dev"},
	"github.com/hashicorp/golang-lru/v2":  {"auth", "gateway"},
	"github.com/pires/go-proxyproto":      {"gateway"},
	"github.com/prometheus/client_golang": {"gateway"},
	"github.com/redis/go-redis/v9":        {"cluster", "internal/redistest"},
	"github.com/spf13/cobra":              {"cmd/omnia-gateway"},
	"github.com/spf13/pflag":              {"cmd/omnia-gateway"},
	"golang.org/x/time":                   {"gateway/relay"},
}

// file is one Go file that is part of what is built, not of its tests.
type file struct {
	pkg, path string
	*ast.File
}

// house are all files that are part of the build.
func house(t *testing.T) (files []file, set *token.FileSet) {
	t.Helper()
	set = token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".." &&
			(strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"node_modules", "e2e", "tools"}, d.Name())):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", path)
		files = append(files, file{filepath.ToSlash(filepath.Dir(rel)), path, f})
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no house: %v", err)
	}
	return files, set
}

func TestArrowsPointOneWay(t *testing.T) {
	files, _ := house(t)
	for _, f := range files {
		for _, spec := range f.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if ours, ok := strings.CutPrefix(path, module); ok {
				if !slices.Contains(arrows[f.pkg], ours) {
					t.Errorf("%s imports %s, against the arrows", f.path, ours)
				}
				continue
			}
			if !strings.Contains(strings.Split(path, "/")[0], ".") {
				continue // the standard library
			}
			allowed, known := []string(nil), false
			for lib, at := range homes {
				if path == lib || strings.HasPrefix(path, lib+"/") {
					allowed, known = at, true
				}
			}
			if !known || !slices.Contains(allowed, f.pkg) {
				t.Errorf("%s imports %s, which has another home", f.path, path)
			}
		}
	}
}

func TestNoSideDoors(t *testing.T) {
	files, set := house(t)
	for _, f := range files {
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%v: func init", set.Position(n.Pos()))
				}
			case *ast.SelectorExpr:
				// The one exception is how a request knows its connection.
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "context" && n.Sel.Name == "WithValue" && f.path != "../gateway/client.go" {
					t.Errorf("%v: a value in a context", set.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

func TestEveryExportedNameIsExplained(t *testing.T) {
	files, set := house(t)
	explained := map[string]bool{}
	for _, f := range files {
		explained[f.pkg] = explained[f.pkg] || f.Doc != nil
		if f.Name.Name == "main" {
			continue
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || ast.IsExported(receiver(d))) {
					t.Errorf("%v: %s has no comment", set.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
							t.Errorf("%v: %s has no comment", set.Position(spec.Pos()), spec.Name.Name)
						}
					case *ast.ValueSpec:
						if spec.Names[0].IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
							t.Errorf("%v: %s has no comment", set.Position(spec.Pos()), spec.Names[0].Name)
						}
					}
				}
			}
		}
	}
	for pkg, ok := range explained {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) string {
	x := d.Recv.List[0].Type
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	if generic, ok := x.(*ast.IndexExpr); ok {
		x = generic.X
	}
	if name, ok := x.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

// sources returns every Go file, tests included, by its path from here.
func sources(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		all[filepath.ToSlash(path)] = read(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLinesAreShort holds lines of comments to 100 columns and lines of code to 140. A tab is
// four columns wide.
func TestLinesAreShort(t *testing.T) {
	for path, text := range sources(t) {
		number := 0
		for line := range strings.Lines(text) {
			number++
			columns := utf8.RuneCountInString(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    "))
			limit, what := 140, "code"
			if strings.HasPrefix(strings.TrimSpace(line), "//") {
				limit, what = 100, "comment"
			}
			if columns > limit {
				t.Errorf("%s:%d: a line of %s has %d columns, more than %d", path, number, what, columns, limit)
			}
		}
	}
}

// vague are words that hide who acts, also in the names of tests, and one phrase for which Go says
// "reports whether".
var vague = regexp.MustCompile(`(?i:\b(somebody|whoever|nobody|says\s+whether)\b)|Test\w*(Somebody|Whoever|Nobody)`)

// TestWordsArePlain looks for vague words in the pages, in comments, and in texts that a user
// may see: help, messages, examples.
func TestWordsArePlain(t *testing.T) {
	report := func(where, text string) {
		if word := vague.FindString(text); word != "" {
			t.Errorf("%s: %q in %.80q", where, word, text)
		}
	}
	texts := pages(t)
	for _, file := range []string{"../Makefile", "../docker-compose.yml", "../config/example.yaml"} {
		texts[file] = read(t, file)
	}
	for path, text := range texts {
		number := 0
		for line := range strings.Lines(text) {
			number++
			report(fmt.Sprintf("%s:%d", path, number), line)
		}
	}
	for path, text := range sources(t) {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range f.Comments {
			report(set.Position(c.Pos()).String(), c.Text())
		}
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				report(set.Position(l.Pos()).String(), l.Value)
			}
			return true
		})
	}
}

// TestDockerBuildsFromAllThatIsImported holds .dockerignore to the packages of the binary.
func TestDockerBuildsFromAllThatIsImported(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "../cmd/omnia-gateway").Output()
	if err != nil {
		t.Fatal(err)
	}
	kept := strings.Split(read(t, "../.dockerignore"), "\n")
	for line := range strings.Lines(string(out)) {
		ours, ok := strings.CutPrefix(strings.TrimSpace(line), module)
		if folder, _, _ := strings.Cut(ours, "/"); ok && !slices.Contains(kept, "!"+folder) {
			t.Errorf(".dockerignore leaves out %s", folder)
		}
	}
}

// A pin with an option or an address beside it works on the machine where it was written alone.
func TestPinsOfPythonAreVersionsAndHashesAlone(t *testing.T) {
	files, err := filepath.Glob("../tools/python/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no pins: ", err)
	}
	pin := regexp.MustCompile(`^([a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*( ; [^/\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|#.*|)$`)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for n, line := range strings.Split(string(text), "\n") {
			if !pin.MatchString(line) {
				t.Errorf("%s:%d: %s", name, n+1, line)
			}
		}
	}
}
