package e2e

import "testing"

func TestRouteSaysWhetherItsAgentGetsTheToken(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	s := plain(i, a.URL).with("authentication.jwt.forwardOriginalToken", false)
	s["routes"] = []any{route("/as-issuer", a.URL), route("/with", a.URL).with("forwardOriginalToken", true)}
	g := start(t, s)
	bearer := i.bearer(t)
	for path, want := range map[string]string{"/as-issuer": "", "/with": bearer[len("Authorization: "):]} {
		g.connect(t, path+"/ws?access_token="+bearer[len("Authorization: Bearer "):]).echoes("hello")
		r := a.request(t)
		if got := r.Header.Get("Authorization"); got != want || r.URL.RawQuery != "" {
			t.Errorf("%s: the agent is told Authorization %q and the query %q", path, got, r.URL.RawQuery)
		}
	}
}

func TestFirstPrincipalClaimThatIsThereIsTheUser(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	s := plain(i, a.URL).with("authentication.jwt.principalClaim", []string{"sub", "common_name"}).
		with("limits.maxConnectionsPerUser", 1)
	g := start(t, s)
	service := i.bearer(t, "sub", "", "common_name", "robot")
	g.connect(t, "/my-agent/ws", service).echoes("hello")
	g.refused(t, 429, "too-many-user-connections", "/my-agent/ws", service)
	g.connect(t, "/my-agent/ws", i.bearer(t, "common_name", "robot")).echoes("a user, who has a sub as well")
	g.refused(t, 403, "no-principal", "/my-agent/ws", i.bearer(t, "sub", "", "common_name", ""))
	g.refused(t, 403, "no-principal", "/my-agent/ws", i.bearer(t, "sub", nil, "common_name", 5))
}

func TestIssuerAsksForClaimsOfItsOwnTokens(t *testing.T) {
	one, other, a := newIssuer(t), newIssuer(t), newAgent(t, nil)
	s := plain(one, a.URL).
		with("authentication.jwt.requiredClaims", []any{settings{"claim": "beta", "values": []any{true}}}).
		with("authentication.jwtRules", []any{settings{"issuer": other.URL, "jwksUri": other.URL + "/keys"}})
	g := start(t, s)
	g.connect(t, "/my-agent/ws", one.bearer(t, "beta", true)).echoes("hello")
	g.refused(t, 403, "claim-mismatch", "/my-agent/ws", one.bearer(t, "beta", "true"))
	g.awaitLine("msg", "refused", "err", `claim "beta" is the text true; this rule wants the boolean true`)
	g.refused(t, 403, "claim-mismatch", "/my-agent/ws", one.bearer(t))
	g.connect(t, "/my-agent/ws", other.bearer(t)).echoes("hello")
}
