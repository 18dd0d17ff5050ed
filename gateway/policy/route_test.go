package policy

import (
	"github.com/altairalabs/omnia-gateway/auth"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/config"
)

// routing makes routes of "host path" or "path", each named by that text, with http://up as
// upstream.
func routing(t testing.TB, texts ...string) []*route {
	t.Helper()
	c := config.Default()
	for _, text := range texts {
		r := config.Route{Path: text, Upstream: "http://up", StripPrefix: true}
		if host, path, ok := strings.Cut(text, " "); ok {
			r.Host, r.Path = host, path
		}
		c.Routes = append(c.Routes, r)
	}
	return compiled(t, &c)
}

func compiled(t testing.TB, c *config.Config) []*route {
	t.Helper()
	v, err := auth.New(config.Authentication{}, 0, auth.NewKeys(auth.Options{}), nil)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := newRoutes(c, v)
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

// taken is which of the routes takes a request, with the agent's label and what is left of the
// path.
func taken(routes []*route, host, path string) (name, agent, rest string) {
	name, names, rest := bound(routes, host, path)
	return name, names.Of("agent"), rest
}

func bound(routes []*route, host, path string) (name string, names config.Names, rest string) {
	for _, r := range routes {
		names, rest, ok := r.match(hostOf(host), path)
		switch {
		case !ok:
		case r.labels != nil:
			var labels []string
			for _, l := range r.labels {
				if l.isName {
					l.text = "{" + l.text + "}"
				}
				labels = append(labels, l.text)
			}
			return strings.Join(labels, ".") + " " + r.name, names, rest
		case r.host == "":
			return r.name, names, rest
		case r.host[0] == '.':
			return "*" + r.host + " " + r.name, names, rest
		default:
			return r.host + " " + r.name, names, rest
		}
	}
	return "", nil, ""
}

func TestMostExactRouteWinsWhateverTheOrder(t *testing.T) {
	all := []string{
		"/", "/{agent}", "/{agent}/v2", "/my-agent", "/my-agent/v2", "/a/{agent}", "/a/{agent}/x", "/a/b",
		"agents.example.com /", "agents.example.com /{agent}", "*.example.com /my-agent", "*.agents.example.com /",
	}
	cases := []struct{ host, path, route, agent, rest string }{
		{"other", "/", "/", "", "/"},
		{"other", "/UPPER/ws", "/", "", "/UPPER/ws"},
		{"other", "/x/ws", "/{agent}", "x", "/ws"},
		{"other", "/x", "/{agent}", "x", "/"},
		{"other", "/x/", "/{agent}", "x", "/"},
		{"other", "/x/v2/ws", "/{agent}/v2", "x", "/ws"},
		{"other", "/x/v22/ws", "/{agent}", "x", "/v22/ws"},
		{"other", "/my-agent", "/my-agent", "", "/"},
		{"other", "/my-agent/ws", "/my-agent", "", "/ws"},
		{"other", "/my-agentx/ws", "/{agent}", "my-agentx", "/ws"},
		{"other", "/my-agent/v2/ws", "/my-agent/v2", "", "/ws"},
		{"other", "/a/c", "/a/{agent}", "c", "/"},
		{"other", "/a/b", "/a/b", "", "/"},
		{"other", "/a/b/x", "/a/b", "", "/x"}, // segment by segment from the left: b before {agent}
		{"other", "/a/c/x", "/a/{agent}/x", "c", "/"},
		{"agents.example.com", "/my-agent/ws", "agents.example.com /{agent}", "my-agent", "/ws"}, // the host counts first
		{"Agents.Example.COM:8443", "/my-agent/ws", "agents.example.com /{agent}", "my-agent", "/ws"},
		{"agents.example.com.", "/", "agents.example.com /", "", "/"},
		{"x.example.com", "/my-agent", "*.example.com /my-agent", "", "/"},
		{"x.example.com", "/other", "/{agent}", "other", "/"},
		{"x.agents.example.com", "/my-agent", "*.agents.example.com /", "", "/my-agent"}, // the longer wildcard
		{"x.y.agents.example.com", "/my-agent", "*.agents.example.com /", "", "/my-agent"},
		{"example.com", "/my-agent", "/my-agent", "", "/"},
		{"evilexample.com", "/my-agent", "/my-agent", "", "/"},
		{".example.com", "/my-agent", "/my-agent", "", "/"},
		{"[::1]:8080", "/my-agent", "/my-agent", "", "/"},
		{"", "/my-agent", "/my-agent", "", "/"},
	}
	for range 20 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		routes := routing(t, all...)
		for _, tt := range cases {
			if route, agent, rest := taken(routes, tt.host, tt.path); route != tt.route || agent != tt.agent || rest != tt.rest {
				t.Fatalf("%s%s: got %q with agent %q, rest %q; want %q, %q, %q; routes %q", tt.host, tt.path, route, agent, rest,
					tt.route, tt.agent, tt.rest, all)
			}
		}
	}
}

