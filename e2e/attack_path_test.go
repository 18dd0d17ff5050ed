package e2e

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapter E: targets that gateway and agent might read differently. No client here has a token.

// doors is a gateway with every way around a token that a configuration can have.
func doors(t *testing.T) (*gateway, *agent) {
	t.Helper()
	a := newAgent(t, nil)
	public := route("/public", a.URL)
	public["public"] = true
	s := plain(newIssuer(t), a.URL).with("routes", []any{route("/my-agent", a.URL), public}).
		with("authentication.authorization.excludePaths", []string{"/healthz", "/open", "/free/*", "*.css", "/t/{*}/x", "/d/{**}"})
	return start(t, s), a
}

// locked says that each target is refused in this way, as handshake and as plain request, and
// that the agent hears of none.
func locked(t *testing.T, status int, reason string, targets ...string) {
	t.Helper()
	g, a := doors(t)
	for _, target := range targets {
		g.rejected(t, status, reason, plainRequest("GET", target))
		g.rejected(t, status, reason, rawws.Request("gateway.test", target))
	}
	a.untouched(t)
}

// passes says that each target needs no token, and that the agent is asked for what is given
// with it.
func passes(t *testing.T, targets map[string]string) {
	t.Helper()
	g, a := doors(t)
	for target, seen := range targets {
		g.one(t, 200, plainRequest("GET", target))
		if r := a.request(t); r.RequestURI != seen {
			t.Errorf("%s: the agent was asked for %s, want %s", target, r.RequestURI, seen)
		}
		g.connect(t, target).Close()
		if r := a.request(t); r.RequestURI != seen {
			t.Errorf("%s: the agent was asked for %s, want %s", target, r.RequestURI, seen)
		}
	}
}

func TestE01DotSegmentsAreRefused(t *testing.T) {
	locked(t, 400, "bad-path",
		"/public/../my-agent/ws", "/public/./x", "/public/%2e%2e/my-agent/ws", "/public/%2E./my-agent/ws", "/public/.%2e/x", "/public/..",
		"/public/.", "/..", "/.", "/public/x/..", "/my-agent/free/../ws", "/my-agent/d/..", "/healthz/../my-agent/ws")
	passes(t, map[string]string{"/public/...": "/...", "/public/.well-known/x..y": "/.well-known/x..y", "/public/a.": "/a."})
}

func TestE02EncodedSlashesAndBackslashesAreRefused(t *testing.T) {
	locked(t, 400, "bad-path",
		"/public/..%2fmy-agent%2fws", "/public%2fx", "/my-agent%2Fws", "/my-agent/free%2fx", `/public/..\my-agent\ws`,
		`/public\..\my-agent`, "/public/..%5cmy-agent", "/public/a%5Cb", "/my-agent/d%2f..%2fws")
}

func TestE03DoublyEncodedPathsAreDecodedOnce(t *testing.T) {
	passes(t, map[string]string{
		"/public/%252e%252e/my-agent/ws": "/%252e%252e/my-agent/ws", "/public/..%252fmy-agent": "/..%252fmy-agent",
		"/%70ublic/%7Euser": "/~user", "/public/%2561": "/%2561", "/my-agent/%6fpen": "/open",
	})
	locked(t, 404, "no-route", "/my-agent%252Fws", "/%2570ublic/x")
	locked(t, 401, "no-token", "/my-agent/%256fpen", "/my-agent/free%252fx")
}

func TestE04PathParametersOpenNothing(t *testing.T) {
	locked(t, 400, "bad-path", "/public/..;/my-agent/ws", "/public/..;a=b/x", "/public/..%3b/x", "/public/%2e%2e%3Bx/y", "/public/.;/x",
		"/public/;/../x")
	locked(t, 401, "no-token", "/my-agent/open;x", "/my-agent/open%3bx", "/my-agent/ws;.css/x", "/my-agent/t/a/x;y", "/my-agent/free;/x")
	locked(t, 404, "no-route", "/public;x/y", "/my-agent;/ws", "/healthz;x")
	passes(t, map[string]string{"/public/a;b=c/d": "/a;b=c/d", "/public/a%3Bb": "/a%3Bb"})
}

func TestE05ControlCharactersAndBrokenEscapesAreRefused(t *testing.T) {
	locked(t, 400, "bad-path",
		"/public/%00", "/my-agent/ws%00.css", "/my-agent/ws%0d%0aX-User-Id:%20root", "/public/%0a",
		"/public/%1f", "/public/%7f", "/public/%09")
	g, a := doors(t)
	for _, target := range []string{ // most of these net/http refuses itself
		"/public/\x01", "/public/\x7f", "/public/a b", "/public/\t", "/public/%", "/public/%2", "/public/%zz", "/public/%u002e%u002e/",
		"/my-agent/ws%.css", "/public/\x00.css",
	} {
		g.one(t, 400, plainRequest("GET", target))
		g.one(t, 400, rawws.Request("gateway.test", target))
	}
	a.untouched(t)
}

