// Package outcome holds every word by which a request is let in or refused, or a session ends.
//
// One table (table.go) says what each word means: the HTTP status of a refusal, the close code
// of an ending, the challenge, Retry-After, and the check of `explain` that it belongs to. The
// words are the same in the log, the metrics, `explain`, the problem document and
// docs/outcomes.md.
//
// The values that carry a word are here too: a Refusal goes back up through the rooms of a
// request, an Ending goes to both sides of a session, and Traffic is what a session has moved.
// The package imports nothing of ours, so every other package can use it.
package outcome

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Reason is the one word for an outcome.
type Reason string

// All returns every word, in the order of the table.
func All() []Reason {
	all := make([]Reason, len(table))
	for i, row := range table {
		all[i] = row.reason
	}
	return all
}

// LetsThrough reports whether the word says why a request was let in.
func (r Reason) LetsThrough() bool { return rows[r].through }

// Refuses reports whether a request can be refused for r.
func (r Reason) Refuses() bool { return rows[r].status != 0 }

// Ends reports whether a session can end for r.
func (r Reason) Ends() bool { return rows[r].code != 0 }

// Status returns the HTTP status of the answer to a request refused for r. A word that refuses
// none gives 500: it would be a mistake of the gateway's own, which lets no request in.
func (r Reason) Status() int {
	if s := rows[r].status; s > 0 {
		return s
	}
	return http.StatusInternalServerError
}

// Code returns the code of the Close frame with which a session ends for r (RFC 6455 §7.4 and the
// IANA registry of close codes). A word that ends no session gives 1011.
func (r Reason) Code() int {
	if c := rows[r].code; c > 0 {
		return c
	}
	return internalError
}

// RejectCode returns the code of the Close by which a WebSocket may be refused for r instead of
// the status alone, or 0 if it is always refused by that.
func (r Reason) RejectCode() int {
	switch rows[r].status {
	case http.StatusUnauthorized:
		return unauthorized
	case http.StatusForbidden:
		return forbidden
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return tryAgainLater
	}
	return 0
}

// RetryAfter returns the Retry-After header of a refusal, in seconds, or "" when trying again
// would not help.
func (r Reason) RetryAfter() string {
	if s := rows[r].retryAfter; s > 0 {
		return strconv.Itoa(s)
	}
	return ""
}

// Challenge returns the WWW-Authenticate header of a refusal (RFC 6750 §3), or "" when it has
// none. It repeats nothing of the request.
func (r Reason) Challenge() string {
	const realm = `Bearer realm="omnia-gateway"`
	switch e := rows[r].challenge; e {
	case noChallenge:
		return ""
	case bare:
		return realm
	default:
		return realm + `, error="` + string(e) + `", error_description="` + string(r) + `"`
	}
}

// Check returns the name of the check of `explain` that refuses for r: the name under which the
// same check is shown when a request passes it.
func (r Reason) Check() string {
	if c := rows[r].check; c != "" {
		return c
	}
	return "gateway"
}

// Refusal is why a request was not let in. It never holds a token or a part of one: Detail and Err
// may be logged and shown by explain; the client sees only Reason.
type Refusal struct {
	// Reason is the word.
	Reason Reason
	// Detail tells it to the operator: bounded, without secrets. Empty: the text of Err, if any.
	Detail string
	// Err is the cause, if an error was.
	Err error
	// Wait is when trying again may help, if the refusal knows better than the table.
	Wait time.Duration
}

// Refuse returns a refusal whose detail is text.
func Refuse(r Reason, detail string) *Refusal { return &Refusal{Reason: r, Detail: detail} }

// Error returns the word, then what the operator is told.
func (r *Refusal) Error() string {
	if text := r.Text(); text != "" {
		return string(r.Reason) + ": " + text
	}
	return string(r.Reason)
}

// RetryAfter returns the Retry-After header of the refusal, in whole seconds, or "".
func (r *Refusal) RetryAfter() string {
	if r.Wait > 0 {
		return strconv.Itoa(int((r.Wait + time.Second - 1) / time.Second))
	}
	return r.Reason.RetryAfter()
}

// Unwrap returns the cause, or nil.
func (r *Refusal) Unwrap() error { return r.Err }

