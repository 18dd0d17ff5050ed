//go:build !linux

package gateway

import (
	"errors"
	"sync/atomic"
	"time"
)

// lot parks nobody here: every direction keeps its goroutine.
type lot struct {
	after   time.Duration
	settled atomic.Uint64
}

func newLot(time.Duration) (*lot, error) { return nil, nil }

func (l *lot) close()            {}
func (l *lot) run()              {}
func (l *lot) watch(*pump) error { return errors.ErrUnsupported }
func (l *lot) forget(*pump)      {}
