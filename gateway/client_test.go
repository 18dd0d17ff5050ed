package gateway

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// found returns what lines finds in a text that comes in pieces of n bytes.
func found(text []byte, n int) (lengths, odd int) {
	var l lines
	for len(text) > 0 {
		n := min(n, len(text))
		l.read(text[:n])
		text = text[n:]
	}
	return l.lengths, l.odd
}

func TestLinesAboutTheLengthOfABodyAreFound(t *testing.T) {
	for _, tt := range []struct {
		text         string
		lengths, odd int
	}{
		{"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 0, 0},
		{"POST /x HTTP/1.1\r\ntransfer-encoding:chunked\r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 1, 0},
		{"POST /x HTTP/1.1\r\ncontent-LENGTH:5\r\nTransfer-Encoding: chunked\r\n\r\n", 1, 0},
		{"POST /x HTTP/1.1\nContent-Length: 5\n\n", 1, 0},
		{"POST /x HTTP/1.1\r\nX: a\r\n Content-Length: 5\r\n\r\n", 1, 0},
		{"POST /x HTTP/1.1\r\nX: a\r\n\tTransfer-Encoding: chunked\r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encoding:\tchunked\r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked \r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 0, 1},
		{"POST /x HTTP/1.1\r\nTransfer-Encodings: x\r\n\r\n", 0, 1}, // better one too many
		{"POST /x HTTP/1.1\r\nX-Content-Length: 5\r\nContent-Type: a\r\nTransfer: b\r\nTE: trailers\r\n\r\n", 0, 0},
		{"a Content-Length: 5", 0, 0},
		{"Transfer-Encoding", 0, 0}, // not a whole line yet
		{strings.Repeat("\r\nContent-Length: 5", 3), 3, 0},
	} {
		for n := 1; n <= len(tt.text); n += 1 + n/2 {
			if lengths, odd := found([]byte(tt.text), n); lengths != tt.lengths || odd != tt.odd {
				t.Errorf("%q in pieces of %d: %d lengths and %d odd, want %d and %d", tt.text, n, lengths, odd, tt.lengths, tt.odd)
			}
		}
	}
}

// No head that net/http takes may have a Content-Length or a Transfer-Encoding that lines does not
// find, however its bytes arrive.
func FuzzLines(f *testing.F) {
	for _, seed := range []string{
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		"POST / HTTP/1.1\nHost: a\ncontent-length:5\n\n", "POST / HTTP/1.1\r\nX: a\r\n Content-Length: 5\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", "\r\n\r\nGET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, text []byte, n int) {
		lengths, odd := found(text, len(text))
		if n > 0 {
			if l, o := found(text, n); l != lengths || o != odd {
				t.Fatalf("in pieces of %d: %d and %d; at once %d and %d", n, l, o, lengths, odd)
			}
		}
		r := textproto.NewReader(bufio.NewReader(bytes.NewReader(text)))
		if _, err := r.ReadLine(); err != nil {
			return
		}
		h, err := r.ReadMIMEHeader()
		if err != nil {
			return
		}
		if want := len(h["Content-Length"]); lengths < want {
			t.Errorf("%q: %d lines of %d were found", text, lengths, want)
		}
		for _, value := range h["Transfer-Encoding"] {
			if value != "chunked" && odd == 0 {
				t.Errorf("%q: %q was not found", text, value)
			}
		}
	})
}

// ask sends requests one after the other over c for as long as it is kept, and returns how many
// were answered.
func ask(t *testing.T, c net.Conn, requests ...string) (answered int) {
	t.Helper()
	br := bufio.NewReader(c)
	for _, text := range requests {
		io.WriteString(c, text)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return answered
		}
		io.Copy(io.Discard, resp.Body)
		answered++
		if resp.Close {
			if b, err := br.ReadByte(); err == nil {
				t.Errorf("%q after the last answer", b)
			}
			return answered
		}
	}
	return answered
}

func TestConnectionIsKeptAfterAChunkedRequestWhereTheFramingIsClear(t *testing.T) {
	i := wstest.NewIssuer(t)
	agent := listening(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	plain := run(t, i.Config(agent))
	c := i.Config(agent)
	dir := t.TempDir()
	root := issue(t, "root", nil, nil)
	writeEntity(t, dir, "tls", named(t, "gateway", root))
	c.TLS = pairIn(dir)
	secure := run(t, c)
	token := i.Token()
	request := func(body string, lines ...string) string {
		return strings.Join(append([]string{"POST /my-agent/x HTTP/1.1", "Host: gateway.test", "Authorization: Bearer " + token},
			lines...), "\r\n") + "\r\n\r\n" + body
	}
	const te = "Transfer-Encoding: chunked"
	chunked := request("3\r\nabc\r\n0\r\n\r\n", te)
	sized := request("abc", "Content-Length: 3")
	for _, tt := range []struct {
		name     string
		requests []string
		want     int
	}{
		{"chunked", []string{chunked, chunked, sized, chunked, chunked}, 5},
		{"refused", []string{strings.Replace(chunked, "Bearer", "Basic", 1), chunked, chunked}, 3},
		{"with extensions of chunks and a trailer", []string{request("3;a=b\r\nabc\r\n0;c\r\nX: y\r\n\r\n", te), chunked}, 2},
		{"with a length", []string{chunked, request("0\r\n\r\n", te, "Content-Length: 5"), chunked}, 2},
		{"with a length first", []string{chunked, request("0\r\n\r\n", "Content-Length: 5", te), chunked}, 2},
		{"with a length of 0", []string{sized, request("0\r\n\r\n", "content-length:0", te), chunked}, 2},
		{"with a folded length", []string{request("0\r\n\r\n", "X: a", " Content-Length: 5", te), chunked}, 1},
		{"folded", []string{request("0\r\n\r\n", "Transfer-Encoding:", " chunked"), chunked}, 1},
		{"in other letters", []string{request("0\r\n\r\n", "Transfer-Encoding: CHUNKED"), chunked}, 1},
		{"after a tab", []string{request("0\r\n\r\n", "Transfer-Encoding:\tchunked"), chunked}, 1},
		{"with a bare end of its line", []string{request("0\r\n\r\n", te+"\nX: y"), chunked}, 1},
		{"a body that looks like a length", []string{request("13\r\n\r\nContent-Length: 5\r\n0\r\n\r\n", te), chunked}, 1},
		{"a length in the trailer", []string{request("0\r\nContent-Length: 5\r\n\r\n", te), chunked, chunked}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n := ask(t, plain.dial(), tt.requests...); n != tt.want && (tt.name != "a length in the trailer" || n != 1) {
				t.Errorf("%d answers, want %d", n, tt.want)
			}
			over := tls.Client(secure.dial().Conn, &tls.Config{InsecureSkipVerify: true})
			if n := ask(t, over, tt.requests...); n != tt.want && (tt.name != "a length in the trailer" || n != 1) {
				t.Errorf("%d answers over TLS, want %d", n, tt.want)
			}
		})
	}
}

func TestPlainRequestToATLSListenerIsTold(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	dir := t.TempDir()
	writeEntity(t, dir, "tls", issue(t, "gateway", nil, nil))
	c.TLS = pairIn(dir)
	r := run(t, c)
	for text, want := range map[string]string{
		rawws.Request("gateway.test", "/my-agent/ws"): "HTTP request to an HTTPS server",
		"\x00\x01\x02\x03\x04\x05":                    "",
	} {
		e := r.dial()
		e.Say([]byte(text))
		b, _ := io.ReadAll(e)
		if got := string(b); !strings.Contains(got, want) || want == "" && strings.Contains(got, "HTTP") {
			t.Errorf("%.20q: %q", text, got)
		}
	}
}