func TestHostOf(t *testing.T) {
	for authority, want := range map[string]string{
		"a.example": "a.example", "A.Example.": "a.example", "a.example:443": "a.example", "a.example.:8443": "a.example",
		"a.example:": "a.example", "my_agent": "my_agent", "127.0.0.1:80": "127.0.0.1", "xn--gd-eka.example": "xn--gd-eka.example",
		"[::1]": "::1", "[::1]:80": "::1", "[2001:DB8::1]": "2001:db8::1", "%2Fvar%2Frun%2Fx.sock": "%2fvar%2frun%2fx.sock",
	} {
		if got := hostOf(authority); got != want {
			t.Errorf("%s: got %q, expected %q", authority, got, want)
		}
	}
	for _, authority := range []string{
		"", ".", ":80", "a:b", "a:80:90", "::1", "[a.example]:80", "[a.example]", "[127.0.0.1]", "[::1", "::1]", "[::1]x", "x[::1]",
		"[::1]:x", "[]", "[fe80::1%eth0]", `[::1%"]`, "[::1% x]", `a"b`, "<a>", "a b",
		"\xff\x85", "é.example", "evil,a.example", "evil;a.example",
		"u@a.example", "a/b", `a\b`, "a?b", "a#b", "a\x00", "{a}",
	} {
		if got := hostOf(authority); got != "" {
			t.Errorf("%q: got %q, expected no host", authority, got)
		}
	}
}

func TestHostsWithNamesComeBetweenExactOnesAndWildcards(t *testing.T) {
	all := []string{
		"/{agent}", "*.example.com /", "*.agents.example.com /", "{agent}.{namespace}.Example.com /", "{agent}.team.example.com /",
		"bot.{namespace}.example.com /", "bot.{namespace}.example.com /{version}", "bot.{namespace}.example.com /v1",
		"bot.team.example.com /", "{agent}.same.example.com /x/{agent}", "{a}.{b}.{c}.{d} /{e}/{f}",
	}
	cases := []struct{ host, path, route, names, rest string }{
		{"bot.team.example.com", "/v1", "bot.team.example.com /", "", "/v1"},
		{"cat.team.example.com", "/v1", "{agent}.team.example.com /", "agent cat", "/v1"},
		{"CAT.Team.Example.COM:8443", "/", "{agent}.team.example.com /", "agent cat", "/"},
		{"cat.team.example.com.", "/", "{agent}.team.example.com /", "agent cat", "/"},
		{"bot.other.example.com", "/v1/ws", "bot.{namespace}.example.com /v1", "namespace other", "/ws"},
		{"bot.other.example.com", "/v2/ws", "bot.{namespace}.example.com /{version}", "namespace other, version v2", "/ws"},
		{"bot.other.example.com", "/V2", "bot.{namespace}.example.com /", "namespace other", "/V2"},
		{"cat.other.example.com", "/ws", "{agent}.{namespace}.example.com /", "agent cat, namespace other", "/ws"},
		{"cat.agents.example.com", "/ws", "{agent}.{namespace}.example.com /", "agent cat, namespace agents", "/ws"},
		{"cat.example.com", "/ws", "*.example.com /", "", "/ws"}, // a name is one label, and each must be there
		{"a.cat.agents.example.com", "/ws", "*.agents.example.com /", "", "/ws"},
		{"c_t.other.example.com", "/ws", "*.example.com /", "", "/ws"},
		{"-a.other.example.com", "/ws", "*.example.com /", "", "/ws"},
		{".other.example.com", "/ws", "*.example.com /", "", "/ws"},
		{"cat.same.example.com", "/x/cat/ws", "{agent}.same.example.com /x/{agent}", "agent cat", "/ws"},
		{"cat.same.example.com", "/x/dog/ws", "{agent}.{namespace}.example.com /", "agent cat, namespace same", "/x/dog/ws"},
		{"cat.same.example.com", "/x", "{agent}.{namespace}.example.com /", "agent cat, namespace same", "/x"},
		{"1.2.3.4", "/x/y/z", "{a}.{b}.{c}.{d} /{e}/{f}", "a 1, b 2, c 3, d 4, e x, f y", "/z"},
		{"[::1]:8080", "/cat", "/{agent}", "agent cat", "/"},
	}
	for range 20 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		routes := routing(t, all...)
		for _, tt := range cases {
			want := strings.Replace(tt.route, "Example", "example", 1)
			if route, names, rest := bound(routes, tt.host, tt.path); route != want || names.String() != tt.names || rest != tt.rest {
				t.Fatalf("%s%s: got %q with %q, rest %q; want %q, %q, %q; routes %q", tt.host, tt.path, route, names, rest,
					want, tt.names, tt.rest, all)
			}
		}
	}
}

