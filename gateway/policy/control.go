package policy

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Renew is the path at which a caller renews live sessions. It is one of the gateway's own, which
// no route takes, on every host.
const Renew = "/.gateway/renew"

// Logout is the path at which an issuer tells that a user has logged out there, on every host.
const Logout = "/.gateway/logout"

// admitLogout decides about a request for Logout: its method. The logout token is in its body, and
// for the gateway to judge.
func (p *Policy) admitLogout(pass *Pass, r *http.Request) error {
	pass.Reason = outcome.Logout
	return onlyPost(pass, r)
}

// onlyPost refuses every other method.
func onlyPost(pass *Pass, r *http.Request) error {
	if r.Method != http.MethodPost {
		pass.Allow = http.MethodPost
		return outcome.Refuse(outcome.BadMethod, "method "+outcome.Clip(r.Method))
	}
	return nil
}

// admitRenewal decides about a request for Renew: origin, method, token, in this order. Which
// sessions it is about, and what their rules say, is for the registry.
func (p *Policy) admitRenewal(ctx context.Context, pass *Pass, r *http.Request, t *trace) error {
	switch {
	case len(pass.Origins) == 0:
	case slices.ContainsFunc(p.routes, func(route *route) bool { return len(route.origins) > 0 && route.origins.allow(pass.Origins) }):
		pass.CORS = CORS{varies: true, origin: pass.Origins[0], credentials: p.cookies}
		if isPreflight(r) {
			pass.Reason = outcome.Preflight
			t.ok("preflight", "answered by the gateway for %s", outcome.Clip(pass.Origins[0]))
			return nil
		}
	case isPreflight(r) || !slices.ContainsFunc(p.routes, func(route *route) bool { return route.origins.allow(pass.Origins) }):
		return refuseOrigin(pass.Origins)
	}
	if err := onlyPost(pass, r); err != nil {
		return err
	}
	credential, err := auth.Bearer(r.Header)
	if err != nil {
		return err
	}
	if credential.Token == "" {
		return outcome.Refuse(outcome.NoToken, "no bearer token in the header Authorization, where alone a renewal has it")
	}
	t.ok("token", "found in the header Authorization")
	credential.Client = pass.Client
	if pass.Identity, err = p.verifier.Verify(ctx, credential, t.auth()); err != nil {
		return err
	}
	if err := p.verifier.Principal(pass.Identity); err != nil {
		return err
	}
	pass.Reason = outcome.Renewal
	return nil
}

// Renewed returns the case of a renewal whose caller another replica has verified, as
// auth.Verifier.Vouched says. The error is an *outcome.Refusal.
func (p *Policy) Renewed(issuer, claims, clientKey string) (Case, error) {
	id, err := p.verifier.Vouched(issuer, claims, clientKey)
	if err != nil {
		return Case{}, err
	}
	if err := p.verifier.Principal(id); err != nil {
		return Case{}, err
	}
	return Case{Identity: id}, nil
}

// Lists reports whether a page with these Origin lines has a part in a session: whether the
// session's route lists the page's origin or, where a route lists none, whether the page is of the
// host to which the session was opened. No lines: it is no page.
func (p *Policy) Lists(c Case, origins []string) bool {
	if len(origins) == 0 {
		return true
	}
	route, _, err := p.find(&Pass{Case: c}, "")
	switch {
	case err != nil:
		return false
	case len(route.origins) == 0:
		page, err := url.Parse(origins[0])
		return err == nil && len(origins) == 1 && c.Host != "" && hostOf(page.Host) == c.Host
	}
	return route.origins.allow(origins)
}
