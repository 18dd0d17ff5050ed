package auth

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// What the scanner accepts, encoding/json accepts and reads alike; what it refuses for its
// grammar, encoding/json refuses too.
func FuzzScanAgreesWithEncodingJSON(f *testing.F) {
	for _, text := range []string{
		`{}`, ` { "a" : [ 1 , -0.5e+3 , true , false , null , "x" , { } , [ ] ] } `, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{a:1}`,
		`{'a':1}`,
		`{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":+1}`, `{"a":-}`, `{"a":tru}`, `{"a":"\u12g4"}`, `{"a":"\x"}`,
		"{\"a\":\"\n\"}",
		`{"a":"\ud83d\ude00"}`, `{"a":"\ud83d"}`, `{"a":"\\ud83d"}`, `{"a":1}}`, `{"a":1} x`, `[1]`, `null`, ``, ` `, `{"a":1e309}`,
		`{"a":[1,]}`,
		`{"\u0061":1,"a":2}`, `{"a":{"b":1,"b":2}}`, "{\"\xff\":1}", `{"a":"\u0000"}`, `{"a":[[[[{"b":[{}]}]]]]}`,
		`{"a":"` + "\u007f" + `"}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var members []member
		err := scan(text, func(m member) error { members = append(members, m); return nil })
		valid := json.Valid([]byte(text))
		if err != nil {
			allowed := !valid || !utf8.ValidString(text) || errors.Is(err, errSurrogate) || errors.Is(err, errDeep) ||
				errors.Is(err, errMany)
			if !allowed && strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") && err.Error() != "a number beyond a double" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		var theirs map[string]json.RawMessage
		if !valid || json.Unmarshal([]byte(text), &theirs) != nil {
			t.Fatalf("%q: accepted, and not by encoding/json", text)
		}
		ours := map[string]string{} // the last of two equal names, as theirs
		for _, m := range members {
			ours[m.name] = m.value
		}
		if !slices.Equal(slices.Sorted(maps.Keys(ours)), slices.Sorted(maps.Keys(theirs))) {
			t.Fatalf("%q: names %q", text, slices.Sorted(maps.Keys(ours)))
		}
		for name, raw := range theirs {
			if ours[name] != string(raw) {
				t.Fatalf("%q: %s is %q, not %q", text, name, ours[name], raw)
			}
			var want any
			d := json.NewDecoder(strings.NewReader(string(raw)))
			d.UseNumber()
			if d.Decode(&want) != nil || !reflect.DeepEqual(decodeValue(string(raw)), want) {
				t.Fatalf("%q: decoded to %v", raw, decodeValue(string(raw)))
			}
		}
		if scanUnique(text, nil) == nil && len(members) != len(theirs) {
			t.Fatalf("%q: a name is there twice", text)
		}
	})
}

func TestClaimsAreKeptAsText(t *testing.T) {
	const payload = `{"sub":"u","a":{"b":{"c":[1,"x"]},"n":null},"https://x/y":true,"é":1}`
	c, err := parseClaims(payload)
	if err != nil || c.JSON() != payload {
		t.Fatalf("%q, %v", c.JSON(), err)
	}
	for name, want := range map[string]string{
		"a.b.c": `[1,"x"]`, "a][b][c": `[1,"x"]`, "a.n": "", "a.x": "", "a.b.c.d": "", "sub.x": "", "x": "", "": "", ".": "", "a.": "",
		"é": "1",
	} {
		if got := c.nested(name); got != want {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
	if c.raw("https://x/y") != "true" || c.raw("a.b") != "" {
		t.Error("literal names")
	}
	// The estimate is what the cache is bounded by.
	if n := c.memory(); n < len(payload) || n > len(payload)+8*32 {
		t.Errorf("%d bytes for %d", n, len(payload))
	}
}
