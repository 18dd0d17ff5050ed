package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestHeadsOfAnswersAreFoundInPieces(t *testing.T) {
	const body = "\r\n\r\nConnection: not, a, head\r\n\r\n"
	for _, tt := range []struct {
		came string
		want string // the Connection lines of each answer
	}{
		{"HTTP/1.1 200 OK\r\nConnection: close, X-A\r\n\r\n" + body, "[[close, X-A]]"},
		{"HTTP/1.1 200 OK\nconnection: close,\n X-A\nX: y\n\n" + body, "[[close, X-A]]"},
		{"HTTP/1.1 200 OK\r\nConnection: X-A\r\nCONNECTION: close\r\n\r\n" + body, "[[X-A close]]"},
		{"HTTP/1.1 103 Early\r\nConnection: X-A, close\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" +
			"HTTP/1.1 404 No\r\nConnection: X-B\r\n\r\n" + body,
			"[[X-A, close] [] [X-B]]"},
		{"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\n\r\n" + body, "[[Upgrade]]"},
		{"HTTP/1.1 200 OK\r\n\r\n" + body, "[[]]"},
		{"HTTP/1.1 200 OK\r\nX: y\r\n", "[]"},
	} {
		for _, size := range []int{1, 2, 7, 1000} {
			var h heads
			for came := tt.came; came != ""; came = came[min(size, len(came)):] {
				h.Write([]byte(came[:min(size, len(came))]))
			}
			var got [][]string
			for len(h.ready) > 0 {
				to := http.Header{}
				h.restore(to)
				got = append(got, to["Connection"])
			}
			if fmt.Sprint(got) != tt.want {
				t.Errorf("%q in pieces of %d: %v, want %s", tt.came, size, got, tt.want)
			}
		}
	}
}

func TestHeadWithoutAnEndFillsNoMemory(t *testing.T) {
	var h heads
	for range 1000 {
		h.Write([]byte(strings.Repeat("x", 4096)))
	}
	var flood heads
	for range 100_000 {
		flood.Write([]byte("HTTP/1.1 103 Early\r\n\r\n"))
	}
	if len(h.under) > 3*maxAnswerHead || len(flood.ready) > maxInterim+1 {
		t.Errorf("%d bytes, %d heads", len(h.under), len(flood.ready))
	}
}
