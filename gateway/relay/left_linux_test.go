package relay

import "testing"

// left fails the test if a session is left in a lane.
func left(t testing.TB, l *Lanes) {
	t.Helper()
	for _, lane := range l.all {
		for fd, s := range lane.by {
			if s != nil {
				t.Errorf("descriptor %d is left in a lane", fd)
			}
		}
		if n := len(lane.timers); n > 0 {
			t.Errorf("%d timers are left in a lane", n)
		}
	}
}
