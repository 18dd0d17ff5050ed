package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/cluster"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// What replicas share, where the configuration has a cluster. Without it g.replicas is nil.

// joinPatience is how long the start waits for what the other replicas know.
const joinPatience = 5 * time.Second

// maxChanges is how many changes replicas share at most.
const maxChanges = 200_000

// askSessions is the question for a replica's live sessions.
const askSessions = "sessions"

// newCluster returns this gateway's part in a cluster.
func (g *Gateway) newCluster(c *config.Config) (*cluster.Cluster, error) {
	return cluster.New(c.Cluster.Redis, cluster.Options{
		Name: cluster.NewName(), Log: g.log, MaxChanges: maxChanges,
		Apply: g.applyChange, Answer: g.answerQuestion, Holders: g.holders,
	})
}

// joinReplicas runs this gateway's part until ctx ends. It returns when the gateway knows what the
// others know, so that it admits no caller whom they refuse; at once if Redis is away.
func (g *Gateway) joinReplicas(ctx context.Context, wg *sync.WaitGroup) {
	if g.replicas == nil {
		return
	}
	wg.Go(func() { g.replicas.Run(ctx) })
	select {
	case <-g.replicas.Synced():
	case <-time.After(joinPatience):
		g.log.Warn("redis is slow; the changes of the other replicas are not known yet")
	case <-ctx.Done():
	}
}

// applyChange takes over what another replica has changed.
func (g *Gateway) applyChange(ch cluster.Change) {
	g.log.Warn("change of another replica not understood", "kind", string(ch.Kind))
}

// answerQuestion answers another replica.
func (g *Gateway) answerQuestion(q cluster.Question) []byte {
	if q.Kind != askSessions {
		return nil // of a later version
	}
	answer, err := json.Marshal(g.summaries())
	if err != nil {
		g.log.Error("another replica not answered", "kind", q.Kind, "err", err.Error())
		return nil
	}
	return answer
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
	g.sessions.Free(s)
	g.release(s)
}

// remove forgets a session.
func (g *Gateway) remove(s *session.Session) {
	g.sessions.Remove(s)
	g.release(s)
}

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

// answerAllSessions answers GET /sessions?cluster=true. A replica that does not answer in time is
// named in a header.
func (g *Gateway) answerAllSessions(w http.ResponseWriter, r *http.Request) {
	all := g.summaries()
	if g.replicas != nil {
		own(all, g.replicas.Name)
		answers, missing, err := g.replicas.Ask(r.Context(), cluster.Question{Kind: askSessions})
		for _, a := range answers {
			var theirs []sessionSummary
			if err := json.Unmarshal(a.Body, &theirs); err != nil {
				missing = append(missing, a.Replica)
				continue
			}
			own(theirs, a.Replica)
			all = append(all, theirs...)
		}
		if err != nil {
			g.log.Warn("other replicas not asked", "err", err.Error())
		}
		if len(missing) > 0 {
			w.Header().Set("X-Gateway-Missing-Replicas", strings.Join(missing, ", "))
		}
		slices.SortFunc(all, func(a, b sessionSummary) int { return a.Start.Compare(b.Start) })
	}
	writeJSON(w, http.StatusOK, all)
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
