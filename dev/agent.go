package dev

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// maxMessage is the longest message that an agent takes; a longer one ends with 1009.
	maxMessage = 16 << 20
	// pingInterval is how often an agent pings. It cuts, without a Close, after as long again
	// without the Pong.
	pingInterval = 30 * time.Second
	// writeTimeout bounds one message to a peer that does not read; the longest one has to pass
	// a slow line in it.
	writeTimeout = time.Minute
	// maxEvents bounds an event stream.
	maxEvents = 10000
)

// Agent is an agent without intelligence: it behaves towards the gateway as the agents of Omnia
// do, and answers with what it received. It is an http.Handler, safe for concurrent use.
//
//   - WebSockets at /ws and under /api/agents/ need an x-user-id (401 without). The first frame
//     is {"type":"connected","user":…,"roles":…}; a text message is answered by
//     {"type":"echo","user":…,"text":…}, a binary one by itself. No subprotocol and no extension
//     is chosen. Pages of any origin may connect, such as a front end on another port.
//   - With a Verify, a WebSocket also needs a token that it accepts, of the same user (401
//     without), and each of the frames above says "token":"verified".
//   - GET /events?n=5&interval=1s is a stream of n server-sent events.
//   - POST /upload answers with the length and the SHA-256 of the body.
//   - GET /healthz is 200.
//   - Any other request is answered with what arrived of it.
type Agent struct {
	mux          *http.ServeMux
	verify       Verify // nil: x-user-id is believed
	pingInterval time.Duration
	maxMessage   int64
	leave        chan struct{} // closed when the agent goes

	mu      sync.Mutex
	leaving bool
	open    sync.WaitGroup // WebSockets and event streams; nothing is added once leaving
}

// NewAgent returns an agent that is ready to serve. It verifies the forwarded token itself with
// verify; with nil it trusts x-user-id.
func NewAgent(verify Verify) *Agent {
	a := &Agent{mux: http.NewServeMux(), verify: verify, pingInterval: pingInterval, maxMessage: maxMessage, leave: make(chan struct{})}
	a.mux.HandleFunc("/ws", a.serveSocket)
	a.mux.HandleFunc("/api/agents/", a.serveSocket)
	a.mux.HandleFunc("GET /events", a.serveEvents)
	a.mux.HandleFunc("POST /upload", serveUpload)
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	a.mux.HandleFunc("/", serveReceived)
	return a
}

// ServeHTTP answers one request.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// Serve answers on l until ctx ends, then closes every WebSocket with 1001 "server shutdown" and
// returns nil when all are gone. Any other error is the listener's.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error { return serve(ctx, l, a, a.Close) }

// Close ends every WebSocket with 1001 "server shutdown" and every event stream, refuses new
// ones with 503, and returns when all of their goroutines have ended, about a second later at
// most. Serve calls it; a caller that serves the Agent in another way must call it.
func (a *Agent) Close() {
	a.mu.Lock()
	if !a.leaving {
		a.leaving = true
		close(a.leave)
	}
	a.mu.Unlock()
	a.open.Wait()
}

// enter counts in a request for which Close waits. It answers 503 and returns false when the
// agent is leaving.
func (a *Agent) enter(w http.ResponseWriter) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaving {
		http.Error(w, "server shutdown", http.StatusServiceUnavailable)
		return false
	}
	a.open.Add(1)
	return true
}

func (a *Agent) serveSocket(w http.ResponseWriter, r *http.Request) {
	user, roles := r.Header.Get("X-User-Id"), r.Header.Get("X-User-Roles")
	if user == "" {
		http.Error(w, "no x-user-id", http.StatusUnauthorized)
		return
	}
	verified := ""
	if a.verify != nil {
		if err := a.identify(user, r.Header.Get("Authorization")); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		verified = "verified"
	}
	if !a.enter(w) {
		return
	}
	defer a.open.Done()
	t := &takeover{ResponseWriter: w}
	// Without cookies there is nothing that a foreign page could use: it has to bring the token.
	c, err := websocket.Accept(t, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // it has been answered
	}
	s := &socket{conn: c, raw: t.conn, user: user, roles: roles, token: verified}

	// net/http ends the request's own context when its connection is taken over.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer c.CloseNow()
	wg.Go(func() { s.ping(ctx, a.pingInterval) })
	wg.Go(func() { s.closeWhen(ctx, a.leave) })
	c.SetReadLimit(a.maxMessage)
	s.echo(ctx)
}

// identify verifies the token in an Authorization header, and that it is the user's.
func (a *Agent) identify(user, authorization string) error {
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return errors.New("no forwarded token")
	}
	subject, err := a.verify(token)
	if err != nil {
		return fmt.Errorf("the forwarded token: %w", err)
	}
	if subject != user {
		return errors.New("x-user-id is not the subject of the forwarded token")
	}
	return nil
}

// takeover is a ResponseWriter that remembers the connection which was taken from it.
type takeover struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack takes the connection (http.Hijacker).
func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.conn = conn
	return conn, rw, err
}

