package gateway

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// save writes a configuration into the file that it was loaded from.
func save(t testing.TB, c *config.Config) {
	t.Helper()
	base := config.Default()
	writeFile(t, c.Sources.File, []byte(config.Changes(c, &base).String()))
}

// saveWithIssuer is save with one more issuer in c.
func saveWithIssuer(t testing.TB, c config.Config, issuer, keys string) {
	t.Helper()
	other := c.Authentication.JWT
	other.Issuer, other.JWKSURI = issuer, keys
	c.Authentication.JWTRules = config.JWTRules{other}
	save(t, &c)
}

// fromFile runs a gateway whose configuration is in a file. Only Reload looks into it.
func fromFile(t *testing.T, c *config.Config) *running {
	t.Helper()
	route := config.DefaultRoute()
	route.Path, route.Upstream = c.Routes[0].Path, c.Routes[0].Upstream
	c.Routes = config.Routes{route}
	c.Sources.File = filepath.Join(t.TempDir(), "gateway.yaml")
	save(t, c)
	started := *c
	return run(t, &started)
}

// answer decodes the answer of /reload or /check.
func (r *running) reloaded(path, body string, want int) (answer reloadSummary) {
	r.t.Helper()
	code, text := r.post("POST", path, body, "")
	if err := json.Unmarshal([]byte(text), &answer); err != nil || code != want {
		r.t.Fatalf("%s: %d %s, want %d", path, code, text, want)
	}
	return answer
}

// requiring returns c with a rule about roles.
func requiring(c config.Config, role string) *config.Config {
	c.Authentication.Authorization.RequiredClaims = config.RequiredClaims{{Claim: "roles", Values: []config.ClaimValue{role}}}
	return &c
}

func TestReloadEndsTheSessionsThatItNoLongerAdmits(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Session.ReloadSpread = 0
	r := fromFile(t, c)
	user := r.connect("Authorization: Bearer " + i.Token("roles", []string{"user"}))
	admin := r.connect("Authorization: Bearer " + i.Token("roles", []string{"admin"}))

	next := requiring(*c, "admin")
	base := config.Default()
	plan := r.reloaded("/check", config.Changes(next, &base).String(), 200)
	if plan.Sessions != 2 || len(plan.Ending) != 1 || plan.Ending["claim-mismatch"] != 1 {
		t.Errorf("/check: %+v", plan)
	}
	save(t, next)
	if done := r.reloaded("/reload", "", 200); done.Sessions != 2 || len(done.Ending) != 1 || done.Ending["claim-mismatch"] != 1 {
		t.Errorf("/reload: %+v", done)
	}
	user.HearsClose(3003, "claim-mismatch")
	admin.Say(admin.Frame(rawws.Fin|rawws.Text, "still here"))
	admin.Hears(rawws.Fin|rawws.Text, "still here")

	refused := r.dial()
	refused.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+i.Token("roles", []string{"user"}))))
	if resp := refused.Answer(); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a new connection of the excluded user: %s", resp.Status)
	}
}

