package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"
)

const generatedName = "generated requests"

// generatedConfig is a configuration of generated requests: everything that the chart's values can
// say. With forward the agent gets the token.
func generatedConfig(forward bool) *vector {
	return &vector{Name: generatedName, Config: map[string]any{
		"jwt": map[string]any{
			"forwardOriginalToken": forward, "outputPayloadToHeader": "x-jwt-payload", "spaceDelimitedClaims": []any{"scope",
				"permission", "team"},
			"issuer": "https://auth.example.com", "jwksUri": "${jwks_uri}", "audiences": []any{"agents",
				"https://api.example.com/"},
			"outputClaimToHeaders": []any{
				map[string]any{"header": "x-user-id", "claim": "sub"}, map[string]any{"header": "x-user-email", "claim": "email"},
				map[string]any{"header": "x-user-roles", "claim": "roles"}, map[string]any{"header": "x-tenant", "claim": "tenant"},
				map[string]any{"header": "x-deep", "claim": "realm.name"},
			},
		},
		"authorization": map[string]any{
			"requiredClaims": []any{
				map[string]any{"claim": "scope", "values": []any{"agents:access", "admin:*"}},
				map[string]any{"claim": "team", "values": []any{"*"}},
				map[string]any{"claim": "realm.roles", "values": []any{"user", "*-admin"}},
			},
			"excludePaths": []any{"/healthz", "/open/*", "*.css", "/t/{*}/x/{**}", "/b/{**}", "/enc%7Cx"},
		},
		"edgeTrust": map[string]any{"additionalStripHeaders": []any{"x-team"}},
	}, JWKS: &keySet{Keys: []any{"rsa1", "rsa2", "ec256", "ec384", "ed25519", "rsa1024", "oct1", map[string]any{"key": "unknown",
		"kid": "enc", "use": "enc"}}}}
}

// side is what one of the two does about a request, as the tables say.
type side struct {
	bad      int  // refused with this status before the token is looked at
	token    bool // a token is found
	refused  int  // it is not good: this status,
	stage    int  // of the check that comes first
	excluded bool // the path needs no token
	sub      bool // the subject can be a principal
	claims   bool // the claims are those that are required
	after    int  // refused with this status after all rules
	end      int  // refused with this status when all else is good
	path     string
	query    string
	mark     bool              // an empty query keeps its ?
	twice    bool              // it is told of every claim twice
	headers  map[string]string // what the agent must be told; "" is that it must not
}

// status is that of the answer; pass is the agent's.
func (s side) status(pass, noToken int) int {
	switch {
	case s.bad != 0:
		return s.bad
	case s.token && s.refused != 0:
		return s.refused
	case s.excluded:
	case !s.token:
		return noToken
	case !s.sub, !s.claims:
		return 403
	}
	if s.token && s.after != 0 && (!s.excluded || s.after == 503) {
		return s.after // the gateway leaves out what cannot be a header where no rule is asked
	}
	if s.end != 0 {
		return s.end
	}
	return pass
}

// target is what the agent must be asked for.
func (s side) target() string {
	if s.query != "" || s.mark {
		return s.path + "?" + s.query
	}
	return s.path
}

// trial is one generated request and what must come of it.
type trial struct {
	r              *rand.Rand
	method, target string
	proto          string
	headers        fields
	body           string
	websocket      bool
	spec           tokenSpec
	forward        bool                         // the agent gets the token
	preflight      bool                         // Envoy looks for no token
	noKey          bool                         // the handshake has none
	edit           []func(token string) string  // what is done to its text
	rewrite        []func(claims string) string // and to that of its claims
	place          func(token string)           // puts the token into the request
	gateway, istio side
	rows           []string // of the table, that are shown
	features       []string
}

// The checks of a token in Envoy's order. All refuse with 401 but that of the audience, so that
// the order shows.
const (
	stageForm = iota + 1
	stageTimes
	stageAudience
	stageKeys
)

// refuse says that the token is refused. The check that comes first counts.
func (s *side) refuse(stage, status int) {
	if status != 0 && (s.stage == 0 || stage < s.stage) {
		s.stage, s.refused = stage, status
	}
}

// both changes both sides alike.
func (q *trial) both(f func(*side)) { f(&q.gateway); f(&q.istio) }

func (q *trial) set(name, value string) { q.headers = append(q.headers, [2]string{name, value}) }

// tell says what the agent must be told by both sides.
func (q *trial) tell(name, value string) {
	q.both(func(s *side) { s.headers[name] = value })
}

// mappedHeaders are those of generatedConfig.
var mappedHeaders = map[string]bool{"x-user-id": true, "x-user-email": true, "x-user-roles": true, "x-tenant": true, "x-deep": true}

// feature is one thing that is unusual about a request.
type feature struct {
	dimension string // no request has two of one dimension
	name      string
	row       string // of docs/istio.md; "" where both sides do the same
	do        func(q *trial)
}

