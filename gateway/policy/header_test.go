package policy

import (
	"crypto/tls"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/config"
)

// stripping are the rules of a configuration with two issuers and a listed header, and the
// header names they must keep out.
func stripping() (headerRules, []string) {
	c := config.Default()
	other := config.DefaultJWT()
	other.OutputClaimToHeaders = config.ClaimHeaders{{Header: "X_Tenant", Claim: "tid"}}
	c.Authentication.JWTRules = config.JWTRules{other}
	c.Authentication.EdgeTrust.AdditionalStripHeaders = []string{"X-Internal"}
	return newHeaderRules(&c), []string{"x-user-id", "x-user-email", "x-user-roles", "x-tenant", "x-internal"}
}

func TestIdentityHeadersAreStrippedInEverySpelling(t *testing.T) {
	rules, _ := stripping()
	for _, name := range []string{
		"X-User-Id", "x-user-id", "X-USER-ID", "x_user_id", "X_User-Id", "X-User_Id", "x.user.id", "X.User-Id", "X-User-Email",
		"x_user_roles", "X-Tenant", "x_tenant", "X.TENANT", "X-Internal", "x_internal",
		"X-User-Groups", "x_user_groups", "X.User.Anything", "X-User-", "X-Omnia-User", "x_omnia_agent", "X-End-User-Id", "x_end_user_id",
	} {
		for _, fromProxy := range []bool{false, true} {
			if out, _ := rules.outgoing(http.Header{name: {"a", "b"}}, fromProxy); len(out) != 0 {
				t.Errorf("%s, from a proxy %v: %v", name, fromProxy, out)
			}
		}
	}
}

func TestListedHeadersStayIfSoConfiguredAndMappedOnesNever(t *testing.T) {
	c := config.Default()
	c.Authentication.EdgeTrust.StripInboundClaimHeaders = false
	c.Authentication.EdgeTrust.DefaultStripHeaders = []string{"x-user-id", "x-listed"}
	c.Authentication.EdgeTrust.AdditionalStripHeaders = []string{"x-added"}
	out, _ := newHeaderRules(&c).outgoing(http.Header{"X-Listed": {"1"}, "X-Added": {"2"}, "X-User-Id": {"3"}}, false)
	if names := slices.Sorted(maps.Keys(out)); !slices.Equal(names, []string{"X-Added", "X-Listed"}) {
		t.Errorf("got %q", names)
	}
}

func TestFamiliesAreTheConfigurations(t *testing.T) {
	in := http.Header{"X-User-Groups": {"1"}, "X-Omnia-Agent": {"2"}, "X-Own-A": {"3"}, "X-Own": {"4"}, "X-User-Id": {"5"}, "X-Team": {"6"}}
	for _, test := range []struct {
		families []string
		strip    bool
		want     []Removed
	}{
		{config.DefaultAuthentication().EdgeTrust.StripFamilies, true, []Removed{
			{Header, "X-Omnia-Agent", stripFamilies}, {Header, "X-Team", "authentication.edgeTrust.additionalStripHeaders"},
			{Header, "X-User-Groups", stripFamilies}, {Header, "X-User-Id", "outputClaimToHeaders"},
		}},
		{[]string{"X_Own-*"}, true, []Removed{
			{Header, "X-Own-A", stripFamilies}, {Header, "X-Team", "authentication.edgeTrust.additionalStripHeaders"},
			{Header, "X-User-Id", "outputClaimToHeaders"},
		}},
		{config.DefaultAuthentication().EdgeTrust.StripFamilies, false, []Removed{{Header, "X-User-Id", "outputClaimToHeaders"}}},
	} {
		c := config.Default()
		c.Authentication.EdgeTrust.StripInboundClaimHeaders, c.Authentication.EdgeTrust.StripFamilies = test.strip, test.families
		c.Authentication.EdgeTrust.AdditionalStripHeaders = []string{"x-team"}
		out, removed := newHeaderRules(&c).outgoing(in, false)
		if !slices.Equal(removed, test.want) || len(out)+len(removed) != len(in) {
			t.Errorf("%v, %v: removed %v, left %v", test.families, test.strip, removed, out)
		}
	}
}

