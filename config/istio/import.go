package istio

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// Import reads Istio's resources as a configuration that makes the same decisions, but for what
// docs/istio.md lists. It has no routes unless the annotation of an Export does. The notes are
// one line each. The error is of type config.Problems: what the configuration cannot say is
// never left out, because the gateway would then admit what Istio refuses, or the other way round.
func Import(files []File) (*config.Config, []string, error) {
	i := importer{reader: &reader{}, places: map[string]node{}}
	c := i.read(files)
	if c != nil && i.annotation.there() {
		i.keep(c)
	}
	if c != nil && len(i.problems) == 0 {
		i.validate(c)
	}
	if len(i.problems) > 0 {
		slices.SortStableFunc(i.problems, func(p, q config.Problem) int {
			return cmp.Or(cmp.Compare(p.Place.Name, q.Place.Name), cmp.Compare(p.Place.Line, q.Place.Line),
				cmp.Compare(p.Place.Column, q.Place.Column))
		})
		return nil, nil, slices.Compact(i.problems) // a field that is looked at twice is wrong twice
	}
	return c, i.notes, nil
}

// importer is one Import under way.
type importer struct {
	*reader
	names      []string // of the files
	workload   string   // namespace and labels that all documents must share
	first      node     // the document that said so
	annotation node
	places     map[string]node // key of the configuration → the field that says it

	authentications, allows, denies, filters []node
	allowed                                  []node // paths that need no principal
	claims                                   config.RequiredClaims
}

// read makes a configuration of what the documents say; nil if something is missing altogether.
func (i *importer) read(files []File) *config.Config {
	for _, f := range files {
		i.names = append(i.names, f.Name)
		for _, d := range i.documents(f) {
			i.sort(d)
		}
	}
	switch {
	case len(i.problems) > 0:
		return nil
	case len(i.authentications) == 0:
		i.missing("no RequestAuthentication", "it names the issuers; a gateway without authentication is authentication.enabled: false")
		return nil
	case len(i.allows)+len(i.denies) == 0:
		i.missing("no AuthorizationPolicy, so that Istio lets requests without a token in",
			"the gateway has no such mode; add the policy that asks for a principal")
		return nil
	}
	c := config.Default()
	a := &c.Authentication
	a.JWTRules = nil
	var issuers []config.JWT
	for _, d := range i.authentications {
		for _, rule := range d.get("spec").get("jwtRules").items() {
			key := issuerKey(len(issuers))
			i.places[key] = rule
			issuers = append(issuers, i.jwtRule(key, rule))
		}
	}
	if len(issuers) == 0 {
		i.authentications[0].problem("no jwtRules", "they name the issuers")
		return nil
	}
	a.JWT, a.JWTRules = issuers[0], issuers[1:]
	i.allow()
	a.Authorization.RequiredClaims = i.claims
	a.Authorization.ExcludePaths = i.deny()
	a.EdgeTrust = i.edgeTrust(issuers)
	return &c
}

// missing is a problem of all files together.
func (i *importer) missing(text, hint string) {
	i.problems = append(i.problems, config.Problem{Place: config.Place{Name: strings.Join(i.names, ", ")}, Text: text, Hint: hint})
}

// versions are those in which a kind is read; none if it is not.
func versions(kind string) []string {
	switch kind {
	case "RequestAuthentication", "AuthorizationPolicy":
		return []string{"security.istio.io/v1", "security.istio.io/v1beta1"}
	case "EnvoyFilter":
		return []string{"networking.istio.io/v1alpha3"}
	}
	return nil
}

