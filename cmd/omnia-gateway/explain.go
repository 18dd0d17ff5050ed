package main

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// question is the request that explain asks about.
type question struct {
	path, host, method, origin, token string
	headers                           []string
	plain                             bool
}

func newExplain() *cobra.Command {
	var from config.Sources
	var q question
	c := &cobra.Command{
		Use:   "explain",
		Short: "Show how the gateway judges a request, and why",
		Long: "Explain runs the code that serves over one request and prints each step: route, token,\n" +
			"signature, issuer, times, audience, each claim rule, the headers for the agent, the verdict. It\n" +
			"fetches the issuers' keys and never contacts an agent. The exit status is 0 if the request would\n" +
			"be let through, else 1.",
		Example: "  omnia-gateway explain --config gateway.yaml --path /my-agent/ws --token \"$TOKEN\"\n" +
			"  omnia-gateway explain --config gateway.yaml --path /my-agent/ws --header 'Sec-WebSocket-Protocol: bearer, eyJ…'",
		Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := q.request(c.InOrStdin())
			if err != nil {
				return usageError{err}
			}
			conf, err := load(from)
			if err != nil {
				return err
			}
			if conf.TLS.Enabled() {
				r.TLS = &tls.ConnectionState{}
			}
			keys := auth.NewKeys(auth.Options{})
			p, err := policy.New(conf, keys, nil) // the rules alone: it needs no certificate and no listener
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if err := keys.Refresh(c.Context()); err != nil {
				fmt.Fprintf(out, "note: %v\n", err)
			}
			e := p.Explain(c.Context(), r)
			print(out, e)
			if !e.Admitted {
				return errNo
			}
			return nil
		},
	}
	configFlags(c, &from)
	f := c.Flags()
	f.StringVar(&q.path, "path", "", "public `path` of the request, with its query")
	f.StringVar(&q.token, "token", "", "bearer `token`, sent as Authorization; - reads it from standard input")
	f.StringVar(&q.host, "host", "localhost", "`host` of the request")
	f.StringVar(&q.origin, "origin", "", "`origin` of the page, as a browser sends it")
	f.StringArrayVar(&q.headers, "header", nil, "further `header`, \"Name: value\"; may be repeated")
	f.StringVar(&q.method, "method", http.MethodGet, "`method` of a plain HTTP request")
	f.BoolVar(&q.plain, "http", false, "a plain HTTP request instead of a WebSocket handshake")
	c.MarkFlagRequired("path")
	return c
}

// request is the request as the gateway would have read it from a connection: it is written as a
// client writes it, and read as a server does.
func (q question) request(stdin io.Reader) (*http.Request, error) {
	token, err := tokenFrom(q.token, stdin)
	if err != nil {
		return nil, err
	}
	host, lines := q.host, []string{}
	if !q.plain && q.method == http.MethodGet {
		lines = append(lines, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==") // the sample nonce of RFC 6455 §1.3
	}
	if u, err := url.Parse(q.path); err == nil && (u.Scheme == "ws" || u.Scheme == "wss") {
		return nil, fmt.Errorf("--path: give only the path, as in --path %s --host %s", cmp.Or(u.EscapedPath(), "/"), u.Host)
	}
	if !strings.HasPrefix(q.path, "/") && !strings.Contains(q.path, "://") {
		return nil, fmt.Errorf("--path %q: want a path that begins with /, such as /my-agent/ws", q.path)
	}
	if token != "" {
		lines = append(lines, "Authorization: Bearer "+token)
	}
	if q.origin != "" {
		lines = append(lines, "Origin: "+q.origin)
	}
	for _, line := range q.headers {
		name, value, ok := strings.Cut(line, ":")
		switch {
		case !ok:
			return nil, fmt.Errorf("--header %q: want \"Name: value\"", line)
		case strings.EqualFold(name, "Host"):
			host = strings.TrimSpace(value)
		default:
			lines = append(lines, line)
		}
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n", q.method, q.path, host)
	for _, line := range lines {
		head += line + "\r\n"
	}
	if strings.Count(head, "\n") != len(lines)+2 {
		return nil, errors.New("a line break in the request")
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + "\r\n")))
	if err != nil {
		return nil, fmt.Errorf("no server would read this request: %w", err)
	}
	r.RemoteAddr = "127.0.0.1:0"
	return r, nil
}

// print writes an explanation for a person.
func print(w io.Writer, e policy.Explanation) {
	for _, s := range e.Steps {
		if s.OK {
			printPassed(w, s.Name, s.Detail)
		} else {
			printFailed(w, e.Reason, s.Detail)
		}
	}
	if !e.Admitted {
		gets := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
		if e.Code != 0 {
			gets = fmt.Sprintf("Close %d", e.Code)
		}
		fmt.Fprintf(w, "\nrefused: %s, the client gets %s\n", e.Reason, gets)
		return
	}
	fmt.Fprintf(w, "\nlet through: %s\n", e.Reason)
	if e.Upstream == "" {
		fmt.Fprintln(w, "the gateway answers by itself")
		return
	}
	fmt.Fprintf(w, "the agent is asked for %s with\n", e.Upstream)
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		for _, v := range e.Header[name] {
			if name == "Authorization" {
				v = withoutCredential(v)
			}
			fmt.Fprintf(w, "  %s: %s\n", name, v)
		}
	}
}

// withoutCredential leaves of an Authorization header its scheme, which may be another than
// Bearer where no token is needed.
func withoutCredential(value string) string {
	scheme, _, ok := strings.Cut(value, " ")
	if !ok {
		return "…"
	}
	return scheme + " …"
}

// printPassed prints a check that let the request through.
func printPassed(w io.Writer, check, detail string) { fmt.Fprintf(w, "✓ %-10s %s\n", check, detail) }

// printFailed prints the check that refused it, under the name it has when it passes.
func printFailed(w io.Writer, r outcome.Reason, detail string) {
	fmt.Fprintf(w, "✗ %-10s %s (%s)\n", r.Check(), detail, r)
}
