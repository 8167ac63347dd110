package engine_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// flipOpen flips bits of a file behind the store.
func flipOpen(t testing.TB, d *simdisk.Disk, name string, off int64) {
	t.Helper()
	f, err := d.Open(name, vfs.FlagWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// Scrub finds each corrupt message, header, blob and snapshot block of an open store, by an event with the place and in
// Stats, and nothing in a good store.
func TestScrub(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	var mu sync.Mutex
	var events []engine.CorruptionInfo
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1,
		Events: engine.Events{Corruption: func(i engine.CorruptionInfo) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, i)
		}}}, seam.Options{FS: d})
	pc := enginetest.Open(t, "/store", o)
	enginetest.NoCheck(t, pc)
	enginetest.Busy(t, pc, 900, 1)
	enginetest.Flush(t, pc)
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	r, err := pc.Scrub(t.Context(), 0)
	if err != nil || r.Problems > 0 || r.Segments == 0 || r.Blobs == 0 || r.Bytes == 0 {
		t.Fatalf("a good store: %+v, %v", r, err)
	}
	flipOpen(t, d, "/store/log", 20)   // the header of the first segment
	flipOpen(t, d, "/store/log", 5000) // a message in it
	flipOpen(t, d, "/store/log", 9000) // another one
	flipOpen(t, d, "/store/log", 4<<14+5000)
	flipOpen(t, d, "/store/blobs/"+enginetest.BlobNames(t, d, "/store")[0], 200)
	flipOpen(t, d, "/store/"+enginetest.SnapshotFiles(t, d, "/store")[0], 5000)
	r, err = pc.Verify(t.Context())
	if err != nil || r.Problems < 6 {
		t.Errorf("%+v, %v", r, err)
	}
	st := pc.Stats().Scrub
	if st.Runs != 2 || st.Problems != int64(r.Problems) || st.Bytes < r.Bytes {
		t.Errorf("%+v", st)
	}
	enginetest.Close(t, pc) // all events were delivered
	files := map[string]int{}
	for _, e := range events {
		var ce *engine.CorruptError
		if !errors.As(e.Err, &ce) {
			t.Errorf("no place: %v", e.Err)
			continue
		}
		files[ce.File]++
	}
	if len(files) != 3 || files["/store/log"] < 2 {
		t.Errorf("events for %v", files)
	}
}

// Scrub reports nothing while segments are recycled, blobs removed and snapshots replaced beside it. It ends with its
// context, and when the store is closed.
func TestScrubBesideWork(t *testing.T) {
	t.Parallel()
	o := &engine.Options{SegmentSize: 16 << 10, CleanupThreshold: 1, SnapshotEvery: 500}
	pc := enginetest.Open(t, t.TempDir(), o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 40 {
			if r, err := pc.Verify(context.Background()); err != nil || r.Problems > 0 {
				t.Errorf("%+v, %v", r, err)
			}
		}
	}()
	for seed := uint64(0); ; seed++ {
		enginetest.Busy(t, pc, 100, seed%5)
		select {
		case <-done:
		default:
			continue
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pc.Scrub(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	enginetest.Close(t, pc)
	if _, err := pc.Scrub(t.Context(), 0); !errors.Is(err, engine.ErrClosed) {
		t.Error(err)
	}
}
