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
	Name, Protocol, Code, Meaning, Status, Reason, Refusal string
	Opened                                                 bool
	Frames, Problems                                       []string
}

// browse tries kinds of tokens on the page of a running dev.
func browse(t *testing.T, d *developer, kinds ...string) map[string]shown {
	t.Helper()
	needs(t, "node", "playwright-core", "chromium")
	cmd := client(t, "bash", append([]string{"-c", `exec node clients/browser.js "$(command -v chromium)" "$@"`, "browse",
		d.word(`In a browser:\n\n  (\S+)`)}, kinds...)...)
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
	refusals := map[string]string{ // each a 401
		"none": "no-token", "expired": "expired", "audience": "wrong-audience", "issuer": "wrong-issuer", "signature": "bad-signature",
		"key": "unknown-key", "alg-none": "alg-not-allowed",
	}
	for mode, args := range map[string][]string{"plain": nil, "TLS": {"--tls"}} {
		t.Run(mode, func(t *testing.T) {
			d := startDev(t, append([]string{binary, "dev", "--listen", "127.0.0.1:0"}, args...)...)
			kinds := []string{"short", "fresh", "fresh/query"} // the short one ends while the others are tried
			for kind := range refusals {
				kinds = append(kinds, kind)
			}
			all := browse(t, d, kinds...)
			t.Run("talks with a token as subprotocol", func(t *testing.T) { all["fresh"].served(t, "bearer", "1000") })
			t.Run("talks with a token in the query", func(t *testing.T) { all["fresh/query"].served(t, "(none)", "1000") })
			t.Run("is told when the token ends", func(t *testing.T) { all["short"].served(t, "bearer", "3000") })
			for kind, reason := range refusals {
				t.Run("is told "+reason, func(t *testing.T) {
					if s := all[kind]; s.Opened || s.Status != "401" || s.Reason != reason ||
						!strings.HasPrefix(s.Refusal, "401 "+reason+": ") {
						t.Errorf("the page shows %+v, want 401 %s", s, reason)
					}
				})
			}
		})
	}
}
