package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// The bounds of one fetch.
const (
	// fetchLimit is for all of it, discovery included: an issuer that takes longer is one that is down.
	fetchLimit  = 10 * time.Second
	maxDocument = 1 << 20 // bytes
)

// newTransport returns the transport for keys. It takes no proxy from the environment: a proxy
// could give us any keys over http.
func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            (&net.Dialer{Timeout: fetchLimit}).DialContext,
		TLSHandshakeTimeout:    fetchLimit,
		DisableCompression:     true, // the limit of a document counts what was sent
		DisableKeepAlives:      true, // the next request is minutes away
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// get finds the issuer's key set and reads it. from is where it was looked for last.
func (s *keySet) get(ctx context.Context) (set *jwks, skipped int, from string, err error) {
	uri, discovery := s.uri, error(nil)
	if uri == "" {
		base := strings.TrimSuffix(s.issuer, "/") + "/.well-known/"
		if uri, discovery = s.discover(ctx, base+"openid-configuration"); discovery != nil {
			uri = base + "jwks.json"
		}
	}
	s.noteDiscovery(discovery)
	from = redacted(uri)
	body, err := s.read(ctx, uri)
	if err == nil {
		set, skipped, err = parseKeys(body)
	}
	switch {
	case err != nil && discovery != nil:
		err = fmt.Errorf("%s: %w; before that, discovery: %w", from, err, discovery)
	case err != nil:
		err = fmt.Errorf("%s: %w", from, err)
	}
	return set, skipped, from, err
}

// discover reads an issuer's metadata (OpenID Connect Discovery 1.0 §4) and returns the address of
// its keys. A document that speaks for another issuer is not believed (§4.3).
func (s *keySet) discover(ctx context.Context, uri string) (keys string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", redacted(uri), err)
		}
	}()
	body, err := s.read(ctx, uri)
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

// read gets one document. The error does not name uri.
func (s *keySet) read(ctx context.Context, uri string) ([]byte, error) {
	u, err := s.allowed(uri)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("no request can be made of it")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "omnia-gateway")
	resp, err := s.client.Do(req)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err // without the address and its secrets
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxDocument {
		return nil, fmt.Errorf("more than %d bytes", maxDocument)
	}
	return body, nil
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

// redacted returns an address without what may be secret in it: userinfo, query, fragment.
func redacted(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "(no URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}
