package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// open returns a configuration of one agent that asks for no token.
func open(agent string) *config.Config {
	c := config.Default()
	c.Listen, c.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0"
	c.Authentication.Enabled = false
	c.Routes = config.Routes{{Path: "/", Upstream: "http://" + agent}}
	return &c
}

// pipes is a listener whose connections are made by dial, without a network, so that time can be
// made to pass.
type pipes chan net.Conn

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	p <- far
	return near, nil
}

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// inTime runs a story with a gateway without authentication, and its agent, in a bubble of time.
// The agent is handed each of its connections, with the head of the request read; client is a
// new connection to the gateway.
func inTime(t *testing.T, agent func(c net.Conn, br *bufio.Reader), story func(t *testing.T, client net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		c := config.Default()
		c.Authentication.Enabled = false
		c.Routes = config.Routes{{Path: "/", Upstream: "http://agent"}}
		g, err := New(&c, Options{})
		if err != nil {
			t.Fatal(err)
		}
		agents, clients := make(pipes), make(pipes)
		fixed := g.fleet.all[waysOf(&c)[0]]
		transport := newKeeper(fixed.dialer, c.Upstream.IdleTimeout, agents.dial)
		fixed.proxy.Transport = transport
		go func() {
			for c := range agents {
				go func() {
					defer c.Close()
					br := bufio.NewReader(c)
					if _, err := http.ReadRequest(br); err == nil {
						agent(c, br)
					}
				}()
			}
		}()
		public := g.publicServer(t.Context())
		go public.Serve(clients)
		client, _ := clients.dial(t.Context(), "", "")
		story(t, client)
		client.Close()
		public.Close()
		transport.CloseIdleConnections()
		close(agents)
		time.Sleep(2 * time.Hour) // until the last one has woken up and gone
	})
}

func TestAnswerThatPausesForLongIsWhole(t *testing.T) {
	inTime(t, func(c net.Conn, _ *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
		time.Sleep(10 * bodyStall)
		io.WriteString(c, "0\r\n\r\n")
	}, func(t *testing.T, client net.Conn) {
		io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != "ab" {
			t.Errorf("got %q, %v", body, err)
		}
	})
}

func TestAgentThatTakesNoByteOfABodyIsGivenUp(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	r := runWith(t, open(listening(t, func(c net.Conn) { <-ended })), Options{stall: time.Second}) // and reads nothing
	defer close(ended)
	client := r.dial()
	go io.CopyN(client, endless{}, 1<<30) // until the gateway hangs up
	if resp := client.Answer(); resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("got %s", resp.Status)
	}
}

func TestClientThatTakesNoByteOfAnAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	r := runWith(t, open(listening(t, func(c net.Conn) {
		defer close(gone)
		floods(c)
	})), Options{stall: time.Second})
	client := r.dial()
	client.Say([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	select {
	case <-gone:
	case <-time.After(wstest.Patience):
		t.Error("the agent still has its connection")
	}
}

// floods answers a request with a body that does not end.
func floods(c net.Conn) {
	http.ReadRequest(bufio.NewReader(c))
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	io.Copy(c, endless{})
}

// endless is a stream of bytes that begins with a request.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	return copy(b, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n"+strings.Repeat("x", 30_000)), nil
}

// throttled reads 30 KB/s.
type throttled struct{ net.Conn }

func (c throttled) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 3000)])
	time.Sleep(time.Duration(n) * time.Second / 30_000)
	return n, err
}

