package main

import (
	"testing"
	"testing/fstest"
)

func TestMemoryOfTheContainer(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"none": {nil, 0},
		"cgroup v1": {map[string]string{
			"proc/self/cgroup": "4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "5\n",
		}, 0},
		"no limit":         {map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 0},
		"in its namespace": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30},
		"its own":          {map[string]string{"proc/self/cgroup": "1:name=x:/\n0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "7\n"}, 7},
		"of one above": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "6\n",
		}, 6},
		"the least": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "9\n", "sys/fs/cgroup/a/memory.max": "8\n",
		}, 8},
		"outside of what is mounted": {map[string]string{"proc/self/cgroup": "0::/../../a\n", "sys/fs/cgroup/memory.max": "5\n"}, 5},
		"nonsense":                   {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "-1\n"}, 0},
	} {
		root := fstest.MapFS{}
		for file, text := range c.files {
			root[file] = &fstest.MapFile{Data: []byte(text)}
		}
		if got, ok := containerMemory(root); got != c.want || ok != (c.want > 0) {
			t.Errorf("%s: %d, %v, want %d", name, got, ok, c.want)
		}
	}
}
