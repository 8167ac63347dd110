package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// limitsEnv tells a child process its limit, space or group, and its directory. In a group, the parent sets the limit.
const limitsEnv = "PAGECACHE_LIMITS_CHILD"

// With little memory a store gets slower and does not fail. Without address space for a mapping of the file it reads
// into the heap. In a cgroup with less memory than the file, the kernel reclaims the file's pages.
func TestLowMemory(t *testing.T) {
	if what := os.Getenv(limitsEnv); what != "" {
		limitsChild(t, what)
		return
	}
	t.Parallel()
	run := func(t *testing.T, what string, started func(pid int) error) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLowMemory$", "-test.v")
		// With so little memory, the embedder would limit the heap too.
		cmd.Env = append(os.Environ(), limitsEnv+"="+what+":"+t.TempDir(), "GOMEMLIMIT=96MiB")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			err = started(cmd.Process.Pid)
			err = errors.Join(err, in.Close()) // the child waits for the end of its input
			err = errors.Join(cmd.Wait(), err)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out.Bytes())
		}
		if s := out.String(); !strings.Contains(s, "PASS: TestLowMemory") {
			t.Fatalf("the child did not run:\n%s", s)
		} else if i := strings.Index(s, "limits:"); i >= 0 {
			t.Log(s[i : i+strings.Index(s[i:], "\n")])
		}
	}
	t.Run("address space", func(t *testing.T) { run(t, "space", func(int) error { return nil }) })
	t.Run("cgroup", func(t *testing.T) {
		limit := 160 << 20
		if enginetest.Raced {
			limit *= 4
		}
		join, remove := memoryGroup(t, limit)
		defer remove()
		run(t, "group", join)
	})
}

// memoryGroup makes a cgroup with limit bytes of memory. It skips the test if it cannot.
func memoryGroup(t *testing.T, limit int) (join func(pid int) error, remove func()) {
	for _, v := range []struct{ root, file string }{
		{"/sys/fs/cgroup", "memory.max"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	} {
		dir := filepath.Join(v.root, fmt.Sprint("pagecache-test-", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if os.WriteFile(filepath.Join(dir, v.file), fmt.Append(nil, limit), 0) != nil {
			_ = os.Remove(dir)
			continue
		}
		join = func(pid int) error {
			return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0)
		}
		return join, func() { _ = os.Remove(dir) }
	}
	t.Skip("SKIPPED: cannot make a memory cgroup: needs root and the memory controller")
	return nil, nil
}

// limitsChild writes and reads pages of 320 MB in all under the limit of what.
func limitsChild(t *testing.T, what string) {
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent has set the limit
	what, dir, _ := strings.Cut(what, ":")
	if what == "space" {
		var vm int64
		b, err := os.ReadFile("/proc/self/statm")
		if err == nil {
			_, err = fmt.Sscan(string(b), &vm)
		}
		if err != nil {
			t.Fatal(err)
		}
		limit := uint64(vm)*4096 + 500<<20 // less than one window of the mapping
		if enginetest.Raced {
			limit += 450 << 20
		}
		if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			t.Fatal(err)
		}
	}
	const pages, size = 80_000, 4000
	pc := enginetest.Open(t, dir, &engine.Options{CacheCapacity: 24 << 20})
	value := func(pid engine.PageID, round byte) []byte {
		b := bytes.Repeat([]byte{byte(pid), byte(pid >> 8), round, byte(pid >> 16)}, size/4)
		return b
	}
	rounds := map[engine.PageID]byte{}
	for i := 0; i < pages; {
		tx := enginetest.Begin(t, pc)
		for range 1000 {
			pid := engine.FirstUserPage + engine.PageID(i)
			if got, _, err := pc.Allocate(tx, value(pid, 0)); err != nil || got != pid {
				t.Fatal(got, err)
			}
			i++
		}
		tx.End()
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for n := range 60_000 {
		tx := enginetest.Begin(t, pc)
		pid := engine.FirstUserPage + engine.PageID(rng.IntN(pages))
		p, err := pc.Get(tx, pid)
		if err != nil || !bytes.Equal(p.Value, value(pid, rounds[pid])) {
			t.Fatalf("Get %d: page %d: wrong value of %d bytes, error %v", n, pid, len(p.Value), err)
		}
		if n%4 == 0 {
			rounds[pid]++
			enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, value(pid, rounds[pid])))
		}
		tx.End()
	}
	st := pc.Stats()
	fmt.Printf("limits: %s: %d MiB in the heap, %d MiB mapped, %d fetches, %d of them cold, %d evictions\n",
		what, st.Cache.HeapResident>>20, st.Cache.MappedResident>>20, st.Pages.Fetches, st.Pages.FetchesCold,
		st.Cache.Evictions)
	enginetest.Close(t, pc)
}
