package dev

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// startIssuer is an issuer at the address where it is served.
func startIssuer(t *testing.T, alg string) *httptest.Server {
	t.Helper()
	signer, err := auth.GenerateSigner(alg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	issuer, err := NewIssuer("http://"+server.Listener.Addr().String(), signer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = issuer
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// getJSON reads the JSON document at address into v.
func getJSON(t *testing.T, address string, v any) {
	t.Helper()
	res, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	readJSON(t, res, v)
}

// readJSON reads a JSON answer with status 200 into v.
func readJSON(t *testing.T, res *http.Response, v any) {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %s, %s: %s", res.Request.URL, res.Status, res.Header.Get("Content-Type"), body)
	}
	if err := json.Unmarshal(body, v); err != nil {
		t.Fatalf("%s: %v: %s", res.Request.URL, err, body)
	}
}

// tokenAnswer is what the token endpoint gives.
type tokenAnswer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   *int64 `json:"expires_in"`
	Scope       string `json:"scope"`
}

// askToken sends a token request whose body is the form.
func askToken(t *testing.T, issuer, form string) tokenAnswer {
	t.Helper()
	res, err := http.Post(issuer+"/token", formType, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q, want no-store", got)
	}
	var answer tokenAnswer
	readJSON(t, res, &answer)
	return answer
}

// verify judges a token as a gateway does: keys by discovery, issuer, audience, expiry.
func verify(t *testing.T, issuer, token string) (jwt.MapClaims, error) {
	t.Helper()
	var document struct {
		Issuer     string   `json:"issuer"`
		KeysURL    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	getJSON(t, issuer+"/.well-known/openid-configuration", &document)
	if document.Issuer != issuer {
		t.Fatalf("discovered issuer %q, want %q", document.Issuer, issuer)
	}
	var keys json.RawMessage
	getJSON(t, document.KeysURL, &keys)
	set, err := keyfunc.NewJWKSetJSON(keys)
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.MapClaims{}
	_, err = jwt.ParseWithClaims(token, claims, set.Keyfunc, jwt.WithValidMethods(document.Algorithms), jwt.WithIssuer(document.Issuer),
		jwt.WithAudience("agents"), jwt.WithExpirationRequired(), jwt.WithJSONNumber())
	return claims, err
}

func TestTokenVerifiesWithWhatIsDiscovered(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256"} {
		t.Run(alg, func(t *testing.T) {
			issuer := startIssuer(t, alg)
			answer := askToken(t, issuer.URL, "grant_type=client_credentials&client_id=anybody&client_secret=anything")
			if answer.TokenType != "Bearer" || answer.Scope != "agents:access" {
				t.Errorf("answer %+v", answer)
			}
			if answer.ExpiresIn == nil || *answer.ExpiresIn < 3590 || *answer.ExpiresIn > 3600 {
				t.Errorf("expires_in %v, want about 3600", answer.ExpiresIn)
			}
			claims, err := verify(t, issuer.URL, answer.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			want := jwt.MapClaims{
				"iss": issuer.URL, "sub": "dev-user", "email": "dev-user@example.com", "roles": []any{"user"}, "aud": "agents",
				"scope": "agents:access", "iat": claims["iat"], "exp": claims["exp"],
			}
			if !reflect.DeepEqual(claims, want) {
				t.Errorf("claims %v, want %v", claims, want)
			}
		})
	}
}

func TestDiscoveryDocumentNamesWhatIsRequired(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	var document map[string]any
	getJSON(t, issuer.URL+"/.well-known/openid-configuration", &document)
	for name, want := range map[string]any{
		"issuer":                                issuer.URL,
		"jwks_uri":                              issuer.URL + "/keys",
		"token_endpoint":                        issuer.URL + "/token",
		"grant_types_supported":                 []any{"authorization_code", "client_credentials"},
		"response_types_supported":              []any{"code"},
		"subject_types_supported":               []any{"public"},
		"id_token_signing_alg_values_supported": []any{"ES256"},
	} {
		if got := document[name]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestTokenHasTheClaimsThatWereAskedFor(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	tests := []struct {
		name, form, claim string
		want              any // nil: the claim is not there
	}{
		{"subject", "sub=alice", "sub", "alice"},
		{"no value counts as left out", "sub=", "sub", "dev-user"},
		{"the email follows the subject", "sub=alice", "email", "alice@example.com"},
		{"a subject that is an email", "sub=alice@b.example", "email", "alice@b.example"},
		{"email", "email=a@b.example&sub=alice", "email", "a@b.example"},
		{"roles by comma", "roles=user,admin", "roles", []any{"user", "admin"}},
		{"roles by space", "roles=user+admin", "roles", []any{"user", "admin"}},
		{"roles as JSON", `roles=["admin"]`, "roles", []any{"admin"}},
		{"no roles, as JSON", "roles=[]", "roles", []any{}},
		{"audiences as JSON", `aud=["agents","my+others"]`, "aud", []any{"agents", "my others"}},
		{"a resource beside the usual audience", "resource=http://a.example/mcp", "aud", []any{"agents", "http://a.example/mcp"}},
		{"resources beside other audiences", "aud=agents,x&resource=http://a.example/&resource=http://b.example/", "aud",
			[]any{"agents", "x", "http://a.example/", "http://b.example/"}},
		{"one audience", "aud=agents", "aud", "agents"},
		{"several audiences", "aud=agents,others", "aud", []any{"agents", "others"}},
		{"scope", "scope=a+b", "scope", "a b"},
		{"a claim", "claim=tenant=%22blue%22", "tenant", "blue"},
		{"a claim named by a URL", "claim=https://x.example/y=[1]", "https://x.example/y", []any{json.Number("1")}},
		{"a claim with many digits", "claim=n=12345678901234567890", "n", json.Number("12345678901234567890")},
		{"several claims", "claim=a=1&claim=b=true", "b", true},
		{"a claim over a field", "sub=alice&claim=sub=%22%22", "sub", ""},
		{"a claim left out", "claim=email=", "email", nil},
		{"an unknown field", "surprise=1", "surprise", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			claims, err := verify(t, issuer.URL, askToken(t, issuer.URL, tt.form).AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			if got, there := claims[tt.claim]; !reflect.DeepEqual(got, tt.want) || there != (tt.want != nil) {
				t.Errorf("%s is %#v, want %#v", tt.claim, got, tt.want)
			}
		})
	}
}

func TestBrokenTokenIsBrokenInOneWay(t *testing.T) {
	issuer := startIssuer(t, "RS256")
	tests := []struct {
		form string
		want error
	}{
		{"broken=signature", jwt.ErrTokenSignatureInvalid},
		{"broken=expired", jwt.ErrTokenExpired},
		{"lifetime=-3600", jwt.ErrTokenExpired},
		{"broken=audience", jwt.ErrTokenInvalidAudience},
		{"broken=issuer", jwt.ErrTokenInvalidIssuer},
		{"broken=key", keyfunc.ErrKeyfunc},
		{"broken=alg-none", jwt.ErrTokenSignatureInvalid},
		{"claim=exp=", jwt.ErrTokenRequiredClaimMissing},
	}
	all := []error{jwt.ErrTokenMalformed, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenExpired, jwt.ErrTokenInvalidAudience,
		jwt.ErrTokenInvalidIssuer, keyfunc.ErrKeyfunc, jwt.ErrTokenRequiredClaimMissing}
	for _, tt := range tests {
		t.Run(tt.form, func(t *testing.T) {
			_, err := verify(t, issuer.URL, askToken(t, issuer.URL, tt.form).AccessToken)
			for _, e := range all {
				if errors.Is(err, e) != (e == tt.want) {
					t.Errorf("%v: is %q: %v", err, e, errors.Is(err, e))
				}
			}
		})
	}
}

// What the comments on the faults say is what the gateway's own judgement says.
func TestGatewayNamesTheFault(t *testing.T) {
	issuer := startIssuer(t, "RS256")
	c := config.DefaultAuthentication()
	c.JWT.Issuer, c.JWT.Audiences = issuer.URL, []string{"agents"}
	keys := auth.NewKeys(auth.Options{})
	a, err := auth.New(c, config.Default().Limits.MaxTokenBytes, keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for fault, want := range map[Fault]outcome.Reason{
		BrokenSignature: outcome.BadSignature,
		BrokenExpiry:    outcome.Expired,
		BrokenAudience:  outcome.WrongAudience,
		BrokenIssuer:    outcome.WrongIssuer,
		BrokenKey:       outcome.UnknownKey,
		BrokenAlgNone:   outcome.AlgNotAllowed,
	} {
		token := askToken(t, issuer.URL, "broken="+string(fault)).AccessToken
		credential, _, err := a.Take(http.Header{"Authorization": {"Bearer " + token}}, "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Verify(t.Context(), credential, nil)
		if refused, ok := errors.AsType[*outcome.Refusal](err); !ok || refused.Reason != want {
			t.Errorf("%s: %v, want %s", fault, err, want)
		}
	}
}

func TestExpiresInTellsTheTruthOfABrokenToken(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	if left := askToken(t, issuer.URL, "broken=expired").ExpiresIn; left == nil || *left > -3600 || *left < -3610 {
		t.Errorf("expires_in %v, want about -3600", left)
	}
	if left := askToken(t, issuer.URL, "claim=exp=12").ExpiresIn; left != nil {
		t.Errorf("expires_in %d for an exp that was set by hand", *left)
	}
}

func TestTokenErrors(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	tests := []struct{ name, kind, form, want string }{
		{"another grant", formType, "grant_type=password&username=a&password=b", "unsupported_grant_type"},
		{"a field twice", formType, "sub=a&sub=b", "invalid_request"},
		{"lifetime in words", formType, "lifetime=soon", "invalid_request"},
		{"lifetime too long", formType, "lifetime=9223372036854775807", "invalid_request"},
		{"roles of another kind", formType, "roles=[1]", "invalid_request"},
		{"roles of broken JSON", formType, `roles=["admin"`, "invalid_request"},
		{"aud of another kind", formType, "aud=[{}]", "invalid_request"},
		{"a resource that is relative", formType, "resource=/mcp", "invalid_target"},
		{"a resource with a fragment", formType, "resource=http://a.example/%23b", "invalid_target"},
		{"a code that was not given", formType, "grant_type=authorization_code&code=x&code_verifier=y", "invalid_grant"},
		{"no code", formType, "grant_type=authorization_code", "invalid_grant"},
		{"claim without a name", formType, "claim==1", "invalid_request"},
		{"claim without JSON", formType, "claim=tenant=blue", "invalid_request"},
		{"claim with two values", formType, "claim=tenant=1+2", "invalid_request"},
		{"unknown fault", formType, "broken=everything", "invalid_request"},
		{"bad escape", formType, "sub=%zz", "invalid_request"},
		{"too long", formType, "sub=" + strings.Repeat("a", maxForm), "invalid_request"},
		{"no form", "application/json", `{"sub":"alice"}`, "invalid_request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, err := http.Post(issuer.URL+"/token", tt.kind, strings.NewReader(tt.form))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var refused refusal
			if err := json.NewDecoder(res.Body).Decode(&refused); err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusBadRequest || refused.Code != tt.want || refused.Description == "" {
				t.Errorf("%s %+v, want 400 %s", res.Status, refused, tt.want)
			}
		})
	}
	for _, query := range []string{"sub=%zz", "lifetime=soon", "roles=[1]", "sub=a&sub=b"} {
		if code, body := do(t, "GET", issuer.URL+"/token?"+query, nil, nil); code != http.StatusBadRequest ||
			strings.HasPrefix(body, "ey") {
			t.Errorf("GET /token?%s: %d %s", query, code, body)
		}
	}
}

// A shell takes it with TOKEN=$(curl -s …), a page with fetch.
func TestGetGivesTheTokenAlone(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	code, body := do(t, "GET", issuer.URL+"/token?sub=alice&roles=admin", nil, nil)
	claims, err := verify(t, issuer.URL, body)
	if code != http.StatusOK || err != nil || claims["sub"] != "alice" || claims["email"] != "alice@example.com" {
		t.Errorf("%d %s, %v, %v", code, body, claims, err)
	}
}

func TestLifetimeIsThatOfEveryToken(t *testing.T) {
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := NewIssuer("http://127.0.0.1:9000", signer, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(issuer)
	defer server.Close()
	if left := askToken(t, server.URL, "sub=alice").ExpiresIn; left == nil || *left < 18 || *left > 20 {
		t.Errorf("expires_in %v, want about 20", left)
	}
	if left := askToken(t, server.URL, "lifetime=5").ExpiresIn; left == nil || *left < 3 || *left > 5 {
		t.Errorf("expires_in %v, want about 5", left)
	}
}

// A token is for pages of the developer's own machine. Those of a name that resolves to it for
// an attack (DNS rebinding) are not.
func TestOnlyPagesOfThisMachineReadTokens(t *testing.T) {
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := NewIssuer("https://issuer.example.com", signer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "POST"} {
		for host, want := range map[string]int{
			"127.0.0.1:8080": 200, "[::1]:8080": 200, "192.0.2.1": 200, "localhost:8080": 200, "app.localhost": 200, "issuer:9000": 200,
			"issuer.example.com": 200, "rebound.example.com": 421, "rebound.example.com:8080": 421, "127.0.0.1.example.com": 421,
		} {
			r := httptest.NewRequest(method, "/token", nil)
			r.Host = host
			w := httptest.NewRecorder()
			if issuer.ServeHTTP(w, r); w.Code != want {
				t.Errorf("%s at %s: %d, want %d", method, host, w.Code, want)
			}
		}
		for origin, want := range map[string]bool{
			"http://localhost:5173": true, "http://127.0.0.1:3000": true, "https://[::1]:3000": true,
			"https://evil.example.com": false, "null": false, "http://localhost.example.com": false, "": false,
		} {
			r := httptest.NewRequest(method, "/token", nil)
			r.Host = "127.0.0.1:9000"
			r.Header.Set("Origin", origin)
			w := httptest.NewRecorder()
			issuer.ServeHTTP(w, r)
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != "" != want || want && got != origin ||
				w.Header().Get("Vary") != "Origin" {
				t.Errorf("%s from %q: headers %v", method, origin, w.Header())
			}
		}
	}
}

func TestIssuerTokenLeavesItsCallersClaimsAlone(t *testing.T) {
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := NewIssuer("https://issuer.example.com/", signer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	claims := issuer.Claims()
	if claims["iss"] != "https://issuer.example.com/" {
		t.Errorf("iss %v", claims["iss"])
	}
	for _, fault := range append(faults, "") {
		if token, err := issuer.Token(claims, fault); err != nil || strings.Count(token, ".") != 2 {
			t.Errorf("%q: %q, %v", fault, token, err)
		}
	}
	if claims["aud"] != "agents" || claims["iss"] != "https://issuer.example.com/" {
		t.Errorf("claims became %v", claims)
	}
	if _, err := issuer.Token(claims, "unknown"); err == nil {
		t.Error("an unknown fault is no error")
	}
}

func TestIssuerIsAURL(t *testing.T) {
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "issuer", "ftp://issuer", "http://", "http://issuer?a=b", "http://issuer#a", "http://%zz"} {
		if _, err := NewIssuer(bad, signer, time.Hour); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzTokenRequest(f *testing.F) {
	signer, err := auth.GenerateSigner("ES256")
	if err != nil {
		f.Fatal(err)
	}
	issuer, err := NewIssuer("http://127.0.0.1", signer, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	for _, form := range []string{"", "sub=a&roles=a,b&lifetime=-5", "claim=a=1&claim=b={}&broken=key", "claim=exp=null", "grant_type=x",
		"lifetime=-1&broken=alg-none"} {
		f.Add(form)
	}
	f.Fuzz(func(t *testing.T, form string) {
		r := httptest.NewRequest("POST", "http://127.0.0.1/token", strings.NewReader(form))
		r.Header.Set("Content-Type", formType)
		w := httptest.NewRecorder()
		issuer.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK:
			var answer tokenAnswer
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || strings.Count(answer.AccessToken, ".") != 2 {
				t.Errorf("%q: %v: %s", form, err, w.Body)
			}
			if _, err := url.ParseQuery(form); err != nil {
				t.Errorf("%q is a form", form)
			}
		case http.StatusBadRequest:
			var refused refusal
			if err := json.Unmarshal(w.Body.Bytes(), &refused); err != nil || refused.Code == "" {
				t.Errorf("%q: %v: %s", form, err, w.Body)
			}
		default:
			t.Errorf("%q: %d %s", form, w.Code, w.Body)
		}
	})
}
