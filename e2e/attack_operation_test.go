package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapters D and K: what may leak to agents, clients, logs and metrics, and what an operator can
// do wrong.

func TestD01TokenLeavesThePlaceItCameFrom(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	s := plain(i, a.URL).withCookie("session").
		with("authentication.jwt.fromHeaders", []any{settings{"name": "Authorization", "prefix": "Bearer "}, settings{"name": "X_Token"}})
	token := i.token(t, "roles", nil, "email", nil)
	k8s := "base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token))
	for _, forward := range []bool{true, false} {
		g := start(t, s.with("authentication.jwt.forwardOriginalToken", forward))
		for _, tt := range []struct {
			target, line, left string   // left is the target that the agent sees
			also               []string // headers that stay
		}{
			{"/my-agent/ws", "Authorization: bearer   " + token, "/ws", nil},
			{"/my-agent/ws?access_token=" + token, "", "/ws", nil},
			{"/my-agent/ws?a=%2f+1&access_token=" + token + "&b", "", "/ws?a=%2f+1&b", nil},
			{"/my-agent/ws?%61ccess%5Ftoken=" + url.QueryEscape(token) + "&&c=;", "", "/ws?&c=;", nil},
			{"/my-agent/ws", "X_Token: " + token, "/ws", nil},
			{"/my-agent/ws", "Cookie: a=1; session=" + token + `; b="2"`, "/ws", []string{"Cookie", `a=1; b="2"`}},
			{"/my-agent/ws", "Cookie: session=" + token, "/ws", nil},
			{"/my-agent/ws", "Sec-WebSocket-Protocol: bearer, " + token + ", chat", "/ws", []string{"Sec-Websocket-Protocol", "chat"}},
			{"/my-agent/ws", "Sec-WebSocket-Protocol: bearer\r\nSec-WebSocket-Protocol: " + token, "/ws", nil},
			{"/my-agent/ws", "Sec-WebSocket-Protocol: chat, " + k8s, "/ws", []string{"Sec-Websocket-Protocol", "chat"}},
			{"/my-agent/ws?access_token=" + token, "Authorization: Bearer " + token, "/ws", nil},
		} {
			line := tt.line
			if line == "" {
				line = "X-Nothing: here"
				tt.also = []string{"X-Nothing", "here"}
			}
			g.connect(t, tt.target, line)
			r := a.request(t)
			want := append([]string{"X-User-Id", "alice"}, tt.also...)
			if forward {
				want = append(want, "Authorization", "Bearer "+token)
			}
			told(t, r, want...)
			if r.RequestURI != tt.left {
				t.Errorf("the agent was asked for %s, want %s", r.RequestURI, tt.left)
			}
		}
	}
}

