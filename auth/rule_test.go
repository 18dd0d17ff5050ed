package auth

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// identity returns one with these claims.
func identity(t testing.TB, claims string) *Identity {
	t.Helper()
	c, err := parseClaims(claims)
	if err != nil {
		t.Fatal(err)
	}
	return &Identity{Issuer: issuerName, Claims: c}
}

// mapping returns a Verifier that knows the mapped claims of the issuer of identity.
func mapping(m ...config.ClaimHeader) *Verifier {
	return &Verifier{byName: map[string]*issuer{issuerName: {JWT: config.JWT{OutputClaimToHeaders: m}}}}
}

// requiring returns a Verifier with global rules, and an issuer with rules of its own.
func requiring(global, ofIssuer config.RequiredClaims) *Verifier {
	v := &Verifier{required: global, byName: map[string]*issuer{}, algorithms: map[string]bool{}}
	if err := v.add(settings(func(c *config.Authentication) { c.JWT.RequiredClaims = ofIssuer }).JWT); err != nil {
		panic(err)
	}
	return v
}

func require(entries ...any) (out config.RequiredClaims) {
	for n := 0; n < len(entries); n += 2 {
		out = append(out, config.RequiredClaim{Claim: entries[n].(string), Values: texts(entries[n+1].(string))})
	}
	return out
}

func texts(list string) (values []config.ClaimValue) {
	for value := range strings.SplitSeq(list, "|") {
		values = append(values, value)
	}
	return values
}

func TestRequiredClaims(t *testing.T) {
	for _, c := range []struct {
		claims string
		rules  config.RequiredClaims
		want   bool
	}{
		{`{}`, nil, true},
		{`{"scope":"a"}`, require("scope", "a"), true},
		{`{"scope":"x a y"}`, require("scope", "a"), true},
		{`{"scope":"x  a "}`, require("scope", "a"), true},
		{`{"scope":"x\ta"}`, require("scope", "a"), false},
		{`{"scope":"a b"}`, require("scope", "a b"), false},
		{`{"scope":"x y"}`, require("scope", "a"), false},
		{`{"scope":["x","a"]}`, require("scope", "a"), true},
		{`{"scope":["x a"]}`, require("scope", "a"), false},
		{`{"scope":"A"}`, require("scope", "a"), false},
		{`{"Scope":"a"}`, require("scope", "a"), false},
		{`{"scope":" "}`, require("scope", "*"), false},
		{`{"permission":"read write"}`, require("permission", "write"), true},
		{`{"scp":"read write"}`, require("scp", "read"), false},
		{`{"scp":"read write"}`, require("scp", "read write"), true},
		{`{"nested":{"scope":"a b"}}`, require("nested.scope", "a"), false},
		{`{}`, require("scope", "a"), false},

		{`{"roles":["viewer","operator"]}`, require("roles", "admin|operator"), true},
		{`{"roles":["viewer"]}`, require("roles", "admin|operator"), false},
		{`{"roles":[]}`, require("roles", "*"), false},
		{`{"roles":[""]}`, require("roles", "*"), false},
		{`{"roles":["","x"]}`, require("roles", "*"), true},
		{`{"roles":[5,true,null,{"a":1},["admin"],"admin"]}`, require("roles", "admin"), true},
		{`{"roles":[["admin"]]}`, require("roles", "admin"), false},
		{`{"level":5}`, require("level", "5"), false},
		{`{"level":"5"}`, require("level", "5"), true},
		{`{"on":true}`, require("on", "true|*"), false},
		{`{"gone":null}`, require("gone", "null|*"), false},
		{`{"o":{"a":"b"}}`, require("o", "*"), false},

		{`{"org":"acme"}`, require("org", "*"), true},
		{`{"org":""}`, require("org", "*"), false},
		{`{"org":"a\nb"}`, require("org", "*"), false},
		{`{"org":"\n"}`, require("org", "*"), false},
		{`{"org":["a\nb","c"]}`, require("org", "*"), true},
		{`{"org":"a\nb"}`, require("org", "a*"), true},
		{`{"org":"acme-eu"}`, require("org", "acme-*"), true},
		{`{"org":"acme-"}`, require("org", "acme-*"), true},
		{`{"org":"xacme-eu"}`, require("org", "acme-*"), false},
		{`{"email":"bob@acme.com"}`, require("email", "*@acme.com"), true},
		{`{"email":"@acme.com"}`, require("email", "*@acme.com"), true},
		{`{"email":"bob@acme.com.evil"}`, require("email", "*@acme.com"), false},

		{`{"scope":"a","roles":["r"]}`, require("scope", "a", "roles", "r"), true},
		{`{"scope":"a"}`, require("scope", "a", "roles", "r"), false},
		{`{"scope":"a b"}`, require("scope", "a", "scope", "b"), true},
		{`{"scope":"a"}`, require("scope", "a", "scope", "b"), false},

		{`{"https://example.com/roles":["admin"]}`, require("https://example.com/roles", "admin"), true},
		{`{"a.b":"x","a":{"b":"y"}}`, require("a.b", "x"), true},
		{`{"a.b":"x","a":{"b":"y"}}`, require("a.b", "y"), false},
		{`{"realm_access":{"roles":["admin"]}}`, require("realm_access.roles", "admin"), true},
		{`{"realm_access":{"roles":["admin"]}}`, require("realm_access][roles", "admin"), true},
		{`{"https://x.com/a":{"roles":["admin"]}}`, require("https://x.com/a][roles", "admin"), true},
		{`{"a":[{"b":"x"}]}`, require("a.b", "x"), false},
		{`{"a":"x"}`, require("a.b", "x"), false},
	} {
		err := requiring(c.rules, nil).Rules(nil).Check(identity(t, c.claims), nil, nil)
		if (err == nil) != c.want || err != nil && reasonOf(err) != outcome.ClaimMismatch {
			t.Errorf("%s, %v: %v", c.claims, c.rules, err)
		}
	}
}