func TestBadConfigurationChangesNothing(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	r := fromFile(t, c)
	wstest.Eventually(t, "keys", r.ready)
	r.connect("Authorization: Bearer " + i.Token())
	before := r.Config()
	for name, change := range map[string]func(*config.Config){
		"invalid":                 func(c *config.Config) { c.Routes[0].Path = "no slash" },
		"log":                     func(c *config.Config) { c.Log.Level = "debug" },
		"listen":                  func(c *config.Config) { c.Listen = "127.0.0.1:1" },
		"limits.handshakeTimeout": func(c *config.Config) { c.Limits.HandshakeTimeout++ },
	} {
		next := *requiring(*c, "nobody")
		next.Routes = slices.Clone(c.Routes)
		change(&next)
		save(t, &next)
		done := r.reloaded("/reload", "", 422)
		if len(done.Problems) != 1 || done.Sessions != 1 || name == "invalid" && done.Problems[0].Text == "" ||
			name != "invalid" && !strings.HasPrefix(done.NeedStart[0], name) {
			t.Errorf("%s: %+v", name, done)
		}
		var ready readiness
		code, body := get(t, r.AdminAddr(), "/readyz")
		if err := json.Unmarshal([]byte(body), &ready); err != nil || code != 200 || len(ready.Config.Problems) != 1 {
			t.Errorf("%s: /readyz: %d %s", name, code, body)
		}
		if r.Config() != before {
			t.Errorf("%s: the configuration was replaced", name)
		}
	}
	_, metrics := get(t, r.AdminAddr(), "/metrics")
	for _, want := range []string{`omnia_gateway_config_reloads_total{result="error"} 4`, "omnia_gateway_config_in_use 0"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
	save(t, c)
	r.reloaded("/reload", "", 200)
	if _, metrics := get(t, r.AdminAddr(), "/metrics"); !strings.Contains(metrics, "omnia_gateway_config_in_use 1") {
		t.Error("a good configuration is not in use")
	}
	if n := len(r.log.lines(t, "configuration not reloaded; the old one stays")); n != 4 {
		t.Errorf("%d lines about it", n)
	}
}

func TestLimitsAndTimesOfAReloadAreForNewConnections(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	r := fromFile(t, c)
	bearer := "Authorization: Bearer " + i.Token()
	one, two := r.connect(bearer), r.connect(bearer)
	next := *c
	next.Limits.MaxConnections, next.Limits.MaxMessageBytes = 3, 10
	save(t, &next)
	r.reloaded("/reload", "", 200)
	three := r.connect(bearer)
	for _, e := range []*wstest.Peer{one, two} { // the limit of their own time
		e.Say(e.Frame(rawws.Fin|rawws.Text, "more than ten bytes"))
		e.Hears(rawws.Fin|rawws.Text, "more than ten bytes")
	}
	three.Say(three.Frame(rawws.Fin|rawws.Text, "more than ten bytes"))
	three.HearsClose(1009, "message-too-big")
}

func TestTimesForAgentsFollowAReload(t *testing.T) {
	i := wstest.NewIssuer(t)
	conns := make(chan bool, 10)
	agent := listening(t, func(c net.Conn) {
		conns <- true
		br := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(br)
			if err != nil || r.Header.Get("Upgrade") != "" { // a handshake is never answered
				io.Copy(io.Discard, br)
				return
			}
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	})
	c := i.Config(agent)
	c.Upstream.IdleTimeout = time.Minute
	r := fromFile(t, c)
	plain := func() {
		req, _ := http.NewRequest("GET", "http://"+r.Addr().String()+"/my-agent/x", nil)
		req.Header.Set("Authorization", "Bearer "+i.Token())
		if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusNoContent {
			t.Fatal(resp, err)
		}
	}
	plain()
	plain()
	if n := len(conns); n != 1 {
		t.Errorf("%d connections to the agent, want one that is kept", n)
	}
	next := *c
	next.Upstream.IdleTimeout, next.Limits.UpstreamTimeout = 0, 50*time.Millisecond
	save(t, &next)
	r.reloaded("/reload", "", 200)
	plain()
	plain()
	if n := len(conns); n != 3 {
		t.Errorf("%d connections to the agent, want two more", n)
	}
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+i.Token())))
	if resp := e.Answer(); resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("got %s", resp.Status)
	}
	if n := len(r.fleet.all); n != 1 {
		t.Errorf("%d ways to agents, want that of the new configuration", n)
	}
}

func TestLimitOfRefusedTokensFollowsAReload(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config("agent.invalid")
	r := fromFile(t, c)
	ask := func() int {
		e := r.dial()
		e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer none")))
		return e.Answer().StatusCode
	}
	for limit, want := range []int{http.StatusUnauthorized, http.StatusTooManyRequests} {
		next := *c
		next.Limits.RefusedPerIP = limit
		save(t, &next)
		r.reloaded("/reload", "", 200)
		ask()
		ask()
		if got := ask(); got != want {
			t.Errorf("limit %d: %d, want %d", limit, got, want)
		}
	}
	save(t, c)
	r.reloaded("/reload", "", 200)
	if got := ask(); got != http.StatusUnauthorized {
		t.Errorf("no limit any more: %d", got)
	}
}

func TestReloadWithABadFileForAgentsChangesNothing(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	r := fromFile(t, c)
	before := r.Config()
	next := *c
	next.Routes = config.Routes{c.Routes[0]}
	next.Routes[0].Upstream = "https://agent.example.com"
	next.Routes[0].UpstreamTLS.CAFile = filepath.Join(t.TempDir(), "missing")
	save(t, &next)
	base := config.Default()
	for path, body := range map[string]string{"/reload": "", "/check": config.Changes(&next, &base).String()} {
		done := r.reloaded(path, body, 422)
		if len(done.Problems) != 1 || done.Problems[0].Key != "routes[0].upstreamTLS.caFile" {
			t.Errorf("%s: %+v", path, done)
		}
	}
	if r.Config() != before || len(r.fleet.all) != 1 {
		t.Errorf("the configuration was replaced, or %d ways to agents are left", len(r.fleet.all))
	}
	r.connect("Authorization: Bearer " + i.Token())
}

