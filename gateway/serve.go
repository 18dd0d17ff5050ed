package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/relay"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
)

// Listen binds the listeners, and begins to keep the revocations. Nothing is served before Run.
func (g *Gateway) Listen() (err error) {
	defer func() {
		if err != nil {
			g.unlisten()
		}
	}()
	bind := func(name, addr string) (*steady, error) {
		l, err := listenConfig().Listen(context.Background(), "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("%s listener: %w", name, err)
		}
		return newSteady(l, g.log.With("listener", name)), nil
	}
	public, err := bind("public", g.config.Listen)
	if err != nil {
		return err
	}
	timeout := g.config.Limits.HandshakeTimeout
	g.public = &listener{public, g.certs.server(), timeout, g.stall, balancers{g.config.ProxyProtocol.From, timeout, g.log}}
	admin, err := bind("admin", g.config.Admin.Listen)
	if err != nil {
		return err
	}
	g.admin = admin
	if addr := g.config.Admin.MetricsListen; addr != "" {
		measures, err := bind("metrics", addr)
		if err != nil {
			return err
		}
		g.measures = measures
	}
	if file := g.config.Revocations.File; file != "" {
		if err := g.revoked.Keep(file); err != nil {
			return fmt.Errorf("revocations.file: %w", err)
		}
	}
	return nil
}

// unlisten closes the listeners that are bound.
func (g *Gateway) unlisten() {
	for _, l := range []net.Listener{g.public, g.admin, g.measures} {
		if l != nil {
			l.Close()
		}
	}
}

// Addr is where the public listener is bound, after Listen.
func (g *Gateway) Addr() net.Addr { return g.public.Addr() }

// AdminAddr is where the admin listener is bound, after Listen.
func (g *Gateway) AdminAddr() net.Addr { return g.admin.Addr() }

// Run serves what Listen has bound. When a departure arrives on leave it drains, and returns nil
// when all sessions are gone or the window is over. When ctx ends, everything is cut at once.
// When Run returns every session is over; handlers of plain HTTP are cancelled by then, and may
// still be on their way out.
func (g *Gateway) Run(ctx context.Context, leave <-chan Departure) error {
	var err error
	if g.relays.Lanes, err = relay.NewLanes(); err != nil {
		return fmt.Errorf("quiet sessions: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer g.revoked.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(g.relays.Lanes.Run)
	defer g.relays.Lanes.Close()
	wg.Go(func() { g.keys.Run(ctx) })
	wg.Go(func() {
		quiet := time.NewTicker(quietFor)
		defer quiet.Stop()
		giveBack(ctx, quiet.C, g.stir, freeAll)
	})
	wg.Go(func() {
		look := time.NewTicker(quietFor)
		defer look.Stop()
		collectLater(ctx, look.C, liveBytes, debug.SetGCPercent)
	})
	wg.Go(func() {
		look := time.NewTicker(clockLook)
		defer look.Stop()
		start := time.Now()
		wall := func() time.Time { return time.Now().Round(0) } // without the monotonic clock
		watchClock(ctx, look.C, wall, func() time.Duration { return time.Since(start) }, g.sessions.Recheck)
	})
	wg.Go(func() { watch(ctx, g.log, glance, g.watched, func() { g.reloadChanged(ctx) }) })
	g.joinReplicas(ctx, &wg)
	public, admin := g.publicServer(ctx), g.operatorServer(ctx, g.adminHandler())
	failed := make(chan error, 1)
	wg.Go(func() { failed <- public.Serve(g.public) })
	operators := func(name string, s *http.Server, l net.Listener) {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) { // sessions do not depend on it
			g.log.Error("a listener of operators has ended", "listener", name, "err", err.Error())
		}
	}
	wg.Go(func() { operators("admin", admin, g.admin) })
	g.warnOfCertificates()
	g.warnOfNoOperator()
	log := g.log
	if g.measures != nil {
		server := g.operatorServer(ctx, guarded(g.config.Admin.Hosts, g.metricsHandler()))
		wg.Go(func() { operators("metrics", server, g.measures) })
		defer server.Close()
		log = log.With("metrics", g.measures.Addr().String())
	}
	log.Info("listening", "public", g.Addr().String(), "tls", g.certs != nil, "admin", g.AdminAddr().String())

	defer g.fleet.leave()
	defer g.sessions.Cut()
	defer cancel() // ends the handshakes that are under way
	defer admin.Close()
	defer public.Close()
	select {
	case d := <-leave:
		g.leave(ctx, public, d)
		return nil
	case <-ctx.Done():
		return nil
	case err := <-failed:
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		return err
	}
}

// stir is what giveBack asks.
func (g *Gateway) stir() (times, live uint64) {
	return g.sessions.Counts()
}

// publicServer serves clients. A WebSocket leaves it when it is taken over, and with it all of
// these timeouts. The requests' contexts end with ctx: net/http does not notice a client that
// goes away once it has sent a byte too many.
func (g *Gateway) publicServer(ctx context.Context) *http.Server {
	return &http.Server{
		Handler:                      g,
		ReadHeaderTimeout:            g.config.Limits.HandshakeTimeout,            // bounds the TLS handshake too
		IdleTimeout:                  90 * time.Second,                            // longer than a balancer in front keeps one
		MaxHeaderBytes:               max(g.config.Limits.MaxHeaderBytes-4096, 1), // net/http allows 4 KiB more than it is told
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnContext:                  withClient,
		DisableGeneralOptionsHandler: true,
		Protocols:                    http1(),
		ErrorLog:                     quiet(g.log),
	}
}

// operatorBody is how long an operator, a probe or Prometheus may take to send a request's body.
const operatorBody = 30 * time.Second

// operatorServer serves operators, probes and Prometheus.
func (g *Gateway) operatorServer(ctx context.Context, h http.Handler) *http.Server {
	timely := func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 { // else net/http would wait for it for ever, even if no handler wants it
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(operatorBody))
		}
		h.ServeHTTP(w, r)
	}
	return &http.Server{
		Handler:           http.HandlerFunc(timely),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       60 * time.Second,
		Protocols:         http1(),
		ErrorLog:          quiet(g.log),
	}
}

