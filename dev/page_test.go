package dev

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/outcome"
)

func TestPageHasAStrictPolicy(t *testing.T) {
	issuer := startIssuer(t, "ES256")
	res, err := http.Get(issuer.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/html; charset=utf-8" || len(body) == 0 {
		t.Fatalf("%s, %s, %d bytes", res.Status, res.Header.Get("Content-Type"), len(body))
	}
	policy := res.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "base-uri 'none'",
		"form-action 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("the policy is too wide: %s", policy)
	}
}

// What is not in the one script and the one style is stopped by the policy, and would fail in a
// browser only.
func TestPageObeysItsPolicy(t *testing.T) {
	for _, bad := range []string{`<script[^>]`, `<style[^>]`, `\sstyle=`, `\son[a-z]+="`, `javascript:`, `<iframe`, `<base`, `<img`} {
		if found := regexp.MustCompile(bad).FindAll(pageHTML, -1); len(found) > 0 {
			t.Errorf("%q", found)
		}
	}
	for _, element := range []string{"<script>", "<style>"} {
		if n := strings.Count(string(pageHTML), element); n != 1 {
			t.Errorf("%d of %s, want 1", n, element)
		}
	}
}

// The page is served under a prefix which it does not know.
func TestPageHasOnlyRelativeAddresses(t *testing.T) {
	for _, bad := range []string{`[a-z]+://`, `(src|href|action)=["']?/`, `fetch\(["'` + "`" + `]/`, `new URL\(["'` + "`" + `]/`, `url\(`,
		`@import`} {
		if found := regexp.MustCompile(bad).FindAll(pageHTML, -1); len(found) > 0 {
			t.Errorf("%q", found)
		}
	}
}

func TestPageDocumentsItsIDs(t *testing.T) {
	_, rest, _ := strings.Cut(string(pageHTML), "For tests, these ids stay:")
	comment, _, _ := strings.Cut(rest, "-->")
	ids := regexp.MustCompile(`#([a-z-]+)`).FindAllStringSubmatch(comment, -1)
	if len(ids) < 15 {
		t.Fatalf("only %d ids are documented", len(ids))
	}
	for _, id := range ids {
		if n := strings.Count(string(pageHTML), `id="`+id[1]+`"`); n != 1 {
			t.Errorf("%d elements with the id %s, want 1", n, id[1])
		}
	}
	// The page has words for every refusal that it can be shown, and knows the same faults as the
	// issuer.
	for _, word := range outcome.All() {
		known := strings.Contains(string(pageHTML), "'"+string(word)+"':") || strings.Contains(string(pageHTML), "\n  "+string(word)+":")
		if word.Refuses() && !known && word != outcome.ClientLost && word != outcome.UpstreamRefused {
			t.Errorf("the page has no words for %s", word)
		}
	}
	for _, fault := range faults {
		if !strings.Contains(string(pageHTML), `broken: '`+string(fault)+`'`) {
			t.Errorf("the page does not offer %s", fault)
		}
	}
}
