// Package buildinfo tells what a binary was made from, however it was made: from a checkout, by
// go install, or in an image that has no git.
package buildinfo

import (
	"cmp"
	"regexp"
	"runtime/debug"
)

// Set by the linker where the toolchain cannot know them: -ldflags "-X
// github.com/altairalabs/omnia-gateway/internal/buildinfo.version=v1.2.3".
var version, revision string

// Info is what a binary was made from.
type Info struct {
	// Version is a tag or a pseudo-version of the module, "devel" if it is not known.
	Version string
	// Revision is the commit, "" if it is not known.
	Revision string
	// Go is the version of the toolchain.
	Go string
}

// Read returns what this binary was made from.
func Read() Info {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		b = &debug.BuildInfo{}
	}
	return read(b, version, revision)
}

// pseudo is a version that go install makes of a commit without a tag: its last part is the
// beginning of the commit.
var pseudo = regexp.MustCompile(`[-.]\d{14}-([0-9a-f]{12})(\+.*)?$`)

// read puts together what the toolchain and the linker know.
func read(b *debug.BuildInfo, version, revision string) Info {
	stamped := b.Main.Version
	if stamped == "(devel)" {
		stamped = ""
	}
	i := Info{Version: cmp.Or(version, stamped, "devel"), Revision: revision, Go: b.GoVersion}
	for _, s := range b.Settings {
		if s.Key == "vcs.revision" {
			i.Revision = cmp.Or(i.Revision, s.Value)
		}
	}
	if m := pseudo.FindStringSubmatch(i.Version); m != nil {
		i.Revision = cmp.Or(i.Revision, m[1])
	}
	return i
}

// String is the version, the revision if it is known, and the toolchain.
func (i Info) String() string {
	s := i.Version
	if i.Revision != "" {
		s += " " + i.Revision
	}
	return s + " " + i.Go
}