// socket is one open WebSocket of a verified user.
type socket struct {
	conn        *websocket.Conn
	raw         net.Conn // under conn
	user, roles string   // as they arrived
	token       string   // "verified", or empty
}

// echo greets, and answers every message until the connection ends.
func (s *socket) echo(ctx context.Context) {
	hello := struct {
		Type  string `json:"type"`
		User  string `json:"user"`
		Roles string `json:"roles"`
		Token string `json:"token,omitempty"`
	}{"connected", s.user, s.roles, s.token}
	if err := s.write(ctx, hello); err != nil {
		return
	}
	for {
		kind, message, err := s.conn.Read(ctx)
		if errors.Is(err, websocket.ErrMessageTooBig) {
			// Closing the connection while bytes still arrive would reset it, and the peer would
			// not read its Close.
			s.raw.SetDeadline(time.Now().Add(leaveTimeout))
			io.Copy(io.Discard, s.raw)
		}
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			err = s.send(ctx, kind, message)
		} else {
			err = s.write(ctx, struct {
				Type  string `json:"type"`
				User  string `json:"user"`
				Text  string `json:"text"`
				Token string `json:"token,omitempty"`
			}{"echo", s.user, string(message), s.token})
		}
		if err != nil {
			return
		}
	}
}

// write sends v as one text frame.
func (s *socket) write(ctx context.Context, v any) error {
	b, err := compact(v)
	if err != nil {
		return err
	}
	return s.send(ctx, websocket.MessageText, b)
}

func (s *socket) send(ctx context.Context, kind websocket.MessageType, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return s.conn.Write(ctx, kind, b)
}

// ping asks whether the peer is there, and cuts the connection when it is not.
func (s *socket) ping(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pong, cancel := context.WithTimeout(ctx, every)
		err := s.conn.Ping(pong)
		cancel()
		if err != nil {
			s.conn.CloseNow()
			return
		}
	}
}

// closeWhen closes the connection when the agent leaves.
func (s *socket) closeWhen(ctx context.Context, leave <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-leave:
		s.raw.SetDeadline(time.Now().Add(leaveTimeout)) // a peer in the middle of a frame would hold Close for ever
		s.conn.Close(websocket.StatusGoingAway, "server shutdown")
	}
}

func (a *Agent) serveEvents(w http.ResponseWriter, r *http.Request) {
	n, interval := 5, time.Second
	var err error
	if s := r.FormValue("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 0 || n > maxEvents {
			http.Error(w, fmt.Sprintf("n is not a number from 0 to %d", maxEvents), http.StatusBadRequest)
			return
		}
	}
	if s := r.FormValue("interval"); s != "" {
		if interval, err = time.ParseDuration(s); err != nil || interval < 0 {
			http.Error(w, "interval is not a duration such as 500ms", http.StatusBadRequest)
			return
		}
	}
	if !a.enter(w) {
		return
	}
	defer a.open.Done()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	defer out.SetWriteDeadline(time.Time{}) // the connection may carry another request
	out.Flush()                             // the head, so that a client knows that it is connected
	for i := 1; i <= n; i++ {
		if i > 1 {
			select {
			case <-time.After(interval):
			case <-a.leave:
				return
			case <-r.Context().Done():
				return
			}
		}
		event, err := compact(struct {
			N    int       `json:"n"`
			Of   int       `json:"of"`
			User string    `json:"user"`
			Time time.Time `json:"time"`
		}{i, n, r.Header.Get("X-User-Id"), time.Now().UTC()})
		if err != nil {
			return
		}
		out.SetWriteDeadline(time.Now().Add(writeTimeout))
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", i, event)
		if out.Flush() != nil {
			return
		}
	}
}

func serveUpload(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	if err != nil {
		http.Error(w, "the body ended early", http.StatusBadRequest)
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Bytes  int64  `json:"bytes"`
		SHA256 string `json:"sha256"`
	}{n, hex.EncodeToString(hash.Sum(nil))})
}

// serveReceived answers with the request as it arrived, so that a developer sees what the gateway
// changed.
func serveReceived(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" { // most likely a prefix that should have been stripped
		http.Error(w, "WebSockets are at /ws and under /api/agents/, and this is "+r.URL.EscapedPath(), http.StatusNotFound)
		return
	}
	header := r.Header.Clone()
	for i, v := range header["Authorization"] {
		header["Authorization"][i] = shorten(v)
	}
	writeJSON(w, http.StatusOK, struct {
		Method  string      `json:"method"`
		Host    string      `json:"host"`
		Path    string      `json:"path"`
		Query   string      `json:"query"`
		Headers http.Header `json:"headers"`
	}{r.Method, r.Host, r.URL.EscapedPath(), r.URL.RawQuery, header})
}

// shorten is an Authorization header without its credential: scheme, beginning and length tell
// what it was.
func shorten(value string) string {
	scheme, credential, ok := strings.Cut(value, " ")
	if !ok {
		scheme, credential = "", value
	}
	const shown = 8
	first := ""
	if len(credential) > 4*shown {
		first = credential[:shown]
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s… (%d bytes)", scheme, first, len(credential)))
}
