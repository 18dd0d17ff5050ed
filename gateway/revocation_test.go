package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// revokes makes a revocation by the admin listener.
func (r *running) revokes(body string) (answer revocationSummary) {
	r.t.Helper()
	code, text := r.post("POST", "/revocations", body, "")
	if err := json.Unmarshal([]byte(text), &answer); err != nil || code != http.StatusCreated || len(answer.ID) != 32 {
		r.t.Fatalf("%s: %d %s", body, code, text)
	}
	return answer
}

// attempt returns the status of a handshake, and the word of its refusal.
func (r *running) attempt(token string) (status int, word outcome.Reason) {
	r.t.Helper()
	e := r.dial()
	defer e.Close()
	e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+token)))
	resp := e.Answer()
	var p problem
	if resp.StatusCode != http.StatusSwitchingProtocols {
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
			r.t.Fatal(err)
		}
	}
	return resp.StatusCode, p.Reason
}

func TestRevokedUsersAreEndedAndRefusedUntilItIsLifted(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	alice, twice := r.connect("Authorization: Bearer "+i.Token()), r.connect("Authorization: Bearer "+i.Token())
	bob := r.connect("Authorization: Bearer " + i.Token("sub", "bob"))
	v := r.revokes(`{"issuer":"` + wstest.IssuerName + `","subject":"alice"}`)
	if v.Ended != 2 || v.Note != "" {
		t.Errorf("%+v", v)
	}
	alice.HearsClose(3000, "revoked")
	twice.HearsClose(3000, "revoked")
	alice.Close()
	twice.Close()
	wstest.Eventually(t, "two lines in the log", func() bool { return len(r.log.lines(t, "ended")) >= 2 })
	for _, l := range r.log.lines(t, "ended") {
		if l["subject"] != "alice" || l["reason"] != "revoked" || l["code"] != 3000.0 || l["err"] != "by revocation "+v.ID {
			t.Errorf("%v", l)
		}
	}
	bob.Say(bob.Frame(rawws.Fin|rawws.Text, "still here"))
	bob.Hears(rawws.Fin|rawws.Text, "still here")
	if code, word := r.attempt(i.Token()); code != 401 || word != outcome.Revoked {
		t.Errorf("%d %s", code, word)
	}
	if code, word := r.attempt(i.Token("sub", "bob")); code != 101 {
		t.Errorf("%d %s", code, word)
	}

	var list []auth.Revocation
	_, text := r.post("GET", "/revocations", "", "")
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != 1 || list[0] != v.Revocation {
		t.Errorf("%s", text)
	}
	for _, c := range []struct {
		method, id string
		code       int
	}{{"GET", v.ID, 200}, {"GET", "other", 404}, {"DELETE", "other", 404}, {"DELETE", v.ID, 204}, {"DELETE", v.ID, 404},
		{"GET", v.ID, 404}} {
		if code, body := r.post(c.method, "/revocations/"+c.id, "", ""); code != c.code {
			t.Errorf("%s %s: %d %s", c.method, c.id, code, body)
		}
	}
	if code, word := r.attempt(i.Token()); code != 101 {
		t.Errorf("after it was lifted: %d %s", code, word)
	}
	if l := r.log.lines(t, "revoked"); len(l) != 1 || l[0]["revocation"] != v.ID || l[0]["sessions"] != 2.0 {
		t.Errorf("%v", l)
	}
}