// newTrial is an ordinary request with a good token.
func newTrial(r *rand.Rand, forward bool) *trial {
	q := &trial{r: r, method: "GET", target: "/my-agent/ws", proto: "HTTP/1.1", forward: forward, websocket: r.IntN(3) == 0}
	if !q.websocket && r.IntN(3) == 0 {
		q.method, q.body = "POST", "hello"
	}
	now := time.Now().Unix()
	q.spec = tokenSpec{Claims: map[string]any{
		"iss": "https://auth.example.com", "sub": "user-1", "aud": "agents", "iat": now - 10, "exp": now + 300,
		"scope": "openid agents:access", "team": "red", "realm": map[string]any{"roles": []any{"user"}},
	}}
	q.spec.Key = []string{"rsa1", "rsa2", "ec256", "ec384", "ed25519"}[r.IntN(5)]
	q.spec.Header = map[string]any{"alg": keyAlg[q.spec.Key], "kid": q.spec.Key}
	good := func() side {
		return side{token: true, sub: true, claims: true, path: "/my-agent/ws", headers: map[string]string{"x-user-id": "user-1"}}
	}
	q.gateway, q.istio = good(), good()
	q.place = func(token string) {
		q.set("Authorization", "Bearer "+token)
		q.tell("authorization", "Bearer "+token)
	}
	return q
}

// at gives the request a path that both sides take as it is.
func at(path string, excluded bool) func(*trial) {
	return func(q *trial) {
		q.target = path
		bare, query, _ := strings.Cut(path, "?")
		q.both(func(s *side) { s.path, s.query, s.excluded = bare, query, excluded })
	}
}

// spelled gives it a path of which each side makes something else; "" is 400.
func spelled(raw, gateway, istio string, excluded bool) func(*trial) {
	return func(q *trial) {
		q.target = raw
		for _, s := range []struct {
			*side
			path string
		}{{&q.gateway, gateway}, {&q.istio, istio}} {
			if s.path == "" {
				s.bad = 400
				continue
			}
			s.side.path, s.query, _ = strings.Cut(s.path, "?")
			s.excluded = excluded
		}
	}
}

// bad gives it a token that the two refuse with these statuses; 0 is that it is good.
func bad(stage, gateway, istio int, f func(q *trial)) func(*trial) {
	return func(q *trial) {
		f(q)
		q.gateway.refuse(stage, gateway)
		q.istio.refuse(stage, istio)
	}
}

// claim sets a claim that the rules do not ask for.
func claim(name string, value any) func(*trial) {
	return func(q *trial) { q.spec.Claims[name] = value }
}

// asked sets a claim that is required, and on which sides it is then fulfilled.
func asked(gateway, istio bool, name string, value any) func(*trial) {
	return func(q *trial) {
		if q.spec.Claims[name] = value; value == nil {
			delete(q.spec.Claims, name)
		}
		q.gateway.claims, q.istio.claims = q.gateway.claims && gateway, q.istio.claims && istio
	}
}

// mapped sets a claim, and says which header each side makes of it.
func mapped(name string, value any, header, gateway, istio string) func(*trial) {
	return func(q *trial) {
		q.spec.Claims[name] = value
		q.gateway.headers[header], q.istio.headers[header] = gateway, istio
	}
}

// edited changes the token's text.
func edited(f func(token string) string) func(*trial) {
	return func(q *trial) { q.edit = append(q.edit, f) }
}

// rewritten changes the text of its claims.
func rewritten(f func(claims string) string) func(*trial) {
	return func(q *trial) { q.rewrite = append(q.rewrite, f) }
}

// key signs with another key.
func key(name, alg string) func(*trial) {
	return func(q *trial) {
		q.spec.Key = name
		q.spec.Header = map[string]any{"alg": alg, "kid": name}
	}
}

func both64(v any) string {
	b, _ := json.Marshal(v)
	return base64.StdEncoding.EncodeToString(b)
}

// nested is a value in a list of depth lists.
func nested(depth int) any {
	var v any = 1
	for range depth {
		v = []any{v}
	}
	return v
}

// tokenHeader puts the token into Authorization with words around it; a side that finds none tells
// the agent the text as it is.
func tokenHeader(format string, gateway, istio bool) func(*trial) {
	return func(q *trial) {
		q.place = func(token string) {
			value := fmt.Sprintf(format, token)
			q.set("Authorization", value)
			q.tell("authorization", value)
			if gateway {
				q.gateway.headers["authorization"] = "Bearer " + token
			}
		}
		q.gateway.token, q.istio.token = gateway, istio
		for _, s := range []*side{&q.gateway, &q.istio} {
			if !s.token {
				s.headers["x-user-id"] = ""
			}
		}
	}
}