func TestWhichHeadersTheAgentSees(t *testing.T) {
	rules, _ := stripping()
	always := []string{
		"Origin", "Traceparent", "Tracestate", "Baggage", "Authorization", "Cookie", "User-Agent", "Xuser-Id", "X-Users", "X-User",
		"X-Omnia", "X-End-User-Ids", "X-Request-Id",
		"Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions", "Content-Type",
		"Accept-Encoding",
	}
	fromProxies := []string{
		"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Anything", "Forwarded", "X-Real-Ip",
		"True-Client-Ip", "X-Original-Url", "X-Rewrite-Url", "X-Envoy-Internal", "X-Envoy-Original-Path",
	}
	never := []string{
		"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding",
		"Upgrade",
		"Http2-Settings", "Expect", "X-Forwarded-Client-Cert", "X_forwarded_for", "X.Real.Ip", "x_request_id", "X.Request.Id", "X!Id",
		"X~Id", "X'Id", "X Id",
	}
	in := http.Header{}
	for _, name := range slices.Concat(always, fromProxies, never) {
		in[name] = []string{"value"}
	}
	for fromProxy, want := range map[bool][]string{false: always, true: slices.Concat(always, fromProxies)} {
		out, _ := rules.outgoing(in, fromProxy)
		if got := slices.Sorted(maps.Keys(out)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("from a proxy %v: got %q", fromProxy, got)
		}
	}
}

func TestConnectionHeaderTakesAwayWhatItNames(t *testing.T) {
	rules, _ := stripping()
	in := http.Header{
		"Connection": {"Upgrade, X-Hop", "x-other-hop,,sec-websocket-key, ORIGIN"},
		"X-Hop":      {"1"}, "X-Other-Hop": {"2"}, "X-End-To-End": {"3"}, "Sec-Websocket-Key": {"4"}, "Origin": {"5"},
	}
	out, _ := rules.outgoing(in, false)
	if got := slices.Sorted(maps.Keys(out)); !slices.Equal(got, []string{"Sec-Websocket-Key", "X-End-To-End"}) {
		t.Errorf("got %q", got)
	}
	if len(in) != 6 {
		t.Error("the client's headers were changed")
	}
}

// FuzzOutgoing holds that no name gets through that some server could take for an identity
// header, or that ends at the gateway.
func FuzzOutgoing(f *testing.F) {
	for _, name := range []string{"X-User-Id", "x_user_id", "X.USER.ID", "x-user\u017fid", "X_Tenant", "Connection", "x-internal",
		"X-User-Id "} {
		f.Add(name, "keep-alive")
	}
	f.Add("X-Forwarded_For", "x-user-id")
	rules, identity := stripping()
	loose := strings.NewReplacer("_", "-", ".", "-", " ", "-", "\t", "-", "~", "-", "+", "-", "\u017f", "s", "\u212a", "k")
	f.Fuzz(func(t *testing.T, name, connection string) {
		for _, fromProxy := range []bool{false, true} {
			out, _ := rules.outgoing(http.Header{name: {"v"}, "Connection": {connection}}, fromProxy)
			for got := range out {
				if got != name || strings.Trim(got, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
					t.Fatalf("%q went out as %q", name, got)
				}
				folded := strings.ToLower(loose.Replace(got))
				if slices.Contains(identity, folded) || folded == "connection" || folded == "upgrade" || folded == "transfer-encoding" {
					t.Fatalf("%q got through", got)
				}
				if !fromProxy && (strings.HasPrefix(folded, "x-forwarded-") || folded == "forwarded") {
					t.Fatalf("%q got through, but from no proxy", got)
				}
			}
		}
	})
}

