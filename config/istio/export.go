package istio

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/altairalabs/omnia-gateway/config"
)

// Export writes a valid configuration as Istio's resources: four documents of YAML, three if no
// header is stripped, none if authentication is off. The remarks are what an operator should
// know. The error says what has no form in Istio that is as strict.
func Export(c *config.Config, o Options) (string, []Remark, error) {
	own := *c
	if own.Listen == own.TLS.DefaultListen() {
		own.Listen = "" // as Load fills it in
	}
	e := exporter{c: &own, o: o}
	if !c.Authentication.Enabled {
		e.lost("authentication.enabled", "is false: Istio gets no resources, and then no identity header is removed either")
		return "", e.remarks, nil
	}
	if c.Authentication.JWT.Issuer == "" {
		e.refuse("authentication.jwt.issuer", "is missing, as the configuration has client keys alone, which Istio does not know")
	} else if c.Authentication.ClientKeys.File != "" {
		e.lost("authentication.clientKeys", "Istio knows no client keys and refuses them")
	}
	documents := e.documents()
	if len(e.errs) > 0 {
		return "", nil, errors.Join(e.errs...)
	}
	e.otherKeys()
	e.note("", "a request without a token, or with one for another audience, gets 403 from Istio and 401 from the gateway")
	e.note("", "Istio answers every CORS preflight with 403")
	e.note("", "a token in two places of one request is refused by the gateway; Istio tells the agent its claims twice")

	kept, err := e.kept()
	if err != nil {
		return "", nil, err
	}
	if kept != "" {
		metadata := documents[0][2].Value.(config.Mapping)
		documents[0][2].Value = append(metadata, config.Pair{Key: "annotations", Value: config.Mapping{{Key: Annotation, Value: kept}}})
	}
	return join(documents), e.remarks, nil
}

// documents are the resources, without the annotation.
func (e *exporter) documents() []config.Mapping {
	documents := []config.Mapping{e.requestAuthentication(), e.allow(), e.deny()}
	if e.c.Authentication.EdgeTrust.StripInboundClaimHeaders {
		documents = append(documents, e.envoyFilter())
	} else {
		e.note("authentication.edgeTrust.stripInboundClaimHeaders",
			"is false: no EnvoyFilter is written; the gateway still removes the headers of claims")
	}
	return documents
}

func join(documents []config.Mapping) string {
	texts := make([]string, len(documents))
	for i, d := range documents {
		texts[i] = d.String()
	}
	return strings.Join(texts, "---\n")
}

// exporter is one Export under way.
type exporter struct {
	c       *config.Config
	o       Options
	remarks []Remark
	errs    []error
}

func (e *exporter) note(key, format string, a ...any) {
	e.remarks = append(e.remarks, Remark{Key: key, Text: fmt.Sprintf(format, a...)})
}

func (e *exporter) lost(key, format string, a ...any) {
	e.remarks = append(e.remarks, Remark{Key: key, Text: fmt.Sprintf(format, a...), Lost: true})
}

func (e *exporter) refuse(key, format string, a ...any) {
	e.errs = append(e.errs, errors.New(key+": "+fmt.Sprintf(format, a...)))
}

// document is the frame of a resource.
func (e *exporter) document(version, kind, name string, spec config.Mapping) config.Mapping {
	return config.Mapping{
		{Key: "apiVersion", Value: version},
		{Key: "kind", Value: kind},
		{Key: "metadata", Value: config.Mapping{{Key: "name", Value: name}, {Key: "namespace", Value: e.o.Namespace}}},
		{Key: "spec", Value: spec},
	}
}

func (e *exporter) selector() config.Pair {
	return config.Pair{Key: "selector", Value: config.Mapping{{Key: "matchLabels", Value: e.o.Selector.mapping()}}}
}

// requestAuthentication has one rule for each issuer.
func (e *exporter) requestAuthentication() config.Mapping {
	var rules []any
	for i, jwt := range e.c.Authentication.Issuers() {
		rules = append(rules, e.jwtRule(issuerKey(i), jwt))
	}
	return e.document("security.istio.io/v1", "RequestAuthentication", e.o.Names.RequestAuthentication,
		config.Mapping{e.selector(), {Key: "jwtRules", Value: rules}})
}

// issuerKey is the key of the issuer that Issuers gives at i.
func issuerKey(i int) string {
	if i == 0 {
		return "authentication.jwt"
	}
	return fmt.Sprintf("authentication.jwtRules[%d]", i-1)
}

