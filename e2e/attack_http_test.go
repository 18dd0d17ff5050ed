package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Chapter L: plain HTTP and streams of events beside the WebSockets.

func TestL01AgentCannotSwitchAPlainRequestToATunnel(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n")
		io.Copy(io.Discard, v.br)
	})
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	for range 10 {
		g.rejected(t, 502, "upstream-bad-handshake", plainRequest("GET", "/my-agent/x", i.bearer(t)))
		a.request(t)
	}
	gone()
	a.untouched(t)
}

func TestL02EventsArriveOneByOneAndEndWithTheClient(t *testing.T) {
	i, next := newIssuer(t), make(chan bool)
	left := make(chan error, 1)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for n := range 3 {
			io.WriteString(v, fmt.Sprintf("9\r\ndata: %d\n\n\r\n", n))
			<-next
		}
		_, err := v.br.ReadByte() // until the gateway hangs up
		left <- err
	})
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	s := g.dial(t)
	s.say(keepAlive("GET", "/my-agent/events", i.bearer(t)))
	r, err := http.ReadResponse(s.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(r.Body)
	for n := range 3 {
		if line, err := body.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", n) {
			t.Fatalf("event %d: %q, %v", n, line, err)
		}
		body.ReadString('\n')
		next <- true
	}
	s.Close()
	if err := <-left; err == nil {
		t.Error("the agent was not told that the client is gone")
	}
	gone()
}

func TestL03AnswerThatBreaksOffDoesNotLookWhole(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 403 Forbidden\r\n"+v.r.Header.Get("X-Length")+"\r\n\r\n5\r\nhello\r\n") // and hangs up
	})
	g := start(t, plain(i, a.URL))
	for _, length := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked"} {
		for _, text := range []string{plainRequest("GET", "/my-agent/x", i.bearer(t), "X-Length: "+length), upgrade(nil, i.bearer(t),
			"X-Length: "+length)} {
			s := g.dial(t)
			s.say(text)
			r, err := http.ReadResponse(s.br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(r.Body); err == nil {
				t.Errorf("with %s %q looks whole", length, body)
			}
		}
	}
}

func TestL04InterimAnswersAreBounded(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		const hint = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\nConnection: close, X-A\r\n\r\n"
		if v.r.URL.Path == "/flood" {
			for {
				if _, err := io.WriteString(v, strings.Repeat(hint, 100)); err != nil {
					return
				}
			}
		}
		io.WriteString(v, hint+hint)
		v.echo()
	})
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	all := g.attempt(t, plainRequest("GET", "/my-agent/flood", i.bearer(t)))
	if last := all[len(all)-1]; last.StatusCode != 502 || len(all) > 50 {
		t.Errorf("%d answers, the last is %s", len(all), last.Status)
	}
	all = g.attempt(t, plainRequest("GET", "/my-agent/x", i.bearer(t)))
	if len(all) != 3 || all[0].StatusCode != 103 || all[2].StatusCode != 200 {
		t.Errorf("got %v", all)
	} else if all[0].Header.Get("Link") == "" || all[0].Close || all[2].Header.Get("Link") != "" {
		t.Errorf("the headers of one answer are in another: %v", all)
	}
	gone()
}

func TestL05OddAnswersAreNotPassedOn(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) { io.WriteString(v, strings.ReplaceAll(v.r.Header.Get("X-Answer"), "|", "\r\n")) })
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	for _, answer := range []string{
		"HTTP/1.1 050 Odd|Content-Length: 0||", "HTTP/1.1 000 Odd|Content-Length: 0||", "HTTP/1.1 2000 OK||", "HTTP/1.1 -20 OK||",
		"ICY 200 OK||", "", "HTTP/1.1 200 OK|Content-Length: 5|Content-Length: 6||hello", "HTTP/1.1 200 OK|Content-Length: -5||hello",
		"HTTP/1.1 200 OK|Transfer-Encoding: foo||hello",
		"HTTP/1.1 200 OK|Content-Length 5||hello", "HTTP/1.1 200 OK|X-A: " + strings.Repeat("a", 20_000) + "|", // never ends
	} {
		g.one(t, 502, plainRequest("GET", "/my-agent/x", i.bearer(t), "X-Answer: "+answer))
		if strings.HasPrefix(answer, "HTTP/1.1 200 OK|X-A") {
			continue
		}
		if all := g.attempt(t, upgrade(nil, i.bearer(t), "X-Answer: "+answer)); len(all) != 1 || all[0].StatusCode != 502 {
			t.Errorf("the handshake answered by %.60q: %v", answer, all)
		}
	}
	for answer, status := range map[string]int{
		"HTTP/1.1 999 Odd|Content-Length: 0||":       999,
		"HTTP/1.1 204 None|Content-Length: 5||hello": 204,
		"HTTP/1.0 200 OK||until the end":             200,
	} {
		g.one(t, status, plainRequest("GET", "/my-agent/x", i.bearer(t), "X-Answer: "+answer))
		g.one(t, status, upgrade(nil, i.bearer(t), "X-Answer: "+answer))
	}
	gone()
}