func allFeatures() []feature {
	join := func(fs ...func(*trial)) func(*trial) {
		return func(q *trial) {
			for _, f := range fs {
				f(q)
			}
		}
	}
	const (
		rowNoToken  = "no token"
		rowAudience = "wrong audience"
		rowList     = "a list or an object as a header"
		rowNumber   = "a number as a header"
	)
	now := time.Now().Unix()
	return []feature{
		// Paths.
		{"path", "excluded", "", at("/healthz", true)},
		{"path", "excluded prefix", "", at("/open/a/b?x=1", true)},
		{"path", "excluded suffix", "", at("/a/b.css", true)},
		{"path", "excluded template", "", at("/t/a/x/b/c", true)},
		{"path", "excluded template, empty rest", "", at("/t/a/x/", true)},
		{"path", "template of another depth", "", at("/t/a/b/x/c", false)},
		{"path", "template without its last slash", "", at("/t/a/x", false)},
		{"path", "template and a bracket", "", at("/t/[a]/x/b", false)},
		{"path", "rest with a bracket", "", at("/b/[a]", false)},
		{"path", "rest with other characters", "", at("/b/a!$&'()*+,;=:@-._~%20%C3%A9/c", true)},
		{"path", "another case", "", at("/Healthz", false)},
		{"path", "a slash more", "", at("/healthz/", false)},
		{"path", "reserved characters", "", at("/a;b/[c]'(d)!$&*+,=:@", false)},
		{"path", "escapes that stay", "", at("/a%20b%3F%23%c3%a9%3b%25", false)},
		{"path", "escaped letters", "", spelled("/%68ealthz", "/healthz", "/healthz", true)},
		{"path", "twice escaped letters", "", at("/%2568ealthz", false)},
		{"path", "characters no URL holds", "", spelled("/a\"<>^`{|}b", "/a%22%3C%3E%5E%60%7B%7C%7Db", "/a%22%3C%3E%5E%60%7B%7C%7Db",
			false)},
		{"path", "an excluded one of them", "", spelled("/enc|x", "/enc%7Cx", "/enc%7Cx", true)},
		{"path", "bytes above 7F", "", spelled("/a\xc3\xa9", "", "", false)},
		{"path", "bytes above 7F in the query", "", spelled("/a?b=\xc3\xa9", "", "", false)},
		{"path", "a query of such characters", "", at("/a?b=\"<>^`{|}[]", false)},
		{"path", "an empty query", "", func(q *trial) {
			at("/a", false)(q)
			q.target = "/a?"
			q.both(func(s *side) { s.mark = true })
		}},
		{"path", "dot segments", "`..`, `.` as segments, plain or encoded", spelled("/my-agent/../healthz", "", "/healthz", true)},
		{"path", "encoded dot segments", "`..`, `.` as segments, plain or encoded", spelled("/a/%2e%2E/healthz", "", "/healthz", true)},
		{"path", "dot segments with parameters", "`..`, `.` as segments, plain or encoded", spelled("/a/..;x=1/healthz", "", "/healthz",
			true)},
		{"path", "doubled slashes", "doubled slashes", spelled("/a//b", "", "/a//b", false)},
		{"path", "an encoded slash", "`%2F`, `%5C`, `\\`", spelled("/a%2fb", "", "/a%2fb", false)},
		{"path", "an encoded backslash", "`%2F`, `%5C`, `\\`", spelled("/a%5Cb", "", "/a%5Cb", false)},
		{"path", "a backslash", "`%2F`, `%5C`, `\\`", spelled(`/a\b`, "", "/a/b", false)},
		{"path", "a query with escapes", "the rest of the query, if the token is not forwarded", at("/a?z=1&b=%26c&a=x%3Dy", false)},
		{"path", "a parameter that agents believe", "`?agent=`, `?namespace=`, `?workspace=`, `?device_id=`",
			spelled("/a?agent=x&b=1", "/a?b=1", "/a?agent=x&b=1", false)},
		{"path", "an encoded NUL", "", spelled("/a%00", "", "", false)},
		{"path", "an encoded control character", "control characters in escapes, bad escapes", spelled("/a%1B", "", "/a%1B", false)},
		{"path", "a bad escape", "control characters in escapes, bad escapes", spelled("/a%zz", "", "/a%zz", false)},
		{"path", "a fragment", "", spelled("/a#b", "", "", false)},
		{"path", "asterisk", "", func(q *trial) {
			if q.method != "OPTIONS" {
				spelled("*", "", "", false)(q)
			}
		}},

		// Where the token is.
		{"place", "none", rowNoToken, func(q *trial) {
			q.place = func(string) {}
			q.both(func(s *side) { s.token = false; s.headers["x-user-id"], s.headers["authorization"] = "", "" })
		}},
		{"place", "query", "a query token on its way to the agent", func(q *trial) {
			q.place = func(token string) {
				q.addQuery("access_token="+token, "", "access_token="+token)
				q.gateway.headers["authorization"], q.istio.headers["authorization"] = "Bearer "+token, ""
			}
		}},
		{"place", "query, percent-encoded", "a query token on its way to the agent", func(q *trial) {
			q.place = func(token string) {
				text := "access_token=" + strings.ReplaceAll(token, ".", "%2E")
				q.addQuery(text, "", text)
				q.gateway.headers["authorization"], q.istio.headers["authorization"] = "Bearer "+token, ""
			}
		}},
		{"place", "query twice", "two tokens, or one in two places", func(q *trial) {
			q.place = func(token string) {
				text := "access_token=" + token + "&access_token=" + token
				q.addQuery(text, "", text)
				q.istio.headers["authorization"] = ""
			}
			q.gateway.refuse(stageForm, 401)
		}},
		{"place", "query empty", "", func(q *trial) {
			q.place = func(string) { q.addQuery("access_token=", "", "access_token=") }
			q.both(func(s *side) { s.refuse(stageForm, 401) })
		}},
		{"place", "query of another case", rowNoToken, func(q *trial) {
			q.place = func(token string) {
				q.addQuery("Access_Token="+token, "Access_Token="+token, "Access_Token="+token)
				q.tell("authorization", "")
			}
			q.both(func(s *side) { s.token = false; s.headers["x-user-id"] = "" })
		}},
		{"place", "header and query", "two tokens, or one in two places", func(q *trial) {
			q.place = func(token string) {
				q.set("Authorization", "Bearer "+token)
				q.addQuery("access_token="+token, "", "access_token="+token)
				q.tell("authorization", "Bearer "+token)
			}
			q.istio.twice = true
		}},
		{"place", "two Authorization lines", "", func(q *trial) {
			q.place = func(token string) { q.set("Authorization", "Bearer "+token); q.set("Authorization", "Basic eDp5") }
			q.both(func(s *side) { s.refuse(stageForm, 401) })
		}},
		{"place", "subprotocol", "a token in `Sec-WebSocket-Protocol`", func(q *trial) {
			q.place = func(token string) {
				q.set("Sec-WebSocket-Protocol", "bearer, "+token)
				q.gateway.headers["authorization"], q.istio.headers["authorization"] = "Bearer "+token, ""
				q.gateway.headers["sec-websocket-protocol"] = ""
			}
			q.istio.token = false
			q.istio.headers["x-user-id"] = ""
		}},
		{"place", "bearer in small letters", "scheme: `bearer x`, `Custom Bearer x`", tokenHeader("bearer %s", true, false)},
		{"place", "another scheme before", "scheme: `bearer x`, `Custom Bearer x`", tokenHeader("Custom Bearer %s", false, true)},
		{"place", "spaces after the scheme", "scheme: `bearer x`, `Custom Bearer x`", tokenHeader("Bearer   %s", true, true)},
		{"place", "no space", rowNoToken, tokenHeader("Bearer%s", false, false)},
		{"place", "no scheme", rowNoToken, tokenHeader("%s", false, false)},
		{"place", "Basic", rowNoToken, func(q *trial) {
			q.place = func(string) { q.set("Authorization", "Basic eDp5"); q.tell("authorization", "Basic eDp5") }
			q.both(func(s *side) { s.token = false; s.headers["x-user-id"] = "" })
		}},
		{"place", "a list after the token", "", bad(stageForm, 401, 401, func(q *trial) {
			q.place = func(token string) { q.set("Authorization", "Bearer "+token+",x") }
		})},
		{"place", "Authorization named by Connection", rowNoToken, func(q *trial) {
			if q.set("Connection", "authorization"); !q.websocket {
				q.place = func(token string) { q.set("Authorization", "Bearer "+token) }
				q.both(func(s *side) { s.token = false })
			}
		}},
		{"place", "a cookie", rowNoToken, func(q *trial) {
			q.place = func(token string) {
				q.set("Cookie", "access_token="+token)
				q.tell("cookie", "access_token="+token)
				q.tell("authorization", "")
			}
			q.both(func(s *side) { s.token = false; s.headers["x-user-id"] = "" })
		}},

		// The form of the token.
		{"key", "garbage", "", bad(stageForm, 401, 401, edited(func(string) string { return "garbage" }))},
		{"key", "two parts", "", bad(stageForm, 401, 401, edited(func(t string) string {
			return t[:max(0, strings.LastIndexByte(t,
				'.'))]
		}))},
		{"key", "empty signature", "", bad(stageForm, 401, 401, func(q *trial) { q.spec.Tamper = "strip-sig" })},
		{"key", "padding", "form: padding, unused bits, lenient JSON", func(q *trial) {
			q.spec.Key, q.spec.Header = "rsa1", map[string]any{"alg": "RS256", "kid": "rsa1"}
			bad(stageForm, 401, 0, edited(func(t string) string { return t + "==" }))(q)
		}},
		{"key", "unused bits", "form: padding, unused bits, lenient JSON", func(q *trial) {
			q.spec.Key, q.spec.Header = "rsa1", map[string]any{"alg": "RS256", "kid": "rsa1"}
			bad(stageForm, 401, 0, edited(func(t string) string { return t[:len(t)-1] + string(t[len(t)-1]+1) }))(q)
		}},
		{"key", "empty parts around", "form: padding, unused bits, lenient JSON", bad(stageForm, 401, 0,
			func(q *trial) { q.spec.Tamper = "extra-dots" })},
		{"form", "single quotes in the payload", "form: padding, unused bits, lenient JSON",
			bad(stageForm, 401, 0, rewritten(func(s string) string { return strings.ReplaceAll(s, `"`, "'") }))},
		{"form", "a claim twice", "", bad(stageForm, 401, 401, rewritten(func(s string) string { return `{"iss":"x",` + s[1:] }))},
		{"key", "an ECDSA signature with leading zeros", "a longer ECDSA signature", bad(stageKeys, 401, 0, func(q *trial) {
			key("ec256", "ES256")(q)
			q.spec.Tamper = "long-sig"
		})},
		{"key", "an ECDSA signature of odd length", "", bad(stageKeys, 401, 401, func(q *trial) {
			key("ec256",
				"ES256")(q)
			q.spec.Tamper = "odd-sig"
		})},
		{"key", "a flipped bit", "", bad(stageKeys, 401, 401, func(q *trial) { q.spec.Tamper = "sig-flip" })},
		{"key", "another payload", "", bad(stageKeys, 401, 401, func(q *trial) {
			q.spec.Tamper, q.spec.TamperClaims = "payload-swap", map[string]any{"groups": "admins"}
		})},
		{"form", "nested 40 deep", "", claim("x", nested(40))},
		{"form", "nested 80 deep", "claims nested more than 64 deep", bad(stageForm, 401, 0, claim("x", nested(80)))},
		{"form", "nested 120 deep", "", bad(stageForm, 401, 401, claim("x", nested(120)))},
		{"form", "a number beyond a double", "", bad(stageForm, 401, 401, claim("x", json.Number("1e999")))},
		{"form", "a registered claim in another case", "registered claims in another case", bad(stageForm, 401, 0, claim("SUB", "admin"))},

		// Algorithms and keys.
		{"key", "none", "", bad(stageForm, 401, 401, func(q *trial) { q.spec.Header["alg"] = "none" })},
		{"key", "HS256 with a published key", "HS256 with an `oct` key in the key set", bad(stageKeys, 401, 0, key("oct1", "HS256"))},
		{"key", "RSA 1024", "RSA below 2048 bits", bad(stageKeys, 401, 0, key("rsa1024", "RS256"))},
		{"key", "unknown key", "", bad(stageKeys, 401, 401, func(q *trial) { key("unknown", "RS256")(q) })},
		{"key", "a key for encryption", "`use`, `key_ops` of a key", bad(stageKeys, 401, 0, func(q *trial) {
			key("unknown", "RS256")(q)
			q.spec.Header["kid"] = "enc"
		})},
		{"key", "kid of another key", "", bad(stageKeys, 401, 401, func(q *trial) {
			key("rsa1",
				"RS256")(q)
			q.spec.Header["kid"] = "rsa2"
		})},
		{"key", "no kid", "", func(q *trial) { delete(q.spec.Header, "kid") }},
		{"key", "crit", "`crit`", bad(stageForm, 401, 0, func(q *trial) { q.spec.Header["crit"] = []any{"x"} })},
		{"key", "typ of a logout token", "`typ` of a logout or event token", bad(stageForm, 401, 0,
			func(q *trial) { q.spec.Header["typ"] = "logout+jwt" })},
		{"spoof", "the header of the payload", "", func(q *trial) { q.set("X-JWT-Payload", "evil") }},
		{"team", "of spaces", "a claim of spaces alone that is split", asked(false, true, "team", "  ")},
		{"key", "typ", "", func(q *trial) { q.spec.Header["typ"] = "at+jwt" }},

		// Issuer, audience, times, subject.
		{"iss", "another issuer", "", bad(stageForm, 401, 401, claim("iss", "https://other.example.com"))},
		{"iss", "a slash more", "", bad(stageForm, 401, 401, claim("iss", "https://auth.example.com/"))},
		{"iss", "a number", "", bad(stageForm, 401, 401, claim("iss", 5))},
		{"aud", "another audience", rowAudience, bad(stageAudience, 401, 403, claim("aud", "others"))},
		{"aud", "none", rowAudience, bad(stageAudience, 401, 403, func(q *trial) { delete(q.spec.Claims, "aud") })},
		{"aud", "a list", "", claim("aud", []any{"x", "agents"})},
		{"aud", "without scheme and slash", "", claim("aud", "http://api.example.com")},
		{"aud", "a number", "", bad(stageForm, 401, 401, claim("aud", 5))},
		{"times", "expired", "", bad(stageTimes, 401, 401, claim("exp", now-90))},
		{"times", "expired within the skew", "", claim("exp", now-30)},
		{"times", "not yet valid", "", bad(stageTimes, 401, 401, claim("nbf", now+400))},
		{"times", "nbf within the skew", "", claim("nbf", now+30)},
		{"times", "no exp", "`exp` missing or 0", bad(stageTimes, 401, 0, func(q *trial) { delete(q.spec.Claims, "exp") })},
		{"times", "exp 0", "`exp` missing or 0", bad(stageTimes, 401, 0, claim("exp", 0))},
		{"times", "exp as text", "", bad(stageForm, 401, 401, claim("exp", "4102444800"))},
		{"times", "exp negative", "", bad(stageForm, 401, 401, claim("exp", -5))},
		{"times", "exp a fraction", "", claim("exp", float64(now)+300.5)},
		{"times", "exp beyond 2^63", "", bad(stageForm, 401, 401, claim("exp", json.Number("1e300")))},
		{"times", "exp 2^63", "`exp` or `iat` of 2^63", bad(stageForm, 401, 0, claim("exp", json.Number("9223372036854775808")))},
		{"times", "iat 2^63", "`exp` or `iat` of 2^63", bad(stageForm, 401, 0, claim("iat", json.Number("9223372036854775808")))},
		{"times", "iat beyond int64", "", bad(stageForm, 401, 401, claim("iat", json.Number("1e300")))},
		{"times", "iat in the future", "", claim("iat", now+9000)},
		{"sub", "none", "", func(q *trial) {
			delete(q.spec.Claims, "sub")
			q.both(func(s *side) { s.sub = false; s.headers["x-user-id"] = "" })
		}},
		{"sub", "empty", "", func(q *trial) {
			q.spec.Claims["sub"] = ""
			q.both(func(s *side) { s.sub = false; s.headers["x-user-id"] = "" })
		}},
		{"sub", "a number", "", bad(stageForm, 401, 401, claim("sub", 5))},
		{"sub", "UTF-8", "", mapped("sub", "jörg", "x-user-id", "jörg", "jörg")},
		{"sub", "a space at its end", "a subject of white space, or with some at an end", func(q *trial) {
			q.spec.Claims["sub"] = "user-1 "
			q.gateway.sub, q.gateway.headers["x-user-id"] = false, ""
			q.istio.headers["x-user-id"] = "user-1"
		}},

		// Required claims.
		{"scope", "missing", "", asked(false, false, "scope", nil)},
		{"scope", "another", "", asked(false, false, "scope", "openid")},
		{"scope", "a prefix", "", asked(true, true, "scope", "openid admin:write")},
		{"scope", "part of a word", "", asked(false, false, "scope", "xagents:access")},
		{"scope", "two spaces", "", asked(true, true, "scope", " openid  agents:access ")},
		{"scope", "a tab", "", asked(false, false, "scope", "openid\tagents:access")},
		{"scope", "a list", "", asked(true, true, "scope", []any{"x", "agents:access"})},
		{"scope", "a list with numbers", "", asked(true, true, "scope", []any{5, "agents:access", nil})},
		{"scope", "a number", "", asked(false, false, "scope", 5)},
		{"scope", "another case", "", asked(false, false, "scope", "Agents:Access")},
		{"team", "empty", "", asked(false, false, "team", "")},
		{"team", "a line break in it", "", asked(false, false, "team", "red\nblue")},
		{"team", "a list of which one has a line break", "", asked(true, true, "team", []any{"a\nb", "c"})},
		{"team", "a list of one empty text", "", asked(false, false, "team", []any{""})},
		{"team", "a boolean", "", asked(false, false, "team", true)},
		{"team", "with spaces", "", asked(true, true, "team", "a b")},
		{"realm", "a suffix", "", asked(true, true, "realm", map[string]any{"roles": []any{"super-admin"}})},
		{"realm", "one text", "", asked(true, true, "realm", map[string]any{"roles": "user"})},
		{"realm", "none of them", "", asked(false, false, "realm", map[string]any{"roles": []any{"guest"}})},
		{"realm", "a list in a list", "", asked(false, false, "realm", map[string]any{"roles": []any{[]any{"user"}}})},
		{"realm", "no object", "", asked(false, false, "realm", "user")},
		{"realm", "a claim named with the dot", "a required claim with dots in its name", func(q *trial) {
			delete(q.spec.Claims, "realm")
			q.spec.Claims["realm.roles"] = []any{"user"}
			q.istio.claims = false
		}},

		// Claims as headers.
		{"tenant", "text", "", mapped("tenant", "acme", "x-tenant", "acme", "acme")},
		{"tenant", "empty", "", mapped("tenant", "", "x-tenant", "", "")},
		{"tenant", "a boolean", "", mapped("tenant", true, "x-tenant", "true", "true")},
		{"tenant", "null", "", mapped("tenant", nil, "x-tenant", "", "")},
		{"tenant", "a whole number", "", mapped("tenant", 42, "x-tenant", "42", "42")},
		{"tenant", "a fraction", rowNumber, mapped("tenant", 1.5, "x-tenant", "1.5", "1.500000")},
		{"tenant", "2^53+1", rowNumber, mapped("tenant", json.Number("9007199254740993"), "x-tenant", "9007199254740993",
			"9007199254740992")},
		{"tenant", "an object", rowList, mapped("tenant", map[string]any{"id": "a"}, "x-tenant", `{"id":"a"}`,
			both64(map[string]any{"id": "a"}))},
		{"tenant", "an empty list", rowList, mapped("tenant", []any{}, "x-tenant", "", both64([]any{}))},
		{"tenant", "a line break", "control characters or outer white space in a mapped claim", join(claim("tenant", "a\nb"),
			func(q *trial) {
				q.gateway.after, q.istio.after = 403, 503
			})},
		{"tenant", "a space at its end", "control characters or outer white space in a mapped claim", join(claim("tenant", "a "),
			func(q *trial) {
				q.gateway.after, q.istio.headers["x-tenant"] = 403, "a"
			})},
		{"roles", "a list", rowList, mapped("roles", []any{"user", "admin"}, "x-user-roles", "user,admin", both64([]any{"user", "admin"}))},
		{"roles", "a comma in an element", rowList, mapped("roles", []any{"a,b"}, "x-user-roles", `["a,b"]`, both64([]any{"a,b"}))},
		{"roles", "text", "", mapped("roles", "user", "x-user-roles", "user", "user")},

		// What the client says about itself.
		{"spoof", "the header of a claim", "", func(q *trial) { q.set("X-User-Email", "evil"); q.tell("x-user-email", "") }},
		{"spoof", "one of a family", "`x-user-*`, `x-omnia-*`, `x-end-user-id`", func(q *trial) {
			q.set("X-User-Groups", "admins")
			q.gateway.headers["x-user-groups"], q.istio.headers["x-user-groups"] = "", "admins"
		}},
		{"spoof", "with an underscore", "", func(q *trial) { q.set("x_user_email", "evil"); q.tell("x_user_email", "") }},
		{"spoof", "twice", "", func(q *trial) { q.set("x-user-email", "a"); q.set("X-USER-EMAIL", "b"); q.tell("x-user-email", "") }},
		{"spoof", "an additional one", "", func(q *trial) { q.set("X-Team", "evil"); q.tell("x-team", "") }},
		{"spoof", "a longer name", "", func(q *trial) { q.set("X-Teams", "x"); q.tell("x-teams", "x") }},
		{"spoof", "named by Connection", "", func(q *trial) {
			if !q.websocket {
				q.set("Connection", "x-user-id")
			}
		}},
		{"spoof", "underscore elsewhere", "header names with `_` or other characters", func(q *trial) {
			q.set("x_other", "1")
			q.gateway.headers["x_other"], q.istio.headers["x_other"] = "", "1"
		}},
		{"spoof", "client certificate", "", func(q *trial) {
			q.set("X-Forwarded-Client-Cert", "x")
			q.tell("x-forwarded-client-cert",
				"")
		}},
		{"spoof", "X-Real-IP", "`X-Forwarded-*`, `Forwarded`, `X-Real-IP` and the like from a client", func(q *trial) {
			q.set("X-Real-IP", "1.2.3.4")
			q.gateway.headers["x-real-ip"], q.istio.headers["x-real-ip"] = "", "1.2.3.4"
		}},
		{"spoof", "X-Envoy-Original-Path", "`X-Envoy-*` from a client", func(q *trial) {
			q.set("X-Envoy-Original-Path", "/x")
			q.gateway.headers["x-envoy-original-path"], q.istio.headers["x-envoy-original-path"] = "", "/x"
		}},
		{"spoof", "X-Envoy-Internal", "", func(q *trial) { q.set("X-Envoy-Internal", "true"); q.tell("x-envoy-internal", "") }},
		{"spoof", "traceparent", "", func(q *trial) { q.set("Traceparent", "00-1"); q.tell("traceparent", "00-1") }},

		// HTTP.
		{"http", "Proxy-Authorization", "`Proxy-Authorization`, `TE`", func(q *trial) {
			q.set("Proxy-Authorization", "Basic eA==")
			q.gateway.headers["proxy-authorization"], q.istio.headers["proxy-authorization"] = "", "Basic eA=="
		}},
		{"http", "TE", "`Proxy-Authorization`, `TE`", func(q *trial) {
			q.set("TE", "trailers")
			q.gateway.headers["te"], q.istio.headers["te"] = "", "trailers"
		}},
		{"http", "User-Agent", "", func(q *trial) { q.set("User-Agent", "x/1"); q.tell("user-agent", "x/1") }},
		{"http", "User-Agent empty", "", func(q *trial) { q.set("User-Agent", "") }},
		{"http", "User-Agent twice", "`User-Agent` twice", func(q *trial) {
			q.set("User-Agent", "a")
			q.set("User-Agent", "b")
			q.gateway.headers["user-agent"], q.istio.headers["user-agent"] = "a", "a,b"
		}},
		{"http", "two Hosts", "two `Host` lines", func(q *trial) {
			q.set("Host", "other.test")
			q.gateway.bad, q.istio.headers["host"] = 400, "gateway.test,other.test"
		}},
		{"http", "space before the colon", "", func(q *trial) { q.set("X-A ", "b"); q.both(func(s *side) { s.bad = 400 }) }},
		{"http", "HTTP/1.0", "HTTP/1.0", func(q *trial) {
			q.proto = "HTTP/1.0"
			if q.istio.bad = 426; q.websocket {
				q.gateway.end = 400
			}
		}},
		{"http", "two equal lengths", "two equal `Content-Length`s, or one with chunks", func(q *trial) {
			if q.body != "" {
				q.set("Content-Length", "5")
				q.istio.bad = 400
			}
		}},
		{"http", "a length and chunks", "two equal `Content-Length`s, or one with chunks", func(q *trial) {
			if q.body != "" {
				q.set("Transfer-Encoding", "chunked")
				q.body = "5\r\nhello\r\n0\r\n\r\n"
				q.istio.bad = 400
			}
		}},
		{"http", "Expect", "`Expect`", func(q *trial) {
			if q.body != "" {
				q.set("Expect", "100-continue")
				q.gateway.headers["expect"], q.istio.headers["expect"] = "", "100-continue"
			}
		}},
		{"http", "a head of 20 KB", "", func(q *trial) { q.set("X-Big", strings.Repeat("a", 20000)) }},
		{"http", "a head of 40 KB", "size of the request head", func(q *trial) {
			q.set("X-Big", strings.Repeat("a",
				40000))
			q.gateway.bad = 431
		}},
		{"http", "a head of 70 KB", "", func(q *trial) {
			q.set("X-Big", strings.Repeat("a", 70000))
			q.both(func(s *side) { s.bad = 431 })
		}},
		{"http", "absolute form", "", func(q *trial) {
			if q.method != "OPTIONS" && strings.HasPrefix(q.target, "/") {
				q.target = "http://gateway.test" + q.target
			}
		}},
		{"http", "a handshake without a key", "a handshake that is none", func(q *trial) {
			if q.websocket {
				q.noKey, q.gateway.end = true, 400
			}
		}},
		{"http", "two lengths that differ", "", func(q *trial) {
			if q.body != "" {
				q.set("Content-Length", "7")
				q.both(func(s *side) { s.bad = 400 })
			}
		}},
		{"http", "TRACE", "methods", func(q *trial) {
			if q.body == "" && !q.websocket {
				q.method, q.gateway.bad = "TRACE", 405
			}
		}},
		{"http", "a method of its own", "methods", func(q *trial) {
			if q.body == "" && !q.websocket {
				q.method, q.gateway.bad, q.istio.bad = "FOO", 405, 400
			}
		}},
		{"http", "preflight", "CORS preflight", func(q *trial) {
			if !q.websocket && q.body == "" && q.target != "*" {
				q.method = "OPTIONS"
				q.set("Origin", "https://app.example.com")
				q.set("Access-Control-Request-Method", "GET")
				q.preflight = true
			}
		}},
	}
}

