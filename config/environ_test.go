package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestEnvironmentAloneIsEnough(t *testing.T) {
	c, err := Load(Sources{Environ: []string{
		"HOME=/root", "LISTEN=:1",
		"OMNIA_GATEWAY_LISTEN= :9443 ",
		"OMNIA_GATEWAY_TLS_CERT_FILE=c",
		"OMNIA_GATEWAY_TLS_KEY_FILE=k",
		"OMNIA_GATEWAY_ADMIN_LISTEN=:9091",
		"OMNIA_GATEWAY_ROUTES=/my-agent=http://my-agent:8080; /other = http://other:8080",
		"OMNIA_GATEWAY_TRUSTED_PROXIES=10.0.0.0/8, fd00::/8",
		"OMNIA_GATEWAY_AUTHENTICATION_ENABLED=true",
		"OMNIA_GATEWAY_JWT_ISSUER=https://issuer.example.com",
		"OMNIA_GATEWAY_JWT_AUDIENCES=a, b",
		"OMNIA_GATEWAY_JWT_FORWARD_ORIGINAL_TOKEN=false",
		"OMNIA_GATEWAY_OUTPUT_CLAIM_TO_HEADERS=x-user-id=sub,x-roles=https://example.com/roles:json,x-url=urn:x:y,x-email=email",
		"OMNIA_GATEWAY_JWT_FROM_HEADERS=Authorization=Bearer,X-Token",
		"OMNIA_GATEWAY_JWT_FROM_PARAMS=[]",
		"OMNIA_GATEWAY_JWT_CLOCK_SKEW=5s",
		`OMNIA_GATEWAY_JWT_RULES=[{"issuer": "https://b.example.com", "audiences": ["b"]}]`,
		"OMNIA_GATEWAY_REQUIRED_CLAIMS=scope=agents:access;role=user|admin",
		"OMNIA_GATEWAY_EXCLUDE_PATHS=/healthz,/a/{*}",
		"OMNIA_GATEWAY_EDGE_TRUST_STRIP_INBOUND_CLAIM_HEADERS=false",
		"OMNIA_GATEWAY_SESSION_IDLE_TIMEOUT=1h",
		"OMNIA_GATEWAY_LIMITS_MAX_CONNECTIONS=7",
		"OMNIA_GATEWAY_LIMITS_MAX_MESSAGE_BYTES=1024",
		"OMNIA_GATEWAY_LOG_FORMAT=text",
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listen, want.Admin.Listen = ":9443", ":9091"
	want.TLS.CertFile, want.TLS.KeyFile = "c", "k"
	want.Routes = Routes{
		{Path: "/my-agent", Upstream: "http://my-agent:8080", StripPrefix: true, HostHeader: "keep",
			CORS: true, Origin: "keep", RejectWith: "status", Query: DefaultRoute().Query},
		{Path: "/other", Upstream: "http://other:8080", StripPrefix: true, HostHeader: "keep",
			CORS: true, Origin: "keep", RejectWith: "status", Query: DefaultRoute().Query},
	}
	want.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	jwt := &want.Authentication.JWT
	jwt.Issuer, jwt.Audiences, jwt.ForwardOriginalToken, jwt.ClockSkew = "https://issuer.example.com", []string{"a",
		"b"}, false, 5*time.Second
	jwt.OutputClaimToHeaders = ClaimHeaders{
		{Header: "x-user-id", Claim: "sub"}, {Header: "x-roles", Claim: "https://example.com/roles", Format: "json"},
		{Header: "x-url", Claim: "urn:x:y"}, {Header: "x-email", Claim: "email"},
	}
	jwt.FromHeaders = HeaderSources{{Name: "Authorization", Prefix: "Bearer "}, {Name: "X-Token"}}
	jwt.FromParams = []string{}
	other := DefaultJWT()
	other.Issuer, other.Audiences = "https://b.example.com", []string{"b"}
	want.Authentication.JWTRules = JWTRules{other}
	want.Authentication.Authorization = Authorization{
		RequiredClaims: RequiredClaims{{Claim: "scope", Values: []ClaimValue{"agents:access"}},
			{Claim: "role", Values: []ClaimValue{"user", "admin"}}},
		ExcludePaths: []string{"/healthz", "/a/{*}"},
	}
	want.Authentication.EdgeTrust.StripInboundClaimHeaders = false
	want.Session.IdleTimeout = time.Hour
	want.Limits.MaxConnections, want.Limits.MaxMessageBytes = 7, 1024
	want.Log.Format = "text"
	want.Notes = c.Notes
	c.Sources, c.places = Sources{}, nil
	if !reflect.DeepEqual(*c, want) {
		t.Errorf("got  %+v\nwant %+v", *c, want)
	}
}

func TestStructuredListsAreYAMLOrJSONToo(t *testing.T) {
	c, err := Load(Sources{Environ: []string{
		`OMNIA_GATEWAY_ROUTES=[{path: "/{agent}", upstream: "http://{agent}:8080", public: true}]`,
		`OMNIA_GATEWAY_JWT_ISSUER=https://issuer.example.com`,
		`OMNIA_GATEWAY_JWT_AUDIENCES=["a,b", c]`,
		`OMNIA_GATEWAY_REQUIRED_CLAIMS=[{"claim":"scope","values":["a"]}]`,
		`OMNIA_GATEWAY_OUTPUT_CLAIM_TO_HEADERS=[]`,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Routes[0]; !r.Public || !r.StripPrefix || r.Path != "/{agent}" {
		t.Errorf("routes: %+v", r)
	}
	a := c.Authentication
	if !reflect.DeepEqual(a.JWT.Audiences, []string{"a,b", "c"}) || len(a.JWT.OutputClaimToHeaders) != 0 ||
		a.Authorization.RequiredClaims[0].Claim != "scope" {
		t.Errorf("authentication: %+v", a)
	}
}

func TestVariableReplacesTheFilesValueAndItsMistake(t *testing.T) {
	c := mustLoad(t, "log: { level: loud, format: text }\nroutes: [{ path: /a, upstream: http://a }]", "OMNIA_GATEWAY_LOG_LEVEL=debug")
	if c.Log != (Log{Format: "text", Level: "debug"}) || len(c.Routes) != 1 || c.Routes[0].Path != "/my-agent" {
		t.Errorf("%+v %+v", c.Log, c.Routes)
	}
	_, err := load(t, "log: { level: debug }", oneRoute, "OMNIA_GATEWAY_JWT_ISSUER=https://a", "OMNIA_GATEWAY_LOG_LEVEL=loud")
	if want := "OMNIA_GATEWAY_LOG_LEVEL: log.level: unknown value; one of debug, info, warn, error"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A list with a mistake in one element is checked as a whole, as in a file, and is not missing.
func TestEveryMistakeInTheListOfAVariableIsReported(t *testing.T) {
	_, err := Load(Sources{Environ: []string{
		"OMNIA_GATEWAY_JWT_ISSUER=https://a", "OMNIA_GATEWAY_JWT_AUDIENCES=a",
		`OMNIA_GATEWAY_ROUTES=[{path: /a, upstream: "http://a", public: yes}, {path: b, upstream: "ftp://b"}]`,
	}})
	const want = `OMNIA_GATEWAY_ROUTES: routes[0].public: text where true or false belongs; write true or false, without quotes
OMNIA_GATEWAY_ROUTES: routes[1].path: `
	if err == nil || !strings.HasPrefix(err.Error(), want) || len(err.(Problems)) != 3 {
		t.Errorf("got\n%v\nwant one line for each of three mistakes, and first\n%s", err, want)
	}
}

func TestVariableIsUTF8(t *testing.T) {
	_, err := load(t, "", oneRoute, "OMNIA_GATEWAY_JWT_ISSUER=https://a", "OMNIA_GATEWAY_JWT_AUDIENCES=caf\xe9")
	const want = "OMNIA_GATEWAY_JWT_AUDIENCES: authentication.jwt.audiences: not UTF-8; write it as UTF-8 text"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestSecretsOfVariablesAreNotRepeated gives values that cannot be read, as happens when
// variables are mixed up.
func TestSecretsOfVariablesAreNotRepeated(t *testing.T) {
	for variable, want := range map[string]string{
		"JWT_CLOCK_SKEW":           "authentication.jwt.clockSkew: not a duration; ",
		"LIMITS_MAX_CONNECTIONS":   "limits.maxConnections: not a whole number; ",
		"LIMITS_MAX_MESSAGE_BYTES": "limits.maxMessageBytes: not a whole number; ",
		"AUTHENTICATION_ENABLED":   "authentication.enabled: not true or false; ",
		"TRUSTED_PROXIES":          "trustedProxies[0]: not readable; ",
		"ROUTES":                   "routes[0]: not readable; ",
		"JWT_RULES":                "authentication.jwtRules: not a list in YAML or JSON; ",
		"REQUIRED_CLAIMS":          "authentication.authorization.requiredClaims[0]: not readable; ",
		"OUTPUT_CLAIM_TO_HEADERS":  "authentication.jwt.outputClaimToHeaders[0]: not readable; ",
		"EXCLUDE_PATHS":            "authentication.authorization.excludePaths[0]: path does not begin with /; ",
		"JWT_JWKS_URI":             "authentication.jwt.jwksUri: not an http:// or https:// URL with a host; ",
		"JWT_ALGORITHMS":           "authentication.jwt.algorithms[0]: unknown value; ",
		"LOG_LEVEL":                "log.level: unknown value; ",
		"LISTEN":                   "listen: not an address; ",
	} {
		name := variablePrefix + variable
		for _, value := range []string{"hunter2-secret", "[hunter2-secret", "http://u:hunter2-secret@h/"} {
			_, err := Load(Sources{Environ: []string{"OMNIA_GATEWAY_JWT_ISSUER=https://a", oneRoute, name + "=" + value}})
			if err == nil {
				t.Errorf("%s=%s loaded", name, value)
			} else if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s is repeated: %v", name, err)
			} else if !strings.HasPrefix(err.Error(), name+": ") {
				t.Errorf("%s: no place: %v", name, err)
			} else if value == "hunter2-secret" && !strings.HasPrefix(err.Error(), name+": "+want) {
				t.Errorf("got %v, want %s: %s", err, name, want)
			}
		}
	}
}

// TestEmptyVariableIsRefused: an empty value is what a template leaves when something is
// missing, and it would switch a check off.
func TestEmptyVariableIsRefused(t *testing.T) {
	for _, v := range variables() {
		for _, value := range []string{"", " "} {
			_, err := Load(Sources{Environ: []string{v.name + "=" + value}})
			if want := v.name + ": " + v.key + ": empty; unset it, or write [] for an empty list"; err == nil ||
				!strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
}

func TestEveryVariableIsReadIntoItsKey(t *testing.T) {
	values := map[reflect.Type]string{
		reflect.TypeFor[string]():         "text",
		reflect.TypeFor[bool]():           "true",
		reflect.TypeFor[int]():            "9",
		reflect.TypeFor[int64]():          "9",
		reflect.TypeFor[float64]():        "9.5",
		durationType:                      "9s",
		reflect.TypeFor[[]string]():       "x,y",
		reflect.TypeFor[[]netip.Prefix](): "10.0.0.0/8",
		reflect.TypeFor[Routes]():         "/a=b",
		reflect.TypeFor[JWTRules]():       "[{issuer: a}]",
		reflect.TypeFor[ClaimHeaders]():   "a=b",
		reflect.TypeFor[HeaderSources]():  "a",
		reflect.TypeFor[ClaimNames]():     "x,y",
		reflect.TypeFor[RequiredClaims](): "a=b",
	}
	for _, v := range variables() {
		if v.key == everyDrop {
			continue // of all routes, which has a test of its own
		}
		var c Config
		at := valueOf(&c, v.key)
		l := newLoader(Sources{})
		l.readEnvironment(&c, []string{v.name + "=" + values[at.Type()]})
		if at.IsZero() || len(l.problems) > 0 {
			t.Errorf("%s=%s: %s is %v, %v", v.name, values[at.Type()], v.key, at, l.problems)
		}
	}
}

// valueOf is the value of a key of c that is in no list.
func valueOf(c *Config, key string) reflect.Value {
	at := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(key, ".") {
		for f := range at.Type().Fields() {
			if f.Tag.Get("yaml") == name {
				at = at.FieldByIndex(f.Index)
				break
			}
		}
	}
	return at
}
