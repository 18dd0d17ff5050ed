package gateway

import (
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// logout.go is OpenID Connect Back-Channel Logout 1.0, of which the gateway is a relying party:
// the issuer posts a logout token, and the sessions of that login or user end.

// logoutForm is how much longer than its token the body of a logout may be, in bytes.
const logoutForm = 4 << 10

// oauthError is the body of a logout that has failed (RFC 6749 §5.2).
type oauthError struct {
	Error       string         `json:"error"`
	Description outcome.Reason `json:"error_description"`
}

// answerLogout follows a logout token. It is answered when the sessions of this gateway are told,
// and do not wait for their ends.
func (g *Gateway) answerLogout(x *exchange) {
	ended, err := g.logout(x)
	if err != nil {
		refusal, kind := outcome.RefusalOf(err), "server_error"
		if refusal.Reason.Status() < http.StatusInternalServerError {
			kind = "invalid_request"
			g.refused.add(x.pass.Client, x.policy.Config().Limits.RefusedPerIP) // a stranger's attempt, as a refused token is
		}
		// 400 for a logout that was understood and failed, too (§2.8).
		writeJSON(x.w, http.StatusBadRequest, oauthError{kind, refusal.Reason})
		g.report(x, refusal.Reason, http.StatusBadRequest, refusal.Text())
		return
	}
	x.w.Header().Set("Cache-Control", "no-store")
	x.w.WriteHeader(http.StatusOK)
	g.report(x, outcome.Logout, http.StatusOK, "", slog.Int("sessions", ended))
}

// logout does what the logout token of a request says, and returns how many live sessions end. The
// error is an *outcome.Refusal.
func (g *Gateway) logout(x *exchange) (ended int, err error) {
	token, err := logoutToken(x.w, x.r, int64(x.policy.Config().Limits.MaxTokenBytes))
	if err != nil {
		return 0, err
	}
	l, err := x.policy.Verifier().Logout(x.r.Context(), token, x.pass.Client)
	if err != nil {
		return 0, err
	}
	usedBefore := outcome.Refuse(outcome.BadLogout, "the logout token was used before")
	if !g.spent.Use(l) {
		return 0, usedBefore
	}
	err = auth.ErrTooManyRevocations
	if g.revoked.HasRoom(l.Revocation) { // asked first, because the other replicas do not forget a use
		if !g.firstUse(x.r.Context(), l) {
			return 0, usedBefore
		}
		_, ended, err = g.revoke(l.Revocation)
	}
	if errors.Is(err, auth.ErrTooManyRevocations) {
		g.spent.Forget(l)
		return 0, &outcome.Refusal{Reason: outcome.TooManyRevocations, Err: err}
	}
	return ended, nil // of a file that cannot be written, revoke has told the operator
}

// logoutToken returns the logout token in the form of a request. Other fields are for other
// parties.
func logoutToken(w http.ResponseWriter, r *http.Request, longest int64) (string, error) {
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/x-www-form-urlencoded" {
		return "", outcome.Refuse(outcome.BadLogout, "the body is no form (application/x-www-form-urlencoded)")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, longest+logoutForm))
	if err != nil {
		return "", &outcome.Refusal{Reason: outcome.BadLogout, Detail: "the body is too long, or broke off", Err: err}
	}
	form, err := url.ParseQuery(string(body))
	if tokens := form["logout_token"]; err == nil && len(tokens) == 1 && tokens[0] != "" {
		return tokens[0], nil
	}
	return "", outcome.Refuse(outcome.BadLogout, "the form has not one logout_token")
}
