package auth

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// How an issuer is asked for its keys, where the configuration says nothing.
const (
	// fetchLimit is for all of one fetch, discovery included: an issuer that takes longer is one
	// that is down.
	fetchLimit   = 10 * time.Second
	refreshEvery = 10 * time.Minute
	fileEvery    = 5 * time.Second // reading a file costs little
	maxDocument  = 1 << 20         // bytes, inflated
)

// source is where the keys of an issuer come from, and how. Sets with equal sources are one.
type source struct {
	issuer   string
	inline   string // the set itself; else
	file     string // where it is; else
	uri      string // where to ask for it; "": discovery
	insecure bool   // http:// is allowed beyond loopback
	how      config.Fetch
}

// newSource returns the source that a configuration names, and the set if that needs no network.
func newSource(j config.JWT) (from source, first *jwks, err error) {
	from = source{issuer: j.Issuer, inline: j.JWKS, file: j.JWKSFile, uri: j.JWKSURI, insecure: j.InsecureHTTP, how: j.Fetch}
	from.how.Timeout = cmp.Or(j.Timeout, j.Fetch.Timeout)
	key := ""
	switch {
	case from.inline != "":
		key = "jwks"
		first, err = parseKeys([]byte(from.inline))
	case from.file != "":
		key = "jwksFile"
		first, err = from.readFile()
	case from.uri != "":
		key = "jwksUri"
		_, err = from.allowed(from.uri)
	}
	if err == nil && first != nil && len(first.keys) == 0 {
		err = fmt.Errorf("no key is usable: %s", first.why())
	}
	if err != nil {
		return source{}, nil, fmt.Errorf("%s: %w", key, err)
	}
	return from, first, nil
}

// sameKeys reports whether another source is the same place, asked in the same way, only at other
// times. Another proxy or other authorities may give other keys.
func (s source) sameKeys(other source) bool {
	other.how.Timeout, other.how.Interval = s.how.Timeout, s.how.Interval
	return s == other
}

func (s source) timeout() time.Duration { return cmp.Or(s.how.Timeout, fetchLimit) }

// interval returns how long keys are used until they are asked for again.
func (s source) interval() time.Duration {
	if s.file != "" {
		return fileEvery
	}
	return cmp.Or(s.how.Interval, refreshEvery)
}

// place returns where the keys are, fit for a log; "" if discovery is to find out.
func (s source) place() string {
	switch {
	case s.inline != "":
		return "the configuration"
	case s.file != "":
		return s.file
	case s.uri != "":
		return redacted(s.uri)
	}
	return ""
}

// get finds the issuer's key set and reads it. from is where it was looked for last.
func (s *keySet) get(ctx context.Context) (set *jwks, from string, err error) {
	switch {
	case s.inline != "":
		set, err = parseKeys([]byte(s.inline))
		return set, s.place(), err
	case s.file != "":
		set, err = s.readFile()
		return set, s.file, err
	}
	at, discovery := address{text: s.uri, written: true}, error(nil)
	if at.text == "" {
		base := strings.TrimSuffix(s.issuer, "/") + "/.well-known/"
		if at.text, discovery = s.discover(ctx, base+"openid-configuration"); discovery != nil {
			at.text = base + "jwks.json"
		} else {
			at.written = false
		}
	}
	s.noteDiscovery(discovery)
	from = redacted(at.text)
	body, err := s.read(ctx, at)
	if err == nil {
		set, err = parseKeys(body)
	}
	switch {
	case err != nil && discovery != nil:
		err = fmt.Errorf("%s: %w; before that, discovery: %w", from, err, discovery)
	case err != nil:
		err = fmt.Errorf("%s: %w", from, err)
	}
	return set, from, err
}

// readFile reads the set that is in a file.
func (s source) readFile() (*jwks, error) {
	text, err := readBounded(s.file)
	if err != nil {
		return nil, err
	}
	set, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.file, err)
	}
	return set, nil
}

