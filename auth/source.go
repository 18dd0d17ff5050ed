package auth

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/headers"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// kubernetesProtocol is the subprotocol that carries its token in its own name, after a dot:
// unpadded base64url of it (the form of the Kubernetes API server). A name of fromSubprotocols that
// ends in a dot is followed by the token as it is; every other one announces it as the next entry.
const kubernetesProtocol = "base64url.bearer.authorization.k8s.io"

// Credential is the one token of a request.
type Credential struct {
	// Token as it was sent; "" when there is none.
	Token string
	// Places in which it was found, such as "query access_token". With several issuers a token
	// counts only if its own issuer takes tokens from one of them. A Credential without places
	// is judged by its token alone.
	Places []string
	// FromSubprotocol is true if one of the places was a subprotocol: a browser then needs one
	// in the answer (RFC 6455 §4.1).
	FromSubprotocol bool
	// Subprotocol is what to answer if the client offered nothing else: the entry before the
	// token, or "" for the form of Kubernetes, which offers nothing that could be chosen.
	Subprotocol string
	// Client is the address that the request came from. The zero value is an address like others.
	Client netip.Addr
}

// places are where tokens may sit: the union over all issuers. The zero value is no place at all.
type places struct {
	headers   []headerPlace
	params    []string
	cookies   []string
	protocols []string
}

// headerPlace is a request header and the prefixes one of which stands before the token, longest
// first; "" takes the whole value.
type headerPlace struct {
	name     string
	prefixes []string
}

