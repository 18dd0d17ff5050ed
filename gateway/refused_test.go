package gateway

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

func TestRefusedTokensCostAGrowingWait(t *testing.T) {
	r, now := newRefused(), time.Unix(1e9, 0)
	r.now = func() time.Time { return now }
	one, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:0:1::1")
	same := netip.MustParseAddr("2001:db8::ffff") // of the same /64
	for range 3 {
		r.add(one, 3)
	}
	if w := r.waits(one, 3); w != 0 {
		t.Errorf("waits %s within the limit", w)
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		r.add(same, 3)
		if w := r.waits(one, 3); w != want*time.Second {
			t.Errorf("waits %s, want %ds", w, want)
		}
		if w := r.waits(other, 3); w != 0 {
			t.Errorf("another network waits %s", w)
		}
	}
	now = now.Add(59 * time.Second)
	if w := r.waits(one, 3); w != time.Second {
		t.Errorf("a second before the end: %s", w)
	}
	now = now.Add(time.Second + forgiven + time.Second)
	for range 4 {
		r.add(one, 3)
	}
	if w := r.waits(one, 3); w != time.Second {
		t.Errorf("after a while without refusals: %s", w)
	}
	for n := range 2 * manyAddresses {
		r.add(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 3)
	}
	if n := r.by.Len(); n != manyAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
	off := newRefused()
	for range 100 {
		off.add(one, 0)
	}
	if off.waits(one, 0) != 0 || r.waits(one, 0) != 0 || off.by.Len() != 0 {
		t.Error("an address is remembered although the limit is off")
	}
}

// A page must be able to read why it has to wait, and its preflights bring no token.
func TestPageWhoseTokensWereRefusedReadsThatItHasToWait(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config("agent.invalid")
	c.Limits.RefusedPerIP = 1
	c.Routes[0].AllowedOrigins, c.Routes[0].CORS = []string{"https://app.example.com"}, true
	r := run(t, c)
	ask := func(method string, lines ...string) *http.Response {
		e := r.dial()
		e.Say([]byte(method + " /my-agent/x HTTP/1.1\r\nHost: gateway.test\r\nOrigin: https://app.example.com\r\n" +
			strings.Join(lines, "\r\n") + "\r\n\r\n"))
		return e.Answer()
	}
	const bad = "Authorization: Bearer none"
	wstest.Eventually(t, "429", func() bool { return ask("GET", bad).StatusCode == http.StatusTooManyRequests })
	resp := ask("GET", bad)
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" ||
		!strings.Contains(resp.Header.Get("Access-Control-Expose-Headers"), "Retry-After") {
		t.Errorf("%s with %v", resp.Status, resp.Header)
	}
	if resp := ask("OPTIONS", "Access-Control-Request-Method: GET"); resp.StatusCode != http.StatusNoContent {
		t.Errorf("a preflight: %s", resp.Status)
	}
}
