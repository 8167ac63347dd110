package engine_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
)

// shortEnv holds the directory of the store of TestShortOpeningsRecycle's child.
const shortEnv = "PAGECACHE_SHORT_CHILD"

const shortSegment, shortPages, shortValue = 1 << 20, 50, 20 << 10

// shortOpening opens the store in dir, replaces 1 MiB, and returns the open store after stayed. Some pages are never
// replaced, so that segments do not become empty by themselves.
func shortOpening(dir string) (*engine.PageCache[[]byte], error) {
	stay := stayed(50)
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{SegmentSize: shortSegment})
	if err != nil {
		return nil, err
	}
	tx, err := pc.Begin()
	if err != nil {
		return nil, err
	}
	for i := range shortPages + shortPages/10 {
		pid := engine.FirstUserPage + engine.PageID(i)
		p, err := pc.Get(tx, pid)
		switch {
		case err != nil:
			return nil, err
		case p.Kind != engine.KindMaterialized:
			_, _, err = pc.Allocate(tx, make([]byte, shortValue))
		case i%11 > 0:
			_, _, err = pc.Replace(tx, pid, p.Ptr, make([]byte, shortValue))
		}
		if err != nil {
			return nil, err
		}
	}
	tx.End()
	if _, err := pc.Flush(); err != nil {
		return nil, err
	}
	<-stay
	return pc, nil
}

// stayed closes its channel after n milliseconds in which this process had a turn. On a busy machine a process may get
// no turn for longer than a whole opening, and nothing can be cleaned in it.
func stayed(n int) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			time.Sleep(time.Millisecond)
		}
	}()
	return done
}

// The child of TestShortOpeningsRecycle: an opening that ends by SIGKILL.
func TestShortOpeningChild(t *testing.T) {
	dir := os.Getenv(shortEnv)
	if dir == "" {
		t.Skip("only for TestShortOpeningsRecycle")
	}
	if _, err := shortOpening(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// A store that is open for 50 ms at a time, and is then closed or killed, recycles its segments. Proves trap 44; rules
// 4 and 9. It runs alone: other tests would take the time from the cleaner that an opening is given.
func TestShortOpeningsRecycle(t *testing.T) {
	openings := 30
	if *spaceFull {
		openings = 200
	}
	for _, kill := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "store")
		for range openings {
			if kill {
				cmd := exec.Command(os.Args[0], "-test.run", "^TestShortOpeningChild$")
				cmd.Env = append(os.Environ(), shortEnv+"="+dir)
				if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() >= 0 {
					t.Fatalf("the child was not killed: %v, %s", err, out)
				}
				continue
			}
			pc, err := shortOpening(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := pc.Close(); err != nil {
				t.Fatal(err)
			}
		}
		const live = (shortPages + shortPages/10) * shortValue
		// The io buffers are segments in use, too.
		most := int64(3*live + (keptSlots+3)*shortSegment)
		size, space := occupied(t, filepath.Join(dir, "log"))
		t.Logf("killed %v: %d KiB, of which %d occupied", kill, size>>10, space>>10)
		if space > most || size > most+4*shortSegment {
			t.Errorf("killed %v: %d KiB, %d occupied, want %d KiB", kill, size>>10, space>>10, most>>10)
		}
	}
}
