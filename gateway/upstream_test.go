package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// listening is a server on loopback that hands each connection to serve, and its address.
func listening(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	attend(t, l, serve)
	return l.Addr().String()
}

// attend hands each connection of l to serve, until the test ends.
func attend(t testing.TB, l net.Listener, serve func(net.Conn)) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// asked hands an agent the request that it was sent.
func asked(serve func(c net.Conn, r *http.Request)) func(net.Conn) {
	return func(c net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			serve(c, r)
		}
	}
}

// offer is a pass for a handshake with further headers, as admit makes it.
func offer(host string, h http.Header) *policy.Pass {
	p := &policy.Pass{Scheme: "http", Addr: host, AgentHost: "public.example.com", Target: "/ws?a=1", Header: http.Header{
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {rawws.Key},
	}}
	for name, values := range h {
		p.Header[name] = values
	}
	return p
}

func TestAgents101IsChecked(t *testing.T) {
	const good = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " +
		"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	offered := http.Header{
		"Sec-Websocket-Protocol":   {"chat, superchat", "v2"},
		"Sec-Websocket-Extensions": {"permessage-deflate; client_max_window_bits, x-other"},
	}
	for _, tt := range []struct {
		name   string
		answer string
		status int // of the answer, if there is one
		detail string
	}{
		{"good", good, 101, ""},
		{"good, in other words", "HTTP/1.1 101 \r\nconnection: keep-alive, UPGRADE\r\nupgrade: WebSocket\r\nsec-websocket-accept: " +
			"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", 101, ""},
		{"interim answers before it", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", maxInterim-1) + good, 101, ""},
		{"too many of them", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInterim) + good, 0, "too many interim answers"},
		{"a protocol that was offered", good + "Sec-WebSocket-Protocol: v2\r\n", 101, ""},
		{"one that was not", good + "Sec-WebSocket-Protocol: v3\r\n", 0, "a subprotocol that was not offered"},
		{"in another case", good + "Sec-WebSocket-Protocol: CHAT\r\n", 0, "a subprotocol that was not offered"},
		{"two protocols", good + "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: v2\r\n", 0, "several subprotocols"},
		{"a list of protocols", good + "Sec-WebSocket-Protocol: chat, v2\r\n", 0, "a subprotocol that was not offered"},
		{"an extension that was offered", good + "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n", 101, ""},
		{"one that was not", good + "Sec-WebSocket-Extensions: x-other, x-third\r\n", 0, "an extension that was not offered"},
		{"no Upgrade", strings.Replace(good, "Upgrade: websocket\r\n", "", 1), 0, "without Upgrade"},
		{"another Upgrade", strings.Replace(good, "websocket", "h2c", 1), 0, "without Upgrade"},
		{"two Upgrades", good + "Upgrade: websocket\r\n", 0, "without Upgrade"},
		{"no Connection", strings.Replace(good, "Connection: Upgrade\r\n", "", 1), 0, "without Connection"},
		{"no accept", strings.Replace(good, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "", 1), 0, "wrong Sec-WebSocket-Accept"},
		{"another accept", strings.Replace(good, "s3pP", "S3PP", 1), 0, "wrong Sec-WebSocket-Accept"},
		{"two accepts", good + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", 0, "wrong Sec-WebSocket-Accept"},
		{"no HTTP", "SSH-2.0-OpenSSH\r\n", 0, "malformed HTTP"},
		{"nothing", "", 0, "malformed HTTP"},
		{"a status that is none", "HTTP/1.1 042 What\r\n", 0, "no status"},
		{"a head without an end", good + "X: " + strings.Repeat("x", maxAnswerHead), 0, "EOF"},
		{"a refusal", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n", 403, ""},
		{"a redirect, which is not followed", "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 2\r\n", 302, ""},
		{"200", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			patient := newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses())
			host := listening(t, asked(func(c net.Conn, _ *http.Request) { io.WriteString(c, tt.answer+"\r\nhi") }))
			a, err := patient.handshake(t.Context(), offer(host, offered))
			if tt.status == 0 {
				refusal := outcome.RefusalOf(err)
				if err == nil || refusal.Reason != outcome.UpstreamBadHandshake || !strings.Contains(refusal.Text(), tt.detail) {
					t.Errorf("got %+v, %v; want %q", a, err, tt.detail)
				}
				return
			}
			if err != nil || a.StatusCode != tt.status {
				t.Fatalf("got %v, %v", a, err)
			}
			defer a.conn.Close()
			var rest []byte
			if tt.status == 101 { // what came with the 101 is there, or still to be read
				rest, err = io.ReadAll(io.MultiReader(strings.NewReader(string(a.rest)), a.conn))
			} else {
				rest, err = io.ReadAll(a.Body)
			}
			if err != nil || string(rest) != "hi" {
				t.Errorf("after the head: %q, %v", rest, err)
			}
		})
	}
}