// http1 are the protocols that are spoken.
func http1() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	return p
}

// CheckCertificates returns which certificates cannot be trusted at the moment, of the listener and
// of upstreamTLS, and what an operator should know of the listener's.
func (g *Gateway) CheckCertificates() (notes []string, err error) {
	now := time.Now()
	err = g.fleet.fault(g.Config(), now)
	if g.certs == nil {
		return nil, err
	}
	return g.certs.remarks(g.config.Routes), errors.Join(g.certs.fault(now), err)
}

// warnOfCertificates logs what CheckCertificates finds: a gateway that refused to start would help
// no client.
func (g *Gateway) warnOfCertificates() {
	notes, err := g.CheckCertificates()
	if err != nil {
		notes = append(notes, strings.Split(err.Error(), "\n")...)
	}
	for _, note := range notes {
		g.log.Warn("certificate", "note", note)
	}
}

// Refresh fetches the keys of every issuer once; the error names each that failed.
func (g *Gateway) Refresh(ctx context.Context) error { return g.keys.Refresh(ctx) }

// CheckFetch returns what is wrong with the files that issuers are asked with, as a
// config.Problems. A gateway starts without them, as they are read for each fetch.
func (g *Gateway) CheckFetch() error { return checkFetch(g.Config()) }

func checkFetch(c *config.Config) error {
	if !c.Authentication.Enabled {
		return nil
	}
	var found config.Problems
	add := func(p config.Problem) {
		p.Place = c.Place(p.Key)
		found = append(found, p)
	}
	for i, j := range c.Authentication.Issuers() {
		at := "authentication.jwt.fetch."
		if i > 0 {
			at = fmt.Sprintf("authentication.jwtRules[%d].fetch.", i-1)
		}
		if authorities := (&file{key: at + "caFile", name: j.Fetch.CAFile}); authorities.name != "" {
			if err := authorities.read(); err != nil {
				add(authorities.unreadable(err))
			} else if _, err := readAuthorities(authorities); err != nil {
				problem, _ := errors.AsType[config.Problem](err)
				problem.Hint = cmp.Or(problem.Hint, "name the file of the authorities' certificates, in PEM form")
				add(problem)
			}
		}
		if name := j.Fetch.BearerTokenFile; name != "" {
			if _, err := auth.BearerToken(name); err != nil {
				add(config.Problem{Key: at + "bearerTokenFile", Text: err.Error(),
					Hint: "name a file with one token that the gateway may read"})
			}
		}
	}
	return orNil(found)
}

// CheckIssuers fetches the keys of every issuer once and returns how many there are. The error
// names each whose keys cannot be fetched or used, and each whose discovery document names
// another issuer.
func (g *Gateway) CheckIssuers(ctx context.Context) (asked int, err error) {
	failed := []error{g.Refresh(ctx)}
	issuers := g.policy.Load().Issuers()
	for _, i := range issuers {
		switch {
		case i.LastError != "": // Refresh has named it
		case i.Keys == 0:
			failed = append(failed, fmt.Errorf("issuer %s: %s has no usable key (%d skipped)", i.Issuer, i.KeysURL, i.Skipped))
		case i.Warning != "":
			failed = append(failed, fmt.Errorf("issuer %s: %s", i.Issuer, i.Warning))
		}
	}
	return len(issuers), errors.Join(failed...)
}

// CheckUpstreams dials the agent of every route whose address is fixed. It returns how many that
// are, and the routes that were not asked because their agent's address has a template. The
// error names each that does not answer.
func (g *Gateway) CheckUpstreams(ctx context.Context) (asked int, notAsked []string, err error) {
	var failed []error
	p := g.policy.Load()
	upstreams := p.Upstreams()
	for _, u := range upstreams {
		agents, err := g.fleet.by(wayTo(p.Config(), u.TLS, false))
		if err == nil {
			err = agents.dialer.check(ctx, u.Scheme, u.Addr)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("route %s: upstream %s://%s: %w", u.Route, u.Scheme, u.Addr, err))
		}
	}
	return len(upstreams), p.Templates(), errors.Join(failed...)
}
