package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// numbered returns an agent on 127.0.0.1, and a route that names the last two numbers of its
// address: namespace 0, agent 1. So no name server is needed.
func numbered(t *testing.T) (*agent, settings) {
	a := newAgent(t, nil)
	r := route("/", strings.Replace(a.URL, "127.0.0.1", "127.0.{namespace}.{agent}", 1))
	r["host"] = "{agent}.{namespace}.agents.test"
	return a, r
}

func TestNamesInTheHostChooseTheAgent(t *testing.T) {
	i := newIssuer(t)
	a, r := numbered(t)
	r["path"] = "/{version}"
	r["query"] = settings{"set": settings{"agent": "{agent}", "namespace": "{namespace}", "v": "{version}"}}
	r["requiredClaims"] = []any{settings{"claim": "scope", "values": []string{"{namespace}/{agent}"}}}
	r["protectedResource"] = settings{"scopes": []string{"{namespace}/{agent}"}}
	s := plain(i, a.URL).with("routes", []any{r}).with("upstream.allowLoopback", true)
	g := start(t, s)

	c := g.dial(t)
	c.say(rawws.Request("1.0.Agents.test:8443", "/v2/ws?agent=evil&namespace=evil", i.bearer(t, "scope", "0/1")))
	if resp := c.answer(); resp.StatusCode != 101 {
		t.Fatal(resp.Status)
	}
	if r := a.request(t); r.RequestURI != "/ws?agent=1&namespace=0&v=v2" || r.Header.Get("X-Forwarded-Prefix") != "/v2" {
		t.Errorf("the agent was asked for %s below %q", r.RequestURI, r.Header.Get("X-Forwarded-Prefix"))
	}
	var sessions []struct{ Route, Agent string }
	_, text := g.ask("/sessions")
	if err := json.Unmarshal([]byte(text), &sessions); err != nil {
		t.Fatal(err)
	}
	if len(sessions) != 1 || sessions[0].Route != "/{version}" || sessions[0].Agent != "1" {
		t.Errorf("/sessions shows %s", text)
	}
	c.Close()
	g.awaitLine("msg", "ended", "agent", "1")

	c = g.dial(t)
	c.say(rawws.Request("1.0.agents.test", "/v2/ws", i.bearer(t, "scope", "0/2")))
	resp := c.answer()
	const metadata = `resource_metadata="http://1.0.agents.test/.well-known/oauth-protected-resource/v2", scope="0/1"`
	if challenge := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 403 || !strings.Contains(challenge, metadata) {
		t.Errorf("claims for another agent get %s with %s", resp.Status, challenge)
	}
	a.untouched(t)
}

// askingHost is the text of a plain request for another host than that of plainRequest.
func askingHost(host, target string, lines ...string) string {
	return strings.Replace(plainRequest("GET", target, lines...), "gateway.test", host, 1)
}

func TestE16NamesInTheHostReachNoOtherAgent(t *testing.T) {
	i := newIssuer(t)
	a, r := numbered(t)
	bearer := i.bearer(t)
	g := start(t, plain(i, a.URL).with("routes", []any{r}))
	g.rejected(t, 502, "upstream-unreachable", askingHost("1.0.agents.test", "/ws", bearer))
	g.rejected(t, 401, "no-token", askingHost("1.0.agents.test", "/ws"))
	a.untouched(t)

	both := route("/of/{namespace}", r["upstream"].(string))
	both["host"] = r["host"]
	g = start(t, plain(i, a.URL).with("routes", []any{both, route("/{other}", a.URL)}).with("upstream.allowLoopback", true).
		with("authentication.authorization.excludePaths", []string{"/healthz", "/of/0", "/metrics"}))
	g.one(t, 200, askingHost("1.0.agents.test", "/of/0/ws", bearer))
	if r := a.request(t); r.RequestURI != "/ws" || r.Host != "1.0.agents.test" {
		t.Errorf("the agent was asked for %s of %s", r.RequestURI, r.Host)
	}
	if a := g.one(t, 200, askingHost("1.0.agents.test", "/healthz")); a.body != "ok\n" {
		t.Errorf("/healthz: %q", a.body)
	}
	g.rejected(t, 401, "no-token", askingHost("1.0.agents.test", "/of/0"))
	g.rejected(t, 401, "no-token", askingHost("1.0.agents.test", "/metrics"))

	only := start(t, plain(i, a.URL).with("routes", []any{both}).with("upstream.allowLoopback", true))
	for _, host := range []string{
		"1.1.agents.test", "0.1.agents.test", "1.agents.test", "0.1.0.agents.test", "agents.test", "1.0.agents.test.evil.test",
		"1.0.evil.test", ".0.agents.test", "1..agents.test", "*.0.agents.test", "-1.0.agents.test", "1_.0.agents.test",
		"%31.0.agents.test", "{agent}.0.agents.test", strings.Repeat("1", 64) + ".0.agents.test", "[::1]", "127.0.0.1",
	} {
		plain, upgrade := askingHost(host, "/of/0/ws", bearer), rawws.Request(host, "/of/0/ws", "Connection: close", bearer)
		for _, request := range []string{plain, upgrade} {
			if answer := only.attempt(t, request); len(answer) != 1 || answer[0].StatusCode != 404 && answer[0].StatusCode != 400 {
				t.Errorf("%s: %v", host, answer)
			}
		}
	}
	a.untouched(t)
}