func TestHandshakeAsTheAgentSeesIt(t *testing.T) {
	got := make(chan *http.Request, 1)
	host := listening(t, asked(func(_ net.Conn, r *http.Request) { got <- r }))
	for _, agent := range []string{"", "wscat"} {
		h := http.Header{"X-User-Id": {"alice"}, "Cookie": {"a=1"}}
		if agent != "" {
			h["User-Agent"] = []string{agent}
		}
		p := offer(host, h)
		newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses()).handshake(t.Context(), p)
		r := <-got
		if r.Method != "GET" || r.RequestURI != "/ws?a=1" || r.Host != "public.example.com" || r.Proto != "HTTP/1.1" ||
			r.ContentLength != 0 {
			t.Errorf("%s %s %s, host %s, length %d", r.Method, r.RequestURI, r.Proto, r.Host, r.ContentLength)
		}
		want := http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {rawws.Key},
			"X-User-Id": {"alice"}, "Cookie": {"a=1"},
		}
		if agent != "" {
			want["User-Agent"] = []string{agent}
		}
		if len(r.Header) != len(want) {
			t.Errorf("got %v", r.Header)
		}
		for name, values := range want {
			if strings.Join(r.Header[name], "|") != strings.Join(values, "|") {
				t.Errorf("%s: got %q", name, r.Header[name])
			}
		}
		if len(p.Header["Upgrade"]) > 0 {
			t.Error("the pass was changed")
		}
	}
}

func TestAgentThatCannotBeReached(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	silent := listening(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	reset := listening(t, asked(func(c net.Conn, _ *http.Request) { c.(*net.TCPConn).SetLinger(0) }))
	gone, leave := context.WithCancel(t.Context())
	waiting := listening(t, asked(func(c net.Conn, _ *http.Request) {
		leave()
		io.Copy(io.Discard, c)
	}))
	patient := newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses())
	short := newDialer(100*time.Millisecond, wstest.Patience, nil, &tls.Config{}, newDeadAddresses())
	for _, tt := range []struct {
		name   string
		ctx    context.Context
		dialer *dialer
		scheme string
		host   string
		want   outcome.Reason
	}{
		{"nothing listens", t.Context(), patient, "http", closed, outcome.UpstreamUnreachable},
		{"a name that does not exist", t.Context(), patient, "http", "agent.invalid:80",
			outcome.UpstreamUnreachable},
		{"it never answers", t.Context(), short, "http", silent, outcome.UpstreamTimeout},
		{"it never answers the TLS handshake", t.Context(), short, "https", silent, outcome.UpstreamTimeout},
		{"it hangs up", t.Context(), patient, "http", reset, outcome.UpstreamBadHandshake},
		{"it does not speak TLS", t.Context(), patient, "https", reset, outcome.UpstreamUnreachable},
		{"the client goes away", gone, patient, "http", waiting, outcome.ClientLost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := offer(tt.host, nil)
			p.Scheme = tt.scheme
			a, err := tt.dialer.handshake(tt.ctx, p)
			if err == nil || outcome.RefusalOf(err).Reason != tt.want {
				t.Errorf("got %v, %v; want %s", a, err, tt.want)
			}
		})
	}
}

func TestAgentsCertificateIsVerified(t *testing.T) {
	pair := wstest.KeyPair(t, 1, time.Now().Add(time.Hour))
	host := listening(t, func(c net.Conn) { tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}}).Handshake() })
	p := offer(host, nil)
	p.Scheme = "https"
	_, err := newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses()).handshake(t.Context(), p)
	if err == nil || outcome.RefusalOf(err).Reason != outcome.UpstreamUnreachable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
}
