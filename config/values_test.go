package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// values loads Helm values files with the texts given.
func values(t *testing.T, environ []string, texts ...string) (*Config, error) {
	t.Helper()
	s := Sources{Environ: append([]string{oneRoute}, environ...)}
	for i, text := range texts {
		file := filepath.Join(t.TempDir(), string(rune('a'+i))+".yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Values = append(s.Values, file)
	}
	return Load(s)
}

const someIssuer = "authentication: { jwt: { issuer: https://issuer.example.com } }\n"

func TestTheChartsOwnValuesAreAConfiguration(t *testing.T) {
	c, err := Load(Sources{Values: []string{"testdata/values/chart.yaml"}, Environ: []string{oneRoute}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Authentication.Enabled || len(c.Authentication.JWT.OutputClaimToHeaders) != 0 {
		t.Errorf("%+v", c.Authentication)
	}
	if notes := strings.Join(c.Notes, "\n"); strings.Count(notes, "top-level keys are the chart's and ignored") != 1 {
		t.Errorf("notes:\n%s", notes)
	}
}

func TestValuesFilesCombineAsHelmsDo(t *testing.T) {
	c, err := Load(Sources{
		Values:  []string{"testdata/values/chart.yaml", "testdata/values/silent.yaml", "testdata/values/production.yaml"},
		Environ: []string{oneRoute, "OMNIA_GATEWAY_JWT_AUDIENCES=other"},
	})
	if err != nil {
		t.Fatal(err)
	}
	a := c.Authentication
	if !a.Enabled || a.JWT.Issuer != "https://issuer.example.com" || !slices.Equal(a.JWT.Audiences, []string{"other"}) ||
		len(a.JWT.OutputClaimToHeaders) != 1 || len(a.Authorization.RequiredClaims) != 1 || len(a.Authorization.ExcludePaths) != 2 {
		t.Errorf("%+v", a)
	}
	if notes := strings.Join(c.Notes, "\n"); !strings.Contains(notes, "production.yaml: istio.enabled means nothing") {
		t.Errorf("notes:\n%s", notes)
	}
}

func TestListsOfLaterValuesReplaceAndNullTakesBack(t *testing.T) {
	c, err := values(t, nil, someIssuer+`
  `, `authentication:
  jwt: { audiences: [a, b], clockSkew: 5s, outputClaimToHeaders: [] }
  authorization: { excludePaths: [/x, /y], requiredClaims: [{ claim: a, values: [b] }] }
`, `authentication:
  jwt: { audiences: [c], clockSkew: null, outputClaimToHeaders: }
  authorization:
`)
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultAuthentication()
	want.JWT.Issuer, want.JWT.Audiences = "https://issuer.example.com", []string{"c"}
	if !reflect.DeepEqual(c.Authentication, want) {
		t.Errorf("got  %+v\nwant %+v", c.Authentication, want)
	}
}

// TestOneFileIsReadBeforeTheValues gives routes in a configuration file and the rest in values.
func TestOneFileIsReadBeforeTheValues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	text := "routes: [{ path: /a, upstream: http://a }]\nauthentication: { jwt: { issuer: https://other.example.com, audiences: [kept] " +
		"} }\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []Sources{{File: file}, {Environ: []string{"OMNIA_GATEWAY_CONFIG=" + file}}} {
		s.Values = []string{"testdata/values/production.yaml"}
		c, err := Load(s)
		if err != nil {
			t.Fatal(err)
		}
		if jwt := c.Authentication.JWT; jwt.Issuer != "https://issuer.example.com" || c.Routes[0].Path != "/a" {
			t.Errorf("%+v %+v", jwt, c.Routes)
		}
		if want := []string{file, "testdata/values/production.yaml"}; !slices.Equal(s.Files(), want) {
			t.Errorf("files: %q", s.Files())
		}
	}
}

func TestAdminListenIsFoundInABadFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	for _, test := range []struct {
		text, want, problem string
		environ             []string
	}{
		{text: "admin: { listen: ':1' }\nroutes: 5\nnonsense: 1", want: ":1", environ: []string{"OMNIA_GATEWAY_NONSENSE=1"}},
		{text: "log: {}", want: "127.0.0.1:9090"},
		{text: "admin: { listen: ':1' }", want: ":2", environ: []string{"OMNIA_GATEWAY_ADMIN_LISTEN=:2"}},
		{text: "admin: [", want: "127.0.0.1:9090", problem: "not YAML"},
		{text: "admin: { listen: 1 }", want: "127.0.0.1:9090", problem: "admin.listen: a number where text belongs"},
	} {
		if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := AdminListen(Sources{File: file, Environ: test.environ})
		if got != test.want || (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
			t.Errorf("%s: %s, %v", test.text, got, err)
		}
	}
}

