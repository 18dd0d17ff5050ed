package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// renewal is the answer to a renewal.
type renewal struct {
	*http.Response `json:"-"`
	text           string
	Reason         outcome.Reason
	Sessions       []struct {
		Session, Route string
		Expires        *time.Time
		Reason         outcome.Reason
	}
}

// renews asks for a renewal. The token may be "", and the target may have a query.
func (r *running) renews(token, query string, lines ...string) (answer renewal) {
	r.t.Helper()
	if token != "" {
		lines = append(lines, "Authorization: Bearer "+token)
	}
	return r.asks("POST", query, lines...)
}

// asks sends a request without a body for the path of renewals.
func (r *running) asks(method, query string, lines ...string) (answer renewal) {
	r.t.Helper()
	e := r.dial()
	e.Say([]byte(method + " /.gateway/renew" + query + " HTTP/1.1\r\nHost: gateway.test\r\n" + strings.Join(append(lines, "\r\n"), "\r\n")))
	answer.Response = e.Answer()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	answer.text = string(text)
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			r.t.Fatalf("%s: %v", text, err)
		}
	}
	return answer
}

// opens opens a session and returns its id too.
func (r *running) opens(target string, lines ...string) (*wstest.Peer, string) {
	r.t.Helper()
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", target, lines...)))
	resp := e.Answer()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		r.t.Fatalf("got %s", resp.Status)
	}
	return e, resp.Header.Get("X-Gateway-Session")
}

// live returns the session with an id.
func (r *running) live(id string) *session.Session {
	r.t.Helper()
	all := r.sessions.List()
	n := slices.IndexFunc(all, func(s *session.Session) bool { return s.ID == id })
	if n < 0 {
		r.t.Fatalf("session %s is not live", id)
	}
	return all[n]
}

// routes gives c more routes to its one agent, each with its origins.
func routes(c *config.Config, origins map[string][]string) {
	for path, allowed := range origins {
		route := c.Routes[0]
		route.Path, route.AllowedOrigins = path, allowed
		c.Routes = append(c.Routes, route)
	}
}

// in returns the NumericDate so long from now.
func in(d time.Duration) int64 { return time.Now().Add(d).Unix() }

func TestRenewalExtendsTheCallersSessionsAndNoOthers(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Session.ExpiryGrace = 5 * time.Second
	r := run(t, c)
	bearer := func(pairs ...any) string { return "Authorization: Bearer " + i.Token(pairs...) }
	soon := in(time.Minute)
	_, one := r.opens("/my-agent/ws", bearer("exp", soon))
	_, two := r.opens("/my-agent/ws", bearer("exp", soon))
	_, other := r.opens("/my-agent/ws", bearer("exp", soon, "sub", "bob"))
	until := func(exp int64) time.Time {
		return time.Unix(exp, 0).Add(c.Authentication.JWT.ClockSkew + c.Session.ExpiryGrace)
	}

	later := in(time.Hour)
	a := r.renews(i.Token("exp", later), "")
	if a.StatusCode != 200 || len(a.Sessions) != 2 || a.Sessions[0].Session != one || a.Sessions[1].Session != two {
		t.Fatalf("%s %s", a.Status, a.text)
	}
	for _, s := range a.Sessions {
		if s.Route != "/my-agent" || s.Reason != "" || !s.Expires.Equal(until(later)) {
			t.Errorf("%+v, want %s", s, until(later))
		}
	}
	for id, exp := range map[string]int64{one: later, two: later, other: soon} {
		if got := r.live(id).Deadline(); !got.Equal(until(exp)) {
			t.Errorf("%s lives until %s, want %s", id, got, until(exp))
		}
	}
	if h := a.Header; h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "application/json" {
		t.Errorf("%v", h)
	}

	// one of them
	latest := in(2 * time.Hour)
	if a := r.renews(i.Token("exp", latest), "?session="+two); a.StatusCode != 200 || len(a.Sessions) != 1 || a.Sessions[0].Session != two {
		t.Errorf("%s %s", a.Status, a.text)
	}
	if got := r.live(one).Deadline(); !got.Equal(until(later)) {
		t.Errorf("the other one lives until %s", got)
	}

	// an expiry never becomes earlier, and the answer tells the one that counts
	a = r.renews(i.Token("exp", soon), "")
	if a.StatusCode != 200 || !a.Sessions[0].Expires.Equal(until(later)) || !a.Sessions[1].Expires.Equal(until(latest)) {
		t.Errorf("%s %s", a.Status, a.text)
	}

	lines := r.log.lines(t, "answered")
	if len(lines) != 3 || lines[0]["reason"] != "renewal" || lines[0]["subject"] != "alice" || lines[0]["renewed"] != 2.0 ||
		lines[1]["session"] != two {
		t.Errorf("%v", lines)
	}
	if _, text := get(t, r.AdminAddr(), "/metrics"); !strings.Contains(text, `omnia_gateway_renewals_total{outcome="renewal"} 5`) {
		t.Error("no metric of the renewals")
	}
}

