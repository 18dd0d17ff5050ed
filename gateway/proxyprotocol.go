package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/altairalabs/omnia-gateway/gateway/relay"
)

// balanced is a connection that a load balancer begins with a PROXY protocol header. The header is
// read by the first goroutine that asks for bytes or for the client's address, which is the
// connection's own and not the one that accepts.
type balanced struct {
	*relay.Conn
	timeout time.Duration
	log     *slog.Logger

	once   sync.Once
	source net.Addr // the client that the header names; nil: the load balancer speaks for itself
	err    error    // the header was missing, late or wrong; nothing more is read
}

const (
	// maxHeaderV1 is the longest line of version 1, with its end.
	maxHeaderV1 = 107
	// maxHeaderV2 bounds what follows the fixed part of version 2: addresses, and extensions such
	// as a client certificate's name.
	maxHeaderV2 = 4096
)

// NetConn returns the connection without the header, for the relay.
func (b *balanced) NetConn() net.Conn { return b.Conn }

// RemoteAddr returns the client's address, or the peer's if there is no other.
func (b *balanced) RemoteAddr() net.Addr {
	if b.begin() == nil && b.source != nil {
		return b.source
	}
	return b.Conn.RemoteAddr()
}

// Read reads what follows the header.
func (b *balanced) Read(p []byte) (int, error) {
	if err := b.begin(); err != nil {
		return 0, err
	}
	return b.Conn.Read(p)
}

// begin reads the header, once. Every later byte stays in the connection, so that the relay finds
// it there.
func (b *balanced) begin() error {
	b.once.Do(func() {
		b.SetReadDeadline(time.Now().Add(b.timeout))
		defer b.SetReadDeadline(time.Time{})
		if b.source, b.err = readProxyHeader(b.Conn); b.err == nil {
			return
		}
		// A load balancer that looks whether the port is open sends nothing.
		if b.err != io.EOF {
			b.log.Warn("no PROXY protocol header", "remote", b.Conn.RemoteAddr().String(), "err", b.err.Error())
		}
		// net/http answers what it cannot read with a 400, but not an error of the network: a peer
		// that sent no header gets no answer.
		b.err = &net.OpError{Op: "read", Net: "tcp", Addr: b.Conn.RemoteAddr(), Err: b.err}
	})
	return b.err
}

// readProxyHeader reads one header and not a byte more. An io.EOF means that there was no byte at
// all. The address is nil if the header has none.
func readProxyHeader(r io.Reader) (source net.Addr, err error) {
	header := make([]byte, len(proxyproto.SIGV2), maxHeaderV1) // no header of either version is shorter
	if _, err := io.ReadFull(r, header); err == io.EOF {
		return nil, err
	} else if err != nil {
		return nil, incomplete(err)
	}
	switch {
	case bytes.Equal(header, proxyproto.SIGV2):
		if header, err = restOfV2(r, header); err != nil {
			return nil, err
		}
	case bytes.HasPrefix(header, proxyproto.SIGV1):
		if header, err = restOfV1(r, header); err != nil {
			return nil, err
		}
	default:
		return nil, proxyproto.ErrNoProxyProtocol
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(header), len(header)))
	if err != nil || h.Command.IsLocal() {
		return nil, err
	}
	addr, _, ok := h.TCPAddrs()
	if !ok {
		return nil, errors.New("the header names no TCP address")
	}
	if ip, ok := netip.AddrFromSlice(addr.IP); !ok || ip.Unmap().IsUnspecified() {
		return nil, errors.New("the header names no client")
	}
	return addr, nil
}

// restOfV1 reads on until the end of the line. A byte at a time, as nothing says how long the line
// is.
func restOfV1(r io.Reader, line []byte) ([]byte, error) {
	for b := make([]byte, 1); line[len(line)-1] != '\n'; line = append(line, b[0]) {
		if len(line) == maxHeaderV1 {
			return nil, proxyproto.ErrVersion1HeaderTooLong
		}
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, incomplete(err)
		}
	}
	return line, nil
}

// restOfV2 reads the fixed part, which ends with the length of what follows.
func restOfV2(r io.Reader, header []byte) ([]byte, error) {
	header = append(header, 0, 0, 0, 0)
	if _, err := io.ReadFull(r, header[len(proxyproto.SIGV2):]); err != nil {
		return nil, incomplete(err)
	}
	n := int(binary.BigEndian.Uint16(header[len(header)-2:]))
	if n > maxHeaderV2 {
		return nil, fmt.Errorf("a header of %d bytes", n)
	}
	fixed := len(header)
	header = append(header, make([]byte, n)...)
	if _, err := io.ReadFull(r, header[fixed:]); err != nil {
		return nil, incomplete(err)
	}
	return header, nil
}

// incomplete is the error of a header that stops in its middle.
func incomplete(err error) error {
	switch {
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("the header is not complete in time")
	}
	return err
}

// balancers decides whose connections begin with a header.
type balancers struct {
	from    []netip.Prefix
	timeout time.Duration
	log     *slog.Logger
}

// over returns c, or c without its header if it comes from a load balancer.
func (b balancers) over(c *relay.Conn) net.Conn {
	if peer, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		addr := peer.AddrPort().Addr().Unmap()
		if slices.ContainsFunc(b.from, func(network netip.Prefix) bool { return network.Contains(addr) }) {
			return &balanced{Conn: c, timeout: b.timeout, log: b.log}
		}
	}
	return c
}