func (e *exporter) jwtRule(key string, j config.JWT) config.Mapping {
	rule := config.Mapping{{Key: "issuer", Value: j.Issuer}}
	add := func(name string, value any) { rule = append(rule, config.Pair{Key: name, Value: value}) }
	switch {
	case j.JWKSURI != "":
		add("jwksUri", j.JWKSURI)
	case j.JWKS != "":
		add("jwks", j.JWKS)
	case j.JWKSFile != "":
		e.lost(key+".jwksFile", "Istio reads no file: write the key set itself as jwks")
	default:
		add("jwksUri", ChartAddress(j.Issuer))
		e.note(key+".jwksUri", "is empty: Istio gets %s, as from the Omnia chart; if the issuer's discovery document names "+
			"another address, set it "+
			"(--online asks)", ChartAddress(j.Issuer))
	}
	if len(j.Audiences) > 0 {
		add("audiences", list(j.Audiences))
	}
	add("forwardOriginalToken", j.ForwardOriginalToken)
	if len(j.OutputClaimToHeaders) > 0 {
		add("outputClaimToHeaders", e.claimHeaders(key+".outputClaimToHeaders", j.OutputClaimToHeaders))
	}
	if j.OutputPayloadToHeader != "" {
		add("outputPayloadToHeader", j.OutputPayloadToHeader)
	}
	if len(j.SpaceDelimitedClaims) > 0 {
		add("spaceDelimitedClaims", list(j.SpaceDelimitedClaims))
	}
	if j.Timeout != 0 {
		add("timeout", j.Timeout)
	}
	e.places(key, j, add)
	e.limitsOf(key, j)
	return rule
}

func (e *exporter) claimHeaders(key string, mappings config.ClaimHeaders) (out []any) {
	if slices.ContainsFunc(mappings, func(m config.ClaimHeader) bool { return m.Format == "" }) {
		e.note(key, "Istio sends a list or an object as base64 of JSON, and a number as a double; the gateway joins a list with commas")
	}
	for i, m := range mappings {
		at := fmt.Sprintf("%s[%d]", key, i)
		out = append(out, config.Mapping{{Key: "claim", Value: m.Claim}, {Key: "header", Value: m.Header}})
		switch m.Format {
		case "", "base64json":
		default:
			e.lost(at+".format", "%s is unknown to Istio, which sends lists and objects as base64 of JSON", m.Format)
		}
		if strings.Contains(m.Claim, ".") && (strings.Contains(m.Claim, "://") || strings.Contains(m.Claim, "..")) {
			e.note(at+".claim", "Envoy up to 1.40 reads the dots as a path only: it finds no claim, and the agent gets no header")
		}
	}
	return out
}

// places are where a token may sit. Any list switches off the defaults of all three in Istio, so
// it is all of them or none.
func (e *exporter) places(key string, j config.JWT, add func(string, any)) {
	if len(j.FromSubprotocols) > 0 {
		e.lost(key+".fromSubprotocols", "Istio takes no token from Sec-WebSocket-Protocol")
	}
	for i, s := range j.FromHeaders {
		if s.Prefix != "" && s != (config.HeaderSource{Name: bearerHeader, Prefix: bearerPrefix}) {
			e.note(fmt.Sprintf("%s.fromHeaders[%d].prefix", key, i), "Istio compares it by case and finds it anywhere in the value")
		}
	}
	switch {
	case standard(j):
	case len(j.FromHeaders)+len(j.FromParams)+len(j.FromCookies) == 0:
		e.refuse(key, "fromHeaders, fromParams and fromCookies are all empty, which Istio cannot be told: it would look into its "+
			"default places; name one")
	default:
		var headers []any
		for _, s := range j.FromHeaders {
			h := config.Mapping{{Key: "name", Value: s.Name}}
			if s.Prefix != "" {
				h = append(h, config.Pair{Key: "prefix", Value: s.Prefix})
			}
			headers = append(headers, h)
		}
		for _, p := range []config.Pair{{Key: "fromHeaders", Value: headers}, {Key: "fromParams", Value: list(j.FromParams)},
			{Key: "fromCookies", Value: list(j.FromCookies)}} {
			if len(p.Value.([]any)) > 0 {
				add(p.Key, p.Value)
			}
		}
	}
}

// standard reports whether tokens sit exactly where Istio looks when it is told nothing.
func standard(j config.JWT) bool {
	return slices.Equal(j.FromHeaders, config.HeaderSources{{Name: bearerHeader, Prefix: bearerPrefix}}) &&
		slices.Equal(j.FromParams, []string{tokenParam}) && len(j.FromCookies) == 0
}