func TestE06FragmentsAreRefusedAndQuestionMarksStayWhatTheyAre(t *testing.T) {
	locked(t, 400, "bad-path", "/public#/my-agent/ws", "/my-agent/ws#.css", "/public/x?a#b", "/#")
	locked(t, 401, "no-token", "/my-agent/ws%3f.cs", "/my-agent/open%3f", "/my-agent/open%23", "/my-agent/ws?.css", "/my-agent/ws?/free/x",
		"/my-agent/ws?x=/../public")
	passes(t, map[string]string{"/public/a%3Fb%23c": "/a%3Fb%23c", "/public/a?b?c=/../d//e\\": "/a?b?c=/../d//e\\",
		"/my-agent/open?": "/open?"})
}

func TestE07CaseAndLookalikesOpenNothing(t *testing.T) {
	locked(t, 404, "no-route", "/PUBLIC/x", "/Public/x", "/HealthZ", "/%50ublic/x")
	locked(t, 400, "bad-path", "/public\u200b/x", "/p\u00fcblic/x", "/my-agent/open\uff0f", "/my-agent/\uff4fpen", "/public/\xff\xfe")
	locked(t, 401, "no-token", "/my-agent/OPEN", "/my-agent/Free/x", "/my-agent/ws.CSS")
	passes(t, map[string]string{ // no server in its senses makes dots or slashes of these; the agent gets them as they are
		"/public/%ef%bc%8e%ef%bc%8e/x": "/%ef%bc%8e%ef%bc%8e/x", "/public/%c0%ae%c0%ae/x": "/%c0%ae%c0%ae/x",
		"/public/..%c0%af": "/..%c0%af",
	})
}

func TestE08SlashesAndLongerNamesOpenNothing(t *testing.T) {
	locked(t, 400, "bad-path",
		"//public/x", "/public//x", "/public//my-agent/ws", "//my-agent/ws", "/my-agent//free/x", "/public/x//", "//",
		"///gateway.test/public", "/my-agent/t//x")
	locked(t, 401, "no-token", "/my-agent/open/", "/my-agent/openX", "/my-agent/free", "/my-agent/freeX/x", "/my-agent/x/free/x",
		"/my-agent/t/x", "/my-agent/t/a/b/x",
		"/my-agent/t/a/x/", "/my-agent/d", "/my-agent/ws.css/")
	locked(t, 404, "no-route", "/healthz/", "/healthzX", "/xhealthz", "/publicX/x", "/publi")
	passes(t, map[string]string{
		"/public": "/", "/public/": "/", "/my-agent/free/": "/free/", "/my-agent/t/a/x": "/t/a/x", "/my-agent/d/": "/d/",
		"/my-agent/d/a/b": "/d/a/b", "/my-agent/.css": "/.css",
	})
}

func TestE09OnlyPathsAreTargetsAndOnlyKnownMethodsAreMethods(t *testing.T) {
	locked(t, 400, "bad-path", "https://gateway.test/public/x", "https://gateway.test/my-agent/ws", "http://u@gateway.test/public/x",
		"ftp://gateway.test/public/x", "ws://gateway.test/public/x", "*")
	locked(t, 401, "no-token", "http://evil.example/my-agent/ws", "http://gateway.test/my-agent/ws?/public/x")
	passes(t, map[string]string{"http://gateway.test/public/x?y": "/x?y", "HTTP://other.test/public": "/"})
	g, a := doors(t)
	for _, target := range []string{"public/x", "x:healthz", "?/public", "", "\\public"} {
		g.one(t, 400, plainRequest("GET", target))
	}
	for _, target := range []string{"gateway.test:443", "/public/x", "127.0.0.1:1"} {
		g.rejected(t, 400, "bad-path", plainRequest("CONNECT", target))
		g.rejected(t, 400, "bad-path", strings.Replace(rawws.Request("gateway.test", target), "GET", "CONNECT", 1))
	}
	g.rejected(t, 400, "bad-path", plainRequest("OPTIONS", "*"))
	for _, method := range []string{"TRACE", "TRACK", "get", "Get", "FOO123", "PROPFIND", "PRI", "DEBUG", "M-SEARCH"} {
		if a := g.rejected(t, 405, "bad-method", plainRequest(method, "/public/x")); a.Header.Get("Allow") == "" {
			t.Error("405 without Allow")
		}
		g.rejected(t, 405, "bad-method", plainRequest(method, "/healthz"))
	}
	for _, override := range []string{"X-HTTP-Method-Override: TRACE", "X-Method-Override: GET", "X-HTTP-Method: GET"} {
		g.rejected(t, 401, "no-token", plainRequest("POST", "/my-agent/ws", override))
	}
	a.untouched(t)
}

