package config

import (
	"encoding/json"
	"reflect"
	"testing"
)

// What Changes writes, Read understands: every key of the example, and texts that YAML could
// take for something else.
func TestWrittenConfigurationIsReadAgain(t *testing.T) {
	c, err := Load(Sources{File: "example.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	c.Notes = nil
	awkward := []string{"yes", "No", "~", "null", "1e3", "0x1F", "12:30:45", "2001-01-01", "", " a", "a ", "a: b", "a #b", "- a", "*",
		"&x", "!t", "%", "@", "`",
		`"`, `'`, `\`, "a\tb", "a\nb", "a\nb\n", "é", "\u2028", "\U0001F600", "{agent}", "[a]", "a][b", "|", ">", "?", "a:", "1_000",
		".5", "+1", "=", "<<", "\u00a0"}
	c.Authentication.Authorization.RequiredClaims = nil
	for _, text := range awkward {
		c.Authentication.Authorization.RequiredClaims = append(c.Authentication.Authorization.RequiredClaims,
			RequiredClaim{Claim: text, Values: []ClaimValue{text, true, false, json.Number("3.5"), json.Number("1e3"), "true", "3"}})
	}
	second := DefaultJWT()
	second.Issuer, second.FromParams, second.RequireExpiration = "https://b.example.com", []string{}, false
	c.Authentication.JWTRules = JWTRules{second}
	c.Routes[0].Query.Set = map[string]string{"a: b": "c", "on": "off"}

	base := Default()
	text := Changes(c, &base).String()
	got := Default()
	if problems := Read("written.yaml", text, &got); len(problems) > 0 {
		t.Fatalf("%v\n%s", problems, text)
	}
	for _, difference := range []Mapping{Changes(c, &got), Changes(&got, c)} {
		if len(difference) > 0 {
			t.Errorf("differs after writing and reading:\n%s\nwritten:\n%s", difference, text)
		}
	}
	if !reflect.DeepEqual(got.Authentication.Authorization.RequiredClaims[4].Claim, "1e3") {
		t.Errorf("the texts are out of order: %v", got.Authentication.Authorization.RequiredClaims)
	}
}

func TestNothingIsWrittenOfTheDefault(t *testing.T) {
	a, b := Default(), Default()
	if text := Changes(&a, &b).String(); text != "" {
		t.Errorf("written: %s", text)
	}
}
