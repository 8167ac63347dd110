package engine_test

import (
	"bytes"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/apart"
)

// placesOf returns the place of the newest message of each page.
func placesOf(t *testing.T, pc *engine.PageCache[[]byte], pids []engine.PageID) map[engine.PageID]engine.DiskPtr {
	t.Helper()
	places := map[engine.PageID]engine.DiskPtr{}
	for _, pid := range pids {
		p, err := engine.Places(pc, pid)
		if err != nil {
			t.Fatal(err)
		}
		places[pid] = p[0]
	}
	return places
}

// After many updates, the reads of pages that the cleaner has moved do not go to the disk because of that: at most a
// tenth does, if their old places were in the kernel's page cache. Pages that were resident still are. Some pages
// consist of several messages. Trap 53.
func TestMovedPagesStayWarm(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const size = 2000
	pages, capacities := *evictionBytes/size, map[string]int64{
		"not resident": 64 << 10, "a quarter is resident": int64(*evictionBytes) / 4, "resident": 1 << 40,
	}
	for name, capacity := range capacities {
		dir, opts := evictionStore(t)
		o := &opts
		o.IOBuffers, o.CacheCapacity, o.CleanupThreshold, o.FlushEvery = 2, capacity, 1, 5*time.Millisecond
		o.EvictionWrites = -1 // only the cleaner gives pages new places
		pc := enginetest.Open(t, dir, o)
		pids := enginetest.AllocateMany(t, pc, pages, size)
		tx := enginetest.Begin(t, pc)
		for i := 1; i < len(pids); i += 4 { // of which the half is not updated later
			p, err := pc.Get(tx, pids[i])
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Link(tx, pids[i], p.Ptr, make([]byte, 100)))
		}
		tx.End()
		enginetest.Close(t, pc)
		pc = enginetest.Open(t, dir, o)
		read := func(pids []engine.PageID) (misses, cold, device int64) {
			before := pc.Stats()
			from, _ := ioCounts(t)
			for _, pid := range pids {
				enginetest.Get(t, pc, pid)
			}
			st := pc.Stats()
			to, _ := ioCounts(t)
			return st.Cache.Misses - before.Cache.Misses, st.Pages.FetchesCold - before.Pages.FetchesCold, to - from
		}
		var updated, kept []engine.PageID // every second page
		for i := 0; i < len(pids); i += 2 {
			updated, kept = append(updated, pids[i]), append(kept, pids[i+1])
		}
		read(kept)
		if _, cold, _ := read(kept); cold > 0 {
			t.Errorf("%s: %d of %d reads go to the disk, although they did just now", name, cold, len(kept))
		}
		before := placesOf(t, pc, kept)
		for round := range 4 {
			tx := enginetest.Begin(t, pc)
			for _, pid := range updated {
				p, err := pc.Get(tx, pid)
				if err == nil {
					_, _, err = pc.Replace(tx, pid, p.Ptr, bytes.Repeat([]byte{byte(round)}, size))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			tx.End()
			enginetest.Flush(t, pc)
			enginetest.CleanAll(t, pc)
		}
		var moved []engine.PageID
		for pid, place := range placesOf(t, pc, kept) {
			if place != before[pid] {
				moved = append(moved, pid)
			}
		}
		misses, cold, device := read(moved)
		t.Logf("%s: %d of %d pages moved; %d reads missed the cache, %d went to the disk, which read %d bytes; %+v",
			name, len(moved), len(kept), misses, cold, device, engine.StoreOf(pc).View.Counts())
		if len(moved) < len(kept)/10 || cold > int64(len(moved))/10 {
			t.Errorf("%s: %d of %d pages moved, and %d reads of these went to the disk", name, len(moved), len(kept),
				cold)
		}
		if name == "resident" && misses > 0 {
			t.Errorf("%d of %d pages are not resident any more", misses, len(moved))
		}
		enginetest.Close(t, pc)
	}
}
