package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryGroups are the places where cgroups of version 1 and 2 are usually mounted, and the files with the limit.
var memoryGroups = []struct{ root, file string }{
	{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	{"/sys/fs/cgroup", "memory.max"},
}

// groupName returns the name of the cgroup that the children of the process parent make.
func groupName(parent int) string { return "pagecache-compare-" + strconv.Itoa(parent) }

// limitMemory limits the memory of this process, the file cache that it uses included, by a cgroup. The parent process
// removes the cgroup by dropLimit.
func limitMemory(bytes int64) error {
	for _, g := range memoryGroups {
		dir := filepath.Join(g.root, groupName(os.Getppid()))
		if os.Mkdir(dir, 0o755) != nil && !isDir(dir) {
			continue
		}
		err := os.WriteFile(filepath.Join(dir, g.file), []byte(strconv.FormatInt(bytes, 10)), 0)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
		}
		if err == nil {
			return nil
		}
	}
	return errSkip("no cgroup can be made that limits the memory")
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// dropLimit removes the cgroup of the children of this process, which have ended.
func dropLimit() {
	for _, g := range memoryGroups {
		_ = os.Remove(filepath.Join(g.root, groupName(os.Getpid()))) // there is one at most
	}
}

// diskBytes returns the bytes that this process has read from disks and written to them.
func diskBytes() (read, written float64) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		var n float64
		if _, err := fmt.Sscanf(line, "read_bytes: %f", &n); err == nil {
			read = n
		}
		if _, err := fmt.Sscanf(line, "write_bytes: %f", &n); err == nil {
			written = n
		}
	}
	return read, written
}
