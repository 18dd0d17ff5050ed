package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

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
	inTime(t, func(c net.Conn, _ *bufio.Reader) {
		time.Sleep(time.Hour) // and reads nothing
	}, func(t *testing.T, client net.Conn) {
		began := time.Now()
		go io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1_000_000))
		r, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.StatusCode != http.StatusGatewayTimeout || time.Since(began) > 2*bodyStall {
			t.Errorf("got %s after %v", r.Status, time.Since(began))
		}
	})
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
