package session

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// listener is a connection whose client can be told something.
type listener struct {
	conn

	mu    sync.Mutex
	texts []string
}

func (c *listener) Notify(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.texts = append(c.texts, text)
}

// hears fails the test unless the client has heard so many notices by now.
func (c *listener) hears(t *testing.T, when string, want int) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.texts) != want || slices.ContainsFunc(c.texts, func(s string) bool { return s != "soon" }) {
		t.Errorf("%s it has heard %q, want %d", when, c.texts, want)
	}
}

// noticing adds a session that lives so long, with a notice a minute before its end.
func noticing(l *Registry, life time.Duration) *Session {
	s := caller(1)
	s.Notice = config.ExpiryNotice{Before: time.Minute, Text: "soon"}
	if life > 0 {
		s.Expires = time.Now().Add(life)
	}
	l.Add(s, config.Limits{}, nil)
	return s
}

func TestNoticeComesOnceBeforeEachExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c := New(), &listener{}
		s := noticing(l, 5*time.Minute)
		s.Begin(c)
		time.Sleep(4*time.Minute - time.Nanosecond)
		c.hears(t, "before its time", 0)
		time.Sleep(time.Nanosecond)
		c.hears(t, "a minute before the end", 1)
		l.Recheck()
		c.hears(t, "when the clock was set", 1)
		l.Renew(fresh(s), until(s.Deadline()), every, admitting)
		c.hears(t, "after a renewal that extends nothing", 1)
		l.Renew(fresh(s), until(time.Now().Add(5*time.Minute)), every, admitting)
		time.Sleep(4*time.Minute - time.Nanosecond)
		c.hears(t, "after a renewal, before its time", 1)
		time.Sleep(time.Nanosecond)
		c.hears(t, "a minute before the next end", 2)
		l.Renew(fresh(s), until(s.Deadline()), every, admitting)
		c.hears(t, "after a renewal that ends at the same time", 2)
		time.Sleep(time.Minute - time.Nanosecond)
		if synctest.Wait(); len(c.reasons()) != 0 {
			t.Errorf("ended for %v before its end", c.reasons())
		}
		time.Sleep(time.Nanosecond)
		if synctest.Wait(); !slices.Equal(c.reasons(), []outcome.Reason{outcome.Expired}) {
			t.Errorf("ended for %v at its end", c.reasons())
		}
		c.hears(t, "at the end", 2)
		l.Remove(s)
	})
}

func TestNoticeComesAtOnceWhenLittleTimeIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c := New(), &listener{}
		s := noticing(l, 30*time.Second)
		time.Sleep(10 * time.Second) // the agent is asked meanwhile
		s.Begin(c)
		c.hears(t, "when it begins", 1)
		l.Renew(fresh(s), until(time.Now().Add(40*time.Second)), every, admitting)
		c.hears(t, "after a renewal for less than a minute", 2)
		time.Sleep(40 * time.Second)
		if synctest.Wait(); !slices.Equal(c.reasons(), []outcome.Reason{outcome.Expired}) {
			t.Errorf("ended for %v", c.reasons())
		}
		l.Remove(s)
	})
}

func TestNoticeComesToNoClientThatItIsNotFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, never, gone, silent := New(), &listener{}, &listener{}, &listener{}
		noticing(l, 0).Begin(never) // without an expiry

		left := noticing(l, time.Hour)
		left.Begin(gone)
		l.Remove(left)

		s := caller(1) // without a text
		s.Expires = time.Now().Add(time.Hour)
		l.Add(s, config.Limits{}, nil)
		s.Begin(silent)

		stream := noticing(l, time.Hour) // of a kind that cannot be told
		stream.Kind = HTTP
		c := &conn{}
		stream.Begin(c)
		time.Sleep(2 * time.Hour)
		for _, c := range []*listener{never, gone, silent} {
			c.hears(t, "after all", 0)
		}
		if !slices.Equal(c.reasons(), []outcome.Reason{outcome.Expired}) || !slices.Equal(silent.reasons(), c.reasons()) {
			t.Errorf("ended for %v and %v", c.reasons(), silent.reasons())
		}
	})
}
