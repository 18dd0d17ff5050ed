package auth

import (
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

const k8s = "base64url.bearer.authorization.k8s.io."

func TestTake(t *testing.T) {
	const tok = "h.p.s"
	b64 := base64.RawURLEncoding.EncodeToString([]byte(tok))
	type h = http.Header
	none := func(j *config.JWT) {}
	cookies := func(j *config.JWT) { j.FromCookies = []string{"session"} }
	prefixed := func(j *config.JWT) {
		j.FromSubprotocols = []string{"openai-insecure-api-key.", "openai-insecure-api-key.v2."}
	}
	for _, c := range []struct {
		name   string
		change func(*config.JWT)
		header h
		query  string

		reason outcome.Reason
		token  string
		left   h
		rest   string
	}{
		{"nothing", none, h{"Accept": {"x"}}, "a=1", "", "", h{"Accept": {"x"}}, "a=1"},
		{"bearer", none, h{"Authorization": {"Bearer " + tok}}, "", "", tok, h{}, ""},
		{"scheme in lower case", none, h{"Authorization": {"bEARER " + tok}}, "", "", tok, h{}, ""},
		{"more spaces", none, h{"Authorization": {"Bearer   " + tok}}, "", "", tok, h{}, ""},
		{"no space", none, h{"Authorization": {"Bearer" + tok}}, "", "", "", h{"Authorization": {"Bearer" + tok}}, ""},
		{"scheme alone", none, h{"Authorization": {"Bearer"}}, "", "", "", h{"Authorization": {"Bearer"}}, ""},
		{"scheme and spaces", none, h{"Authorization": {"Bearer  "}}, "", "", "", h{"Authorization": {"Bearer  "}}, ""},
		{"scheme not first", none, h{"Authorization": {"Custom Bearer " + tok}}, "", "", "", h{"Authorization": {"Custom Bearer " + tok}},
			""},
		{"no scheme", none, h{"Authorization": {tok}}, "", "", "", h{"Authorization": {tok}}, ""},
		{"more than a token", none, h{"Authorization": {"Bearer a b"}}, "", "", "a b", h{}, ""},
		{"two in one line", none, h{"Authorization": {"Bearer a, Bearer b"}}, "", "", "a, Bearer b", h{}, ""},
		{"basic", none, h{"Authorization": {"Basic eA=="}}, "", "", "", h{"Authorization": {"Basic eA=="}}, ""},
		{"basic beside a token", none, h{"Authorization": {"Basic eA=="}}, "access_token=" + tok, "", tok,
			h{"Authorization": {"Basic eA=="}}, ""},
		{"two equal lines", none, h{"Authorization": {"Bearer " + tok, "Bearer " + tok}}, "", outcome.MultipleCredentials, "", h{}, ""},
		{"basic and bearer", none, h{"Authorization": {"Basic eA==", "Bearer " + tok}}, "", outcome.MultipleCredentials, "", h{}, ""},
		{"other headers are not read", none, h{"X-Access-Token": {tok}, "Cookie": {"access_token=" + tok}}, "", "", "",
			h{"X-Access-Token": {tok}, "Cookie": {"access_token=" + tok}}, ""},

		{"whole value", func(j *config.JWT) { j.FromHeaders = config.HeaderSources{{Name: "x-jwt"}} },
			h{"X-Jwt": {tok}, "Authorization": {"Bearer z"}}, "", "", tok, h{"Authorization": {"Bearer z"}}, ""},
		{"whole value, two lines", func(j *config.JWT) { j.FromHeaders = config.HeaderSources{{Name: "X-Jwt"}} },
			h{"X-Jwt": {tok, tok}}, "", outcome.MultipleCredentials, "", h{}, ""},
		{"whole value, empty", func(j *config.JWT) { j.FromHeaders = config.HeaderSources{{Name: "X-Jwt"}} },
			h{"X-Jwt": {""}}, "", "", "", h{"X-Jwt": {""}}, ""},
		{"prefix that is a scheme", func(j *config.JWT) { j.FromHeaders = config.HeaderSources{{Name: "X-Auth", Prefix: "Token "}} },
			h{"X-Auth": {"token " + tok}}, "", "", tok, h{}, ""},
		{"prefix that is no scheme", func(j *config.JWT) { j.FromHeaders = config.HeaderSources{{Name: "X-Auth", Prefix: "jwt="}} },
			h{"X-Auth": {"jwt=" + tok}}, "", "", tok, h{}, ""},
		{"prefix that is no scheme, in other case",
			func(j *config.JWT) { j.FromHeaders = config.HeaderSources{{Name: "X-Auth", Prefix: "jwt="}} },
			h{"X-Auth": {"JWT=" + tok}}, "", "", "", h{"X-Auth": {"JWT=" + tok}}, ""},
		{"prefix missing", func(j *config.JWT) { j.FromHeaders = config.HeaderSources{{Name: "X-Auth", Prefix: "Token "}} },
			h{"X-Auth": {tok}}, "", "", "", h{"X-Auth": {tok}}, ""},
		{"with prefix before without", func(j *config.JWT) {
			j.FromHeaders = config.HeaderSources{{Name: "X-Auth"}, {Name: "x-auth", Prefix: "Token "}}
		}, h{"X-Auth": {"Token " + tok}}, "", "", tok, h{}, ""},

		{"query", none, h{}, "access_token=" + tok, "", tok, h{}, ""},
		{"query among others", none, h{}, "b=%26&flag&access_token=" + tok + "&a=+&&c", "", tok, h{}, "b=%26&flag&a=+&&c"},
		{"query with an encoded name", none, h{}, "%61ccess_token=" + tok, "", tok, h{}, ""},
		{"query with an encoded value", none, h{}, "access_token=h%2Ep%2es", "", tok, h{}, ""},
		{"query keeps a plus", none, h{}, "access_token=a+b", "", "a+b", h{}, ""},
		{"query in other case", none, h{}, "Access_Token=" + tok, "", "", h{}, "Access_Token=" + tok},
		{"query with a semicolon", none, h{}, "a=1;access_token=" + tok, "", "", h{}, "a=1;access_token=" + tok},
		{"query with a bad escape", none, h{}, "access_token=%zz", "", "%zz", h{}, ""},
		{"query untouched without a token", none, h{}, "&a=%zz&&b=1;c", "", "", h{}, "&a=%zz&&b=1;c"},
		{"query empty", none, h{}, "access_token=", outcome.Malformed, "", h{}, ""},
		{"query without a value", none, h{}, "x&access_token", outcome.Malformed, "", h{}, "x"},
		{"query empty beside a token", none, h{"Authorization": {"Bearer " + tok}}, "access_token=", outcome.MultipleCredentials, "", h{},
			""},
		{"query twice", none, h{}, "access_token=" + tok + "&a=1&access_token=" + tok, outcome.MultipleCredentials, "", h{}, "a=1"},
		{"query under two names", func(j *config.JWT) { j.FromParams = []string{"jwt", "access_token"} }, h{},
			"jwt=" + tok + "&z=9&access_token=" + tok, "", tok, h{}, "z=9"},
		{"query off", func(j *config.JWT) { j.FromParams = []string{} }, h{}, "access_token=" + tok, "", "", h{}, "access_token=" + tok},

		{"cookie", cookies, h{"Cookie": {"session=" + tok}}, "", "", tok, h{}, ""},
		{"cookie in the middle", cookies, h{"Cookie": {"a=1; session=" + tok + ";b=2; c"}}, "", "", tok, h{"Cookie": {"a=1;b=2; c"}}, ""},
		{"cookie first", cookies, h{"Cookie": {"session=" + tok + "; a=\"1\"; b=2"}}, "", "", tok, h{"Cookie": {"a=\"1\"; b=2"}}, ""},
		{"cookie last", cookies, h{"Cookie": {"a=1; session=" + tok}}, "", "", tok, h{"Cookie": {"a=1"}}, ""},
		{"cookie twice, equal", cookies, h{"Cookie": {"session=" + tok + "; session=" + tok}}, "", "", tok, h{}, ""},
		{"cookie twice, different", cookies, h{"Cookie": {"session=" + tok + "; session=x"}}, "", outcome.MultipleCredentials, "", h{}, ""},
		{"cookie in two lines, different", cookies, h{"Cookie": {"session=" + tok, "session=; a=1"}}, "", outcome.MultipleCredentials, "",
			h{"Cookie": {"a=1"}}, ""},
		{"cookie in other case", cookies, h{"Cookie": {"Session=" + tok}}, "", "", "", h{"Cookie": {"Session=" + tok}}, ""},
		{"cookie with a longer name", cookies, h{"Cookie": {"xsession=1;  session2=2 "}}, "", "", "",
			h{"Cookie": {"xsession=1;  session2=2 "}}, ""},
		{"cookie empty", cookies, h{"Cookie": {"session="}}, "", "", "", h{}, ""},
		{"cookie equal to the header", cookies, h{"Cookie": {"session=" + tok}, "Authorization": {"Bearer " + tok}}, "", "", tok, h{}, ""},
		{"cookie unlike the header", cookies, h{"Cookie": {"session=x"}, "Authorization": {"Bearer " + tok}}, "",
			outcome.MultipleCredentials, "", h{}, ""},

		{"subprotocol", none, h{"Sec-Websocket-Protocol": {"bearer, " + tok}}, "", "", tok, h{}, ""},
		{"subprotocol among others", none, h{"Sec-Websocket-Protocol": {"v1,bearer," + tok, "v2"}}, "", "", tok,
			h{"Sec-Websocket-Protocol": {"v1, v2"}}, ""},
		{"subprotocol over two lines", none, h{"Sec-Websocket-Protocol": {"bearer", tok}}, "", "", tok, h{}, ""},
		{"subprotocol alone", none, h{"Sec-Websocket-Protocol": {"v1, bearer"}}, "", "", "", h{"Sec-Websocket-Protocol": {"v1, bearer"}},
			""},
		{"subprotocols untouched", none, h{"Sec-Websocket-Protocol": {"v1 ,v2"}}, "", "", "", h{"Sec-Websocket-Protocol": {"v1 ,v2"}}, ""},
		{"subprotocol in other case", none, h{"Sec-Websocket-Protocol": {"Bearer, x"}}, "", "", "",
			h{"Sec-Websocket-Protocol": {"Bearer, x"}}, ""},
		{"subprotocol twice, equal", none, h{"Sec-Websocket-Protocol": {"bearer, " + tok + ", bearer, " + tok}}, "", "", tok, h{}, ""},
		{"subprotocol twice, different", none, h{"Sec-Websocket-Protocol": {"bearer, a, bearer, b"}}, "", outcome.MultipleCredentials, "",
			h{}, ""},
		{"kubernetes", none, h{"Sec-Websocket-Protocol": {k8s + b64 + ", v1"}}, "", "", tok, h{"Sec-Websocket-Protocol": {"v1"}}, ""},
		{"kubernetes and bearer", none, h{"Sec-Websocket-Protocol": {"bearer, " + tok + ", " + k8s + b64}}, "", "", tok, h{}, ""},
		{"kubernetes, no base64", none, h{"Sec-Websocket-Protocol": {k8s + "!!!"}}, "", "", k8s + "!!!", h{}, ""},
		{"kubernetes, padded", none, h{"Sec-Websocket-Protocol": {k8s + b64 + "=="}}, "", "", k8s + b64 + "==", h{}, ""},
		{"kubernetes, empty", none, h{"Sec-Websocket-Protocol": {k8s}}, "", outcome.Malformed, "", h{}, ""},
		{"kubernetes, no dot", none, h{"Sec-Websocket-Protocol": {strings.TrimSuffix(k8s, ".") + ", x"}}, "", "", "",
			h{"Sec-Websocket-Protocol": {strings.TrimSuffix(k8s, ".") + ", x"}}, ""},
		{"only kubernetes", func(j *config.JWT) { j.FromSubprotocols = []string{kubernetesProtocol} },
			h{"Sec-Websocket-Protocol": {"bearer, " + tok}}, "", "", "", h{"Sec-Websocket-Protocol": {"bearer, " + tok}}, ""},
		{"only bearer", func(j *config.JWT) { j.FromSubprotocols = []string{"bearer"} },
			h{"Sec-Websocket-Protocol": {k8s + b64}}, "", "", "", h{"Sec-Websocket-Protocol": {k8s + b64}}, ""},

		{"prefix", prefixed, h{"Sec-Websocket-Protocol": {"realtime, openai-insecure-api-key." + tok}}, "", "", tok,
			h{"Sec-Websocket-Protocol": {"realtime"}}, ""},
		{"the longest prefix", prefixed, h{"Sec-Websocket-Protocol": {"openai-insecure-api-key.v2." + tok}}, "", "", tok, h{}, ""},
		{"prefix without a token", prefixed, h{"Sec-Websocket-Protocol": {"openai-insecure-api-key."}}, "", outcome.Malformed, "", h{}, ""},
		{"prefix in other case", prefixed, h{"Sec-Websocket-Protocol": {"OpenAI-insecure-api-key.x"}}, "", "", "",
			h{"Sec-Websocket-Protocol": {"OpenAI-insecure-api-key.x"}}, ""},
		{"prefixes with different tokens", prefixed,
			h{"Sec-Websocket-Protocol": {"openai-insecure-api-key.a, openai-insecure-api-key.b"}}, "",
			outcome.MultipleCredentials, "", h{}, ""},
		{"prefix is no name for the next entry", prefixed, h{"Sec-Websocket-Protocol": {"openai-insecure-api-key, x"}}, "", "", "",
			h{"Sec-Websocket-Protocol": {"openai-insecure-api-key, x"}}, ""},

		{"everywhere the same", cookies, h{"Authorization": {"Bearer " + tok}, "Cookie": {"session=" + tok},
			"Sec-Websocket-Protocol": {"bearer, " + tok}}, "access_token=" + tok, "", tok, h{}, ""},
		{"header and query differ", none, h{"Authorization": {"Bearer " + tok}}, "access_token=x", outcome.MultipleCredentials, "", h{},
			""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := build(t, settings(func(a *config.Authentication) { c.change(&a.JWT) }), nil)
			before := c.header.Clone()
			h := maps.Clone(c.header) // the slices are those of the request
			got, rest, err := a.Take(h, c.query)
			if reasonOf(err) != c.reason || got.Token != c.token || rest != c.rest {
				t.Errorf("got token %q, rest %q, %v", got.Token, rest, err)
			}
			if !maps.EqualFunc(h, c.left, slices.Equal) {
				t.Errorf("left: %v, expected %v", h, c.left)
			}
			if !maps.EqualFunc(c.header, before, slices.Equal) {
				t.Errorf("the request was changed: %v", c.header)
			}
			if (got.Token != "") != (len(got.Places) > 0) {
				t.Errorf("places %q", got.Places)
			}
		})
	}
}

