package dev

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
)

const (
	// defaultAudience is for whom a token is if no other is asked for.
	defaultAudience = "agents"
	// maxLifetime bounds what may be asked for, both ways.
	maxLifetime = 10 * 365 * 24 * time.Hour
	// maxForm bounds the body of a token request.
	maxForm = 64 << 10
	// formType is its media type.
	formType = "application/x-www-form-urlencoded"
)

// Fault is the one thing that is wrong with a token. The zero value is none.
type Fault string

// The faults, each with the reason for which a gateway refuses it.
const (
	BrokenSignature Fault = "signature" // bad-signature: one bit of it is another
	BrokenExpiry    Fault = "expired"   // expired: an hour ago
	BrokenAudience  Fault = "audience"  // wrong-audience: another service's
	BrokenIssuer    Fault = "issuer"    // wrong-issuer: the name of another issuer, our key
	BrokenKey       Fault = "key"       // unknown-key: a key that is not published
	BrokenAlgNone   Fault = "alg-none"  // alg-not-allowed: the header says that there is no signature (RFC 7519 §6)
)

// faults are all of them, for checking what a client asks for.
var faults = []Fault{BrokenSignature, BrokenExpiry, BrokenAudience, BrokenIssuer, BrokenKey, BrokenAlgNone}

// Issuer is an OpenID Connect issuer for development: every client that asks gets a token with
// any claims, good or broken. It is an http.Handler, safe for concurrent use.
//
//   - GET /.well-known/openid-configuration is its discovery document (OpenID Connect Discovery
//     1.0 §3), the same as /.well-known/oauth-authorization-server (RFC 8414 §3), GET /keys its
//     key set.
//   - GET /authorize gives a code for a token, without a login, and POST /register an id to a
//     client (oauth.go).
//   - POST /token answers with a token as OAuth does, GET /token with the token alone, for a
//     shell (see formClaims for the fields).
//   - GET / is the page, GET /healthz is 200.
type Issuer struct {
	url      string
	host     string // of url, without port
	lifetime time.Duration
	signer   *auth.Signer
	stranger func() (*auth.Signer, error) // a key of the same kind that is not published
	codes    codes
	mux      *http.ServeMux
}

// NewIssuer returns an issuer whose claim iss is issuer: the URL under which gateways reach it,
// http or https, without query and fragment. The addresses in its discovery document begin with
// it. Its tokens are signed by signer and live for lifetime, unless a client asks for another
// one.
func NewIssuer(issuer string, signer *auth.Signer, lifetime time.Duration) (*Issuer, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("issuer %q: want an http or https URL without query and fragment", issuer)
	}
	page, err := newPage()
	if err != nil {
		return nil, err
	}
	i := &Issuer{
		url:      issuer,
		host:     u.Hostname(),
		lifetime: lifetime,
		signer:   signer,
		stranger: sync.OnceValues(func() (*auth.Signer, error) { return auth.GenerateSigner(signer.Algorithm()) }),
		codes:    codes{waiting: map[string]grant{}},
		mux:      http.NewServeMux(),
	}
	discovery := newDiscovery(issuer, signer.Algorithm())
	i.mux.Handle("GET /{$}", page)
	for _, name := range []string{"openid-configuration", "oauth-authorization-server"} {
		i.mux.HandleFunc("GET /.well-known/"+name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Access-Control-Allow-Origin", "*") // nothing in it is secret
			writeJSON(w, http.StatusOK, discovery)
		})
	}
	i.mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Write(signer.JWKS())
	})
	i.mux.HandleFunc("POST /token", i.guard(i.serveToken))
	i.mux.HandleFunc("GET /token", i.guard(i.servePlainToken))
	i.mux.HandleFunc("GET /authorize", i.guard(i.serveAuthorize))
	i.mux.HandleFunc("POST /register", i.guard(i.serveRegister))
	for _, path := range []string{"/token", "/register"} {
		i.mux.HandleFunc("OPTIONS "+path, i.guard(servePreflight))
	}
	i.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	return i, nil
}

// ServeHTTP answers one request.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) { i.mux.ServeHTTP(w, r) }

// Serve answers on l until ctx ends, which is no error.
func (i *Issuer) Serve(ctx context.Context, l net.Listener) error { return serve(ctx, l, i, func() {}) }

// Claims returns the claims of a token without special wishes: the developer's. The caller may
// change them.
func (i *Issuer) Claims() map[string]any {
	now := time.Now()
	return map[string]any{
		"iss":   i.url,
		"sub":   "dev-user",
		"email": emailOf("dev-user"),
		"roles": []string{"user"},
		"aud":   defaultAudience,
		"scope": "agents:access",
		"iat":   now.Unix(),
		"exp":   now.Add(i.lifetime).Unix(),
	}
}

// Token returns a signed token with exactly these claims, except for what fault changes.
func (i *Issuer) Token(claims map[string]any, fault Fault) (string, error) {
	token, _, err := i.mint(claims, fault)
	return token, err
}