// add puts the places of one issuer into the union and returns their names.
func (p *places) add(j config.JWT) (names []string) {
	for _, s := range j.FromHeaders {
		name := http.CanonicalHeaderKey(s.Name)
		n := slices.IndexFunc(p.headers, func(h headerPlace) bool { return h.name == name })
		if n < 0 {
			n, p.headers = len(p.headers), append(p.headers, headerPlace{name: name})
		}
		h := &p.headers[n]
		h.prefixes = union(h.prefixes, s.Prefix)
		slices.SortStableFunc(h.prefixes, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
		names = append(names, headerName(name, s.Prefix))
	}
	for _, name := range j.FromParams {
		p.params, names = union(p.params, name), append(names, "query "+name)
	}
	for _, name := range j.FromCookies {
		p.cookies, names = union(p.cookies, name), append(names, "cookie "+name)
	}
	for _, name := range j.FromSubprotocols {
		p.protocols, names = union(p.protocols, name), append(names, "subprotocol "+name)
	}
	return names
}

func union(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// headerName is the name of a place in a header.
func headerName(name, prefix string) string {
	if prefix = strings.TrimSpace(prefix); prefix != "" {
		return "header " + name + ": " + prefix
	}
	return "header " + name
}

// Take finds the one credential of a request and removes it from h and from the raw query. It
// returns the rest of the query; all other bytes and their order stay. h belongs to the caller
// and has canonical names; its value slices are not written to. A credential is removed even
// when it is refused. No token is no error. The error is a *Refusal: MultipleCredentials for two
// tokens that differ and for a header line or a query parameter that is repeated, even with an
// equal token, because servers disagree about which one counts; Malformed for an empty one.
func (v *Verifier) Take(h http.Header, query string) (Credential, string, error) {
	t := taking{h: h}
	for _, place := range v.places.headers {
		t.header(place)
	}
	query = t.query(query, v.places.params)
	t.cookies(v.places.cookies)
	t.subprotocols(v.places.protocols)
	c, err := t.credential()
	return c, query, err
}

// Bearer returns the token of the header Authorization, in which every issuer's clients send it to
// the gateway itself; h stays unchanged. No token is no error. The error is a *Refusal, as of Take.
func Bearer(h http.Header) (Credential, error) {
	t := taking{h: http.Header{"Authorization": h["Authorization"]}}
	t.header(headerPlace{"Authorization", []string{"Bearer "}})
	c, err := t.credential()
	c.Places = nil // of no issuer's list
	return c, err
}

// taking is one Take under way.
type taking struct {
	h       http.Header
	found   Credential
	several string // why there is more than one credential
}

// credential returns what was found.
func (t *taking) credential() (Credential, error) {
	switch {
	case t.several != "":
		return Credential{}, &outcome.Refusal{Reason: outcome.MultipleCredentials, Detail: t.several}
	case len(t.found.Places) > 0 && t.found.Token == "":
		return Credential{}, &outcome.Refusal{Reason: outcome.Malformed, Detail: "an empty token in " + t.found.Places[0]}
	}
	return t.found, nil
}

// add notes a token.
func (t *taking) add(place, token string) {
	switch {
	case len(t.found.Places) == 0:
		t.found.Token = token
	case t.found.Token != token:
		t.several = "different tokens in " + t.found.Places[0] + " and " + place
	}
	t.found.Places = union(t.found.Places, place)
}

// header looks into one header.
func (t *taking) header(place headerPlace) {
	lines := t.h[place.name]
	if len(lines) > 1 {
		t.several = "more than one line of " + place.name
		delete(t.h, place.name)
		return
	}
	if len(lines) == 0 {
		return
	}
	for _, prefix := range place.prefixes {
		if token := after(lines[0], prefix); token != "" {
			t.add(headerName(place.name, prefix), token)
			delete(t.h, place.name)
			return
		}
	}
}

// after returns the rest of a header value after its prefix, or "". A prefix that ends in a
// space is a scheme (RFC 9110 §11.1): any case, one or more spaces.
func after(value, prefix string) string {
	if scheme, ok := strings.CutSuffix(prefix, " "); ok {
		if n := len(scheme); len(value) > n && strings.EqualFold(value[:n], scheme) && value[n] == ' ' {
			return strings.TrimLeft(value[n:], " ")
		}
		return ""
	}
	if token, ok := strings.CutPrefix(value, prefix); ok {
		return token
	}
	return ""
}

// query looks into the raw query. Names and values are percent-decoded; a + stays a plus,
// because a token has no space.
func (t *taking) query(raw string, names []string) string {
	if raw == "" || len(names) == 0 {
		return raw
	}
	var kept []string
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if name = unescape(name); !slices.Contains(names, name) {
			kept = append(kept, pair)
			continue
		}
		if seen[name] {
			t.several = "more than one query parameter " + name
		}
		seen[name] = true
		t.add("query "+name, unescape(value))
	}
	return strings.Join(kept, "&")
}

// unescape decodes percent-encoding. Text with a bad escape stays unchanged, and is then no token.
func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// cookies looks into the cookies. An empty one is no token, because it is what a logout leaves,
// but it is still a value that differs.
func (t *taking) cookies(names []string) {
	lines := t.h["Cookie"]
	if len(names) == 0 || len(lines) == 0 {
		return
	}
	values := map[string]string{}
	var kept []string
	for _, line := range lines {
		var rest []string
		for n, pair := range strings.Split(line, ";") {
			name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
			if !ok || !slices.Contains(names, name) {
				if len(rest) == 0 && n > 0 {
					pair = strings.TrimLeft(pair, " \t") // it is the first one now
				}
				rest = append(rest, pair)
				continue
			}
			if before, ok := values[name]; ok && before != value {
				t.several = "different values of cookie " + name
			}
			if values[name] = value; value != "" {
				t.add("cookie "+name, value)
			}
		}
		if line = strings.Join(rest, ";"); strings.Trim(line, " \t;") != "" {
			kept = append(kept, line)
		}
	}
	switch {
	case len(values) == 0:
	case len(kept) == 0:
		delete(t.h, "Cookie")
	default:
		t.h["Cookie"] = kept
	}
}

// dotted returns the longest of the names that end in a dot and with which entry begins, or "".
func dotted(names []string, entry string) (prefix string) {
	for _, name := range names {
		if len(name) > len(prefix) && strings.HasSuffix(name, ".") && strings.HasPrefix(entry, name) {
			prefix = name
		}
	}
	return prefix
}

// subprotocols looks into the list of subprotocols. All lines of the header are one list (RFC
// 6455 §11.3.4).
func (t *taking) subprotocols(names []string) {
	const header = "Sec-Websocket-Protocol"
	lines := t.h[header]
	if len(names) == 0 || len(lines) == 0 {
		return
	}
	var kept []string
	offered := headers.List(lines)
	for n := 0; n < len(offered); n++ {
		entry := offered[n]
		encoded, kubernetes := strings.CutPrefix(entry, kubernetesProtocol+".")
		switch {
		case kubernetes && slices.Contains(names, kubernetesProtocol):
			token := entry // what cannot be decoded stands as it is, with too many dots for a token
			if plain, err := base64.RawURLEncoding.Strict().DecodeString(encoded); err == nil {
				token = string(plain)
			}
			t.add("subprotocol "+kubernetesProtocol, token)
			t.found.FromSubprotocol = true
		case dotted(names, entry) != "":
			prefix := dotted(names, entry)
			t.add("subprotocol "+prefix, entry[len(prefix):])
			t.found.FromSubprotocol = true
		case entry != kubernetesProtocol && slices.Contains(names, entry) && n+1 < len(offered):
			n++
			t.add("subprotocol "+entry, offered[n])
			t.found.FromSubprotocol, t.found.Subprotocol = true, entry
		default:
			kept = append(kept, entry)
		}
	}
	switch {
	case !t.found.FromSubprotocol:
	case len(kept) == 0:
		delete(t.h, header)
	default:
		t.h[header] = []string{strings.Join(kept, ", ")}
	}
}
