package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/redistest"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// member is a replica of a test, and what it has been told.
type member struct {
	*Cluster
	t    testing.TB
	log  *lines
	stop func() // ends it as a shutdown does

	mu      sync.Mutex
	applied []Change
	holders []Holder
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// count returns how often a text was logged.
func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buf.Bytes(), []byte(text))
}

// at is the configuration of Redis at addresses.
func at(addresses ...string) config.Redis {
	r := config.Default().Cluster.Redis
	r.Addresses = addresses
	return r
}

// join runs a replica until the test ends.
func join(t testing.TB, name string, r config.Redis) *member {
	t.Helper()
	return joinOf(t, name, r, 1000)
}

func joinOf(t testing.TB, name string, r config.Redis, most int) *member {
	t.Helper()
	m := &member{t: t, log: &lines{}}
	c, err := New(r, Options{
		Name: name, Log: slog.New(slog.NewTextHandler(m.log, nil)), MaxChanges: most,
		Apply: func(ch Change) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.applied = append(m.applied, ch)
		},
		Answer: func(q Question) []byte {
			if q.Kind == "long" {
				return fmt.Appendf(nil, "%q", bytes.Repeat([]byte("x"), 3*maxInline))
			}
			text, _ := json.Marshal(name + " to " + string(q.Body))
			return text
		},
		Holders: func() []Holder {
			m.mu.Lock()
			defer m.mu.Unlock()
			return slices.Clone(m.holders)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Cluster = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	m.stop = func() { cancel(); <-done }
	t.Cleanup(m.stop)
	return m
}

// ready waits until all replicas are connected and know each other.
func ready(t testing.TB, all ...*member) {
	t.Helper()
	for _, m := range all {
		wstest.Eventually(t, m.Name+" connected", func() bool {
			s := m.State()
			return s.Connected && len(s.Replicas) == len(all)
		})
	}
}

// knows reports whether a change was applied, and returns the last one of its kind and key.
func (m *member) knows(kind Kind, key string) (last Change, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ch := range m.applied {
		if ch.Kind == kind && ch.Key == key {
			last, ok = ch, true
		}
	}
	return last, ok
}

// learns waits until a replica has applied a change with this body.
func (m *member) learns(kind Kind, key, body string) {
	m.t.Helper()
	wstest.Eventually(m.t, fmt.Sprintf("%s learns %s/%s", m.Name, kind, key), func() bool {
		ch, ok := m.knows(kind, key)
		return ok && string(ch.Body) == body
	})
}

// revocation is a change for an hour.
func (m *member) revocation(key, body string) Change {
	return Change{Kind: Revocation, Key: key, Made: m.Now(), Until: m.Now().Add(time.Hour), Body: []byte(body)}
}

// three runs three replicas at one server.
func three(t testing.TB) (s *redistest.Server, a, b, c *member) {
	t.Helper()
	s = redistest.Start(t)
	a, b, c = join(t, "a", at(s.Addr)), join(t, "b", at(s.Addr)), join(t, "c", at(s.Addr))
	ready(t, a, b, c)
	return s, a, b, c
}
