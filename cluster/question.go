package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// answerTimeout is how long the answers of the other replicas are waited for.
	answerTimeout = time.Second
	// maxInline is how long an answer may be that is published. A longer one is left in Redis to
	// be fetched, because Redis cuts subscribers off that fall behind.
	maxInline = 32 << 10
	// maxAnswering is how many questions a replica answers at once. Others get no answer.
	maxAnswering = 32
)

// Question is what one replica asks the others.
type Question struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body,omitempty"`
}

// Answer is what one replica has answered.
type Answer struct {
	Replica string
	Body    []byte
}

// message is what goes over the channels. An empty one says that there are changes to read.
type message struct {
	From string `json:"from,omitempty"`
	// Ask names a question; Reply the question that it is an answer to.
	Ask   string `json:"ask,omitempty"`
	Reply string `json:"reply,omitempty"`
	Question
	Key string `json:"key,omitempty"` // where the answer is
}

// asked are the questions that wait for answers, and those that are being answered.
type asked struct {
	handlers sync.WaitGroup

	mu        sync.Mutex
	waiting   map[string]*inquiry
	silent    map[string]time.Time // replicas that gave no answer, since when
	answering int
}

// inquiry is a question that waits for answers.
type inquiry struct {
	left    []string // replicas that have not answered
	awaited []string // those of them that are waited for
	got     []message
	done    chan struct{} // closed when none is waited for
}

// await notes that a question waits for replicas. One that was silent lately may answer, but is
// not waited for: for a while after its end a replica is still taken for live.
func (a *asked) await(id string, replicas []string) *inquiry {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.silent, func(_ string, since time.Time) bool { return time.Since(since) > presence })
	i := &inquiry{left: replicas, done: make(chan struct{})}
	i.awaited = slices.DeleteFunc(slices.Clone(replicas), func(name string) bool {
		_, silent := a.silent[name]
		return silent
	})
	if len(i.awaited) == 0 {
		close(i.done)
	}
	a.waiting[id] = i
	return i
}

// over ends a question, and returns the answers and the replicas that gave none. Those are silent
// if they had all the time to answer.
func (a *asked) over(id string, timeout bool) (got []message, missing []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := a.waiting[id]
	delete(a.waiting, id)
	for _, name := range i.left {
		if _, known := a.silent[name]; !known && timeout {
			a.silent[name] = time.Now()
		}
	}
	return i.got, i.left
}

// Ask asks the other live replicas, and waits for their answers for a moment. It returns those
// that came, and the replicas that gave none. While Redis is away the error says so.
func (c *Cluster) Ask(ctx context.Context, q Question) (answers []Answer, missing []string, err error) {
	c.mu.Lock()
	others := slices.DeleteFunc(slices.Clone(c.replicas), func(name string) bool { return name == c.Name })
	c.mu.Unlock()
	if !c.connected() {
		return nil, others, errAway
	}
	if len(others) == 0 {
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var random [8]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	i := c.asked.await(id, others)
	if err = c.publish(ctx, c.keys.channel, message{From: c.Name, Ask: id, Question: q}); err == nil {
		select {
		case <-i.done:
		case <-ctx.Done():
		}
	}
	got, missing := c.asked.over(id, err == nil && errors.Is(ctx.Err(), context.DeadlineExceeded))
	for _, m := range got {
		body := []byte(m.Body)
		if m.Key != "" {
			fetch, cancel := within(context.WithoutCancel(ctx))
			body, err = c.redis.GetDel(fetch, m.Key).Bytes()
			cancel()
			if err != nil {
				missing = append(missing, m.From)
				continue
			}
		}
		answers = append(answers, Answer{m.From, body})
	}
	return answers, missing, err
}

func (c *Cluster) publish(ctx context.Context, channel string, m message) error {
	text, err := json.Marshal(m)
	if err == nil {
		err = c.redis.Publish(ctx, channel, text).Err()
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// heard takes what the subscription brought.
func (c *Cluster) heard(payload string) {
	var m message
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		c.Log.Warn("redis published what is no message", "err", err.Error())
		return
	}
	switch {
	case m.Reply != "":
		c.asked.reply(m)
	case m.Ask == "":
		c.rouse()
	case m.From != c.Name && c.asked.begin():
		c.asked.handlers.Go(func() {
			defer c.asked.end()
			c.answer(m)
		})
	}
}

// reply keeps an answer for the question that waits for it.
func (a *asked) reply(m message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.silent, m.From)
	i := a.waiting[m.Reply]
	if i == nil || !slices.Contains(i.left, m.From) {
		return
	}
	i.got = append(i.got, m)
	sender := func(name string) bool { return name == m.From }
	i.left = slices.DeleteFunc(i.left, sender)
	if before := len(i.awaited); before > 0 {
		if i.awaited = slices.DeleteFunc(i.awaited, sender); len(i.awaited) == 0 {
			close(i.done)
		}
	}
}

// begin reports whether one more question can be answered.
func (a *asked) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answering >= maxAnswering {
		return false
	}
	a.answering++
	return true
}

func (a *asked) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answering--
}

// answer answers a question of another replica. When that fails, the other one waits in vain.
func (c *Cluster) answer(m message) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	reply := message{From: c.Name, Reply: m.Ask, Question: Question{Kind: m.Kind, Body: c.Answer(m.Question)}}
	if len(reply.Body) > maxInline {
		reply.Key = c.keys.prefix + "answer:" + m.Ask + ":" + c.Name
		if c.redis.Set(ctx, reply.Key, []byte(reply.Body), 30*time.Second).Err() != nil {
			return
		}
		reply.Body = nil
	}
	c.publish(ctx, c.keys.prefix+"to:"+m.From, reply)
}