// limitsOf are the keys of an issuer that Istio does not have.
func (e *exporter) limitsOf(key string, j config.JWT) {
	if usual := config.DefaultJWT(); j.ClockSkew != usual.ClockSkew {
		e.lost(key+".clockSkew", "Istio's is 60s")
	}
	if usual := config.DefaultJWT(); !slices.Equal(j.PrincipalClaim, usual.PrincipalClaim) {
		e.lost(key+".principalClaim", "Istio's principal is always of iss and sub")
	}
	if len(j.LogoutAudiences) > 0 {
		e.lost(key+".logoutAudiences", "Istio takes no logout tokens")
	}
	if len(j.RequiredClaims) > 0 {
		e.lost(key+".requiredClaims", "Istio asks every issuer for the same claims")
	}
	if f := j.Fetch; f.Proxy != "" || f.CAFile != "" || f.BearerTokenFile != "" {
		e.lost(key+".fetch", "istiod fetches the keys, by its own configuration")
	}
	if j.RequireExpiration {
		e.lost(key+".requireExpiration", "Istio accepts tokens without exp, for ever")
	}
	if len(j.Algorithms) != len(config.Algorithms) {
		e.lost(key+".algorithms", "Istio accepts every algorithm for which the issuer has a key")
	}
}

// allow is the policy that lets in: an excluded path, or a principal with all the claims.
func (e *exporter) allow() config.Mapping {
	a := e.c.Authentication.Authorization
	var rules []any
	if len(a.ExcludePaths) > 0 {
		for i, pattern := range a.ExcludePaths {
			if strings.Contains(pattern, "{") && strings.ContainsAny(pattern, "[]") {
				e.refuse(fmt.Sprintf("authentication.authorization.excludePaths[%d]", i),
					"[ and ] beside {*}, which Istio does not take; write %%5B and %%5D")
			}
		}
		rules = append(rules, config.Mapping{{Key: "to", Value: operation("paths", a.ExcludePaths)}})
	}
	principal := config.Mapping{{Key: "from", Value: source("requestPrincipals")}}
	var when []any
	for i, claim := range a.RequiredClaims {
		name, changed := dotted(claim.Claim)
		if changed {
			e.note(fmt.Sprintf("authentication.authorization.requiredClaims[%d].claim", i),
				"becomes the path claims[%s]; a claim that has this name literally, dots included, counts for the gateway alone", name)
		}
		when = append(when, config.Mapping{{Key: "key", Value: "request.auth.claims[" + name + "]"},
			{Key: "values", Value: e.claimValues(i, claim.Values)}})
	}
	if when != nil {
		principal = append(principal, config.Pair{Key: "when", Value: when})
	}
	rules = append(rules, principal)
	return e.document("security.istio.io/v1", "AuthorizationPolicy", e.o.Names.Allow,
		config.Mapping{e.selector(), {Key: "action", Value: "ALLOW"}, {Key: "rules", Value: rules}})
}

// claimValues are the values of a required claim, which are all texts in Istio.
func (e *exporter) claimValues(i int, values []config.ClaimValue) (texts []any) {
	for j, value := range values {
		text := fmt.Sprint(value)
		if _, isText := value.(string); !isText {
			e.lost(fmt.Sprintf("authentication.authorization.requiredClaims[%d].values[%d]", i, j),
				"Istio compares text alone: it lets the text %s in, and never a claim that is a boolean or a number", text)
		}
		texts = append(texts, text)
	}
	return texts
}

// probes are what the Omnia chart spares from its DENY policy when no path is excluded; its
// ALLOW policy refuses them all the same.
func probes() []string { return []string{"/healthz", "/readyz"} }

// deny is the policy of the chart that refuses what has no principal. The ALLOW policy implies it.
func (e *exporter) deny() config.Mapping {
	spared := e.c.Authentication.Authorization.ExcludePaths
	if len(spared) == 0 {
		spared = probes()
	}
	rule := config.Mapping{{Key: "from", Value: source("notRequestPrincipals")}, {Key: "to", Value: operation("notPaths", spared)}}
	return e.document("security.istio.io/v1", "AuthorizationPolicy", e.o.Names.Deny,
		config.Mapping{e.selector(), {Key: "action", Value: "DENY"}, {Key: "rules", Value: []any{rule}}})
}

func operation(key string, paths []string) []any {
	return []any{config.Mapping{{Key: "operation", Value: config.Mapping{{Key: key, Value: list(paths)}}}}}
}

func source(key string) []any {
	return []any{config.Mapping{{Key: "source", Value: config.Mapping{{Key: key, Value: []any{"*"}}}}}}
}

func list(texts []string) []any {
	out := []any{}
	for _, s := range texts {
		out = append(out, s)
	}
	return out
}