func TestE10HostIsOneAndPicksNoAgent(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	upstream := strings.Replace(a.URL, "127.0.0.1", "{agent}", 1)
	named := route("/agents/{agent}", upstream)
	s := plain(i, a.URL).with("routes", []any{named, route("/my-agent", a.URL)})
	g := start(t, s.with("upstream.allowLoopback", true))
	bearer := i.bearer(t)
	for _, label := range []string{
		"a.b", "127.0.0.1", "a@b", "a:80", "A", "-a", "a-", "a_b", "*", "%40", "%3a", "a%2eb", "a%20", strings.Repeat("a", 64),
		"{agent}", "a,b", "[::1]", "%5b::1%5d",
	} {
		g.rejected(t, 404, "no-route", plainRequest("GET", "/agents/"+label+"/ws", bearer))
		g.rejected(t, 404, "no-route", rawws.Request("gateway.test", "/agents/"+label+"/ws", bearer))
	}
	g.connect(t, "/agents/localhost/ws", bearer)
	if r := a.request(t); r.Host != "gateway.test" || r.RequestURI != "/ws" {
		t.Errorf("the agent was asked for %s at %s", r.RequestURI, r.Host)
	}
	g.connect(t, "/agents/l%6fcalhost/ws", bearer, "X-Forwarded-Host: else.example")
	told(t, a.request(t), "Authorization", strings.TrimPrefix(bearer, "Authorization: "), "X-User-Id", "alice", "X-User-Email",
		"alice@example.com", "X-User-Roles", "user,admin")

	for _, head := range []string{
		"Host: gateway.test\r\nHost: evil.example", "Host: a\r\nHost: a", "X-No: host", "Host: evil.example/x", "Host: u@evil.example",
		"Host: a b", "Host: a\\b", "Host: a?b", "Host: a#b", "Host : a",
	} {
		g.one(t, 400, "GET /my-agent/x HTTP/1.1\r\n"+head+"\r\nConnection: close\r\n"+bearer+"\r\n\r\n")
	}
	a.untouched(t)
}

func TestE11ParametersThatARouteSetsAreNotTheClients(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	r := route("/my-agent", a.URL)
	r["query"] = settings{"set": settings{"agent": "mine", "a b": "&="}, "drop": []string{"namespace", "device_id"}}
	g := start(t, plain(i, a.URL).with("routes", []any{r}))
	for query, seen := range map[string]string{
		"":                                     "",
		"?agent=evil":                          "",
		"?agent=evil&agent=evil2&x=1&agent":    "x=1&",
		"?%61gent=evil&%61%67%65%6E%74=evil&y": "y&",
		"?namespace=evil&device_id=7&n%61mespace=x&z=&": "z=&&",
		"?a+b=evil&a%20b=evil&a%2bb=other":              "a%2bb=other&",
		"?x=1%26agent=evil&x=%00;agent=evil":            "x=1%26agent=evil&x=%00;agent=evil&",
		"?Agent=other&agent%00=other&%zz=&agen%":        "Agent=other&agent%00=other&%zz=&agen%&",
	} {
		want := "/ws?" + seen + "a%20b=%26%3D&agent=mine"
		g.connect(t, "/my-agent/ws"+query, i.bearer(t)).Close()
		if r := a.request(t); r.RequestURI != want {
			t.Errorf("%s: the agent was asked for %s, want %s", query, r.RequestURI, want)
		} else if v := r.URL.Query(); len(v["agent"]) != 1 || v.Get("agent") != "mine" || v.Has("namespace") || v.Has("device_id") {
			t.Errorf("%s: the agent reads %v", query, v)
		}
		g.one(t, 200, plainRequest("GET", "/my-agent/ws"+query, i.bearer(t)))
		if r := a.request(t); r.RequestURI != want {
			t.Errorf("%s: the agent was asked for %s, want %s", query, r.RequestURI, want)
		}
	}
	g.connect(t, "/my-agent/ws?agent=evil&access_token="+i.token(t)+"&device_id=1").Close()
	if r := a.request(t); r.RequestURI != "/ws?a%20b=%26%3D&agent=mine" {
		t.Errorf("the agent was asked for %s", r.RequestURI)
	}
}

