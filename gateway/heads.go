package gateway

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"

	"github.com/altairalabs/omnia-gateway/gateway/policy"
)

// heads remembers the heads of an agent's answers as they come, for what net/http forgets of them:
// of Connection lines of which one says close, which other headers end at the gateway (RFC 9110
// §7.6.1).
type heads struct {
	under []byte   // the one that is not complete yet
	ready [][]byte // those that are, and were not asked for
	over  bool     // the final one is complete: what follows is its body
}

// Write takes the next bytes that came.
func (h *heads) Write(b []byte) (int, error) {
	came := len(b)
	for !h.over && len(b) > 0 {
		n := bytes.IndexByte(b, '\n') + 1
		if n == 0 {
			n = len(b)
		}
		h.under = append(h.under, b[:n]...)
		b = b[n:]
		if bytes.HasSuffix(h.under, []byte("\n\r\n")) || bytes.HasSuffix(h.under, []byte("\n\n")) {
			h.over = !interim(h.under)
			h.ready, h.under = append(h.ready, h.under), nil
		}
		h.over = h.over || len(h.under) > 2*maxAnswerHead || len(h.ready) > maxInterim // net/http has given up by then
	}
	return came, nil
}

// interim reports whether more heads follow one.
func interim(head []byte) bool {
	_, rest, _ := bytes.Cut(head, []byte(" "))
	return bytes.HasPrefix(rest, []byte("1")) && !bytes.HasPrefix(rest, []byte("101"))
}

// restore puts the Connection lines back into the headers of the next answer.
func (h *heads) restore(to http.Header) {
	if len(h.ready) > 0 {
		connectionOf(h.ready[0], to)
		h.ready = h.ready[1:]
	}
}

// restoreLast is restore for the last answer.
func (h *heads) restoreLast(to http.Header) {
	if len(h.ready) > 0 {
		connectionOf(h.ready[len(h.ready)-1], to)
	}
}

// connectionOf adds the Connection lines of a head to headers that have none.
func connectionOf(head []byte, to http.Header) {
	if len(to["Connection"]) > 0 {
		return
	}
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(head)))
	r.ReadLine()
	if all, err := r.ReadMIMEHeader(); err == nil && len(all["Connection"]) > 0 {
		to["Connection"] = all["Connection"]
	}
}

// withoutTrailers keeps from an answer's trailers, which are there when its body has ended, what
// ends at the gateway.
func withoutTrailers(resp *http.Response) {
	t := &trailed{resp.Body, resp, resp.Header["Connection"]}
	t.filter()
	resp.Body = t
}

// trailed is the body of an answer with trailers.
type trailed struct {
	io.ReadCloser
	answer     *http.Response
	connection []string // the Connection lines of its head
}

func (t *trailed) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err == io.EOF {
		t.filter()
	}
	return n, err
}

func (t *trailed) filter() {
	if len(t.answer.Trailer) > 0 {
		t.answer.Trailer = policy.EndToEnd(t.answer.Trailer, t.connection...)
	}
}