// addQuery adds to the query of the request, and what each side makes of it to what the agent must
// see.
func (q *trial) addQuery(sent, gateway, istio string) {
	q.both(func(s *side) { s.mark = false })
	add := func(query *string, more string) {
		if *query != "" && more != "" {
			*query += "&"
		}
		*query += more
	}
	separator := "?"
	if strings.HasSuffix(q.target, "?") {
		separator = ""
	} else if strings.Contains(q.target, "?") {
		separator = "&"
	}
	q.target += separator + sent
	add(&q.gateway.query, gateway)
	add(&q.istio.query, istio)
}

// generate makes a request with up to three unusual things.
func generate(r *rand.Rand, forward bool, features []feature) *trial {
	q := newTrial(r, forward)
	used := map[string]bool{}
	for range r.IntN(4) {
		f := features[r.IntN(len(features))]
		answered := q.gateway.bad != 0 || q.istio.bad != 0 // which of two such answers comes first does not matter
		if used[f.dimension] || answered && (f.dimension == "path" || f.dimension == "http") {
			continue
		}
		used[f.dimension] = true
		f.do(q)
		q.features = append(q.features, f.dimension+": "+f.name)
		if f.row != "" {
			q.rows = append(q.rows, f.row)
		}
	}
	return q
}

// bytes are the request as it goes over the wire.
func (q *trial) bytes(ring *keyRing) string {
	if len(q.rewrite) > 0 {
		text := string(must(json.Marshal(q.spec.Claims)))
		for _, f := range q.rewrite {
			text = f(text)
		}
		q.spec.RawClaims = &text
	}
	token := ring.mint(q.spec, strings.NewReplacer())
	for _, f := range q.edit {
		token = f(token)
	}
	q.place(token)
	q.istio.token = q.istio.token && !q.preflight
	if !q.forward {
		q.keepToken(token)
	}
	h := fields{{"Host", "gateway.test"}}
	if q.websocket {
		h = append(h, [2]string{"Upgrade", "websocket"}, [2]string{"Connection", "Upgrade"}, [2]string{"Sec-WebSocket-Version", "13"})
	}
	if q.websocket && !q.noKey {
		h = append(h, [2]string{"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="})
	}
	if q.body != "" {
		h = append(h, [2]string{"Content-Length", fmt.Sprint(len(q.body))})
	}
	var b strings.Builder
	b.WriteString(q.method + " " + q.target + " " + q.proto + "\r\n")
	for _, kv := range append(h, q.headers...) {
		b.WriteString(kv[0] + ": " + kv[1] + "\r\n")
	}
	return b.String() + "\r\n" + q.body
}

