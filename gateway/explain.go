package gateway

import (
	"net/http"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// Step is one thing that admit looked at on the way of a request.
type Step struct {
	// Name is the room: path, route, token, one of the token's checks, rule, header, upstream; of the step that refused, the reason word.
	Name string
	// Detail is what was found there; it holds no token.
	Detail string
	// OK is false for the step that refused the request, which is the last one.
	OK bool
}

// Explanation is what would become of a request.
type Explanation struct {
	Steps []Step
	// Admitted says whether the agent would be asked; Reason is the word of the outcome, Status the client's answer if it is refused.
	Admitted bool
	Reason   outcome.Reason
	Status   int
	// Upstream is the URL the agent would be asked for, and Header what it would be told. Both are set only if Admitted.
	Upstream string
	Header   http.Header
}
