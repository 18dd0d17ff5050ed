package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// misnamed is the error of a discovery document that speaks for another issuer than the
// configured one. Its keys are not used (OpenID Connect Discovery 1.0 §4.3). Keys may still be
// found elsewhere, but the issuer's tokens most likely bear the name of the document, and are
// refused.
type misnamed struct{ configured, found string }

func (m misnamed) Error() string {
	hint := ""
	switch {
	case m.found == "":
		return "it names no issuer"
	case m.found == m.configured+"/":
		hint = "; the configured one lacks the slash at the end"
	case m.found+"/" == m.configured:
		hint = "; the configured one has a slash too many at the end"
	case strings.EqualFold(m.found, m.configured):
		hint = "; upper and lower case differ"
	}
	return fmt.Sprintf("it speaks for the issuer %s%s", outcome.Brief(m.found), hint)
}

// noteDiscovery keeps what is odd about a discovery document, for Issuers, and logs it when it
// is new.
func (s *keySet) noteDiscovery(err error) {
	warning := ""
	if _, ok := errors.AsType[misnamed](err); ok {
		warning = "discovery: " + err.Error()
	}
	s.mu.Lock()
	isNew := warning != "" && warning != s.warning
	s.warning = warning
	s.mu.Unlock()
	if isNew {
		s.log.Warn("discovery names another issuer", "err", err)
	}
}
