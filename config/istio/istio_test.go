package istio

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// options are those of the command without flags.
func options(t testing.TB) Options {
	names, err := NamesOf("seed")
	if err != nil {
		t.Fatal(err)
	}
	return Options{Names: names, Namespace: "omnia-system", Selector: AgentLabels()}
}

// TestRoundTrip exports generated configurations and imports them again: nothing may be lost or
// made up.
func TestRoundTrip(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	exported := 0
	for range 2000 {
		c := generate(r)
		if problems := c.Validate(); len(problems) > 0 {
			t.Fatalf("the generator made an invalid configuration: %v", problems)
		}
		text, remarks, err := Export(c, options(t))
		if err != nil {
			if !strings.Contains(err.Error(), "are all empty") && !strings.Contains(err.Error(), "beside {*}") {
				t.Fatal(err)
			}
			continue
		}
		exported++
		got, _, err := Import([]File{{Name: "exported.yaml", Text: text}})
		if err != nil {
			t.Fatalf("import: %v\n%s", err, text)
		}
		if got.Listen == "" {
			got.Listen = got.TLS.DefaultListen()
		}
		for _, difference := range []config.Mapping{config.Changes(c, got), config.Changes(got, c)} {
			if len(difference) > 0 {
				t.Fatalf("seed %d: differs after export and import:\n%s\nremarks: %v\nexported:\n%s", seed, difference, remarks, text)
			}
		}
	}
	if exported < 1000 {
		t.Errorf("only %d configurations could be exported", exported)
	}
}

// pick is one of the choices.
func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// some are up to n of the choices, each at most once.
func some[T any](r *rand.Rand, n int, choices ...T) []T {
	out := []T{}
	for _, k := range r.Perm(len(choices))[:r.IntN(min(n, len(choices))+1)] {
		out = append(out, choices[k])
	}
	return out
}

// generate is a valid configuration with authentication switched on.
func generate(r *rand.Rand) *config.Config {
	c := config.Default()
	c.Listen = pick(r, ":8080", ":9999")
	c.Routes = config.Routes{config.DefaultRoute()}
	c.Routes[0].Path, c.Routes[0].Upstream = pick(r, "/", "/{agent}"), "http://a:8080"
	if r.IntN(3) == 0 {
		c.Routes[0].Host, c.Routes[0].AllowedOrigins = "*.example.com", []string{"https://app.example.com"}
		c.Routes[0].Query.Set = map[string]string{"on": "a b", "x": "1e3"}
	} else if r.IntN(3) == 0 {
		c.Routes[0].Host, c.Routes[0].Upstream = "{bot}.{name-space}.example.com", "http://{bot}.{name-space}.svc:8080"
		c.Routes[0].Query.Set = map[string]string{"agent": "{bot}", "json": `{"a":"{bot}"}`}
		c.Routes[0].RequiredClaims = config.RequiredClaims{{Claim: "scope", Values: []config.ClaimValue{"{name-space}/{bot}"}}}
	}
	c.Session.IdleTimeout = pick(r, 0, time.Minute, 90*time.Second)
	a := &c.Authentication
	a.JWT = generateIssuer(r, 0)
	for n := range r.IntN(3) {
		a.JWTRules = append(a.JWTRules, generateIssuer(r, n+1))
	}
	for _, jwt := range a.Issuers() {
		if len(jwt.FromCookies) > 0 && len(c.Routes[0].AllowedOrigins) == 0 {
			c.Routes[0].AllowedOrigins = []string{config.AnyOrigin}
		}
	}
	claims := []string{"scope", "role", "realm_access.roles", "realm_access][roles", "https://example.com/roles", "a]", "with space",
		"a..b", "on"}
	for range r.IntN(4) {
		a.Authorization.RequiredClaims = append(a.Authorization.RequiredClaims, config.RequiredClaim{
			Claim: pick(r, claims...), Values: append(
				some[config.ClaimValue](r, 3, "agents:*", "*:write", "*", "a b", true, json.Number("3"), json.Number("1e3")),
				pick[config.ClaimValue](r, "admin", `"`, "1", "yes", false, json.Number("-0.5")))})
	}
	a.Authorization.ExcludePaths = some(r, 4, "/healthz", "/readyz", "/docs/*", "*.css", "/t/{*}/x/{**}", "/a[b]", "/[/{*}", "/%7Bx%7D")
	a.EdgeTrust.StripInboundClaimHeaders = r.IntN(4) > 0
	a.EdgeTrust.AdditionalStripHeaders = some(r, 3, "X-Team", "x_omnia_user", "x-user-email", "x-a-b-c-d-e-f")
	a.EdgeTrust.StripFamilies = pick(r, a.EdgeTrust.StripFamilies, nil, []string{"x-a-*"})
	if r.IntN(2) == 0 {
		a.EdgeTrust.DefaultStripHeaders = some(r, 2, "x-user-id", "x-other")
	}
	return &c
}

