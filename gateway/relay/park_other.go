//go:build !linux

package relay

import (
	"errors"
	"sync/atomic"
	"time"
)

// Lanes take care of quiet sessions on Linux. Here they take none: every direction keeps its
// goroutine.
type Lanes struct {
	after   time.Duration
	settled atomic.Uint64
}

func newLanes(after time.Duration) (*Lanes, error) { return &Lanes{after: after}, nil }

// Close does nothing.
func (l *Lanes) Close() {}

// Run returns at once.
func (l *Lanes) Run() {}

func (l *Lanes) watch(*pump) error { return errors.ErrUnsupported }
func (l *Lanes) forget(*pump)      {}
