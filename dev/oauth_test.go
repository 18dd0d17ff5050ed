package dev

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
)

// pkce is a verifier with its challenge.
func pkce() (verifier, challenge string) {
	verifier = strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	return verifier, base64.RawURLEncoding.EncodeToString(sum[:])
}

// login asks for a code, with changes to a right request, and gives where the browser is sent, nil
// if nowhere.
func login(t *testing.T, issuer string, changes url.Values) url.Values {
	t.Helper()
	_, challenge := pkce()
	q := url.Values{
		"response_type": {"code"}, "client_id": {"client"}, "redirect_uri": {"http://localhost:3030/callback"}, "state": {"st"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}, "scope": {"agents:access more"},
		"resource": {"http://127.0.0.1:8080/mcp"},
	}
	maps.Copy(q, changes)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Get(issuer + "/authorize?" + q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode == http.StatusBadRequest {
		return nil
	}
	to, err := res.Location()
	if err != nil || res.StatusCode != http.StatusFound || !strings.HasPrefix(to.String(), q.Get("redirect_uri")) {
		t.Fatalf("%s to %v, %v", res.Status, to, err)
	}
	return to.Query()
}

// redeem asks for the token of a code, with changes to a right request.
func redeem(t *testing.T, issuer, code string, changes url.Values) (status int, answer map[string]any) {
	t.Helper()
	verifier, _ := pkce()
	form := url.Values{
		"grant_type": {authorizationCode}, "code": {code}, "code_verifier": {verifier}, "client_id": {"client"},
		"redirect_uri": {"http://localhost:3030/callback"}, "resource": {"http://127.0.0.1:8080/mcp"},
	}
	maps.Copy(form, changes)
	res, err := http.PostForm(issuer+"/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

func TestCodeIsGoodForOneToken(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	back := login(t, issuer.URL, url.Values{"login_hint": {"alice"}})
	if back.Get("state") != "st" || back.Get("iss") != issuer.URL || back.Get("code") == "" {
		t.Fatalf("sent back with %v", back)
	}
	status, answer := redeem(t, issuer.URL, back.Get("code"), nil)
	if status != http.StatusOK || answer["token_type"] != "Bearer" || answer["scope"] != "agents:access more" {
		t.Fatalf("%d %v", status, answer)
	}
	claims, err := verify(t, issuer.URL, answer["access_token"].(string))
	if err != nil || claims["sub"] != "alice" || claims["email"] != "alice@example.com" ||
		!reflect.DeepEqual(claims["aud"], []any{"agents", "http://127.0.0.1:8080/mcp"}) {
		t.Errorf("claims %v, %v", claims, err)
	}
	status, answer = redeem(t, issuer.URL, back.Get("code"), nil)
	if status != http.StatusBadRequest || answer["error"] != "invalid_grant" {
		t.Errorf("the code once more: %d %v", status, answer)
	}
}

func TestCodeIsForItsClientAlone(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	for name, tt := range map[string]struct {
		changes url.Values
		want    string
	}{
		"another client":       {url.Values{"client_id": {"other"}}, "invalid_grant"},
		"another redirect_uri": {url.Values{"redirect_uri": {"http://localhost:3031/callback"}}, "invalid_grant"},
		"another verifier":     {url.Values{"code_verifier": {strings.Repeat("w", 43)}}, "invalid_grant"},
		"no verifier":          {url.Values{"code_verifier": {""}}, "invalid_grant"},
		"another resource":     {url.Values{"resource": {"http://127.0.0.1:8080/other"}}, "invalid_target"},
	} {
		t.Run(name, func(t *testing.T) {
			code := login(t, issuer.URL, nil).Get("code")
			status, answer := redeem(t, issuer.URL, code, tt.changes)
			if status != http.StatusBadRequest || answer["error"] != tt.want {
				t.Errorf("%d %v, want %s", status, answer, tt.want)
			}
			if status, _ := redeem(t, issuer.URL, code, nil); status != http.StatusBadRequest {
				t.Errorf("after a wrong attempt the code is still good: %d", status)
			}
		})
	}
}

func TestBadAuthorizationRequests(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	for name, tt := range map[string]struct {
		changes url.Values
		want    string // empty: the browser is sent nowhere
	}{
		"a redirect_uri on another machine": {url.Values{"redirect_uri": {"https://evil.example.com/"}}, ""},
		"one that looks like this machine":  {url.Values{"redirect_uri": {"http://localhost.example.com/"}}, ""},
		"one with a user":                   {url.Values{"redirect_uri": {"http://localhost@evil.example.com/"}}, ""},
		"one that is a script":              {url.Values{"redirect_uri": {"javascript:alert(1)"}}, ""},
		"none":                              {url.Values{"redirect_uri": {""}}, ""},
		"no PKCE":                           {url.Values{"code_challenge": {""}}, "invalid_request"},
		"PKCE that proves nothing":          {url.Values{"code_challenge_method": {"plain"}}, "invalid_request"},
		"a token at once":                   {url.Values{"response_type": {"token"}}, "unsupported_response_type"},
		"no client":                         {url.Values{"client_id": {""}}, "invalid_request"},
		"a resource that is no URL":         {url.Values{"resource": {"mcp"}}, "invalid_target"},
	} {
		t.Run(name, func(t *testing.T) {
			back := login(t, issuer.URL, tt.changes)
			if back.Get("error") != tt.want || back.Has("code") || (tt.want == "") != (back == nil) {
				t.Errorf("sent back with %v, want %q", back, tt.want)
			}
		})
	}
	if back := login(t, issuer.URL, url.Values{"redirect_uri": {"com.example.app:/callback"}}); back.Get("code") == "" {
		t.Errorf("an application's own scheme is sent back with %v", back)
	}
}

func TestCodesAreBoundedAndEnd(t *testing.T) {
	c := codes{waiting: map[string]grant{}}
	first := c.add(grant{})
	for range maxCodes - 1 {
		c.add(grant{})
	}
	if code := c.add(grant{}); code != "" {
		t.Error("one code too many")
	}
	g := c.waiting[first]
	g.until = time.Now().Add(-time.Second)
	c.waiting[first] = g
	if _, ok := c.take(first); ok {
		t.Error("a code that is too old is good")
	}
	if c.add(grant{}) == "" {
		t.Error("no code, though there is room")
	}
}

func TestClientsRegister(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	register := func(body string) (int, map[string]any) {
		status, text := do(t, "POST", issuer.URL+"/register", http.Header{"Content-Type": {"application/json"}}, strings.NewReader(body))
		var answer map[string]any
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return status, answer
	}
	status, answer := register(`{"redirect_uris":["http://127.0.0.1:3030/callback"],"client_name":"a client",` +
		`"token_endpoint_auth_method":"client_secret_post"}`)
	if id, _ := answer["client_id"].(string); status != http.StatusCreated || id == "" || answer["client_name"] != "a client" ||
		answer["token_endpoint_auth_method"] != "none" {
		t.Errorf("%d %v", status, answer)
	}
	for body, want := range map[string]string{
		`[]`: "invalid_client_metadata", `null`: "invalid_client_metadata", `{`: "invalid_client_metadata",
		`{"redirect_uris":["https://evil.example.com/"]}`: "invalid_redirect_uri", `{"redirect_uris":[1]}`: "invalid_redirect_uri",
		`{"a":"` + strings.Repeat("a", maxRegistration) + `"}`: "invalid_client_metadata",
	} {
		if status, answer := register(body); status != http.StatusBadRequest || answer["error"] != want {
			t.Errorf("%.40s: %d %v, want %s", body, status, answer, want)
		}
	}
}

// A page of this machine may register with JSON, for which a browser asks first. One from
// elsewhere may not.
func TestPreflightsAreForPagesOfThisMachine(t *testing.T) {
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := NewIssuer("http://127.0.0.1:9000", signer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]string{"http://localhost:6274": "http://localhost:6274", "https://evil.example.com": ""} {
		r := httptest.NewRequest("OPTIONS", "http://127.0.0.1:9000/register", nil)
		r.Header.Set("Origin", origin)
		w := httptest.NewRecorder()
		issuer.ServeHTTP(w, r)
		if got := w.Header().Get("Access-Control-Allow-Origin"); got != want || w.Code != http.StatusNoContent {
			t.Errorf("%s: %d, allowed %q", origin, w.Code, got)
		}
	}
}
