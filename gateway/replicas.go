package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/cluster"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// What replicas share, where the configuration has a cluster. Without it g.replicas is nil.

// joinPatience is how long the start waits for what the other replicas know.
const joinPatience = 5 * time.Second

// otherChanges is how many changes replicas share at most beside the revocations.
const otherChanges = 100_000

// endedFor is how long a replica that was away ends sessions that it still has.
const endedFor = 24 * time.Hour

// The questions that replicas ask each other. Those for an end and for a renewal are followed as
// well as answered; a replica that gives no answer learns of the same by a change.
const (
	askSessions = "sessions"
	askEnd      = "end"
	askRenewal  = "renewal"
)

// newCluster returns this gateway's part in a cluster.
func (g *Gateway) newCluster(c *config.Config) (*cluster.Cluster, error) {
	return cluster.New(c.Cluster.Redis, cluster.Options{
		Name: cluster.NewName(), Log: g.log, MaxChanges: c.Revocations.Max + otherChanges,
		Apply: g.applyChange, Answer: g.answerQuestion, Holders: g.holders,
	})
}

// joinReplicas runs this gateway's part until ctx ends. It returns when the gateway knows what the
// others know, so that it admits no caller whom they refuse; at once if Redis is away.
func (g *Gateway) joinReplicas(ctx context.Context, wg *sync.WaitGroup) {
	if g.replicas == nil {
		return
	}
	for _, v := range g.revoked.All() { // of a file
		g.shareRevocation(v)
	}
	wg.Go(func() { g.replicas.Run(ctx) })
	select {
	case <-g.replicas.Synced():
	case <-time.After(joinPatience):
		g.log.Warn("redis is slow; the changes of the other replicas are not known yet")
	case <-ctx.Done():
	}
}

// CheckRedis asks Redis for a sign of life, and reports whether there is a Redis to ask.
func (g *Gateway) CheckRedis(ctx context.Context) (asked bool, err error) {
	if g.replicas == nil {
		return false, nil
	}
	if err := g.replicas.Check(ctx); err != nil {
		return true, fmt.Errorf("cluster.redis: %w", err)
	}
	return true, nil
}

// applyChange takes over what another replica has changed.
func (g *Gateway) applyChange(ch cluster.Change) {
	var err error
	switch ch.Kind {
	case cluster.Revocation:
		err = g.applyRevocation(ch.Body)
	case cluster.End:
		_, err = g.applyEnd(ch.Body)
	case cluster.Renewal:
		err = g.applyRenewal(ch.Body)
	case cluster.Logout: // it is known by now
	default:
		err = errors.New("of a later version")
	}
	if err != nil {
		g.log.Warn("change of another replica not applied", "kind", string(ch.Kind), "err", err.Error())
	}
}

// answerQuestion answers another replica.
func (g *Gateway) answerQuestion(q cluster.Question) []byte {
	var answer any
	var err error
	switch q.Kind {
	case askSessions:
		answer = g.summaries()
	case askEnd:
		answer, err = g.applyEnd(q.Body)
	case askRenewal:
		answer, err = g.followRenewal(q.Body)
	default:
		err = errors.New("of a later version")
	}
	body, failed := json.Marshal(answer)
	if err = errors.Join(err, failed); err != nil {
		g.log.Warn("another replica not answered", "kind", q.Kind, "err", err.Error())
		return nil
	}
	return body
}

// askOthers asks the other replicas a question and returns their answers by replica, and the
// replicas that gave none.
func askOthers[A any](ctx context.Context, g *Gateway, kind string, body any) (answers map[string]A, missing []string) {
	answers = map[string]A{}
	if g.replicas == nil {
		return answers, nil
	}
	text, err := json.Marshal(body)
	if err != nil {
		g.log.Error("other replicas not asked", "kind", kind, "err", err.Error())
		return answers, nil
	}
	all, missing, err := g.replicas.Ask(ctx, cluster.Question{Kind: kind, Body: text})
	if err != nil {
		g.log.Warn("other replicas not asked", "kind", kind, "err", err.Error())
	}
	for _, a := range all {
		var answer A
		if err := json.Unmarshal(a.Body, &answer); err != nil {
			missing = append(missing, a.Replica)
			continue
		}
		answers[a.Replica] = answer
	}
	return answers, missing
}

