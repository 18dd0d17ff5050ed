//go:build !linux

package relay

import "testing"

func parkingLot(t testing.TB) *Lanes {
	t.Skip("nobody is parked on this system")
	return nil
}
