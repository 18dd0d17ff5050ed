package gateway

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

func TestTokenFiles(t *testing.T) {
	const token = "0123456789abcdef"
	for _, tt := range []struct{ text, names, problem string }{
		{"alice " + token, "alice", ""},
		{token, "operator", ""},
		{"# who may\n\nalice " + token + "\n\tbob\t" + token + "x\r\n", "alice bob", ""},
		{"", "", ""},
		{"# only this\n", "", ""},
		{"alice short", "", "line 1: a token of less than 16 characters"},
		{"\nalice " + token + " more", "", "line 2: more than a name and a token"},
		{strings.Repeat("x", 1<<20), "", "bufio.Scanner: token too long"},
	} {
		list, err := readOperators([]byte(tt.text))
		var names []string
		for _, o := range list {
			names = append(names, o.name)
		}
		if err != nil && err.Error() != tt.problem || err == nil && tt.problem != "" || strings.Join(names, " ") != tt.names {
			t.Errorf("%.40q: %v, %v", tt.text, names, err)
		}
	}
}

// post sends a request to the admin listener, with a token unless that is "".
func (r *running) post(method, path, body, token string) (code int, answer string) {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.AdminAddr().String()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestChangesNeedAnOperatorsToken(t *testing.T) {
	i := wstest.NewIssuer(t)
	c := i.Config("agent.invalid")
	c.Admin.TokenFile = filepath.Join(t.TempDir(), "tokens")
	writeFile(t, c.Admin.TokenFile, []byte("alice alice-has-this-token\nbob-only-has-a-token\n"))
	r := run(t, c)
	for token, want := range map[string]int{
		"": 401, "wrong": 401, "alice": 401, "alice-has-this-token": 200, "bob-only-has-a-token": 200, "alice-has-this-token ": 200,
	} {
		if code, body := r.post("POST", "/reload", "", token); code != want || strings.Contains(body, "alice-has") {
			t.Errorf("%q: %d %s", token, code, body)
		}
	}
	lines := r.log.lines(t, "operator")
	names := map[any]int{}
	for _, l := range lines {
		names[l["operator"]]++
	}
	if names["alice"] != 2 || names["operator"] != 1 || names[""] != 3 || strings.Contains(r.log.String(), "has-this-token") {
		t.Errorf("the log has %v", names)
	}
	if code, _ := get(t, r.AdminAddr(), "/readyz"); code != http.StatusOK {
		t.Errorf("reading needs a token: %d", code)
	}

	// The file is watched; one that is bad changes nothing.
	writeFile(t, c.Admin.TokenFile, []byte("short\n"))
	wstest.Eventually(t, "the bad file reported", func() bool {
		return len(r.log.lines(t, "operators' tokens not reloaded; the old ones stay")) == 1
	})
	for range 2 { // as long as it is bad
		code, body := r.post("POST", "/reload", "", "alice-has-this-token")
		if code != http.StatusUnprocessableEntity || !strings.Contains(body, "admin.tokenFile: the old tokens stay: line 1: ") {
			t.Errorf("with the old token: %d %s", code, body)
		}
	}
	if _, body := get(t, r.AdminAddr(), "/readyz"); !strings.Contains(body, "admin.tokenFile: the old tokens stay: line 1: ") {
		t.Errorf("/readyz: %s", body)
	}
	if _, body := get(t, r.AdminAddr(), "/metrics"); !strings.Contains(body, "omnia_gateway_config_in_use 0") {
		t.Error("the metric does not know of the bad file")
	}
	writeFile(t, c.Admin.TokenFile, []byte("carol carol-has-another-one\n"))
	wstest.Eventually(t, "the new token", func() bool {
		code, _ := r.post("POST", "/reload", "", "carol-has-another-one")
		return code == http.StatusOK
	})
	if code, _ := r.post("POST", "/reload", "", "alice-has-this-token"); code != http.StatusUnauthorized {
		t.Errorf("the old token still works: %d", code)
	}
	if _, body := get(t, r.AdminAddr(), "/readyz"); strings.Contains(body, "problems") {
		t.Errorf("/readyz after the good file: %s", body)
	}
}

func TestEmptiedTokenFileWithdrawsEveryRightAndAVanishedOneNone(t *testing.T) {
	c := wstest.NewIssuer(t).Config("agent.invalid")
	c.Admin.TokenFile = filepath.Join(t.TempDir(), "tokens")
	const token = "0123456789abcdef"
	writeFile(t, c.Admin.TokenFile, []byte(token))
	r := run(t, c)
	answers := func(want int) {
		t.Helper()
		wstest.Eventually(t, "the status", func() bool {
			code, _ := r.post("DELETE", "/sessions?subject=none", "", token)
			return code == want
		})
	}
	if err := os.Remove(c.Admin.TokenFile); err != nil {
		t.Fatal(err)
	}
	code, body := r.post("POST", "/reload", "", token)
	if code != http.StatusUnprocessableEntity || !strings.Contains(body, "old tokens stay") {
		t.Errorf("without the file: %d %s", code, body)
	}
	answers(http.StatusOK)
	writeFile(t, c.Admin.TokenFile, []byte("# on holiday\n"))
	answers(http.StatusUnauthorized)
	if len(r.log.lines(t, "no operator: admin.tokenFile has no token, and every change is refused")) != 1 {
		t.Error("the log does not say so")
	}
	writeFile(t, c.Admin.TokenFile, []byte(token))
	answers(http.StatusOK)
	writeFile(t, c.Admin.TokenFile, nil)
	answers(http.StatusUnauthorized)
	run(t, c) // it starts so, too: an emptied file must not keep a restart from clients
}

func TestWithoutTokensOnlyLoopbackMayChange(t *testing.T) {
	c := wstest.NewIssuer(t).Config("agent.invalid")
	c.Admin.Listen = "0.0.0.0:0"
	r := run(t, c)
	if code, _ := r.post("POST", "/reload", "", ""); code != http.StatusForbidden {
		t.Errorf("on every address: %d", code)
	}
	c.Admin.Listen = "127.0.0.1:0"
	r = run(t, c)
	if code, _ := r.post("POST", "/reload", "", ""); code != http.StatusOK {
		t.Errorf("on loopback: %d", code)
	}
}

func TestGatewayDoesNotStartWithoutItsOperators(t *testing.T) {
	c := wstest.NewIssuer(t).Config("agent.invalid")
	c.Admin.TokenFile = filepath.Join(t.TempDir(), "tokens")
	if _, err := New(c, Options{}); err == nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
}
