package policy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/outcome"
)

func request(method, uri string) *http.Request {
	return &http.Request{Method: method, RequestURI: uri, Header: http.Header{}}
}

func TestTarget(t *testing.T) {
	for uri, want := range map[string][2]string{
		"/":                              {"/", ""},
		"/my-agent/ws":                   {"/my-agent/ws", ""},
		"/my-agent/ws?a=1&a=%32&b?c=/..": {"/my-agent/ws", "a=1&a=%32&b?c=/.."},
		"/ws?":                           {"/ws", ""},
		"/%68ealthz":                     {"/healthz", ""},
		"/%2568ealthz":                   {"/%2568ealthz", ""},
		"/%7euser/%2D%5f":                {"/~user/-_", ""},
		"/a;b/c":                         {"/a;b/c", ""},
		"/a%3Fb%23c%20d":                 {"/a%3Fb%23c%20d", ""},
		"/a%3fb":                         {"/a%3fb", ""},
		"/%C3%A9":                        {"/%C3%A9", ""},
		"/a|{b}":                         {"/a%7C%7Bb%7D", ""},
		"/trailing/":                     {"/trailing/", ""},
		"/...":                           {"/...", ""},
		"http://host/ws?a=1":             {"/ws", "a=1"},
		"HTTP://host:80/%68ealthz":       {"/healthz", ""},
		"http://host":                    {"/", ""},
		"http://host?a=1":                {"/", "a=1"},
		"/.hidden/..x":                   {"/.hidden/..x", ""},
	} {
		if path, query, err := target(request("GET", uri)); err != nil || path != want[0] || query != want[1] {
			t.Errorf("%s: got %q ? %q, %v; want %q ? %q", uri, path, query, err, want[0], want[1])
		}
	}
}

func TestTargetRefusesWhatTwoServersReadDifferently(t *testing.T) {
	for _, uri := range []string{
		"", "*", "x:foo", "https://host/ws", "ftp://host/ws", "http://u@host/ws", "http:///ws", "//host/ws", "/a//b", "/a//", "/.", "/..",
		"/a/./b", "/a/../b", "/a/..", "/%2e%2e/a", "/a/.%2E/b",
		"/a/..;x=1/b", "/a/.;/b", "/a/..%3Bx/b", "/a%2Fb", "/a%2fb", "/a%5Cb", "/a\\b", "/a%00b", "/a%0d%0ab", "/a%1fb", "/a%7fb",
		"/a\x01b", "/a%", "/a%2", "/a%zz", "/a#b", "/a?b#c", "/a b", "/é", "/a\xc3\xa9", "/a?b=é", "/a?\xff",
	} {
		path, query, err := target(request("GET", uri))
		if refusal, ok := err.(*outcome.Refusal); !ok || refusal.Reason != outcome.BadPath || path != "" || query != "" {
			t.Errorf("%q: got %q, %q, %v", uri, path, query, err)
		}
	}
	if _, _, err := target(request("CONNECT", "/a")); err == nil {
		t.Error("CONNECT has a path")
	}
}

// FuzzTarget holds that a path that gets through has one spelling, and none of what makes two
// servers disagree is in it.
func FuzzTarget(f *testing.F) {
	for _, uri := range []string{"/a/b?c", "/a?é", "/%68/%2e%2e", "/a/..;x/b", "//x", "/%2568", "/a%2fb", "/é"} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		path, query, err := target(request("GET", uri))
		if err != nil {
			if strings.Contains(err.Error(), uri) && len(uri) > 3 {
				t.Fatalf("the refusal repeats the path: %v", err)
			}
			return
		}
		again, _, err := target(request("GET", path))
		if err != nil || again != path {
			t.Fatalf("%q becomes %q, then %q, %v", uri, path, again, err)
		}
		if raw, q, _ := strings.Cut(uri, "?"); q != query || strings.Count(raw, "/") != strings.Count(path, "/") {
			t.Fatalf("%q: query %q, path %q", uri, query, path)
		}
		for _, bad := range []string{"//", "\\", "#", "?", "\x00", " "} {
			if strings.Contains(path, bad) {
				t.Fatalf("%q has %q in it", path, bad)
			}
		}
		for segment := range strings.SplitSeq(path, "/") {
			segment, _, _ = strings.Cut(strings.ReplaceAll(strings.ToLower(segment), "%3b", ";"), ";")
			if segment == "." || segment == ".." {
				t.Fatalf("%q has dot segments", path)
			}
		}
		lower := strings.ToLower(path)
		for _, escape := range []string{"%2f", "%5c", "%2e", "%00", "%0a", "%0d"} {
			if strings.Contains(lower, escape) {
				t.Fatalf("%q has %s in it", path, escape)
			}
		}
	})
}

func TestExclusions(t *testing.T) {
	for _, tt := range []struct {
		pattern  string
		excluded string // separated by spaces
		not      string
	}{
		{"/healthz", "/healthz", "/healthz/ /healthzz /Healthz /a/healthz /"},
		{"/health*", "/health /healthz /healthcare/records", "/heal /x/health"},
		{"/public/*", "/public/ /public/a/b", "/public /publicx"},
		{"*.css", "/a.css /a/b.css", "/a.cssx /a.css/"},
		{"*", "/ /a /a/b", ""},
		{"/*", "/ /a /a/b", ""},
		{"/a/{*}/c", "/a/b/c", "/a/c /a//c /a/b/b/c /a/b/c/ /a/b /a/[b]/c /a/]/c"},
		{"/{*}", "/a", "/ /a/ /a/b"},
		{"/a/{**}", "/a/ /a/b /a/b/c/ /a/%5Bb%5D", "/a /ab /a/[b /a/b/c]"},
		{"/{*}/files/{**}", "/x/files/ /x/files/a/b", "/files/a /x/files /x/y/files/a"},
		{"/{**}", "/ /a /a/b/c", ""},
	} {
		e := newExclusion(tt.pattern)
		for path := range strings.FieldsSeq(tt.excluded) {
			if !e.matches(path) {
				t.Errorf("%s does not exclude %s", tt.pattern, path)
			}
		}
		for path := range strings.FieldsSeq(tt.not) {
			if e.matches(path) {
				t.Errorf("%s excludes %s", tt.pattern, path)
			}
		}
	}
}

func TestMethods(t *testing.T) {
	for _, m := range strings.Fields("GET HEAD POST PUT PATCH DELETE OPTIONS") {
		if !allowedMethod(m) {
			t.Errorf("%s is refused", m)
		}
	}
	for _, m := range []string{"TRACE", "CONNECT", "TRACK", "get", "PROPFIND", "PRI", ""} {
		if allowedMethod(m) {
			t.Errorf("%q gets through", m)
		}
	}
}