// sort puts a document where it belongs.
func (i *importer) sort(d node) {
	kind, version := d.get("kind"), d.get("apiVersion")
	if !kind.there() {
		d.problem("no kind", "give Istio's resources, as kubectl get -o yaml writes them")
		return
	}
	if !version.there() {
		d.problem("no apiVersion", "Istio's resources have one, such as security.istio.io/v1")
		return
	}
	group, _, _ := strings.Cut(version.text(), "/")
	k := kind.text()
	known := versions(k)
	item, isList := strings.CutSuffix(k, "List")
	switch {
	case isList && (item == "" || versions(item) != nil):
		for _, item := range d.get("items").items() {
			item.field = ""
			i.sort(item)
		}
		return
	case known == nil || !strings.HasSuffix(group, "istio.io"):
		kind.note("%s of %s is not read", k, version.text())
		return
	case !slices.Contains(known, version.text()):
		version.problem("unknown version of "+k, "known here: "+strings.Join(known, ", "))
		return
	}
	d.only("apiVersion", "kind", "metadata", "spec", "status")
	spec := d.get("spec")
	switch k {
	case "RequestAuthentication":
		i.authentications = append(i.authentications, d)
		if annotation := d.get("metadata").get("annotations").get(Annotation); annotation.there() {
			i.annotation = annotation
		}
		spec.only("selector", "targetRef", "targetRefs", "jwtRules")
	case "AuthorizationPolicy":
		i.policy(d)
	case "EnvoyFilter":
		i.filters = append(i.filters, d)
		i.share(d, spec.get("workloadSelector").only("labels")["labels"])
		return
	}
	i.share(d, spec.get("selector").only("matchLabels")["matchLabels"])
	for _, field := range []string{"targetRef", "targetRefs"} {
		if n := spec.get(field); n.there() {
			n.problem("a policy for a gateway or a waypoint",
				"the gateway stands for the sidecars of one workload: import policies with one selector")
		}
	}
}

// policy sorts an AuthorizationPolicy.
func (i *importer) policy(d node) {
	spec := d.get("spec").only("selector", "targetRef", "targetRefs", "action", "rules")
	if n := d.get("metadata").get("annotations").get("istio.io/dry-run"); n.there() && n.text() != "false" {
		n.problem("a dry run, which Istio does not enforce", "import it without, or leave the policy out")
	}
	action := "ALLOW"
	if n := spec["action"]; n.there() {
		action = n.text()
	}
	switch action {
	case "ALLOW":
		i.allows = append(i.allows, d)
	case "DENY":
		i.denies = append(i.denies, d)
	default:
		spec["action"].problem("action "+action, "the gateway knows ALLOW and DENY")
	}
}

// share reports a problem unless all documents are about the same pods.
func (i *importer) share(d, labels node) {
	workload := d.get("metadata").get("namespace")
	text := labels.labels().String()
	if workload.there() {
		text = workload.text() + " " + text
	}
	if !i.first.there() {
		i.first, i.workload = d, text
		return
	}
	if text != i.workload {
		at := labels
		if !at.there() {
			at = d
		}
		at.problem("another namespace or selector than in "+i.first.place().String(),
			"these are several gateways: import the resources of one workload at a time")
	}
}

// jwtRule reads one issuer. What a rule is silent about has Istio's meaning, not the gateway's.
func (i *importer) jwtRule(key string, rule node) config.JWT {
	f := rule.only("issuer", "audiences", "jwksUri", "fromHeaders", "fromParams", "fromCookies", "forwardOriginalToken",
		"outputClaimToHeaders", "outputPayloadToHeader", "spaceDelimitedClaims", "jwks", "timeout")
	for name, n := range f {
		i.places[key+"."+name] = n
	}
	j := config.DefaultJWT()
	j.Issuer, j.JWKSURI, j.Audiences = f["issuer"].text(), f["jwksUri"].text(), f["audiences"].texts()
	j.ForwardOriginalToken = f["forwardOriginalToken"].flag()
	j.FromSubprotocols, j.RequireExpiration = []string{}, false
	if j.Issuer == "" {
		rule.problem("no issuer", "name it exactly as in the claim iss")
	}
	j.JWKS, j.OutputPayloadToHeader = f["jwks"].text(), f["outputPayloadToHeader"].text()
	if n := f["spaceDelimitedClaims"]; n.there() {
		for _, claim := range n.texts() {
			if !j.Splits(claim) {
				j.SpaceDelimitedClaims = append(j.SpaceDelimitedClaims, claim)
			}
		}
	}
	if j.Discovers() {
		rule.note("no jwksUri: the gateway asks for the issuer's discovery document, whose issuer must be the same text, and then for %s",
			ChartAddress(j.Issuer))
	}
	for _, address := range []string{j.Issuer, j.JWKSURI} {
		if u, err := url.Parse(address); err == nil && u.Scheme == "http" && !config.IsLoopback(u) && !j.InsecureHTTP {
			j.InsecureHTTP = true
			rule.note("http:// beyond loopback: insecureHTTP is set")
		}
	}
	if n := f["timeout"]; n.there() {
		var err error
		if j.Timeout, err = time.ParseDuration(n.text()); err != nil {
			n.problem("no duration", "write it as 5s")
		}
	}
	j.OutputClaimToHeaders = config.ClaimHeaders{}
	for _, n := range f["outputClaimToHeaders"].items() {
		m := n.only("header", "claim")
		j.OutputClaimToHeaders = append(j.OutputClaimToHeaders, config.ClaimHeader{Header: m["header"].text(), Claim: m["claim"].text()})
	}
	if len(j.OutputClaimToHeaders) > 0 {
		f["outputClaimToHeaders"].note("lists become comma-joined text and numbers exact; format: base64json is what Envoy sends for a " +
			"list")
	}
	if f["fromHeaders"].empty() && f["fromParams"].empty() && f["fromCookies"].empty() {
		j.FromHeaders = config.HeaderSources{{Name: bearerHeader, Prefix: bearerPrefix}}
		j.FromParams, j.FromCookies = []string{tokenParam}, []string{}
		return j
	}
	j.FromHeaders = config.HeaderSources{}
	for _, n := range f["fromHeaders"].items() {
		m := n.only("name", "prefix")
		s := config.HeaderSource{Name: m["name"].text(), Prefix: m["prefix"].text()}
		if s.Prefix != "" && s.Prefix != bearerPrefix {
			m["prefix"].note("must stand at the beginning of the header; one that ends in a space is compared without case")
		}
		j.FromHeaders = append(j.FromHeaders, s)
	}
	j.FromParams, j.FromCookies = f["fromParams"].texts(), f["fromCookies"].texts()
	return j
}