func TestKindsOfRequiredValues(t *testing.T) {
	for _, c := range []struct {
		claim  string
		values []config.ClaimValue
		want   string // "": let in; else the end of the message
	}{
		{`true`, []config.ClaimValue{true}, ""},
		{`false`, []config.ClaimValue{false}, ""},
		{`false`, []config.ClaimValue{true}, `has false, which is none of [true]`},
		{`true`, []config.ClaimValue{"true"}, `is the boolean true; this rule wants the text true`},
		{`"true"`, []config.ClaimValue{true}, `is the text true; this rule wants the boolean true`},
		{`"TRUE"`, []config.ClaimValue{true}, `has "TRUE", which is none of [true]`},
		{`true`, []config.ClaimValue{"*"}, `is the boolean true; this rule wants a text, whatever it is`},
		{`true`, []config.ClaimValue{json.Number("1")}, `has true, which is none of [1]`},
		{`1`, []config.ClaimValue{true}, `has 1, which is none of [true]`},
		{`[false,true]`, []config.ClaimValue{true}, ""},
		{`["x",true]`, []config.ClaimValue{"true"}, `has the boolean true; this rule wants the text true`},
		{`[[true],{"a":true}]`, []config.ClaimValue{true}, `is a list without text, boolean or number; this rule wants one of [true]`},

		{`3`, []config.ClaimValue{json.Number("3")}, ""},
		{`3.0`, []config.ClaimValue{json.Number("3")}, ""},
		{`3`, []config.ClaimValue{json.Number("3.0")}, ""},
		{`0.3e1`, []config.ClaimValue{json.Number("3")}, ""},
		{`1000`, []config.ClaimValue{json.Number("1e3")}, ""},
		{`-0`, []config.ClaimValue{json.Number("0.0")}, ""},
		{`-3`, []config.ClaimValue{json.Number("3")}, `has -3, which is none of [3]`},
		{`3.5`, []config.ClaimValue{json.Number("3.50")}, ""},
		{`9007199254740993`, []config.ClaimValue{json.Number("9007199254740993")}, ""},
		{`9007199254740992`, []config.ClaimValue{json.Number("9007199254740993")},
			`has 9007199254740992, which is none of [9007199254740993]`},
		{`[1,3.0]`, []config.ClaimValue{json.Number("3")}, ""},
		{`3`, []config.ClaimValue{"3"}, `is the number 3; this rule wants the text 3`},
		{`3`, []config.ClaimValue{"3.0"}, `is the number 3; this rule wants the text 3.0`},
		{`"3"`, []config.ClaimValue{json.Number("3.0")}, `is the text 3; this rule wants the number 3`},
		{`"3.0"`, []config.ClaimValue{json.Number("3")}, `is the text 3.0; this rule wants the number 3`},
		{`3`, []config.ClaimValue{"3*"}, `has 3, which is none of ["3*"]`},
		{`1e-300000000`, []config.ClaimValue{json.Number("0")}, `is a number of too many digits; this rule wants one of [0]`},

		{`"a"`, []config.ClaimValue{true, json.Number("3"), "a"}, ""},
		{`"b"`, []config.ClaimValue{true, json.Number("3"), "a"}, `has "b", which is none of [true 3 "a"]`},
		{`null`, []config.ClaimValue{"null", true}, `is null; this rule wants one of ["null" true]`},
		{`{"a":true}`, []config.ClaimValue{true}, `is an object; this rule wants one of [true]`},
	} {
		rules := requiring(config.RequiredClaims{{Claim: "c", Values: c.values}}, nil).Rules(nil)
		err := rules.Check(identity(t, `{"c":`+c.claim+`}`), nil, nil)
		switch {
		case err == nil && c.want == "":
		case err == nil || c.want == "" || !strings.HasSuffix(err.Error(), `claim "c" `+c.want):
			t.Errorf("%s for %v: %v", c.claim, c.values, err)
		}
	}
	err := requiring(require("scope", "a"), nil).Rules(nil).Check(identity(t, `{"scp":"a"}`), nil, nil)
	if err == nil || !strings.HasSuffix(err.Error(), `claim "scope" is missing; this rule wants one of ["a"]`) {
		t.Error(err)
	}
}