func TestChangesAreLoggedWithWhoAskedAndWhatWasDone(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Admin.TokenFile = filepath.Join(t.TempDir(), "tokens")
	writeFile(t, c.Admin.TokenFile, []byte("carol carol-has-this-token\n"))
	r := run(t, c)
	r.connect("Authorization: Bearer " + i.Token())
	id := r.sessions.List()[0].ID
	const token = "carol-has-this-token"
	body := `{"issuer":"` + wstest.IssuerName + `","subject":"bob"}`
	if code, _ := r.post("POST", "/revocations", body, ""); code != 401 || len(r.revoked.List()) != 0 {
		t.Errorf("without a token: %d", code)
	}
	if code, _ := r.post("GET", "/revocations", "", ""); code != 200 {
		t.Errorf("reading: %d", code)
	}
	_, text := r.post("POST", "/revocations", body, token)
	var v revocationSummary
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	r.post("DELETE", "/revocations/"+v.ID, "", token)
	r.post("DELETE", "/sessions?subject=bob&route=/x", "", token)
	r.post("DELETE", "/sessions/"+id, "", token)
	lines := r.log.lines(t, "operator")
	for n, want := range []map[string]any{
		{"operator": "", "status": 401.0, "path": "/revocations"},
		{"operator": "carol", "status": 201.0, "path": "/revocations", "revocation": v.ID, "sessions": 0.0},
		{"operator": "carol", "status": 204.0, "path": "/revocations/" + v.ID, "revocation": v.ID},
		{"operator": "carol", "status": 200.0, "path": "/sessions", "subject": "bob", "route": "/x", "sessions": 0.0},
		{"operator": "carol", "status": 200.0, "path": "/sessions/" + id, "session": id, "sessions": 1.0},
	} {
		if n >= len(lines) {
			t.Fatalf("%d lines", len(lines))
		}
		for key, value := range want {
			if lines[n][key] != value {
				t.Errorf("%v: want %s %v", lines[n], key, value)
			}
		}
		if remote, _ := lines[n]["remote"].(string); !strings.HasPrefix(remote, "127.0.0.1:") || lines[n]["agent"] != nil {
			t.Errorf("%v", lines[n])
		}
	}
}

// A page that an operator visits can change nothing, with or without a token in a header.
func TestPagesOfOtherOriginsChangeNothing(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Admin.MetricsListen = "127.0.0.1:0"
	r := run(t, c)
	r.connect("Authorization: Bearer " + i.Token())
	for _, line := range []string{"Origin: https://evil.example.com", "Sec-Fetch-Site: cross-site", "Host: evil.example.com"} {
		name, value, _ := strings.Cut(line, ": ")
		for _, ask := range [][3]string{
			{"POST", "/revocations", `{"issuer":"` + wstest.IssuerName + `","subject":"alice"}`}, {"DELETE", "/sessions?subject=alice", ""},
			{"GET", "/sessions", ""}, {"GET", "/revocations", ""}, {"POST", "/drain", ""}, {"POST", "/reload", ""}, {"GET", "/metrics", ""},
		} {
			for _, listener := range []net.Listener{r.admin, r.measures} {
				req, err := http.NewRequest(ask[0], "http://"+listener.Addr().String()+ask[1], strings.NewReader(ask[2]))
				if err != nil {
					t.Fatal(err)
				}
				if req.Header.Set(name, value); name == "Host" {
					req.Host = value
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != 403 {
					t.Errorf("%s: %s %s: %s", line, ask[0], ask[1], resp.Status)
				}
			}
		}
	}
	if n := r.sessions.Len(); n != 1 || len(r.revoked.List()) != 0 {
		t.Errorf("%d sessions, %+v", n, r.revoked.List())
	}
}

func TestARevocationThatHasAMistakeRevokesNothing(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Revocations.Max = 1
	r := run(t, c)
	for body, want := range map[string]int{
		"": 400, "{}": 400, "[]": 400, `{"issuer":"i"}`: 400, `{"issuer":"i","subject":""}`: 400, "issuer=i": 400,
		`{"issuer":"i","subject":"s","until":"2020-01-01T00:00:00Z"}`:       400,
		`{"issuer":"i","subject":"` + strings.Repeat("s", maxChange) + `"}`: 413,
	} {
		code, text := r.post("POST", "/revocations", body, "")
		var p struct {
			Status int
			Detail string
		}
		if err := json.Unmarshal([]byte(text), &p); err != nil || code != want || p.Status != want || p.Detail == "" {
			t.Errorf("%.60s: %d %s", body, code, text)
		}
	}
	v := r.revokes(`{"issuer":"` + wstest.IssuerName + `/","subject":"alice"}`)
	if !strings.Contains(v.Note, "does not end in a slash") {
		t.Errorf("%+v: the issuer is not configured", v)
	}
	code, text := r.post("POST", "/revocations", `{"issuer":"i","jti":"j"}`, "")
	if code != 507 || !strings.Contains(text, "revocations.max") {
		t.Errorf("one more than the most: %d %s", code, text)
	}
	if n := len(r.revoked.List()); n != 1 {
		t.Errorf("%d revocations", n)
	}
}

// An agent that takes long to answer must not keep a revoked client waiting, nor give it a session.
func TestRevokedInTheMiddleOfItsHandshake(t *testing.T) {
	i := wstest.NewIssuer(t)
	reached := make(chan struct{}, 1)
	r := run(t, i.Config(listening(t, asked(func(c net.Conn, _ *http.Request) {
		reached <- struct{}{}
		io.Copy(io.Discard, c) // never answers
	}))))
	for _, upgrade := range []bool{true, false} {
		e := r.dial()
		if upgrade {
			e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+i.Token())))
		} else {
			e.Say([]byte("GET /my-agent/x HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " + i.Token() + "\r\n\r\n"))
		}
		<-reached
		v := r.revokes(`{"issuer":"` + wstest.IssuerName + `","subject":"alice"}`)
		if resp := e.Answer(); resp.StatusCode != 401 || !strings.Contains(resp.Header.Get("WWW-Authenticate"), "revoked") {
			t.Errorf("upgrade %v: %s %v", upgrade, resp.Status, resp.Header)
		}
		r.post("DELETE", "/revocations/"+v.ID, "", "")
	}
	wstest.Eventually(t, "no session", func() bool { return r.sessions.Len() == 0 })
}

