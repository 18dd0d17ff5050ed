package istio

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/config"
)

// TestWhatTheGatewayCannotDoIsAnError changes one thing in resources that can be imported. Each
// change makes them mean something that the configuration cannot say, and the error names the
// place.
func TestWhatTheGatewayCannotDoIsAnError(t *testing.T) {
	good, err := os.ReadFile("testdata/import/chart/in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, new, want string }{
		{"no RequestAuthentication", "kind: RequestAuthentication", "kind: PeerAuthentication", "in.yaml: no RequestAuthentication; "},
		{"no policy", "kind: AuthorizationPolicy", "kind: Sidecar",
			"in.yaml: no AuthorizationPolicy, so that Istio lets requests without a token in; "},
		{"no rule for a principal", `            requestPrincipals: ["*"]` + "\n", `            requestPrincipals: ["https://other/x"]` +
			"\n", "in.yaml:27:33: spec.rules[1].from[0].source.requestPrincipals[0]: a principal that is not ISSUER/SUBJECT"},
		{"a namespace in from", "            requestPrincipals: [\"*\"]\n",
			"            requestPrincipals: [\"*\"]\n            namespaces: [a]\n",
			"in.yaml:28:25: spec.rules[1].from[0].source.namespaces: the gateway has nothing that does the same; known here: " +
				"requestPrincipals"},
		{"methods", "            paths:\n", "            methods: [GET]\n            paths:\n",
			"in.yaml:20:22: spec.rules[0].to[0].operation.methods: the gateway has nothing that does the same; known here: paths"},
		{"notValues", "          values:\n            - admin", "          notValues:\n            - admin",
			"spec.rules[1].when[1].notValues: the gateway has nothing that does the same"},
		{"another condition", "request.auth.claims[scope]", "request.headers[x]",
			"in.yaml:29:16: spec.rules[1].when[0].key: a condition that is not on a claim"},
		{"a star in the middle of a value", "agents:access", "a*b",
			"in.yaml:31:15: spec.rules[1].when[0].values[0]: Istio takes all but one * literally"},
		{"CUSTOM", "action: ALLOW", "action: CUSTOM", "in.yaml:15:11: spec.action: action CUSTOM; the gateway knows ALLOW and DENY"},
		{"dry run", "  labels:\n", "  annotations: {istio.io/dry-run: \"true\"}\n  labels:\n",
			"metadata.annotations.istio.io/dry-run: a dry run, which Istio does not enforce"},
		{"targetRefs", "  selector:\n", "  targetRefs: [{kind: Gateway, name: x}]\n  selector:\n",
			"spec.targetRefs: a policy for a gateway or a waypoint"},
		{"another selector", "kind: EnvoyFilter\nmetadata:\n  name: omnia-agent-strip-edge-trust-headers\n  namespace: agents",
			"kind: EnvoyFilter\nmetadata:\n  namespace: other",
			"spec.workloadSelector.labels: another namespace or selector than in in.yaml:3:1; these are several gateways"},
		{"another program", "headers:remove(name)", "headers:add(name, name)",
			"no filter that only removes a list of headers before the token is verified"},
		{"a filter after the token", "INSERT_BEFORE", "INSERT_AFTER",
			"no filter that only removes a list of headers before the token is verified"},
		{"a filter before another one", "name: envoy.filters.http.jwt_authn", "name: envoy.filters.http.router",
			"no filter that only removes a list of headers before the token is verified"},
		{"no issuer", `issuer: "https://login.example.org/"`, `issuer: ""`, "spec.jwtRules[0]: no issuer"},
		{"an unknown field of a rule", "      forwardOriginalToken: true\n", "      forwardOriginalToken: true\n      colour: red\n",
			"spec.jwtRules[0].colour: the gateway has nothing that does the same"},
		{"a quoted boolean", "forwardOriginalToken: true", `forwardOriginalToken: "true"`,
			"spec.jwtRules[0].forwardOriginalToken: neither true nor false"},
		{"a DENY for other reasons", `notRequestPrincipals: ["*"]`, `notRequestPrincipals: ["a"]`,
			"spec.rules[0].from[0]: a DENY rule that is not about a missing principal"},
		{"a DENY that overlaps", "            notPaths:\n              - /healthz\n              - /docs/*",
			"            notPaths:\n              - /healthz\n              - /docs/a*",
			`spec.rules[0]: notPaths overlaps with the path "/docs/*" that is open in in.yaml:22:17`},
		{"a prefix of two stars", "- /docs/*", "- /docs/**", "Istio takes only the last * as one: it is the prefix /docs/*"},
		{"a star in the middle of a path", "- /docs/*", "- /a/*/b", "Istio takes a * in the middle literally"},
		{"two stars around", "'*.css'", "'*a*'", "Istio takes only the first * as one: it is the suffix a*"},
		{"a path without slash", "- /healthz", "- healthz", "it never matches"},
		{"a path that is not clean", "- /healthz", "- /a//b",
			"in.yaml:21:17: authentication.authorization.excludePaths[0]: doubled slash in the path"},
		{"a header that must not be set", "header: X-Tenant", "header: Host",
			"authentication.jwt.outputClaimToHeaders[1].header: reserved"},
		{"a field beside spec", "kind: AuthorizationPolicy\n", "kind: AuthorizationPolicy\naction: DENY\n",
			": action: the gateway has nothing that does the same"},
		{"an unknown field of a selector", "matchLabels:", "matchLables:", "spec.selector.matchLables: the gateway has nothing"},
		{"an unknown field of a filter's selector", "    labels:\n      o", "    label:\n      o",
			"spec.workloadSelector.label: the gateway"},
		{"an unknown version", "security.istio.io/v1\nkind: RequestAuthentication", "security.istio.io/v2\nkind: RequestAuthentication",
			"apiVersion: unknown version of RequestAuthentication; known here: security.istio.io/v1, security.istio.io/v1beta1"},
		{"another group of Istio", "security.istio.io/v1\nkind: AuthorizationPolicy", "rbac.istio.io/v1\nkind: AuthorizationPolicy",
			"apiVersion: unknown version of AuthorizationPolicy"},
		{"no version", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy", "kind: AuthorizationPolicy", "no apiVersion"},
		{"a merged field", "  namespace: agents", "  <<: {annotations: {istio.io/dry-run: \"true\"}}",
			"metadata.<<: anchors and aliases"},
		{"an anchor", "  namespace: agents", "  namespace: &ns agents", "metadata.namespace: anchors and aliases are not read"},
		{"no YAML", "kind: EnvoyFilter", "kind: [", "in.yaml: not YAML: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.ReplaceAll(string(good), test.old, test.new)
			if text == string(good) {
				t.Fatal("the change changes nothing")
			}
			_, _, err := Import([]File{{Name: "in.yaml", Text: text}})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error:\n%v\nwant: %s", err, test.want)
			}
		})
	}
}