// A peer that takes 30 KB/s lives for as long as it does: no more is taken in that time than a part
// of what would make its socket writable.
func TestSlowButSteadyPeerOfPlainHTTPLives(t *testing.T) {
	const stall, lives = 5 * time.Second, 15 * time.Second
	pair := wstest.KeyPair(t, 1, time.Now().Add(time.Hour))
	slowly := func(c net.Conn) net.Conn {
		c.(*net.TCPConn).SetReadBuffer(16 << 10) // else the window opens in steps that take seconds
		return throttled{c}
	}
	livesOn := func(t *testing.T, r *running) {
		defer r.cut()
		time.Sleep(lives) // what is measured is that nothing happens
		if r.sessions.Len() != 1 {
			t.Errorf("it was given up: %v", r.log)
		}
	}
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("client, TLS %v", secure), func(t *testing.T) {
			t.Parallel()
			c := open(listening(t, floods))
			if secure {
				dir := t.TempDir()
				writePair(t, dir, pair)
				c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			}
			r := runWith(t, c, Options{stall: stall})
			client, err := (&net.Dialer{Control: wstest.Ethernet}).Dial("tcp", r.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			client = slowly(client)
			if secure {
				client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
			}
			io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			go io.Copy(io.Discard, client)
			livesOn(t, r)
		})
		t.Run(fmt.Sprintf("agent, TLS %v", secure), func(t *testing.T) {
			t.Parallel()
			l, err := (&net.ListenConfig{Control: wstest.Ethernet}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			attend(t, l, func(c net.Conn) {
				c = slowly(c)
				if secure {
					c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
				}
				io.Copy(io.Discard, c)
			})
			c := open(l.Addr().String())
			if secure {
				c.Routes[0].Upstream = strings.Replace(c.Routes[0].Upstream, "http:", "https:", 1)
			}
			r := runWith(t, c, Options{stall: stall})
			r.fleet.all[waysOf(c)[0]].dialer.tls.InsecureSkipVerify = true
			client := r.dial()
			client.SetDeadline(time.Time{})
			go io.Copy(client, endless{})
			livesOn(t, r)
		})
	}
}

// A slow reader is not waited for when its exchange has ended: here, with its token.
func TestSlowReaderOfPlainHTTPEndsWithItsSession(t *testing.T) {
	t.Parallel()
	r := runWith(t, open(listening(t, floods)), Options{stall: time.Hour})
	client := r.dial()
	client.Say([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	client.Answer()
	wstest.Eventually(t, "the client takes no more", func() bool {
		before := r.sessions.List()[0].Traffic()
		time.Sleep(50 * time.Millisecond)
		return before.BytesOut > 0 && before == r.sessions.List()[0].Traffic()
	})
	r.sessions.End(func(*session.Session) bool { return true }, outcome.End(outcome.Expired, ""))
	wstest.Eventually(t, "the exchange is over", func() bool { return r.sessions.Len() == 0 })
}

func TestUnwantedBodyIsNotWaitedForForever(t *testing.T) {
	inTime(t, nil, func(t *testing.T, client net.Conn) {
		io.WriteString(client, "TRACE / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
		began := time.Now()
		r, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil || r.StatusCode != http.StatusMethodNotAllowed {
			t.Fatalf("got %v, %v", r, err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("the refusal came after %v", took)
		}
	})
}

// A balancer in front keeps idle connections for 60 s to 75 s. If the gateway closed them first,
// requests would cross the end of their connection.
func TestIdleClientConnectionOutlivesABalancers(t *testing.T) {
	inTime(t, func(c net.Conn, _ *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab")
	}, func(t *testing.T, client net.Conn) {
		br := bufio.NewReader(client)
		for range 2 {
			go io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			r, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, r.Body)
			time.Sleep(80 * time.Second)
		}
	})
}

func TestWordForAnAgentThatGivesNoAnswerToPlainHTTP(t *testing.T) {
	says := func(text string) string {
		return "http://" + listening(t, asked(func(c net.Conn, _ *http.Request) { io.WriteString(c, text) }))
	}
	i := wstest.NewIssuer(t)
	c := i.Config("")
	c.Routes = nil
	want := map[string]outcome.Reason{}
	for name, tt := range map[string]struct {
		upstream string
		want     outcome.Reason
	}{
		"nothing-listens": {"http://127.0.0.1:1", outcome.UpstreamUnreachable},
		"no-name":         {"http://agent.invalid", outcome.UpstreamUnreachable},
		"no-tls":          {"https" + strings.TrimPrefix(says("HTTP/1.1 200 OK\r\n\r\n"), "http"), outcome.UpstreamUnreachable},
		"hangs-up":        {says(""), outcome.UpstreamLost},
		"half-a-head":     {says("HTTP/1.1 200 OK\r\nContent-"), outcome.UpstreamLost},
		"reset": {"http://" + listening(t, asked(func(c net.Conn, _ *http.Request) { c.(*net.TCPConn).SetLinger(0) })),
			outcome.UpstreamLost},
		"no-http":  {says("SSH-2.0-OpenSSH\r\n\r\n"), outcome.UpstreamBadHandshake},
		"two-ends": {says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), outcome.UpstreamBadHandshake},
		"too-long": {says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxAnswerHead)), outcome.UpstreamBadHandshake},
		"switches": {says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), outcome.UpstreamBadHandshake},
	} {
		c.Routes = append(c.Routes, config.Route{Path: "/" + name, Upstream: tt.upstream, Public: true})
		want["/"+name] = tt.want
	}
	r := run(t, c)
	for path, word := range want {
		if code, body := get(t, r.Addr(), path); code != http.StatusBadGateway || !strings.Contains(body, string(word)) {
			t.Errorf("%s: %d %s, want %s", path, code, body, word)
		}
	}
}