func TestARevokedStreamIsCut(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, asked(func(c net.Conn, _ *http.Request) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
		io.Copy(io.Discard, c)
	}))))
	for _, end := range []func() int{
		func() int {
			v := r.revokes(`{"issuer":"` + wstest.IssuerName + `","subject":"alice"}`)
			r.post("DELETE", "/revocations/"+v.ID, "", "")
			return v.Ended
		},
		func() int { return r.ends("/sessions?subject=alice") },
	} {
		req, _ := http.NewRequest("GET", "http://"+r.Addr().String()+"/my-agent/events", nil)
		req.Header.Set("Authorization", "Bearer "+i.Token())
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		const first = "data: 1\n\n"
		event := make([]byte, len(first))
		io.ReadFull(resp.Body, event) // else the stream may be cut before it
		if n := end(); n != 1 || string(event) != first {
			t.Errorf("%d sessions after %q", n, event)
		}
		if b, err := io.ReadAll(resp.Body); err == nil || len(b) > 0 {
			t.Errorf("%q, %v: want the stream cut", b, err)
		}
	}
}

// Between Verify and the registry's lock, and between the registration and the search among the
// live sessions, a revocation may come: none of these sessions may stay.
func TestNoSessionSlipsPastARevocation(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	token := i.Token()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			e := r.dial()
			e.Say([]byte(rawws.Request("gateway.test", "/my-agent/ws", "Authorization: Bearer "+token)))
			switch resp := e.Answer(); resp.StatusCode {
			case 101:
				e.HearsClose(3000, "revoked")
			case 401:
			default:
				t.Errorf("got %s", resp.Status)
			}
		})
	}
	r.revokes(`{"issuer":"` + wstest.IssuerName + `","subject":"alice"}`)
	wg.Wait()
	wstest.Eventually(t, "no session", func() bool { return r.sessions.Len() == 0 })
}

func TestAClientKeyIsRevokedByItsSubject(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	const key = "omk_0123456789abcdef0123456789abcdef"
	sum := sha256.Sum256([]byte(key))
	c.Authentication.ClientKeys.File = filepath.Join(t.TempDir(), "keys.yaml")
	writeFile(t, c.Authentication.ClientKeys.File,
		[]byte("keys: [{id: robot, keyHash: \"sha256:"+hex.EncodeToString(sum[:])+"\"}]\n"))
	r := run(t, c)
	robot := r.connect("Authorization: Bearer " + key)
	v := r.revokes(`{"issuer":"client keys","subject":"robot"}`)
	if v.Ended != 1 || v.Note != "" {
		t.Errorf("%+v", v)
	}
	robot.HearsClose(3000, "revoked")
	if code, word := r.attempt(key); code != 401 || word != outcome.Revoked {
		t.Errorf("%d %s", code, word)
	}
}

