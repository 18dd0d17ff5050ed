package e2e

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapters A and B, as far as the wire matters; the rest of them is in package auth.

// An agent, and a client, that sit in the middle of a frame when the token expires must not keep
// the session by that.
func TestA19UnfinishedFramesDoNotOutliveTheToken(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		v.accept()
		v.Write([]byte{rawws.Fin | rawws.Binary, 127, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 'x'})
		io.Copy(io.Discard, v.br)
	})
	g := start(t, plain(i, a.URL).with("authentication.jwt.clockSkew", "0s"))
	gone := g.leftovers()
	s := g.connect(t, "/my-agent/ws", i.bearer(t, "exp", inSeconds(0.7)))
	s.say(string([]byte{rawws.Fin | rawws.Binary, 0x80 | 127, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 1, 2, 3, 4, 'x'}))
	s.hungUp()
	g.awaitLine("msg", "ended", "reason", "expired", "code", 3000)
	gone()
}

func TestA19StreamOfPlainHTTPEndsWithItsToken(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		if v.r.URL.Path == "/events" {
			io.WriteString(v, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
		}
		io.Copy(io.Discard, v.br) // and nothing more, for ever
	})
	g := start(t, plain(i, a.URL).with("authentication.jwt.clockSkew", "0s"))
	gone := g.leftovers()
	bearer := i.bearer(t, "exp", inSeconds(0.7))
	s := g.dial(t)
	s.say(plainRequest("GET", "/my-agent/events", bearer))
	r, err := http.ReadResponse(s.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(r.Body); err == nil || string(body) != "data: 1\n\n" {
		t.Errorf("the stream ended with %v after %q", err, body)
	}
	g.awaitLine("msg", "answered", "reason", "ok", "status", 200, "err", "the answer was cut: expired")

	g.rejected(t, 401, "expired", plainRequest("GET", "/my-agent/silent", i.bearer(t, "exp", inSeconds(0.7))))
	gone()
}

func TestA19ExpiryFarAwayIsNoOverflow(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL))
	for _, exp := range []any{1e11, 1795439007000, 1e15, 1e18} {
		g.connect(t, "/my-agent/ws", i.bearer(t, "exp", exp)).echoes("still here")
	}
	for _, exp := range []any{0, 1, -1, 1e19, 1e308} {
		_, r := g.handshake(t, "/my-agent/ws", i.bearer(t, "exp", exp))
		if r.StatusCode != 401 {
			t.Errorf("exp %v: %s", exp, r.Status)
		}
	}
}

func TestA21HugeTokensAreRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	for _, n := range []int{20_000, 31_000} {
		g.refused(t, 401, "malformed", "/my-agent/ws", "Authorization: Bearer "+strings.Repeat("a", n-2)+"..")
		g.refused(t, 401, "malformed", "/my-agent/ws", "Authorization: Bearer "+strings.Repeat(".", n))
		g.refused(t, 401, "malformed", "/my-agent/ws?access_token="+strings.Repeat("%2e", n/3))
	}
	g.one(t, 431, rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+strings.Repeat("a", 1<<20)))
	g.one(t, 431, rawws.Request("gateway.test", "/my-agent/ws?access_token="+strings.Repeat("a", 1<<20)))
	a.untouched(t)
}

func TestA24SeveralCredentialsAreNone(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL).withCookie("session").with("authentication.authorization.excludePaths", []string{"/open"}))
	one, other := i.token(t), i.token(t, "sub", "bob")
	for _, tt := range []struct {
		query string
		lines []string
	}{
		{"", []string{"Authorization: Bearer " + one, "Authorization: Bearer " + one}},
		{"", []string{"Authorization: Bearer " + one, "authorization: Basic YTpi"}},
		{"", []string{"Authorization: Bearer " + one, "Sec-WebSocket-Protocol: bearer, " + other}},
		{"", []string{"Authorization: Bearer " + one, "Cookie: session=" + other}},
		{"", []string{"Cookie: session=" + one, "Cookie: session=" + other}},
		{"", []string{"Cookie: session=" + one + "; session=\"" + one + "\""}},
		{"", []string{"Sec-WebSocket-Protocol: bearer, " + one + ", bearer, " + other}},
		{"?access_token=" + one, []string{"Authorization: Bearer " + other}},
		{"?access_token=" + one + "&access_token=" + one, []string{"X-No: more"}},
		{"?access_token=x", []string{"Authorization: Bearer " + one}},
	} {
		for _, target := range []string{"/my-agent/ws", "/my-agent/open"} {
			g.refused(t, 401, "multiple-credentials", target+tt.query, tt.lines...)
		}
	}
	for _, value := range []string{one + ", Bearer " + one, one + "," + other, one + " " + one, "\"" + one + "\"", one + ";x", "=" + one,
		one + "="} {
		g.refused(t, 401, "malformed", "/my-agent/ws", "Authorization: Bearer "+value)
		g.refused(t, 401, "malformed", "/my-agent/open", "Authorization: Bearer "+value)
	}
	for _, value := range []string{"\"" + one + "\"", one + ",x"} {
		g.refused(t, 401, "malformed", "/my-agent/ws", "Cookie: session="+value)
	}
	a.untouched(t)
}