func TestCredentialSaysHowToAnswerASubprotocol(t *testing.T) {
	a := build(t, settings(nil), nil)
	for offered, want := range map[string]Credential{
		"bearer, h.p.s, v1":           {FromSubprotocol: true, Subprotocol: "bearer"},
		k8s + encode([]byte("h.p.s")): {FromSubprotocol: true},
		"v1":                          {},
		"bearer":                      {},
	} {
		got, _, err := a.Take(http.Header{"Sec-Websocket-Protocol": {offered}}, "")
		if err != nil || got.FromSubprotocol != want.FromSubprotocol || got.Subprotocol != want.Subprotocol {
			t.Errorf("%s: %+v, %v", offered, got, err)
		}
	}
}

func FuzzTake(f *testing.F) {
	f.Add("Bearer h.p.s", "a=1&access_token=h.p.s", "a=1; session=h.p.s", "bearer, h.p.s, v1")
	f.Add("Basic x", "%61ccess_token=&x", "session=a;session=b", k8s+"aC5wLnM")
	f.Add("bearer  x", "access_token=%zz;&", " ;session = x; =", ",,bearer,")
	c := settings(func(c *config.Authentication) { c.JWT.FromCookies = []string{"session"} })
	a, err := newGate(c, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, authorization, query, cookie, protocols string) {
		h := http.Header{"Authorization": {authorization}, "Cookie": {cookie}, "Sec-Websocket-Protocol": {protocols}}
		first, rest, _ := a.Take(h, query)
		again, rest2, err := a.Take(h, rest)
		if rest2 != rest {
			t.Errorf("the query %q became %q, then %q", query, rest, rest2)
		}
		if err != nil || again.Token != "" { // whatever was found, nothing is left to be found
			t.Errorf("left after %+v: %+v, %v", first, again, err)
		}
		if rest == "" {
			return
		}
		for pair := range strings.SplitSeq(rest, "&") {
			if !strings.Contains("&"+query+"&", "&"+pair+"&") {
				t.Errorf("%q is not of %q", pair, query)
			}
		}
	})
}
