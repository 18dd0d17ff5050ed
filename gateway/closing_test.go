package gateway

import (
	"bufio"
	"net"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// An agent that has said all and sent its Close waits for a client that is still sending: whoever must answer is the client, and it is
// not silent.
func TestSideThatIsStillSendingIsNotCutByTheOthersClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pair := func() (outside net.Conn, inside *link) {
		outside, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { outside.Close() })
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		w, err := newWire(c.(*net.TCPConn))
		if err != nil {
			t.Fatal(err)
		}
		if inside, err = newLink(w); err != nil {
			t.Fatal(err)
		}
		return outside, inside
	}
	client, clientLink := pair()
	agent, agentLink := pair()
	const patience = 50 * time.Millisecond
	r := newRelay(clientLink, agentLink, nil, nil, 0, relayRules{maxMessage: 1 << 20, pingInterval: patience, replyWait: patience})
	ended := make(chan *ending, 1)
	go func() { ended <- r.run() }()

	agent.Write(rawws.MakeClose(1000, "", false))
	clientBuf, agentBuf := bufio.NewReader(client), bufio.NewReader(agent)
	if f, err := rawws.Read(clientBuf); err != nil || f.Code() != 1000 {
		t.Fatalf("the client got %v, %v", f, err)
	}
	for began := time.Now(); time.Since(began) < 6*patience; {
		client.Write(text("still sending", true))
		if f, err := rawws.Read(agentBuf); err != nil || string(f.Payload) != "still sending" {
			t.Fatalf("the agent got %v, %v", f, err)
		}
	}
	client.Write(rawws.MakeClose(1000, "", true))
	if f, err := rawws.Read(agentBuf); err != nil || f.Code() != 1000 {
		t.Fatalf("the agent got %v, %v", f, err)
	}
	client.Close()
	agent.Close()
	if e := <-ended; e.reason != Closed || e.err != "" {
		t.Errorf("ended as %v: %s", e.reason, e.err)
	}
}
