package gateway

import (
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// control.go answers the gateway's own paths on the public listener. The policy has admitted the
// request. A body is not read.

// renewed is a session that a renewal has extended.
type renewed struct {
	Session string     `json:"session"`
	Route   string     `json:"route"`
	Expires *time.Time `json:"expires"` // null: never
}

// unrenewed is a session that a renewal has left as it was.
type unrenewed struct {
	Session string         `json:"session"`
	Route   string         `json:"route"`
	Reason  outcome.Reason `json:"reason"` // the word that a new connection would get
}

// answerRenewal renews the caller's live sessions with the fresh token of the request. Which are
// not the caller's, and which a page of another origin has no part in, look like those that never
// were.
func (g *Gateway) answerRenewal(x *exchange) {
	id, one, ok := wantedSession(x.r)
	if !ok {
		g.refuse(x, outcome.Refuse(outcome.NoSession, "the query names no one session"))
		return
	}
	all := g.sessions.Renew(x.pass.Case, x.pass.Deadline, func(s *session.Session) bool {
		return (!one || s.ID == id) && x.policy.Lists(s.Case, x.pass.Origins)
	}, g.judge)
	if len(all) == 0 {
		g.refuse(x, outcome.Refuse(outcome.NoSession, "no such live session of this caller"))
		return
	}
	if one {
		x.session = id
	}
	sessions := make([]any, len(all))
	var refusal *outcome.Refusal // of the first that was refused
	refused := 0
	for i, r := range all {
		g.metrics.renewed(r.Refusal)
		if r.Refusal == nil {
			sessions[i] = renewed{r.Session.ID, r.Session.Case.Route, stampOf(r.Deadline)}
			continue
		}
		if refused++; refusal == nil {
			refusal = r.Refusal
		}
		sessions[i] = unrenewed{r.Session.ID, r.Session.Case.Route, r.Refusal.Reason}
	}
	counts := []slog.Attr{slog.Int("renewed", len(all)-refused), slog.Int("not_renewed", refused)}
	if refused == len(all) {
		g.answerProblem(x, http.StatusForbidden, refusal, struct {
			problem
			Sessions []any `json:"sessions"`
		}{newProblem(http.StatusForbidden, refusal.Reason), sessions})
		g.report(x, refusal.Reason, http.StatusForbidden, refusal.Text(), counts...)
		return
	}
	x.pass.CORS.Tell(x.w.Header())
	writeJSON(x.w, http.StatusOK, struct {
		Sessions []any `json:"sessions"`
	}{sessions})
	detail := ""
	if refusal != nil {
		detail = refusal.Error()
	}
	g.report(x, outcome.Renewal, http.StatusOK, detail, counts...)
}

// wantedSession returns the id of the one session that the query of a renewal asks for, if it
// asks for one. It is not ok when it may ask for one in a way that cannot be followed: all
// sessions would be more than was meant.
func wantedSession(r *http.Request) (id string, one, ok bool) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	ids := query["session"]
	if err != nil || len(ids) > 1 {
		return "", false, false
	}
	if len(ids) == 0 {
		return "", false, true
	}
	return ids[0], true, true
}

// stampOf returns a deadline for JSON: nil for one that never comes, or comes after the year 9999,
// for which RFC 3339 has no text.
func stampOf(t time.Time) *time.Time {
	if t.IsZero() || t.Year() > 9999 {
		return nil
	}
	t = t.UTC()
	return &t
}
