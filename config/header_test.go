package config

import "testing"

func TestFold(t *testing.T) {
	for name, want := range map[string]string{
		"X-User-Id": "x-user-id", "x_USER.id": "x-user-id", "": "", "É": "É", "X\u212aEY": "x\u212aey", "a_b.c-d": "a-b-c-d",
	} {
		if got := FoldHeader(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