func TestReloadWithABadFileForIssuersChangesNothing(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	r := fromFile(t, c)
	before := r.Config()
	next := *c
	next.Authentication.JWT.Fetch.CAFile = filepath.Join(t.TempDir(), "missing")
	next.Authentication.JWT.Fetch.BearerTokenFile = next.Authentication.JWT.Fetch.CAFile
	save(t, &next)
	base := config.Default()
	for path, body := range map[string]string{"/reload": "", "/check": config.Changes(&next, &base).String()} {
		done := r.reloaded(path, body, 422)
		if len(done.Problems) != 2 || done.Problems[0].Key != "authentication.jwt.fetch.caFile" {
			t.Errorf("%s: %+v", path, done)
		}
	}
	if r.Config() != before {
		t.Error("the configuration was replaced")
	}
	r.connect("Authorization: Bearer " + i.Token())
}

func TestIssuerWhoseNewPlaceGivesNoKeysIsNamed(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	r := fromFile(t, c)
	wstest.Eventually(t, "keys", r.ready)
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	next := *c
	next.Authentication.JWT.JWKSURI = empty.URL
	save(t, &next)
	if done := r.reloaded("/reload", "", 200); !slices.Equal(done.NoKeys, []string{c.Authentication.JWT.Issuer}) {
		t.Errorf("%+v", done)
	}
	if done := r.reloaded("/reload", "", 200); len(done.NoKeys) != 0 {
		t.Errorf("it had no keys before: %+v", done)
	}
}

func TestChangedUpstreamIsForNewSessions(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	r := fromFile(t, c)
	bearer := "Authorization: Bearer " + i.Token()
	old := r.connect(bearer)
	next := *c
	reached := make(chan struct{}, 1)
	next.Routes = config.Routes{c.Routes[0]}
	next.Routes[0].Upstream = "http://" + listening(t, func(c net.Conn) { reached <- struct{}{}; echoing(c) })
	save(t, &next)
	r.reloaded("/reload", "", 200)
	r.connect(bearer)
	<-reached
	old.Say(old.Frame(rawws.Fin|rawws.Text, "still here"))
	old.Hears(rawws.Fin|rawws.Text, "still here")
}

func TestNewIssuerIsAskedBeforeItIsUsed(t *testing.T) {
	i := wstest.NewIssuer(t)
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	slow := make(chan struct{})
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { <-slow; w.Write(signer.JWKS()) }))
	defer keys.Close()
	c := i.Config(listening(t, echoing))
	r := fromFile(t, c)
	const other = "https://other.example.com"
	saveWithIssuer(t, *c, other, keys.URL)
	time.AfterFunc(50*time.Millisecond, func() { close(slow) })
	if answer := r.reloaded("/reload", "", 200); len(answer.NoKeys) != 0 {
		t.Errorf("%+v", answer)
	}
	token, err := signer.Sign(map[string]any{"iss": other, "sub": "bob", "aud": "agents", "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	r.connect("Authorization: Bearer " + token) // a 503 would fail the test
}

func TestNewIssuerThatIsDownDoesNotMakeTheGatewayUnready(t *testing.T) {
	i := wstest.NewIssuer(t)
	hung := make(chan struct{})
	keys := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hung }))
	defer keys.Close()
	defer close(hung)
	c := i.Config(listening(t, echoing))
	r := fromFile(t, c)
	const other = "https://other.example.com"
	saveWithIssuer(t, *c, other, keys.URL)
	began := time.Now()
	if done := r.reloaded("/reload", "", 200); !slices.Equal(done.NoKeys, []string{other}) {
		t.Errorf("%+v", done)
	}
	if took := time.Since(began); took < askNew || took > askNew+wstest.Patience/2 {
		t.Errorf("the reload took %s", took)
	}
	if code, body := get(t, r.AdminAddr(), "/readyz"); code != http.StatusOK || !strings.Contains(body, other) {
		t.Errorf("%d %s", code, body)
	}
	r.connect("Authorization: Bearer " + i.Token())
}

func TestManyReloadsLeaveNothing(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config("agent.invalid")
	r := fromFile(t, c)
	cycle := func(n int) {
		for k := range n {
			next := *c
			other := c.Authentication.JWT
			other.Issuer = "https://other.example.com"
			if k%2 == 0 { // an issuer comes and goes
				next.Authentication.JWTRules = config.JWTRules{other}
			}
			save(t, &next)
			if _, err := r.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	held := func() (bytes uint64, goroutines int) {
		http.DefaultClient.CloseIdleConnections()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, runtime.NumGoroutine()
	}
	cycle(20)
	r.log.text.Reset()
	before, goroutines := held()
	cycle(200)
	r.log.text.Reset()
	wstest.Eventually(t, "goroutines of issuers that have gone", func() bool { _, n := held(); return n <= goroutines+2 })
	after, _ := held()
	t.Logf("heap before %d, after 200 reloads %d", before, after)
	if after > before+512<<10 {
		t.Errorf("200 reloads left %d bytes", after-before)
	}
}
