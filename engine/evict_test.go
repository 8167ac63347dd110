package engine_test

import (
	"bytes"
	"errors"
	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"testing"
	"time"
)

// The capacity can be lowered and raised while the store is used.
func TestSetCacheCapacity(t *testing.T) {
	t.Parallel()
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{CacheCapacity: 64 << 20, FlushEvery: time.Millisecond})
	tx := enginetest.Begin(t, pc)
	for i := range 5000 {
		if _, _, err := pc.Allocate(tx, make([]byte, 1000)); err != nil {
			t.Fatal(i, err)
		}
	}
	tx.End()
	for _, capacity := range []int64{4 << 20, 100 << 10, 1 << 20} {
		if err := pc.SetCacheCapacity(capacity); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			st := pc.Stats()
			resident := st.Cache.HeapResident + st.Cache.MappedResident
			if resident <= capacity {
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatalf("capacity %d: %d bytes stay resident: %+v", capacity, resident, st)
			}
		}
	}
	if err := pc.SetCacheCapacity(0); err == nil {
		t.Error("SetCacheCapacity(0) succeeded")
	}
	enginetest.Close(t, pc)
	if err := pc.SetCacheCapacity(1 << 20); err == nil {
		t.Error("SetCacheCapacity of a closed store succeeded")
	}
}

// Prefetch reads pages ahead of Get. It skips pages that are resident or do not exist.
func TestPrefetchReadsAhead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 256 << 10}
	pc := enginetest.Open(t, dir, o)
	tx := enginetest.Begin(t, pc)
	var pids []engine.PageID
	for i := range 200 {
		size := 3000
		if i%50 == 0 {
			size = 200 << 10 // a blob
		}
		pid, _, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, size))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	tx.End()
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, o)
	size, err := engine.StoreOf(pc).File().Size()
	if err == nil {
		err = engine.StoreOf(pc).File().DropCache(0, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	tx = enginetest.Begin(t, pc)
	if err := pc.Prefetch(tx, append(pids, 1<<30, 0, 1)...); err != nil {
		t.Fatal(err)
	}
	if err := engine.StoreOf(pc).Reader.Settle(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	for i, pid := range pids {
		if p, err := pc.Get(tx, pid); err != nil || p.Value[0] != byte(i) {
			t.Fatalf("page %d: %v", pid, err)
		}
	}
	tx.End()
	if err := pc.Prefetch(tx, pids...); !errors.Is(err, engine.ErrTxEnded) {
		t.Errorf("Prefetch in a Tx that has ended: %v", err)
	}
	st, c := pc.Stats(), engine.StoreOf(pc).View.Counts()
	t.Logf("%d fetches, %d of them cold; %+v", st.Pages.Fetches, st.Pages.FetchesCold, c)
	if c.Ahead == 0 && st.Pages.FetchesCold > 0 {
		t.Error("nothing was read ahead")
	}
	enginetest.Close(t, pc)
}
