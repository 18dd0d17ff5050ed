package gateway

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// control.go answers the gateway's own paths on the public listener. The policy has admitted the
// request. A body is not read.

// renewed is what a renewal has done to one session: it lives until Expires now, or Reason is the
// word that a new connection would get, and the session is as it was.
type renewed struct {
	Session string         `json:"session"`
	Route   string         `json:"route"`
	Start   time.Time      `json:"start"`
	Expires *time.Time     `json:"expires"` // null: never
	Reason  outcome.Reason `json:"reason,omitempty"`
	Detail  string         `json:"detail,omitempty"` // of Reason, for the log
}

// told is what the client is told of a renewed session.
func (r renewed) told() any {
	if r.Reason != "" {
		return struct {
			Session string         `json:"session"`
			Route   string         `json:"route"`
			Reason  outcome.Reason `json:"reason"`
		}{r.Session, r.Route, r.Reason}
	}
	return struct {
		Session string     `json:"session"`
		Route   string     `json:"route"`
		Expires *time.Time `json:"expires"`
	}{r.Session, r.Route, r.Expires}
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
	caller := x.pass.Identity
	r := sharedRenewal{
		Issuer: caller.Issuer, Claims: caller.Claims.JSON(), ClientKey: caller.ClientKey, Session: id, One: one, Origins: x.pass.Origins,
	}
	all := g.renew(r, x.policy, x.pass.Case, nil)
	all = append(all, g.renewElsewhere(x.r.Context(), r, caller.Subject, x.policy.Latest(caller))...)
	if len(all) == 0 {
		g.refuse(x, outcome.Refuse(outcome.NoSession, "no such live session of this caller"))
		return
	}
	slices.SortStableFunc(all, func(a, b renewed) int { return a.Start.Compare(b.Start) })
	if one {
		x.session = id
	}
	sessions := make([]any, len(all))
	var refusal *outcome.Refusal // of the first that was refused
	refused := 0
	for i, r := range all {
		sessions[i] = r.told()
		if r.Reason == "" {
			continue
		}
		if refused++; refusal == nil {
			refusal = outcome.Refuse(r.Reason, r.Detail)
		}
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

// renew renews the sessions of this gateway that a renewal is about, with the identity of a case
// and the deadline that comes with it. A session for which skip, unless that is nil, reports true
// stays as it is.
func (g *Gateway) renew(
	r sharedRenewal, p *policy.Policy, fresh policy.Case, skip func(s *session.Session, deadline time.Time) bool,
) []renewed {
	done := g.sessions.Renew(fresh, p.Deadline, func(s *session.Session) bool {
		if r.One && s.ID != r.Session || !p.Lists(s.Case, r.Origins) {
			return false
		}
		next := s.Judged()
		next.Identity = fresh.Identity
		return skip == nil || !skip(s, p.Deadline(next))
	}, g.judge)
	all := make([]renewed, len(done))
	for i, d := range done {
		g.metrics.renewed(d.Refusal)
		all[i] = renewed{Session: d.Session.ID, Route: d.Session.Case.Route, Start: d.Session.Start, Expires: stampOf(d.Deadline)}
		if d.Refusal != nil {
			all[i].Reason, all[i].Detail = d.Refusal.Reason, d.Refusal.Text()
		}
	}
	return all
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