// A second rule with a principal would be ORed with the first: neither list of claims alone says
// it.
func TestSecondPrincipalRuleIsAnError(t *testing.T) {
	good, _ := os.ReadFile("testdata/import/chart/in.yaml")
	rule := "    - from:\n        - source:\n            requestPrincipals: [\"*\"]\n"
	text := strings.Replace(string(good), rule, rule+rule, 1)
	if _, _, err := Import([]File{{Name: "in.yaml", Text: text}}); err == nil ||
		!strings.Contains(err.Error(), "a second rule that asks for a principal") {
		t.Error(err)
	}
}

// Without an ALLOW policy everything is open that no DENY rule refuses, so that each further rule
// closes paths and never opens one.
func TestSeveralDenyRulesWithoutAllow(t *testing.T) {
	const head = `apiVersion: security.istio.io/v1
kind: RequestAuthentication
spec: {jwtRules: [{issuer: "https://a"}]}
`
	policy := func(rules ...string) string {
		return "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {action: DENY, rules: [" +
			strings.Join(rules, ", ") + "]}\n"
	}
	spares := func(paths string) string {
		return `{from: [{source: {notRequestPrincipals: ["*"]}}], to: [{operation: {notPaths: [` + paths + `]}}]}`
	}
	for _, test := range []struct{ name, policies, want, problem string }{
		{"one rule", policy(spares("/a, /b")), "/a /b", ""},
		{"two rules of one policy", policy(spares("/a, /b"), spares("/b, /c")), "/b", ""},
		{"rules that spare nothing in common", policy(spares("/a"), spares("/b")), "", ""},
		{"two policies", policy(spares("/a, /docs/x")) + policy(spares("/docs/*")), "/docs/x", ""},
		{"a rule for all paths", policy(spares("/a"), `{from: [{source: {notRequestPrincipals: ["*"]}}]}`), "", ""},
		{"rules that overlap", policy(spares("/docs/*"), spares("/docs/a*")), "",
			`notPaths overlaps with the path "/docs/*" that is open in in.yaml:7:109, and neither`},
		{"no rule", policy(), "", "in.yaml:5:1: a DENY policy without rules refuses nothing"},
		{"no rule, then one", policy() + policy(spares("/a")), "", "a DENY policy without rules refuses nothing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := imported(t, head+test.policies, test.problem)
			if c != nil && strings.Join(c.Authentication.Authorization.ExcludePaths, " ") != test.want {
				t.Errorf("open: %q, want %q", c.Authentication.Authorization.ExcludePaths, test.want)
			}
		})
	}
}