// Text returns what the operator is told beside the word: one bounded line, or "".
func (r *Refusal) Text() string {
	if r.Detail != "" {
		return r.Detail
	}
	return Line(r.Err)
}

// RefusalOf returns the refusal in err. Any other error is a mistake of the gateway's own, and
// lets no request in.
func RefusalOf(err error) *Refusal {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return refusal
	}
	return &Refusal{Reason: InternalError, Err: err}
}

// maxLine is how long an error may be in a log line, in bytes.
const maxLine = 300

// Line returns an error for a log: one line of valid UTF-8, bounded; "" for nil.
func Line(err error) string {
	if err == nil {
		return ""
	}
	s := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "?")), " ")
	return strings.ToValidUTF8(s[:min(len(s), maxLine)], "")
}

// How long a client's words may be in a log line, in bytes: what an operator compares with the
// configuration, and the small words of which a stranger may send any number.
const (
	maxWord  = 256
	maxBrief = 64
)

// Clip returns a client's words for an attribute of a log line: valid UTF-8, bounded. They may hold
// control characters, which the log's encoders escape.
func Clip(s string) string {
	word, rest := cut(s, maxWord)
	return strings.ToValidUTF8(word, "?") + rest
}

// Quote returns the words of a client or a token for the text of a refusal, among others of ours:
// in quotes, bounded, on one line.
func Quote(s string) string {
	word, rest := cut(s, maxWord)
	return strconv.Quote(word) + rest
}

// Brief is Quote for a name, such as a kid.
func Brief(s string) string {
	word, rest := cut(s, maxBrief)
	return strconv.Quote(word) + rest
}

// cut returns at most so many bytes of s, and the mark of what is missing. It does not cut through
// a character.
func cut(s string, most int) (word, rest string) {
	if len(s) <= most {
		return s, ""
	}
	n := most
	for n > most-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n], "…"
}

// Side is one of the two peers of a session.
type Side uint8

// The sides. Neither is that of an ending that no peer has caused.
const (
	Neither Side = iota
	Client
	Agent
)

// String returns the name of the side.
func (s Side) String() string { return [...]string{"neither", "client", "agent"}[s] }

// Ending is why a session ended. It is not changed after it was made, and may be shared.
type Ending struct {
	// Reason is the word.
	Reason Reason
	// By is the side whose fault the ending is, if it is one's.
	By Side
	// Code is that of the Close frame that the client gets; 0 is a Close without one.
	Code int
	// Detail is what the operator should know beside the word.
	Detail string
}

// End returns the ending for a reason of the gateway's own, with the code of the table.
func End(r Reason, detail string) *Ending { return &Ending{Reason: r, Code: r.Code(), Detail: detail} }

// Fault returns the ending for what one side has done; the detail continues the name of the side.
// A client is not told to mend what the agent did: it gets 1011 instead of the code that means "do
// not repeat this".
func Fault(r Reason, by Side, detail string) *Ending {
	e := &Ending{Reason: r, By: by, Code: r.Code(), Detail: by.String() + detail}
	if by == Agent && blames(r) {
		e.Code = internalError
	}
	return e
}

// blames reports whether the code for r says that its receiver has made a mistake.
func blames(r Reason) bool { return r == ProtocolError || r == MessageTooBig }

// Told returns code and word of the Close frame that a side gets from the gateway. The client gets
// Code. An agent gets the code of its own fault; for any other ending it gets 1001, because agents
// log an error for a code that they do not expect from a client.
func (e *Ending) Told(to Side) (code int, word string) {
	word = string(e.Reason)
	switch {
	case to == Client:
		return e.Code, word
	case e.By == Agent && blames(e.Reason):
		return e.Reason.Code(), word
	}
	return goingAway, word
}

// Traffic counts bytes and messages of a session, or of many: in from clients, out to them.
type Traffic struct{ BytesIn, BytesOut, MessagesIn, MessagesOut uint64 }

// Add adds u to t.
func (t *Traffic) Add(u Traffic) {
	t.BytesIn += u.BytesIn
	t.BytesOut += u.BytesOut
	t.MessagesIn += u.MessagesIn
	t.MessagesOut += u.MessagesOut
}
