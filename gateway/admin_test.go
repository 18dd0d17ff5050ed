package gateway

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

func TestOperatorsSeeSessionsAndIssuers(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Session.ExpiryGrace = time.Minute
	r := run(t, c)
	exp := time.Now().Add(time.Hour).Unix()
	first := r.connect("Authorization: Bearer " + i.Token("exp", exp))
	r.connect("Authorization: Bearer " + i.Token("sub", "bob", "exp", 1e12)) // a year that RFC 3339 cannot write

	code, body := get(t, r.AdminAddr(), "/sessions")
	var sessions []sessionSummary
	if err := json.Unmarshal([]byte(body), &sessions); err != nil || code != http.StatusOK || len(sessions) != 2 {
		t.Fatalf("%d, %s: %v", code, body, err)
	}
	s := sessions[0]
	if s.Subject != "alice" || s.Issuer != wstest.IssuerName || s.Route != "/my-agent" || s.Remote != first.LocalAddr().String() ||
		len(s.Session) != 32 ||
		s.Expires == nil || s.Expires.Unix() != exp+60+60 || time.Since(s.Start) > wstest.Patience {
		t.Errorf("%+v", s)
	}
	if s = sessions[1]; s.Subject != "bob" || s.Expires != nil {
		t.Errorf("%+v", s)
	}

	for query, want := range map[string]int{
		"": 2, "subject=bob": 1, "subject=bob&cluster=true": 1, "route=/my-agent&cluster=false": 2, "agent=x": 0,
		"issuer=" + wstest.IssuerName: 2, "subject=bob&route=/x": 0,
	} {
		code, body := get(t, r.AdminAddr(), "/sessions?"+query)
		if err := json.Unmarshal([]byte(body), &sessions); err != nil || code != http.StatusOK || len(sessions) != want {
			t.Errorf("%q: %d %s", query, code, body)
		}
	}
	for _, query := range []string{
		"user=bob", "subject=", "subject=a&subject=b", "session=x", "cluster=maybe", "cluster=", "cluster=true&cluster=true", "a;b", "%zz",
	} {
		if code, body := get(t, r.AdminAddr(), "/sessions?"+query); code != http.StatusBadRequest {
			t.Errorf("%q: %d %s", query, code, body)
		}
	}

	code, body = get(t, r.AdminAddr(), "/readyz")
	var ready readiness
	if err := json.Unmarshal([]byte(body), &ready); err != nil || code != http.StatusOK || !ready.Ready || ready.Draining ||
		len(ready.Issuers) != 1 {
		t.Fatalf("%d, %s: %v", code, body, err)
	}
	if s := ready.Issuers[0]; s.Issuer != wstest.IssuerName || s.KeysURL != i.URL || s.Keys != 1 || s.Fetched == nil || s.Error != "" {
		t.Errorf("%+v", s)
	}
	if code, _ := get(t, r.AdminAddr(), "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d", code)
	}
	for _, path := range []string{"/sessions", "/debug/pprof/", "/metrics"} {
		if code, _ := get(t, r.Addr(), path); code != http.StatusNotFound {
			t.Errorf("%s on the public listener: %d", path, code)
		}
	}
}

func TestReloadIsCountedWhenSomethingHasChanged(t *testing.T) {
	i, dir := wstest.NewIssuer(t), t.TempDir()
	writePair(t, dir, wstest.KeyPair(t, 1, time.Now().Add(time.Hour)))
	c := i.Config("agent.invalid")
	c.TLS = pairIn(dir)
	log := &journal{}
	g := compile(t, c, slog.New(slog.NewJSONHandler(log, nil))) // not running: no other goroutine reads the files
	g.Reload(t.Context())
	writePair(t, dir, wstest.KeyPair(t, 2, time.Now().Add(time.Hour)))
	g.Reload(t.Context())
	writeFile(t, c.TLS.KeyFile, nil)
	g.Reload(t.Context())
	answer := httptest.NewRecorder()
	g.adminHandler().ServeHTTP(answer, httptest.NewRequest("GET", "http://127.0.0.1/metrics", nil))
	text := answer.Body.String()
	for _, want := range []string{
		`omnia_gateway_certificate_reloads_total{result="ok"} 1`, `omnia_gateway_certificate_reloads_total{result="error"} 1`,
		"omnia_gateway_certificate_expiry_seconds ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if n := len(log.lines(t, "certificate not reloaded; the old one stays")); n != 1 {
		t.Errorf("%d lines about the bad one", n)
	}
}

// What can be read can be asked for by HEAD (RFC 9110 §9.1), and by nothing else.
func TestOperatorsMayAskByHead(t *testing.T) {
	r := run(t, open("agent.invalid"))
	for path, want := range map[string]int{
		"HEAD /healthz": 200, "HEAD /readyz": 200, "HEAD /metrics": 200, "HEAD /sessions": 200, "HEAD /revocations": 200,
		"HEAD /nothing": 404, "HEAD /reload": 405, "POST /metrics": 405, "TRACE /metrics": 405, "POST /healthz": 405,
	} {
		method, path, _ := strings.Cut(path, " ")
		request, _ := http.NewRequest(method, "http://"+r.AdminAddr().String()+path, nil)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s %s: %s", method, path, answer.Status)
		}
	}
}

func TestBodyThatAnOperatorDoesNotSendIsNotWaitedForForever(t *testing.T) {
	for _, request := range []string{"GET /metrics", "POST /check", "POST /nothing"} {
		synctest.Test(t, func(t *testing.T) {
			c := open("agent.invalid")
			g, err := New(c, Options{})
			if err != nil {
				t.Fatal(err)
			}
			g.admin = make(pipes)
			clients := make(pipes)
			server := g.operatorServer(t.Context(), g.adminHandler())
			go server.Serve(clients)
			client, _ := clients.dial(t.Context(), "", "")
			io.WriteString(client, request+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
			began := time.Now()
			answer, err := http.ReadResponse(bufio.NewReader(client), nil)
			if took := time.Since(began); err != nil || !answer.Close || took > operatorBody {
				t.Errorf("%s: %v, %v after %v", request, answer, err, took)
			}
			client.Close()
			server.Close()
			time.Sleep(time.Hour) // until the last goroutine has gone
		})
	}
}