// mint also returns the claims of the token.
func (i *Issuer) mint(claims map[string]any, fault Fault) (string, map[string]any, error) {
	claims = maps.Clone(claims)
	signer := i.signer
	switch fault {
	case "", BrokenSignature, BrokenAlgNone:
	case BrokenExpiry:
		now := time.Now()
		claims["iat"], claims["exp"] = now.Add(-2*time.Hour).Unix(), now.Add(-time.Hour).Unix()
	case BrokenAudience:
		claims["aud"] = "another-service"
	case BrokenIssuer:
		claims["iss"] = "https://another-issuer.example.com"
	case BrokenKey:
		var err error
		if signer, err = i.stranger(); err != nil {
			return "", nil, fmt.Errorf("make a strange key: %w", err)
		}
	default:
		return "", nil, fmt.Errorf("unknown fault %q; there are %v", fault, faults)
	}
	token, err := signer.Sign(claims)
	if err != nil {
		return "", nil, fmt.Errorf("sign a token: %w", err)
	}
	head, rest, _ := strings.Cut(token, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	switch fault {
	case BrokenSignature:
		b, err := base64.RawURLEncoding.DecodeString(signature)
		if err != nil {
			return "", nil, fmt.Errorf("read the signature of a token: %w", err)
		}
		b[len(b)/2] ^= 1
		signature = base64.RawURLEncoding.EncodeToString(b)
	case BrokenAlgNone: // a signature stays, as a token without one is not even well-formed
		head = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	}
	return head + "." + payload + "." + signature, claims, nil
}

// discovery is the document of OpenID Connect Discovery 1.0 §3, with the fields that apply to an
// issuer without a login.
type discovery struct {
	Issuer         string   `json:"issuer"`
	KeysURL        string   `json:"jwks_uri"`
	AuthorizeURL   string   `json:"authorization_endpoint"`
	TokenURL       string   `json:"token_endpoint"`
	RegisterURL    string   `json:"registration_endpoint"`
	GrantTypes     []string `json:"grant_types_supported"`
	ResponseTypes  []string `json:"response_types_supported"`
	SubjectTypes   []string `json:"subject_types_supported"`
	Algorithms     []string `json:"id_token_signing_alg_values_supported"`
	Authentication []string `json:"token_endpoint_auth_methods_supported"`
	Scopes         []string `json:"scopes_supported"`
	Claims         []string `json:"claims_supported"`
	Challenges     []string `json:"code_challenge_methods_supported"`
	NamesItself    bool     `json:"authorization_response_iss_parameter_supported"`
}

func newDiscovery(issuer, alg string) discovery {
	base := strings.TrimSuffix(issuer, "/")
	return discovery{
		Issuer:         issuer,
		KeysURL:        base + "/keys",
		AuthorizeURL:   base + "/authorize",
		TokenURL:       base + "/token",
		RegisterURL:    base + "/register",
		GrantTypes:     []string{authorizationCode, clientCredentials},
		ResponseTypes:  []string{"code"},
		SubjectTypes:   []string{"public"},
		Algorithms:     []string{alg},
		Authentication: []string{"none"},
		Scopes:         []string{"agents:access"},
		Claims:         []string{"iss", "sub", "email", "roles", "aud", "scope", "iat", "exp"},
		Challenges:     []string{"S256"},
		NamesItself:    true,
	}
}

// clientCredentials is the grant of programs (RFC 6749 §4.4), and of requests that name none.
const clientCredentials = "client_credentials"

// refusal is an error answer of the token endpoint (RFC 6749 §5.2).
type refusal struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

func invalid(format string, a ...any) *refusal {
	return &refusal{"invalid_request", fmt.Sprintf(format, a...)}
}

// guard lets only the developer's own pages read a token. The browser stops a page from elsewhere,
// because the answer has no Access-Control-Allow-Origin for it. An attacker could make his host
// name resolve to this machine (DNS rebinding), and the issuer would be the page's own origin. So
// guard refuses a Host that could be such a name: one with a dot, except IP addresses and the
// issuer's own host.
func (i *Issuer) guard(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host := (&url.URL{Host: r.Host}).Hostname()
		if _, err := netip.ParseAddr(host); err != nil && strings.Contains(strings.TrimSuffix(host, ".localhost"), ".") && host != i.host {
			http.Error(w, "tokens are given at localhost, at an IP address and at the issuer's own name", http.StatusMisdirectedRequest)
			return
		}
		w.Header().Add("Vary", "Origin")
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err == nil && config.IsLoopback(u) {
				w.Header().Set("Access-Control-Allow-Origin", origin)
			}
		}
		next(w, r)
	}
}

// servePlainToken answers with the token alone, so that a shell can take it: TOKEN=$(curl -s
// …/token). The fields are in the query.
func (i *Issuer) servePlainToken(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		http.Error(w, "the query is not a form", http.StatusBadRequest)
		return
	}
	claims, refused := i.formClaims(query)
	if refused != nil {
		http.Error(w, refused.Description, http.StatusBadRequest)
		return
	}
	token, err := i.Token(claims, Fault(query.Get("broken")))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, token) // without a line break, so that a page can use it as it is
}

