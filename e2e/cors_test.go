package e2e

import (
	"io"
	"net/http"
	"testing"
)

// A page of a listed origin can read every answer, a refusal too, and its preflights are answered
// without a token; no preflight reaches the agent.
func TestPageOfAListedOriginReadsEveryAnswer(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok")
	})
	r := route("/my-agent", a.URL)
	r["allowedOrigins"] = []string{"https://app.example.com", "https://*.preview.example.com"}
	off := route("/own", a.URL)
	off["allowedOrigins"], off["cors"] = []string{"https://app.example.com"}, false
	g := start(t, plain(i, a.URL).with("routes", []any{r, off}))
	const origin = "Origin: https://pr-7.preview.example.com"
	readable := func(h http.Header) {
		t.Helper()
		got := h["Access-Control-Allow-Origin"]
		if len(got) != 1 || got[0] != "https://pr-7.preview.example.com" || h.Get("Vary") != "Origin" ||
			h.Get("Access-Control-Expose-Headers") != "WWW-Authenticate, Retry-After, X-Gateway-Session, Mcp-Session-Id" {
			t.Errorf("a page cannot read an answer with %v", h)
		}
	}
	asks := []string{origin, "Access-Control-Request-Method: DELETE", "Access-Control-Request-Headers: authorization"}
	preflight := g.one(t, 204, plainRequest("OPTIONS", "/my-agent/x", asks...))
	h := preflight.Header
	if h.Get("Access-Control-Allow-Methods") != "DELETE" || h.Get("Access-Control-Allow-Headers") != "authorization" ||
		h.Get("Access-Control-Allow-Origin") != "https://pr-7.preview.example.com" || h.Get("Access-Control-Max-Age") == "" ||
		h.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("the preflight was answered with %v", h)
	}
	readable(g.rejected(t, 401, "no-token", plainRequest("GET", "/my-agent/x", origin)).Header)
	a.untouched(t)
	readable(g.one(t, 200, plainRequest("GET", "/my-agent/x", origin, i.bearer(t))).Header)
	a.request(t)

	asks[0] = "Origin: https://evil.example"
	h = g.rejected(t, 403, "bad-origin", plainRequest("OPTIONS", "/my-agent/x", asks...)).Header
	if h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a page of another origin can read %v", h)
	}
	asks[0] = "Origin: https://app.example.com"
	g.rejected(t, 401, "no-token", plainRequest("OPTIONS", "/own/x", asks...))
	a.untouched(t)
}
