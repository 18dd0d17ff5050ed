package gateway

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// revoke puts a revocation into force and then ends the live sessions that it bars, which are
// counted. In this order none slips through: what is registered later asks the revocations under
// the registry's lock. The error is auth.ErrTooManyRevocations if it is not in force, else one of
// the file.
func (g *Gateway) revoke(v auth.Revocation) (_ auth.Revocation, ended int, err error) {
	v, err = g.revoked.Add(v)
	if errors.Is(err, auth.ErrTooManyRevocations) {
		return v, 0, err
	}
	if err != nil {
		g.log.Error("revocation not kept: it is in force until this process ends", "revocation", v.ID, "err", err.Error())
	}
	g.shareRevocation(v)
	ended = g.endBarred(v)
	g.log.Info("revoked", "revocation", v.ID, "issuer", outcome.Clip(v.Issuer), "logout", v.Logout, "until", v.Until, "sessions", ended)
	return v, ended, err
}

// endBarred ends the live sessions that a revocation bars, and returns how many that were.
func (g *Gateway) endBarred(v auth.Revocation) int {
	return g.sessions.End(func(s *session.Session) bool { return v.Bars(s.Judged().Identity) },
		outcome.End(outcome.Revoked, "by revocation "+v.ID))
}

// revocationSummary is the answer to POST /revocations.
type revocationSummary struct {
	auth.Revocation
	Ended int    `json:"ended"`          // live sessions
	Note  string `json:"note,omitempty"` // what may be a mistake
}

// answerRevoke answers POST /revocations.
func (g *Gateway) answerRevoke(w *changeWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxChange))
	if err != nil {
		writeProblem(w, http.StatusRequestEntityTooLarge, "the revocation is too long")
		return
	}
	v, err := auth.ParseRevocation(string(text), time.Now())
	if err != nil {
		writeProblem(w, http.StatusBadRequest, err.Error())
		return
	}
	body := revocationSummary{}
	body.Revocation, body.Ended, err = g.revoke(v)
	w.note(slog.String("revocation", body.ID), slog.Int("sessions", body.Ended))
	switch {
	case errors.Is(err, auth.ErrTooManyRevocations):
		writeProblem(w, http.StatusInsufficientStorage, err.Error())
		return
	case err != nil:
		writeProblem(w, http.StatusInternalServerError, "it is in force, but only until the gateway ends: revocations.file: "+err.Error())
		return
	}
	if err := g.policy.Load().Verifier().Knows(v.Issuer); err != nil {
		body.Note = "no caller has this issuer: " + outcome.RefusalOf(err).Detail
	}
	w.Header().Set("Location", "/revocations/"+body.ID)
	writeJSON(w, http.StatusCreated, body)
}

// answerRevocations answers GET /revocations.
func (g *Gateway) answerRevocations(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, g.revoked.List())
}

// answerRevocation answers GET /revocations/{id}.
func (g *Gateway) answerRevocation(w http.ResponseWriter, r *http.Request) {
	v, there := g.revoked.Get(chi.URLParam(r, "id"))
	if !there {
		writeProblem(w, http.StatusNotFound, "no such revocation is in force")
		return
	}
	writeJSON(w, http.StatusOK, v)
}

// answerLift answers DELETE /revocations/{id}.
func (g *Gateway) answerLift(w *changeWriter, r *http.Request) {
	v, there, err := g.revoked.Lift(chi.URLParam(r, "id"))
	w.note(slog.String("revocation", v.ID))
	if there {
		g.shareRevocation(v)
	}
	switch {
	case !there:
		writeProblem(w, http.StatusNotFound, "no such revocation is in force")
		return
	case err != nil:
		g.log.Error("lifted revocation not kept: it is in force again after a restart", "revocation", v.ID, "err", err.Error())
		writeProblem(w, http.StatusInternalServerError, "it is lifted, but only until the gateway ends: revocations.file: "+err.Error())
		return
	}
	g.log.Info("revocation lifted", "revocation", v.ID, "issuer", outcome.Clip(v.Issuer))
	w.WriteHeader(http.StatusNoContent)
}

// wanted are the sessions that all filters name which are not empty.
type wanted struct {
	Session string `json:"session,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	Agent   string `json:"agent,omitempty"`
	Route   string `json:"route,omitempty"`
}

// has reports whether s is one of them. Without a filter none is: a mistake must not end every
// session.
func (n wanted) has(s *session.Session) bool {
	return n != wanted{} && n.name(s.ID, s.Issuer(), s.Subject(), s.Case.Agent, s.Case.Route)
}

// name reports whether all filters name a session.
func (n wanted) name(id, issuer, subject, agent, route string) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return is(n.Session, id) && is(n.Issuer, issuer) && is(n.Subject, subject) && is(n.Agent, agent) && is(n.Route, route)
}

// filtersOf returns the filters of a query. They are not known if one of them is not, is empty or
// stands twice.
func filtersOf(query url.Values) (n wanted, known bool) {
	filters := map[string]*string{"issuer": &n.Issuer, "subject": &n.Subject, "agent": &n.Agent, "route": &n.Route}
	for name, values := range query {
		if filters[name] == nil || len(values) != 1 || values[0] == "" {
			return wanted{}, false
		}
		*filters[name] = values[0]
	}
	return n, true
}

// answerEnd answers DELETE /sessions: it ends the sessions that all filters of the query name.
// Without a filter, or with one that is not known, it ends none.
func (g *Gateway) answerEnd(w *changeWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	n, known := filtersOf(query)
	if err != nil || !known || len(query) == 0 {
		writeProblem(w, http.StatusBadRequest, "name the sessions by issuer, subject, agent or route, each once and not empty")
		return
	}
	done := g.endEverywhere(r.Context(), n)
	w.note(slog.String("issuer", outcome.Clip(n.Issuer)), slog.String("subject", outcome.Clip(n.Subject)),
		slog.String("agent", outcome.Clip(n.Agent)), slog.String("route", outcome.Clip(n.Route)), slog.Int("sessions", done.Ended))
	writeJSON(w, http.StatusOK, done)
}

// answerEndOne answers DELETE /sessions/{id}.
func (g *Gateway) answerEndOne(w *changeWriter, r *http.Request) {
	if r.URL.RawQuery != "" {
		writeProblem(w, http.StatusBadRequest, "a session that is named by its id takes no filters")
		return
	}
	id := chi.URLParam(r, "id")
	done := g.endEverywhere(r.Context(), wanted{Session: id})
	w.note(slog.String("session", outcome.Clip(id)), slog.Int("sessions", done.Ended))
	if done.Ended == 0 && len(done.Missing) == 0 {
		writeProblem(w, http.StatusNotFound, "there is no such session")
		return
	}
	writeJSON(w, http.StatusOK, done)
}

// endSummary is the answer to DELETE /sessions.
type endSummary struct {
	Ended   int      `json:"ended"`             // live sessions
	Missing []string `json:"missing,omitempty"` // replicas that did not answer and will hear of it later
}

// end ends the sessions of this gateway that are named and began before a time, and returns how
// many that were.
func (g *Gateway) end(n wanted, before time.Time) int {
	ended := g.sessions.End(func(s *session.Session) bool { return n.has(s) && s.Start.Before(before) },
		outcome.End(outcome.Ended, "by an operator"))
	if ended > 0 {
		g.log.Info("sessions ended", "sessions", ended)
	}
	return ended
}
