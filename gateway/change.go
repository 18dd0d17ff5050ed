package gateway

import (
	"errors"
	"io"
	"net/http"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// maxChange is how long the body of a change may be, in bytes.
const maxChange = 256 << 10

// reloadSummary is the answer to /reload and /check.
type reloadSummary struct {
	Sessions  int                    `json:"sessions"` // live ones
	Ending    map[outcome.Reason]int `json:"ending"`   // those that are no longer admitted, by reason
	NoKeys    []string               `json:"issuersWithoutKeys,omitempty"`
	Notes     []string               `json:"notes,omitempty"`
	Problems  config.Problems        `json:"problems,omitempty"`
	NeedStart []string               `json:"needsRestart,omitempty"`
}

// answerReload answers /reload.
func (g *Gateway) answerReload(w *changeWriter, r *http.Request) {
	done, err := g.Reload(r.Context())
	g.answerReloaded(w, done, err)
}

// answerCheck answers /check: what a reload of the configuration in the body would do.
func (g *Gateway) answerCheck(w *changeWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxChange))
	if err != nil {
		writeProblem(w, http.StatusRequestEntityTooLarge, "the configuration is too long")
		return
	}
	c := config.Default()
	problems := config.Read("configuration", string(text), &c)
	if len(problems) == 0 {
		problems = c.Validate()
	}
	if len(problems) > 0 {
		g.answerReloaded(w, Reloaded{}, problems)
		return
	}
	done, err := g.Preview(&c)
	g.answerReloaded(w, done, err)
}

// answerReloaded writes what a reload has done, or 422 with why it was not done.
func (g *Gateway) answerReloaded(w http.ResponseWriter, done Reloaded, err error) {
	body := reloadSummary{Sessions: done.Sessions, Ending: done.Ending, NoKeys: done.Waiting, Notes: done.Notes}
	if body.Ending == nil {
		body.Ending = map[outcome.Reason]int{}
	}
	if err == nil {
		writeJSON(w, http.StatusOK, body)
		return
	}
	body.Sessions = g.sessions.Len()
	if restart := (*RestartError)(nil); errors.As(err, &restart) {
		body.NeedStart = restart.Keys
	}
	body.Problems = problemsOf(err)
	writeJSON(w, http.StatusUnprocessableEntity, body)
}

// problemsOf returns what is wrong, one problem for each error that was joined.
func problemsOf(err error) (all config.Problems) {
	for _, err := range config.Each(err) {
		if problems, ok := errors.AsType[config.Problems](err); ok {
			all = append(all, problems...)
		} else {
			all = append(all, config.Problem{Text: err.Error()})
		}
	}
	return all
}

// writeProblem answers with what is wrong with a request (RFC 9457).
func writeProblem(w http.ResponseWriter, code int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	writeJSON(w, code, struct {
		Status int    `json:"status"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}{code, http.StatusText(code), detail})
}