func TestRevocationsOutliveARestart(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Revocations.File = filepath.Join(t.TempDir(), "revocations")
	first := run(t, c)
	v := first.revokes(`{"issuer":"` + wstest.IssuerName + `","subject":"alice","issuedBefore":"` + time.Now().Format(time.RFC3339) + `"}`)
	first.cut()
	first.over()
	second := run(t, c)
	if code, word := second.attempt(i.Token()); code != 401 || word != outcome.Revoked {
		t.Errorf("%d %s", code, word)
	}
	if code, word := second.attempt(i.Token("iat", time.Now().Add(time.Minute).Unix())); code != 101 {
		t.Errorf("issued later: %d %s", code, word)
	}
	if code, _ := second.post("DELETE", "/revocations/"+v.ID, "", ""); code != 204 {
		t.Errorf("%d", code)
	}
	writeFile(t, c.Revocations.File, []byte("no revocation\n"))
	if _, err := New(c, Options{}); err == nil || !strings.HasPrefix(err.Error(), "revocations.file: "+c.Revocations.File+":1: ") {
		t.Error(err)
	}
}

// ends ends sessions by the admin listener, and returns how many.
func (r *running) ends(path string) int {
	r.t.Helper()
	code, text := r.post("DELETE", path, "", "")
	var answer struct{ Ended *int }
	if err := json.Unmarshal([]byte(text), &answer); err != nil || code != 200 || answer.Ended == nil {
		r.t.Fatalf("%s: %d %s", path, code, text)
	}
	return *answer.Ended
}

func TestOperatorsEndTheSessionsThatTheyName(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	alice, twice := r.connect("Authorization: Bearer "+i.Token()), r.connect("Authorization: Bearer "+i.Token())
	bob := r.connect("Authorization: Bearer " + i.Token("sub", "bob"))
	for _, query := range []string{"", "?", "?subject=", "?user=alice", "?subject=alice&user=x", "?subject=alice&subject=bob",
		"?subject=%zz", "?subject=alice;route=x", "?Subject=alice"} {
		if code, body := r.post("DELETE", "/sessions"+query, "", ""); code != http.StatusBadRequest {
			t.Errorf("%q: %d %s", query, code, body)
		}
	}
	if n := r.ends("/sessions?subject=alice&route=/other"); n != 0 {
		t.Errorf("%d ended", n)
	}
	for _, query := range []string{"?subject=alice", "?x"} { // it may mean another session
		if code, body := r.post("DELETE", "/sessions/0123"+query, "", ""); code != http.StatusBadRequest {
			t.Errorf("an id and %s: %d %s", query, code, body)
		}
	}
	if code, body := r.post("DELETE", "/sessions/0123", "", ""); code != http.StatusNotFound {
		t.Errorf("%d %s", code, body)
	}
	if n := r.sessions.Len(); n != 3 {
		t.Fatalf("%d sessions are left", n)
	}
	if n := r.ends("/sessions?subject=alice&route=/my-agent&issuer=" + wstest.IssuerName); n != 2 {
		t.Errorf("%d ended", n)
	}
	alice.HearsClose(1000, "ended")
	twice.HearsClose(1000, "ended")
	bob.Say(bob.Frame(rawws.Fin|rawws.Text, "still here"))
	bob.Hears(rawws.Fin|rawws.Text, "still here")
	for _, s := range r.sessions.List() {
		if s.Subject() == "bob" && r.ends("/sessions/"+s.ID) != 1 {
			t.Error("bob was not ended")
		}
	}
	bob.HearsClose(1000, "ended")
	r.connect("Authorization: Bearer " + i.Token()) // nothing bars her
}
