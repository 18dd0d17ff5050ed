package gateway

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// hangsUp is an agent that answers the first request of each connection, once two have one, and
// hangs up at the second without a byte. /crash gets no answer at all.
type hangsUp struct {
	mu    sync.Mutex
	times map[string]int // by path
	both  sync.WaitGroup
}

func (a *hangsUp) serve(c net.Conn) {
	br := bufio.NewReader(c)
	for n := 0; ; n++ {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		a.mu.Lock()
		a.times[r.URL.Path]++
		a.mu.Unlock()
		if r.URL.Path == "/first" {
			a.both.Done()
			a.both.Wait() // so that each has a connection of its own
		}
		if n > 0 || r.URL.Path == "/crash" {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
}

func TestRequestOnAConnectionThatHangsUpIsSentOnceMoreIfThatIsAllowed(t *testing.T) {
	small, large := "12345", strings.Repeat("x", maxKeptBody+1)
	key := []string{"Idempotency-Key", "1"}
	for _, tt := range []struct {
		method, path, body string
		header             []string
		times              int
		answered           bool
	}{
		{"GET", "/", "", nil, 2, true},
		{"HEAD", "/", "", nil, 2, true},
		{"OPTIONS", "/", "", nil, 2, true},
		{"DELETE", "/", "", nil, 2, true},
		{"PUT", "/", "", nil, 2, true},
		{"PUT", "/", small, nil, 2, true},
		{"PUT", "/", large, nil, 1, false},
		{"GET", "/", large, nil, 1, false},
		{"POST", "/", "", nil, 1, false},
		{"POST", "/", small, nil, 1, false},
		{"POST", "/", small, key, 2, true},
		{"POST", "/", large, key, 1, false},
		{"PATCH", "/", small, nil, 1, false},
		{"GET", "/crash", "", nil, 2, false},
	} {
		t.Run(fmt.Sprintf("%s %s of %d bytes, %v", tt.method, tt.path, len(tt.body), tt.header), func(t *testing.T) {
			a := &hangsUp{times: map[string]int{}}
			d := newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses())
			k := newKeeper(d, time.Minute, d.connect)
			defer k.CloseIdleConnections()
			host := listening(t, a.serve)
			a.both.Add(2)
			var first sync.WaitGroup
			for range 2 {
				first.Go(func() {
					r, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+host+"/first", nil)
					resp, err := k.RoundTrip(r)
					if err != nil {
						t.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				})
			}
			first.Wait()
			var body io.Reader
			if tt.body != "" {
				body = io.MultiReader(strings.NewReader(tt.body)) // nothing that net/http knows to have a second time
			}
			r, _ := http.NewRequestWithContext(t.Context(), tt.method, "http://"+host+tt.path, body)
			r.ContentLength = int64(len(tt.body))
			if tt.header != nil {
				r.Header.Set(tt.header[0], tt.header[1])
			}
			resp, err := k.RoundTrip(r)
			if err == nil {
				resp.Body.Close()
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.times[tt.path] != tt.times || (err == nil) != tt.answered {
				t.Errorf("the agent got it %d times, want %d; %v", a.times[tt.path], tt.times, err)
			}
			if limit := k.lessons.limit(host); limit != time.Minute {
				t.Errorf("a request that the agent hung up at is taken for its idle time: %v", limit)
			}
		})
	}
}

// rounds has POSTs answered by an agent, each after a pause, and returns on which of its
// connections each came.
func rounds(t *testing.T, most time.Duration, agent func(c net.Conn, br *bufio.Reader), pauses ...time.Duration) (on []int) {
	agents := make(pipes)
	k := newKeeper(newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses()), most, agents.dial)
	var mu sync.Mutex
	go func() {
		for n := 1; ; n++ {
			c, err := agents.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					if _, err := br.Peek(1); err != nil {
						return
					}
					mu.Lock()
					on = append(on, n)
					mu.Unlock()
					agent(c, br)
				}
			}()
		}
	}()
	for _, pause := range pauses {
		time.Sleep(pause)
		synctest.Wait()
		r, _ := http.NewRequestWithContext(t.Context(), "POST", "http://agent/", io.MultiReader(strings.NewReader("hi")))
		r.ContentLength = 2
		resp, err := k.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		synctest.Wait()
	}
	k.CloseIdleConnections()
	close(agents)
	synctest.Wait()
	return on
}

