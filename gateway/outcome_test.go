package gateway

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/auth"
)

// words are all constants of type Reason, by the name of the constant.
func words(t *testing.T) map[string]Reason {
	t.Helper()
	found := map[string]Reason{}
	for _, file := range []string{"outcome.go", "../auth/auth.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Reason" {
				for i, name := range spec.Names {
					text, err := strconv.Unquote(spec.Values[i].(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					found[name.Name] = Reason(text)
				}
			}
			return true
		})
	}
	if len(found) < 40 {
		t.Fatalf("only %d words found", len(found))
	}
	return found
}

// documented are the first two cells of each row of docs/outcomes.md that begins with a word, by the heading above it.
func documented(t *testing.T) map[string]map[Reason]string {
	t.Helper()
	page, err := os.ReadFile("../docs/outcomes.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, section := map[string]map[Reason]string{}, ""
	for line := range strings.Lines(string(page)) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(title)
			rows[section] = map[Reason]string{}
		}
		if cells := strings.Split(line, "|"); len(cells) > 2 && strings.HasPrefix(line, "| `") {
			word := Reason(strings.Trim(cells[1], " `"))
			if _, twice := rows[section][word]; twice {
				t.Errorf("%s: %s stands there twice", section, word)
			}
			rows[section][word] = strings.TrimSpace(cells[2])
		}
	}
	return rows
}

// switched are the constants that stand in a function's switch: those that it was not left to the default to decide.
func switched(t *testing.T, function string) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "outcome.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == function {
			ast.Inspect(f, func(n ast.Node) bool {
				if c, ok := n.(*ast.CaseClause); ok {
					for _, e := range c.List {
						switch e := e.(type) {
						case *ast.Ident:
							names[e.Name] = true
						case *ast.SelectorExpr:
							names[e.Sel.Name] = true
						}
					}
				}
				return true
			})
		}
	}
	return names
}

func TestEveryOutcomeIsDecidedAndDocumented(t *testing.T) {
	all, doc := words(t), documented(t)
	through, refused, ended := doc["Let through"], doc["Refused"], doc["Ended"]
	statuses, codes := switched(t, "status"), switched(t, "closeCode")
	known := map[Reason]bool{}
	for name, word := range all {
		if known[word] {
			t.Errorf("%s: the word %s has two constants", name, word)
		}
		known[word] = true

		_, isThrough := through[word]
		want, isRefusal := refused[word]
		switch {
		case !isRefusal && statuses[name]:
			t.Errorf("%s has a status, but is not documented as a refusal", word)
		case !isRefusal, word == UpstreamRefused: // the agent's own status
		case want != strconv.Itoa(status(word)):
			t.Errorf("%s: documented as %s, answered with %d", word, want, status(word))
		case !statuses[name] && word != InternalError:
			t.Errorf("%s has the default's status", word)
		}

		want, isEnding := ended[word]
		switch {
		case !isEnding && codes[name]:
			t.Errorf("%s has a close code, but is not documented as an ending", word)
		case !isEnding, word == Closed: // the peer's own code
		case want != strconv.Itoa(closeCode(word)):
			t.Errorf("%s: documented as %s, closed with %d", word, want, closeCode(word))
		case !codes[name] && word != InternalError:
			t.Errorf("%s has the default's close code", word)
		}
		if !isThrough && !isRefusal && !isEnding || isThrough && (isRefusal || isEnding) {
			t.Errorf("%s: docs/outcomes.md does not say what it is", word)
		}
	}
	for section, rows := range doc {
		for word := range rows {
			if !known[word] {
				t.Errorf("%s: there is no %s", section, word)
			}
		}
	}
}

func TestCloseCodesMayBeSent(t *testing.T) {
	for name, word := range words(t) {
		if e := endingOf(word, "detail"); !validCode(e.code) || len(word) > maxControl-2 || e.err != "detail" {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestChallenges(t *testing.T) {
	for name, word := range words(t) {
		got := challenge(word)
		want := ""
		switch {
		case word == auth.NoToken:
			want = `Bearer realm="omnia-gateway"`
		case status(word) == http.StatusUnauthorized:
			want = `Bearer realm="omnia-gateway", error="invalid_token", error_description="` + string(word) + `"`
		case word == auth.ClaimMismatch:
			want = `Bearer realm="omnia-gateway", error="insufficient_scope", error_description="` + string(word) + `"`
		}
		if got != want {
			t.Errorf("%s: %s", name, got)
		}
		if after := retryAfter(word); (after != "") != (status(word) == 503 || status(word) == 429) {
			t.Errorf("%s: status %d with Retry-After %q", name, status(word), after)
		}
	}
}
