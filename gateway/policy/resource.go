package policy

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// metadataPath is what stands before the path of a resource in the address of its metadata (RFC
// 9728 §3.1).
const metadataPath = "/.well-known/oauth-protected-resource"

// resource is what OAuth clients are told of a route, so that they find the login by themselves.
type resource struct {
	config.ProtectedResource
	servers []string // the issuers
	methods []string // of RFC 6750 §2
}

// newResource returns nil for a route that tells nothing.
func newResource(c *config.Config, rc config.Route) *resource {
	if !rc.ProtectedResource.Enabled() {
		return nil
	}
	d := &resource{ProtectedResource: rc.ProtectedResource}
	header, query := false, false
	for _, issuer := range c.Authentication.Issuers() {
		if !config.IsURL(issuer.Issuer) {
			continue // a name, at which no client can log in
		}
		d.servers = append(d.servers, issuer.Issuer)
		header = header || slices.ContainsFunc(issuer.FromHeaders, func(s config.HeaderSource) bool {
			return strings.EqualFold(s.Name, "Authorization") && strings.EqualFold(s.Prefix, "Bearer ")
		})
		query = query || slices.Contains(issuer.FromParams, "access_token")
	}
	if header {
		d.methods = append(d.methods, "header")
	}
	if query {
		d.methods = append(d.methods, "query")
	}
	return d
}

// metadata is the document of RFC 9728 §2.
type metadata struct {
	Resource      string   `json:"resource"`
	Servers       []string `json:"authorization_servers"`
	Scopes        []string `json:"scopes_supported,omitempty"`
	Methods       []string `json:"bearer_methods_supported,omitempty"`
	Name          string   `json:"resource_name,omitempty"`
	Documentation string   `json:"resource_documentation,omitempty"`
}

// describe makes the request one for the metadata of a route, if it is that, and reports whether
// it is. The routes decide which one the rest of the path belongs to; what is not exactly the
// path of a route with metadata is a path like any other, which an agent may serve.
func (p *Policy) describe(pass *Pass, r *http.Request) bool {
	path, ok := strings.CutPrefix(pass.Path, metadataPath)
	if !ok || path != "" && path[0] != '/' || r.Host == "" || !slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, r.Method) {
		return false
	}
	if path == "" {
		path = "/"
	}
	for _, route := range p.routes {
		names, rest, ok := route.match(pass.Host, path)
		if !ok {
			continue
		}
		d := route.resource
		if d == nil || rest != "/" {
			return false
		}
		scheme, host := p.headers.authority(r)
		document := metadata{
			Resource: scheme + "://" + host + strings.TrimSuffix(path, "/"), Servers: d.servers, Scopes: d.scopes(names),
			Methods: d.methods, Name: d.Name, Documentation: d.Documentation,
		}
		pass.Metadata, _ = json.Marshal(document) // strings alone: it cannot fail
		pass.Reason = outcome.ResourceMetadata
		pass.take(route, names)
		return true
	}
	return false
}

// hint returns what a challenge of the route says besides the error (RFC 9728 §5.1, RFC 6750 §3),
// "" for one that tells nothing.
func (p *Policy) hint(r *http.Request, route *route, names config.Names) string {
	d := route.resource
	if d == nil || r.Host == "" {
		return ""
	}
	scheme, host := p.headers.authority(r)
	path := names.Fill(strings.TrimSuffix(route.name, "/"))
	text := `, resource_metadata="` + scheme + "://" + host + metadataPath + path + `"`
	if scopes := d.scopes(names); len(scopes) > 0 {
		text += `, scope="` + strings.Join(scopes, " ") + `"`
	}
	return text
}

func (d *resource) scopes(names config.Names) []string {
	scopes := make([]string, len(d.Scopes))
	for i, s := range d.Scopes {
		scopes[i] = names.Fill(s)
	}
	return scopes
}

// authority returns scheme and host of a request as its client sees them, by the word of a trusted
// proxy if there is one.
func (h headerRules) authority(r *http.Request) (scheme, host string) {
	scheme, host = "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if _, fromProxy := h.client(r.RemoteAddr, r.Header); !fromProxy {
		return scheme, host
	}
	first := func(name string) string {
		value, _, _ := strings.Cut(r.Header.Get(name), ",")
		return strings.TrimSpace(value)
	}
	switch strings.ToLower(first("X-Forwarded-Proto")) {
	case "http", "ws": // Traefik names the scheme of a WebSocket
		scheme = "http"
	case "https", "wss":
		scheme = "https"
	}
	// The value goes into a quoted string and into a document that clients follow, so it must be
	// an authority.
	if s := first("X-Forwarded-Host"); s != "" {
		if u, err := url.Parse("//" + s); err == nil && u.Host == s && !strings.ContainsAny(s, `"\`) {
			host = s
		}
	}
	return scheme, host
}
