package gateway

import (
	"net/netip"
	"testing"
	"time"
)

func TestRefusedTokensCostAGrowingWait(t *testing.T) {
	r, now := newRefused(3), time.Unix(1e9, 0)
	r.now = func() time.Time { return now }
	one, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:0:1::1")
	same := netip.MustParseAddr("2001:db8::ffff") // of the same /64
	for range 3 {
		r.add(one)
	}
	if w := r.waits(one); w != 0 {
		t.Errorf("waits %s within the limit", w)
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		r.add(same)
		if w := r.waits(one); w != want*time.Second {
			t.Errorf("waits %s, want %ds", w, want)
		}
		if w := r.waits(other); w != 0 {
			t.Errorf("another network waits %s", w)
		}
	}
	now = now.Add(59 * time.Second)
	if w := r.waits(one); w != time.Second {
		t.Errorf("a second before the end: %s", w)
	}
	now = now.Add(time.Second + forgiven + time.Second)
	for range 4 {
		r.add(one)
	}
	if w := r.waits(one); w != time.Second {
		t.Errorf("after a while without refusals: %s", w)
	}
	for n := range 2 * manyAddresses {
		r.add(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}))
	}
	if n := r.by.Len(); n != manyAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
	off := newRefused(0)
	for range 100 {
		off.add(one)
	}
	if off.waits(one) != 0 || off.by.Len() != 0 {
		t.Error("an address is remembered although the limit is off")
	}
}