// allow reads the ALLOW policies: rules of paths alone, and one rule that asks for a principal
// and its claims.
func (i *importer) allow() {
	var principal node
	for _, d := range i.allows {
		rules := d.get("spec").get("rules").items()
		if len(rules) == 0 {
			d.problem("an ALLOW policy without rules refuses everything", "the gateway has no such mode")
		}
		for _, rule := range rules {
			f := rule.only("from", "to", "when")
			switch {
			case f["from"].empty() && f["to"].empty() && f["when"].empty():
				rule.problem("a rule without conditions lets in what has no token",
					"the gateway has no such mode; ask for requestPrincipals")
			case f["from"].empty() && f["when"].empty():
				i.excluded(f["to"])
			case !f["to"].empty():
				f["to"].problem("paths and a principal or claims in one rule", "the gateway asks for the same claims on every path")
			case f["from"].empty():
				rule.problem("claims without requestPrincipals", "ask for a principal in from, as the claims come from its token")
			case principal.there():
				rule.problem("a second rule that asks for a principal",
					"the gateway has one list of claims; the first is in "+principal.place().String())
			default:
				principal = rule
				i.principals(f["from"])
				for _, n := range f["when"].items() {
					i.when(n)
				}
			}
		}
	}
	if len(i.allows) > 0 && !principal.there() && len(i.problems) == 0 {
		i.allows[0].problem("no rule asks for a principal, so that no token opens anything", "add a rule with requestPrincipals")
	}
}

// excluded reads the paths of a rule that has nothing else.
func (i *importer) excluded(to node) {
	for _, n := range to.items() {
		paths := n.only("operation")["operation"].only("paths")["paths"]
		if paths.empty() {
			n.problem("an operation without paths lets in what has no token", "name the paths that need none")
		}
		for _, p := range paths.items() {
			i.allowed = append(i.allowed, p)
			p.pattern()
		}
	}
}

// pattern says what Istio makes of a path that the configuration does not take.
func (n node) pattern() {
	text := n.text()
	inner := strings.Trim(text, "*")
	var does string
	switch {
	case strings.Contains(text, "{"):
		return // Istio's templates and ours are the same; Validate looks at them
	case strings.HasPrefix(text, "*") && strings.HasSuffix(text, "*") && inner != "":
		does = fmt.Sprintf("Istio takes only the first * as one: it is the suffix %s", text[1:])
	case strings.HasSuffix(text, "**"):
		does = fmt.Sprintf("Istio takes only the last * as one: it is the prefix %s", text[:len(text)-1])
	case strings.Contains(inner, "*"):
		does = "Istio takes a * in the middle literally"
	case text != "" && text[0] != '/' && text[0] != '*':
		does = "Istio compares it with a path that begins with a slash: it never matches"
	default:
		return
	}
	n.problem(does, "write what is meant: /x exactly, /x* a prefix, *x a suffix, {*} one segment, {**} the rest")
}

