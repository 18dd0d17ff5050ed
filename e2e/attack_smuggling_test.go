package e2e

import (
	"io"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapter F: bytes in which two servers may see different requests.

// second is a request that must never be seen: it stands where a body, or nothing, ought to be.
const second = "GET /my-agent/smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n"

// alone sends a request with a second one after it, holds the gateway to one answer with this
// status and the agent to n requests, none of which is the second one.
func alone(t *testing.T, g *gateway, a *agent, status, n int, text string) answered {
	t.Helper()
	got := g.one(t, status, text+second)
	for range n {
		if r := a.request(t); strings.Contains(r.RequestURI, "smuggled") {
			t.Errorf("%.80q: the agent was asked for %s", text, r.RequestURI)
		}
	}
	a.untouched(t)
	return got
}

// keepAlive is the text of a request, up to the end of its head, that does not ask for the
// connection to be closed.
func keepAlive(method, target string, lines ...string) string {
	return strings.Replace(plainRequest(method, target, lines...), "Connection: close\r\n", "", 1)
}

func TestF01NothingIsReadBehindABodyOfTwoLengths(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		if v.r.URL.Path == "/hints" { // an interim answer, whose headers must not take the place of the gateway's own
			io.WriteString(v, "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\nConnection: keep-alive\r\n\r\n")
		}
		v.echo()
	})
	g := start(t, plain(i, a.URL).with("authentication.authorization.excludePaths", []string{"/healthz"}))
	bearer := i.bearer(t)
	for _, lengths := range [][]string{
		{"Content-Length: 6", "Transfer-Encoding: chunked"},
		{"Transfer-Encoding: chunked", "Content-Length: 0"},
		{"Transfer-Encoding: chunked", "X-A: b", "content-length: 5"},
		{"Transfer-Encoding: Chunked"}, {"Transfer-Encoding:\tchunked"}, {"Transfer-Encoding: chunked\t"},
		{"Transfer-Encoding:\r\n chunked"},
		{"X-A: b\r\n Content-Length: 5", "Transfer-Encoding: chunked"}, {"Transfer-Encoding: chunked\nX-A: b"},
	} {
		for _, method := range []string{"POST", "GET"} {
			alone(t, g, a, 200, 1, keepAlive(method, "/my-agent/x", append(lengths, bearer)...)+"0\r\n\r\n")
			alone(t, g, a, 401, 0, keepAlive(method, "/my-agent/x", lengths...)+"0\r\n\r\n")
			alone(t, g, a, 404, 0, keepAlive(method, "/else", lengths...)+"0\r\n\r\n")
		}
		alone(t, g, a, 200, 0, keepAlive("GET", "/healthz", lengths...)+"0\r\n\r\n")

		s := g.dial(t)
		s.say(keepAlive("POST", "/my-agent/hints", append(lengths, bearer)...) + "0\r\n\r\n" + second)
		if r := s.answer(); r.StatusCode != 103 {
			t.Errorf("got %s, want the agent's 103", r.Status)
		}
		if r := s.answer(); r.StatusCode != 200 {
			t.Errorf("got %s, want 200", r.Status)
		}
		s.hungUp()
		a.request(t)
		a.untouched(t)
	}
}

func TestF02OddTransferEncodingsAreRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	for _, lines := range []string{
		"Transfer-Encoding: xchunked", "Transfer-Encoding: identity", "Transfer-Encoding: chunked, identity",
		"Transfer-Encoding: identity, chunked",
		"Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
		"Transfer-Encoding: \x0bchunked", "Transfer-Encoding : chunked", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"",
		"Transfer-Encoding:\r\n",
		"Transfer-Encoding: chunked\x00",
	} {
		all := g.attempt(t, keepAlive("POST", "/my-agent/x", "Content-Length: 5", lines, i.bearer(t))+"0\r\n\r\n"+second)
		if len(all) != 1 || all[0].StatusCode != 400 && all[0].StatusCode != 501 {
			t.Errorf("%q: %v", lines, all)
		}
	}
	a.untouched(t)
}

func TestF03OddContentLengthsAreRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	for _, lines := range []string{
		"Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 5", "Content-Length: 5,6", "Content-Length: +5", "Content-Length: -5",
		"Content-Length: 0x5", "Content-Length: 5 5",
		"Content-Length: 9223372036854775808", "Content-Length: 18446744073709551621", "Content-Length: 5a", "Content-Length: 1e1",
		"Content-Length:", "Content-Length: \uff15", "Content-Length : 5",
	} {
		alone(t, g, a, 400, 0, keepAlive("POST", "/my-agent/x", lines, i.bearer(t))+"abcde")
	}
}

