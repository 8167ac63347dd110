package engine_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
)

var (
	evictionBytes = flag.Int("eviction.bytes", 2<<20,
		"about how many bytes of values the tests of eviction and cleaning on a real disk keep")
	evictionDir = flag.String("eviction.dir", "", "the directory of their stores [a temporary directory]")
)

// evictionStore returns an empty directory and the options of a store of that many bytes.
func evictionStore(t *testing.T) (string, engine.Options) {
	t.Helper()
	dir := t.TempDir()
	if *evictionDir != "" {
		var err error
		if dir, err = os.MkdirTemp(*evictionDir, "eviction"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	return dir, engine.Options{SegmentSize: min(8<<20, max(64<<10, *evictionBytes/32&^(64<<10-1)))}
}

// ioCounts returns the bytes that this process has had the devices read and write, as the kernel counts them.
func ioCounts(t *testing.T) (read, written int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Logf("bytes of the devices are not known: %v", err)
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "read_bytes: %d", &read)
		_, _ = fmt.Sscanf(line, "write_bytes: %d", &written)
	}
	return read, written
}

// Get and Link on pages at random, with a quarter of the data in cache, write at most a tenth more than with all of it:
// with the policy, the cleaner and the flusher at work, on a real disk. The first round, which fills the store and
// makes the first garbage, does not count. Trap 52.
func TestQuarterOfTheDataInCache(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const size = 1000
	run := func(capacity int64) int64 {
		dir, o := evictionStore(t)
		o.CacheCapacity = capacity
		pc := enginetest.Open(t, dir, &o)
		pids := enginetest.AllocateMany(t, pc, *evictionBytes/size, size)
		rng := rand.New(rand.NewPCG(7, 9))
		delta := make([]byte, 64)
		round := func(links int) {
			for i := range links {
				tx := enginetest.Begin(t, pc)
				pid := pids[rng.IntN(len(pids))]
				p, err := pc.Get(tx, pid)
				if err == nil {
					_, _, err = pc.Link(tx, pid, p.Ptr, delta)
				}
				tx.End()
				if err != nil {
					t.Fatal(err)
				}
				if i%1000 == 999 {
					enginetest.Flush(t, pc)
				}
			}
			enginetest.Flush(t, pc)
		}
		round(4 * len(pids))
		before := pc.Stats()
		_, device := ioCounts(t)
		round(8 * len(pids))
		st := pc.Stats()
		_, after := ioCounts(t)
		enginetest.Close(t, pc)
		written := st.Log.BytesWritten - before.Log.BytesWritten
		t.Logf("capacity %d: %d bytes written, %d by evictions, %d moved, %d bytes by the process in all; "+
			"%d evictions, %d misses; %+v", capacity, written, st.Cache.BytesRewritten-before.Cache.BytesRewritten,
			st.Space.BytesMoved-before.Space.BytesMoved, after-device, st.Cache.Evictions-before.Cache.Evictions,
			st.Cache.Misses-before.Cache.Misses, st.Space)
		return written
	}
	all := run(1 << 40)
	quarter := run(int64(*evictionBytes) / 4)
	t.Logf("%.3f times as many bytes", float64(quarter)/float64(all))
	if float64(quarter) > 1.1*float64(all) {
		t.Errorf("%d bytes written, %d if all pages are resident", quarter, all)
	}
}

// quarterCache is a run of Get and Link on pages at random, of which the policy evicts all that were not used of late,
// or none.
type quarterCache struct {
	pages, size int // number of pages, bytes of each
	resident    int // pages that stay in memory; 0: all
	links       int
	writes      int // Options.EvictionWrites
}