func TestNameThatPathAndHostBindIsEqualInBoth(t *testing.T) {
	routes := routing(t, "{agent}.{namespace}.example.com /{namespace}")
	if route, names, _ := bound(routes, "cat.team.example.com", "/team/ws"); names.String() != "agent cat, namespace team" {
		t.Errorf("got %q with %q", route, names)
	}
	for _, path := range []string{"/other/ws", "/cat/ws", "/Team/ws", "/", "/teams"} {
		if route, names, _ := bound(routes, "cat.team.example.com", path); route != "" {
			t.Errorf("%s: got %q with %q", path, route, names)
		}
	}
}

func TestAgentIsOneLowerCaseDNSLabel(t *testing.T) {
	routes := routing(t, "/{agent}")
	for _, label := range []string{"a", "0", "my-agent", "a--b", "127", strings.Repeat("a", 63)} {
		if _, agent, _ := taken(routes, "", "/"+label+"/ws"); agent != label {
			t.Errorf("%s is no agent", label)
		}
	}
	for _, label := range []string{
		"", "A", "a.b", "evil.example.com", "a:80", "a@b", "user:pass@host", "*", "a%2eb", "%61", "a_b", "-a", "a-", "é", "xn--é", "a;b",
		"{agent}", "[::1]", strings.Repeat("a", 64),
	} {
		if route, agent, _ := taken(routes, "", "/"+label+"/ws"); route != "" {
			t.Errorf("%q became an agent: %q", label, agent)
		}
	}
}

func TestAddressAndPathForTheAgent(t *testing.T) {
	for _, tt := range []struct {
		path, upstream string
		keep           bool
		public         string // with a host before its first slash
		want           string
	}{
		{"/my-agent", "http://my-agent:8080", false, "/my-agent/ws", "http://my-agent:8080/ws"},
		{"/my-agent", "http://my-agent:8080/", false, "/my-agent", "http://my-agent:8080/"},
		{"/my-agent", "http://my-agent:8080", true, "/my-agent/ws", "http://my-agent:8080/my-agent/ws"},
		{"/my-agent", "https://up/base", false, "/my-agent/ws", "https://up/base/ws"},
		{"/my-agent", "https://up/base/", false, "/my-agent/", "https://up/base/"},
		{"/my-agent", "https://up/b%20c", true, "/my-agent/%3F", "https://up/b%20c/my-agent/%3F"},
		{"/", "http://up", false, "/a/b/", "http://up/a/b/"},
		{"/", "http://[::1]:8080", false, "/", "http://[::1]:8080/"},
		{"/{agent}", "http://{agent}.agents.svc.cluster.local:8080", false, "/cat/ws", "http://cat.agents.svc.cluster.local:8080/ws"},
		{"/v1/{agent}", "https://{agent}:8080/x", true, "/v1/cat/ws", "https://cat:8080/x/v1/cat/ws"},
		{"{agent}.{ns}.x/v1", "http://{agent}.{ns}.svc:8080", false, "cat.team.x/v1/ws", "http://cat.team.svc:8080/ws"},
		{"{Ns}.x/{agent}", "HTTP://{agent}-{Ns}.agents/{}", false, "team.x/cat/ws", "http://cat-team.agents/%7B%7D/ws"},
	} {
		c := config.Default()
		host, path, _ := strings.Cut(tt.path, "/")
		c.Routes = config.Routes{{Host: host, Path: "/" + path, Upstream: tt.upstream, StripPrefix: !tt.keep}}
		r := compiled(t, &c)[0]
		host, path, _ = strings.Cut(tt.public, "/")
		names, rest, ok := r.match(host, "/"+path)
		scheme, addr := r.address(names)
		if got := scheme + "://" + addr + r.path("/"+path, rest); !ok || got != tt.want {
			t.Errorf("%s at %s → %s: got %s, want %s", tt.public, tt.path, tt.upstream, got, tt.want)
		}
	}
}