func TestD02NoTokenInLogMetricsSessionsOrAnswers(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, func(v *visit) {
		switch v.r.URL.Path {
		case "/hangs-up":
		case "/speaks-nonsense":
			io.WriteString(v, "SMTP ready\r\n\r\n")
		case "/says-101":
			io.WriteString(v, "HTTP/1.1 101 Sure\r\n\r\n")
		default:
			v.echo()
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nothing listens there now
	s := plain(i, a.URL).with("log.level", "debug")
	g := start(t, s.with("routes", []any{route("/my-agent", a.URL), route("/nobody", "http://"+l.Addr().String())}).withCookie("session"))
	good := i.token(t)
	expired, foreign, broken := i.token(t, "exp", 1), i.token(t, "iss", "https://else.example.com"), good[:len(good)-9]+"AAAAAAAAA"
	var answers strings.Builder
	for _, token := range []string{good, expired, foreign, broken} {
		for _, target := range []string{"/my-agent/ws", "/my-agent/hangs-up", "/my-agent/speaks-nonsense", "/my-agent/says-101",
			"/nobody/ws", "/no-route", "/my-agent/a//b"} {
			for _, with := range []struct{ query, line string }{
				{"", "Authorization: Bearer " + token},
				{"?access_token=" + token + "&secret=hunter2", "X-A: b"},
				{"", "Cookie: session=" + token + "; other=hunter2"},
				{"", "Sec-WebSocket-Protocol: bearer, " + token},
			} {
				c, r := g.handshake(t, target+with.query, with.line, "X-Secret: hunter2")
				c.Close()
				r.Write(&answers)
				for _, a := range g.attempt(t, plainRequest("POST", target+with.query, with.line, "Content-Length: 0",
					"Referer: /?access_token="+token)) {
					a.Write(&answers)
					answers.WriteString(a.body)
				}
			}
		}
	}
	_, metrics := g.ask("/metrics")
	_, sessions := g.ask("/sessions")
	_, ready := g.ask("/readyz")
	for place, text := range map[string]string{"log": g.log.text(), "metrics": metrics, "sessions": sessions, "readyz": ready,
		"answers": answers.String()} {
		for _, token := range []string{good, expired, foreign, broken} {
			for part := range strings.SplitSeq(token, ".") {
				if strings.Contains(text, part) {
					t.Errorf("a part of a token is in the %s", place)
				}
			}
		}
		for _, secret := range []string{"hunter2", "access_token", "eyJ"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in the %s", secret, place)
			}
		}
	}
}

func TestD04QueryTokenIsOneParameterSplitAtAmpersandsOnly(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	token := i.token(t)
	for target, reason := range map[string]string{
		"/my-agent/ws?b=1;access_token=" + token:                               "no-token",
		"/my-agent/ws?ACCESS_TOKEN=" + token:                                   "no-token",
		"/my-agent/ws?access%5ftoken%3d=" + token:                              "no-token",
		"/my-agent/ws?access_token":                                            "malformed",
		"/my-agent/ws?access_token=":                                           "malformed",
		"/my-agent/ws?access_token=%zz" + token:                                "malformed",
		"/my-agent/ws?access_token=+" + token:                                  "malformed",
		"/my-agent/ws?access_token=" + token + "%00":                           "malformed",
		"/my-agent/ws?access_token=" + token + "&access_token=" + token:        "multiple-credentials",
		"/my-agent/ws?%61ccess_token=" + token + "&a=b&access_token=" + "else": "multiple-credentials",
		"/my-agent/ws?access_token=" + token + "&access_token":                 "multiple-credentials",
	} {
		r := g.refused(t, 401, reason, target)
		if got := r.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control: %q", got)
		}
	}
	a.untouched(t)

	g = start(t, plain(i, a.URL).with("authentication.jwt.fromParams", []string{}))
	g.refused(t, 401, "no-token", "/my-agent/ws?access_token="+token)
	a.untouched(t)
}

func TestK01SecretsOfTheConfigurationAreNotTold(t *testing.T) {
	i := newIssuer(t)
	uri := i.URL + "/keys?apikey=hunter2"
	for name, answer := range map[string]http.HandlerFunc{
		"good": func(w http.ResponseWriter, _ *http.Request) { w.Write(i.JWKS()) },
		"bad":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"cut":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"else": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/else?apikey=hunter2", http.StatusFound)
		},
	} {
		i.answer(answer)
		asked := i.asked.Load()
		g := startUnready(t, plain(i, newAgent(t, nil).URL).with("authentication.jwt.jwksUri", uri).with("log.level", "debug"))
		eventually(t, "asked", func() bool { return i.asked.Load() > asked && strings.Contains(g.log.text(), i.URL) })
		_, ready := g.ask("/readyz")
		_, metrics := g.ask("/metrics")
		_, answer := g.handshake(t, "/my-agent/ws", i.bearer(t))
		var b strings.Builder
		answer.Write(&b)
		for place, text := range map[string]string{"log": g.log.text(), "readyz": ready, "metrics": metrics, "answer": b.String()} {
			if strings.Contains(text, "hunter2") {
				t.Errorf("%s: a secret of jwksUri is in the %s: %s", name, place, text)
			}
		}
	}
}

func TestK03FilesThatAnybodyMayWriteAreNamed(t *testing.T) {
	for _, tt := range []struct {
		mode os.FileMode
		want bool
	}{{0o666, true}, {0o602, true}, {0o644, false}, {0o400, false}} {
		t.Run(tt.mode.String(), func(t *testing.T) {
			i, c := newIssuer(t), newCertificate(t)
			file := plain(i, "http://127.0.0.1:9").with("tls", c.settings()).write(t)
			for _, name := range []string{file, c.keyFile, c.certFile} {
				if err := os.Chmod(name, tt.mode); err != nil {
					t.Fatal(err)
				}
			}
			check := exec.Command(binary, "check", "--config", file)
			check.Env = environment()
			out, err := check.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, name := range []string{"configuration file", "tls.keyFile", "tls.certFile"} {
				if got := strings.Contains(string(out), name+": anybody on this machine may write it"); got != tt.want {
					t.Errorf("%s named: %v, want %v, in\n%s", name, got, tt.want, out)
				}
			}
		})
	}
}