// run returns the bytes that Stats says were written after the pages were allocated.
func (c quarterCache) run(t *testing.T) (written int64, st engine.Stats) {
	t.Helper()
	o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
	o.SegmentSize, o.EvictionWrites = 256<<10, c.writes
	pc := enginetest.Open(t, "/store", o)
	rng := rand.New(rand.NewPCG(3, 5))
	pids := make([]engine.PageID, c.pages)
	tx := enginetest.Begin(t, pc)
	for i := range pids {
		pid, _, err := pc.Allocate(tx, make([]byte, c.size))
		if err != nil {
			t.Fatal(err)
		}
		pids[i] = pid
	}
	tx.End()
	enginetest.Flush(t, pc)
	before := pc.Stats()
	used := map[engine.PageID]int{} // when a page was used last
	var recent, busy []engine.PageID
	for i := range c.links {
		tx := enginetest.Begin(t, pc)
		pid := pids[rng.IntN(len(pids))]
		p, err := pc.Get(tx, pid)
		if err == nil {
			_, _, err = pc.Link(tx, pid, p.Ptr, make([]byte, 64))
		}
		tx.End()
		if err != nil {
			t.Fatal(err)
		}
		used[pid], recent = i, append(recent, pid)
		if c.resident > 0 && len(recent) > c.resident {
			if pid := recent[0]; used[pid] == i-c.resident {
				busy = append(busy, pid)
			}
			recent = recent[1:]
		}
		if i%100 != 99 {
			continue
		}
		enginetest.Flush(t, pc)
		busy = slices.DeleteFunc(busy, func(pid engine.PageID) bool { return engine.EvictByPolicy(pc, pid) })
		for did := true; did; {
			if did, err = pc.AttemptGC(); err != nil {
				t.Fatal(err)
			}
		}
	}
	enginetest.Flush(t, pc)
	st = pc.Stats()
	enginetest.Close(t, pc)
	return st.Log.BytesWritten - before.Log.BytesWritten, st
}

// If a quarter of the data fits the cache, Get and Link write at most a tenth more than if all fits, whether evictions
// may write a little (the default) or nothing. An option lets them write more. Trap 52.
func TestEvictionDoesNotMultiplyWrites(t *testing.T) {
	t.Parallel()
	for _, size := range []int{200, 1000, 4000} {
		c := quarterCache{pages: 500, size: size, links: 10_000}
		if testing.Short() {
			c.pages, c.links = 250, 5000
		}
		all, _ := c.run(t)
		c.resident = c.pages / 4
		for _, writes := range []int{0, -1, 1000} {
			c.writes = writes
			n, st := c.run(t)
			times := float64(n) / float64(all)
			t.Logf("pages of %d bytes, EvictionWrites %d: %.3f times as many bytes written, %d by evictions, "+
				"%d consolidations, %d fetches", size, writes, times, st.Cache.BytesRewritten,
				st.Pages.Consolidations, st.Pages.Fetches)
			switch {
			case writes == 0 && st.Cache.BytesRewritten == 0:
				t.Error("evictions consolidated no page")
			case writes < 0 && st.Cache.BytesRewritten != 0:
				t.Error("evictions wrote, although they must not")
			case writes <= 0 && times > 1.1:
				t.Errorf("%d bytes written, %d if all pages are resident", n, all)
			case writes > 0 && times < 2:
				t.Errorf("%d bytes written: the option has no effect", n)
			}
		}
	}
}

// While nothing is written, a page of several messages is written as one when it is evicted, whatever
// Options.EvictionWrites says, so that reads of it do not stay slow for ever. It is written once.
func TestEvictionConsolidatesWhileNothingIsWritten(t *testing.T) {
	o := enginetest.SimOptions(simdisk.New(1, simdisk.Options{}))
	o.SegmentSize, o.EvictionWrites = 256<<10, 1
	pc := enginetest.Open(t, "/store", o)
	var pids []engine.PageID
	tx := enginetest.Begin(t, pc)
	for range 600 {
		pid, ptr, err := pc.Allocate(tx, make([]byte, 500))
		for range 3 {
			if err == nil {
				ptr, _, err = pc.Link(tx, pid, ptr, make([]byte, 50))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	tx.End()
	// read reads every page after it was evicted, and returns the number of messages that were read.
	read := func() int64 {
		enginetest.Flush(t, pc)
		for _, pid := range pids {
			engine.EvictByPolicy(pc, pid)
		}
		enginetest.Flush(t, pc)
		for _, pid := range pids { // those that were written just now
			engine.EvictByPolicy(pc, pid)
		}
		before := pc.Stats().Pages.Fetches
		for _, pid := range pids {
			enginetest.Get(t, pc, pid)
		}
		return pc.Stats().Pages.Fetches - before
	}
	if n := read(); n < 4*int64(len(pids))*9/10 {
		t.Errorf("%d messages read, although evictions may write next to nothing", n)
	}
	for range 6 {
		read()
	}
	written := pc.Stats().Cache.BytesRewritten
	if n := read(); n != int64(len(pids)) {
		t.Errorf("%d messages read, want one for each of %d pages", n, len(pids))
	}
	if n := pc.Stats().Cache.BytesRewritten; n != written || n > int64(len(pids))*1000 {
		t.Errorf("evictions wrote %d bytes, and %d more for pages of one message", written, n-written)
	}
	enginetest.Close(t, pc)
}
