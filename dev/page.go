package dev

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net/http"
)

//go:embed page.html
var pageHTML []byte

// newPage serves the page. Its policy allows only the one script and the one style in the page.
// The page may ask any server, because the developer can enter an address.
func newPage() (http.Handler, error) {
	script, err := inlineHash("script")
	if err != nil {
		return nil, err
	}
	style, err := inlineHash("style")
	if err != nil {
		return nil, err
	}
	policy := "default-src 'none'; script-src " + script + "; style-src " + style + "; img-src data:; connect-src * ws: wss:; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		w.Write(pageHTML)
	}), nil
}

// inlineHash returns the source expression (CSP Level 3 §2.3.1) for the content of the page's one
// element of that name.
func inlineHash(element string) (string, error) {
	_, rest, opened := bytes.Cut(pageHTML, []byte("<"+element+">"))
	inside, _, closed := bytes.Cut(rest, []byte("</"+element+">"))
	if !opened || !closed {
		return "", fmt.Errorf("the page has no <%s>", element)
	}
	sum := sha256.Sum256(inside)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'", nil
}