// share makes a change known to the other replicas.
func (g *Gateway) share(kind cluster.Kind, key string, made, until time.Time, body any) {
	if g.replicas == nil {
		return
	}
	text, err := json.Marshal(body)
	if err != nil {
		g.log.Error("change not shared", "kind", string(kind), "err", err.Error())
		return
	}
	g.replicas.Share(cluster.Change{Kind: kind, Key: key, Made: made, Until: until, Body: text})
}

// shareRevocation makes a revocation that was made or lifted here known to the other replicas.
func (g *Gateway) shareRevocation(v auth.Revocation) {
	g.share(cluster.Revocation, v.ID, v.Changed, v.Until, v)
}

// applyRevocation follows a revocation that was made or lifted elsewhere.
func (g *Gateway) applyRevocation(body []byte) error {
	var v auth.Revocation
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	news, err := g.revoked.Apply(v)
	if news && !v.Lifted {
		g.endBarred(v) // the replica where it was made has logged it; here the sessions do
	}
	return err
}

// firstUse reports whether no other replica has used a logout token.
func (g *Gateway) firstUse(ctx context.Context, l auth.Logout) bool {
	if g.replicas == nil {
		return true
	}
	return g.replicas.Once(ctx, cluster.Change{Kind: cluster.Logout, Key: l.Key(), Until: l.Expires})
}

// ending is an end that all replicas are told of.
type ending struct {
	wanted
	Before time.Time `json:"before"` // by the shared clock; what began later is another session
}

// endEverywhere ends the sessions that are named, on all replicas.
func (g *Gateway) endEverywhere(ctx context.Context, n wanted) (done endSummary) {
	if g.replicas == nil {
		return endSummary{Ended: g.end(n, time.Now())}
	}
	e := ending{n, g.replicas.Now()}
	done.Ended = g.end(n, time.Now())
	answers, missing := askOthers[int](ctx, g, askEnd, e)
	for _, theirs := range answers {
		done.Ended += theirs
	}
	g.share(cluster.End, session.NewID(), e.Before, e.Before.Add(endedFor), e)
	done.Missing = missing
	return done
}

// applyEnd follows an end that an operator has asked of another replica.
func (g *Gateway) applyEnd(body []byte) (int, error) {
	var e ending
	if err := json.Unmarshal(body, &e); err != nil {
		return 0, err
	}
	return g.end(e.wanted, g.replicas.Local(e.Before)), nil
}

// sharedRenewal is what all replicas are told of a renewal: the claims of a token that was
// verified, and never the token.
type sharedRenewal struct {
	Issuer    string   `json:"issuer"`
	Claims    string   `json:"claims"`
	ClientKey string   `json:"clientKey,omitempty"` // its hash
	Session   string   `json:"session,omitempty"`
	One       bool     `json:"one,omitempty"` // it is about Session alone
	Origins   []string `json:"origins,omitempty"`
}

