package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// snippet is the program below a heading of a page.
func snippet(t *testing.T, page, heading string) string {
	t.Helper()
	_, section, ok := strings.Cut(read(t, page), "\n### "+heading+"\n")
	block := fence.FindStringSubmatch(section)
	if !ok || block == nil {
		t.Fatalf("%s has no program below %q", page, heading)
	}
	return block[2]
}

// What tests add to the programs of the docs: how they get a token, and here that they greet the
// agent on each connection, say what they hear, and how it ended.
const (
	fetchJS = `
async function fetchToken() {
  const answer = await fetch(%[2]q);
  if (!answer.ok) throw new Error(answer.status);
  return answer.text();
}
`
	sayJS = fetchJS + `stayConnected(%[1]q, fetchToken, message => console.log('heard ' + message), code => console.log('end ' + code));
`
	fetchPython = `

async def fetch():
    import urllib.request
    return (await asyncio.to_thread(urllib.request.urlopen, %[2]q)).read().decode()


`
	sayPython = fetchPython + `async def hear(message, ws):
    print("heard", message, flush=True)


print("end", asyncio.run(stay_connected(%[1]q, fetch, hear)), flush=True)
`
)

// TestReconnectingProgramsComeBack runs the programs of docs/clients.md against an agent that is
// lost, a token that ends, refusals that pass and one that does not.
func TestReconnectingProgramsComeBack(t *testing.T) {
	for name, tt := range map[string]struct {
		needs   []string
		run     func(t *testing.T, program string) *speaker
		heading string
		more    string
	}{
		"browser": {tab, inTab, "In a browser", sayJS},
		"Node":    {node, inFile("node", "program.js"), "In Node", sayJS},
		"Python":  {[]string{"websockets"}, inFile("python3", "program.py"), "In Python", sayPython},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needs(t, tt.needs...)
			i := newIssuer(t)
			var arrivals atomic.Int64
			a := newAgent(t, func(v *visit) {
				n := arrivals.Add(1)
				v.accept()
				v.Write(rawws.Make(rawws.Fin|rawws.Text, fmt.Appendf(nil, "%d", n), false))
				switch n {
				case 1: // until the token ends
					v.echoFrames()
				case 2: // lost
				default:
					v.Write(rawws.MakeClose(1009, "", false))
					v.echoFrames()
				}
			})
			g := start(t, plain(i, a.URL).with("authentication.jwt.clockSkew", "0s"))
			var asked atomic.Int64
			tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Access-Control-Allow-Origin", "*")
				switch asked.Add(1) {
				case 1:
					http.Error(w, "not now", http.StatusServiceUnavailable)
				case 2:
					io.WriteString(w, i.token(t, "exp", inSeconds(-5)))
				case 3:
					io.WriteString(w, i.token(t, "exp", inSeconds(2)))
				default:
					io.WriteString(w, i.token(t))
				}
			}))
			t.Cleanup(tokens.Close)
			said := tt.run(t, snippet(t, clientsPage, tt.heading)+fmt.Sprintf(tt.more, "ws://"+g.public+"/my-agent/ws", tokens.URL))
			for _, want := range []string{"heard 1", "heard 2", "heard 3", "end 1009"} {
				line := said.next()
				for !strings.HasPrefix(line, "heard ") && !strings.HasPrefix(line, "end ") { // Chromium's own remarks
					line = said.next()
				}
				if line != want {
					t.Fatalf("the program says %q, want %q", line, want)
				}
			}
			g.awaitLine("msg", "refused", "reason", "expired")
			g.awaitLine("msg", "ended", "reason", "expired")
			g.awaitLine("msg", "ended", "reason", "upstream-lost")
		})
	}
}

// TestReconnectingProgramsStopWhenTheyAreRefused runs those programs that can see a status.
func TestReconnectingProgramsStopWhenTheyAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		needs                        []string
		command, file, heading, more string
	}{
		"Node":   {node, "node", "program.js", "In Node", sayJS},
		"Python": {[]string{"websockets"}, "python3", "program.py", "In Python", sayPython},
	} {
		t.Run(name, func(t *testing.T) {
			needs(t, tt.needs...)
			i, a := newIssuer(t), newAgent(t, nil)
			g := start(t, plain(i, a.URL).with("authentication.authorization",
				settings{"requiredClaims": []any{settings{"claim": "scope", "values": []string{"agents:access"}}}}))
			tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, i.token(t)) }))
			t.Cleanup(tokens.Close)
			program := snippet(t, clientsPage, tt.heading) + fmt.Sprintf(tt.more, "ws://"+g.public+"/my-agent/ws", tokens.URL)
			if line := inFile(tt.command, tt.file)(t, program).next(); line != "end 403" {
				t.Errorf("the program says %q, want \"end 403\"", line)
			}
			a.untouched(t)
		})
	}
}

// inFile runs a program in a file of its own.
func inFile(command, name string) func(*testing.T, string) *speaker {
	return func(t *testing.T, program string) *speaker {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		return newSpeaker(t, clientFor(t, 3*patience, command, file))
	}
}

// inTab runs a program in a page of Chromium, until it says how it ended.
func inTab(t *testing.T, program string) *speaker {
	return newSpeaker(t, clientFor(t, 3*patience, "bash", "-c", `exec node clients/console.js "$(command -v chromium)" "$@"`, "console",
		anotherOrigin(t), "end ", program))
}
