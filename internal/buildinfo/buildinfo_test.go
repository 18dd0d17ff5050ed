package buildinfo

import (
	"runtime/debug"
	"testing"
)

func TestRead(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	vcs := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: commit}}
	for _, test := range []struct {
		name, main        string
		settings          []debug.BuildSetting
		version, revision string // of the linker
		want              string
	}{
		{name: "checkout without a stamp", main: "(devel)", want: "devel go1.26"},
		{name: "checkout", main: "v0.1.1-0.20260102030405-0123456789ab+dirty", settings: vcs,
			want: "v0.1.1-0.20260102030405-0123456789ab+dirty " + commit + " go1.26"},
		{name: "go install of a tag", main: "v1.2.3", want: "v1.2.3 go1.26"},
		{name: "go install of a commit", main: "v0.0.0-20260102030405-0123456789ab",
			want: "v0.0.0-20260102030405-0123456789ab 0123456789ab go1.26"},
		{name: "image", main: "(devel)", version: "v1.2.3", revision: commit, want: "v1.2.3 " + commit + " go1.26"},
		{name: "nothing is known", want: "devel go1.26"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &debug.BuildInfo{GoVersion: "go1.26", Main: debug.Module{Version: test.main}, Settings: test.settings}
			if got := read(b, test.version, test.revision).String(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
