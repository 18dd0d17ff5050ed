package main

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory has Go's collector work harder before the container's memory is used up, unless
// GOMEMLIMIT has set a limit.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit, ok := containerMemory(os.DirFS("/")); ok {
		debug.SetMemoryLimit(limit / 10 * 9) // the rest is for what is not Go's
	}
}

// containerMemory returns how much memory the process may use: the least of its control group and
// those above it (cgroup v2), as seen in the root file system.
func containerMemory(root fs.FS) (least int64, ok bool) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(groups)); lines.Scan(); {
		group, found := strings.CutPrefix(lines.Text(), "0::")
		if !found {
			continue
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			text, _ := fs.ReadFile(root, path.Join("sys/fs/cgroup", group, "memory.max"))
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 && (!ok || n < least) {
				least, ok = n, true // other texts are "max", or no file
			}
			if group == "/" {
				break
			}
		}
	}
	return least, ok
}