func generateIssuer(r *rand.Rand, n int) config.JWT {
	j := config.DefaultJWT()
	j.Issuer = fmt.Sprintf(pick(r, "https://%d.example.com", "https://%d.example.com/", "http://127.0.0.1/%d"), n)
	j.JWKSURI = pick(r, "", j.Issuer+"/keys", ChartAddress(j.Issuer))
	if r.IntN(5) == 0 {
		j.JWKSURI, j.InsecureHTTP = "http://keys.example.com/a?b=c", true
	}
	switch r.IntN(6) {
	case 0:
		j.JWKSURI, j.JWKS = "", `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	case 1:
		j.JWKSURI, j.JWKSFile = "", "/etc/keys.json"
	case 2:
		j.Timeout = 7 * time.Second
	case 3:
		j.Fetch.Interval = time.Hour
	}
	j.OutputPayloadToHeader = pick(r, "", "", "x-jwt-payload")
	j.SpaceDelimitedClaims = pick(r, j.SpaceDelimitedClaims, []string{"groups"}, []string{"scp", "team"})
	j.PrincipalClaim = pick(r, j.PrincipalClaim, []string{"email", "sub"})
	if r.IntN(4) == 0 {
		j.RequiredClaims = config.RequiredClaims{{Claim: "azp", Values: []config.ClaimValue{"cli"}}}
	}
	j.Audiences = some(r, 2, "agents", "https://agents.example.com/", "a: b")
	j.ForwardOriginalToken = r.IntN(2) == 0
	j.OutputClaimToHeaders = some(r, 4,
		config.ClaimHeader{Header: "x-user-id", Claim: "sub"},
		config.ClaimHeader{Header: "X-Roles", Claim: "realm_access.roles", Format: "json"},
		config.ClaimHeader{Header: "x_tenant", Claim: "https://example.com/tenant"},
		config.ClaimHeader{Header: "x-groups", Claim: "groups", Format: "base64json"},
		config.ClaimHeader{Header: "x-first", Claim: "roles", Format: "first"})
	if r.IntN(2) == 0 {
		j.FromHeaders = some(r, 2, config.HeaderSource{Name: "Authorization", Prefix: "Bearer "}, config.HeaderSource{Name: "X-Token"},
			config.HeaderSource{Name: "x-jwt", Prefix: "JWT "})
		j.FromParams, j.FromCookies = some(r, 2, "access_token", "t"), some(r, 1, "session")
	}
	j.FromSubprotocols = pick(r, nil, []string{"bearer"}, config.DefaultJWT().FromSubprotocols)
	j.ClockSkew = pick(r, time.Minute, 0, 5*time.Second)
	j.RequireExpiration = r.IntN(2) == 0
	j.Algorithms = pick(r, config.DefaultJWT().Algorithms, []string{"RS256"})
	return j
}

// TestImports reads each folder of testdata: *.yaml is imported, want.yaml is what comes out,
// notes.txt the notes, and error.txt the problems.
func TestImports(t *testing.T) {
	folders, err := filepath.Glob("testdata/import/*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			var files []File
			names, _ := filepath.Glob(folder + "/in*.yaml")
			for _, name := range names {
				text, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, File{Name: filepath.Base(name), Text: string(text)})
			}
			c, notes, err := Import(files)
			got := ""
			if err != nil {
				got = err.Error() + "\n"
			} else {
				usual := config.Default()
				got = config.Changes(c, &usual).String()
				for _, note := range notes {
					got += "# " + note + "\n"
				}
			}
			file := folder + "/want.txt"
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || got != string(want) {
				t.Errorf("got:\n%s\nwant (%v):\n%s", got, err, want)
			}
		})
	}
}
