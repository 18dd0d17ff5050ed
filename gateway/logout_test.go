package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

const formType = "application/x-www-form-urlencoded"

// logoutToken returns a token of the issuer that logs alice out, with changes.
func logoutTokenOf(i *wstest.Issuer, pairs ...any) string {
	now := time.Now()
	return i.Token(append([]any{"roles", nil, "iat", now.Unix(), "exp", now.Add(2 * time.Minute).Unix(), "jti", now.String(),
		"events", map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}, pairs...)...)
}

// logsOut posts a body to the path of logouts.
func (r *running) logsOut(media, body string) (code int, header http.Header, failed oauthError) {
	r.t.Helper()
	resp, err := http.Post("http://"+r.Addr().String()+"/.gateway/logout", media, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || len(text) > 0 && json.Unmarshal(text, &failed) != nil {
		r.t.Fatalf("%s, %v", text, err)
	}
	return resp.StatusCode, resp.Header, failed
}

func form(token string) string { return url.Values{"logout_token": {token}, "state": {"x"}}.Encode() }

func TestALogoutAtTheIssuerEndsTheSessionsOfThatLogin(t *testing.T) {
	i := wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	first, second := i.Token("sid", "s1", "iat", time.Now().Unix()), i.Token("sid", "s2", "iat", time.Now().Unix())
	one, two := r.connect("Authorization: Bearer "+first), r.connect("Authorization: Bearer "+second)
	token := logoutTokenOf(i, "sid", "s1")
	code, header, _ := r.logsOut(formType+"; charset=utf-8", form(token))
	if code != 200 || header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", code, header)
	}
	one.HearsClose(3000, "revoked")
	if code, word := r.attempt(first); code != 401 || word != outcome.Revoked {
		t.Errorf("the client comes back: %d %s", code, word)
	}
	if code, _ := r.attempt(second); code != 101 {
		t.Errorf("another login: %d", code)
	}
	two.Say(two.Frame(rawws.Fin|rawws.Text, "still here"))
	two.Hears(rawws.Fin|rawws.Text, "still here")

	if code, _, failed := r.logsOut(formType, form(token)); code != 400 || failed != (oauthError{"invalid_request", outcome.BadLogout}) {
		t.Errorf("the token a second time: %d %+v", code, failed)
	}
	if code, _, failed := r.logsOut(formType, form(logoutTokenOf(i))); code != 200 {
		t.Fatalf("%d %+v", code, failed)
	}
	two.HearsClose(3000, "revoked")
	if code, word := r.attempt(second); code != 401 || word != outcome.Revoked {
		t.Errorf("a token from before the logout: %d %s", code, word)
	}
	if code, word := r.attempt(i.Token("iat", time.Now().Add(time.Second).Unix())); code != 101 {
		t.Errorf("a token from after it: %d %s", code, word)
	}
	lines := r.log.lines(t, "answered")
	if len(lines) != 2 || lines[0]["reason"] != "logout" || lines[0]["sessions"] != 1.0 || lines[0]["status"] != 200.0 {
		t.Errorf("%v", lines)
	}
	if strings.Contains(r.log.String(), token) {
		t.Error("the log has a token")
	}
	for _, v := range r.revoked.List() {
		if !v.Logout || v.Until.Before(time.Now().Add(23*time.Hour)) {
			t.Errorf("%+v", v)
		}
	}
}

