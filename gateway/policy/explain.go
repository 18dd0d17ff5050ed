package policy

import (
	"context"
	"fmt"
	"net/http"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Step is one thing that Admit looked at on the way of a request.
type Step struct {
	// Name is the check: path, route, token, one of the token's checks, rule, header, upstream; of
	// the step that refused, the reason word.
	Name string
	// Detail is what was found there. It holds no token.
	Detail string
	// OK is false for the step that refused the request, which is the last one.
	OK bool
}

// Explanation is how the policy judges a request.
type Explanation struct {
	Steps []Step
	// Admitted reports whether the agent would be asked. Reason is the word of the outcome, and
	// Status the client's answer if it is refused. Code is that of the Close that it gets instead,
	// or 0.
	Admitted bool
	Reason   outcome.Reason
	Status   int
	Code     int
	// Upstream is the URL that the agent would be asked for, and Header what it would be told.
	// Both are set only if Admitted, and not for a request that the gateway answers itself.
	Upstream string
	Header   http.Header
}

// Explain returns how the policy judges r, with the code that serves. r needs Method, RequestURI,
// Host, Header and RemoteAddr. Like Admit it may wait for a fetch of an issuer's keys.
func (p *Policy) Explain(ctx context.Context, r *http.Request) Explanation {
	t := &trace{}
	pass, err := p.admit(ctx, r, t)
	if err != nil {
		refusal := outcome.RefusalOf(err)
		return Explanation{
			Steps:  append(t.steps, Step{Name: string(refusal.Reason), Detail: refusal.Text()}),
			Reason: refusal.Reason, Status: refusal.Reason.Status(), Code: pass.RejectCode(r, refusal.Reason),
		}
	}
	e := Explanation{Steps: t.steps, Admitted: true, Reason: pass.Reason}
	if pass.Probe == "" && pass.Own == "" && pass.Metadata == nil && pass.Reason != outcome.Preflight {
		e.Upstream, e.Header = pass.Scheme+"://"+pass.Addr+pass.Target, pass.Header
	}
	return e
}

// trace collects what explain shows. A nil trace collects nothing, so serving and explaining are
// one code.
type trace struct{ steps []Step }

func (t *trace) ok(name, format string, a ...any) {
	if t != nil {
		t.steps = append(t.steps, Step{Name: name, Detail: fmt.Sprintf(format, a...), OK: true})
	}
}

func (t *trace) auth() auth.Trace {
	if t == nil {
		return nil
	}
	return func(check, detail string) { t.ok(check, "%s", detail) }
}