func TestF04BrokenChunksReachNoAgentAsAWholeBody(t *testing.T) {
	i := newIssuer(t)
	ends := make(chan error, 1)
	a := newAgent(t, func(v *visit) {
		_, err := io.Copy(io.Discard, v.r.Body)
		ends <- err
		v.echo()
	})
	g := start(t, plain(i, a.URL))
	for _, body := range []string{
		"3\nabc\n0\n\n", "0x3\r\nabc\r\n0\r\n\r\n", "00000000000000003\r\nabc\r\n0\r\n\r\n", "3\r\nabc0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n",
		"-3\r\nabc\r\n0\r\n\r\n",
		"3 ;x\nabc\r\n0\r\n\r\n", "g\r\nabc\r\n0\r\n\r\n", "\r\nabc\r\n0\r\n\r\n", "ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
	} {
		all := g.attempt(t, keepAlive("POST", "/my-agent/x", "Transfer-Encoding: chunked", i.bearer(t))+body+second)
		if len(all) != 1 || all[0].StatusCode != 400 {
			t.Errorf("%q: %v", body, all)
		}
		r := a.request(t)
		if err := <-ends; err == nil || strings.Contains(r.RequestURI, "smuggled") {
			t.Errorf("%q: the agent got a whole body for %s", body, r.RequestURI)
		}
		g.awaitLine("reason", "bad-body", "status", 400)
	}
	a.untouched(t)
}

func TestF05OnlyHTTP1IsSpoken(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	bearer := i.bearer(t)
	for _, line := range []string{
		"GET /my-agent/x", "GET /my-agent/x HTTP/0.9", "GET /my-agent/x HTTP/2.0", "GET /my-agent/x HTTP/3.0", "GET /my-agent/x http/1.1",
		"GET /my-agent/x HTTP/1.1x", "GET /my-agent/x HTTP/01.1",
		"GET /my-agent/x HTTP/1", "GET  /my-agent/x HTTP/1.1", "GET /my-agent/x  HTTP/1.1", " GET /my-agent/x HTTP/1.1",
		"GET\t/my-agent/x\tHTTP/1.1", "GET /my-agent/x XTTP/1.1", "G\x00T /my-agent/x HTTP/1.1",
		"GET /my-agent/x HTTP/1.1 ", "PRI * HTTP/2.0",
	} {
		all := g.attempt(t, line+"\r\nHost: gateway.test\r\n"+bearer+"\r\n\r\n"+second)
		if len(all) != 1 || all[0].StatusCode < 400 {
			t.Errorf("%q: %v", line, all)
		}
	}
	a.untouched(t)
	for _, text := range []string{ // unusual, and understood by all in one way
		"GET /my-agent/x HTTP/1.1\nHost: gateway.test\nConnection: close\n" + bearer + "\n\n",
		"\r\nGET /my-agent/x HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n" + bearer + "\r\n\r\n",
	} {
		if all := g.attempt(t, text); len(all) != 1 {
			t.Errorf("%q: %v", text, all)
		}
	}
}

func TestF06HTTP10WithAChunkedBodyIsTheLastOfItsConnection(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	http10 := func(lines ...string) string {
		request := keepAlive("POST", "/my-agent/x", append(lines, "Connection: keep-alive", i.bearer(t))...)
		return strings.Replace(request, "HTTP/1.1", "HTTP/1.0", 1)
	}
	alone(t, g, a, 200, 1, http10("Transfer-Encoding: chunked")+"0\r\n\r\n")
	alone(t, g, a, 200, 1, http10("Transfer-Encoding: chunked", "Content-Length: 5")+"0\r\n\r\n")
	alone(t, g, a, 200, 1, http10("Content-Length: 5")+"abcde")
	old := strings.Replace(rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t)), "HTTP/1.1", "HTTP/1.0", 1)
	g.rejected(t, 400, "bad-upgrade", old)
}