func TestAWrongLogoutTokenEndsNothing(t *testing.T) {
	i, other := wstest.NewIssuer(t), wstest.NewIssuer(t)
	r := run(t, i.Config(listening(t, echoing)))
	alice := r.connect("Authorization: Bearer " + i.Token("sid", "s1"))
	good, now := logoutTokenOf(i), time.Now().Unix()
	for name, c := range map[string]struct {
		media, body string
		want        outcome.Reason
	}{
		"an access token":      {formType, form(i.Token("iat", time.Now().Unix(), "jti", "j")), outcome.BadLogout},
		"another issuer's key": {formType, form(logoutTokenOf(other)), outcome.UnknownKey},
		"another client's":     {formType, form(logoutTokenOf(i, "aud", "others")), outcome.WrongAudience},
		"with a nonce":         {formType, form(logoutTokenOf(i, "nonce", "n")), outcome.BadLogout},
		"expired":              {formType, form(logoutTokenOf(i, "iat", now-300, "exp", now-200)), outcome.Expired},
		"no form":              {"application/json", form(good), outcome.BadLogout},
		"no media type":        {"", form(good), outcome.BadLogout},
		"nothing":              {formType, "", outcome.BadLogout},
		"an empty token":       {formType, "logout_token=", outcome.BadLogout},
		"two tokens":           {formType, form(good) + "&" + form(good), outcome.BadLogout},
		"no escapes":           {formType, "logout_token=%zz&" + form(good), outcome.BadLogout},
		"a long body":          {formType, form(good) + "&x=" + strings.Repeat("x", 100_000), outcome.BadLogout},
	} {
		code, header, failed := r.logsOut(c.media, c.body)
		if code != 400 || failed != (oauthError{"invalid_request", c.want}) || header.Get("Content-Type") != "application/json" ||
			header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %+v %v", name, code, failed, header)
		}
	}
	for _, method := range []string{"GET", "PUT", "OPTIONS", "HEAD"} {
		req, _ := http.NewRequest(method, "http://"+r.Addr().String()+"/.gateway/logout?"+form(good), nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST" {
			t.Errorf("%s: %s %v", method, resp.Status, resp.Header)
		}
	}
	if code, _, failed := r.logsOut(formType, "x=y"); code != 400 || len(r.revoked.All()) != 0 {
		t.Errorf("%d %+v, %+v", code, failed, r.revoked.All())
	}
	alice.Say(alice.Frame(rawws.Fin|rawws.Text, "still here"))
	alice.Hears(rawws.Fin|rawws.Text, "still here")
	if code, _, failed := r.logsOut(formType, form(good)); code != 200 {
		t.Errorf("the good one: %d %+v", code, failed)
	}
	alice.HearsClose(3000, "revoked")
	if strings.Contains(r.log.String(), good) || strings.Contains(r.log.String(), "logout_token=") {
		t.Error("the log has a token or a query")
	}
}

// What could not be followed may be sent again.
func TestALogoutThatFindsNoRoomCanBeRepeated(t *testing.T) {
	for _, tt := range []struct {
		name      string
		addresses []string
	}{
		{"alone", nil},
		{"with replicas", []string{"127.0.0.1:1"}}, // a use is remembered for them also while Redis is away
	} {
		t.Run(tt.name, func(t *testing.T) { logoutWithoutRoom(t, tt.addresses) })
	}
}

func logoutWithoutRoom(t *testing.T, redis []string) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Revocations.Max = 1
	c.Cluster.Redis.Addresses = redis
	r := run(t, c)
	v := r.revokes(`{"issuer":"` + wstest.IssuerName + `","subject":"bob"}`)
	token := form(logoutTokenOf(i))
	if code, _, failed := r.logsOut(formType, token); code != 400 || failed != (oauthError{"server_error", outcome.TooManyRevocations}) {
		t.Errorf("%d %+v", code, failed)
	}
	r.post("DELETE", "/revocations/"+v.ID, "", "")
	if code, _, failed := r.logsOut(formType, token); code != 200 {
		t.Errorf("%d %+v", code, failed)
	}
}

func TestWrongLogoutTokensMakeTheirAddressWait(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config("agent.invalid")
	c.Limits.RefusedPerIP = 3
	r := run(t, c)
	for n := range 5 {
		want := 400
		if n > 3 {
			want = 429
		}
		resp, err := http.Post("http://"+r.Addr().String()+"/.gateway/logout", formType, strings.NewReader(form("x")))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("attempt %d: %s", n, resp.Status)
		}
	}
}

func TestALogoutIsKnownAfterARestart(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config(listening(t, echoing))
	c.Revocations.File = t.TempDir() + "/revocations"
	first := run(t, c)
	token := i.Token("iat", time.Now().Unix())
	if code, _, failed := first.logsOut(formType, form(logoutTokenOf(i))); code != 200 {
		t.Fatalf("%d %+v", code, failed)
	}
	first.cut()
	first.over()
	if again, err := auth.ReadRevocations(c.Revocations.File, 10); err != nil || len(again.List()) != 1 {
		t.Fatalf("%+v, %v", again, err)
	}
	if code, word := run(t, c).attempt(token); code != 401 || word != outcome.Revoked {
		t.Errorf("%d %s", code, word)
	}
}