// A name in the path chooses the host of a template. It must not choose this machine.
func TestE12NameInThePathReachesNothingOfThisMachine(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	named := route("/agents/{agent}", strings.Replace(a.URL, "127.0.0.1", "{agent}", 1))
	g := start(t, plain(i, a.URL).with("routes", []any{named}))
	bearer := i.bearer(t)
	host, err := os.Hostname() // in a container often a name of this machine
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"localhost", strings.ToLower(host)} {
		target := "/agents/" + label + "/ws"
		for _, request := range []string{rawws.Request("gateway.test", target, bearer), plainRequest("GET", target, bearer)} {
			s := g.dial(t)
			s.say(request)
			if resp := s.answer(); resp.StatusCode != 502 && resp.StatusCode != 404 {
				t.Errorf("%s: %s", label, resp.Status)
			}
		}
	}
	a.untouched(t)
}

// A gateway that is its own agent would send one request around for ever.
func TestE13LoopThroughTheGatewayIsCut(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := l.Addr().String() // free again in a moment
	l.Close()
	g := start(t, plain(i, a.URL).with("listen", own).with("routes", []any{route("/my-agent", "http://"+own+"/my-agent")}))
	bearer := i.bearer(t)
	g.rejected(t, 508, "upstream-loop", plainRequest("GET", "/my-agent/x", bearer))
	g.rejected(t, 508, "upstream-loop", rawws.Request("gateway.test", "/my-agent/ws", bearer))
	eventually(t, "both loops in the log", func() bool { return len(g.log.with("reason", "upstream-loop")) == 2 })
}

// A template takes one label of the path for an agent's name, and must not take the gateway's own
// paths for one, nor a path that is excluded as it stands.
func TestE14TemplateTakesNoPathOfTheGatewayAndOpensNoLabel(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	template := route("/{agent}", strings.Replace(a.URL, "127.0.0.1", "{agent}", 1))
	s := plain(i, a.URL).with("routes", []any{template}).
		with("upstream.allowLoopback", true).
		with("authentication.authorization.excludePaths",
			[]string{"/healthz", "/readyz", "/metrics", "/localhost", "/localhost/info", "/info"})
	g := start(t, s)
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := g.one(t, 200, plainRequest("GET", path)); a.body != "ok\n" {
			t.Errorf("%s: %q", path, a.body)
		}
	}
	for _, path := range []string{"/metrics", "/localhost", "/localhost/info/x"} {
		g.rejected(t, 401, "no-token", plainRequest("GET", path))
	}
	a.untouched(t)
	g.dial(t).say(plainRequest("GET", "/localhost/info")) // /info, as the agent sees it, is excluded
	if r := a.request(t); r.RequestURI != "/info" {
		t.Errorf("the agent was asked for %s", r.RequestURI)
	}
	kept := settings{"path": "/{agent}", "upstream": template["upstream"], "stripPrefix": false}
	whole := start(t, s.with("routes", []any{kept}))
	for _, path := range []string{"/metrics", "/localhost", "/localhost/info"} {
		whole.rejected(t, 401, "no-token", plainRequest("GET", path))
	}
	a.untouched(t)
	without := start(t, s.with("authentication.authorization.excludePaths", []string{}))
	without.rejected(t, 404, "no-route", plainRequest("GET", "/healthz"))
	literal := start(t, s.with("routes", []any{route("/", a.URL)}))
	literal.dial(t).say(plainRequest("GET", "/healthz"))
	if r := a.request(t); r.RequestURI != "/healthz" {
		t.Errorf("the agent was asked for %s", r.RequestURI)
	}
}

func TestE15EmptyHostIsRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	for _, host := range []string{"", " :80", " ."} {
		g.rejected(t, 400, "bad-host", "GET /my-agent/x HTTP/1.1\r\nHost:"+host+"\r\nConnection: close\r\n"+i.bearer(t)+"\r\n\r\n")
	}
	a.untouched(t)
	s := g.dial(t)
	s.say("GET /healthz HTTP/1.0\r\n\r\n")
	if resp := s.answer(); resp.StatusCode != 200 {
		t.Errorf("a probe in HTTP/1.0: %s", resp.Status)
	}
}

func TestE17HostThatServersReadDifferentlyIsRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	wild := route("/my-agent", a.URL).with("host", "*.agents.example")
	g := start(t, plain(i, a.URL).with("routes", []any{wild, route("/any", a.URL)}))
	for target, host := range map[string]string{
		"/my-agent/x": "evil.example,a.agents.example", "/my-agent/": "a.agents.example:evil", "/any/1": "[a.agents.example]:80",
		// net/http looks at the header alone, and here the target takes its place.
		`http://evil"x.agents.example/my-agent/x`: "a.agents.example", `http://<b>/any/x`: "a", "http://%ff%85/any/x": "a",
		"http://[::1%25%20x]/any/x": "a", "http://a%25,b/any/x": "a",
	} {
		g.rejected(t, 400, "bad-host", "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n"+i.bearer(t)+"\r\n\r\n")
	}
	a.untouched(t)
}