// key names what the renewal is about: of two about the same the newer one counts.
func (r sharedRenewal) key(subject string) string {
	text, _ := json.Marshal([]any{r.Issuer, subject, r.Session, r.Origins}) // strings: cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// renewElsewhere renews the sessions on the other replicas, and returns those that the replicas
// told of.
func (g *Gateway) renewElsewhere(ctx context.Context, r sharedRenewal, subject string, deadline time.Time) (all []renewed) {
	if g.replicas == nil {
		return nil
	}
	answers, _ := askOthers[[]renewed](ctx, g, askRenewal, r)
	for _, theirs := range answers {
		all = append(all, theirs...)
	}
	until := deadline
	if until.IsZero() || until.Year() > 9999 {
		until = time.Now().Add(endedFor)
	}
	g.share(cluster.Renewal, r.key(subject), g.replicas.Now(), until, r)
	return all
}

// followRenewal renews the sessions of this gateway and tells of each.
func (g *Gateway) followRenewal(body []byte) ([]renewed, error) {
	return g.renewHere(body, func(*session.Session, time.Time) bool { return false })
}

// applyRenewal renews the sessions of this gateway that were not renewed yet.
func (g *Gateway) applyRenewal(body []byte) error {
	_, err := g.renewHere(body, func(s *session.Session, deadline time.Time) bool {
		now := s.Deadline()
		return now.IsZero() || !deadline.IsZero() && !now.Before(deadline)
	})
	return err
}

// renewHere renews the sessions of this gateway that another replica's renewal is about, but for
// those that skip reports.
func (g *Gateway) renewHere(body []byte, skip func(s *session.Session, deadline time.Time) bool) ([]renewed, error) {
	var r sharedRenewal
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	p := g.policy.Load()
	fresh, err := p.Renewed(r.Issuer, r.Claims, r.ClientKey)
	if err != nil {
		return nil, err
	}
	return g.renew(r, p, fresh, skip), nil
}

// add gives a session its place: in the cluster first, because that is asked over the network, and
// then in the registry, which decides under its lock.
func (g *Gateway) add(ctx context.Context, s *session.Session, p *policy.Policy) *outcome.Refusal {
	limits := p.Config().Limits
	if g.shares(s, limits) && !g.replicas.Take(ctx, holder(s), limits.MaxConnectionsPerUser) {
		return outcome.Refuse(outcome.TooManyUserConnections, "over all replicas")
	}
	refusal := g.sessions.Add(s, limits, g.still(p))
	if refusal != nil {
		g.release(s)
	}
	return refusal
}

// free gives the place of a session to others, on all replicas.
func (g *Gateway) free(s *session.Session) {
	if g.sessions.Free(s) {
		g.release(s)
	}
}

// remove forgets a session, whose place was freed before or is now.
func (g *Gateway) remove(s *session.Session) {
	if g.sessions.Remove(s) {
		g.release(s)
	}
}

// release gives the place of a session back to the cluster.
func (g *Gateway) release(s *session.Session) {
	if g.shares(s, g.Config().Limits) {
		g.replicas.Release(holder(s))
	}
}

// shares reports whether the place of a session counts on all replicas: a WebSocket's under
// limits.maxConnectionsPerUser does.
func (g *Gateway) shares(s *session.Session, l config.Limits) bool {
	return g.replicas != nil && s.Kind == session.WebSocket && l.MaxConnectionsPerUser > 0 && s.Subject() != ""
}

func holder(s *session.Session) cluster.Holder {
	return cluster.Holder{Session: s.ID, Issuer: s.Issuer(), Subject: s.Subject()}
}

// holders returns the sessions whose places count on all replicas.
func (g *Gateway) holders() (all []cluster.Holder) {
	if g.Config().Limits.MaxConnectionsPerUser > 0 {
		for _, s := range g.sessions.Holding(session.WebSocket) {
			all = append(all, holder(s))
		}
	}
	return all
}

// allSummaries returns the live sessions of all replicas, the longest first, and the replicas that
// did not answer in time.
func (g *Gateway) allSummaries(ctx context.Context) (all []sessionSummary, missing []string) {
	all = g.summaries()
	if g.replicas == nil {
		return all, nil
	}
	own(all, g.replicas.Name)
	answers, missing := askOthers[[]sessionSummary](ctx, g, askSessions, nil)
	for replica, theirs := range answers {
		own(theirs, replica)
		all = append(all, theirs...)
	}
	slices.SortFunc(all, func(a, b sessionSummary) int { return a.Start.Compare(b.Start) })
	return all, missing
}

// own notes whose the sessions are.
func own(all []sessionSummary, replica string) {
	for i := range all {
		all[i].Replica = replica
	}
}

// clusterSummary says how a gateway stands with the other replicas.
type clusterSummary struct {
	Replica   string   `json:"replica"` // this one
	Connected bool     `json:"connected"`
	Error     string   `json:"error,omitempty"`
	Replicas  []string `json:"replicas"`
	Changes   int      `json:"changes"` // that are known
	Pending   int      `json:"pending"` // of them, those that Redis does not have yet
}

// clusterSummary returns nil for a gateway that stands alone.
func (g *Gateway) clusterSummary() *clusterSummary {
	if g.replicas == nil {
		return nil
	}
	s := g.replicas.State()
	return &clusterSummary{
		Replica: g.replicas.Name, Connected: s.Connected, Error: s.Error, Replicas: append([]string{}, s.Replicas...),
		Changes: s.Changes, Pending: s.Pending,
	}
}