func TestRenewalOfNoSessionOfTheCaller(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	_, id := r.opens("/my-agent/ws", "Authorization: Bearer "+i.Token())
	var bodies []string
	for name, query := range map[string]string{
		"foreign": "?session=" + id, "unknown": "?session=" + session.NewID(), "empty": "?session=", "not decodable": "?session=%zz",
		"two": "?session=" + id + "&session=" + id, "none at all": "",
	} {
		a := r.renews(i.Token("sub", "bob"), query)
		if a.StatusCode != http.StatusNotFound || a.Reason != outcome.NoSession {
			t.Errorf("%s: %s %s", name, a.Status, a.text)
		}
		bodies = append(bodies, a.text)
	}
	if slices.Sort(bodies); bodies[0] != bodies[len(bodies)-1] {
		t.Errorf("the answers differ: %q", bodies)
	}
	if a := r.renews(i.Token(), "?session=%zz"); a.StatusCode != http.StatusNotFound {
		t.Errorf("a query that names one session in no readable way: %s %s", a.Status, a.text)
	}
}

func TestRenewalTakesItsTokenFromAuthorizationAlone(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Authentication.JWT.FromHeaders = config.HeaderSources{{Name: "X-Token"}}
	c.Authentication.JWT.FromCookies = []string{"token"}
	c.Routes[0].AllowedOrigins = []string{"*"}
	r := run(t, c)
	token := i.Token()
	r.opens("/my-agent/ws", "X-Token: "+token)
	for name, lines := range map[string][]string{
		"a configured header": {"X-Token: " + token},
		"a cookie":            {"Cookie: token=" + token},
		"another scheme":      {"Authorization: Basic " + token},
		"no token":            nil,
	} {
		if a := r.asks("POST", "", lines...); a.StatusCode != 401 || a.Reason != outcome.NoToken || a.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %s %s", name, a.Status, a.text)
		}
	}
	if a := r.renews("", "?access_token="+token); a.Reason != outcome.NoToken {
		t.Errorf("the query: %s %s", a.Status, a.text)
	}
	if a := r.renews(token, "", "Authorization: Bearer "+token); a.StatusCode != 401 || a.Reason != outcome.MultipleCredentials {
		t.Errorf("two lines: %s %s", a.Status, a.text)
	}
	if a := r.renews(i.Token("exp", 1), ""); a.StatusCode != 401 || a.Reason != outcome.Expired {
		t.Errorf("expired: %s %s", a.Status, a.text)
	}
	if a := r.renews(i.Token("sub", ""), ""); a.StatusCode != 403 || a.Reason != outcome.NoPrincipal {
		t.Errorf("no subject: %s %s", a.Status, a.text)
	}
	if a := r.renews(token, "", "Cookie: token=junk", "X-Token: junk"); a.StatusCode != 200 {
		t.Errorf("junk in places that do not count: %s %s", a.Status, a.text)
	}
}

