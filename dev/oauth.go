package dev

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

const (
	// authorizationCode is the grant of clients that send a person to log in (RFC 6749 §4.1).
	authorizationCode = "authorization_code"
	// codeLifetime is how long a code may wait for its token. RFC 6749 §4.1.2 allows ten minutes.
	codeLifetime = time.Minute
	// maxCodes bounds the codes that wait.
	maxCodes = 1000
	// maxRegistration bounds what a client says of itself.
	maxRegistration = 64 << 10
)

// codes are the authorization codes that wait for their token.
type codes struct {
	mu      sync.Mutex
	waiting map[string]grant
}

// grant is what one code stands for.
type grant struct {
	client, redirect string
	challenge        string     // of PKCE, S256 (RFC 7636 §4.2)
	asks             url.Values // the fields of a token request: sub, scope, resource
	until            time.Time
}

// add keeps a grant and returns its code, or "" when too many wait.
func (c *codes) add(g grant) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(c.waiting, func(_ string, g grant) bool { return now.After(g.until) })
	if len(c.waiting) >= maxCodes {
		return ""
	}
	code := rand.Text()
	g.until = now.Add(codeLifetime)
	c.waiting[code] = g
	return code
}

// take returns the grant of a code. A code is good for one attempt.
func (c *codes) take(code string) (grant, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.waiting[code]
	delete(c.waiting, code)
	return g, ok && time.Now().Before(g.until)
}

// serveAuthorize sends the browser back with a code at once: there is no login. The user is
// dev-user, or the login_hint.
func (i *Issuer) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || !ownRedirect(back) {
		http.Error(w, notOwn, http.StatusBadRequest)
		return
	}
	answer := back.Query()
	answer.Set("iss", i.url) // RFC 9207
	if state := q.Get("state"); state != "" {
		answer.Set("state", state)
	}
	if code, fault := i.authorize(q); fault != nil {
		answer.Set("error", fault.Code)
		answer.Set("error_description", fault.Description)
	} else {
		answer.Set("code", code)
	}
	back.RawQuery = answer.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// authorize returns a code for an authorization request.
func (i *Issuer) authorize(q url.Values) (code string, refused *refusal) {
	switch challenge, err := base64.RawURLEncoding.DecodeString(q.Get("code_challenge")); {
	case q.Get("response_type") != "code":
		return "", &refusal{"unsupported_response_type", "the one response_type is code"}
	case q.Get("client_id") == "":
		return "", invalid("client_id is missing")
	case q.Get("code_challenge_method") != "S256" || err != nil || len(challenge) != sha256.Size:
		return "", invalid("code_challenge with the method S256 is missing (RFC 7636)")
	}
	asks := url.Values{"sub": {q.Get("login_hint")}, "scope": {q.Get("scope")}, "resource": q["resource"]}
	if _, refused := i.formClaims(asks); refused != nil {
		return "", refused
	}
	code = i.codes.add(grant{q.Get("client_id"), q.Get("redirect_uri"), q.Get("code_challenge"), asks, time.Time{}})
	if code == "" {
		return "", &refusal{"temporarily_unavailable", "too many codes wait for their token"}
	}
	return code, nil
}

// redeem returns the fields of the token request that a code stands for.
func (i *Issuer) redeem(form url.Values) (asks url.Values, refused *refusal) {
	g, ok := i.codes.take(form.Get("code"))
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	proof := base64.RawURLEncoding.EncodeToString(sum[:])
	switch {
	case !ok:
		return nil, &refusal{"invalid_grant", "the code is unknown, was used, or is older than a minute"}
	case form.Get("client_id") != g.client || form.Get("redirect_uri") != g.redirect:
		return nil, &refusal{"invalid_grant", "the code was given to another client_id or redirect_uri"}
	case subtle.ConstantTimeCompare([]byte(proof), []byte(g.challenge)) != 1:
		return nil, &refusal{"invalid_grant", "code_verifier does not fit the code_challenge"}
	}
	for _, resource := range form["resource"] {
		if !slices.Contains(g.asks["resource"], resource) {
			return nil, &refusal{"invalid_target", "the code was not given for this resource"}
		}
	}
	return g.asks, nil
}

// notOwn is what clients are told whose redirect_uri is not one of ownRedirect.
const notOwn = "redirect_uri is neither on this machine nor of a scheme of an application's own"

// ownRedirect reports whether a code may be sent there: to this machine, or to an application that
// has registered a scheme of its own with it (RFC 8252 §7). A code is not for other machines.
func ownRedirect(u *url.URL) bool {
	switch u.Scheme {
	case "http", "https":
		return config.IsLoopback(u) && u.Fragment == "" && u.User == nil
	case "", "javascript", "data", "file", "blob", "vbscript", "about":
		return false
	}
	return u.Fragment == ""
}

// serveRegister gives a client an id (RFC 7591 §3.2). Nothing is kept: any id is welcome.
func (i *Issuer) serveRegister(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRegistration))
	var client map[string]any
	if err != nil || json.Unmarshal(body, &client) != nil || client == nil {
		writeJSON(w, http.StatusBadRequest, &refusal{"invalid_client_metadata", "the body is not a JSON object"})
		return
	}
	uris, _ := client["redirect_uris"].([]any)
	for _, v := range uris {
		s, _ := v.(string)
		if u, err := url.Parse(s); err != nil || !ownRedirect(u) {
			writeJSON(w, http.StatusBadRequest, &refusal{"invalid_redirect_uri", notOwn})
			return
		}
	}
	client["client_id"] = "dev-" + rand.Text()
	client["client_id_issued_at"] = time.Now().Unix()
	client["token_endpoint_auth_method"] = "none"
	delete(client, "client_secret")
	writeJSON(w, http.StatusCreated, client)
}

// servePreflight lets the pages that guard allows send JSON (Fetch standard, CORS preflight).
func servePreflight(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
	w.Header().Set("Access-Control-Allow-Headers", "*")
	w.WriteHeader(http.StatusNoContent)
}
