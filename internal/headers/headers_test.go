package headers

import (
	"slices"
	"testing"
)

func TestList(t *testing.T) {
	for _, c := range []struct{ lines, want []string }{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{" , \t,"}, nil},
		{[]string{"a"}, []string{"a"}},
		{[]string{"a, b,,c\t", " d"}, []string{"a", "b", "c", "d"}},
		{[]string{"keep-alive, Upgrade"}, []string{"keep-alive", "Upgrade"}},
		{[]string{"a b;q=1,c"}, []string{"a b;q=1", "c"}},
		// White space of Unicode is a part of an element, so that the elements of a list are the
		// same for those who look for a token in it and for those who judge the handshake.
		{[]string{"upgrade\u00a0, \u0085a"}, []string{"upgrade\u00a0", "\u0085a"}},
		{[]string{"a\v"}, []string{"a\v"}},
	} {
		if got := List(c.lines); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q", c.lines, got)
		}
	}
}
