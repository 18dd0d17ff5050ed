package session

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// model says in a simple way what a registry must do: one list of sessions, looked at after each
// step. Time is virtual. Where the registry may choose, as in which order sessions end that a
// reload no longer admits, the model allows each choice, follows the one that was made, and holds
// the registry to its bounds.
type model struct {
	registry *Registry
	random   *rand.Rand
	rules    *rules
	limits   config.Limits
	sessions []*modelled // those that were added and not removed
	opened   uint64
	drain    *drained // nil: none lasts
}

// drained is a drain that lasts, as the model sees it.
type drained struct {
	Drain
	begun   time.Time
	refuses time.Time // from when on no WebSocket is taken
}

// refusing reports whether WebSockets are refused.
func (m *model) refusing() bool { return m.drain != nil && !m.drain.refuses.After(time.Now()) }

// last is when each session that is there has been told.
func (d *drained) last() time.Time { return d.refuses.Add(d.Lead + d.Spread) }

// modelled is what the model knows of a session.
type modelled struct {
	*Session
	conn     *conn
	begun    bool
	identity *auth.Identity // with the newest claims
	deadline time.Time
	ended    outcome.Reason // the first reason, or ""
	doomed   time.Time      // until when it is judged once more; zero: it is not
}

// rules are what a reload and a revocation change.
type rules struct {
	mu      sync.Mutex
	role    string // that is asked for; "": none
	revoked map[string]bool
}

const (
	revoked = outcome.Reason("revoked")
	longest = 10 * time.Second // over which endings are spread
)

// judge is the policy of the model: an identity has its role as its issuer's claims would say.
func (r *rules) judge(c policy.Case) *outcome.Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch id := c.Identity; {
	case r.revoked[id.Subject]:
		return outcome.Refuse(revoked, "")
	case r.role != "" && roleOf(id) != r.role:
		return outcome.Refuse(outcome.ClaimMismatch, "")
	}
	return nil
}

func (r *rules) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// roleOf returns the role of an identity of the model, which its claims would have.
func roleOf(id *auth.Identity) string {
	if id.ForwardToken {
		return "admin"
	}
	return "user"
}

// identity returns that of a token with a random role and expiry: no expiry one time in five.
func (m *model) identity(subject string) *auth.Identity {
	id := &auth.Identity{Issuer: "https://issuer", Subject: subject, ForwardToken: m.random.IntN(2) == 0}
	if m.random.IntN(5) > 0 {
		id.Deadline = time.Now().Add(time.Duration(1+m.random.IntN(60)) * time.Second)
	}
	return id
}

func (m *model) subject() string { return fmt.Sprint(m.random.IntN(4)) }

// step is something that happens to the registry. The model throws its dice before.
type step struct {
	name  string
	do    func()       // to the registry, perhaps beside other steps
	note  func()       // which sessions there are now; nil: the same
	check func() error // what the registry must have done if nothing else happened meanwhile; nil: anything
	// fires: it may set a timer that is due at once. The race detector of Go 1.26 crashes when two
	// goroutines of a bubble do that at the same time.
	fires bool
}

// join adds a session.
func (m *model) join() step {
	id := m.identity(m.subject())
	s := &Session{
		ID: NewID(), Kind: Kind(m.random.IntN(int(kinds))), Case: policy.Case{Identity: id}, Expires: id.Deadline, Start: time.Now(),
		Client:      netip.AddrFrom4([4]byte{10, 0, 0, byte(m.random.IntN(3))}),
		MaxDuration: time.Duration(m.random.IntN(4)*20) * time.Second,
	}
	n := &modelled{Session: s, conn: &conn{over: func() {}}, identity: id, deadline: id.Deadline, begun: m.random.IntN(4) > 0}
	var want *outcome.Refusal
	taken := 0
	for _, other := range m.sessions {
		if other.Kind == s.Kind && other.Subject() == s.Subject() {
			taken++
		}
	}
	switch refusal := m.rules.judge(s.Case); {
	case refusal != nil:
		want = refusal
	case m.refusing() && s.Kind == WebSocket:
		want = outcome.Refuse(outcome.Drain, "")
	case taken >= limitsOf(s.Kind, m.limits).perUser:
		want = outcome.Refuse(outcome.TooManyUserConnections, "")
	}
	var got *outcome.Refusal
	return step{"join " + s.ID + " of " + s.Subject(), func() {
		if got = m.registry.Add(s, m.limits, m.rules.judge); got == nil && n.begun {
			n.begin()
		}
	}, func() {
		if got == nil {
			m.sessions = append(m.sessions, n)
			m.opened++
		}
	}, func() error { return same("Add", reasonOf(got), reasonOf(want)) }, false}
}

