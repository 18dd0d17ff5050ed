package auth

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// logoutOf returns the claims of a good logout token, with changes.
func logoutOf(changes object) object {
	return with(object{"iss": issuerName, "aud": "agents", "iat": now.Unix(), "exp": now.Unix() + 120, "jti": "l1", "sub": "user-1",
		"events": object{logoutEvent: object{}}}, changes)
}

// loggedOut judges a logout token that rsa1 has signed.
func loggedOut(a *gate, changes object) (Logout, error) {
	token := mint("rsa1", object{"alg": "RS256", "kid": "rsa1", "typ": "logout+jwt"}, logoutOf(changes))
	return a.Logout(context.Background(), token, netip.Addr{})
}

func TestLogoutTokens(t *testing.T) {
	a := ready(t, allKeys(), nil)
	for name, c := range map[string]struct {
		changes object
		want    outcome.Reason
	}{
		"good":                              {nil, ""},
		"sid alone":                         {object{"sub": nil, "sid": "s1"}, ""},
		"sid and sub":                       {object{"sid": "s1"}, ""},
		"several audiences":                 {object{"aud": []string{"others", "agents"}}, ""},
		"other events beside it":            {object{"events": object{logoutEvent: object{}, "https://else": object{}}}, ""},
		"an event with content":             {object{"events": object{logoutEvent: object{"x": 1}}}, ""},
		"it expired within the skew":        {object{"iat": now.Unix() - 90, "exp": now.Unix() - 30}, ""},
		"issued within the skew":            {object{"iat": now.Unix() + 30}, ""},
		"a day":                             {object{"exp": now.Unix() + 86400}, ""},
		"fractions":                         {object{"iat": float64(now.Unix()) + 0.5}, ""},
		"no events":                         {object{"events": nil}, outcome.BadLogout},
		"events is a string":                {object{"events": logoutEvent}, outcome.BadLogout},
		"events is a list":                  {object{"events": []string{logoutEvent}}, outcome.BadLogout},
		"events is empty":                   {object{"events": object{}}, outcome.BadLogout},
		"another event":                     {object{"events": object{logoutEvent + "/": object{}}}, outcome.BadLogout},
		"the event is null":                 {object{"events": json.RawMessage(`{"` + logoutEvent + `":null}`)}, outcome.BadLogout},
		"the event is a list":               {object{"events": json.RawMessage(`{"` + logoutEvent + `":[]}`)}, outcome.BadLogout},
		"a nonce":                           {object{"nonce": "n"}, outcome.BadLogout},
		"an empty nonce":                    {object{"nonce": ""}, outcome.BadLogout},
		"a nonce that is null":              {object{"nonce": json.RawMessage("null")}, outcome.BadLogout},
		"neither sub nor sid":               {object{"sub": nil}, outcome.BadLogout},
		"empty sub":                         {object{"sub": ""}, outcome.BadLogout},
		"sid is a number":                   {object{"sid": 5}, outcome.BadLogout},
		"sid is null":                       {object{"sid": json.RawMessage("null")}, outcome.BadLogout},
		"sub is a number":                   {object{"sub": 5}, outcome.Malformed},
		"no jti":                            {object{"jti": nil}, outcome.BadLogout},
		"empty jti":                         {object{"jti": ""}, outcome.BadLogout},
		"a long jti":                        {object{"jti": strings.Repeat("j", maxName+1)}, outcome.BadLogout},
		"no iat":                            {object{"iat": nil}, outcome.BadLogout},
		"iat is a string":                   {object{"iat": "now"}, outcome.Malformed},
		"no exp":                            {object{"exp": nil}, outcome.BadLogout},
		"exp is 0":                          {object{"exp": 0, "iat": 0}, outcome.Expired},
		"exp before iat":                    {object{"exp": now.Unix() - 1}, outcome.BadLogout},
		"exp a second more than a day away": {object{"exp": now.Unix() + 86401}, outcome.BadLogout},
		"expired":                           {object{"iat": now.Unix() - 200, "exp": now.Unix() - 61}, outcome.Expired},
		"issued in the future":              {object{"iat": now.Unix() + 61}, outcome.NotYetValid},
		"not valid yet":                     {object{"nbf": now.Unix() + 61}, outcome.NotYetValid},
		"no audience":                       {object{"aud": nil}, outcome.WrongAudience},
		"another client's":                  {object{"aud": "others"}, outcome.WrongAudience},
		"another issuer":                    {object{"iss": issuerName + "/"}, outcome.WrongIssuer},
		"no issuer":                         {object{"iss": nil}, outcome.WrongIssuer},
		"another case of a name":            {object{"JTI": "x"}, outcome.Malformed},
	} {
		l, err := loggedOut(a, c.changes)
		if reasonOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (l.fault(now) != nil || l.Token != "l1" || !l.Logout || l.Issuer != issuerName) {
			t.Errorf("%s: %+v", name, l)
		}
	}
	for name, text := range map[string]string{
		"an access token":   good("rsa1", object{"iat": now.Unix()}),
		"not a token":       "x",
		"nothing":           "",
		"too long":          strings.Repeat("x", maxToken+1),
		"another signature": mint("rsa1", object{"alg": "RS256", "kid": "rsa1"}, logoutOf(nil)) + "AA",
		"a foreign key":     mint("rsa2", object{"alg": "RS256", "kid": "rsa1"}, logoutOf(nil)),
		"none":              encode([]byte(`{"alg":"none"}`)) + "." + encode(must(json.Marshal(logoutOf(nil)))) + ".AA",
		"HS256":             mint("rsa1", object{"alg": "HS256", "kid": "rsa1"}, logoutOf(nil)),
		"crit":              mint("rsa1", object{"alg": "RS256", "kid": "rsa1", "crit": []string{"x"}}, logoutOf(nil)),
	} {
		if _, err := a.Logout(t.Context(), text, netip.Addr{}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestTypesOfLogoutTokens(t *testing.T) {
	a := ready(t, allKeys(), nil)
	for typ, want := range map[string]outcome.Reason{
		`"JWT"`: "", `"jwt"`: "", `"logout+jwt"`: "", `"Logout+JWT"`: "", `"application/logout+jwt"`: "", `""`: outcome.WrongType,
		`"at+jwt"`: outcome.WrongType, `"secevent+jwt"`: outcome.WrongType, `"id_token"`: outcome.WrongType, `" JWT"`: outcome.WrongType,
		`5`: outcome.WrongType, `null`: outcome.WrongType,
	} {
		token := mint("rsa1", `{"alg":"RS256","kid":"rsa1","typ":`+typ+`}`, logoutOf(nil))
		if _, err := a.Logout(t.Context(), token, netip.Addr{}); reasonOf(err) != want {
			t.Errorf("%s: %v", typ, err)
		}
	}
	if _, err := a.Logout(t.Context(), mint("rsa1", object{"alg": "RS256", "kid": "rsa1"}, logoutOf(nil)), netip.Addr{}); err != nil {
		t.Errorf("without typ: %v", err)
	}
}

func TestWhomALogoutIsAbout(t *testing.T) {
	a := ready(t, allKeys(), func(c *config.Authentication) { c.JWT.PrincipalClaim = []string{"email"} })
	callerOf := func(changes object) *Identity {
		id, err := a.Verify(t.Context(), Credential{Token: good("rsa1", with(object{"email": "u@example.com"}, changes))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	for name, c := range map[string]struct {
		logout, token object
		barred        bool
	}{
		"the same login":                     {object{"sid": "s1"}, object{"sid": "s1"}, true},
		"the same login, issued later":       {object{"sid": "s1"}, object{"sid": "s1", "iat": now.Unix() + 50}, true},
		"another login of the user":          {object{"sid": "s1"}, object{"sid": "s2"}, false},
		"a token without sid":                {object{"sid": "s1"}, nil, false},
		"the user":                           {nil, nil, true},
		"the user, with a sid":               {nil, object{"sid": "s2"}, true},
		"in the second of the logout":        {nil, object{"iat": now.Unix()}, true},
		"in a part of that second":           {nil, object{"iat": float64(now.Unix()) + 0.9}, true},
		"in the next second":                 {nil, object{"iat": now.Unix() + 1}, false},
		"a token without iat":                {nil, object{"iat": nil}, true},
		"another user":                       {nil, object{"sub": "user-2"}, false},
		"a user with that name as principal": {nil, object{"sub": "user-2", "email": "user-1"}, false},
	} {
		l, err := loggedOut(a, c.logout)
		if err != nil {
			t.Fatal(err)
		}
		r, clock := revocationsOf(10)
		*clock = now.Add(time.Second)
		if _, err := r.Add(l.Revocation); err != nil {
			t.Fatal(err)
		}
		id := callerOf(c.token)
		if got := r.Barring(id) != ""; got != c.barred || l.Revocation.Bars(id) != c.barred {
			t.Errorf("%s: barred %v, want %v", name, got, c.barred)
		}
	}
}

func TestAudiencesOfLogoutTokens(t *testing.T) {
	for name, c := range map[string]struct {
		audiences, logout []string
		want              outcome.Reason
	}{
		"audiences by default":      {[]string{"agents"}, nil, ""},
		"their own":                 {[]string{"others"}, []string{"agents"}, ""},
		"their own alone":           {[]string{"agents"}, []string{"frontend"}, outcome.WrongAudience},
		"their own and none beside": {nil, []string{"https://agents/"}, ""},
		"none":                      {nil, nil, outcome.BadLogout},
	} {
		a := ready(t, allKeys(), func(j *config.Authentication) { j.JWT.Audiences, j.JWT.LogoutAudiences = c.audiences, c.logout })
		if _, err := loggedOut(a, nil); reasonOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// It is signed by the same keys, and may be for the same audience and without a type.
func TestALogoutTokenIsNotForAccess(t *testing.T) {
	a := ready(t, allKeys(), nil)
	if got := reason(a, mint("rsa1", object{"alg": "RS256", "kid": "rsa1"}, logoutOf(nil))); got != outcome.WrongType {
		t.Error(got)
	}
	if got := reason(a, good("rsa1", object{"events": object{"https://else": object{}}})); got != "" {
		t.Errorf("a token with other events: %s", got)
	}
}

func TestALogoutTokenIsUsedOnce(t *testing.T) {
	s, clock := NewSpent(), now
	s.now = func() time.Time { return clock }
	l := Logout{Revocation: Revocation{Issuer: "i"}, Token: "j", Expires: now.Add(time.Minute)}
	other := l
	other.Issuer = "other"
	for step, c := range []struct {
		l     Logout
		after time.Duration
		want  bool
	}{{l, 0, true}, {l, 0, false}, {other, 0, true}, {l, time.Minute, false}, {l, time.Minute + 1, true}} {
		clock = now.Add(c.after)
		if got := s.Use(c.l); got != c.want {
			t.Errorf("step %d: %v", step, got)
		}
	}
	s.Forget(other)
	if !s.Use(other) {
		t.Error("a token that was forgotten counts as used")
	}
}

func FuzzLogout(f *testing.F) {
	a := ready(f, allKeys(), nil)
	f.Add([]byte(`{"alg":"RS256","kid":"rsa1","typ":"logout+jwt"}`), must(json.Marshal(logoutOf(nil))))
	f.Add([]byte(`{"alg":"RS256","kid":"rsa1"}`), must(json.Marshal(logoutOf(object{"sid": "s", "events": object{logoutEvent: nil}}))))
	f.Fuzz(func(t *testing.T, header, payload []byte) {
		l, err := a.Logout(t.Context(), mint("rsa1", string(header), string(payload)), netip.Addr{})
		if err != nil {
			if r := reasonOf(err); r.Status() == 0 || !r.Refuses() {
				t.Fatal(err)
			}
			return
		}
		if fault := l.fault(now); fault != nil || l.Issuer != issuerName || l.Token == "" || l.Expires.Before(now) {
			t.Fatalf("%+v, %v", l, fault)
		}
		var claims map[string]any
		if json.Unmarshal(payload, &claims) != nil || claims["nonce"] != nil || claims["events"] == nil {
			t.Fatalf("%s was accepted", payload)
		}
	})
}
