package osfs

import (
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// MemoryLimit returns the number of bytes of memory that this process may use: those of the machine, or fewer if its
// cgroup or one above that has a limit; 0 if none of these is known. They are read once, so later changes have no
// effect. Safe for concurrent use.
var MemoryLimit = sync.OnceValue(func() int64 {
	var machine int64
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		machine = int64(min(uint64(info.Totalram)*uint64(info.Unit), math.MaxInt64))
	}
	return lowest(machine, cgroupLimit(os.ReadFile))
})

// lowest returns the lower of two limits, of which 0 means none.
func lowest(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// cgroupLimit returns the lowest memory limit of the cgroups, of version 1 and 2, that this process is in; 0 if there
// is none. read reads a file.
func cgroupLimit(read func(name string) ([]byte, error)) (limit int64) {
	groups, err := read("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	mounts, err := read("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	for m := range strings.Lines(string(mounts)) {
		at, version, ok := parseMount(m)
		if !ok {
			continue
		}
		group, file, ok := "", "memory.max", false
		if version == 1 {
			file = "memory.limit_in_bytes"
		}
		for g := range strings.Lines(string(groups)) {
			f := strings.SplitN(strings.TrimSuffix(g, "\n"), ":", 3)
			if len(f) == 3 && (version == 2 && f[1] == "" ||
				version == 1 && slices.Contains(strings.Split(f[1], ","), "memory")) {
				group, ok = f[2], true
			}
		}
		for dir := at.below(group); ok; dir = path.Dir(dir) { // up to the root
			if b, err := read(path.Join(at.point, dir, file)); err == nil {
				// "max" is no number.
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
					limit = lowest(limit, n)
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}

// cgroupMount is where a hierarchy of cgroups is mounted.
type cgroupMount struct {
	root  string // the cgroup that is mounted there
	point string
}

// parseMount parses a line of /proc/self/mountinfo. ok says that a hierarchy with the controller of memory is mounted
// there, and version is that of cgroups.
func parseMount(line string) (m cgroupMount, version int, ok bool) {
	before, after, found := strings.Cut(line, " - ")
	f, g := strings.Fields(before), strings.Fields(after) // ids, device, root, mount point, …; type, source, options
	if !found || len(f) < 5 || len(g) < 3 {
		return m, 0, false
	}
	m = cgroupMount{root: f[3], point: f[4]}
	switch {
	case g[0] == "cgroup2":
		return m, 2, true
	case g[0] == "cgroup" && slices.Contains(strings.Split(g[2], ","), "memory"):
		return m, 1, true
	}
	return m, 0, false
}

// below returns the path of a cgroup below the mount point. A cgroup that is not mounted there, as in some containers,
// counts as the one that is.
func (m cgroupMount) below(group string) string {
	if m.root == "/" {
		return path.Clean("/" + group)
	}
	if rest, ok := strings.CutPrefix(group, m.root); ok && (rest == "" || rest[0] == '/') {
		return path.Clean("/" + rest)
	}
	return "/"
}