func TestRenewalPassesTheRulesOfEachSessionAgain(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	routes(c, map[string][]string{"/admin": nil, "/open": nil})
	c.Routes[1].RequiredClaims = nil
	for n := range c.Routes {
		switch c.Routes[n].Path {
		case "/admin":
			c.Routes[n].RequiredClaims = config.RequiredClaims{{Claim: "roles", Values: []config.ClaimValue{"admin"}}}
		case "/open":
			c.Routes[n].Public = true
		}
	}
	r := run(t, c)
	bearer := "Authorization: Bearer " + i.Token("roles", []string{"admin"})
	_, normal := r.opens("/my-agent/ws", bearer)
	_, admin := r.opens("/admin/ws", bearer)
	r.opens("/open/ws") // of no caller
	before := r.live(admin).Deadline()

	a := r.renews(i.Token("exp", in(5*time.Hour), "roles", []string{"user"}), "")
	if a.StatusCode != 200 || len(a.Sessions) != 2 {
		t.Fatalf("%s %s", a.Status, a.text)
	}
	if s := a.Sessions[0]; s.Session != normal || s.Reason != "" {
		t.Errorf("%+v", s)
	}
	if s := a.Sessions[1]; s.Session != admin || s.Reason != outcome.ClaimMismatch || s.Expires != nil {
		t.Errorf("%+v", s)
	}
	if got := r.live(admin).Deadline(); !got.Equal(before) {
		t.Errorf("the session that was refused lives until %s, before %s", got, before)
	}
	a = r.renews(i.Token("roles", []string{"user"}), "?session="+admin)
	if a.StatusCode != 403 || a.Reason != outcome.ClaimMismatch || len(a.Sessions) != 1 || a.Sessions[0].Reason != outcome.ClaimMismatch ||
		a.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s %s", a.Status, a.text)
	}
	if lines := r.log.lines(t, "refused"); len(lines) != 1 || lines[0]["reason"] != "claim-mismatch" || lines[0]["not_renewed"] != 1.0 {
		t.Errorf("%v", lines)
	}
}

// A renewed session is judged by the claims of the token that renewed it, and a reload sees them.
func TestRenewedSessionIsJudgedByItsNewClaims(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Session.ReloadSpread = 0
	r := fromFile(t, c)
	promoted, _ := r.opens("/my-agent/ws", "Authorization: Bearer "+i.Token("roles", []string{"user"}))
	if a := r.renews(i.Token("roles", []string{"admin"}, "exp", in(5*time.Hour)), ""); a.StatusCode != 200 {
		t.Fatalf("%s %s", a.Status, a.text)
	}
	demoted, _ := r.opens("/my-agent/ws", "Authorization: Bearer "+i.Token("sub", "bob", "roles", []string{"admin"}))
	if a := r.renews(i.Token("sub", "bob", "roles", []string{"user"}, "exp", in(5*time.Hour)), ""); a.StatusCode != 200 {
		t.Fatalf("%s %s", a.Status, a.text)
	}
	save(t, requiring(*c, "admin"))
	if done := r.reloaded("/reload", "", 200); done.Ending["claim-mismatch"] != 1 {
		t.Errorf("/reload: %+v", done)
	}
	demoted.HearsClose(3003, "claim-mismatch")
	promoted.Say(promoted.Frame(rawws.Fin|rawws.Text, "still here"))
	promoted.Hears(rawws.Fin|rawws.Text, "still here")
}

func TestRenewalSavesASessionFromAReload(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Session.ReloadSpread = time.Hour // one ends at once, the others later
	r := fromFile(t, c)
	for _, sub := range []string{"alice", "bob", "carol"} {
		r.opens("/my-agent/ws", "Authorization: Bearer "+i.Token("sub", sub, "roles", []string{"user"}))
	}
	save(t, requiring(*c, "admin"))
	r.reloaded("/reload", "", 200)
	wstest.Eventually(t, "one session ended", func() bool { return r.sessions.Len() == 2 })
	left := r.sessions.List()[0]
	if a := r.renews(i.Token("sub", left.Subject(), "roles", []string{"admin"}, "exp", in(5*time.Hour)), ""); a.StatusCode != 200 {
		t.Fatalf("%s %s", a.Status, a.text)
	}
	if refusal := r.judge(left.Judged()); refusal != nil {
		t.Errorf("judged once more: %v", refusal)
	}
}

