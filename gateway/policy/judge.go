package policy

import (
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Judge asks whether a request that was admitted once, perhaps under other rules, would be admitted
// today. It asks the rooms of Admit in the same order, but those that need the token itself or the
// clock, and changes nothing. The error is an *outcome.Refusal.
func (p *Policy) Judge(c Case) error {
	pass := &Pass{Case: c}
	route, rest, err := p.find(pass, "")
	if err != nil {
		return err
	}
	if !route.origins.allow(c.Origins) {
		return refuseOrigin(c.Origins)
	}
	if !p.authenticated || route.agentJudges {
		return nil
	}
	open := p.entry(c.Path, route, rest) != outcome.OK
	if c.Identity == nil {
		if open {
			return nil
		}
		return outcome.Refuse(outcome.NoToken, "no token was needed when it came")
	}
	id, err := p.verifier.Admits(c.Identity)
	if err != nil || open {
		return err
	}
	if err := p.permit(route, id, pass.Names, nil); err != nil {
		return err
	}
	_, err = p.verifier.Headers(id)
	return err
}
