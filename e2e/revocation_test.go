package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRevocationEndsAllSessionsOfAUserWithinASecond(t *testing.T) {
	const sessions = 200
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			i := newIssuer(t)
			g := startSecure(t, plain(i, newAgent(t, nil).URL), secure)
			before := g.held()
			var mine, others []*socket
			for n := range sessions {
				mine = append(mine, g.connect(t, "/my-agent/ws", i.bearer(t)))
				if n%4 == 0 {
					others = append(others, g.connect(t, "/my-agent/ws", i.bearer(t, "sub", "bob")))
				}
			}
			took := make([]time.Duration, sessions)
			var wg sync.WaitGroup
			start := time.Now()
			for n, s := range mine {
				wg.Go(func() {
					if word := s.closed(3000); word != "revoked" {
						t.Errorf("reason %q", word)
					}
					took[n] = time.Since(start)
				})
			}
			id := g.revoke(t, i, "alice")
			g.awaitLine("msg", "revoked", "revocation", id, "sessions", sessions)
			wg.Wait()
			worst := slices.Max(took)
			t.Logf("the last of %d clients heard of it after %s", sessions, worst)
			if worst > time.Second {
				t.Errorf("the last of %d clients heard of it after %s", sessions, worst)
			}
			g.refused(t, 401, "revoked", "/my-agent/ws", i.bearer(t))
			for _, s := range others {
				s.echoes("still here")
				s.Close()
			}
			for _, s := range mine {
				s.Close()
			}
			g.holdsNoMoreThan(before)
		})
	}
}

func TestRevocationsAreKeptOverAKill(t *testing.T) {
	i := newIssuer(t)
	s := plain(i, newAgent(t, nil).URL).with("revocations.file", filepath.Join(t.TempDir(), "revocations"))
	file := s.write(t)
	g := startFile(t, file)
	g.awaitReady()
	if code := g.command("POST", "/revocations", `{"issuer":"`+i.URL+`","sid":"s1"}`, nil); code != http.StatusCreated {
		t.Fatalf("revoked: %d", code)
	}
	lifted := g.revoke(t, i, "bob")
	if code := g.command("DELETE", "/revocations/"+lifted, "", nil); code != http.StatusNoContent {
		t.Errorf("lifted: %d", code)
	}
	g.kill()
	again := startFile(t, file)
	again.awaitReady()
	again.refused(t, 401, "revoked", "/my-agent/ws", i.bearer(t, "sid", "s1"))
	again.connect(t, "/my-agent/ws", i.bearer(t, "sub", "bob", "sid", "s2")).echoes("lifted")
}

func TestLogoutAtTheIssuerEndsThatLogin(t *testing.T) {
	i := newIssuer(t)
	s := plain(i, newAgent(t, nil).URL).with("authentication.jwt.logoutAudiences", []string{"frontend"})
	g := start(t, s)
	phone, laptop := i.bearer(t, "sid", "phone"), i.bearer(t, "sid", "laptop")
	one, two := g.connect(t, "/my-agent/ws", phone), g.connect(t, "/my-agent/ws", laptop)
	logout := func(want int, pairs ...any) {
		t.Helper()
		token := i.token(t, append([]any{"aud", "frontend", "jti", time.Now().String(), "exp", time.Now().Add(2 * time.Minute).Unix(),
			"events", map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}, pairs...)...)
		answer, err := http.Post("http://"+g.public+"/.gateway/logout", "application/x-www-form-urlencoded",
			strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want || answer.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v: %s, want %d", pairs, answer.Status, want)
		}
	}
	logout(400, "aud", "agents")
	logout(400, "nonce", "n")
	one.echoes("both wrong")
	logout(200, "sub", nil, "sid", "phone")
	if word := one.closed(3000); word != "revoked" {
		t.Errorf("reason %q", word)
	}
	g.refused(t, 401, "revoked", "/my-agent/ws", phone)
	two.echoes("another login")
	logout(200)
	if word := two.closed(3000); word != "revoked" {
		t.Errorf("reason %q", word)
	}
	g.refused(t, 401, "revoked", "/my-agent/ws", laptop)
}
