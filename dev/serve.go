// Package dev has what a developer needs beside the gateway to try it: an OpenID Connect issuer
// that gives a token to every client that asks (issuer.go), an agent that echoes (agent.go), and
// a page on which a browser opens a WebSocket through the gateway with a good or a broken token
// and shows what happens (page.html).
//
// Nothing here asks for a password. It belongs on loopback or in a compose network of its own,
// never beside data that matters.
package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"time"
)

// leaveTimeout bounds each step of the shutdown: connections that are open after it are cut.
const leaveTimeout = time.Second

// serve answers on l until ctx ends, which is no error. Then it calls leave, which ends the
// connections that would not end by themselves, gives requests in progress leaveTimeout, and cuts
// the rest.
func serve(ctx context.Context, l net.Listener, h http.Handler, leave func()) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 60 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		leave()
		server.Close()
		return err
	case <-ctx.Done():
	}
	leave()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	server.Shutdown(last)
	server.Close()
	<-failed
	return nil
}

// writeJSON answers with v, for a person to read as well.
func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	e.Encode(v)
}

// compact is v as JSON on one line, with <, > and & as they are.
func compact(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
