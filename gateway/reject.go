package gateway

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/handshake"
	"github.com/altairalabs/omnia-gateway/gateway/relay"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Bounds of a refusal by Close: how long the client may take to answer it, how much it may send
// until then, and how many such clients there may be at once. One more is refused by HTTP.
const (
	rejectWait   = 3 * time.Second
	maxRejected  = 64 << 10
	maxRejecting = 1000
)

// reject refuses a WebSocket by a Close with the word, if its route asks for that: a script in a
// browser sees nothing of an HTTP status. No agent is asked. It reports whether it has refused;
// if not, nothing was written.
func (g *Gateway) reject(x *exchange, refusal *outcome.Refusal) bool {
	code := x.pass.RejectCode(x.r, refusal.Reason)
	if code == 0 {
		return false
	}
	defer g.rejecting.Add(-1)
	if g.rejecting.Add(1) > maxRejecting {
		return false
	}
	conn, buffered, err := x.hijack()
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(x.r.Context(), func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(rejectWait))
	h := http.Header{"Sec-Websocket-Accept": {handshake.AcceptKey(x.r.Header.Get("Sec-WebSocket-Key"))}}
	if protocol := x.policy.Subprotocol(x.r); protocol != "" {
		h.Set("Sec-WebSocket-Protocol", protocol)
	}
	if err := writeSwitch(buffered.Writer, h); err == nil {
		conn.Write(relay.CloseFrame(code, string(refusal.Reason)))
	}
	g.report(x, refusal.Reason, refusal.Reason.Status(), refusal.Text(), slog.Int("code", code))
	relay.CloseWrite(conn)
	io.CopyN(io.Discard, conn, maxRejected) // until the client has answered and closed; a reset could overtake the Close
	return true
}