// readBounded reads a file of at most maxDocument bytes. A byte order mark is left out.
func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return document(f)
}

// document reads at most maxDocument bytes. A byte order mark is left out.
func document(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxDocument {
		return nil, fmt.Errorf("more than %d bytes", maxDocument)
	}
	return bytes.TrimPrefix(text, []byte("\ufeff")), nil
}

// discover reads an issuer's metadata (OpenID Connect Discovery 1.0 §4) and returns the address of
// its keys. A document that speaks for another issuer is not believed (§4.3).
func (s *keySet) discover(ctx context.Context, uri string) (keys string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", redacted(uri), err)
		}
	}()
	body, err := s.read(ctx, address{text: uri, written: true})
	if err != nil {
		return "", err
	}
	object, err := decodeObject(string(body))
	if err != nil {
		return "", err
	}
	if name, _ := object["issuer"].(string); name != s.issuer {
		return "", misnamed{s.issuer, name}
	}
	if keys, _ = object["jwks_uri"].(string); keys == "" {
		return "", errors.New("no jwks_uri")
	}
	return keys, nil
}

// address is where a document is. One that the operator has written, as issuer or as jwksUri,
// may be on this machine, and gets the token of bearerTokenFile; one that a discovery document
// names may not and does not, unless it is on the issuer's own host.
type address struct {
	text    string
	written bool
}