// principals reads the field from: any principal, or one issuer's, with a pattern for its subject.
func (i *importer) principals(from node) {
	var asked []node
	for _, n := range from.items() {
		f := n.only("source")["source"].only("requestPrincipals")
		if f["requestPrincipals"].empty() {
			n.problem("a source without requestPrincipals", "the gateway asks for a token and nothing else")
		}
		asked = append(asked, f["requestPrincipals"].items()...)
	}
	i.principalOf(from, asked)
}

// principalOf reads the principals of the field at, one of which must be that of the token.
func (i *importer) principalOf(at node, asked []node) {
	if slices.ContainsFunc(asked, func(n node) bool { return n.text() == "*" }) {
		return
	}
	var issuers, subjects []string
	for _, n := range asked {
		if issuer, subject, ok := i.splitPrincipal(n); ok {
			issuers, subjects = append(issuers, issuer), append(subjects, subject)
		}
	}
	slices.Sort(issuers)
	issuers = slices.Compact(issuers)
	switch {
	case len(issuers) == 0: // each is a problem already
	case len(issuers) > 1:
		at.problem("principals of several issuers", "the gateway has one list of claims for all issuers")
	default:
		i.claim(at, "iss", issuers[0])
		if !slices.Contains(subjects, "*") {
			i.claim(at, "sub", subjects...)
		}
	}
}

// claim adds a claim that the field n asks for.
func (i *importer) claim(n node, name string, values ...string) {
	i.places[fmt.Sprintf("authentication.authorization.requiredClaims[%d]", len(i.claims))] = n
	i.claims = append(i.claims, config.RequiredClaim{Claim: name, Values: claimValues(values)})
}

// splitPrincipal takes iss/sub apart where Istio does, at the last slash: a subject with slashes
// never matches there.
func (i *importer) splitPrincipal(n node) (issuer, subject string, ok bool) {
	text := n.text()
	slash := max(0, strings.LastIndex(text, "/"))
	issuer, subject = text[:slash], strings.TrimPrefix(text[slash:], "/")
	named := func(rule node) bool { return rule.get("issuer").text() == issuer }
	known := slices.ContainsFunc(i.authentications, func(d node) bool {
		return slices.ContainsFunc(d.get("spec").get("jwtRules").items(), named)
	})
	switch {
	case issuer == "" || subject == "" || !known:
		n.problem("a principal that is not ISSUER/SUBJECT of an issuer in jwtRules",
			"Istio takes the text before the last slash as the issuer; "+
				"for a subject with slashes ask for request.auth.claims[sub] in when")
	case strings.Contains(strings.TrimSuffix(subject, "*"), "*"):
		n.problem("Istio takes all but a * at the end of the subject literally",
			"for another pattern ask for request.auth.claims[sub] in when")
	default:
		return issuer, subject, true
	}
	return "", "", false
}

// claimValues are texts as a rule of the gateway has them. Istio knows no others.
func claimValues(texts []string) (values []config.ClaimValue) {
	for _, t := range texts {
		values = append(values, t)
	}
	return values
}

var claimKey = regexp.MustCompile(`^request\.auth\.claims\[(.+)\]$`)

// when reads one condition on a claim.
func (i *importer) when(n node) {
	f := n.only("key", "values")
	values := f["values"]
	if values.empty() {
		n.problem("a condition without values", "list the values of which one must match")
	}
	for _, v := range values.items() {
		if text := v.text(); strings.Contains(strings.TrimPrefix(strings.TrimSuffix(text, "*"), "*"), "*") ||
			strings.HasPrefix(text, "*") && strings.HasSuffix(text, "*") && len(text) > 1 {
			v.problem("Istio takes all but one * literally, at one end of the text", `write "abc*", "*abc", "*", or a value without *`)
		}
	}
	key, claim := f["key"].text(), ""
	switch m := claimKey.FindStringSubmatch(key); {
	case m != nil:
		claim = m[1]
		if strings.Contains(m[1], ".") && !strings.Contains(m[1], "][") && !strings.Contains(m[1], "://") {
			f["key"].note("Istio takes the name literally; the gateway also reads its dots as a path, if no claim has the name")
		}
	case key == "request.auth.audiences":
		claim = "aud"
	case key == "request.auth.presenter":
		claim = "azp"
	case key == "request.auth.principal":
		i.principalOf(values, values.items())
		return
	default:
		f["key"].problem("a condition that is not on a claim",
			"the gateway knows request.auth.claims[…], audiences, presenter and principal")
	}
	i.claim(n, claim, values.texts()...)
}

