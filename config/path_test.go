package config

import (
	"strings"
	"testing"
)

func TestCleanPath(t *testing.T) {
	for _, test := range []struct{ raw, want string }{
		{"/", "/"},
		{"/a/b/", "/a/b/"},
		{"/%68ealthz", "/healthz"},
		{"/%7Euser/%2D%5f", "/~user/-_"},
		{"/%2568ealthz", "/%2568ealthz"},
		{"/%252e%252e/a", "/%252e%252e/a"},
		{"/a%20b%3F%23%c3%A9%3b", "/a%20b%3F%23%c3%A9%3b"},
		{"/a;v=1/b;", "/a;v=1/b;"},
		{"/a[b]'(c)!$&*+,=:@", "/a[b]'(c)!$&*+,=:@"},
		{"/\"<>^`{|}", "/%22%3C%3E%5E%60%7B%7C%7D"},
		{"/%7b%7C%41{", "/%7b%7CA%7B"},
		{"/...", "/..."},
		{"/.well-known/a..b/.x", "/.well-known/a..b/.x"},
	} {
		if got, err := CleanPath(test.raw); got != test.want || err != nil {
			t.Errorf("CleanPath(%q) = %q, %v; want %q", test.raw, got, err, test.want)
		}
	}
}

func TestCleanPathRefusesWhatServersReadDifferently(t *testing.T) {
	for raw, want := range map[string]error{
		"":              errPathRelative,
		"a":             errPathRelative,
		"*":             errPathRelative,
		"http://a/b":    errPathRelative,
		"//a":           errPathSlashes,
		"/a//b":         errPathSlashes,
		"/a//":          errPathSlashes,
		"/.":            errPathDots,
		"/..":           errPathDots,
		"/a/./b":        errPathDots,
		"/a/../b":       errPathDots,
		"/a/%2e%2E/b":   errPathDots,
		"/a/.%2e/b":     errPathDots,
		"/a/..;x=1/b":   errPathDots,
		"/a/%2e;/b":     errPathDots,
		"/a/..%3bx/b":   errPathDots,
		"/a%2fb":        errPathEncoded,
		"/a%2Fb":        errPathEncoded,
		"/a%5cb":        errPathEncoded,
		"/a%00":         errPathEncoded,
		"/a%0a":         errPathEncoded,
		"/a%1B":         errPathEncoded,
		"/a%7f":         errPathEncoded,
		`/a\b`:          errPathRaw,
		"/a\x00":        errPathRaw,
		"/a\x7f":        errPathRaw,
		"/a b":          errPathRaw,
		"/é":            errPathASCII,
		"/a\x80":        errPathASCII,
		"/a\xff/{":      errPathASCII,
		"/a?b":          errPathRaw,
		"/a#b":          errPathRaw,
		"/a%":           errPathEscape,
		"/a%2":          errPathEscape,
		"/a%zz":         errPathEscape,
		"/a%2%35":       errPathEscape,
		"/%u002e":       errPathEscape,
		"/a/%2e%2e%2fb": errPathEncoded,
	} {
		if got, err := CleanPath(raw); err != want || got != "" {
			t.Errorf("CleanPath(%q) = %q, %v; want %v", raw, got, err, want)
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/%68ealthz", "/%2568", "/a/%2e%2e;/b", "/a//b", "/%c3%A9;x", "/{a}|%7c", "/é", "/a%2", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := CleanPath(raw)
		if err != nil {
			if path != "" {
				t.Errorf("CleanPath(%q) = %q and %v", raw, path, err)
			}
			return
		}
		if again, err := CleanPath(path); again != path || err != nil {
			t.Errorf("CleanPath(%q) = %q, cleaned again %q, %v", raw, path, again, err)
		}
		lower := strings.ToLower(path)
		for _, bad := range []string{"//", `\`, "/./", "/../", "%2f", "%5c", "%00", "%2e", "?", "#", "\x00", "{", "|", "\"", "`", "\xc3"} {
			if strings.Contains(lower+"/", bad) && !(bad == "//" && strings.HasSuffix(lower, "/") && !strings.Contains(lower, "//")) {
				t.Errorf("CleanPath(%q) = %q, which has %q", raw, path, bad)
			}
		}
	})
}

func BenchmarkCleanPath(b *testing.B) {
	for b.Loop() {
		CleanPath("/my-agent/api/agents/ws")
	}
}