func TestPageRenewsOnlyTheSessionsOfRoutesThatListIt(t *testing.T) {
	const one, two, stranger = "https://one.example", "https://two.example", "https://evil.example"
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Routes = nil
	base := i.Config(listening(t, echoing)).Routes[0]
	c.Routes = config.Routes{base}
	c.Routes[0].AllowedOrigins = []string{one}
	routes(c, map[string][]string{"/two": {two}})
	c.Routes[1].CORS = false // the agent of this route speaks for itself, but not for the gateway
	r := run(t, c)
	bearer := "Authorization: Bearer " + i.Token()
	_, first := r.opens("/my-agent/ws", bearer, "Origin: "+one)
	_, second := r.opens("/two/ws", bearer, "Origin: "+two)

	token := i.Token("exp", in(5*time.Hour))
	for origin, id := range map[string]string{one: first, two: second} {
		a := r.renews(token, "", "Origin: "+origin)
		if a.StatusCode != 200 || len(a.Sessions) != 1 || a.Sessions[0].Session != id {
			t.Errorf("%s: %s %s", origin, a.Status, a.text)
		}
		if h := a.Header; h.Get("Access-Control-Allow-Origin") != origin || h.Get("Vary") != "Origin" {
			t.Errorf("%s: %v", origin, h)
		}
		p := r.asks("OPTIONS", "",
			"Origin: "+origin, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
		if p.StatusCode != 204 || p.Header.Get("Access-Control-Allow-Origin") != origin ||
			p.Header.Get("Access-Control-Allow-Headers") != "authorization" {
			t.Errorf("preflight of %s: %s %v", origin, p.Status, p.Header)
		}
	}
	a := r.renews(token, "?session="+second, "Origin: "+one)
	if a.StatusCode != 404 || a.Reason != outcome.NoSession || a.Header.Get("Access-Control-Allow-Origin") != one {
		t.Errorf("a session of another route: %s %s", a.Status, a.text)
	}
	if a := r.renews(token, ""); a.StatusCode != 200 || len(a.Sessions) != 2 {
		t.Errorf("no page: %s %s", a.Status, a.text)
	}
	if a := r.renews(i.Token("exp", 1), "", "Origin: "+one); a.StatusCode != 401 || a.Header.Get("Access-Control-Allow-Origin") != one {
		t.Errorf("a refusal that the page should read: %s %v", a.Status, a.Header)
	}
	for name, a := range map[string]renewal{
		"a stranger":            r.renews(token, "", "Origin: "+stranger),
		"two origins":           r.renews(token, "", "Origin: "+one, "Origin: "+stranger),
		"a stranger's question": r.asks("OPTIONS", "", "Origin: "+stranger, "Access-Control-Request-Method: POST"),
	} {
		if a.StatusCode != 403 || a.Reason != outcome.BadOrigin || a.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %s %s %v", name, a.Status, a.text, a.Header)
		}
	}
}

// A route without allowedOrigins takes every page's handshake, but lists none. A page of the
// gateway's own host renews there, without the browser's question before it; others do not.
func TestPageRenewsOnARouteThatListsNoOrigins(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	r.opens("/my-agent/ws", "Authorization: Bearer "+i.Token(), "Origin: http://gateway.test")
	a := r.renews(i.Token(), "", "Origin: http://gateway.test")
	if a.StatusCode != 200 || a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%s %s", a.Status, a.text)
	}
	for _, other := range []string{"https://evil.example", "null", "gateway.test", "http://gateway.test.evil.example"} {
		if a := r.renews(i.Token(), "", "Origin: "+other); a.StatusCode != 404 {
			t.Errorf("%s: %s %s", other, a.Status, a.text)
		}
	}
	if a := r.asks("OPTIONS", "", "Origin: https://evil.example", "Access-Control-Request-Method: POST"); a.StatusCode != 403 {
		t.Errorf("preflight: %s", a.Status)
	}
}