// imported returns the configuration of a text, or nil if there is to be a problem. It checks that
// there is that one, or none.
func imported(t *testing.T, text, problem string) *config.Config {
	t.Helper()
	c, _, err := Import([]File{{Name: "in.yaml", Text: text}})
	if problem == "" {
		if err != nil {
			t.Error(err)
			return nil
		}
		return c
	}
	if err == nil || !strings.Contains(err.Error(), problem) {
		t.Errorf("error:\n%v\nwant: %s", err, problem)
	}
	return nil
}

// To Istio, [] and null are the same as a field that is not there.
func TestEmptyListsSayNothing(t *testing.T) {
	const head = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nspec: {jwtRules: [{issuer: \"https://a\"%s}]}\n" +
		"---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {rules: [%s]}\n"
	const principal = `{from: [{source: {requestPrincipals: ["*"]}}], to: [], when: null}`
	for _, test := range []struct{ name, places, rules, problem string }{
		{"empty places", ", fromHeaders: [], fromParams: null, fromCookies: []", principal, ""},
		{"empty fields beside paths", "", principal + ", {from: [], to: [{operation: {paths: [/a]}}], when: []}", ""},
		{"no condition", "", principal + ", {from: [], to: [], when: []}", "spec.rules[1]: a rule without conditions"},
		{"a principal of nothing", "", "{from: [{source: {requestPrincipals: []}}]}", "a source without requestPrincipals"},
		{"claims alone", "", `{from: [], when: [{key: "request.auth.claims[a]", values: [x]}]}`, "claims without requestPrincipals"},
		{"no values", "", `{from: [{source: {requestPrincipals: ["*"]}}], when: [{key: "request.auth.claims[a]", values: []}]}`,
			"spec.rules[0].when[0]: a condition without values"},
		{"no paths", "", principal + ", {to: [{operation: {paths: []}}]}", "an operation without paths"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := imported(t, fmt.Sprintf(head, test.places, test.rules), test.problem)
			if c != nil && !standard(c.Authentication.JWT) {
				t.Errorf("tokens are looked for in %v %v %v, and in Istio in its default places", c.Authentication.JWT.FromHeaders,
					c.Authentication.JWT.FromParams, c.Authentication.JWT.FromCookies)
			}
		})
	}
}

// A list of one kind, as Istio's API has it, is taken apart as kubectl's List is.
func TestListOfOneKindIsRead(t *testing.T) {
	const list = `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicyList, items: [
  {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, spec: {rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}},
  {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}}]}
---
{apiVersion: security.istio.io/v1, kind: RequestAuthentication, spec: {jwtRules: [{issuer: "https://a"}]}}
`
	if _, _, err := Import([]File{{Name: "in.yaml", Text: list}}); err == nil ||
		!strings.Contains(err.Error(), "in.yaml:3:94: spec.rules[0]: a DENY rule that is not about a missing principal") {
		t.Error(err)
	}
}

// Istio splits a principal at its last slash, and a * of the subject is a pattern only at its end.
func TestPrincipalsAreReadAsIstioDoes(t *testing.T) {
	const head = `{apiVersion: security.istio.io/v1, kind: RequestAuthentication, spec: {
  jwtRules: [{issuer: "https://a"}, {issuer: "https://a/b"}, {issuer: "https://c/"}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, spec: {rules: [{from: [{source: {requestPrincipals: [%s]}}]%s}]}}
`
	const none, literal = "a principal that is not ISSUER/SUBJECT", "Istio takes all but a * at the end of the subject literally"
	for _, test := range []struct{ principals, want, problem string }{
		{`"*", "https://a/x"`, "", ""},
		{`"https://a/x", "https://a/team-*"`, "iss [https://a] sub [x team-*]", ""},
		{`"https://a/*"`, "iss [https://a]", ""},
		{`"https://a/b/x"`, "iss [https://a/b] sub [x]", ""},
		{`"https://c//x"`, "iss [https://c/] sub [x]", ""},
		{`"https://c/x"`, "", none},
		{`"https://a/team/x"`, "", none},
		{`"https://a/"`, "", none},
		{`"x"`, "", none},
		{`"*/x"`, "", none},
		{`"https://a/*x"`, "", literal},
		{`"https://a/*x*"`, "", literal},
		{`"https://a/x", "https://a/b/x"`, "", "principals of several issuers"},
	} {
		when := fmt.Sprintf(", when: [{key: request.auth.principal, values: [%s]}]", test.principals)
		for _, text := range []string{fmt.Sprintf(head, test.principals, ""), fmt.Sprintf(head, `"*"`, when)} {
			c, _, err := Import([]File{{Name: "in.yaml", Text: text}})
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), "in.yaml:4:") || !strings.Contains(err.Error(), test.problem) {
					t.Errorf("%s: %v, want %s", test.principals, err, test.problem)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", test.principals, err)
				continue
			}
			var got []string
			for _, claim := range c.Authentication.Authorization.RequiredClaims {
				got = append(got, fmt.Sprint(claim.Claim, " ", claim.Values))
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("%s: %q, want %q", test.principals, got, test.want)
			}
		}
	}
}

