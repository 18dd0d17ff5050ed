package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the expected problems and the table of docs/configuration.md anew")

// oneRoute is what a container gives to a file that has none.
const oneRoute = "OMNIA_GATEWAY_ROUTES=/my-agent=http://my-agent:8080"

// load writes text to a file called gateway.yaml and loads it.
func load(t *testing.T, text string, environ ...string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Sources{File: file, Environ: environ})
}

// mustLoad loads a file that has nothing to do with what is tested but for text.
func mustLoad(t *testing.T, text string, environ ...string) *Config {
	t.Helper()
	c, err := load(t, text, append([]string{oneRoute, "OMNIA_GATEWAY_JWT_ISSUER=https://issuer.example.com"}, environ...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGoodFilesLoad(t *testing.T) {
	files, _ := filepath.Glob("testdata/good/*.yaml")
	if len(files) < 7 {
		t.Fatalf("found only %d files", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var environ []string
			if !bytes.Contains(text, []byte("\nroutes:")) {
				environ = append(environ, oneRoute)
			}
			if !bytes.Contains(text, []byte("issuer:")) {
				environ = append(environ, "OMNIA_GATEWAY_JWT_ISSUER=https://issuer.example.com")
			}
			if _, err := Load(Sources{File: file, Environ: environ}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBadFilesAreRefused compares every line of the error with the comment lines at the top of
// each file.
func TestBadFilesAreRefused(t *testing.T) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	if len(files) < 10 {
		t.Fatalf("found only %d files", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if *update {
				writeExpected(t, file)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := splitComments(string(text))
			problems := problemsOf(t, file)
			for _, p := range problems {
				if p.Hint == "" {
					t.Errorf("no hint: %v", p)
				}
			}
			got := strings.ReplaceAll(problems.Error(), file, filepath.Base(file))
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if strings.Contains(got, "secret") {
				t.Error("a value of the file is repeated")
			}
		})
	}
}

func problemsOf(t *testing.T, file string) Problems {
	t.Helper()
	_, err := Load(Sources{File: file})
	problems, ok := err.(Problems)
	if !ok {
		t.Fatalf("%s: error is a %T: %v", file, err, err)
	}
	return problems
}

// writeExpected puts the comment lines above a file: first as many as there will be, as they
// move what is below them.
func writeExpected(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, body := splitComments(string(text))
	comments := strings.Repeat("# \n", len(problemsOf(t, file)))
	for range 2 {
		if err := os.WriteFile(file, []byte(comments+body), 0o644); err != nil {
			t.Fatal(err)
		}
		got := strings.ReplaceAll(problemsOf(t, file).Error(), file, filepath.Base(file))
		comments = "# " + strings.ReplaceAll(got, "\n", "\n# ") + "\n"
	}
}

// splitComments parts a file in the text of the comment lines at its top and the rest.
func splitComments(text string) (comments, rest string) {
	var lines []string
	for strings.HasPrefix(text, "# ") {
		line, tail, _ := strings.Cut(text, "\n")
		lines, text = append(lines, line[2:]), tail
	}
	return strings.Join(lines, "\n"), text
}

func TestTenMistakesGiveTenLines(t *testing.T) {
	if n := len(problemsOf(t, "testdata/bad/ten.yaml")); n != 10 {
		t.Errorf("%d problems", n)
	}
}

func TestUnreadableFilesAreProblems(t *testing.T) {
	big := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(big, bytes.Repeat([]byte("# \n"), maxFileBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"testdata/none.yaml": "testdata/none.yaml: read the file: no such file or directory; ",
		"testdata":           "testdata: read the file: is a directory; ",
		big:                  big + ": read the file: too large; ",
	} {
		_, err := Load(Sources{File: file})
		var problems Problems
		if !errors.As(err, &problems) || len(problems) != 1 || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestHostileFilesTakeLinearTime reads the patterns that made a parser's time grow with the
// square of the length, at the largest size that is read. Each takes about a second of CPU time;
// what is not linear takes a minute.
func TestHostileFilesTakeLinearTime(t *testing.T) {
	for _, pattern := range []struct{ before, again string }{
		{"a: |\n ", "\r"}, {"a: |\n ", " \n"}, {"", "{a: "}, {"", "- "}, {"", "? "}, {"", "[a, "}, {"", "a: b\n"}, {"[", "a:\n "},
		{"a: ", "*a "},
		{"", "a: &a b\n"}, {"", "#\n"}, {"\"", "\\n"}, {"", "---\n"}, {"a:\n  - ", "<<: a\n"}, {"routes:\n", "- {}\n"},
		{"routes: [", "{},"},
	} {
		text := pattern.before + strings.Repeat(pattern.again, (maxFileBytes-len(pattern.before))/len(pattern.again))
		began := cpuTime(t)
		load(t, text)
		if took := cpuTime(t) - began; took > 10*time.Second {
			t.Errorf("%q and many of %q: %v", pattern.before, pattern.again, took)
		}
	}
	// Thousands of different keys that are unknown: each has a hint.
	for _, format := range []string{"k%d: 1\n", "authenticatio%d: 1\n", "authentication: {jwt: {k%d: 1}}\n", "a%d: {<<: *a}\n"} {
		text := []byte("a: &a 1\n")
		for n := 0; len(text) < maxFileBytes-50; n++ {
			text = fmt.Appendf(text, format, n)
		}
		began := cpuTime(t)
		load(t, string(text))
		if took := cpuTime(t) - began; took > 10*time.Second {
			t.Errorf("many of %q: %v", format, took)
		}
	}
}

// cpuTime returns the CPU time that this process has taken, which other processes do not change.
func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestExampleHasEveryKey(t *testing.T) {
	text, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Sources{File: "example.yaml"}); err != nil {
		t.Error(err)
	}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for f := range typ.Fields() {
			name := f.Tag.Get("yaml")
			if name == "-" {
				continue
			}
			if !bytes.Contains(text, []byte(name+":")) {
				t.Errorf("%s.%s: key %s is not in example.yaml", typ.Name(), f.Name, name)
			}
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type)
			} else if hasKeys(f.Type) {
				walk(f.Type.Elem())
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

// TestExampleShowsTheDefaults takes out what has no default; the rest must be what Default says.
func TestExampleShowsTheDefaults(t *testing.T) {
	c, err := Load(Sources{File: "example.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listen, want.TLS.CertFile, want.TLS.KeyFile, want.Routes = c.Listen, c.TLS.CertFile, c.TLS.KeyFile, c.Routes
	want.Authentication.JWT.Issuer, want.Authentication.JWT.Audiences = c.Authentication.JWT.Issuer, c.Authentication.JWT.Audiences
	want.Authentication.Authorization.RequiredClaims = c.Authentication.Authorization.RequiredClaims
	want.Notes, want.Sources, want.places = c.Notes, c.Sources, c.places
	// An empty list is the same as none, where none is the default.
	c.TrustedProxies, c.ProxyProtocol.From, c.Authentication.JWTRules = nil, nil, nil
	c.Admin.Hosts, c.Cluster.Redis.Addresses = nil, nil
	c.Authentication.JWT.LogoutAudiences = nil
	c.Authentication.JWT.FromCookies, c.Authentication.JWT.RequiredClaims, c.Authentication.EdgeTrust.AdditionalStripHeaders = nil, nil, nil
	if !reflect.DeepEqual(*c, want) {
		t.Errorf("got  %+v\nwant %+v", *c, want)
	}
}

func TestListenDependsOnTLS(t *testing.T) {
	if c := mustLoad(t, ""); c.Listen != ":8080" {
		t.Errorf("without TLS: %s", c.Listen)
	}
	if c := mustLoad(t, "tls: { certFile: c, keyFile: k }"); c.Listen != ":8443" {
		t.Errorf("with TLS: %s", c.Listen)
	}
	if c := mustLoad(t, "listen: localhost:1234"); c.Listen != "localhost:1234" {
		t.Errorf("given: %s", c.Listen)
	}
}

func TestEachListReplacesItsDefault(t *testing.T) {
	c := mustLoad(t, `
authentication:
  jwt: { fromParams: [], outputClaimToHeaders: [{ header: x-tenant, claim: tenant }] }
  authorization: { excludePaths: [] }
`)
	jwt := c.Authentication.JWT
	if len(jwt.FromParams) != 0 || !slices.Equal(jwt.OutputClaimToHeaders, ClaimHeaders{{Header: "x-tenant", Claim: "tenant"}}) {
		t.Errorf("lists: %+v", jwt)
	}
	if !slices.Equal(jwt.FromHeaders, DefaultJWT().FromHeaders) {
		t.Errorf("a list of which nothing was said: %v", jwt.FromHeaders)
	}
	if got := c.Authentication.Authorization.ExcludePaths; got == nil || len(got) != 0 {
		t.Errorf("excludePaths: []: %#v", got)
	}
	if got := mustLoad(t, "authentication: { authorization: {} }").Authentication.Authorization.ExcludePaths; len(got) != 2 {
		t.Errorf("excludePaths missing: %v", got)
	}
}

func TestElementsStartFromTheirDefaults(t *testing.T) {
	c := mustLoad(t, "authentication: { jwtRules: [{ issuer: https://b.example.com, clockSkew: 0 }] }")
	want := DefaultJWT()
	want.Issuer, want.ClockSkew = "https://b.example.com", 0
	if !reflect.DeepEqual(c.Authentication.JWTRules[0], want) {
		t.Errorf("got %+v", c.Authentication.JWTRules[0])
	}
	if !c.Routes[0].StripPrefix {
		t.Error("stripPrefix of a route is false")
	}
}

func TestDurationsAreGoDurations(t *testing.T) {
	c := mustLoad(t, "session: { expiryGrace: 0, pingInterval: 1m30s, idleTimeout: \"24h\" }")
	if s := c.Session; s.ExpiryGrace != 0 || s.PingInterval != 90*time.Second || s.IdleTimeout != 24*time.Hour {
		t.Errorf("%+v", s)
	}
}

func TestByteOrderMarkAndCarriageReturnsAreNoMistake(t *testing.T) {
	c := mustLoad(t, "\ufefflog:\r\n  level: debug\r\n  format: text\r\n")
	if c.Log != (Log{Format: "text", Level: "debug"}) {
		t.Errorf("%+v", c.Log)
	}
}

func TestNotes(t *testing.T) {
	for _, test := range []struct {
		name, text string
		environ    []string
		want       []string
	}{
		{name: "chart keys", text: "istio: { x: [] }\ngateway:\n", want: []string{"istio, gateway of the Helm chart ignored"}},
		{name: "no TLS", want: []string{"plain HTTP"}},
		{
			name: "a wildcard over a whole domain",
			environ: []string{
				`OMNIA_GATEWAY_ROUTES=[{"path":"/a","upstream":"http://a",` +
					`"allowedOrigins":["https://*.a.com","https://*.com","https://*.org:8443"]}]`,
			},
			want: []string{"routes[0].allowedOrigins[1] allows every domain of com",
				"routes[0].allowedOrigins[2] allows every domain of org"},
		},
		{name: "no audiences", want: []string{"authentication.jwt.audiences is empty"}},
		{name: "disabled", text: "authentication: { enabled: false }", want: []string{"everybody is let in"}},
		{
			name: "no expiry", text: "session: { closeOnTokenExpiry: false, expiryNotice: { before: 60s, text: secret } }",
			want: []string{"session.expiryNotice is never sent"},
		},
		{
			name: "nothing to prepare", text: "upstream: { prepared: 8 }",
			environ: []string{`OMNIA_GATEWAY_ROUTES=[{"path":"/{a}","upstream":"http://{a}"}]`},
			want:    []string{"upstream.prepared has no effect"},
		},
		{
			name: "words for booleans", text: "authentication: { authorization: { requiredClaims: [{ claim: a, values: [\"no\", On] }] } }",
			want: []string{"1:80: authentication.authorization.requiredClaims[0].values[1]: On is a text here and a boolean for other"},
		},
		{
			name: "all excluded", text: "authentication: { authorization: { excludePaths: [/a, '/*'] } }",
			want: []string{"excludePaths[1] excludes every path"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			notes := strings.Join(mustLoad(t, test.text, test.environ...).Notes, "\n")
			for _, want := range test.want {
				if !strings.Contains(notes, want) {
					t.Errorf("no %q in\n%s", want, notes)
				}
			}
			if strings.Contains(notes, "secret") {
				t.Errorf("a value is repeated:\n%s", notes)
			}
		})
	}
	quiet := mustLoad(t, "tls: { certFile: c, keyFile: k }\nupstream: { prepared: 8 }\nauthentication: { jwt: { audiences: [a] } }")
	if len(quiet.Notes) > 0 {
		t.Errorf("notes about nothing: %q", quiet.Notes)
	}
}

func TestNoticeIsShortUTF8(t *testing.T) {
	for text, want := range map[string]string{
		strings.Repeat("é", maxNotice/2): "", strings.Repeat("é", maxNotice/2) + "!": "4097 bytes; at most 4096", "\xff": "not UTF-8",
	} {
		c := Default()
		c.Session.ExpiryNotice = ExpiryNotice{time.Minute, text}
		problems := c.Validate().Error()
		if got := strings.Contains(problems, "session.expiryNotice.text: "+want); got != (want != "") {
			t.Errorf("%.10q: %s", text, problems)
		}
	}
}

func TestKindsOfRequiredValuesStay(t *testing.T) {
	const text = `authentication: { authorization: { requiredClaims: [
  { claim: a, values: [true, "true", 3, "3", 3.50, -1e3, 2026-01-31, 1.2.3, yes] } ] } }`
	c := mustLoad(t, text)
	want := []ClaimValue{true, "true", json.Number("3"), "3", json.Number("3.50"), json.Number("-1e3"), "2026-01-31", "1.2.3", "yes"}
	if got := c.Authentication.Authorization.RequiredClaims[0].Values; !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v", got)
	}
	c = mustLoad(t, "", `OMNIA_GATEWAY_REQUIRED_CLAIMS=a=true|3`)
	if got := c.Authentication.Authorization.RequiredClaims[0].Values; !reflect.DeepEqual(got, []ClaimValue{"true", "3"}) {
		t.Errorf("of a variable: %#v", got)
	}
	_, err := Load(Sources{Environ: []string{`OMNIA_GATEWAY_REQUIRED_CLAIMS=[{"claim": "a", "values": ["x", true]}]`}})
	if err == nil || !strings.Contains(err.Error(), "requiredClaims[0].values[1]: a boolean, and a variable can ask for text only") {
		t.Errorf("of a list in a variable: %v", err)
	}
}

func TestDefaultsAreValidButForWhatHasNone(t *testing.T) {
	c := Default()
	keys := map[string]bool{}
	for _, p := range c.Validate() {
		keys[p.Key] = true
	}
	if want := map[string]bool{"routes": true, "authentication.jwt.issuer": true}; !maps.Equal(keys, want) {
		t.Errorf("problems of %v", keys)
	}
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml", "example.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text), "[{issuer: a}]")
		}
	}
	f.Add("a: {b: [c", "/a=http://b;/c")
	file := filepath.Join(f.TempDir(), "gateway.yaml")
	names := variables()
	f.Fuzz(func(t *testing.T, text, value string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		v := names[len(value)%len(names)]
		c, err := Load(Sources{File: file, Environ: []string{v.name + "=" + value, oneRoute}})
		if err == nil {
			if problems := c.Validate(); len(problems) > 0 {
				t.Errorf("loaded, and then %v", problems)
			}
			return
		}
		problems, ok := err.(Problems)
		if !ok || len(problems) == 0 {
			t.Fatalf("error is %T %v", err, err)
		}
		for _, p := range problems {
			if p.Text == "" || p.Place.Name == "" || strings.ContainsFunc(p.Error(), isControl) {
				t.Errorf("problem %q", p)
			}
		}
	})
}

func TestForwardOriginalTokenOfARouteHasThreeStates(t *testing.T) {
	for text, want := range map[string]string{"": "", ", forwardOriginalToken: true": "true", ", forwardOriginalToken: false": "false"} {
		c, err := load(t, "routes: [{ path: /a, upstream: \"http://a\""+text+" }]", "OMNIA_GATEWAY_JWT_ISSUER=https://issuer.example.com")
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if f := c.Routes[0].ForwardOriginalToken; f != nil {
			got = strconv.FormatBool(*f)
		}
		if got != want {
			t.Errorf("%q: %q", text, got)
		}
		base := Default()
		var again Config
		if problems := Read("written", Changes(c, &base).String(), &again); len(problems) > 0 ||
			!reflect.DeepEqual(again.Routes, c.Routes) {
			t.Errorf("%q is not what is written: %+v, %v", text, again.Routes, problems)
		}
	}
}

func TestPrincipalClaimIsOneNameOrAList(t *testing.T) {
	for _, c := range []struct {
		text string
		want ClaimNames
	}{
		{"email", ClaimNames{"email"}},
		{`"3"`, ClaimNames{"3"}},
		{"[email]", ClaimNames{"email"}},
		{"[sub, common_name]", ClaimNames{"sub", "common_name"}},
	} {
		got := mustLoad(t, "authentication: { jwt: { principalClaim: "+c.text+" } }").Authentication.JWT.PrincipalClaim
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", c.text, got)
		}
	}
	for text, want := range map[string]ClaimNames{"email": {"email"}, "sub, client_id": {"sub", "client_id"}, `["a,b"]`: {"a,b"}} {
		if got := mustLoad(t, "", "OMNIA_GATEWAY_JWT_PRINCIPAL_CLAIM="+text).Authentication.JWT.PrincipalClaim; !slices.Equal(got, want) {
			t.Errorf("variable %s: %q", text, got)
		}
	}
	for _, text := range []string{"3", "true", "{ a: b }", `""`, "null"} {
		if _, err := load(t, "authentication: { jwt: { principalClaim: "+text+" } }", "OMNIA_GATEWAY_JWT_ISSUER=https://a.example.com",
			oneRoute); err == nil || !strings.Contains(err.Error(), "principalClaim") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRouteSaysWhatItsSessionsMay(t *testing.T) {
	c, err := load(t, `
limits: { messagesPerSecond: 5, messagesBurst: 9, fromAgent: { bytesPerSecond: 100 } }
session: { pingInterval: 7s, maxDuration: 1h }
routes:
  - { path: /plain, upstream: "http://a" }
  - path: /own
    upstream: http://a
    limits: { messagesPerSecond: 0, maxMessageBytes: 10, fromAgent: { messagesPerSecond: 2.5, countBinary: true } }
    session: { maxDuration: 0s, closeOnTokenExpiry: false, idleTimeout: 1m }
`, "OMNIA_GATEWAY_JWT_ISSUER=https://issuer.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if s, l := c.Of(c.Routes[0]); s != c.Session || l != c.Limits {
		t.Errorf("a route that says nothing: %+v %+v", s, l)
	}
	wantSession, wantLimits := c.Session, c.Limits
	wantLimits.MessagesPerSecond, wantLimits.MaxMessageBytes = 0, 10
	wantLimits.FromAgent.MessagesPerSecond, wantLimits.FromAgent.CountBinary = 2.5, true
	wantSession.MaxDuration, wantSession.CloseOnTokenExpiry, wantSession.IdleTimeout = 0, false, time.Minute
	if s, l := c.Of(c.Routes[1]); s != wantSession || l != wantLimits {
		t.Errorf("got  %+v %+v\nwant %+v %+v", s, l, wantSession, wantLimits)
	}
}

func TestAgentsThatAuthenticateNeedNoIssuer(t *testing.T) {
	const route = "{ path: /a, upstream: http://a, agentAuthenticates: true }"
	if got := problems(t, "routes: [ "+route+" ]"); got != "" {
		t.Error(got)
	}
	for _, text := range []string{
		"routes: [ " + route + ", { path: /b, upstream: http://b } ]",
		"routes: [ " + route + ", { path: /b, upstream: http://b, public: true } ]",
	} {
		if got := problems(t, text); !strings.Contains(got, "authentication.jwt.issuer: missing") {
			t.Errorf("%s: %s", text, got)
		}
	}
	const rules = "authentication: { jwtRules: [ { audiences: [a] } ] }\n"
	if got := problems(t, rules+"routes: [ "+route+" ]"); !strings.Contains(got, "authentication.jwtRules[0].issuer: missing") {
		t.Error(got)
	}
}