// begin gives a session its connection.
func (m *model) begin(n *modelled) step {
	if n.begun {
		return m.recheck()
	}
	var got outcome.Reason
	return step{"begin " + n.ID, func() {
		if e := n.begin(); e != nil {
			got = e.Reason
		}
	}, func() { n.begun = true }, func() error { return same("Begin", got, n.ended) }, false}
}

// leave removes a session.
func (m *model) leave(n *modelled) step {
	return step{"leave " + n.ID, func() { m.registry.Remove(n.Session) }, func() {
		m.sessions = slices.DeleteFunc(m.sessions, func(other *modelled) bool { return other == n })
	}, nil, false}
}

// reload changes the rules and judges all.
func (m *model) reload() step {
	role := []string{"", "", "user", "admin"}[m.random.IntN(4)]
	spread := longest * time.Duration(m.random.IntN(3)) / 2
	var got map[outcome.Reason]int
	return step{"reload for " + role, func() {
		m.rules.change(func() { m.rules.role = role })
		got = m.registry.Judge(m.rules.judge, spread)
	}, nil, func() error {
		want := map[outcome.Reason]int{}
		for _, n := range m.sessions {
			if refusal := m.rules.judge(policy.Case{Identity: n.identity}); refusal != nil {
				want[refusal.Reason]++
				if by := time.Now().Add(spread); by.After(n.doomed) { // what is to happen already is not moved
					n.doomed = by
				}
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("Judge found %v, want %v", got, want)
		}
		return nil
	}, true}
}

// renew renews the sessions of a user, or one.
func (m *model) renew() step {
	id := m.identity(m.subject())
	one := ""
	if len(m.sessions) > 0 && m.random.IntN(3) == 0 {
		one = m.sessions[m.random.IntN(len(m.sessions))].ID // that may be another user's
	}
	var got []Renewal
	return step{"renew " + id.Subject, func() {
		chosen := func(s *Session) bool { return one == "" || s.ID == one }
		got = m.registry.Renew(policy.Case{Identity: id}, until(id.Deadline), chosen, m.rules.judge)
	}, nil, func() error {
		found := map[*Session]Renewal{}
		for _, r := range got {
			found[r.Session] = r
		}
		for _, n := range m.sessions {
			r, ok := found[n.Session]
			delete(found, n.Session)
			if wanted := n.ended == "" && n.Subject() == id.Subject && (one == "" || n.ID == one); ok != wanted {
				return fmt.Errorf("Renew found session %s: %v", n.ID, ok)
			} else if !ok {
				continue
			}
			refusal := m.rules.judge(policy.Case{Identity: id})
			if refusal == nil && !(!id.Deadline.IsZero() && (n.deadline.IsZero() || id.Deadline.Before(n.deadline))) {
				n.identity, n.deadline = id, id.Deadline
			}
			if err := same("Renew", reasonOf(r.Refusal), reasonOf(refusal)); err != nil {
				return err
			}
			if refusal == nil && !r.Deadline.Equal(n.deadline) {
				return fmt.Errorf("Renew promises %s, want %s", r.Deadline, n.deadline)
			}
		}
		if len(found) > 0 {
			return fmt.Errorf("Renew found %d sessions that are not there", len(found))
		}
		return nil
	}, false}
}

// revoke revokes a user, or lifts that.
func (m *model) revoke() step {
	subject, lift := m.subject(), m.random.IntN(2) == 0
	n := 0
	return step{fmt.Sprintf("revoke %s (lift: %v)", subject, lift), func() {
		if m.rules.change(func() { m.rules.revoked[subject] = !lift }); !lift {
			n = m.registry.End(func(s *Session) bool { return s.Subject() == subject }, &outcome.Ending{Reason: revoked})
		}
	}, nil, func() error {
		want := 0
		for _, s := range m.sessions {
			if !lift && s.Subject() == subject {
				want++
				s.end(revoked)
			}
		}
		if n != want {
			return fmt.Errorf("End ended %d sessions, want %d", n, want)
		}
		return nil
	}, false}
}

// leaveAll begins a drain.
func (m *model) leaveAll() step {
	d := Drain{
		Delay: time.Duration(m.random.IntN(3)) * time.Second, Lead: time.Duration(m.random.IntN(2)) * time.Second,
		Spread: time.Duration(m.random.IntN(3)*5) * time.Second, Ending: outcome.End(outcome.Drain, ""), Final: m.random.IntN(4) == 0,
	}
	var got bool
	return step{"drain", func() { got = m.registry.Drain(d) }, nil, func() error {
		next, now := &drained{d, time.Now(), time.Now()}, time.Now()
		want := m.drain == nil || d.Final && !m.drain.Final
		if want && m.drain != nil {
			next.begun = m.drain.begun
		}
		if at := next.begun.Add(d.Delay); at.After(now) && !m.refusing() {
			next.refuses = at
		}
		if want {
			m.drain = next
		}
		if got != want {
			return fmt.Errorf("Drain says %v, want %v", got, want)
		}
		return nil
	}, true}
}

// stayAll undoes a drain.
func (m *model) stayAll() step {
	var got bool
	return step{"undrain", func() { got = m.registry.Undrain() }, nil, func() error {
		want := m.drain == nil || !m.drain.Final
		if want {
			m.drain = nil
		}
		if got != want {
			return fmt.Errorf("Undrain says %v, want %v", got, want)
		}
		return nil
	}, true}
}

// recheck is what a set clock causes.
func (m *model) recheck() step { return step{"recheck", m.registry.Recheck, nil, nil, true} }

// begin gives a session its connection, as the gateway does.
func (n *modelled) begin() *outcome.Ending {
	e := n.Begin(n.conn)
	if e != nil {
		n.conn.End(e)
	}
	return e
}

// end notes the first reason.
func (n *modelled) end(r outcome.Reason) {
	if n.ended == "" {
		n.ended = r
	}
}

// reason returns the first reason for which the registry has ended a session, or "".
func (n *modelled) reason() outcome.Reason {
	if told := n.conn.reasons(); len(told) > 0 {
		return told[0]
	}
	return endedFor(n.Session)
}

// follow looks at what the registry has done since the last step on its own, and returns what it
// must not have done.
func (m *model) follow() error {
	now := time.Now()
	for _, n := range m.sessions {
		got := n.reason()
		if n.ended != "" {
			if got != n.ended {
				return fmt.Errorf("session %s has ended for %s, now it says %q", n.ID, n.ended, got)
			}
			continue
		}
		expired := !n.deadline.IsZero() && !n.deadline.After(now)
		refusal := m.rules.judge(policy.Case{Identity: n.identity})
		told := m.drain != nil && !m.drain.last().After(now) && n.Start.Before(m.drain.last())
		tired := n.MaxDuration > 0 && !n.Start.Add(n.MaxDuration).After(now)
		switch {
		case got == "" && expired:
			return fmt.Errorf("session %s is there %s after its expiry", n.ID, now.Sub(n.deadline))
		case got == "" && refusal != nil && !n.doomed.IsZero() && !n.doomed.After(now):
			return fmt.Errorf("session %s is there and refused for %s", n.ID, refusal.Reason)
		case got == "" && told:
			return fmt.Errorf("session %s is there after the drain", n.ID)
		case got == "" && tired:
			return fmt.Errorf("session %s is there beyond its time", n.ID)
		case got == "":
		case got == outcome.Expired && expired, got == outcome.MaxDuration && tired:
		case got == outcome.Drain && m.refusing() && !m.drain.refuses.Add(m.drain.Lead).After(now):
		case refusal != nil && got == refusal.Reason && !n.doomed.IsZero():
		default:
			return fmt.Errorf("session %s has ended for %s", n.ID, got)
		}
		n.ended = got
	}
	return nil
}

// compare compares all that the registry shows with the model.
func (m *model) compare() error {
	places := [kinds]int{}
	users := [kinds]map[user]int{}
	callers := map[user]int{}
	for k := range users {
		users[k] = map[user]int{}
	}
	live := map[*Session]bool{}
	for _, n := range m.sessions {
		u := user{n.Issuer(), n.Subject()}
		live[n.Session] = true
		places[n.Kind]++
		users[n.Kind][u]++
		callers[u]++
		if n.Judged().Identity != n.identity {
			return fmt.Errorf("session %s has other claims", n.ID)
		}
		if got := n.Deadline(); !got.Equal(n.deadline) || !got.Equal(n.Judged().Identity.Deadline) {
			return fmt.Errorf("session %s lives until %s, want %s", n.ID, got, n.deadline)
		}
	}
	r := m.registry
	for _, s := range r.List() {
		if !live[s] {
			return fmt.Errorf("session %s is still live", s.ID)
		}
	}
	opened, count := r.Counts()
	websockets, requests, _ := r.Totals()
	if opened != m.opened || int(count) != len(live) || r.Len() != len(live) ||
		websockets != places[WebSocket] || requests != places[HTTP] {
		return fmt.Errorf("%d sessions so far, %d live: %d and %d; want %d, %v", opened, count, websockets, requests, m.opened, places)
	}
	for k := range kinds {
		if p := r.places[k]; p.taken != places[k] || !maps.Equal(p.users, users[k]) {
			return fmt.Errorf("places of kind %s: %d of %v, want %d of %v", k, p.taken, p.users, places[k], users[k])
		}
	}
	for u, of := range r.callers {
		if len(of) != callers[u] {
			return fmt.Errorf("%d sessions of %v, want %d", len(of), u, callers[u])
		}
	}
	if len(r.callers) != len(callers) || r.draining != m.refusing() || r.Leaving() != (m.drain != nil) {
		return fmt.Errorf("%d callers, want %d; refusing: %v, leaving: %v", len(r.callers), len(callers), r.draining, r.Leaving())
	}
	return nil
}

// adopt takes over what steps that ran beside each other have made of the sessions, and holds it to
// what no order of them can break.
func (m *model) adopt() error {
	for _, n := range m.sessions {
		n.Session.mu.Lock()
		judged, deadline, doomed, ending := n.judged.Identity, n.Session.deadline, n.doom != nil, n.ending
		n.Session.mu.Unlock()
		if sooner(deadline, n.deadline) {
			return fmt.Errorf("the expiry of session %s has become earlier", n.ID)
		}
		n.identity, n.deadline = judged, deadline
		refusal := m.rules.judge(policy.Case{Identity: judged})
		if ending == nil && refusal != nil && (!doomed || refusal.Reason == revoked) {
			return fmt.Errorf("session %s slipped past: it is refused for %s, and nothing will end it", n.ID, refusal.Reason)
		}
		if n.doomed = (time.Time{}); doomed {
			n.doomed = time.Now().Add(longest)
		}
		n.ended = n.reason()
	}
	return nil
}

// choose returns a random step. It is alone, or others happen at the same time.
func (m *model) choose(alone bool) step {
	if len(m.sessions) == 0 {
		return m.join()
	}
	n := m.sessions[m.random.IntN(len(m.sessions))]
	switch dice := m.random.IntN(100); {
	case dice < 35:
		return m.join()
	case dice < 45:
		return m.begin(n)
	case dice < 60:
		return m.leave(n)
	case dice < 70:
		return m.reload()
	case dice < 88:
		return m.renew()
	case dice < 95:
		return m.revoke()
	case dice < 97 && alone:
		return m.leaveAll()
	case dice < 98 && alone:
		return m.stayAll()
	}
	return m.recheck()
}

// play runs a registry and its model through random steps: one after the other, or several at
// once.
func play(seed uint64) (err error) {
	m := &model{
		registry: New(), random: rand.New(rand.NewPCG(seed, 5)), rules: &rules{revoked: map[string]bool{}},
		limits: config.Limits{MaxConnectionsPerUser: 6, MaxRequestsPerUser: 4},
	}
	defer func() { err = m.cut(err) }()
	for range 60 {
		together := 1
		if m.random.IntN(3) == 0 {
			together = 2 + m.random.IntN(3)
		}
		var names []string
		var steps []step
		for range together {
			s := m.choose(together == 1)
			if slices.ContainsFunc(steps, func(o step) bool { return o.name == s.name && s.note != nil || o.fires && s.fires }) {
				continue // the same session may not begin or leave twice
			}
			names, steps = append(names, s.name), append(steps, s)
		}
		if err := m.happen(steps); err != nil {
			return fmt.Errorf("after %v: %w", names, err)
		}
		time.Sleep(time.Duration(m.random.IntN(4000)) * time.Millisecond)
		synctest.Wait()
		if err := m.follow(); err != nil {
			return fmt.Errorf("some time after %v: %w", names, err)
		}
	}
	return nil
}

// happen does steps at the same time, and compares.
func (m *model) happen(steps []step) error {
	var wg sync.WaitGroup
	for _, s := range steps {
		wg.Go(s.do)
	}
	wg.Wait()
	synctest.Wait()
	for _, s := range steps {
		if s.note != nil {
			s.note()
		}
	}
	var err error
	switch {
	case len(steps) > 1:
		err = m.adopt()
	case steps[0].check != nil:
		err = steps[0].check()
	}
	if err == nil {
		err = m.follow()
	}
	if err == nil {
		err = m.compare()
	}
	return err
}

// cut ends all that is left, and looks for what is left over.
func (m *model) cut(err error) error {
	for _, n := range m.sessions {
		go func() {
			time.Sleep(time.Second)
			m.registry.Remove(n.Session)
		}()
	}
	m.registry.Cut()
	if err != nil {
		return err
	}
	for k := range kinds {
		late := &Session{Kind: k, Case: policy.Case{Identity: &auth.Identity{}}}
		if err := same("Add after all", reasonOf(m.registry.Add(late, m.limits, nil)), outcome.Drain); err != nil {
			return err
		}
	}
	m.sessions, m.drain = nil, &drained{refuses: time.Now()}
	return m.compare()
}

func same(what string, got, want outcome.Reason) error {
	if got != want {
		return fmt.Errorf("%s says %q, want %q", what, got, want)
	}
	return nil
}

// reasonOf returns the word of a refusal, or "".
func reasonOf(r *outcome.Refusal) outcome.Reason {
	if r == nil {
		return ""
	}
	return r.Reason
}

// TestRegistryIsEqualToItsModel: whatever joins, leaves, is renewed, revoked, reloaded or drained,
// in any order and at once, every session ends when it must, for the right reason and not before,
// and nothing is left over. OMNIA_SEED plays one run again.
func TestRegistryIsEqualToItsModel(t *testing.T) {
	runs, first := uint64(500), rand.Uint64()
	if seed, err := strconv.ParseUint(os.Getenv("OMNIA_SEED"), 10, 64); err == nil {
		runs, first = 1, seed
	}
	for seed := first; seed < first+runs; seed++ {
		synctest.Test(t, func(t *testing.T) {
			if err := play(seed); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		})
		if t.Failed() {
			return
		}
	}
}