func TestAddressOfTheClient(t *testing.T) {
	rules := headerRules{trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	for _, tt := range []struct {
		remote    string
		forwarded []string
		want      string
		fromProxy bool
	}{
		{"192.0.2.1:1234", nil, "192.0.2.1", false},
		{"192.0.2.1:1234", []string{"198.51.100.7"}, "192.0.2.1", false}, // a client's own word
		{"[2001:db8::1]:1234", nil, "2001:db8::1", false},
		{"[fe80::1%eth0]:1234", nil, "fe80::1", false},
		{"[::ffff:192.0.2.1]:1234", nil, "192.0.2.1", false},
		{"10.1.2.3:1234", nil, "10.1.2.3", true},
		{"[::ffff:10.1.2.3]:1234", []string{"198.51.100.7"}, "198.51.100.7", true},
		{"10.1.2.3:1234", []string{"198.51.100.7"}, "198.51.100.7", true},
		// the last that is no proxy; what is before it may be a lie
		{"10.1.2.3:1234", []string{"203.0.113.9, 198.51.100.7"}, "198.51.100.7", true},
		{"10.1.2.3:1234", []string{"203.0.113.9, 198.51.100.7, 10.9.9.9"}, "198.51.100.7", true},
		{"10.1.2.3:1234", []string{"203.0.113.9", "198.51.100.7 ,10.9.9.9", "fd00::1"}, "198.51.100.7", true},
		{"10.1.2.3:1234", []string{"10.8.8.8, 10.9.9.9"}, "10.8.8.8", true},
		{"10.1.2.3:1234", []string{"198.51.100.7, unknown"}, "10.1.2.3", true}, // a hop that cannot be read ends the chain
		{"10.1.2.3:1234", []string{"::ffff:198.51.100.7"}, "198.51.100.7", true},
		{"10.1.2.3:1234", []string{""}, "10.1.2.3", true},
		{"10.1.2.3:1234", []string{"198.51.100.7:50001"}, "198.51.100.7", true},
		{"10.1.2.3:1234", []string{"203.0.113.9, [2001:db8::1]:443, 10.9.9.9:80"}, "2001:db8::1", true},
		{"10.1.2.3:1234", []string{"[2001:db8::1]"}, "2001:db8::1", true},
		{"10.1.2.3:1234", []string{`"[2001:db8::1]:443"`}, "2001:db8::1", true},
		{"10.1.2.3:1234", []string{"198.51.100.7, ,", ""}, "198.51.100.7", true}, // empty elements do not count
		{"[fd00::5]:1", []string{"198.51.100.7"}, "198.51.100.7", true},
		{"@", []string{"198.51.100.7"}, "invalid IP", false},
	} {
		addr, fromProxy := rules.client(tt.remote, http.Header{"X-Forwarded-For": tt.forwarded})
		if addr.String() != tt.want || fromProxy != tt.fromProxy {
			t.Errorf("%s, %q: got %s, %v; want %s, %v", tt.remote, tt.forwarded, addr, fromProxy, tt.want, tt.fromProxy)
		}
	}
}

func TestForwardingHeadersOfTheGateway(t *testing.T) {
	for _, tt := range []struct {
		name  string
		out   http.Header
		tls   bool
		want  [3]string // For, Proto, Host
		lines int
	}{
		{"of a client", http.Header{}, false, [3]string{"192.0.2.1", "http", "public.example.com:8443"}, 1},
		{"of a client over TLS", http.Header{}, true, [3]string{"192.0.2.1", "https", "public.example.com:8443"}, 1},
		{"behind a proxy", http.Header{
			"X-Forwarded-For": {"a, b", "c"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"front"},
		}, false, [3]string{"a, b, c, 192.0.2.1", "https", "front"}, 1},
	} {
		r := request("GET", "/")
		r.RemoteAddr, r.Host = "192.0.2.1:4321", "public.example.com:8443"
		if tt.tls {
			r.TLS = &tls.ConnectionState{}
		}
		forward(tt.out, r)
		got := [3]string{tt.out.Get("X-Forwarded-For"), tt.out.Get("X-Forwarded-Proto"), tt.out.Get("X-Forwarded-Host")}
		if got != tt.want || len(tt.out["X-Forwarded-For"]) != tt.lines {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}
