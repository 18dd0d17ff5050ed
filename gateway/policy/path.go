package policy

import (
	"net/http"
	"strings"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// target takes the request target apart, as it came over the wire: the path in its one spelling,
// and the query untouched. Everything after this room matches, authorises and forwards the same
// text. Nothing is resolved: an ambiguous path is refused.
func target(r *http.Request) (path, query string, _ error) {
	bad := func(why string) error { return outcome.Refuse(outcome.BadPath, why) }
	if strings.Contains(r.RequestURI, "#") {
		return "", "", bad("fragment in the request target")
	}
	if strings.ContainsFunc(r.RequestURI, func(c rune) bool { return c > 0x7f }) { // invalid UTF-8 is U+FFFD here
		return "", "", bad("a character that is not ASCII and not percent-encoded")
	}
	raw, query, _ := strings.Cut(r.RequestURI, "?")
	raw, ok := originForm(raw, r.TLS != nil)
	if r.Method == http.MethodConnect || !ok {
		return "", "", bad("the request target is no path")
	}
	path, err := config.CleanPath(raw)
	if err != nil {
		return "", "", bad(err.Error())
	}
	return path, query, nil
}

// originForm returns the path of a request target without its query. A target in absolute form
// gives its path (RFC 9112 §3.2.2); its authority has already taken the place of Host, by
// net/http.
func originForm(target string, secure bool) (path string, ok bool) {
	if strings.HasPrefix(target, "/") {
		return target, true
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !(secure && strings.EqualFold(scheme, "https")) {
		return "", false
	}
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		slash, rest = len(rest), rest+"/"
	}
	authority := rest[:slash]
	return rest[slash:], authority != "" && !strings.Contains(authority, "@")
}

// allowedMethod keeps out methods that make no sense here: TRACE would show a client its verified
// headers, and others are not defined.
func allowedMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return true
	}
	return false
}

// exclusion is one compiled entry of excludePaths, with the meaning Istio gives to it.
type exclusion struct {
	text     string   // without its star
	star     byte     // 'p' text is a prefix, 's' a suffix, 0 neither
	segments []string // of a template; nil when it is none
}

func newExclusion(pattern string) exclusion {
	switch {
	case strings.Contains(pattern, "{"):
		return exclusion{segments: strings.Split(pattern, "/")}
	case strings.HasSuffix(pattern, "*"):
		return exclusion{text: strings.TrimSuffix(pattern, "*"), star: 'p'}
	case strings.HasPrefix(pattern, "*"):
		return exclusion{text: strings.TrimPrefix(pattern, "*"), star: 's'}
	}
	return exclusion{text: pattern}
}

// exact reports whether the pattern is one path.
func (e exclusion) exact() bool { return e.segments == nil && e.star == 0 }

func (e exclusion) matches(path string) bool {
	switch {
	case e.segments != nil:
		return matchTemplate(e.segments, strings.Split(path, "/"))
	case e.star == 'p':
		return strings.HasPrefix(path, e.text)
	case e.star == 's':
		return strings.HasSuffix(path, e.text)
	}
	return path == e.text
}

// brackets are what Envoy's templates do not take, although a path may hold them.
const brackets = "[]"

// matchTemplate matches segment by segment: {*} is one that is not empty, {**} all that follow its
// slash.
func matchTemplate(pattern, path []string) bool {
	for i, want := range pattern {
		switch {
		case i == len(path):
			return false
		case want == "{**}":
			return !strings.ContainsAny(strings.Join(path[i:], ""), brackets)
		case want == "{*}" && (path[i] == "" || strings.ContainsAny(path[i], brackets)), want != "{*}" && want != path[i]:
			return false
		}
	}
	return len(pattern) == len(path)
}
