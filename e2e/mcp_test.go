package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestMCPClientFindsTheLogin has the official MCP SDK log in at the development issuer: the
// gateway's 401 names the metadata of the route, the metadata the issuer, and the issuer registers
// the client and gives it a code (RFC 9728, 8414, 7591, 7636, 8707).
func TestMCPClientFindsTheLogin(t *testing.T) {
	needs(t, "websockets") // installed with the MCP SDK
	port := newSpeaker(t, clientFor(t, 2*patience, "python3", "clients/mcp_agent.py")).next()
	d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:"+port+"/mcp")
	at := "http" + strings.TrimPrefix(d.word(`The gateway is at (ws://\S+/mcp),`), "ws")
	out, err := run(t, clientFor(t, 2*patience, "python3", "clients/mcp_client.py", at))
	if want := "whoami dev-user\naud [\"agents\", \"" + strings.TrimSuffix(at, "/mcp") + "\"]\n"; err != nil || out != want {
		t.Errorf("the client ended with %v and\n%s\nwant\n%s", err, out, want)
	}
}

func TestChallengeNamesTheMetadataOfTheRoute(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	r := route("/my-agent", a.URL)
	r["protectedResource"] = settings{"scopes": []string{"agents:access"}}
	rule := settings{"requiredClaims": []any{settings{"claim": "scope", "values": []string{"agents:access"}}}}
	g := start(t, plain(i, a.URL).with("routes", []any{r, route("/silent", a.URL)}).with("authentication.authorization", rule))
	const realm = `Bearer realm="omnia-gateway"`
	base := "http://gateway.test/.well-known/oauth-protected-resource"
	tail := `, resource_metadata="` + base + `/my-agent", scope="agents:access"`
	for name, tt := range map[string]struct {
		status             int
		reason, path, want string
		lines              []string
	}{
		"no token": {401, "no-token", "/my-agent/ws", realm + tail, nil},
		"a bad one": {401, "wrong-audience", "/my-agent/ws", realm + `, error="invalid_token", error_description="wrong-audience"` + tail,
			[]string{i.bearer(t, "aud", "x")}},
		"too few scopes": {403, "claim-mismatch", "/my-agent/ws",
			realm + `, error="insufficient_scope", error_description="claim-mismatch"` + tail,
			[]string{i.bearer(t)}},
		"a silent route":  {401, "no-token", "/silent/ws", realm, nil},
		"no route at all": {404, "no-route", "/elsewhere", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := g.refused(t, tt.status, tt.reason, tt.path, tt.lines...).Header.Get("WWW-Authenticate"); got != tt.want {
				t.Errorf("challenge %s\nwant %s", got, tt.want)
			}
		})
	}
	t.Run("the metadata", func(t *testing.T) {
		s := g.dial(t)
		const asks = " /.well-known/oauth-protected-resource/my-agent HTTP/1.1\r\nHost: gateway.test\r\nOrigin: https://page.test\r\n"
		s.say("GET" + asks + "\r\n")
		answer := s.answer()
		body, _ := io.ReadAll(answer.Body)
		want := `{"resource":"http://gateway.test/my-agent","authorization_servers":["` + i.URL + `"],` +
			`"scopes_supported":["agents:access"],"bearer_methods_supported":["header","query"]}` + "\n"
		if answer.StatusCode != http.StatusOK || string(body) != want || answer.Header.Get("Access-Control-Allow-Origin") != "*" ||
			answer.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %v %s\nwant %s", answer.Status, answer.Header, body, want)
		}
		s.say("OPTIONS" + asks + "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: mcp-protocol-version\r\n\r\n")
		answer = s.answer()
		if answer.StatusCode != http.StatusNoContent || answer.Header.Get("Access-Control-Allow-Headers") != "*" {
			t.Errorf("preflight: %s %v", answer.Status, answer.Header)
		}
	})
	a.untouched(t)
}