// deny reads the DENY policies and gives the paths that need no token: those of ALLOW that no
// DENY takes back.
func (i *importer) deny() []string {
	open := i.allowed
	isFirst := len(i.allows) == 0 // without ALLOW all is let in that the first rule spares
	for _, d := range i.denies {
		rules := d.get("spec").get("rules").items()
		if len(rules) == 0 {
			d.problem("a DENY policy without rules refuses nothing", "leave it out, or add the rule of notRequestPrincipals: [\"*\"]")
		}
		for _, rule := range rules {
			spared := i.spared(rule)
			if isFirst {
				open, isFirst = spared, false
				continue
			}
			var left []node
			for _, path := range open {
				switch {
				case slices.ContainsFunc(spared, func(s node) bool { return covers(s.text(), path.text()) }):
					left = append(left, path)
				case slices.ContainsFunc(spared, func(s node) bool { return overlap(s.text(), path.text()) }):
					rule.problem(fmt.Sprintf("notPaths overlaps with the path %q that is open in %s, and neither holds the other",
						path.text(), path.place()), "list the same paths in both")
				}
			}
			open = left
		}
	}
	paths := []string{}
	for n, path := range open {
		i.places[fmt.Sprintf("authentication.authorization.excludePaths[%d]", n)] = path
		paths = append(paths, path.text())
	}
	return paths
}

// spared are the paths that a DENY rule leaves alone. The rule must refuse what has no
// principal, and nothing else.
func (i *importer) spared(rule node) (paths []node) {
	f := rule.only("from", "to")
	from := f["from"].items()
	if len(from) != 1 {
		rule.problem("a DENY rule that is not about a missing principal",
			"the gateway knows notRequestPrincipals: [\"*\"] and refuses by the ALLOW policy")
		return nil
	}
	principals := from[0].only("source")["source"].only("notRequestPrincipals")["notRequestPrincipals"]
	if !slices.Equal(principals.texts(), []string{"*"}) {
		from[0].problem("a DENY rule that is not about a missing principal", `the gateway knows notRequestPrincipals: ["*"]`)
	}
	to := f["to"].items()
	if len(to) > 1 {
		f["to"].problem("several operations in a DENY rule", "write one, with all notPaths")
	}
	for _, n := range to {
		for _, p := range n.only("operation")["operation"].only("notPaths")["notPaths"].items() {
			p.pattern()
			paths = append(paths, p)
		}
	}
	return paths
}

// covers reports whether every path that inner matches is matched by outer. It may say no where
// the answer is yes.
func covers(outer, inner string) bool {
	prefix, isPrefix := strings.CutSuffix(outer, "*")
	suffix, isSuffix := strings.CutPrefix(outer, "*")
	switch {
	case outer == inner || outer == "*":
		return true
	case strings.Contains(outer, "{"):
		return false
	case isPrefix:
		return !strings.HasPrefix(inner, "*") && !strings.Contains(inner, "{") && strings.HasPrefix(strings.TrimSuffix(inner, "*"), prefix)
	case isSuffix:
		return !strings.HasSuffix(inner, "*") && !strings.Contains(inner, "{") && strings.HasSuffix(strings.TrimPrefix(inner, "*"), suffix)
	}
	return false
}

// overlap reports whether some path could be matched by both. It may say yes where the answer is
// no.
func overlap(a, b string) bool {
	isPlain := func(s string) bool { return !strings.ContainsAny(s, "*{") }
	if isPlain(a) && isPlain(b) {
		return a == b
	}
	if covers(a, b) || covers(b, a) {
		return true
	}
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		prefix, isPrefix := strings.CutSuffix(pair[0], "*")
		if isPrefix && !strings.ContainsAny(prefix, "*{") && !strings.HasPrefix(pair[1], "*") {
			other, _, _ := strings.Cut(strings.TrimSuffix(pair[1], "*"), "{")
			return strings.HasPrefix(other, prefix) || strings.HasPrefix(prefix, other) && other != pair[1]
		}
	}
	return !(isPlain(a) && strings.HasPrefix(b, "*") || isPlain(b) && strings.HasPrefix(a, "*"))
}

