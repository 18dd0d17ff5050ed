package e2e

import (
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the table of docs/clients.md anew")

// library is a WebSocket library and the program of e2e/clients that shows what a program gets
// to see of it.
type library struct {
	name    string   // as the table has it
	needs   []string // of tools/install
	command []string // and the address and the token
	sends   string   // where it puts the token, for the table
	place   string   // the same, in the words of the configuration: the gateway looks nowhere else
	path    string   // of its WebSocket at the agent
	agent   string   // which of shown/agents.js it talks to; empty: one that echoes
}

var (
	node = []string{"node", "wscat"} // wscat is installed with the other libraries for Node
	tab  = []string{"node", "playwright-core", "chromium"}
)

// libraries are the rows of the table.
var libraries = []library{
	{"Browser (Chromium)", tab, inChromium("websocket"), "subprotocols `bearer`, token", "fromSubprotocols", "/ws", ""},
	{"Node, its own `WebSocket`", node, []string{"node", "--experimental-websocket", "--no-warnings", "clients/shown/node.js"},
		"subprotocols `bearer`, token", "fromSubprotocols", "/ws", ""},
	{"Node, `ws`", node, []string{"node", "clients/shown/ws.js"}, "header", "fromHeaders", "/ws", ""},
	{"Python, `websockets`", []string{"websockets"}, []string{"python3", "clients/shown/python.py"}, "header", "fromHeaders", "/ws", ""},
	{"Go, `gorilla/websocket`", []string{"go-client"}, []string{"go-client", "gorilla"}, "header", "fromHeaders", "/ws", ""},
	{"Go, `coder/websocket`", []string{"go-client"}, []string{"go-client", "coder"}, "header", "fromHeaders", "/ws", ""},
	{"Rust, `tungstenite`", []string{"tungstenite-client"}, []string{"tungstenite-client"}, "header", "fromHeaders", "/ws", ""},
	{"Java, the JDK's `HttpClient`", []string{"javac"}, []string{"java", "clients/shown/Jdk.java"}, "header", "fromHeaders", "/ws", ""},
	{"socket.io in a browser", tab, inChromium("socket.io"), "`query: {access_token}`", "fromParams", "/socket.io/", "socket.io"},
	{"graphql-ws on Node", node, []string{"node", "clients/shown/graphql.js"}, "query of `url`", "fromParams", "/graphql", "graphql"},
	{"MQTT.js on Node", node, []string{"node", "clients/shown/mqtt.js"}, "header, in `wsOptions`", "fromHeaders", "/mqtt", "mqtt"},
}

// inChromium is the command for a library in a browser.
func inChromium(library string) []string {
	return []string{"bash", "-c", `exec node clients/shown/chromium.js "$(command -v chromium)" "$@"`, "chromium", library}
}

const clientsPage = "../docs/clients.md"

// TestTableOfClientsIsWhatTheyShow fills the table of docs/clients.md with what the libraries
// show, and compares.
func TestTableOfClientsIsWhatTheyShow(t *testing.T) {
	rows := make([]string, len(libraries))
	t.Run("libraries", func(t *testing.T) {
		for n, l := range libraries {
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				needs(t, l.needs...)
				rows[n] = l.row(t)
			})
		}
	})
	page := read(t, clientsPage)
	for n, l := range libraries {
		old := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(l.name) + ` \|.*$`).FindString(page)
		switch {
		case rows[n] == "" || rows[n] == old: // it was skipped, or has failed already; or it is as it should be
		case *update && old != "":
			page = strings.Replace(page, old, rows[n], 1)
		default:
			t.Errorf("docs/clients.md has not (go test ./e2e -run %s -update writes it)\n%s", t.Name(), rows[n])
		}
	}
	if *update {
		if err := os.WriteFile(clientsPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// row tries the library in each situation.
func (l library) row(t *testing.T) string {
	i := newIssuer(t)
	stays, _ := l.serve(t)
	leaves, leave := l.serve(t)
	s := plain(i, stays).with("authentication.jwt.clockSkew", "0s").
		with("routes", []any{route("/my-agent", stays), route("/doomed", leaves)})
	for _, place := range []string{"fromHeaders", "fromParams", "fromSubprotocols"} {
		if place != l.place {
			s = s.with("authentication.jwt."+place, []any{})
		}
	}
	g := start(t, s)

	refused := l.connect(t, g, "/my-agent", i.token(t, "aud", "another-service"))
	expired, drained, lost := l.untilExpiry(t, g, i), l.open(t, g, "/my-agent", i), l.open(t, g, "/doomed", i)
	leave()
	cells := []string{l.name, l.sends, showed(refused), showed(expired), "", showed(lost)}
	g.awaitLine("msg", "refused", "reason", "wrong-audience")
	g.awaitLine("msg", "ended", "reason", "expired")
	g.awaitLine("msg", "ended", "reason", "upstream-lost")
	g.stop()
	cells[4] = showed(drained)
	return "| " + strings.Join(cells, " | ") + " |"
}

// showed is what a program has shown at its end, which is its next line.
func showed(program *speaker) string {
	program.t.Helper()
	line := program.next()
	words, ok := strings.CutPrefix(line, "shown ")
	if !ok {
		program.t.Errorf("it says %q, and not what it shows", line)
	}
	return words
}

// serve starts an agent for the library and gives its address, and what makes it hang up on
// everything.
func (l library) serve(t *testing.T) (address string, leave func()) {
	if l.agent == "" {
		a := newAgent(t, nil)
		return a.URL, a.close
	}
	cmd := clientFor(t, 5*patience, "node", "clients/shown/agents.js", l.agent) // for all situations together
	said := newSpeaker(t, cmd)
	return "http://127.0.0.1:" + said.next(), func() { cmd.Cancel() }
}

// connect starts the library's program.
func (l library) connect(t *testing.T, g *gateway, prefix, token string) *speaker {
	t.Helper()
	args := append(slices.Clone(l.command[1:]), "ws://"+g.public+prefix+l.path, token)
	return newSpeaker(t, clientFor(t, 2*patience, l.command[0], args...))
}

// open starts the library's program and waits until its connection is open.
func (l library) open(t *testing.T, g *gateway, prefix string, i *issuer) *speaker {
	t.Helper()
	p := l.connect(t, g, prefix, i.token(t))
	if line := p.next(); line != "open" {
		t.Fatalf("not open: %s", line)
	}
	return p
}

// untilExpiry opens a connection whose token ends soon, but not before the connection is open:
// that takes a busy machine some time.
func (l library) untilExpiry(t *testing.T, g *gateway, i *issuer) *speaker {
	t.Helper()
	for lifetime := 2 * time.Second; lifetime < patience; lifetime *= 2 {
		p := l.connect(t, g, "/my-agent", i.token(t, "exp", inSeconds(lifetime.Seconds())))
		if p.next() == "open" {
			return p
		}
	}
	t.Fatal("never open before its token has ended")
	return nil
}