// A document that was edited after an export wins over the annotation; what it cannot say stays.
func TestEditedDocumentWins(t *testing.T) {
	c := config.Default()
	c.Authentication.JWT.Issuer = "https://a.example.com"
	c.Authentication.JWT.OutputClaimToHeaders = config.ClaimHeaders{{Header: "x-roles", Claim: "roles", Format: "json"},
		{Header: "x-user-id", Claim: "sub"}}
	c.Authentication.Authorization.RequiredClaims = config.RequiredClaims{{Claim: "a.b", Values: []config.ClaimValue{"x"}}}
	c.Session.PingInterval = 7
	text, _, err := Export(&c, options(t))
	if err != nil {
		t.Fatal(err)
	}
	text = strings.Replace(text, "claims[a][b]", "claims[a][c]", 1)
	text = strings.Replace(text, "jwksUri: https://a.example.com/.well-known/jwks.json", "jwksUri: https://a.example.com/k", 1)
	got, _, err := Import([]File{{Name: "edited.yaml", Text: text}})
	if err != nil {
		t.Fatal(err)
	}
	if a := got.Authentication; a.Authorization.RequiredClaims[0].Claim != "a][c" || a.JWT.JWKSURI != "https://a.example.com/k" {
		t.Errorf("the annotation wins over the documents: %+v", a)
	}
	if got.Session.PingInterval != 7 || !got.Authentication.JWT.RequireExpiration ||
		got.Authentication.JWT.OutputClaimToHeaders[0].Format != "json" {
		t.Errorf("lost what only the annotation says: %+v", got)
	}
}

func FuzzImport(f *testing.F) {
	for _, name := range []string{"chart/in.yaml", "several-files/in2.yaml", "two-issuers/in.yaml"} {
		text, err := os.ReadFile("testdata/import/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := Import([]File{{Name: "fuzz.yaml", Text: text}})
		if err != nil {
			return
		}
		if !c.Authentication.Enabled || len(c.Authentication.JWT.Issuer) == 0 {
			t.Errorf("imported a gateway without an issuer: %+v", c.Authentication)
		}
	})
}