func TestK04PublicListenerHasNothingOfTheAdminOne(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	for _, target := range []string{
		"/metrics", "/sessions", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/vars", "/.gateway", "/.gateway/", "/.gateway/sessions",
		"/", "/favicon.ico",
	} {
		g.rejected(t, 404, "no-route", plainRequest("GET", target, i.bearer(t)))
		g.rejected(t, 404, "no-route", plainRequest("GET", target))
	}
	g.rejected(t, 405, "bad-method", plainRequest("GET", "/.gateway/renew", i.bearer(t)))
	g.rejected(t, 401, "no-token", plainRequest("POST", "/.gateway/renew"))
	g.rejected(t, 404, "no-session", plainRequest("POST", "/.gateway/renew", i.bearer(t)))
	for _, target := range []string{"/healthz", "/readyz"} {
		g.one(t, 200, plainRequest("GET", target))
		g.rejected(t, 404, "no-route", plainRequest("POST", target))
	}
	a.untouched(t)

	// A route for everything does not open the gateway's own corner.
	g = start(t, plain(i, a.URL).with("routes", []any{settings{"path": "/", "upstream": a.URL, "public": true}}))
	g.rejected(t, 404, "no-route", plainRequest("GET", "/.gateway/x"))
	g.rejected(t, 405, "bad-method", plainRequest("GET", "/.gateway/renew"))
	a.untouched(t)

	admin, err := net.Dial("tcp", g.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	fmt.Fprintf(admin, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", g.public, g.public)
	if r, err := http.ReadResponse(bufio.NewReader(admin), nil); err != nil || r.StatusCode < 400 {
		t.Errorf("CONNECT on the admin listener: %v, %v", r, err)
	}
}

func TestK05NothingOfAClientBecomesATimeSeries(t *testing.T) {
	i := newIssuer(t)
	codes := make(chan int, 64)
	g := start(t, plain(i, newAgent(t, closeAt(codes)).URL).with("limits.maxConnections", 1000))
	series := func() (n int) {
		_, body := g.ask("/metrics")
		for line := range strings.SplitSeq(body, "\n") {
			if strings.HasPrefix(line, "omnia_gateway_") {
				n++
			}
		}
		return n
	}
	hostile := func(n int) {
		x := fmt.Sprint(n)
		g.attempt(t, plainRequest("FOO"+x, "/my-agent/"+x, i.bearer(t)))
		g.attempt(t, plainRequest("GET", "/path-"+x, i.bearer(t)))
		g.attempt(t, strings.Replace(plainRequest("GET", "/my-agent/"+x, i.bearer(t, "sub", "user-"+x), "Origin: https://"+x),
			"gateway.test", "host-"+x, 1))
		g.attempt(t, plainRequest("GET", "/my-agent/", i.bearer(t, "iss", "https://"+x)))
		s := g.connect(t, "/my-agent/ws", i.bearer(t, "sub", "user-"+x))
		s.send(rawws.Fin|rawws.Close, rawws.MakeClose(4000+n, "reason "+x, false)[2:])
		s.closed(4000 + n)
		g.awaitLine("msg", "ended", "remote", s.LocalAddr().String())
	}
	hostile(0)
	before := series()
	for n := range 20 {
		hostile(n + 1)
	}
	if after := series(); after != before || before == 0 {
		t.Errorf("%d series became %d", before, after)
	}
}

func TestK06NothingOfAClientBreaksOutOfALogLine(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	s := plain(i, a.URL)
	s["routes"].([]any)[0].(settings)["allowedOrigins"] = []string{"https://app.example.com"}
	g := start(t, s)
	withKid := func(kid string) string {
		header, _ := json.Marshal(map[string]string{"alg": "ES256", "kid": kid})
		_, rest, _ := strings.Cut(i.token(t), ".")
		return "Authorization: Bearer " + base64.RawURLEncoding.EncodeToString(header) + "." + rest
	}
	const inject = `x","reason":"ok"}\`
	texts := []string{
		plainRequest(strings.Repeat("M", 5000), "/my-agent/x"),
		plainRequest("GET", "/my-agent/%0d%0a{}"),
		plainRequest("GET", "/my-agent/"+strings.Repeat("a/", 5000)+"/"),
		plainRequest("GET", "/my-agent/x", "Origin: "+inject+strings.Repeat("é", 3000)),
		plainRequest("GET", "/my-agent/x", i.bearer(t, "sub", inject+"\x1b[2J\u202e\u009b")),
		plainRequest("GET", "/my-agent/x", withKid("k\r\n{}\x1b[2J"+strings.Repeat("k", 6000))),
		plainRequest("GET", "/my-agent/x", i.bearer(t, "iss", "https://\r\n{}"+strings.Repeat("x", 6000))),
		plainRequest("GET", "/my-agent/x", i.bearer(t, "aud", strings.Repeat("x", 6000)+"\n{}")),
	}
	for _, text := range texts {
		g.attempt(t, text)
	}
	eventually(t, "said in one line each", func() bool {
		return len(g.log.with("msg", "refused"))+len(g.log.with("msg", "answered")) == len(texts)
	})
	for line := range strings.SplitSeq(strings.TrimSpace(g.log.text()), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("%.200q is no log line", line)
		}
		if len(line) > 1000 || strings.ContainsAny(line, "\x1b\r") {
			t.Errorf("%d bytes in a line: %.300q", len(line), line)
		}
	}
}

// The issuer and the agent are named 0.0.0.0 here, as Go never sends what goes to loopback
// through a proxy.
func TestK07ProxyOfTheEnvironmentSeesNothing(t *testing.T) {
	proxy := newAgent(t, func(v *visit) { io.WriteString(v, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") })
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
	i, a := newIssuer(t), newAgent(t, nil)
	outside := strings.NewReplacer("127.0.0.1", "0.0.0.0")
	s := plain(i, outside.Replace(a.URL)).with("authentication.jwt.jwksUri",
		outside.Replace(i.URL)+"/keys").with("authentication.jwt.insecureHTTP", true)
	g := start(t, s)
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("past the proxy")
	g.one(t, 200, plainRequest("GET", "/my-agent/rest", i.bearer(t)))
	proxy.untouched(t)
}

func TestK09ProbesTellNothing(t *testing.T) {
	i := newIssuer(t)
	i.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	g := startUnready(t, plain(i, newAgent(t, nil).URL))
	if a := g.one(t, 200, plainRequest("GET", "/healthz")); a.body != "ok\n" || a.Header.Get("Server") != "" {
		t.Errorf("/healthz: %v %q", a.Header, a.body)
	}
	if a := g.one(t, 503, plainRequest("GET", "/readyz")); a.body != "not ready\n" {
		t.Errorf("/readyz: %q", a.body)
	}
	i.publish(i.Signer)
	g.awaitReady()
	if a := g.one(t, 200, plainRequest("GET", "/readyz")); a.body != "ok\n" {
		t.Errorf("/readyz: %q", a.body)
	}
}

func TestK10WhatIsNotConfiguredIsNotThere(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	routes := []any{
		settings{"path": "/my-agent", "upstream": a.URL},
		settings{"path": "/hosted", "upstream": a.URL, "host": "*.agents.example.com"},
	}
	g := start(t, plain(i, a.URL).with("routes", routes).with("authentication.authorization.excludePaths",
		[]string{"/other/*", "/healthz"}))
	for _, target := range []string{"/other/x", "/my-agentx/ws", "/My-Agent/ws", "/my-agent;x/ws", "/my-agent%20/ws", "/hosted/ws",
		"/readyz"} {
		for _, line := range []string{i.bearer(t), "X-No: token"} {
			g.refused(t, 404, "no-route", target, line)
		}
	}
	for host, status := range map[string]int{
		"a.agents.example.com": 200, "A.AGENTS.example.com:8443": 200, "a.agents.example.com.": 200,
		"agents.example.com": 404, "evilagents.example.com": 404, ".agents.example.com": 404, "a.agents.example.com.evil.com": 404,
		"a.agents.example.com:1:2": 400, "a.agents.example.com@evil.com": 400, "a.agents.example.com/x": 400, "": 400,
	} {
		g.one(t, status, strings.Replace(plainRequest("GET", "/hosted/x", i.bearer(t)), "gateway.test", host, 1))
		if status == 200 {
			a.request(t)
		}
	}
	a.untouched(t)
}

// A token whose exp is in milliseconds ends in the year 58000, for which JSON has no text.
func TestSessionsAreShownHoweverLongTheirTokensLast(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL))
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("in an hour")
	for _, exp := range []any{1795439007000, 1e18, 1e11} {
		s, r := g.handshake(t, "/my-agent/ws", i.bearer(t, "exp", exp))
		s.echoes("for ever")
		if _, body := g.ask("/sessions"); !strings.Contains(body, r.Header.Get("X-Gateway-Session")) {
			t.Errorf("with exp %v /sessions shows %q", exp, body)
		}
	}
}