// keepToken takes the token out of what the agents are told.
func (q *trial) keepToken(token string) {
	for _, s := range []*side{&q.gateway, &q.istio} {
		if s.token && strings.Contains(s.headers["authorization"], token) {
			s.headers["authorization"] = ""
		}
	}
	if pairs, _ := url.ParseQuery(q.istio.query); q.istio.token && pairs.Has("access_token") {
		pairs.Del("access_token") // Envoy writes the rest anew, in the order of the names, and does not escape it
		var rest []string
		for _, name := range slices.Sorted(maps.Keys(pairs)) {
			rest = append(rest, name+"="+pairs.Get(name))
		}
		q.istio.query, q.istio.mark = strings.Join(rest, "&"), false
	}
}

// generated compares half of n generated requests, the other half belongs to the other
// configuration.
func (c *comparison) generated(g *gateway, envoy *sidecar, address string, forward bool) {
	stream := uint64(0)
	if !forward {
		stream = 1
	}
	r := rand.New(rand.NewPCG(c.seed, stream))
	features := allFeatures()
	for n := range (c.n + 1) / 2 {
		q := generate(r, forward, features)
		raw := q.bytes(c.ring)
		mine, theirs := both(g, envoy, address, raw, q.method)
		pass := 200
		if q.websocket {
			pass = 101
		}
		id := fmt.Sprintf("request %d (%s)", n, strings.Join(q.features, ", "))
		if !forward {
			id = "unforwarded " + id
		}
		c.held(id+": the gateway", q.gateway, mine, q.gateway.status(pass, 401))
		c.held(id+": Envoy", q.istio, theirs, q.istio.status(pass, 403))
		differ := differences(mine, theirs)
		if len(differ) == 0 {
			c.equal++
			continue
		}
		c.different++
		if len(q.rows) == 0 {
			c.fail("%s: differs, and no class has it: %s", id, strings.Join(differ, "; "))
		}
		for _, row := range q.rows {
			if k := slices.IndexFunc(c.classes, func(class *class) bool { return class.Row == row }); k >= 0 {
				c.classes[k].seen["generated"]++
			} else {
				c.fail("%s: no class is called %q", id, row)
			}
		}
	}
}

// held compares what one side did with what its column says.
func (c *comparison) held(id string, want side, got answer, status int) {
	if got.status != status {
		c.fail("%s answers %d, not %d (%v)", id, got.status, status, got.err)
		return
	}
	told := got.told()
	if status != 101 && status != 200 {
		if told != nil {
			c.fail("%s refuses, and the agent was asked", id)
		}
		return
	}
	if told == nil {
		c.fail("%s lets through, and the agent was not asked", id)
		return
	}
	if told["target"] != want.target() {
		c.fail("%s asks the agent for %q, not %q", id, short(told["target"]), short(want.target()))
	}
	for name, value := range want.headers {
		if !want.token && mappedHeaders[name] {
			value = ""
		}
		if want.twice && value != "" && mappedHeaders[name] {
			value += "," + value
		}
		if have := told["header "+name]; have != value {
			c.fail("%s tells the agent %s %q, not %q", id, name, short(have), short(value))
		}
	}
}
