//go:build linux

package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// peer is one end of a WebSocket connection that costs as little as it can. Only unfragmented
// messages are expected.
type peer struct {
	net.Conn
	r      *bufio.Reader
	client bool
	rested chan error // how the reading of a client at rest has ended; nil for others
}

// newPeer is the end of c whose bytes come from r: c itself, or a reader that has read some.
func newPeer(c net.Conn, r io.Reader, path string, client bool) *peer {
	return &peer{Conn: c, r: newReader(r, path), client: client}
}

// newReader has a buffer that suits the messages, so that thousands may be open and a stream
// takes few system calls.
func newReader(r io.Reader, path string) *bufio.Reader {
	if path == pathEcho {
		return bufio.NewReaderSize(r, 4<<10)
	}
	return bufio.NewReaderSize(r, 2*streamSize)
}

// frame is a frame's head.
type frame struct {
	op   byte
	size int
	key  []byte // nil when not masked
}

// closed is the error that stands for a Close with this code; 0 when it has none.
type closed int

func (c closed) Error() string { return fmt.Sprintf("closed with %d", int(c)) }

// next returns the head of the next data frame; the caller then reads its payload. It answers a
// Ping, and a Close, for which it returns the error closed.
func (p *peer) next() (frame, error) {
	for {
		f, err := p.head()
		if err != nil || f.op < rawws.Close {
			return f, err
		}
		payload, err := p.payload(f, nil)
		if err != nil {
			return f, err
		}
		switch f.op {
		case rawws.Close:
			if !p.client { // a client has sent its own before
				_, err = p.Write(rawws.Make(rawws.Fin|rawws.Close, payload, p.client))
			}
			if err == nil {
				err = closed(rawws.Frame{First: rawws.Close, Payload: payload}.Code())
			}
			return f, err
		case rawws.Ping:
			if _, err := p.Write(rawws.Make(rawws.Fin|rawws.Pong, payload, p.client)); err != nil {
				return f, err
			}
		}
	}
}

func (p *peer) head() (frame, error) {
	first, size, key, err := rawws.ReadHead(p.r)
	if err == nil && size > 2*streamSize {
		err = fmt.Errorf("frame of %d bytes", size)
	}
	return frame{first & 0x0f, int(size), key}, err
}

// payload reads the payload of f into b, or into a longer one.
func (p *peer) payload(f frame, b []byte) ([]byte, error) {
	b = slices.Grow(b[:0], f.size)[:f.size]
	_, err := io.ReadFull(p.r, b)
	if f.key != nil {
		for i := range b {
			b[i] ^= f.key[i%4]
		}
	}
	return b, err
}

// skip reads the next message, which must be of this kind and size.
func (p *peer) skip(op byte, size int) error {
	f, err := p.next()
	if err != nil {
		return err
	}
	if f.op != op || f.size != size {
		return fmt.Errorf("got opcode %d and %d bytes instead of opcode %d and %d bytes", f.op, f.size, op, size)
	}
	_, err = p.r.Discard(size)
	return err
}

// leave closes a client's connection as RFC 6455 §7.1.2 has it.
func (p *peer) leave() error {
	defer p.Close()
	p.SetDeadline(time.Now().Add(patience))
	if _, err := p.Write(rawws.MakeClose(1000, "", true)); err != nil {
		return err
	}
	var err error
	if p.rested != nil {
		err = <-p.rested
	} else {
		_, err = p.next()
	}
	if err != closed(1000) {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// agreed is what the two sides have agreed on for TLS; empty for plain.
func (p *peer) agreed() string {
	c, ok := p.Conn.(*tls.Conn)
	if !ok {
		return ""
	}
	s := c.ConnectionState()
	return fmt.Sprintf("%s %s %s", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.CurveID)
}
