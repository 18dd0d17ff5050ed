package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// soakSeconds is how long requests meet an agent that closes its idle connections; `make soak`
// takes 60.
func soakSeconds(t *testing.T) time.Duration {
	s := os.Getenv("OMNIA_SOAK_SECONDS")
	if s == "" {
		return 8 * time.Second
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 6 {
		t.Fatalf("OMNIA_SOAK_SECONDS=%q: want a number of seconds, 6 or more", s)
	}
	return time.Duration(n) * time.Second
}

// Twelve clients POST each second, to an agent that closes connections that were idle for a
// second: each request may cross the end of its connection. Once the gateway has seen one end,
// none is lost, and none reaches the agent twice.
func TestNoPostIsLostOrDoubledByAnAgentThatClosesIdleConnections(t *testing.T) {
	t.Parallel()
	const clients, grace = 12, 5 * time.Second
	lasts := soakSeconds(t)
	i := newIssuer(t)
	var mu sync.Mutex
	got := map[string]int{}
	agent := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		got[string(body)]++
		mu.Unlock()
		io.WriteString(w, "done")
	}))
	agent.Config.IdleTimeout = time.Second
	agent.Start()
	defer agent.Close()
	g := start(t, plain(i, agent.URL))
	token := i.token(t)
	began := time.Now()
	sent := 0
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for k := 0; time.Since(began) < lasts; k++ {
				after := time.Since(began)
				id := fmt.Sprintf("%d-%d", n, k)
				r, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+g.public+"/my-agent/x", strings.NewReader(id))
				r.Header.Set("Authorization", "Bearer "+token)
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				resp.Body.Close()
				mu.Lock()
				sent++
				if resp.StatusCode != http.StatusOK && after > grace {
					t.Errorf("%s got %s after %v", id, resp.Status, after.Round(time.Millisecond))
				}
				mu.Unlock()
				<-tick.C
			}
		})
	}
	wg.Wait()
	for id, times := range got {
		if times > 1 {
			t.Errorf("%s reached the agent %d times", id, times)
		}
	}
	t.Logf("%d of %d requests reached the agent, in %v", len(got), sent, time.Since(began).Round(time.Second))
}
