package auth

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// A session keeps its identity and is judged again after a reload.
func TestIdentityIsJudgedByOtherRules(t *testing.T) {
	a := ready(t, allKeys(), nil)
	before, err := a.Verify(t.Context(), Credential{Token: good("rsa1", nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*config.Authentication)
		later  time.Duration
		want   outcome.Reason
	}{
		"the same rules":   {nil, 0, ""},
		"another audience": {func(c *config.Authentication) { c.JWT.Audiences = []string{"others"} }, 0, outcome.WrongAudience},
		"issuer gone":      {func(c *config.Authentication) { c.JWT.Issuer = "https://new.example.com" }, 0, outcome.WrongIssuer},
		"time":             {nil, time.Hour, ""}, // the session has its own clock
		"a shorter skew":   {func(c *config.Authentication) { c.JWT.ClockSkew = 0 }, 330 * time.Second, ""},
	} {
		v, err := New(settings(c.change), maxToken, a.Keys, nil)
		if err != nil {
			t.Fatal(err)
		}
		v.now = func() time.Time { return now.Add(c.later) }
		after, err := v.Admits(before)
		if reasonOf(err) != c.want || err == nil && (after.Subject != before.Subject || !after.Deadline.Equal(before.Deadline)) {
			t.Errorf("%s: %+v, %v", name, after, err)
		}
	}
}

func TestRefusalForThePrincipalNamesTheClaims(t *testing.T) {
	for _, c := range []struct {
		names  []string
		claims object
		want   string
	}{
		{[]string{"sub"}, object{"sub": ""}, "the token has no user: the claim sub is missing, empty or no text; " +
			"the issuer's key principalClaim names what the gateway looks for"},
		{[]string{"email", "upn"}, nil, "the claim email or upn is missing"},
		{[]string{"sub"}, object{"sub": "a "}, `the user is "a ", of the claim sub, with white space at an end or a line break; `},
		{[]string{"sub"}, object{"sub": "a"}, ""},
	} {
		a := ready(t, allKeys(), func(s *config.Authentication) { s.JWT.PrincipalClaim = c.names })
		id, err := a.Verify(t.Context(), Credential{Token: good("rsa1", c.claims)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = a.Principal(id)
		if c.want == "" && err != nil || c.want != "" && (reasonOf(err) != outcome.NoPrincipal || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v of %v: %v", c.names, c.claims, err)
		}
	}
}

func TestPrincipalClaim(t *testing.T) {
	for _, c := range []struct {
		names  []string
		claims object
		want   string
	}{
		{[]string{"sub"}, object{}, "user-1"},
		{[]string{"sub"}, object{"sub": ""}, ""},
		{[]string{"sub", "common_name"}, object{"sub": "", "common_name": "service"}, "service"},
		{[]string{"sub", "common_name"}, object{"common_name": "service"}, "user-1"},
		{[]string{"email"}, object{"email": "u@example.com"}, "u@example.com"},
		{[]string{"email"}, object{}, ""},
		{[]string{"email"}, object{"email": 5}, ""},
		{[]string{"a.b"}, object{"a": object{"b": "nested"}}, "nested"},
	} {
		a := ready(t, allKeys(), func(s *config.Authentication) { s.JWT.PrincipalClaim = c.names })
		var told []string
		id, err := a.Verify(t.Context(), Credential{Token: good("rsa1", c.claims)}, func(check, _ string) { told = append(told, check) })
		if slices.Contains(told, "subject") != (c.want != "") {
			t.Errorf("%v of %v: passed %v", c.names, c.claims, told)
		}
		if err != nil || id.Subject != c.want || id.HasPrincipal() != (c.want != "") {
			t.Errorf("%v of %v: %+v, %v", c.names, c.claims, id, err)
		}
	}
}

func TestPayloadIsToldWhole(t *testing.T) {
	a := ready(t, allKeys(), func(c *config.Authentication) { c.JWT.OutputPayloadToHeader = "x-payload" })
	token := good("rsa1", object{"name": "José"})
	id, err := a.Verify(t.Context(), Credential{Token: token}, nil)
	if err != nil {
		t.Fatal(err)
	}
	told, err := a.Headers(id)
	last := told[len(told)-1]
	if err != nil || last.Name != "x-payload" || last.Value != strings.Split(token, ".")[1] {
		t.Errorf("%v, %v", told, err)
	}
	if _, err := base64.RawURLEncoding.DecodeString(last.Value); err != nil {
		t.Error(err)
	}
}

func TestRefusalsEndTheSearch(t *testing.T) {
	token := good("rsa1", nil)
	for _, c := range []struct {
		name, token string
		change      func(*config.Authentication)
		want        string
	}{
		{"a slash", good("rsa1", object{"iss": issuerName + "/"}), nil,
			`configured is "https://auth.example.com", which does not end in a slash; the token's issuer is "https://auth.example.com/"`},
		{"no slash", token, func(c *config.Authentication) { c.JWT.Issuer = issuerName + "/" }, `which ends in a slash`},
		{"case", good("rsa1", object{"iss": "https://AUTH.example.com"}), nil, "which differs in upper and lower case"},
		{"scheme", good("rsa1", object{"iss": "http://auth.example.com"}), nil, "which differs in http and https"},
		{"a path", good("rsa1", object{"iss": issuerName + "/realms/x"}), nil, "which is only its beginning"},
		{"another", good("rsa1", object{"iss": "https://else"}), nil,
			`configured is "https://auth.example.com"; the token's issuer is "https://else"`},
		{"long", good("rsa1", object{"iss": "https://" + strings.Repeat("x", 200)}), nil, strings.Repeat("x", 200) + `"`},
		{"none", good("rsa1", object{"iss": nil}), nil, "the token names no issuer"},
		{"audience", good("rsa1", object{"aud": []string{"a", "b"}}), nil, `the token is for "a", "b"; needed is one of ["agents"]`},
		{"no audience", good("rsa1", object{"aud": nil}), nil, `the token has no aud; needed is one of ["agents"]`},
		{"encrypted", "a.b.c.d.e", nil, "it is encrypted (JWE, five parts)"},
		{"the whole header", "Authorization: Bearer " + token, nil, "the header Authorization: give the token alone"},
		{"the issuer's answer", `{"access_token":"` + token + `"}`, nil, "it is a JSON object"},
		{"bearer twice", "Bearer " + token, nil, "it begins with the word Bearer"},
		{"quotes", `"` + token + `"`, nil, "it is in quotes"},
	} {
		_, err := ready(t, allKeys(), c.change).Verify(t.Context(), Credential{Token: c.token}, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Of a caller whom another replica has verified nothing is believed but the signature.
func TestVouchedCallerIsJudgedAsItsTokenWouldBe(t *testing.T) {
	first := ready(t, allKeys(), nil)
	before, err := first.Verify(t.Context(), Credential{Token: good("rsa1", nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	claims, revoked := before.Claims.JSON(), NewRevocations(10)
	if _, err := revoked.Add(Revocation{Issuer: before.Issuer, Subject: before.Subject, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change      func(*config.Authentication)
		claims      string
		later       time.Duration
		revocations *Revocations
		want        outcome.Reason
	}{
		"the same rules":    {nil, claims, 0, nil, ""},
		"expired":           {nil, claims, time.Hour, nil, outcome.Expired},
		"another audience":  {func(c *config.Authentication) { c.JWT.Audiences = []string{"x"} }, claims, 0, nil, outcome.WrongAudience},
		"an unknown issuer": {func(c *config.Authentication) { c.JWT.Issuer = "https://x" }, claims, 0, nil, outcome.WrongIssuer},
		"revoked":           {nil, claims, 0, revoked, outcome.Revoked},
		"no claims":         {nil, "{", 0, nil, outcome.Malformed},
	} {
		v, err := New(settings(c.change), maxToken, first.Keys, c.revocations)
		if err != nil {
			t.Fatal(err)
		}
		v.now = func() time.Time { return now.Add(c.later) }
		after, err := v.Vouched(before.Issuer, c.claims, "")
		if reasonOf(err) != c.want || err == nil && (after.Subject != before.Subject || !after.Deadline.Equal(before.Deadline)) {
			t.Errorf("%s: %+v, %v", name, after, err)
		}
	}
}
