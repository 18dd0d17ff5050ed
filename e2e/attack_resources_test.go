package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapter I: what a client, or an agent, can use up.

// A slow client cannot hold a connection for ever: not in TLS, not in the head, not in a body
// that is not needed.
func TestI01SlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	i, a := newIssuer(t), newAgent(t, nil)
	for _, secure := range []bool{false, true} {
		g := startSecure(t, plain(i, a.URL).with("limits.handshakeTimeout", "1s"), secure)
		gone := g.leftovers()
		texts := []string{
			"", "G", "GET /my-agent/ws HTTP/1.1\r\nHost: gateway.test\r\nX-Slow: ", "\r\n\r\n\r\n",
			keepAlive("POST", "/my-agent/x", "Content-Length: 1000"),
			keepAlive("POST", "/my-agent/x", "Content-Length: 1000") + "a little",
			keepAlive("POST", "/my-agent/x", "Transfer-Encoding: chunked") + "5\r\nab",
			keepAlive("POST", "/else", "Content-Length: 200000"),
			keepAlive("GET", "/healthz", "Content-Length: 5"),
			upgrade(nil, "Content-Length: 1000"),
		}
		var sockets []*socket
		for range 10 {
			for _, text := range texts {
				s := g.dial(t)
				s.say(text)
				sockets = append(sockets, s)
			}
		}
		if secure { // and some who do not even say hello
			for _, hello := range []string{"", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"} {
				for range 10 {
					s := (&gateway{public: g.public}).dial(t)
					s.say(hello)
					sockets = append(sockets, s)
				}
			}
		}
		for _, s := range sockets {
			s.hungUp()
		}
		gone()
	}
	a.untouched(t)
}

func TestI02HeadsAreBoundedInBytesAndSoInFields(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	for _, text := range []string{
		rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t), "X-Long: "+strings.Repeat("x", 40_000)),
		rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t), strings.TrimSuffix(strings.Repeat("A:\r\n", 10_000), "\r\n")),
		rawws.Request("gateway.test", "/my-agent/"+strings.Repeat("x", 40_000), i.bearer(t)),
		rawws.Request("gateway.test", "/my-agent/ws?"+strings.Repeat("&", 40_000), i.bearer(t)),
	} {
		g.one(t, 431, text)
	}
	a.untouched(t)
	many := strings.TrimSuffix(strings.Repeat("A: b\r\n", 4_000), "\r\n") // within the bounds
	g.connect(t, "/my-agent/ws", i.bearer(t), many).echoes("many")
}

func TestI03LimitsHoldWhenAllComeAtOnce(t *testing.T) {
	i := newIssuer(t)
	var wg sync.WaitGroup
	arrived := make(chan struct{})
	a := newAgent(t, func(v *visit) {
		<-arrived // slow, so that all are under way together
		v.echo()
	})
	const limit, clients = 5, 60
	g := start(t, plain(i, a.URL).with("limits.maxConnectionsPerUser", limit))
	gone := g.leftovers()
	bearer := i.bearer(t)
	var open, refused atomic.Int64
	sockets := make([]*socket, clients)
	for n := range sockets {
		sockets[n] = g.dial(t)
		wg.Go(func() {
			io.WriteString(sockets[n], rawws.Request("gateway.test", "/my-agent/ws", bearer))
			r, err := http.ReadResponse(sockets[n].br, nil)
			switch {
			case err != nil:
			case r.StatusCode == 101:
				open.Add(1)
			case r.StatusCode == 429:
				if refused.Add(1) == clients-limit {
					close(arrived)
				}
			}
		})
	}
	wg.Wait()
	if open.Load() != limit || refused.Load() != clients-limit {
		t.Errorf("%d open and %d refused, want %d and %d", open.Load(), refused.Load(), limit, clients-limit)
	}
	for _, s := range sockets {
		s.Close()
	}
	gone()
}

func TestI05OneRequestIsOneDial(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {}) // hangs up on everybody
	g := start(t, plain(i, a.URL))
	for n := range 5 {
		g.refused(t, 502, "upstream-bad-handshake", "/my-agent/ws", i.bearer(t))
		g.one(t, 502, plainRequest("GET", "/my-agent/x", i.bearer(t)))
		g.one(t, 502, plainRequest("POST", "/my-agent/x", "Content-Length: 2", i.bearer(t))+"ab")
		for range 3 {
			a.request(t)
		}
		if len(a.requests) > 0 {
			t.Fatalf("more than one dial for a request, in round %d", n)
		}
	}
}

func TestI06RefusingAgentsLeaveNothingOpen(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
		io.Copy(io.Discard, v.br) // kept alive
	})
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	for range 50 {
		if _, r := g.handshake(t, "/my-agent/ws", i.bearer(t)); r.StatusCode != 403 {
			t.Errorf("got %s", r.Status)
		}
	}
	gone()
	eventually(t, "closed at the agent", func() bool { return a.live.Load() == 0 })
}

// A body goes through as it comes, however long it is.
func TestI08BodiesAreNotBuffered(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		n, err := io.Copy(io.Discard, v.r.Body)
		body := fmt.Sprint(n, err)
		fmt.Fprintf(v, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
	})
	g := start(t, plain(i, a.URL))
	memory := g.metric("process_resident_memory_bytes")
	const size = 256 << 20
	s := g.dial(t)
	s.SetDeadline(time.Now().Add(time.Minute))
	s.say(plainRequest("POST", "/my-agent/x", fmt.Sprintf("Content-Length: %d", size), i.bearer(t)))
	chunk := strings.Repeat("x", 1<<20)
	for range size >> 20 {
		s.say(chunk)
	}
	r := s.answer()
	if body, _ := io.ReadAll(r.Body); string(body) != fmt.Sprint(size, nil) {
		t.Errorf("the agent got %s", body)
	}
	if grown := g.metric("process_resident_memory_bytes") - memory; grown > size/4 {
		t.Errorf("a body of %d MB took %v MB", size>>20, grown/(1<<20))
	}
}

func TestI10RefusedTokensOfOneAddressCostAGrowingWait(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, (*visit).echo)
	g := start(t, plain(i, a.URL).with("limits.refusedPerIP", 3))
	bad := "Authorization: Bearer " + i.token(t, "aud", "others")
	for range 3 {
		g.refused(t, 401, "wrong-audience", "/my-agent/ws", bad)
	}
	for range 3 { // without a token nothing is verified, and nothing counts
		g.refused(t, 401, "no-token", "/my-agent/ws")
	}
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("within the limit")
	g.refused(t, 401, "wrong-audience", "/my-agent/ws", bad)
	r := g.refused(t, 429, "too-many-refused-tokens", "/my-agent/ws", i.bearer(t))
	if r.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", r.Header.Get("Retry-After"))
	}
	g.one(t, 200, plainRequest("GET", "/healthz")) // a probe of the same address
	g.rejected(t, 429, "too-many-refused-tokens", plainRequest("GET", "/my-agent/healthz", bad))
	eventually(t, "the wait is over", func() bool {
		_, r := g.handshake(t, "/my-agent/ws", i.bearer(t))
		return r.StatusCode == 101
	})
}
