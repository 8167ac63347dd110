package pagetest

import (
	"bufio"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// leakPatience is the time that CheckLeaks gives to goroutines that are ending.
const leakPatience = 5 * time.Second

// CheckLeaks fails the test at its end, after all functions that were given to t.Cleanup later, if the test has left
// behind:
//
//   - goroutines that run in, or were started by, packages of this module (use go.uber.org/goleak for all);
//   - open files and directories, and rings of io_uring;
//   - mappings of files.
//
// It waits up to five seconds until they are gone. Call it first in a test that runs alone: files and goroutines of
// parallel tests count, too.
func CheckLeaks(t testing.TB) {
	t.Helper()
	before := held()
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(leakPatience); ; time.Sleep(10 * time.Millisecond) {
			if left = held().without(before); len(left) == 0 || time.Now().After(end) {
				break
			}
		}
		for _, what := range left {
			t.Errorf("the test has left behind: %s", what)
		}
	})
}

// holdings are what the process holds, each with how often.
type holdings map[string]int

// without returns what h has more of than before, sorted.
func (h holdings) without(before holdings) (more []string) {
	for _, what := range slices.Sorted(maps.Keys(h)) {
		if h[what] > before[what] {
			more = append(more, what)
		}
	}
	return more
}

// held returns what the process holds now.
func held() holdings {
	h := holdings{}
	addGoroutines(h)
	addFiles(h)
	addMappings(h)
	return h
}

// addGoroutines adds the goroutines of this module, each with its stack, which begins with its number.
func addGoroutines(h holdings) {
	stacks := make([]byte, 1<<20)
	for {
		n := runtime.Stack(stacks, true)
		if n < len(stacks) {
			stacks = stacks[:n]
			break
		}
		stacks = make([]byte, 2*len(stacks))
	}
	const self = "pagecache/engine/pagetest"
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		number, frames, _ := strings.Cut(stack, " [")
		_, frames, _ = strings.Cut(frames, "\n")
		if !strings.HasPrefix(number, "goroutine ") || !strings.Contains(frames, "pagecache/") &&
			!strings.Contains(frames, "dgraph-io/ristretto") {
			continue
		}
		if strings.Contains(frames, self+".held(") || strings.Contains(frames, "testing.(*T).Run(") {
			continue // this goroutine, or one that waits for a subtest
		}
		h[number+"\n"+frames]++
	}
}

// addFiles adds the open files, directories and rings.
func addFiles(h holdings) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil && isFile(to) {
			h["open file "+to]++
		}
	}
}

// addMappings adds the mappings of files and rings.
func addMappings(h holdings) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if _, name, ok := strings.Cut(lines.Text(), " /"); ok && isFile("/"+name) {
			h["mapping of /"+name]++
		} else if strings.HasSuffix(lines.Text(), ring) {
			h["mapping of "+ring]++
		}
	}
}

// ring is the name of a ring of io_uring in /proc.
const ring = "anon_inode:[io_uring]"

// isFile reports whether a name in /proc is that of a file, directory or ring, and not of the kernel's own.
func isFile(name string) bool {
	return name == ring || strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "/proc/") &&
		!strings.HasPrefix(name, "/sys/") && !strings.HasPrefix(name, "/dev/pts") && name != os.DevNull
}