func TestRenewalIsAPost(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	bearer := "Authorization: Bearer " + i.Token()
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} {
		e := r.dial()
		e.Say([]byte(method + " /.gateway/renew HTTP/1.1\r\nHost: gateway.test\r\n" + bearer + "\r\n\r\n"))
		if resp := e.Answer(); resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST" {
			t.Errorf("%s: %s, Allow %q", method, resp.Status, resp.Header.Get("Allow"))
		}
	}
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", "/.gateway/renew", bearer)))
	if resp := e.Answer(); resp.StatusCode != 405 {
		t.Errorf("a handshake: %s", resp.Status)
	}
	for path, want := range map[string]int{
		"/.gateway/renew/": 404, "/.gateway/": 404, "/.gateway/renew/x": 404, "/x/../.gateway/renew": 400,
	} {
		e := r.dial()
		e.Say([]byte("POST " + path + " HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 0\r\n" + bearer + "\r\n\r\n"))
		if resp := e.Answer(); resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

func TestBodyOfARenewalIsIgnored(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	r.opens("/my-agent/ws", "Authorization: Bearer "+i.Token())
	for name, body := range map[string]string{
		"a session":         "Content-Length: 9\r\n\r\nsession=x",
		"more than is read": "Content-Length: 100000000\r\n\r\n" + strings.Repeat("x", 1000),
		"one that waits":    "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n",
	} {
		e := r.dial()
		e.Say([]byte("POST /.gateway/renew HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " + i.Token() + "\r\n" + body))
		if resp := e.Answer(); resp.StatusCode != 200 {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

func TestRefusedRenewalsMakeAnAddressWait(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Limits.RefusedPerIP = 3
	r := run(t, c)
	for range 4 {
		if a := r.renews(i.Token("exp", 1), ""); a.StatusCode != 401 {
			t.Fatalf("%s", a.Status)
		}
	}
	if a := r.renews(i.Token(), ""); a.StatusCode != 429 || a.Header.Get("Retry-After") == "" {
		t.Errorf("%s %s", a.Status, a.text)
	}
}

func TestRenewalExtendsAStream(t *testing.T) {
	i := wstest.NewIssuer(t)
	next := make(chan string)
	c := i.Config(listening(t, asked(func(c net.Conn, _ *http.Request) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
		for event := range next {
			io.WriteString(c, event)
		}
	})))
	c.Authentication.JWT.ClockSkew = 0
	r := run(t, c)
	e := r.dial()
	e.Say([]byte("GET /my-agent/events HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " +
		i.Token("exp", in(2*time.Second)) + "\r\n\r\n"))
	resp := e.Answer()
	id := resp.Header.Get("X-Gateway-Session")
	first := r.live(id).Deadline()
	if a := r.renews(i.Token(), "?session="+id); a.StatusCode != 200 || len(a.Sessions) != 1 || a.Sessions[0].Session != id {
		t.Fatalf("%s %s", a.Status, a.text)
	}
	time.Sleep(time.Until(first)) // the expiry that no longer counts
	next <- "data: still here\n\n"
	got := make([]byte, len("data: still here\n\n"))
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "data: still here\n\n" {
		t.Errorf("%q, %v", got, err)
	}
	close(next)
}

// A client key renews as a token does: until the end of its entry.
func TestClientKeyRenewsUntilItsEnd(t *testing.T) {
	const key = "a-key-of-a-robot-0123456789"
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	c.Authentication.ClientKeys.File = filepath.Join(t.TempDir(), "keys.yaml")
	writeFile(t, c.Authentication.ClientKeys.File,
		fmt.Appendf(nil, "keys: [{id: robot, keyHash: '%s', expires: %s}]", config.KeyHash(key), end.UTC().Format(time.RFC3339)))
	r := run(t, c)
	r.opens("/my-agent/ws", "Authorization: Bearer "+key)
	if a := r.renews(key, ""); a.StatusCode != 200 || len(a.Sessions) != 1 || !a.Sessions[0].Expires.Equal(end) {
		t.Errorf("%s %s", a.Status, a.text)
	}
	if a := r.renews(i.Token("sub", "robot"), ""); a.StatusCode != 404 {
		t.Errorf("a token with the subject of the key: %s %s", a.Status, a.text)
	}
}