func TestValuesFilesAreStrictAboutAuthentication(t *testing.T) {
	for _, test := range []struct {
		name  string
		texts []string
		want  []string // the beginnings of the lines, after the folder's name
	}{
		{"unknown key", []string{someIssuer, "replicaCount: 1\nauthentication: { jwt: { isuer: x } }"}, []string{
			`b.yaml:2:26: authentication.jwt.isuer: unknown key; did you mean "issuer"?`,
		}},
		{"one level off", []string{someIssuer + "  \n", "authentication: { requiredClaims: [] }"}, []string{
			"b.yaml:1:19: authentication.requiredClaims: unknown key",
		}},
		{"wrong type in each", []string{"authentication: { jwt: { issuer: 5 } }", "authentication: { jwt: { audiences: x } }"}, []string{
			"a.yaml:1:26: authentication.jwt.issuer: a number where text belongs",
			"b.yaml:1:26: authentication.jwt.audiences: text where a list belongs",
		}},
		{"bad value of the last", []string{someIssuer, "authentication: { jwt: { audiences: [x, ''] } }"}, []string{
			"b.yaml:1:41: authentication.jwt.audiences[1]: empty audience",
		}},
		{"given twice", []string{someIssuer + someIssuer}, []string{"a.yaml:2:1: authentication: given twice; the first is in line 1"}},
		{"merge key", []string{"base: &b {}\n<<: *b\n" + someIssuer}, []string{"a.yaml:2:1: merge keys are not supported"}},
		{"no mapping", []string{"[]"}, []string{"a.yaml:1:1: a list where keys with values belong"}},
		{"silent", []string{"replicaCount: 1"}, []string{"a.yaml: authentication.jwt.issuer: missing; "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := values(t, nil, test.texts...)
			if err == nil {
				t.Fatal("loaded")
			}
			lines := strings.Split(err.Error(), "\n")
			ok := len(lines) == len(test.want)
			for i := range min(len(lines), len(test.want)) {
				ok = ok && strings.HasPrefix(lines[i][strings.Index(lines[i], ".yaml")-1:], test.want[i])
			}
			if !ok {
				t.Errorf("got\n%v\nwant\n%s", err, strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestAMisspeltBlockOfValuesIsNoted(t *testing.T) {
	c, err := values(t, []string{"OMNIA_GATEWAY_JWT_ISSUER=https://issuer.example.com"},
		"authentification: { enabled: true }\nreplicaCount: 1")
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(c.Notes, "\n")
	for _, want := range []string{`authentification is one of them; did you mean "authentication"?`,
		"no values file has a block authentication"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q in\n%s", want, notes)
		}
	}
}

func TestAValuesFileAsConfigurationFileIsOneProblem(t *testing.T) {
	_, err := Load(Sources{File: "testdata/values/chart.yaml", Environ: []string{oneRoute}})
	if err == nil || strings.Count(err.Error(), "\n") != 0 ||
		!strings.Contains(err.Error(), "replicaCount: a key of the Helm chart (one of 9 that are unknown here); give a values file with "+
			"--values") {
		t.Error(err)
	}
}

func FuzzValues(f *testing.F) {
	files, _ := filepath.Glob("testdata/values/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), someIssuer)
	}
	f.Add("authentication: { jwt: }", "<<: {authentication: null}")
	one, two := filepath.Join(f.TempDir(), "one.yaml"), filepath.Join(f.TempDir(), "two.yaml")
	f.Fuzz(func(t *testing.T, first, second string) {
		for file, text := range map[string]string{one: first, two: second} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := Load(Sources{Values: []string{one, two}, Environ: []string{oneRoute}})
		switch problems, ok := err.(Problems); {
		case err == nil && c.Authentication.Enabled && c.Authentication.JWT.Issuer == "":
			t.Error("open without a word")
		case err == nil && len(c.Validate()) > 0:
			t.Errorf("loaded, and then %v", c.Validate())
		case err != nil && (!ok || len(problems) == 0):
			t.Fatalf("error is %T %v", err, err)
		}
	})
}