func TestL06HeaderOfAnAgentThatNeverEndsIsCutOff(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 200 OK\r\n")
		for {
			if _, err := io.WriteString(v, "X-A: "+strings.Repeat("a", 1000)+"\r\n"); err != nil {
				return
			}
		}
	})
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	g.one(t, 502, plainRequest("GET", "/my-agent/x", i.bearer(t)))
	g.one(t, 502, upgrade(nil, i.bearer(t)))
	gone()
}

func TestL09BytesOfABodyPassAsTheyAre(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		if got := v.r.Header.Get("Accept-Encoding"); got != v.r.Header.Get("X-Sent") {
			t.Errorf("the agent was told Accept-Encoding %q", got)
		}
		io.WriteString(v, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\nConnection: close\r\n\r\n\x1f\x8bno gzi")
	})
	g := start(t, plain(i, a.URL))
	for _, sent := range []string{"", "gzip", "br;q=1"} {
		lines := []string{i.bearer(t), "X-Sent: " + sent}
		if sent != "" {
			lines = append(lines, "Accept-Encoding: "+sent)
		}
		if r := g.one(t, 200, plainRequest("GET", "/my-agent/x", lines...)); r.body != "\x1f\x8bno gzi" ||
			r.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("got %q, %v", r.body, r.Header)
		}
	}
}

// An agent that is slow to begin is waited for; a client that does not wait frees it.
func TestL10ClientThatGoesAwayFreesTheAgent(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) { io.Copy(io.Discard, v.br) })
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	for _, text := range []string{plainRequest("GET", "/my-agent/x", i.bearer(t)), plainRequest("POST", "/my-agent/x", "Content-Length: 3",
		i.bearer(t)) + "abc", upgrade(nil, i.bearer(t))} {
		s := g.dial(t)
		s.say(text)
		a.request(t)
		s.Close()
		g.awaitLine("reason", "client-lost", "remote", s.LocalAddr().String())
	}
	gone()
	eventually(t, "closed at the agent", func() bool { return a.live.Load() == 0 })
}

// What ends at the gateway ends there in every part of an agent's answer: interim, final and
// trailers.
func TestL10AgentSpeaksToNoProxyAndNamesNoSession(t *testing.T) {
	const evil = "Proxy-Authenticate: Basic\r\nProxy-Status: x\r\nProxy-Foo: x\r\nKeep-Alive: timeout=9\r\nX-Gateway-Session: evil\r\n" +
		"x_gateway_session: evil\r\nX-Named: x\r\n"
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 103 Early Hints\r\nConnection: X-Named\r\n"+evil+"Link: </a>\r\n\r\n"+
			"HTTP/1.1 200 OK\r\nConnection: X-Named\r\n"+evil+"Trailer: X-Gateway-Session, Proxy-Foo, X-Sum\r\n"+
			"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Gateway-Session: evil\r\nProxy-Foo: x\r\nX-Sum: 1\r\n\r\n")
	})
	g := start(t, plain(i, a.URL))
	s := g.dial(t)
	s.say(plainRequest("GET", "/my-agent/x", "TE: trailers", i.bearer(t)))
	all, err := io.ReadAll(s.br)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ToLower(string(all))
	for _, part := range []string{"evil", "proxy-", "keep-alive", "x-named"} {
		if strings.Contains(text, part) {
			t.Errorf("%q reached the client: %s", part, all)
		}
	}
	if !strings.Contains(text, "103 early hints") || !strings.Contains(text, "link: </a>") || !strings.Contains(text, "x-sum: 1") {
		t.Errorf("the rest did not: %s", all)
	}
}