func TestRulesOfARouteAreAddedAndHaveItsNames(t *testing.T) {
	for _, c := range []struct {
		claims      string
		global, own config.RequiredClaims
		names       string // each with its label after a space
		want        bool
	}{
		{`{"scope":"x agents:bot"}`, nil, require("scope", "agents:{agent}"), "agent bot", true},
		{`{"scope":"agents:other"}`, nil, require("scope", "agents:{agent}"), "agent bot", false},
		{`{"scope":"agents:bot-eu"}`, nil, require("scope", "agents:{agent}-*"), "agent bot", true},
		{`{"scope":"agents:all"}`, nil, require("scope", "agents:{agent}|agents:*"), "agent bot", true},
		{`{"scope":"agents:bot","role":"user"}`, require("role", "user"), require("scope", "agents:{agent}"), "agent bot", true},
		{`{"scope":"agents:bot"}`, require("role", "user"), require("scope", "agents:{agent}"), "agent bot", false},
		{`{"scope":"agents:"}`, nil, require("scope", "agents:{agent}"), "", false},
		{`{"scope":"agents:bot"}`, require("scope", "agents:{agent}"), nil, "agent bot", false},
		{`{"scope":"team/bot"}`, nil, require("scope", "{namespace}/{agent}"), "agent bot namespace team", true},
		{`{"scope":"team/bot"}`, nil, require("scope", "{namespace}/{agent}"), "agent bot namespace other", false},
		{`{"scope":"bot/bot"}`, nil, require("scope", "{namespace}/{agent}"), "agent bot namespace team", false},
	} {
		var names config.Names
		for words := strings.Fields(c.names); len(words) > 0; words = words[2:] {
			names = append(names, config.Name{Name: words[0], Label: words[1]})
		}
		err := requiring(c.global, nil).Rules(c.own).Check(identity(t, c.claims), names, nil)
		if (err == nil) != c.want {
			t.Errorf("%s for %s: %v", c.claims, names, err)
		}
	}
}

func TestRulesOfAnIssuerAreAddedForItsTokens(t *testing.T) {
	v := requiring(require("role", "user"), require("tenant", "acme"))
	for claims, want := range map[string]outcome.Reason{
		`{"role":"user","tenant":"acme"}`: "", `{"role":"user"}`: outcome.ClaimMismatch, `{"tenant":"acme"}`: outcome.ClaimMismatch,
	} {
		if got := reasonOf(v.Rules(nil).Check(identity(t, claims), nil, nil)); got != want {
			t.Errorf("%s: %q", claims, got)
		}
	}
	other := identity(t, `{"role":"user","tenant":"acme"}`)
	other.Issuer = "https://gone.example.com"
	if got := reasonOf(v.Rules(nil).Check(other, nil, nil)); got != outcome.WrongIssuer {
		t.Errorf("of an issuer that is gone: %q", got)
	}
}

