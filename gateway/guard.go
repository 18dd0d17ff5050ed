package gateway

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// guarded lets a request through to the admin listener only if no web page of another origin can
// have sent it. Without it, a page that an operator happens to visit could read the sessions of
// a gateway on loopback: directly with Sec-Fetch-Site: cross-site, or by DNS rebinding, which
// makes the page's own host name resolve to 127.0.0.1. hosts are the names under which the
// listener may be asked, besides localhost and any address; a request of HTTP/1.0 without one comes
// from no browser.
func guarded(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !isOwnHost(r.Host, hosts) && (r.Host != "" || r.ProtoAtLeast(1, 1)):
			http.Error(w, "this Host is not served here: use an address, localhost, or a name in admin.hosts", http.StatusForbidden)
		case r.Header.Get("Sec-Fetch-Site") == "cross-site", !isOwnOrigin(r.Header["Origin"], r.Host):
			http.Error(w, "not for pages of another origin", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isOwnHost reports whether a Host header cannot come from DNS rebinding.
func isOwnHost(host string, allowed []string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "localhost" || slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, name) }) {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil
}

// isOwnOrigin reports whether the Origin lines are those of a page of this very listener, or none.
func isOwnOrigin(origins []string, host string) bool {
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(origins[0])
	return len(origins) == 1 && err == nil && strings.EqualFold(u.Host, host)
}