func TestQueryForTheAgent(t *testing.T) {
	c := config.Default()
	c.Routes = config.Routes{{Path: "/{agent}", Upstream: "http://up", Query: config.Query{
		Set:  map[string]string{"agent": "{agent}", "a b": "c&d=+é"},
		Drop: []string{"namespace", "device_id"},
	}}}
	set := compiled(t, &c)[0]
	const end = "a%20b=c%26d%3D%2B%C3%A9&agent=cat"
	c.Routes[0].Query.Set = nil
	drop := compiled(t, &c)[0]
	for _, tt := range []struct {
		r         *route
		raw, want string
	}{
		{drop, "", ""},
		{drop, "a=1", "a=1"},
		{drop, "flag&a=%41+b&&b=&=c&a=2", "flag&a=%41+b&&b=&=c&a=2"}, // bytes and order stay
		{drop, "namespace=x", ""},
		{drop, "a=1&namespace=x&b=2&namespace=y", "a=1&b=2"},
		{drop, "namespace", ""},
		{drop, "%6eamespace=x&names%70ace", ""},
		{drop, "Namespace=x&namespace2=y&x=namespace", "Namespace=x&namespace2=y&x=namespace"}, // case-sensitive, whole names
		{drop, "device%5Fid=1&a=%zz&device_id=2", "a=%zz"},
		{drop, "%zz=1", "%zz=1"},
		{drop, "a=1;namespace=x", "a=1;namespace=x"}, // split at & only
		{set, "", end},
		{set, "agent=dog", end},
		{set, "x=1&agent=dog&%61gent=cow&agent", "x=1&" + end},
		{set, "a+b=1&a%20b=2&a%2bb=3", "a%2bb=3&" + end}, // + is a space to some, so both spellings go
	} {
		if got, _ := tt.r.query(tt.raw, config.Names{{Name: "agent", Label: "cat"}}); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.raw, got, tt.want)
		}
	}
}

// FuzzQuery holds that a parameter that is set has one value for the agent, and nothing else of
// the query has changed.
func FuzzQuery(f *testing.F) {
	f.Add("agent=dog&a=1", "cat")
	f.Add("%61gent=dog&a+b;agent", "cat")
	c := config.Default()
	c.Routes = config.Routes{{Path: "/{agent}", Upstream: "http://up", Query: config.Query{Set: map[string]string{"agent": "{agent}"}}}}
	r := compiled(f, &c)[0]
	f.Fuzz(func(t *testing.T, raw, agent string) {
		got, _ := r.query(raw, config.Names{{Name: "agent", Label: agent}})
		kept, last, ok := cutLast(got, "&")
		if !ok {
			last = got
		}
		if last != "agent="+escape(agent) {
			t.Fatalf("%q ends with %q", got, last)
		}
		sent := strings.Split(raw, "&")
		for pair := range strings.SplitSeq(kept, "&") {
			if pair != "" && !slices.Contains(sent, pair) {
				t.Fatalf("%q was not sent", pair)
			}
		}
		values, _ := url.ParseQuery(got)
		if v := values["agent"]; len(v) != 1 || v[0] != agent {
			t.Fatalf("%q: the agent reads %q", got, v)
		}
	})
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

func TestOrigins(t *testing.T) {
	limited := &route{origins: []string{"https://app.example.com", "http://localhost:3000"}}
	for _, tt := range []struct {
		origins []string
		want    bool
	}{
		{nil, true}, // no browser
		{[]string{"https://app.example.com"}, true},
		{[]string{"http://localhost:3000"}, true},
		{[]string{"null"}, false},
		{[]string{""}, false},
		{[]string{"http://app.example.com"}, false},
		{[]string{"https://app.example.com:443"}, false},
		{[]string{"https://app.example.com.evil.com"}, false},
		{[]string{"https://APP.example.com"}, false},
		{[]string{"https://app.example.com/"}, false},
		{[]string{"https://app.example.com", "https://app.example.com"}, false},
		{[]string{"https://app.example.com, https://evil.com"}, false},
	} {
		if got := limited.origins.allow(tt.origins); got != tt.want {
			t.Errorf("%q: %v", tt.origins, got)
		}
	}
	if open := (&route{}); !open.origins.allow([]string{"null", "https://evil.com"}) {
		t.Error("a route without origins refuses one")
	}
}
