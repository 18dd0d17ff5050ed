package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestAgentThatAuthenticatesJudgesTheCredentialItself(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, func(v *visit) {
		switch {
		case v.r.Header.Get("Authorization") != "Basic YWxpY2U6c2VzYW1l":
			io.WriteString(v, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"agent\"\r\nContent-Length: 3\r\n\r\nno\n")
		case v.r.Header.Get("Upgrade") != "":
			v.accept("Sec-WebSocket-Protocol: bearer")
			v.echoFrames()
		default:
			io.WriteString(v, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		}
	})
	s := plain(i, a.URL)
	s["routes"] = []any{route("/my-agent", a.URL), route("/own", a.URL).with("agentAuthenticates", true)}
	g := start(t, s)
	const basic = "Authorization: Basic YWxpY2U6c2VzYW1l"
	sent := []string{
		basic, "Cookie: session=a; session=b", "Sec-WebSocket-Protocol: bearer, " + i.token(t, "exp", 1),
		"X-User-Id: root", "X_User_Roles: admin", "X-User-Groups: admins", "X-Omnia-Agent: other",
	}

	g.connect(t, "/own/ws?access_token=x&k=v&agent=other", sent...).echoes("hello")
	ws := a.request(t)
	s2 := g.dial(t)
	s2.say("GET /own/info HTTP/1.1\r\nHost: gateway.test\r\n" + strings.Join(sent, "\r\n") + "\r\n\r\n")
	if answer := s2.answer(); answer.StatusCode != 200 {
		t.Errorf("plain HTTP: %d", answer.StatusCode)
	}
	g.awaitLine("msg", "answered", "reason", "agent-authenticates", "status", 200)
	for kind, r := range map[string]*http.Request{"WebSocket": ws, "HTTP": a.request(t)} {
		for name, want := range map[string]string{
			"Authorization": basic[len("Authorization: "):], "Cookie": "session=a; session=b",
			"Sec-WebSocket-Protocol": sent[2][len("Sec-WebSocket-Protocol: "):],
			"X-User-Id":              "", "X-User-Roles": "", "X-User-Groups": "", "X-Omnia-Agent": "",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: the agent is told %s: %q, want %q", kind, name, got, want)
			}
		}
		for name := range r.Header {
			if strings.Contains(name, "_") {
				t.Errorf("%s: %s got through", kind, name)
			}
		}
	}
	if got := ws.URL.RawQuery; got != "access_token=x&k=v" {
		t.Errorf("the agent's query is %q", got)
	}

	_, refused := g.handshake(t, "/own/ws", i.bearer(t))
	if refused.StatusCode != 401 || refused.Header.Get("WWW-Authenticate") != `Basic realm="agent"` {
		t.Errorf("the agent's refusal became %d, %q", refused.StatusCode, refused.Header["Www-Authenticate"])
	}
	if n := g.metric(`omnia_gateway_handshakes_total{outcome="agent-authenticates"}`); n != 1 {
		t.Errorf("%v handshakes counted", n)
	}
	g.refused(t, 401, "no-token", "/my-agent/ws", basic)
}
