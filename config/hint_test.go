package config

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// problems loads a file that is complete but for text and returns its problems, without the
// file's folder.
func problems(t *testing.T, text string, environ ...string) string {
	t.Helper()
	_, err := load(t, text, append([]string{"OMNIA_GATEWAY_JWT_AUDIENCES=agents"}, environ...)...)
	if err == nil {
		return ""
	}
	var lines []string
	for _, line := range strings.Split(err.Error(), "\n") {
		if _, rest, ok := strings.Cut(line, "/gateway.yaml"); ok {
			line = strings.TrimPrefix(strings.TrimLeft(rest, ":0123456789"), " ")
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

const (
	issuerOnly = "authentication: { jwt: { issuer: https://issuer.example.com } }\n"
	routesOnly = "routes: [{ path: /a, upstream: http://a }]\n"
)

// TestAMistakeReportsOnlyItself: what follows from a value that could not be read is not
// reported as well.
func TestAMistakeReportsOnlyItself(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{routesOnly + "authentication: { enabled: no }",
			"authentication.enabled: text where true or false belongs; write true or false, without quotes"},
		{routesOnly + "authentication: { jwt: { issuer: http://i.example.com, insecureHTTP: yes } }",
			"authentication.jwt.insecureHTTP: text where"},
		{routesOnly + "authentication: { jwt: { issuer: name, jwksUri: [a] } }", "authentication.jwt.jwksUri: a list where text belongs"},
		{routesOnly + "authentication: { jwt: { issuer: http://i.example.com, insecureHttp: true } }",
			`authentication.jwt.insecureHttp: unknown key; did you mean "insecureHTTP"?`},
		{issuerOnly + routesOnly + "tls: { clientCAFile: c, certFile: 1, keyFile: 2 }", "tls.certFile: a number where text belongs"},
		{issuerOnly + "routes: [{ path: /a, upstream: http://a, host: 1 }, { path: /a, upstream: http://b }]",
			"routes[0].host: a number where text belongs"},
		{issuerOnly + "routes: [{ path: /a, upstream: http://a, public: true, pubic: false, requiredClaims: [{ claim: a, values: [b] }] " +
			"}]", "routes[0].pubic: unknown key"},
		{issuerOnly + routesOnly + "listen: 9090\nadmin: { listen: ':9090' }", `listen: a number where text belongs; write ":9090"`},
		{routesOnly + "issuer: https://issuer.example.com", "issuer: unknown key; it is a key of authentication.jwt"},
	} {
		got := problems(t, test.text)
		lines := strings.Count(got, "\n") + 1
		if strings.HasPrefix(test.want, "tls.certFile") {
			lines-- // and keyFile
		}
		if !strings.HasPrefix(got, test.want) || lines != 1 {
			t.Errorf("%s\ngot  %s\nwant %s", test.text, got, test.want)
		}
	}
}

func TestHintsSayWhatWasMeant(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"listen: 8080", `listen: a number where text belongs; write ":8080"`},
		{`listen: "8080"`, `listen: not an address; write ":8080"`},
		{"admin: { listen: 9090 }", `admin.listen: a number where text belongs; write "127.0.0.1:9090", or ":9090" for all interfaces`},
		{"tls: { minVersion: 1.2 }", `tls.minVersion: a number where text belongs; write it in quotes: "1.2" or "1.3"`},
		{"session: { drainDelay: 2562047h }", "session.drainDelay: longer than a century; at most 876000h"},
		{"limits: { upstreamTimeout: 2562047h }", "limits.upstreamTimeout: longer than a century; at most 876000h"},
		{"session: { idleTimeout: 1d }", "session.idleTimeout: not a duration; the largest unit is the hour: write a day as 24h"},
		{"log: { level: INFO }", `log.level: unknown value; did you mean "info"?`},
		{"authorization: {}", "authorization: unknown key; it is a key of authentication"},
		{"tls: { listen: a }", "tls.listen: unknown key; it is a key of the file as a whole or of admin"},
		{"session: { maxConections: 1 }", "session.maxConections: unknown key; known here: "},
		{"limits: { idle-timeout: 1 }", "limits.idle-timeout: unknown key; it is a key of session"},
		{"trustedProxy: []", `trustedProxy: unknown key; did you mean "trustedProxies"?`},
	} {
		if got := problems(t, issuerOnly+routesOnly+test.text); !strings.HasPrefix(got, test.want) || strings.Contains(got, "\n") {
			t.Errorf("%s\ngot  %s\nwant %s", test.text, got, test.want)
		}
	}
	for _, test := range []struct{ text, want string }{
		{"requiredClaims: [{ claim: a, values: [b] }]",
			"authentication.requiredClaims: unknown key; it is a key of authentication.jwt or of authentication.authorization"},
		{"excludePaths: []", "authentication.excludePaths: unknown key; it is a key of authentication.authorization"},
		{"jwks_uri: x", "authentication.jwks_uri: unknown key; it is a key of authentication.jwt"},
	} {
		if got := problems(t, routesOnly+"authentication: { jwt: { issuer: https://i.example.com }, "+test.text+" }"); got != test.want {
			t.Errorf("%s\ngot  %s\nwant %s", test.text, got, test.want)
		}
	}
	for name, want := range map[string]string{
		"HS256": "never accepted: the key would", "none": "never accepted: such a token is not signed",
		"rs256":  `unknown value; did you mean "RS256"?`,
		"ES256K": "not supported: it is for the curve secp256k1; one of RS256, ", "Ed": "unknown value; one of RS256, ",
	} {
		got := problems(t, routesOnly+"authentication: { jwt: { issuer: https://i.example.com, algorithms: ["+name+"] } }")
		if !strings.HasPrefix(got, "authentication.jwt.algorithms[0]: "+want) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestUnknownVariablesAreErrors(t *testing.T) {
	for name, want := range map[string]string{
		"REQUIRED_CLAIM": "did you mean OMNIA_GATEWAY_REQUIRED_CLAIMS?",
		"AUTHENTICATION_AUTHORIZATION_EXCLUDE_PATHS": "did you mean OMNIA_GATEWAY_EXCLUDE_PATHS?",
		"AUDIENCES":                 "did you mean OMNIA_GATEWAY_JWT_AUDIENCES?",
		"MAX_CONNECTIONS":           "did you mean OMNIA_GATEWAY_LIMITS_MAX_CONNECTIONS?",
		"PORT":                      "did you mean OMNIA_GATEWAY_LISTEN?",
		"SOMETHING_QUITE_DIFFERENT": "docs/configuration.md has all; unset it",
	} {
		got := problems(t, issuerOnly+routesOnly, "OMNIA_GATEWAY_"+name+"=8080-secret")
		if got != "OMNIA_GATEWAY_"+name+": unknown variable; "+want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	// The issuer's variable is misspelt: that it is missing is not said as well.
	if got := problems(t, routesOnly, "OMNIA_GATEWAY_JWT_ISUER=x"); got != "OMNIA_GATEWAY_JWT_ISUER: unknown variable; did you mean "+
		"OMNIA_GATEWAY_JWT_ISSUER?" {
		t.Error(got)
	}
}

func TestVariablesOfKubernetesAreNoMistake(t *testing.T) {
	for _, e := range []string{
		"SERVICE_HOST=10.0.0.1", "SERVICE_HOST=fd00::1", "SERVICE_PORT=80", "SERVICE_PORT_HTTPS=80", "PORT=tcp://10.0.0.1:80",
		"PORT_80_TCP=tcp://[fd00::1]:80",
		"PORT_80_TCP_ADDR=10.0.0.1", "PORT_80_TCP_PORT=80", "ADMIN_PORT_9090_TCP_PROTO=tcp", "ADMIN_SERVICE_HOST=10.0.0.1",
	} {
		if got := problems(t, issuerOnly+routesOnly, variablePrefix+e); got != "" {
			t.Error(got)
		}
	}
	for _, e := range []string{"PORT=8443", "LISTEN_PORT=8443", "SERVICE_HOST=name", "SERVICE_PORT=:80"} {
		if got := problems(t, issuerOnly+routesOnly, variablePrefix+e); !strings.Contains(got, "unknown variable") {
			t.Errorf("%s: %s", e, got)
		}
	}
}

func TestValuesThatNeverMatchAreNoted(t *testing.T) {
	for _, test := range []struct{ environ, want string }{
		{`JWT_AUDIENCES=a,"agents"`, "OMNIA_GATEWAY_JWT_AUDIENCES: authentication.jwt.audiences[1]: quotes around the value are a part " +
			"of it"},
		{"JWT_AUDIENCES=a,'agents'", "quotes around"},
		{"JWT_AUDIENCES=$AUDIENCE", "a variable in it was not replaced"},
		{"JWT_AUDIENCES=api://$APP_ID", "a variable in it was not replaced"},
		{"JWT_AUDIENCES=%AUDIENCE%", "a variable in it was not replaced"},
		{"JWT_AUDIENCES=api://%TENANT%/a", "a variable in it was not replaced"},
		{"JWT_FROM_HEADERS=Authorization=Bearer # ours", "authentication.jwt.fromHeaders[0].prefix: a comment is a part of the value"},
		{"JWT_FROM_HEADERS=Authorization='Bearer'", "authentication.jwt.fromHeaders[0].prefix: quotes around"},
		{"JWT_AUDIENCES=${AUDIENCE}", "a variable in it was not replaced"},
		{"JWT_AUDIENCES=$(AUDIENCE)", "a variable in it was not replaced"},
		{"JWT_AUDIENCES={{ .Values.audience }}", "a template in it was not filled in"},
		{"JWT_AUDIENCES=agents # ours", "a comment is a part of the value"},
		{"JWT_AUDIENCES=<your-audience>", "a placeholder in angle brackets"},
		{"JWT_AUDIENCES=a;b", `authentication.jwt.audiences has ";" in one of its entries; entries are separated by ","`},
		{"REQUIRED_CLAIMS=scope=a,role=b", `requiredClaims has "," in one of its entries; entries are separated by ";"`},
		{"OUTPUT_CLAIM_TO_HEADERS=x-a=sub;x-b=email", `entries are separated by ","`},
		{"REQUIRED_CLAIMS=scope=agents:access agents:write", "authentication.authorization.requiredClaims[0].values[0]: several words"},
		{"JWT_REQUIRED_CLAIMS=role=user;permission=a b", "authentication.jwt.requiredClaims[1].values[0]: several words"},
		{`REQUIRED_CLAIMS=scope="agents:access"`, "authentication.authorization.requiredClaims[0].values[0]: quotes around"},
	} {
		c, err := load(t, issuerOnly+routesOnly, variablePrefix+test.environ)
		if err != nil {
			t.Errorf("%s: %v", test.environ, err)
			continue
		}
		if notes := strings.Join(c.Notes, "\n"); !strings.Contains(notes, test.want) {
			t.Errorf("%s: no %q in\n%s", test.environ, test.want, notes)
		}
	}
	// Where such a value is an error anyway, the error says what it is.
	got := problems(t, issuerOnly+routesOnly, `OMNIA_GATEWAY_LISTEN=":8443"`, `OMNIA_GATEWAY_SESSION_IDLE_TIMEOUT="1h"`,
		`OMNIA_GATEWAY_JWT_JWKS_URI=${JWKS}`)
	if strings.Count(got, "quotes around the value are a part of it; remove them") != 2 ||
		!strings.Contains(got, "a variable in it was not replaced") {
		t.Error(got)
	}
	for _, issuer := range []string{"https://{tenant}.example.com", "https://${TENANT}.example.com", "https://a example.com",
		"https://<tenant>.example.com"} {
		if got := problems(t, routesOnly+"authentication: { jwt: { issuer: \""+issuer+"\" } }"); !strings.HasPrefix(got,
			"authentication.jwt.issuer: a space, brace") {
			t.Errorf("%s: %s", issuer, got)
		}
	}
	for _, issuer := range []string{"$(ISSUER)", "$ISSUER", "%ISSUER%", "https://$TENANT.example.com"} {
		got := problems(t, routesOnly+"authentication: { jwt: { issuer: '"+issuer+"', jwksUri: https://a.example.com } }")
		if !strings.HasPrefix(got, "authentication.jwt.issuer: not an issuer: a variable in it was not replaced; write its value") {
			t.Errorf("%s: %s", issuer, got)
		}
	}
}

// TestWhatCannotBeMeantIsNotNoted has values that look like those of the test above.
func TestWhatCannotBeMeantIsNotNoted(t *testing.T) {
	for _, environ := range []string{
		"EXCLUDE_PATHS=/odata/$batch,/$metadata", "EXCLUDE_PATHS=/%E4%BD%A0", "JWT_AUDIENCES=100%",
		`JWT_AUDIENCES=["a,b", 'c']`, "JWT_FROM_HEADERS=Authorization=Bearer,X-Token", "JWT_AUDIENCES=it's",
		"REQUIRED_CLAIMS=department=Human Resources"} {
		c, err := load(t, issuerOnly+routesOnly, variablePrefix+environ)
		if err != nil {
			t.Errorf("%s: %v", environ, err)
		} else if notes := strings.Join(c.Notes, "\n"); strings.Contains(notes, "never match") {
			t.Errorf("%s: %s", environ, notes)
		}
	}
}

// TestQuotesAroundAList gives every list what an env file of docker leaves of NAME="a,b".
func TestQuotesAroundAList(t *testing.T) {
	const said = "quotes around the value are a part of it; remove them"
	for _, v := range variables() {
		if v.key != everyDrop && valueOf(new(Config), v.key).Kind() == reflect.String {
			continue // which Validate looks at
		}
		for _, value := range []string{`"a,b"`, "'a,b'", `"a=b;c=d"`, `'[{"issuer": "a"}]'`, `"a"`, ` "a,b" `} {
			l, c := newLoader(Sources{}), Default()
			c.Routes = Routes{DefaultRoute()}
			l.readEnvironment(&c, []string{v.name + "=" + value})
			got, at := l.problems.Error(), v.name+": "+v.key+": "
			if len(l.problems) != 1 || !strings.HasPrefix(got, at) || !strings.Contains(got, said) {
				t.Errorf("%s=%s: %s", v.name, value, got)
			}
		}
	}
	got := problems(t, issuerOnly+routesOnly, `OMNIA_GATEWAY_QUERY_DROP="agent,namespace,workspace,device_id"`)
	if want := "OMNIA_GATEWAY_QUERY_DROP: routes[].query.drop: " + said; !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestSeparatorOfAListIsNamed gives lists that are separated as other lists are.
func TestSeparatorOfAListIsNamed(t *testing.T) {
	for environ, want := range map[string]string{
		"ROUTES=/a=http://x:1,/b=http://y:2": `OMNIA_GATEWAY_ROUTES: routes[0].upstream: not an http:// or https:// URL with a host; ` +
			`entries are separated by ";"`,
		"ROUTES=/a,/b": `OMNIA_GATEWAY_ROUTES: routes[0]: not readable; entries are separated by ";": write the ` +
			"list like /my-agent=",
		"STRIP_FAMILIES=x-user-*;x-omnia-*": `edgeTrust.stripFamilies[0]: not a header name; entries are separated by ","`,
		"ADDITIONAL_STRIP_HEADERS=x-a;x-b":  `edgeTrust.additionalStripHeaders[0]: not a header name; entries are separated by ","`,
		"TRUSTED_PROXIES=10.0.0.0/8;::1":    `trustedProxies[0]: not readable; entries are separated by ","`,
	} {
		name, _, _ := strings.Cut(environ, "=")
		for _, v := range variables() {
			if strings.HasSuffix(v.name, "_"+name) {
				environ = v.name + strings.TrimPrefix(environ, name)
			}
		}
		if got := problems(t, issuerOnly+routesOnly, environ); !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("%s:\ngot  %s\nwant %s", environ, got, want)
		}
	}
}

func TestQueryDropOfTheEnvironmentIsForAllRoutes(t *testing.T) {
	const text = "routes: [{ path: /a, upstream: http://a }, { path: /b, upstream: http://b, query: { drop: [x] } }]\n"
	drops := func(environ ...string) (all []string) {
		c, err := load(t, issuerOnly+text, environ...)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range c.Routes {
			all = append(all, strings.Join(r.Query.Drop, ","))
		}
		return all
	}
	if got := drops(); got[0] != "agent,namespace,workspace,device_id" || got[1] != "x" {
		t.Errorf("from the file: %q", got)
	}
	if got := drops("OMNIA_GATEWAY_QUERY_DROP=y, z"); got[0] != "y,z" || got[1] != "y,z" {
		t.Errorf("from the variable: %q", got)
	}
	if got := drops("OMNIA_GATEWAY_QUERY_DROP=[]"); got[0] != "" || got[1] != "" {
		t.Errorf("an empty list: %q", got)
	}
	c, err := Load(Sources{Environ: []string{oneRoute, "OMNIA_GATEWAY_JWT_ISSUER=https://i.example.com", "OMNIA_GATEWAY_QUERY_DROP=q"}})
	if err != nil || len(c.Routes[0].Query.Drop) != 1 {
		t.Errorf("without a file: %v, %v", c, err)
	}
	got := problems(t, issuerOnly+text, "OMNIA_GATEWAY_QUERY_DROP=a,,b")
	if !strings.HasPrefix(got, "OMNIA_GATEWAY_QUERY_DROP: routes[].query.drop[1]: not readable") || strings.Contains(got, "\n") {
		t.Error(got)
	}
}

func TestFamiliesOfHeaders(t *testing.T) {
	for families, want := range map[string]string{
		"[x-team-*, X_Own, x-user*]": "", "[]": "",
		`["*"]`:       "authentication.edgeTrust.stripFamilies[0]: would remove every header; name a beginning, such as x-user-*",
		`["-*"]`:      "authentication.edgeTrust.stripFamilies[0]: would remove every header",
		`["x-*a"]`:    "authentication.edgeTrust.stripFamilies[0]: not a header name",
		`["x-*", ""]`: "authentication.edgeTrust.stripFamilies[1]: missing",
	} {
		got := problems(t, routesOnly+
			"authentication: { jwt: { issuer: https://i.example.com }, edgeTrust: { stripFamilies: "+families+" } }")
		if !strings.HasPrefix(got, want) || (got == "") != (want == "") || strings.Contains(got, "\n") {
			t.Errorf("%s: got %q, want %q", families, got, want)
		}
	}
	for text, want := range map[string]string{
		"stripFamilies: []": "stripFamilies is empty", "stripInboundClaimHeaders: false": "stripInboundClaimHeaders is false",
	} {
		c := mustLoad(t, "authentication: { edgeTrust: { "+text+" } }")
		if notes := strings.Join(c.Notes, "\n"); !strings.Contains(notes, want) {
			t.Errorf("%s: %s", text, notes)
		}
	}
}

func TestUpstreamsOfWebSocketsAreHTTP(t *testing.T) {
	c := mustLoad(t, "", "OMNIA_GATEWAY_ROUTES=/a=ws://a:8080;/b=WSS://b;/c=http://c")
	for i, want := range []string{"http://a:8080", "https://b", "http://c"} {
		if got := c.Routes[i].Upstream; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestASingleAddressIsATrustedProxy(t *testing.T) {
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("fd00::1/128"), netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []*Config{
		mustLoad(t, "trustedProxies: [192.0.2.1, 'fd00::1', 10.0.0.0/8]"),
		mustLoad(t, "", "OMNIA_GATEWAY_TRUSTED_PROXIES=192.0.2.1,fd00::1,10.0.0.0/8"),
	} {
		for i, want := range want {
			if c.TrustedProxies[i] != want {
				t.Errorf("got %v, want %v", c.TrustedProxies[i], want)
			}
		}
	}
}

// TestCookiesNeedOrigins is cross-site WebSocket hijacking: a browser sends the cookie from any
// page.
func TestCookiesNeedOrigins(t *testing.T) {
	const cookies = "authentication: { jwt: { issuer: https://i.example.com, fromCookies: [session] } }\n"
	const rules = "authentication: { jwt: { issuer: https://i.example.com }, jwtRules: [{ issuer: https://j.example.com, fromCookies: " +
		"[s] }] }\n"
	for _, test := range []struct{ text, want string }{
		{cookies + routesOnly, "routes[0].allowedOrigins: missing beside authentication.jwt.fromCookies: "},
		{rules + routesOnly, "routes[0].allowedOrigins: missing beside authentication.jwtRules[0].fromCookies: "},
		{cookies + "routes: [{ path: /a, upstream: http://a, public: true, allowedOrigins: [] }]", "routes[0].allowedOrigins: missing"},
		{cookies + "routes: [{ path: /a, upstream: http://a, allowedOrigins: [https://app.example.com] }]", ""},
		{cookies + `routes: [{ path: /a, upstream: http://a, allowedOrigins: ["*"] }]`, ""},
		{"authentication: { enabled: false, jwt: { fromCookies: [a] } }\n" + routesOnly, ""},
	} {
		if got := problems(t, test.text); !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") ||
			strings.Contains(got, "\n") {
			t.Errorf("%s\ngot  %s\nwant %s", test.text, got, test.want)
		}
	}
}

func TestWhatIsWrongWithTextThatIsNotYAML(t *testing.T) {
	for _, tt := range []struct {
		text string
		line int
		want string
	}{
		{"a:\n\tb: c", 2, "indent with spaces"},
		{"a:\n  b: c\n  \td: e", 3, "indent with spaces"},
		{"a:\n  b: c\n\td: [e]\n", 3, "indent with spaces"},
		{"a:\n  b:\n    c: d\n   e: f\n", 4, "give it as many spaces"},
		{"a:\n  b:\n    c: d\n\n    # x\n    g: h\n   e: f\n", 7, "give it as many spaces"},
		{"a:\n  - b: c\n   d: e\n", 3, "give it as many spaces"},
		{"a:\n  - b: c\n    d: e\n - f: g\n", 4, "give it as many spaces"},
		{"a: b\n c: d", 2, "too far to the right"},
		{"a:\n  b: http://x: y", 2, `with ": " in it in quotes`},
		{"a: [*]", 1, `begins with * or &`},
		{"a:\n  - *.css", 2, `begins with * or &`},
		{"a: @x", 1, "begins with @"},
		{"a:\n  b:c\n  d: e", 3, "lacks a space"},
		{"a:\n  b: c\n  d:e\n", 3, "a space after the colon"},
		{"a: 1\nb:\n  c: {agent}.svc\n", 3, "a brace begins a block"},
		{"a: [{b: /{agent}, c: http://{agent}.x}]", 1, "a brace begins a block"},
		{"a: \"b\nc: d\n", 3, "is not closed"},
		{"a: [1", 1, "brackets and quotes"},
	} {
		_, err := load(t, tt.text)
		var problems Problems
		if !errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(problems[0].Hint, tt.want) ||
			problems[0].Place.Line != tt.line && tt.text[len(tt.text)-1] != '1' {
			t.Errorf("%q: %v, want %q in line %d", tt.text, err, tt.want, tt.line)
		}
	}
}

func FuzzNotYAML(f *testing.F) {
	f.Add("a:\n  - b: c\n   d: {x}.y\n\t")
	f.Fuzz(func(t *testing.T, text string) {
		parseYAML(text, func(line, _ int, _, hint string) {
			breaks := strings.FieldsFunc(text, func(r rune) bool { return !strings.ContainsRune("\n\r\u0085\u2028\u2029", r) })
			if lines := len(strings.Join(breaks, "")) + 2; line < 0 || line > lines || hint == "" {
				t.Errorf("%q: line %d of %d, %q", text, line, lines, hint)
			}
		})
	})
}