// read gets one document. The error does not name the address.
func (s *keySet) read(ctx context.Context, at address) ([]byte, error) {
	u, err := s.allowed(at.text)
	if err != nil {
		return nil, err
	}
	issuer, err := url.Parse(s.issuer)
	trusted := at.written || err == nil && u.Scheme == issuer.Scheme && strings.EqualFold(u.Host, issuer.Host)
	guarded := !trusted && (err != nil || !config.IsLoopback(issuer))
	if addr, err := netip.ParseAddr(u.Hostname()); guarded && (config.IsLoopback(u) || err == nil && isLocal(addr)) {
		return nil, errLocal
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("no request can be made of it")
	}
	// A Kubernetes API server answers 406 for its keys if only application/json is accepted.
	req.Header.Set("Accept", "application/jwk-set+json, application/json;q=0.9")
	req.Header.Set("User-Agent", "omnia-gateway")
	if trusted && s.how.BearerTokenFile != "" {
		token, err := BearerToken(s.how.BearerTokenFile)
		if err != nil {
			return nil, fmt.Errorf("fetch.bearerTokenFile: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	transport, err := s.roundTripper(guarded)
	if err != nil {
		return nil, err
	}
	body, err := ask(req, transport)
	if err != nil {
		return nil, s.advised(err, u, trusted)
	}
	return body, nil
}

// advised returns an error of one request with the key of the configuration that it is about, if
// there is one.
func (s source) advised(err error, u *url.URL, trusted bool) error {
	if !trusted && s.how.BearerTokenFile != "" {
		return fmt.Errorf("%w; the token of fetch.bearerTokenFile is not sent to a host that only the discovery document names: write "+
			"this address as jwksUri", err)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "proxyconnect" {
		err = fmt.Errorf("the proxy of fetch.proxy cannot be reached: %w", err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if s.how.CAFile == "" {
			return fmt.Errorf("%w; fetch.caFile can name a private authority", err)
		}
		return fmt.Errorf("%w: none of those in fetch.caFile, %s, which replace the system's", err, s.how.CAFile)
	}
	code, answered := errors.AsType[status](err)
	switch {
	case answered && s.how.Proxy != "" && u.Scheme == "http":
		return fmt.Errorf("%w, perhaps of the proxy of fetch.proxy", err)
	case code != http.StatusUnauthorized && code != http.StatusForbidden:
		return err
	case s.how.BearerTokenFile == "":
		return fmt.Errorf("%w; if a token is needed, as by a Kubernetes API server, name its file in fetch.bearerTokenFile", err)
	}
	return fmt.Errorf("%w, although the token of fetch.bearerTokenFile was sent", err)
}

// status is the error of an answer other than 200.
type status int

func (s status) Error() string { return fmt.Sprintf("status %d", int(s)) }

// ask makes one request and returns the document that is the answer.
func ask(req *http.Request, transport http.RoundTripper) ([]byte, error) {
	client := &http.Client{
		Transport: transport,
		// A redirect could lead to another host's keys, or from https to http.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err // without the address and its secrets
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		if to, err := resp.Location(); err == nil && resp.StatusCode/100 == 3 {
			return nil, fmt.Errorf("status %d: a redirect to %s, which is not followed; write the address of the keys as jwksUri",
				resp.StatusCode, redacted(to.String()))
		}
		return nil, status(resp.StatusCode)
	}
	var body io.Reader = resp.Body
	switch encoding := strings.ToLower(resp.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip": // some servers compress without being asked
		if body, err = gzip.NewReader(body); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("encoded as %s", outcome.Brief(encoding))
	}
	return document(body)
}

// allowed parses an address from which keys may come: https, or http on this machine, or http with
// insecureHTTP.
func (s source) allowed(uri string) (*url.URL, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" {
		return nil, errors.New("no URL to fetch from")
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && (s.insecure || config.IsLoopback(u)):
	default:
		return nil, errors.New("only https is allowed beyond this machine, without insecureHTTP")
	}
	return u, nil
}

var errLocal = errors.New("the discovery document names an address of this machine or its link, which only the operator may: write it " +
	"as jwksUri")

// isLocal reports whether an address is this machine's, or its link's, where clouds have metadata.
func isLocal(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast()
}

// roundTripper returns the transport of one request. It takes no proxy from the environment: a
// proxy could give us any keys over http. A guarded one does not connect to local addresses,
// whatever name they hide under.
func (s *keySet) roundTripper(guarded bool) (http.RoundTripper, error) {
	if s.transport != nil {
		return s.transport, nil
	}
	dialer := &net.Dialer{Timeout: s.timeout()}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    s.timeout(),
		DisableCompression:     true,
		DisableKeepAlives:      true, // the next request is minutes away
		MaxResponseHeaderBytes: 64 << 10,
	}
	if s.how.Proxy != "" {
		proxy, err := url.Parse(s.how.Proxy)
		if err != nil {
			return nil, errors.New("fetch.proxy: not a URL") // not the error: it repeats the password
		}
		t.Proxy = http.ProxyURL(proxy)
		t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			switch answer.StatusCode {
			case http.StatusOK:
				return nil
			case http.StatusProxyAuthRequired:
				return errors.New("the proxy of fetch.proxy answers 407: it wants a user and a password, as in http://user:password@host")
			}
			return fmt.Errorf("the proxy of fetch.proxy answers %d, and does not connect", answer.StatusCode)
		}
	} else if guarded {
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			if a, err := netip.ParseAddrPort(address); err != nil || isLocal(a.Addr()) {
				return errLocal
			}
			return nil
		}
	}
	if s.how.CAFile != "" {
		pool, err := s.authorities()
		if err != nil {
			return nil, fmt.Errorf("fetch.caFile: %w", err)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return t, nil
}

// authorities reads caFile. It is read for each fetch, because clusters replace theirs.
func (s source) authorities() (*x509.CertPool, error) {
	text, err := readBounded(s.how.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in PEM", s.how.CAFile)
	}
	return pool, nil
}

// BearerToken reads a file that bearerTokenFile names. It is read for each fetch, because
// Kubernetes renews such tokens.
func BearerToken(name string) (string, error) {
	text, err := readBounded(name)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("%s: it is empty", name)
	}
	if strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", fmt.Errorf("%s: not one token", name)
	}
	return token, nil
}

// redacted returns an address without what may be secret in it: userinfo, query, fragment.
func redacted(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "(no URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}
