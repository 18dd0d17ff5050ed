package gateway

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/relay"
)

// preparedLasts is for how long a prepared connection is held: names get other addresses, and
// many servers close a connection on which no request comes within a minute.
const preparedLasts = 30 * time.Second

// prepared are connections to agents that were opened, over https with their TLS handshake, before
// a WebSocket handshake needs one. They are opened after a handshake that an agent has answered,
// so agents that are not in use hold none, and one that hangs up unused connections is not dialled
// in a circle.
type prepared struct {
	// Immutable.
	dialer  *dialer
	most    int             // for each address
	lasts   time.Duration   // preparedLasts
	openers *sync.WaitGroup // of all ways
	ctx     context.Context // of the openers; close ends it
	cancel  context.CancelFunc

	mu     sync.Mutex
	closed bool
	held   map[target][]*opened // newest last
	due    map[target]int       // how many the openers will still open
}

// target is where an agent is: the Scheme and Addr of a policy.Pass.
type target struct{ scheme, addr string }

// opened is a connection that is held. What takes it out of held owns it.
type opened struct {
	net.Conn
	end *time.Timer
}

func newPrepared(d *dialer, most int, lasts time.Duration, openers *sync.WaitGroup) *prepared {
	p := &prepared{dialer: d, most: most, lasts: lasts, openers: openers, held: map[target][]*opened{}, due: map[target]int{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// handshake asks the agent of pass for a WebSocket, over a prepared connection if there is one.
// The agent may close that at the same moment; so if no byte of an answer comes, it is asked once
// more, over a new connection and within the same time: a GET may be repeated (RFC 9110 §9.2.2).
// The error is an *outcome.Refusal.
func (a *agents) handshake(ctx context.Context, pass *policy.Pass) (*answer, error) {
	to := target{pass.Scheme, pass.Addr}
	var got *answer
	var err error
	conn := a.prepared.take(to)
	if conn != nil {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, a.dialer.timeout)
		defer cancel()
		got, err = a.dialer.ask(ctx, conn, pass)
	}
	if _, silent := errors.AsType[*unanswered](err); conn == nil || silent && ctx.Err() == nil {
		got, err = a.dialer.handshake(ctx, pass)
	}
	if err == nil {
		a.prepared.fill(to)
	}
	return got, err
}

// take returns a connection that its agent has not closed, or nil. It is the newest one, which has
// the best chance to live.
func (p *prepared) take(to target) net.Conn {
	for {
		p.mu.Lock()
		all := p.held[to]
		if len(all) == 0 {
			p.mu.Unlock()
			return nil
		}
		last := all[len(all)-1]
		p.held[to] = slices.Delete(all, len(all)-1, len(all))
		p.mu.Unlock()
		last.end.Stop()
		if relay.Fresh(last.Conn) {
			return last.Conn
		}
		last.Close()
	}
}

// fill has as many connections opened as are missing, and does not wait. One opener opens them one
// after the other, so that an agent does not meet all of them at once. Once they are there, each
// handshake that takes one has an opener of its own, so that those of a far agent keep up.
func (p *prepared) fill(to target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	missing := p.most - len(p.held[to]) - p.due[to]
	if p.closed || missing <= 0 {
		return
	}
	p.due[to] += missing
	p.openers.Go(func() { p.open(to, missing) })
}

// open opens n connections. It stops at a failure: the next handshake has it tried again.
func (p *prepared) open(to target, n int) {
	for ; n > 0; n-- {
		c, err := p.dial(to)
		if err != nil {
			break
		}
		p.hold(to, c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due[to] -= n
}

func (p *prepared) dial(to target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, p.dialer.timeout)
	defer cancel()
	return p.dialer.dial(ctx, to.scheme, to.addr)
}

// hold holds a connection that was due. After close it is closed instead.
func (p *prepared) hold(to target, c net.Conn) {
	p.mu.Lock()
	closed := p.closed
	p.due[to]--
	if !closed {
		o := &opened{Conn: c}
		o.end = time.AfterFunc(p.lasts, func() { p.expire(to, o) })
		p.held[to] = append(p.held[to], o)
	}
	p.mu.Unlock()
	if closed {
		c.Close()
	}
}

// expire closes a connection, unless it was taken.
func (p *prepared) expire(to target, o *opened) {
	p.mu.Lock()
	n := slices.Index(p.held[to], o)
	if n >= 0 {
		p.held[to] = slices.Delete(p.held[to], n, n+1)
	}
	p.mu.Unlock()
	if n >= 0 {
		o.Close()
	}
}

// close closes all connections, and none is opened any more. It does not wait for openers.
func (p *prepared) close() {
	p.mu.Lock()
	held := p.held
	p.closed, p.held = true, nil
	p.mu.Unlock()
	p.cancel()
	for _, all := range held {
		for _, o := range all {
			o.end.Stop()
			o.Close()
		}
	}
}
