package e2e

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// shown is what the page showed in Chromium for one kind of token.
type shown struct {
	Name, Protocol, Renewed, Code, Meaning, Status, Reason, Refusal, Answered, Answer string

	Opened           bool
	Frames, Problems []string
}

// browse tries kinds of tokens on the page of a running dev.
func browse(t *testing.T, page string, kinds ...string) map[string]shown {
	t.Helper()
	needs(t, "node", "playwright-core", "chromium")
	cmd := clientFor(t, 3*patience, "bash", append([]string{"-c", `exec node clients/browser.js "$(command -v chromium)" "$@"`, "browse",
		page}, kinds...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("the browser ended with %v: %s", err, stderr.String())
	}
	all := map[string]shown{}
	for line := range strings.Lines(string(out)) {
		var s shown
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		if len(s.Problems) > 0 {
			t.Errorf("%s: the page's script failed: %v", s.Name, s.Problems)
		}
		all[s.Name] = s
	}
	return all
}

// typeIn types lines into the console of a page in Chromium, one after the other, and waits
// until the console shows what is wanted.
func typeIn(t *testing.T, page, wanted string, lines ...string) {
	t.Helper()
	needs(t, "node", "playwright-core", "chromium")
	cmd := client(t, "bash", append([]string{"-c", `exec node clients/console.js "$(command -v chromium)" "$@"`, "console", page, wanted},
		lines...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if out, err := cmd.Output(); err != nil {
		t.Errorf("the browser ended with %v: %s; the console shows\n%s", err, stderr.String(), out)
	}
}

// served checks that a token opened a connection, over which the agent named the user, and how
// it was closed.
func (s shown) served(t *testing.T, protocol, code string) {
	t.Helper()
	const echo = `{"type":"echo","user":"dev-user","text":"hello from Chromium","token":"verified"}`
	if !s.Opened || s.Protocol != protocol || !slices.Contains(s.Frames, echo) || s.Code != code {
		t.Errorf("the page shows %+v, want it open with protocol %q, %s back, and a Close %s", s, protocol, echo, code)
	}
}

func TestBrowser(t *testing.T) {
	for mode, args := range map[string][]string{"plain": nil, "TLS": {"--tls"}} {
		t.Run(mode, func(t *testing.T) {
			d := startDev(t, append([]string{binary, "dev", "--listen", "127.0.0.1:0"}, args...)...)
			d.showsAll(t, d.page())
		})
	}
}

// The page is then on the issuer's port, as a front end under development is on one of its own.
func TestBrowserOnAnotherOrigin(t *testing.T) {
	d := startDev(t, binary, "dev", "--listen", "127.0.0.1:0")
	d.showsAll(t, d.word(`as your front end is:\n\n  (\S+)`))
}

// showsAll holds a page of dev to all that it should show: an open connection and its end, an
// answer by HTTP, and each refusal with its word.
func (d *developer) showsAll(t *testing.T, page string) {
	refusals := map[string]string{ // each a 401
		"none": "no-token", "expired": "expired", "audience": "wrong-audience", "issuer": "wrong-issuer", "signature": "bad-signature",
		"key": "unknown-key", "alg-none": "alg-not-allowed",
	}
	const renewed = "short/subprotocol/renewed"                 // it is looked at when the other short one has ended
	kinds := []string{renewed, "short", "fresh", "fresh/query"} // the short one ends while the others are tried
	for kind := range refusals {
		kinds = append(kinds, kind)
	}
	all := browse(t, page, kinds...)
	t.Run("talks with a token as subprotocol", func(t *testing.T) { all["fresh"].served(t, "bearer", "1000") })
	t.Run("talks with a token in the query", func(t *testing.T) { all["fresh/query"].served(t, "(none)", "1000") })
	t.Run("renews its token", func(t *testing.T) {
		if all[renewed].served(t, "bearer", "1000"); all[renewed].Renewed != "200" {
			t.Errorf("the page shows %+v, want a renewal with 200", all[renewed])
		}
	})
	t.Run("is told when the token ends", func(t *testing.T) { all["short"].served(t, "bearer", "3000") })
	t.Run("reads an answer by HTTP", func(t *testing.T) {
		if s := all["fresh"]; s.Answered != "426" {
			t.Errorf("the page shows %q, want the agent's 426", s.Answer)
		}
	})
	for kind, reason := range refusals {
		t.Run("is told "+reason, func(t *testing.T) {
			s := all[kind]
			if s.Opened || s.Status != "401" || s.Reason != reason || !strings.HasPrefix(s.Refusal, "401 "+reason+": ") {
				t.Errorf("the page shows %+v, want 401 %s", s, reason)
			}
			if s.Answered != "401" || !strings.Contains(s.Answer, `"reason":"`+reason+`"`) {
				t.Errorf("by HTTP the page shows %q, want 401 %s", s.Answer, reason)
			}
		})
	}
}