func TestConnectionIsUsedAgainForLessThanItsAgentKeepsIt(t *testing.T) {
	const ms = time.Millisecond
	answering := func(headers string, idle time.Duration) func(net.Conn, *bufio.Reader) {
		return func(c net.Conn, br *bufio.Reader) {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"+headers+"\r\nhi")
			if idle > 0 {
				c.SetReadDeadline(time.Now().Add(idle))
			}
		}
	}
	firstCloses := func(idle time.Duration) func(net.Conn, *bufio.Reader) {
		var others atomic.Bool
		return func(c net.Conn, br *bufio.Reader) {
			if others.Swap(true) {
				answering("", 0)(c, br)
			} else {
				answering("", idle)(c, br)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		most   time.Duration
		agent  func(net.Conn, *bufio.Reader)
		pauses []time.Duration
		on     string
	}{
		{"the default", 4 * time.Second, answering("", 0), []time.Duration{0, 3900 * ms, 4100 * ms}, "[1 1 2]"},
		{"none is kept", 0, answering("", 0), []time.Duration{0, 0, 0}, "[1 2 3]"},
		{"the agent says more", 4 * time.Second, answering("Keep-Alive: timeout=60\r\n", 0), []time.Duration{0, 3900 * ms}, "[1 1]"},
		{"the agent says less", 4 * time.Second, answering("Keep-Alive: timeout=3, max=9\r\n", 0),
			[]time.Duration{0, 1900 * ms, 2100 * ms}, "[1 1 2]"},
		{"the agent says nothing of use", 4 * time.Second, answering("Keep-Alive: timeout=-1\r\n", 0),
			[]time.Duration{0, 3900 * ms}, "[1 1]"},
		{"the agent was seen to close one", 4 * time.Second, answering("", time.Second),
			[]time.Duration{0, 900 * ms, 1100 * ms, 400 * ms, 600 * ms, 400 * ms}, "[1 1 2 2 3 3]"},
		{"it closed one sooner than any agent's idle time", 4 * time.Second, firstCloses(150 * ms),
			[]time.Duration{0, 200 * ms, 3900 * ms}, "[1 2 2]"},
		{"a later one stays open for longer", 4 * time.Second, firstCloses(time.Second),
			[]time.Duration{0, 1100 * ms, 400 * ms, 2100 * ms, 3900 * ms}, "[1 2 2 3 3]"},
		{"that was long ago", 4 * time.Second, answering("", time.Second),
			[]time.Duration{0, 1100 * ms, lessonLasts + time.Minute, 900 * ms}, "[1 2 3 3]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if on := fmt.Sprint(rounds(t, tt.most, tt.agent, tt.pauses...)); on != tt.on {
					t.Errorf("the requests came on connections %s, want %s", on, tt.on)
				}
			})
		})
	}
}

func TestLessonsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLessons(4 * time.Second)
		for n := range 2 * maxLessons {
			l.learn(fmt.Sprint("agent-", n), time.Second)
		}
		l.learn("late", time.Second)
		l.learn("slow", 10*time.Second) // longer than the gateway keeps one: nothing to know
		if len(l.byAddr) != maxLessons || l.limit("late") != 500*time.Millisecond || l.limit("slow") != 4*time.Second {
			t.Errorf("%d lessons; %v, %v", len(l.byAddr), l.limit("late"), l.limit("slow"))
		}
		time.Sleep(lessonLasts)
		l.learn("new", time.Second)
		if len(l.byAddr) != 1 {
			t.Errorf("%d lessons are left", len(l.byAddr))
		}
	})
}
