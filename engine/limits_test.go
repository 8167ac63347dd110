package engine

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
)

// limitsEnv holds the limit of a child: address space, or whatever the parent has put it under.
const limitsEnv = "PAGECACHE_LIMITS_CHILD"

// raced: the race detector, which takes several times the memory, is on.
var raced bool

// Where memory is short a store gets slower and does not die: with no address space left for windows of the file it reads into the heap; in a cgroup whose memory is less than the
// file, the kernel takes the file's pages back.
func TestMemoryIsShort(t *testing.T) {
	if what := os.Getenv(limitsEnv); what != "" {
		limitsChild(t, what)
		return
	}
	run := func(t *testing.T, what string, started func(pid int) error) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryIsShort$", "-test.v")
		// A heap limit as an embedder in such a place would set it.
		cmd.Env = append(os.Environ(), limitsEnv+"="+what+":"+t.TempDir(), "GOMEMLIMIT=96MiB")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			err = started(cmd.Process.Pid)
			err = errors.Join(err, in.Close()) // the child waits for it
			err = errors.Join(cmd.Wait(), err)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out.Bytes())
		}
		if s := out.String(); !strings.Contains(s, "PASS: TestMemoryIsShort") {
			t.Fatalf("the child did not run:\n%s", s)
		} else if i := strings.Index(s, "limits:"); i >= 0 {
			t.Log(s[i : i+strings.Index(s[i:], "\n")])
		}
	}
	t.Run("address space", func(t *testing.T) { run(t, "space", func(int) error { return nil }) })
	t.Run("cgroup", func(t *testing.T) {
		limit := 160 << 20
		if raced {
			limit *= 4
		}
		join, remove := memoryGroup(t, limit)
		defer remove()
		run(t, "group", join)
	})
}

// memoryGroup makes a cgroup with so much memory.
func memoryGroup(t *testing.T, limit int) (join func(pid int) error, remove func()) {
	for _, v := range []struct{ root, file string }{{"/sys/fs/cgroup", "memory.max"}, {"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}} {
		dir := filepath.Join(v.root, fmt.Sprint("pagecache-test-", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if os.WriteFile(filepath.Join(dir, v.file), fmt.Append(nil, limit), 0) != nil {
			_ = os.Remove(dir)
			continue
		}
		return func(pid int) error { return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0) }, func() { _ = os.Remove(dir) }
	}
	t.Skip("SKIPPED: no cgroup for memory can be made here (it needs root and the memory controller)")
	return nil, nil
}

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
		limit := uint64(vm)*4096 + 500<<20 // less than a window
		if raced {
			limit += 450 << 20
		}
		if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			t.Fatal(err)
		}
	}
	const pages, size = 80_000, 4000
	pc := openTest(t, dir, &Options{CacheCapacity: 24 << 20})
	value := func(pid PageID, round byte) []byte {
		b := bytes.Repeat([]byte{byte(pid), byte(pid >> 8), round, byte(pid >> 16)}, size/4)
		return b
	}
	rounds := map[PageID]byte{}
	for i := 0; i < pages; {
		tx := begin(t, pc)
		for range 1000 {
			pid := FirstUserPage + PageID(i)
			if got, _, err := pc.Allocate(tx, value(pid, 0)); err != nil || got != pid {
				t.Fatal(got, err)
			}
			i++
		}
		tx.End()
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for n := range 60_000 {
		tx := begin(t, pc)
		pid := FirstUserPage + PageID(rng.IntN(pages))
		p, err := pc.Get(tx, pid)
		if err != nil || !bytes.Equal(p.Value, value(pid, rounds[pid])) {
			t.Fatalf("%d Gets: page %d: %d bytes, %v", n, pid, len(p.Value), err)
		}
		if n%4 == 0 {
			rounds[pid]++
			must(t)(pc.Replace(tx, pid, p.Ptr, value(pid, rounds[pid])))
		}
		tx.End()
	}
	st := pc.Stats()
	fmt.Printf("limits: %s: %d MiB in the heap, %d MiB mapped, %d fetches, %d of them cold, %d evictions\n", what, st.Cache.HeapResident>>20, st.Cache.MappedResident>>20, st.Pages.Fetches, st.Pages.FetchesCold,
		st.Cache.Evictions)
	closeTest(t, pc)
}