func TestSpaceDelimitedClaimsOfAnIssuer(t *testing.T) {
	for _, c := range []struct {
		names  []string
		claims string
		want   bool
	}{
		{nil, `{"scp":"a b"}`, false},
		{[]string{"scope", "permission"}, `{"scp":"a b"}`, false},
		{[]string{"scp"}, `{"scp":"a b"}`, true},
		{[]string{"scp"}, `{"scp":["x b","b"]}`, true},
		{[]string{"scp"}, `{"scp":["x b"]}`, false},
		{nil, `{"scope":"a b"}`, true}, // these two always, as in Istio
		{[]string{}, `{"permission":"a b"}`, true},
		{[]string{"scp"}, `{"scope":"a b"}`, true},
		{[]string{"scp"}, `{"permission":"a b"}`, true},
		{[]string{"scp"}, `{"Scope":"a b"}`, false},
	} {
		claim, _, _ := strings.Cut(strings.TrimPrefix(c.claims, `{"`), `"`)
		v := requiring(require(claim, "b"), nil)
		v.byName[issuerName].SpaceDelimitedClaims = c.names
		if err := v.Rules(nil).Check(identity(t, c.claims), nil, nil); (err == nil) != c.want {
			t.Errorf("%v, %s: %v", c.names, c.claims, err)
		}
	}
}

func TestRulesTellWhatFits(t *testing.T) {
	var told []string
	err := requiring(require("role", "x|us*"), nil).Rules(nil).Check(identity(t, `{"role":"user"}`), nil, func(check, detail string) {
		told = append(told, check+": "+detail)
	})
	if err != nil || len(told) != 1 || told[0] != "rule: claim role has us*" {
		t.Errorf("%q, %v", told, err)
	}
}

func TestMismatchShowsTheValuesOfTheClaim(t *testing.T) {
	text, long := strings.Repeat("x", 256), strings.Repeat("y", 257)
	for claims, want := range map[string]string{
		`{"role":"guest"}`:                               `claim "role" has "guest", which is none of ["admin"]`,
		`{"role":"` + text + `"}`:                        `claim "role" has "` + text + `", which`,
		`{"role":"` + long + `"}`:                        `claim "role" has "` + long[:256] + `"…, which`,
		`{"role":["a\nb","c"]}`:                          `claim "role" has "a\nb", "c", which`,
		`{"role":["1","2","3","4","5","6","7","8","9"]}`: `"7", "8", …, which`,
		`{"role":5}`:                                     `claim "role" has 5, which is none of ["admin"]`,
	} {
		err := requiring(require("role", "admin"), nil).Rules(nil).Check(identity(t, claims), nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", claims, err)
		}
	}
}

func TestClaimsToHeaders(t *testing.T) {
	for _, c := range []struct {
		claim, format string // the JSON of the claim
		want          string // "!": not representable
	}{
		{`"acme"`, "", "acme"},
		{`"acme"`, "json", "acme"},
		{`"acme"`, "base64json", "acme"},
		{`"acme"`, "first", "acme"},
		{`"José ☃"`, "", "José ☃"},
		{`"a b"`, "", "a b"},
		{`""`, "", ""},
		{`null`, "json", ""},
		{`true`, "", "true"},
		{`false`, "json", "false"},
		{`9999`, "", "9999"},
		{`1.5`, "", "1.5"},
		{`1.50`, "", "1.5"},
		{`-5`, "", "-5"},
		{`9007199254740993`, "", "9007199254740993"},
		{`12345678901234567890123`, "", "12345678901234567890123"},
		{`3.0`, "", "3"},
		{`1e3`, "", "1000"},
		{`1E+3`, "json", "1000"},
		{`1.25e1`, "", "12.5"},
		{`12.5e-3`, "", "0.0125"},
		{`100`, "", "100"},
		{`0.10`, "", "0.1"},
		{`-0.0`, "", "0"},
		{`0e999999999`, "", "0"},
		{`1e-999999999`, "", "!"},

		{`["user","admin"]`, "", "user,admin"},
		{`["user"]`, "", "user"},
		{`["a b","c"]`, "", "a b,c"},
		{`["a",1.0,true]`, "", "a,1,true"},
		{`["a,b","c"]`, "", `["a,b","c"]`},
		{`["a",null]`, "", `["a",null]`},
		{`[]`, "", ""},
		{`[]`, "json", ""},
		{`[{"id":"a","b":1},"c"]`, "", `[{"b":1,"id":"a"},"c"]`},
		{`[["a"]]`, "", `[["a"]]`},
		{`{"id":"a"}`, "", `{"id":"a"}`},
		{`{"z":1, "a": {"y":true,"b":[1,2]}}`, "", `{"a":{"b":[1,2],"y":true},"z":1}`},
		{`{"n":9007199254740993,"h":"<&>"}`, "", `{"h":"<&>","n":9007199254740993}`},
		{`["user","admin"]`, "json", `["user","admin"]`},
		{`["user","admin"]`, "base64json", "WyJ1c2VyIiwiYWRtaW4iXQ=="},
		{`{"id":"a"}`, "base64json", "eyJpZCI6ImEifQ=="},
		{`["user","admin"]`, "first", "user"},
		{`[7,8]`, "first", "7"},
		{`[]`, "first", ""},
		{`[null,"a"]`, "first", ""},
		{`{"a":"b"}`, "first", ""},

		{`"a\r\nx-admin: 1"`, "", "!"},
		{`"a\u0000"`, "", "!"},
		{`"a\tb"`, "", "!"},
		{`"a\u007f"`, "", "!"},
		{`" a"`, "", "!"},
		{`"a "`, "", "!"},
		{`" "`, "", "!"},
		{`["a\n","b"]`, "", "!"},
		{`["a","b "]`, "", "!"},
		{`["a\n"]`, "json", `["a\n"]`},
		{`{"a":"\u007f\u0085\u0000"}`, "", `{"a":"\u007f\u0085\u0000"}`},
	} {
		id := identity(t, `{"claim":`+c.claim+`,"fixed":"f"}`)
		v := mapping(config.ClaimHeader{Header: "x-claim", Claim: "claim", Format: c.format},
			config.ClaimHeader{Header: "x-fixed", Claim: "fixed"})
		told, err := v.Headers(id)
		if (c.want == "!") != (reasonOf(err) == outcome.ClaimNotRepresentable) || c.want != "!" && err != nil {
			t.Errorf("%s as %q: %v", c.claim, c.format, err)
		}
		if len(told) == 0 || told[len(told)-1] != (HeaderValue{"x-fixed", "f"}) {
			t.Errorf("%s: the header after it is missing: %v", c.claim, told)
		}
		switch {
		case c.want == "" || c.want == "!":
			if len(told) != 1 {
				t.Errorf("%s as %q: told %q", c.claim, c.format, told)
			}
		case len(told) != 2 || told[0] != HeaderValue{"x-claim", c.want}:
			t.Errorf("%s as %q: told %q, expected %q", c.claim, c.format, told, c.want)
		}
	}
}