// luaTable is the program that takes a list of headers away, with comments and spaces removed;
// the names are its third group.
var luaTable = regexp.MustCompile(`^functionenvoy_on_request\((\w+)\)local(\w+)=\{((?:"[^"\\]*",?)*)\}local(\w+)=(\w+):headers\(\)` +
	`for_,(\w+)inipairs\((\w+)\)do(\w+):remove\((\w+)\)endend$`)

// headersOfLua are the names in the table of the chart's program.
func headersOfLua(text string) (names []string, ok bool) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		code, _, _ := strings.Cut(line, "--")
		b.WriteString(strings.Join(strings.Fields(code), ""))
	}
	m := luaTable.FindStringSubmatch(b.String())
	if m == nil || m[5] != m[1] || m[7] != m[2] || m[8] != m[4] || m[9] != m[6] {
		return nil, false
	}
	for name := range strings.SplitSeq(m[3], ",") {
		if name = strings.Trim(name, `"`); name != "" {
			names = append(names, name)
		}
	}
	return names, true
}

// edgeTrust reads the filter that strips headers. The gateway strips those of claims by itself.
func (i *importer) edgeTrust(issuers []config.JWT) config.EdgeTrust {
	edge := config.DefaultAuthentication().EdgeTrust
	if len(i.filters) == 0 {
		edge.StripInboundClaimHeaders = false
		return edge
	}
	i.places["authentication.edgeTrust"] = i.filters[0]
	i.filters[0].note("stripFamilies stays as by default, so that more is removed than the filter lists; [] removes no more")
	stripped := map[string]bool{}
	for _, d := range i.filters {
		spec := d.get("spec").only("workloadSelector", "configPatches", "priority")
		for _, patch := range spec["configPatches"].items() {
			for _, name := range i.patch(patch) {
				stripped[config.FoldHeader(name)] = true
			}
		}
	}
	edge.DefaultStripHeaders = slices.DeleteFunc(edge.DefaultStripHeaders, func(name string) bool { return !stripped[name] })
	for _, name := range edge.DefaultStripHeaders {
		delete(stripped, name)
	}
	for _, issuer := range issuers {
		for _, m := range issuer.OutputClaimToHeaders {
			delete(stripped, config.FoldHeader(m.Header))
		}
		delete(stripped, config.FoldHeader(issuer.OutputPayloadToHeader))
	}
	edge.AdditionalStripHeaders = slices.Sorted(maps.Keys(stripped))
	return edge
}

// patch gives the names that one patch strips.
func (i *importer) patch(patch node) []string {
	value := patch.get("patch").get("value")
	code := value.get("typed_config").get("inline_code")
	if !code.there() {
		code = value.get("typed_config").get("inlineCode")
	}
	if !code.there() {
		code = value.get("typed_config").get("default_source_code").get("inline_string")
	}
	names, ok := []string(nil), false
	if code.there() {
		names, ok = headersOfLua(code.text())
	} else {
		code = patch
	}
	operation, match := patch.get("patch").get("operation").text(), patch.get("match")
	before := match.get("listener").get("filterChain").get("filter").get("subFilter").get("name").text()
	if !ok || patch.get("applyTo").text() != "HTTP_FILTER" || match.get("context").text() != "SIDECAR_INBOUND" ||
		operation != "INSERT_FIRST" && (operation != "INSERT_BEFORE" || before != "" && before != "envoy.filters.http.jwt_authn") {
		code.problem("no filter that only removes a list of headers before the token is verified",
			"the gateway knows the one of the Omnia chart and of istio export")
	}
	return names
}

// validate holds the configuration against the checks of every other one. Where requests go is
// not for Istio's resources to say.
func (i *importer) validate(c *config.Config) {
	for _, p := range c.Validate() {
		if p.Key == "routes" && len(c.Routes) == 0 {
			i.notes = append(i.notes, "no routes: add them, as in routes: [{path: /my-agent, upstream: http://my-agent:8080}]")
			continue
		}
		p.Place = i.place(p.Key)
		i.problems = append(i.problems, p)
	}
}

// place is that of the field which says the key, or the nearest key around it.
func (i *importer) place(key string) config.Place {
	for ; key != ""; key = key[:max(0, strings.LastIndexAny(key, ".["))] {
		if n, ok := i.places[key]; ok && n.there() {
			return n.place()
		}
	}
	return i.authentications[0].place()
}