func (i *Issuer) serveToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Pragma", "no-cache") // RFC 6749 §5.1
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err := r.ParseForm(); err != nil || kind != formType && r.ContentLength != 0 {
		writeJSON(w, http.StatusBadRequest, invalid("the body is not a form (%s) of at most %d bytes", formType, maxForm))
		return
	}
	form, refused := r.PostForm, (*refusal)(nil)
	if form.Get("grant_type") == authorizationCode {
		form, refused = i.redeem(form)
	}
	claims := map[string]any(nil)
	if refused == nil {
		claims, refused = i.formClaims(form)
	}
	if refused != nil {
		writeJSON(w, http.StatusBadRequest, refused)
		return
	}
	token, claims, err := i.mint(claims, Fault(form.Get("broken")))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer := struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   *int64 `json:"expires_in,omitempty"` // absent when the client has chosen exp
		Scope       string `json:"scope,omitempty"`
	}{AccessToken: token, TokenType: "Bearer"}
	if exp, ok := claims["exp"].(int64); ok {
		left := exp - time.Now().Unix()
		answer.ExpiresIn = &left
	}
	answer.Scope, _ = claims["scope"].(string)
	writeJSON(w, http.StatusOK, answer)
}

// formClaims reads a token request. All fields may be left out, and one without a value counts
// as left out (RFC 6749 §3.2):
//
//	grant_type  client_credentials; with authorization_code the fields come from the code
//	            instead (see redeem)
//	sub         the claim of that name; the email follows it
//	email       the claim of that name
//	roles       a list, separated by spaces or commas, or as JSON: ["admin"]
//	aud         one, or a list in the same way
//	resource    an address for which the token is as well (RFC 8707), any number of them
//	scope       as it is
//	lifetime    seconds; negative for a token that has ended already
//	claim       name=JSON, any number of them; replaces the others. Without the JSON the claim is
//	            left out of the token
//	broken      a Fault
//
// Any client_id and client_secret are accepted and ignored.
func (i *Issuer) formClaims(form url.Values) (map[string]any, *refusal) {
	for name, values := range form {
		if name != "claim" && name != "resource" && len(values) > 1 {
			return nil, invalid("%.40q is there more than once", name)
		}
	}
	if grant := form.Get("grant_type"); grant != "" && grant != clientCredentials {
		return nil, &refusal{"unsupported_grant_type", "the grant_types are " + clientCredentials + " and " + authorizationCode}
	}
	if fault := Fault(form.Get("broken")); fault != "" && !slices.Contains(faults, fault) {
		return nil, invalid("broken is none of %v", faults)
	}
	claims := i.Claims()
	if sub := form.Get("sub"); sub != "" {
		claims["sub"], claims["email"] = sub, emailOf(sub)
	}
	for _, name := range []string{"email", "scope"} {
		if v := form.Get(name); v != "" {
			claims[name] = v
		}
	}
	roles, err := list(form.Get("roles"))
	if err != nil {
		return nil, invalid("roles: %v", err)
	}
	if roles != nil {
		claims["roles"] = roles
	}
	aud, err := list(form.Get("aud"))
	if err != nil {
		return nil, invalid("aud: %v", err)
	}
	for _, resource := range form["resource"] {
		if u, err := url.Parse(resource); err != nil || !u.IsAbs() || u.Fragment != "" {
			return nil, &refusal{"invalid_target", "resource is not an absolute URL without fragment"}
		}
		if aud == nil {
			aud = []string{defaultAudience}
		}
		if !slices.Contains(aud, resource) {
			aud = append(aud, resource)
		}
	}
	if len(aud) == 1 {
		claims["aud"] = aud[0]
	} else if aud != nil {
		claims["aud"] = aud
	}
	if s := form.Get("lifetime"); s != "" {
		seconds, err := strconv.ParseInt(s, 10, 64)
		if limit := int64(maxLifetime / time.Second); err != nil || seconds > limit || seconds < -limit {
			return nil, invalid("lifetime is not a number of seconds from %d to %d", -limit, limit)
		}
		claims["exp"] = time.Now().Unix() + seconds
	}
	for _, s := range form["claim"] {
		name, text, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, invalid("claim %.40q is not name=JSON", s)
		}
		if text == "" {
			delete(claims, name)
			continue
		}
		v, err := decode(text)
		if err != nil {
			return nil, invalid("claim %.40q: the value is not JSON (a string needs its quotes)", name)
		}
		claims[name] = v
	}
	return claims, nil
}

// emailOf returns an address for a subject, which is one itself if it has the form.
func emailOf(subject string) string {
	if strings.Contains(subject, "@") {
		return subject
	}
	return subject + "@example.com"
}

// list reads a list: JSON if it begins with [, otherwise items separated by spaces and commas. It
// returns nil if s has no item.
func list(s string) (items []string, err error) {
	if strings.HasPrefix(s, "[") {
		if err := json.Unmarshal([]byte(s), &items); err != nil {
			return nil, errors.New("not a JSON list of strings")
		}
		return items, nil
	}
	if items = strings.FieldsFunc(s, func(c rune) bool { return c == ' ' || c == ',' }); len(items) == 0 {
		return nil, nil
	}
	return items, nil
}

// decode reads one JSON value and keeps every digit of its numbers.
func decode(text string) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}
