package policy

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/headers"
)

// headerRules say which of the client's headers an agent may see.
type headerRules struct {
	strip    map[string]string // identity headers, folded → the key of the configuration that names them
	families []string          // beginnings of further ones, folded
	trusted  []netip.Prefix    // proxies whose forwarding headers are believed
}

func newHeaderRules(c *config.Config) headerRules {
	h := headerRules{strip: map[string]string{}, trusted: c.TrustedProxies}
	const edge = "authentication.edgeTrust."
	if e := c.Authentication.EdgeTrust; e.StripInboundClaimHeaders {
		for _, name := range e.DefaultStripHeaders {
			h.strip[config.FoldHeader(name)] = edge + "defaultStripHeaders"
		}
		for _, name := range e.AdditionalStripHeaders {
			h.strip[config.FoldHeader(name)] = edge + "additionalStripHeaders"
		}
		for _, name := range e.StripFamilies {
			if start, ok := strings.CutSuffix(config.FoldHeader(name), "*"); ok {
				h.families = append(h.families, start)
			} else {
				h.strip[start] = stripFamilies
			}
		}
	}
	for _, issuer := range c.Authentication.Issuers() {
		for _, m := range issuer.OutputClaimToHeaders {
			h.strip[config.FoldHeader(m.Header)] = claimHeaders // whichever issuer the token is from, and with no token at all
		}
		if name := issuer.OutputPayloadToHeader; name != "" {
			h.strip[config.FoldHeader(name)] = payloadHeader
		}
	}
	return h
}

// Keys because of which headers are removed.
const (
	stripFamilies = "authentication.edgeTrust.stripFamilies"
	claimHeaders  = "outputClaimToHeaders"
	payloadHeader = "outputPayloadToHeader"
)

// strips returns the key of the configuration because of which the client's header of a folded
// name is removed, "" if it is not.
func (h headerRules) strips(folded string) (key string) {
	if key = h.strip[folded]; key != "" {
		return key
	}
	for _, start := range h.families {
		if strings.HasPrefix(folded, start) {
			return stripFamilies
		}
	}
	return ""
}

// passes reports whether a name has only characters that mean the same to every server.
func passes(name string) bool {
	for i := range len(name) {
		if c := name[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// hopByHop are headers that end at the gateway (RFC 9110 §7.6.1).
var hopByHop = map[string]bool{
	"connection": true, "keep-alive": true,
	"te": true, "trailer": true, "transfer-encoding": true, "upgrade": true, "http2-settings": true, "expect": true,
}

// isHopByHop reports whether a header ends at the gateway. All that begin with Proxy- speak to a
// proxy.
func isHopByHop(folded string) bool { return hopByHop[folded] || strings.HasPrefix(folded, "proxy-") }

// forwarding are headers in which a proxy tells of the client. A client's own are not believed.
var forwarding = map[string]bool{
	"forwarded": true, "x-real-ip": true, "true-client-ip": true, "x-original-url": true, "x-rewrite-url": true,
}

func isForwarding(folded string) bool {
	return forwarding[folded] || strings.HasPrefix(folded, "x-forwarded-") || strings.HasPrefix(folded, "x-envoy-")
}

// nominated returns the names, folded, that Connection gives to this hop (RFC 9110 §7.6.1). The
// handshake's own fields are the gateway's to judge, not the client's to take away.
func nominated(h http.Header) map[string]bool {
	names := map[string]bool{}
	for _, name := range headers.List(h["Connection"]) {
		if name = config.FoldHeader(name); !strings.HasPrefix(name, "sec-websocket-") {
			names[name] = true
		}
	}
	return names
}

// withoutNominated removes those headers before a token is looked for, so that the client can
// name Authorization too. A handshake keeps them, as in Envoy: there Connection says Upgrade,
// and clients write more into it.
func withoutNominated(h http.Header) {
	names := nominated(h)
	for name := range h {
		if name != "Connection" && names[config.FoldHeader(name)] {
			delete(h, name)
		}
	}
}

// outgoing returns the client's headers as far as an agent may see them: no hop-by-hop header,
// no identity header in any spelling, no name that servers read differently, and no forwarding
// header unless it comes from a trusted proxy. It also returns the identity headers that are
// gone, in order.
func (h headerRules) outgoing(in http.Header, fromProxy bool) (out http.Header, removed []Removed) {
	hop := nominated(in)
	out = make(http.Header, len(in)+4)
	for name, values := range in {
		f := config.FoldHeader(name)
		if key := h.strips(f); key != "" {
			removed = append(removed, Removed{Header, name, key})
			continue
		}
		switch {
		case !passes(name), isHopByHop(f), hop[f], f == "x-forwarded-client-cert":
		case isForwarding(f) && !fromProxy:
		default:
			out[name] = values
		}
	}
	slices.SortFunc(removed, func(a, b Removed) int { return cmp.Compare(a.Name, b.Name) })
	return out, removed
}

// client returns the address that limits and X-Forwarded-For see: the peer's, or the last one in
// X-Forwarded-For that is no trusted proxy.
func (h headerRules) client(remote string, in http.Header) (addr netip.Addr, fromProxy bool) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}, false
	}
	addr = ap.Addr().Unmap().WithZone("")
	if !h.trusts(addr) {
		return addr, false
	}
	hops := headers.List(in["X-Forwarded-For"])
	for i := len(hops) - 1; i >= 0; i-- {
		hop, ok := parseHop(hops[i])
		if !ok {
			break
		}
		if addr = hop.Unmap().WithZone(""); !h.trusts(addr) {
			break
		}
	}
	return addr, true
}

// parseHop returns the address in an element of X-Forwarded-For. Some balancers append a port to
// it, and brackets around an IPv6 address.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.Trim(strings.TrimSpace(s), `"`)
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr(), true
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return a, err == nil
}

// Network returns what counts as one client address: an IPv4 address, or the /64 of an IPv6 one,
// of which a client has as many as it likes (RFC 4291 §2.5.4).
func Network(a netip.Addr) netip.Addr {
	if !a.Is6() || a.Is4In6() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

func (h headerRules) trusts(a netip.Addr) bool {
	for _, p := range h.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// forward adds the gateway's own forwarding headers to out. What a trusted proxy has said stays,
// and the peer is appended to it.
func forward(out http.Header, r *http.Request) {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	if before := out["X-Forwarded-For"]; len(before) > 0 {
		peer = strings.Join(before, ", ") + ", " + peer
	}
	out["X-Forwarded-For"] = []string{peer}
	if len(out["X-Forwarded-Proto"]) == 0 {
		proto := "http"
		if r.TLS != nil {
			proto = "https"
		}
		out["X-Forwarded-Proto"] = []string{proto}
	}
	if len(out["X-Forwarded-Host"]) == 0 {
		out["X-Forwarded-Host"] = []string{r.Host}
	}
}

// EndToEnd returns an answer's headers, or trailers, but those that end at the gateway: hop-by-hop
// ones, those that its Connection header names (RFC 9110 §7.6.1), and the session's id, which only
// the gateway gives. For trailers connection has the lines of that header.
func EndToEnd(from http.Header, connection ...string) http.Header {
	gone := map[string]bool{"x-gateway-session": true}
	for _, name := range headers.List(slices.Concat(from["Connection"], connection)) {
		gone[config.FoldHeader(name)] = true
	}
	to := make(http.Header, len(from)+3)
	for name, values := range from {
		if f := config.FoldHeader(name); !isHopByHop(f) && !gone[f] {
			to[name] = values
		}
	}
	return to
}
