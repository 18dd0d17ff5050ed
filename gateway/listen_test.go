package gateway

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// faulty is a listener whose Accept fails with errors before it gives a connection.
type faulty struct {
	net.Listener
	faults chan error
	closed chan struct{}
}

func (l *faulty) Accept() (net.Conn, error) {
	select {
	case err := <-l.faults:
		if err != nil {
			return nil, &net.OpError{Op: "accept", Err: err}
		}
		return &net.TCPConn{}, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Err: net.ErrClosed}
	}
}

func (l *faulty) Close() error {
	close(l.closed)
	return nil
}

// accept(2) lists errors of the network that belong to one connection, and others pass with
// time. None may end the process.
func TestErrorsOfAcceptEndNothing(t *testing.T) {
	for _, fault := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPROTO, syscall.EPERM,
		syscall.ENETDOWN, syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.ENONET, syscall.EHOSTUNREACH, syscall.EOPNOTSUPP,
		syscall.ENETUNREACH, syscall.EINVAL, errors.New("an error that no page lists"),
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &faulty{faults: make(chan error, 64), closed: make(chan struct{})}
			var log bytes.Buffer
			s := newSteady(l, slog.New(slog.NewTextHandler(&log, nil)))
			for range 50 {
				l.faults <- fault
			}
			l.faults <- nil
			start := time.Now()
			if c, err := s.Accept(); c == nil || err != nil {
				t.Fatalf("%v: got %v, %v", fault, c, err)
			}
			if took := time.Since(start); took < 40*time.Second || took > 50*time.Second {
				t.Errorf("%v: 50 faults took %s", fault, took)
			}
			if n := strings.Count(log.String(), "connection not accepted"); n < 3 || n > 6 ||
				!strings.Contains(log.String(), fault.Error()) {
				t.Errorf("%v: %d lines\n%s", fault, n, log.String())
			}
		})
	}
}

func TestClosedListenerEndsAcceptWhileItPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &faulty{faults: make(chan error, 64), closed: make(chan struct{})}
		s := newSteady(l, slog.New(slog.DiscardHandler))
		for range cap(l.faults) {
			l.faults <- syscall.EMFILE
		}
		go func() {
			time.Sleep(5*time.Second + time.Millisecond)
			for range len(l.faults) {
				<-l.faults
			}
			s.Close()
			s.Close()
		}()
		start := time.Now()
		if _, err := s.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("got %v", err)
		}
		if took := time.Since(start); took != 5*time.Second+time.Millisecond {
			t.Errorf("Accept returned after %s", took)
		}
	})
}