// What net/http does by default is to read the rest of a body before it writes an answer: an agent
// that answers as it reads would lose that part of the body, and its client would wait.
func TestAgentThatAnswersBeforeItHasReadTheBodyGetsAllOfIt(t *testing.T) {
	r := run(t, open(listening(t, asked(func(c net.Conn, r *http.Request) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nbegun \r\n")
		n, err := io.Copy(io.Discard, r.Body)
		told := fmt.Sprintf("%d bytes, %v", n, err)
		fmt.Fprintf(c, "%x\r\n%s\r\n0\r\n\r\n", len(told), told)
	}))))
	for name, body := range map[string][2]string{
		"Content-Length: 8":          {"half", "half"},
		"Transfer-Encoding: chunked": {"4\r\nhalf\r\n", "4\r\nhalf\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			e := r.dial()
			e.Say([]byte("POST /x HTTP/1.1\r\nHost: gateway.test\r\n" + name + "\r\n\r\n" + body[0]))
			resp := e.Answer()
			begun := make([]byte, len("begun "))
			if _, err := io.ReadFull(resp.Body, begun); err != nil {
				t.Fatal(err)
			}
			e.Say([]byte(body[1]))
			rest, err := io.ReadAll(resp.Body)
			if string(rest) != "8 bytes, <nil>" || err != nil {
				t.Errorf("got %q, %v", rest, err)
			}
			if !resp.Close {
				t.Error("the connection is kept, and what comes on it may be the rest of a body")
			}
		})
	}
}

func TestAnswerIsWholeForAClientThatPausesItsBody(t *testing.T) {
	inTime(t, func(c net.Conn, _ *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmuch\r\n0\r\n\r\n")
		time.Sleep(time.Hour)
	}, func(t *testing.T, client net.Conn) {
		io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
		began := time.Now()
		r, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		if r.StatusCode != 413 || string(b) != "much" || err != nil || !r.Close {
			t.Errorf("got %s, %q, %v, close %v", r.Status, b, err, r.Close)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestClientThatPausesItsBodyForTooLongIsToldSo(t *testing.T) {
	inTime(t, func(c net.Conn, br *bufio.Reader) {
		io.Copy(io.Discard, br)
	}, func(t *testing.T, client net.Conn) {
		io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
		began := time.Now()
		r, err := http.ReadResponse(bufio.NewReader(client), nil)
		took := time.Since(began)
		if err != nil || r.StatusCode != 499 || !r.Close {
			t.Errorf("got %v, %v", r, err)
		}
		if took > bodyStall+time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestBodyThatBreaksOffWhileTheAgentAnswersIsNotTheAgentsFault(t *testing.T) {
	r := run(t, open(listening(t, asked(func(c net.Conn, r *http.Request) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nbegun \r\n")
		io.Copy(io.Discard, r.Body)
	}))))
	e := r.dial()
	e.Say([]byte("POST /x HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 8\r\n\r\nhalf"))
	e.Answer()
	e.Conn.(*net.TCPConn).CloseWrite()
	wstest.Eventually(t, "a line in the log", func() bool { return len(r.log.lines(t, "answered")) > 0 })
	if l := r.log.lines(t, "answered")[0]; l["reason"] != "auth-disabled" ||
		l["err"] != "the body of the request broke off while the agent answered" {
		t.Errorf("%v", l)
	}
}

// A client of HTTP/1.0 takes the first head for that of the answer (RFC 9110 §15.2).
func TestClientOfHTTP10GetsNoInterimAnswer(t *testing.T) {
	r := run(t, open(listening(t, asked(func(c net.Conn, _ *http.Request) {
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"+
			"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
	}))))
	for version, want := range map[string]int{"1.0": 1, "1.1": 3} {
		e := r.dial()
		e.Say([]byte("GET /x HTTP/" + version + "\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"))
		all, err := io.ReadAll(e.Reader)
		if heads := strings.Count(string(all), "\r\n\r\n"); heads != want || !strings.HasSuffix(string(all), "\r\n\r\nok") || err != nil {
			t.Errorf("HTTP/%s: %q, %v", version, all, err)
		}
	}
}