func TestF07Expectations(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	alone(t, g, a, 417, 0, keepAlive("POST", "/my-agent/x", "Expect: something", "Content-Length: 5", i.bearer(t)))
	alone(t, g, a, 401, 0, keepAlive("POST", "/my-agent/x", "Expect: 100-continue", "Content-Length: 5")) // no 100 is sent

	s := g.dial(t)
	s.say(plainRequest("POST", "/my-agent/x", "Expect: 100-continue", "Content-Length: 5", i.bearer(t)))
	if r := s.answer(); r.StatusCode != 100 {
		t.Fatalf("got %s, want 100", r.Status)
	}
	s.say("abcde")
	if r := s.answer(); r.StatusCode != 200 {
		t.Errorf("got %s, want 200", r.Status)
	}
	if r := a.request(t); r.Header.Get("Expect") != "" || r.ContentLength != 5 {
		t.Errorf("the agent got %v with a body of %d", r.Header, r.ContentLength)
	}
}

func TestF08EachPipelinedRequestStandsAlone(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	all := g.attempt(t, keepAlive("GET", "/my-agent/1", i.bearer(t))+keepAlive("GET", "/my-agent/2")+keepAlive("POST", "/my-agent/3",
		"Content-Length: 47", i.bearer(t, "sub", "bob"))+
		"GET /my-agent/smuggled HTTP/1.1\r\nX: gateway.te\r\n"+plainRequest("GET", "/healthz"))
	var statuses []int
	for _, a := range all {
		statuses = append(statuses, a.StatusCode)
	}
	if len(statuses) != 4 || statuses[0] != 200 || statuses[1] != 401 || statuses[2] != 200 || statuses[3] != 200 {
		t.Errorf("answers %v, want 200 401 200 200", statuses)
	}
	for _, want := range []string{"/1 alice", "/3 bob"} {
		r := a.request(t)
		if got := r.RequestURI + " " + r.Header.Get("X-User-Id"); got != want {
			t.Errorf("the agent got %s, want %s", got, want)
		}
	}
	a.untouched(t)
}

func TestF09BodyOfAGETIsABody(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	bearer := i.bearer(t)
	body := "GET /my-agent/smuggled HTTP/1.1\r\n\r\n"
	g.one(t, 200, plainRequest("GET", "/my-agent/x", "Content-Length: 35", bearer)+body)
	if r := a.request(t); r.ContentLength != 35 || r.RequestURI != "/x" {
		t.Errorf("the agent got %s with a body of %d", r.RequestURI, r.ContentLength)
	}
	a.untouched(t)
}

func TestF10HTTP2IsNotSpoken(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	settingsFrame := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if all := g.attempt(t, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settingsFrame+second); len(all) != 1 || all[0].StatusCode < 400 {
		t.Errorf("the preface was answered %v", all)
	}
	all := g.attempt(t, keepAlive("GET", "/my-agent/x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
		"HTTP2-Settings: AAMAAABkAAQAAP__", i.bearer(t))+
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settingsFrame)
	// The request is served as if it had not offered h2c (RFC 9110 §7.8). The preface is refused.
	if len(all) != 2 || all[0].StatusCode != 200 || all[1].StatusCode < 400 {
		t.Errorf("h2c was answered %v", all)
	}
	r := a.request(t)
	if r.RequestURI != "/x" || r.Header["Upgrade"] != nil || r.Header["Http2-Settings"] != nil {
		t.Errorf("the agent got %s with %v", r.RequestURI, r.Header)
	}
	a.untouched(t)
}

func TestF11ChunkedRequestsOfAnyFormAreFollowedByTheNextOne(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	bearer := i.bearer(t)
	chunked := func(body string, lines ...string) string {
		return keepAlive("POST", "/my-agent/x", append(lines, "Transfer-Encoding: chunked", bearer)...) + body
	}
	for _, text := range []string{
		chunked("0\r\n\r\n"), chunked("3\r\nabc\r\n0\r\n\r\n"), chunked("3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n"),
		chunked("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", "Trailer: X-Sum"), chunked("1\r\na\r\n00\r\n\r\n"),
		strings.Replace(chunked("3\r\nabc\r\n0\r\n\r\n"), bearer+"\r\n", "", 1), // refused
	} {
		all := g.attempt(t, text+plainRequest("GET", "/my-agent/next", bearer))
		if len(all) != 2 || all[1].StatusCode != 200 {
			t.Errorf("%q: %v", text, all)
			continue
		}
		if all[0].StatusCode == 200 {
			if r := a.request(t); r.RequestURI != "/x" {
				t.Errorf("%q: the agent was asked for %s", text, r.RequestURI)
			}
		}
		if r := a.request(t); r.RequestURI != "/next" {
			t.Errorf("%q: the agent was asked for %s", text, r.RequestURI)
		}
	}
	a.untouched(t)
}