// All refusals of a token look alike, but for their word.
func TestA25RefusalsNameTheirReasonAndNothingElse(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL).with("authentication.authorization.requiredClaims",
		[]any{settings{"claim": "roles", "values": []string{"user"}}}))
	good := i.token(t)
	unknown, err := newSigner(t).Sign(i.claims())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		token, reason string
		status        int
		challenge     string
	}{
		{"", "no-token", 401, ""},
		{"x", "malformed", 401, "invalid_token"},
		{good[:len(good)-8] + "AAAAAAAA", "bad-signature", 401, "invalid_token"},
		{unknown, "unknown-key", 401, "invalid_token"},
		{i.token(t, "exp", 1), "expired", 401, "invalid_token"},
		{i.token(t, "nbf", inSeconds(600)), "not-yet-valid", 401, "invalid_token"},
		{i.token(t, "iss", "https://else.example"), "wrong-issuer", 401, "invalid_token"},
		{i.token(t, "aud", "else"), "wrong-audience", 401, "invalid_token"},
		{i.token(t, "roles", "none"), "claim-mismatch", 403, "insufficient_scope"},
		{i.token(t, "sub", ""), "no-principal", 403, ""},
	} {
		line := "X-No: token"
		if tt.token != "" {
			line = "Authorization: Bearer " + tt.token
		}
		r := g.one(t, tt.status, plainRequest("GET", "/my-agent/secret-path?secret=query", line))
		want := map[int]string{401: `Bearer realm="omnia-gateway"`, 403: ""}[tt.status]
		if tt.challenge != "" {
			want = `Bearer realm="omnia-gateway", error="` + tt.challenge + `", error_description="` + tt.reason + `"`
		}
		if got := r.Header.Get("WWW-Authenticate"); got != want {
			t.Errorf("%s: WWW-Authenticate: %s, want %s", tt.reason, got, want)
		}
		body := fmt.Sprintf(`{"status":%d,"title":"%s","reason":"%s"}`, tt.status, http.StatusText(tt.status), tt.reason)
		if want := body + "\n"; r.body != want {
			t.Errorf("body %q, want %q", r.body, want)
		}
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(r.Header)), func(s string) bool { return s == "Www-Authenticate" })
		if want := []string{"Cache-Control", "Content-Length", "Content-Type", "Date"}; !slices.Equal(names, want) {
			t.Errorf("%s: headers %v, want %v", tt.reason, names, want)
		}
	}
	a.untouched(t)
}

// Ten thousand different valid tokens leave little in the memory of the process: large ones are not
// remembered, and of those that are a few MB stay. The bound is on what the system counts, with the
// room that a collector needs for its work.
func TestA28TenThousandLargeTokensLeaveNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	const tokens, most = 10_000, 32 << 20
	i := newIssuer(t)
	a := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer a.Close()
	g := start(t, plain(i, a.URL))
	clients := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer clients.CloseIdleConnections()
	var sent atomic.Int64
	all := func(n int, size func() int) {
		var wg sync.WaitGroup
		work := make(chan int)
		for range 4 {
			wg.Go(func() {
				for range work {
					r, _ := http.NewRequest("GET", "http://"+g.public+"/my-agent/x", nil)
					r.Header.Set("Authorization", i.bearer(t, "sub", fmt.Sprint("user-", sent.Add(1)),
						"groups", strings.Split(strings.Repeat("group,", size()/9), ","))[len("Authorization: "):])
					resp, err := clients.Do(r)
					if err != nil {
						t.Error(err)
						continue
					}
					resp.Body.Close()
					if resp.StatusCode != 200 {
						t.Errorf("got %s", resp.Status)
					}
				}
			})
		}
		for range n {
			work <- 0
		}
		close(work)
		wg.Wait()
	}
	all(100, func() int { return 100 }) // connections, and what is made once
	before := g.metric("process_resident_memory_bytes")
	all(tokens, func() int { return 8<<10 + rand.IntN(3<<10) })
	large := g.metric("process_resident_memory_bytes")
	all(tokens/2, func() int { return 4<<10 + rand.IntN(1<<10) })
	small := g.metric("process_resident_memory_bytes")
	count, held := g.metric("omnia_gateway_remembered_tokens"), g.metric("omnia_gateway_remembered_tokens_bytes")
	t.Logf("%.1f MB at first, %.1f after the large ones, %.1f after small ones, of which %.0f are remembered in %.1f MB",
		before/1e6, large/1e6, small/1e6, count, held/1e6)
	if large-before > most || small-before > most {
		t.Errorf("it has grown by %.1f MB, and %.1f MB", (large-before)/(1<<20), (small-before)/(1<<20))
	}
	if count < 500 || held < 4<<20 || held > 8<<20 {
		t.Errorf("%.0f tokens are remembered, in %.0f bytes", count, held)
	}
}
