package e2e

import (
	"bytes"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// clientKey is a key made by the binary, and its entry.
type clientKey struct{ key, entry string }

func newClientKey(t *testing.T, args ...string) clientKey {
	t.Helper()
	out, err := exec.Command(binary, append([]string{"token", "key"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)^key (\S+)\n[^\n]+\n(  - .*)$`).FindSubmatch(out)
	if found == nil {
		t.Fatalf("token key printed %q", out)
	}
	return clientKey{string(found[1]), string(found[2])}
}

// bearer is a header line with the key.
func (k clientKey) bearer() string { return "Authorization: Bearer " + k.key }

// keysFile is a file of client keys, replaced as a whole.
type keysFile string

func newKeysFile(t *testing.T, keys ...clientKey) keysFile {
	f := keysFile(filepath.Join(t.TempDir(), "keys.yaml"))
	f.holds(t, keys...)
	return f
}

func (f keysFile) holds(t *testing.T, keys ...clientKey) {
	t.Helper()
	text := "keys:\n"
	for _, k := range keys {
		text += k.entry
	}
	f.says(t, text)
}

func (f keysFile) says(t *testing.T, text string) {
	t.Helper()
	writeFile(t, string(f)+".new", []byte(text))
	if err := os.Rename(string(f)+".new", string(f)); err != nil {
		t.Fatal(err)
	}
}

func TestClientKeyIsACaller(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	key := newClientKey(t, "--id", "ci", "--claim", `roles=["user","ci"]`, "--claim", "email=ci@example.com")
	weak := newClientKey(t, "--id", "weak")
	s := plain(i, a.URL).
		with("authentication.clientKeys.file", string(newKeysFile(t, key, weak))).
		with("authentication.authorization.requiredClaims", []any{settings{"claim": "roles", "values": []string{"user"}}})
	s["routes"] = []any{route("/my-agent", a.URL).with("forwardOriginalToken", true)} // tokens, not keys
	g := start(t, s)

	g.connect(t, "/my-agent/ws", key.bearer(), "X-User-Id: root").echoes("hello")
	r := a.request(t)
	for name, want := range map[string]string{
		"X-User-Id": "ci", "X-User-Roles": "user,ci", "X-User-Email": "ci@example.com", "Authorization": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("the agent is told %s: %q, want %q", name, got, want)
		}
	}
	if text, err := httputil.DumpRequest(r, false); err != nil || bytes.Contains(text, []byte(key.key)) {
		t.Errorf("the agent was given the key, or %v", err)
	}
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("a user beside it")
	a.request(t)

	g.refused(t, 403, "claim-mismatch", "/my-agent/ws", weak.bearer())
	answer := g.refused(t, 401, "unknown-client-key", "/my-agent/ws", key.bearer()+"x")
	if challenge := answer.Header.Get("WWW-Authenticate"); !strings.Contains(challenge, `error="invalid_token"`) {
		t.Errorf("challenge %q", challenge)
	}
	g.refused(t, 401, "malformed", "/my-agent/ws?access_token="+key.key)
	a.untouched(t)
	g.awaitLine("msg", "refused", "reason", "malformed")
	for _, k := range []clientKey{key, weak} {
		if strings.Contains(g.log.text(), k.key) {
			t.Error("a key is in the log")
		}
	}
}

func TestClientKeysNeedNoIssuer(t *testing.T) {
	a := newAgent(t, nil)
	key := newClientKey(t, "--id", "ci")
	s := plain(&issuer{Server: newIssuer(t).Server}, a.URL).
		with("authentication", settings{"clientKeys": settings{"file": string(newKeysFile(t, key))}})
	g := start(t, s)
	g.connect(t, "/my-agent/ws", key.bearer()).echoes("hello")
	g.refused(t, 401, "no-token", "/my-agent/ws")
	g.refused(t, 401, "wrong-issuer", "/my-agent/ws", newIssuer(t).bearer(t))
}

func TestExpiredClientKeyClosesWith3000(t *testing.T) {
	a := newAgent(t, nil)
	key := newClientKey(t, "--id", "ci", "--expires", time.Now().Add(3*time.Second).UTC().Format(time.RFC3339))
	g := start(t, plain(newIssuer(t), a.URL).with("authentication.clientKeys.file", string(newKeysFile(t, key))))
	s := g.connect(t, "/my-agent/ws", key.bearer())
	if word := s.closed(3000); word != "expired" {
		t.Errorf("closed with %q", word)
	}
	g.awaitLine("msg", "ended", "reason", "expired", "code", 3000, "subject", "ci")
	g.refused(t, 401, "expired", "/my-agent/ws", key.bearer())
}

func TestClientKeysAreReadAgainWhenTheirFileChanges(t *testing.T) {
	a := newAgent(t, nil)
	one, two := newClientKey(t, "--id", "one"), newClientKey(t, "--id", "two")
	file := newKeysFile(t, one)
	g := start(t, plain(newIssuer(t), a.URL).with("authentication.clientKeys.file", string(file)))
	g.connect(t, "/my-agent/ws", one.bearer()).echoes("one")
	g.refused(t, 401, "unknown-client-key", "/my-agent/ws", two.bearer())

	file.says(t, "keys: [{id: "+one.key)
	g.awaitLine("msg", "client keys cannot be read; the last good ones stay")
	g.connect(t, "/my-agent/ws", one.bearer()).echoes("the last good ones")
	file.holds(t, two)
	g.awaitLine("msg", "client keys read", "keys", 1)
	g.connect(t, "/my-agent/ws", two.bearer()).echoes("two")
	g.refused(t, 401, "unknown-client-key", "/my-agent/ws", one.bearer())
	if text := g.log.text(); strings.Contains(text, one.key) || strings.Contains(text, two.key) {
		t.Error("a key is in the log")
	}
}

func TestClientKeyThatIsTakenAwayClosesWith3000(t *testing.T) {
	a := newAgent(t, nil)
	gone, stays := newClientKey(t, "--id", "gone", "--claim", "sub=bot"), newClientKey(t, "--id", "stays", "--claim", "sub=bot")
	file := newKeysFile(t, gone, stays)
	g := start(t, plain(newIssuer(t), a.URL).with("authentication.clientKeys.file", string(file)))
	leaked, other := g.connect(t, "/my-agent/ws", gone.bearer()), g.connect(t, "/my-agent/ws", stays.bearer())

	file.says(t, "keys: [") // a mistake takes no key away
	g.awaitLine("msg", "client keys cannot be read; the last good ones stay")
	leaked.echoes("still here")
	if n := g.metric(`omnia_gateway_client_keys_reads_total{result="error"}`); n < 1 {
		t.Errorf("%v failures counted", n)
	}

	file.holds(t, stays)
	if word := leaked.closed(3000); word != "unknown-client-key" {
		t.Errorf("closed with %q", word)
	}
	g.awaitLine("msg", "sessions end with their client keys", "ending", 1)
	other.echoes("not its key")
	if n := g.metric("omnia_gateway_client_keys"); n != 1 {
		t.Errorf("%v keys", n)
	}
}