func TestMappedClaimIsAPathThenALiteralName(t *testing.T) {
	for _, c := range []struct{ claims, claim, want string }{
		{`{"nested":{"key":{"group":"g1"}}}`, "nested.key.group", "g1"},
		{`{"https://example.com/roles":"admin"}`, "https://example.com/roles", "admin"},
		{`{"a":{"b":"nested"},"a.b":"literal"}`, "a.b", "nested"},
		{`{"a":{"c":"nested"},"a.b":"literal"}`, "a.b", "literal"},
		{`{"a":"x","a.b":"literal"}`, "a.b", "literal"},
	} {
		id := identity(t, c.claims)
		told, err := mapping(config.ClaimHeader{Header: "x", Claim: c.claim}, config.ClaimHeader{Header: "y", Claim: c.claim}).Headers(id)
		if err != nil || len(told) != 2 || told[0].Value != c.want || told[1].Value != c.want {
			t.Errorf("%s of %s: %v, %v", c.claim, c.claims, told, err)
		}
	}
}

func TestIdentityOfAnIssuerThatIsGoneHasNoHeaders(t *testing.T) {
	id := identity(t, `{"sub":"u"}`)
	id.Issuer = "https://gone.example.com"
	told, err := mapping(config.ClaimHeader{Header: "x", Claim: "sub"}).Headers(id)
	if len(told) != 0 || reasonOf(err) != outcome.WrongIssuer {
		t.Errorf("%v, %v", told, err)
	}
}

func FuzzHeaderText(f *testing.F) {
	for _, s := range []string{`1.5e3`, `"a"`, `["a,b",1]`, `{"a":"\u007f"}`, `-0.00e-9`, `["\n"]`} {
		f.Add(s, "")
		f.Add(s, "json")
	}
	f.Fuzz(func(t *testing.T, claim, format string) {
		object, err := decodeObject(`{"c":` + claim + `}`)
		if err != nil {
			return
		}
		text, err := headerText(object["c"], format)
		if err != nil {
			return
		}
		for i := range len(text) {
			if text[i] < ' ' || text[i] == 0x7f {
				t.Fatalf("%q is no header", text)
			}
		}
		if n, ok := object["c"].(json.Number); ok && strings.ContainsAny(text, "eE+") {
			t.Errorf("%s is told as %s", n, text)
		}
	})
}