// envoyFilter removes the identity headers that a client sends, before the verified ones are set.
func (e *exporter) envoyFilter() config.Mapping {
	m := func(pairs ...any) (m config.Mapping) {
		for i := 0; i < len(pairs); i += 2 {
			m = append(m, config.Pair{Key: pairs[i].(string), Value: pairs[i+1]})
		}
		return m
	}
	patch := m("applyTo", "HTTP_FILTER",
		"match", m("context", "SIDECAR_INBOUND",
			"listener", m("filterChain", m("filter", m("name", "envoy.filters.network.http_connection_manager",
				"subFilter", m("name", "envoy.filters.http.jwt_authn"))))),
		"patch", m("operation", "INSERT_BEFORE",
			"value", m("name", "envoy.filters.http.lua",
				"typed_config", m("@type", "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "inline_code",
					luaOf(e.stripped())))))
	return e.document("networking.istio.io/v1alpha3", "EnvoyFilter", e.o.Names.EnvoyFilter,
		m("workloadSelector", m("labels", e.o.Selector.mapping()), "configPatches", []any{patch}))
}

// stripped are the names that the filter removes, in lower case and in every spelling that the
// gateway takes for the same name, sorted.
func (e *exporter) stripped() (names []string) {
	edge := e.c.Authentication.EdgeTrust
	named := slices.Concat(edge.DefaultStripHeaders, edge.AdditionalStripHeaders)
	for _, issuer := range e.c.Authentication.Issuers() {
		for _, m := range issuer.OutputClaimToHeaders {
			named = append(named, m.Header)
		}
		if issuer.OutputPayloadToHeader != "" {
			named = append(named, issuer.OutputPayloadToHeader)
		}
	}
	if usual := config.DefaultAuthentication().EdgeTrust; len(edge.StripFamilies) > 0 {
		const text = "Istio's filter removes names that are listed, not families of names"
		if config.Same(edge.StripFamilies, usual.StripFamilies) {
			e.note("authentication.edgeTrust.stripFamilies", text)
		} else {
			e.lost("authentication.edgeTrust.stripFamilies", text)
		}
	}
	for _, name := range named {
		names = append(names, spellings(config.FoldHeader(name))...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// maxSpellings bounds the list for a name with many dashes; Envoy walks it for every request.
const maxSpellings = 81

// spellings are all names that fold to one: each of its dashes may be an underscore or a dot. Of
// a fifth dash they keep the dash.
func spellings(folded string) []string {
	out := []string{""}
	for i := range len(folded) {
		letters := folded[i : i+1]
		if letters == "-" && len(out) < maxSpellings {
			letters = "-_."
		}
		var longer []string
		for _, prefix := range out {
			for _, letter := range letters {
				longer = append(longer, prefix+string(letter))
			}
		}
		out = longer
	}
	return out
}

// luaOf is the filter's program. Import knows it again, and the one of the Omnia chart.
func luaOf(names []string) string {
	var b strings.Builder
	b.WriteString("-- Removes identity headers of the client before jwt_authn sets the verified ones.\n" +
		"function envoy_on_request(request_handle)\n  local headers_to_strip = {\n")
	for _, name := range names {
		fmt.Fprintf(&b, "    %q,\n", name)
	}
	b.WriteString("  }\n  local headers = request_handle:headers()\n  for _, name in ipairs(headers_to_strip) do\n    " +
		"headers:remove(name)\n  end\nend\n")
	return b.String()
}

// otherKeys remarks on what is outside of authentication: what a request is asked there, Istio
// does not ask.
func (e *exporter) otherKeys() {
	for i, r := range e.c.Routes {
		key := fmt.Sprintf("routes[%d]", i)
		usual := config.DefaultRoute()
		usual.Path, usual.Upstream, usual.StripPrefix = r.Path, r.Upstream, r.StripPrefix
		for _, p := range config.Changes(&config.Config{Routes: config.Routes{r}}, &config.Config{Routes: config.Routes{usual}}) {
			element := p.Value.([]any)[0].(config.Mapping)
			for _, pair := range element {
				switch pair.Key {
				case "path", "upstream", "stripPrefix":
				case "upstreamTLS":
					e.lost(key+"."+pair.Key, "a DestinationRule says it in a mesh, and is not written here")
				default:
					e.lost(key+"."+pair.Key, "these resources have no such rule for one route")
				}
			}
		}
	}
	if len(e.c.Routes) > 0 {
		e.note("routes", "query.drop is by default what Omnia's agents believe of a query; Istio passes it on")
		e.note("routes", "where requests go is said by VirtualService or HTTPRoute in a mesh, and is not written here")
	}
	usual := config.Default()
	for _, p := range config.Changes(e.c, &usual) {
		switch p.Key {
		case "routes", "authentication":
		case "listen", "admin":
			e.note(p.Key, "means nothing to a sidecar")
		default:
			e.lostAt(p.Key, p.Value)
		}
	}
}

// lostAt says so of each key inside a block.
func (e *exporter) lostAt(key string, value any) {
	if block, ok := value.(config.Mapping); ok {
		for _, p := range block {
			e.lostAt(key+"."+p.Key, p.Value)
		}
		return
	}
	e.lost(key, "Istio's resources do not say it")
}
