package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// ear collects the events of a store, and the lines of its Logger: it is the handler of the Logger.
type ear struct {
	t     testing.TB
	mu    sync.Mutex
	all   []engine.Event
	lines []slog.Record
	new   chan struct{} // has room for one; full when an event came
}

// Enabled implements slog.Handler.
func (*ear) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (h *ear) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h *ear) WithGroup(string) slog.Handler { return h }

// Handle implements slog.Handler.
func (h *ear) Handle(_ context.Context, line slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, line)
	return nil
}

// logged reports whether the Logger got a line with the level and the fields of the event.
func (h *ear) logged(e engine.Event) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := e.LogValue().Group()
	return slices.ContainsFunc(h.lines, func(line slog.Record) bool {
		var got []slog.Attr
		line.Attrs(func(a slog.Attr) bool {
			if a.Key != "dir" { // of the store
				got = append(got, a)
			}
			return true
		})
		return line.Level == e.Level() && line.Message != "" && slices.EqualFunc(got, want, slog.Attr.Equal)
	})
}

// listen sets the Events and the Logger of o.
func listen(t testing.TB, o *engine.Options) *ear {
	h := &ear{t: t, new: make(chan struct{}, 1)}
	o.Logger = slog.New(h)
	o.Events = engine.AllEvents(func(e engine.Event) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all = append(h.all, e)
		select {
		case h.new <- struct{}{}:
		default:
		}
	})
	return h
}

// named returns the events of the type NAMEInfo so far.
func (h *ear) named(name string) (found []engine.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.all {
		if reflect.TypeOf(e).Name() == name+"Info" {
			found = append(found, e)
		}
	}
	return found
}

// await returns the n-th event of that name, counted from 1. It waits for that. The Logger must have got a line of the
// event.
func (h *ear) await(name string, n int) engine.Event {
	h.t.Helper()
	for end := time.After(time.Minute); ; {
		if found := h.named(name); len(found) >= n {
			if !h.logged(found[n-1]) {
				h.t.Errorf("no line of the Logger has the fields of %+v", found[n-1])
			}
			return found[n-1]
		}
		select {
		case <-h.new:
		case <-end:
			h.mu.Lock()
			defer h.mu.Unlock()
			h.t.Fatalf("no event %s; %d others: %v", name, len(h.all), h.all)
		}
	}
}

// never fails the test if an event of that name came.
func (h *ear) never(names ...string) {
	h.t.Helper()
	for _, name := range names {
		if found := h.named(name); len(found) > 0 {
			h.t.Errorf("events %s: %v", name, found)
		}
	}
}

// works fails the test if Err says that the log has stopped.
func works(t testing.TB, s interface{ Err() error }) {
	t.Helper()
	if err := s.Err(); err != nil {
		t.Errorf("Err: %v, although the log works", err)
	}
}

// The first failed write is an event, and Err returns the same error from then on, also after Close. Err is nil while
// the log works, of a store that is open for reading only, too, and ErrClosed after Close. Rule 8.
func TestLogFailedIsAnnounced(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.Allocate(t, pc, []byte("a"))
	if err := pc.Err(); err != nil {
		t.Errorf("Err of a working store: %v", err)
	}
	enginetest.Close(t, pc)
	if err := pc.Err(); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Err of a closed store: %v", err)
	}
	o := enginetest.SimOptions(d)
	o.ReadOnly = true
	if ro := enginetest.Open(t, "/store", o); ro.Err() != nil {
		t.Errorf("Err of a read-only store: %v", ro.Err())
	} else {
		enginetest.Close(t, ro)
	}
	o = enginetest.SimOptions(d)
	h := listen(t, o)
	pc = enginetest.Open(t, "/store", o)
	enginetest.NoCheck(t, pc)
	_, lsn := enginetest.Allocate(t, pc, []byte("b"))
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	if _, err := pc.Flush(); !errors.Is(err, engine.ErrFailed) {
		t.Fatalf("Flush: %v", err)
	}
	failed := h.await("LogFailed", 1).(engine.LogFailedInfo)
	for range 2 {
		for _, err := range []error{failed.Err, pc.Err()} {
			if !errors.Is(err, engine.ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Errorf("error %v, want ErrFailed and EIO", err)
			}
		}
		_, _ = pc.Flush()
		_ = pc.Close()
	}
	if n := len(h.named("LogFailed")); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	if got := pc.Stats().Log.StableLSN; got >= lsn {
		t.Errorf("Stats: LSN %d is stable, although the write at %d failed", got, lsn)
	}
	d = simdisk.New(1, simdisk.Options{})
	o = enginetest.SimOptions(d)
	h = listen(t, o)
	l := enginetest.OpenLog(t, "/log", o)
	enginetest.NoCheck(t, l)
	mustWrite(t, l, 10)
	if err := l.Err(); err != nil {
		t.Errorf("Err of a working log: %v", err)
	}
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	_, _ = l.Flush()
	h.await("LogFailed", 1)
	if err := l.Err(); !errors.Is(err, engine.ErrFailed) {
		t.Errorf("Err of a failed log: %v", err)
	}
}

// A full disk is an event, and so is the room that there is again, once that has lasted for a second: for the log, and
// for blobs. Rule 9.
func TestDiskFullIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New(2, simdisk.Options{Capacity: 1 << 20})
		o := enginetest.SimOptions(d)
		h := listen(t, o)
		pc := enginetest.Open(t, "/store", o)
		tx := enginetest.Begin(t, pc)
		defer tx.End()
		for n, value := range [][]byte{make([]byte, 3000), make([]byte, 300_000)} {
			var err error
			for range 1000 {
				if _, _, err = pc.Allocate(tx, value); err != nil {
					break
				}
			}
			if !errors.Is(err, engine.ErrNoSpace) {
				t.Fatalf("Allocate: %v", err)
			}
			full := h.await("DiskFull", n+1).(engine.DiskFullInfo)
			if want := []string{"log", "blobs"}[n]; full.What != want || !errors.Is(full.Err, syscall.ENOSPC) {
				t.Errorf("%+v, want %s and ENOSPC", full, want)
			}
			if found := h.named("SpaceAgain"); len(found) > n {
				t.Errorf("%v, while the disk is full", found)
			}
			works(t, pc)
			before := pc.Stats().Space
			d.SetCapacity(int64(n+2) << 24)
			time.Sleep(time.Millisecond) // the file system is not asked again at the same moment
			for range 20 {               // a segment, or a blob
				if _, _, err = pc.Allocate(tx, value); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if now := pc.Stats().Space; now.LiveBytes+now.BlobBytes <= before.LiveBytes+before.BlobBytes {
				t.Errorf("Stats: %+v, no more than on the full disk: %+v", now, before)
			}
			if again := h.await("SpaceAgain", n+1).(engine.SpaceAgainInfo); again.What != full.What {
				t.Errorf("%+v, want that of %+v", again, full)
			}
			d.SetCapacity(1)
		}
		d.SetCapacity(0)
	})
}

// cleanable makes a store on d with segments that are worth cleaning.
func cleanable(t *testing.T, o *engine.Options) *engine.PageCache[[]byte] {
	t.Helper()
	pc := enginetest.Open(t, "/store", o)
	pids := enginetest.AllocateMany(t, pc, 100, 1500)
	enginetest.Flush(t, pc)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	for i, pid := range pids {
		if i%8 == 0 {
			continue
		}
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, nil))
	}
	return pc
}

// If a slot can neither be marked as free nor be left out of use, cleaning has stopped for good, and that is an event.
// If it can be left out of use, that is an event too, and cleaning goes on. Rule 4d.
// TestSnapshotRebuiltIsAnnounced has a cleaner that goes on.
func TestCleaningStoppedIsAnnounced(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{FS: d, Eager: true})
	h := listen(t, o)
	pc := cleanable(t, o)
	enginetest.NoCheck(t, pc)
	enginetest.Flush(t, pc)
	var super atomic.Bool // the superblock cannot be written, either
	d.SetFault(func(op simdisk.Op) error {
		header := op.Kind == simdisk.OpDeviceWrite && op.Off%(16<<10) == 0 && op.Len == 4096 // of a free slot
		if header || super.Load() && op.Name == superFile {
			return syscall.EIO
		}
		return nil
	})
	clean := func(until func(error) bool) (err error) {
		for range 1000 {
			if _, err = pc.AttemptGC(); until(err) {
				break
			}
			enginetest.Flush(t, pc)
		}
		return err
	}
	err := clean(func(err error) bool { return err != nil || pc.Stats().Space.OutOfUse > 0 })
	if left := h.await("Corruption", 1).(engine.CorruptionInfo); err != nil || !errors.Is(left.Err, syscall.EIO) {
		t.Errorf("AttemptGC: %v, event: %v, want one of EIO", err, left)
	}
	h.never("CleaningStopped")
	super.Store(true)
	err = clean(func(err error) bool { return err != nil })
	stopped := h.await("CleaningStopped", 1).(engine.CleaningStoppedInfo)
	if !errors.Is(err, syscall.EIO) || !errors.Is(stopped.Err, syscall.EIO) {
		t.Errorf("AttemptGC: %v, event: %v, want EIO", err, stopped)
	}
	works(t, pc)
	before := pc.Stats().Space
	d.SetFault(nil)
	if _, err := pc.AttemptGC(); err == nil {
		t.Error("cleaning goes on although a slot may not be marked as free")
	}
	if now := pc.Stats().Space; now.Draining == 0 || now.Recycled != before.Recycled || now.Cleaned != before.Cleaned {
		t.Errorf("Stats: %+v, before %+v, although cleaning has stopped", now, before)
	}
	h.never("CleaningResumed", "LogFailed")
	if n := len(h.named("CleaningStopped")); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

// blockDir makes a file where a directory would be made, and returns a function that removes it.
func blockDir(t *testing.T, name string) (remove func()) {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// A snapshot that cannot be written in the background is an event, once for all tries, and so is the next one that can.
func TestSnapshotsStoppedIsAnnounced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	snaps := filepath.Join(dir, "snaps")
	o := &engine.Options{SegmentSize: 16 << 10, SnapshotEvery: 1, SnapshotDir: snaps, IO: engine.IOSyscall}
	h := listen(t, o)
	pc := enginetest.Open(t, filepath.Join(dir, "store"), o)
	remove := blockDir(t, snaps)
	enginetest.Allocate(t, pc, []byte("a"))
	stopped := h.await("SnapshotsStopped", 1).(engine.SnapshotsStoppedInfo)
	if stopped.Dir != snaps || stopped.Err == nil {
		t.Errorf("%+v", stopped)
	}
	if err := pc.Snapshot(); err == nil {
		t.Error("Snapshot into a file: no error")
	}
	h.never("SnapshotsResumed")
	works(t, pc)
	if st := pc.Stats(); st.Snapshots != 0 || st.Snapshot.Since == 0 {
		t.Errorf("Stats: %d snapshots, %+v, although none can be written", st.Snapshots, st.Snapshot)
	}
	remove()
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	h.await("SnapshotsResumed", 1)
	if n := pc.Stats().Snapshots; n == 0 {
		t.Error("Stats: no snapshot was written")
	}
	if n := len(h.named("SnapshotsStopped")); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	enginetest.Close(t, pc)
}

// Corruption is an event with its place, once however often it is read, and the error of each call. A copy of the
// superblock that is lost is one, too, although the store opens, and so is corruption for which Open refuses a store.
func TestCorruptionIsAnnounced(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pid, lsn := enginetest.Allocate(t, pc, make([]byte, 1000))
	enginetest.AllocateMany(t, pc, 40, 1000)
	places, err := engine.Places(pc, pid)
	if err != nil {
		t.Fatal(err)
	}
	off := int64(places[0].Off)
	enginetest.Close(t, pc)
	whole := d.Copy()
	d.FlipBit("/store/log", off%(16<<10)+100, 1) // the first segment does not move
	d.WriteFile("/store/superblock", slices.Concat(make([]byte, 512), d.ReadDurable("/store/superblock")[512:]))
	o := enginetest.SimOptions(d)
	h := listen(t, o)
	pc = enginetest.Open(t, "/store", o)
	enginetest.NoCheck(t, pc)
	super := h.await("Corruption", 1).(engine.CorruptionInfo)
	if !strings.Contains(super.What, "copy 0 of the superblock") {
		t.Errorf("%v", super)
	}
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	for range 3 {
		if _, err := pc.Get(tx, pid); !errors.Is(err, engine.ErrCorrupt) {
			t.Fatalf("Get: %v", err)
		}
	}
	found := h.await("Corruption", 2).(engine.CorruptionInfo)
	gotPage, _ := found.Place.Page()
	gotLSN, _ := found.Place.LSN()
	if !errors.Is(found.Err, engine.ErrCorrupt) || gotPage != pid || gotLSN != lsn || found.File != "/store/log" {
		t.Errorf("%+v, want page %d at LSN %d", found, pid, lsn)
	}
	works(t, pc)
	_ = pc.Snapshot() // the deliverer is idle afterwards, or not: a third event would come
	if n := len(h.named("Corruption")); n != 2 {
		t.Errorf("%d events, want 2: %v", n, h.named("Corruption"))
	}
	whole.WriteFile("/store/superblock", make([]byte, 8192))
	o = enginetest.SimOptions(whole)
	h = listen(t, o)
	if _, err := engine.Open("/store", engine.Bytes{}, o); !errors.Is(err, engine.ErrCorrupt) {
		t.Fatalf("Open: %v", err)
	}
	if n := len(h.named("Corruption")); n != 1 {
		t.Errorf("%d events when Open returned, want 1", n)
	}
}

// A torn tail is an event.
func TestTailDroppedIsAnnounced(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.Allocate(t, pc, []byte("first"))
	enginetest.Flush(t, pc)
	pid, lsn := enginetest.Allocate(t, pc, []byte("last"))
	places, err := engine.Places(pc, pid)
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Flush(t, pc)
	enginetest.NoCheck(t, pc)
	d = d.Crash(1)
	d.FlipBit("/store/log", int64(places[0].Off)+format.HeaderSize, 0) // nothing proves that it was acknowledged
	o := enginetest.SimOptions(d)
	h := listen(t, o)
	enginetest.Open(t, "/store", o)
	if torn := h.await("TailDropped", 1).(engine.TailDroppedInfo); torn.End != lsn || torn.Why == "" {
		t.Errorf("%+v, want an end of %d", torn, lsn)
	}
}

// A device write that takes longer than SlowWrite is an event while it is under way, and another when it has ended. A
// faster one is none, and none is if SlowWrite is negative.
func TestSlowWriteIsAnnounced(t *testing.T) {
	for _, limit := range []time.Duration{0, 5 * time.Second, -1} {
		synctest.Test(t, func(t *testing.T) {
			d := simdisk.New(6, simdisk.Options{})
			o := enginetest.SimOptions(d)
			o.SlowWrite = limit
			h := listen(t, o)
			pc := enginetest.Open(t, "/store", o)
			write := func(takes time.Duration) {
				_, lsn := enginetest.Allocate(t, pc, []byte("a"))
				d.Hang(true)
				time.AfterFunc(takes-1, func() {
					works(t, pc)
					if got := pc.Stats().Log.StableLSN; got >= lsn {
						t.Errorf("Stats: LSN %d is stable, although the write at %d has not ended", got, lsn)
					}
				})
				time.AfterFunc(takes, func() { d.Hang(false) })
				enginetest.Flush(t, pc)
				synctest.Wait()
				works(t, pc)
			}
			write(max(limit, time.Second) * 9 / 10)
			h.never("SlowWrite")
			start := time.Now()
			write(20 * time.Second)
			if limit < 0 {
				h.never("SlowWrite")
				return
			}
			first := h.await("SlowWrite", 1).(engine.SlowWriteInfo)
			second := h.await("SlowWrite", 2).(engine.SlowWriteInfo)
			took := time.Since(start)
			if want := max(limit, time.Second); first.Ended || first.Took < want || first.Took > 2*want {
				t.Errorf("SlowWrite %v: %+v", limit, first)
			}
			if !second.Ended || second.Took != took || second.Offset != first.Offset || second.Bytes != first.Bytes {
				t.Errorf("SlowWrite %v: %+v after %+v, want %v", limit, second, first, took)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := len(h.named("SlowWrite")); n != 2 {
				t.Errorf("%d events, want 2", n)
			}
		})
	}
}

// A fallback from io_uring or O_DIRECT is an event when the store opens.
func TestDegradedIsAnnounced(t *testing.T) {
	for _, opts := range []simdisk.Options{{}, {NoRing: true}, {NoDirect: true}} {
		o := enginetest.SimOptions(simdisk.New(7, opts))
		h := listen(t, o)
		pc := enginetest.Open(t, "/store", o)
		if !opts.NoRing && !opts.NoDirect {
			h.never("Degraded")
			continue
		}
		i := h.await("Degraded", 1).(engine.DegradedInfo)
		if i.What != "log device" || i.Reason == "" || !strings.HasPrefix(pc.Stats().Log.Device, i.Use) {
			t.Errorf("%+v, want that of %q", i, pc.Stats().Log.Device)
		}
		if device := pc.Stats().Log.Device; !strings.Contains(device, i.Reason) {
			t.Errorf("Stats: %q, which does not give the reason %q", device, i.Reason)
		}
		works(t, pc)
	}
}

// A batch that is open for a second is an event, once, and names the batch. Shorter ones are none.
func TestOpenBatchIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := enginetest.SimOptions(simdisk.New(8, simdisk.Options{}))
		h := listen(t, o)
		pc := enginetest.Open(t, "/store", o)
		pin := func() *engine.Batch {
			b, err := pc.PinLog()
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		seal := func(b *engine.Batch) {
			if err := b.Seal(); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			b := pin()
			time.Sleep(300 * time.Millisecond)
			seal(b)
		}
		synctest.Wait()
		h.never("BatchOpen")
		first := pin()
		time.Sleep(700 * time.Millisecond)
		second := pin()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		works(t, pc)
		want := engine.Pending{LSN: first.LSN(), Age: 5700 * time.Millisecond}
		if st := pc.Stats().Log; st.Batches != 2 || st.OldestBatch != want {
			t.Errorf("Stats: %d batches, the oldest %+v, want 2 and %+v", st.Batches, st.OldestBatch, want)
		}
		for n, b := range []*engine.Batch{first, second} {
			if i := h.await("BatchOpen", n+1).(engine.BatchOpenInfo); i.LSN != b.LSN() || i.Age != time.Second {
				t.Errorf("%+v, want LSN %d and 1 s", i, b.LSN())
			}
			seal(b)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(h.named("BatchOpen")); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
	})
}

// A Tx that is open for long is an event, once, and names the Tx. Many short ones are none.
func TestOpenTxIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := enginetest.SimOptions(simdisk.New(9, simdisk.Options{}))
		h := listen(t, o)
		pc := enginetest.Open(t, "/store", o)
		for range 100 {
			tx := enginetest.Begin(t, pc)
			time.Sleep(900 * time.Millisecond)
			tx.End()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		h.never("TxOpen")
		tx := enginetest.Begin(t, pc)
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		h.never("TxOpen")
		if st := pc.Stats().Txs; st.Open != 1 || st.Oldest != tx.TS() || st.Age < 600*time.Millisecond {
			t.Errorf("%+v, want one that has been open for 900 ms", st)
		}
		time.Sleep(600 * time.Millisecond)
		synctest.Wait()
		i := h.await("TxOpen", 1).(engine.TxOpenInfo)
		if i.TS != tx.TS() || i.Age < time.Second || i.Age > 1500*time.Millisecond {
			t.Errorf("%+v, want timestamp %d", i, tx.TS())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(h.named("TxOpen")); n != 1 {
			t.Errorf("%d events, want 1", n)
		}
		works(t, pc)
		if st := pc.Stats().Txs; st.Open != 1 || st.Oldest != tx.TS() {
			t.Errorf("Stats: %+v, want timestamp %d", st, tx.TS())
		}
		tx.End()
	})
}

// A blob that cannot be removed is an event: no call returns the error.
func TestBackgroundErrorIsAnnounced(t *testing.T) {
	d := simdisk.New(10, simdisk.Options{})
	o := enginetest.SimOptions(d)
	h := listen(t, o)
	pc := enginetest.Open(t, "/store", o)
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, make([]byte, 50_000))
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Must(t)(pc.Replace(tx, pid, ptr, []byte("short")))
	tx.End()
	enginetest.Flush(t, pc)
	d.FailFrom(simdisk.OpRemove, 1, syscall.EROFS)
	if did, err := pc.AttemptGC(); err != nil || !did {
		t.Fatal(did, err)
	}
	i := h.await("BackgroundError", 1).(engine.BackgroundErrorInfo)
	if i.What != "blob not removed" || filepath.Dir(i.File) != "/store/blobs" || !errors.Is(i.Err, syscall.EROFS) {
		t.Errorf("%+v", i)
	}
	d.SetFault(nil)
	enginetest.Close(t, pc)

	o = enginetest.SimOptions(d) // a temporary store that stays behind
	o.Temporary = true
	h = listen(t, o)
	pc = enginetest.Open(t, "/temporary", o)
	d.FailFrom(simdisk.OpRemove, 1, syscall.EROFS)
	enginetest.Close(t, pc)
	if i := h.await("BackgroundError", 1).(engine.BackgroundErrorInfo); i.What != "temporary store not removed" {
		t.Errorf("%+v", i)
	}
}

// A block of the snapshot that is corrupt is an event, and so is that its pages were found in the log. While they
// cannot be looked up, nothing is cleaned, which is an event, too. Trap 29.
func TestSnapshotRebuiltIsAnnounced(t *testing.T) {
	t.Parallel()
	d := simdisk.New(11, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pids := enginetest.AllocateMany(t, pc, 600, 20)
	enginetest.Close(t, pc)
	name := filepath.Join("/store", enginetest.SnapshotFiles(t, d, "/store")[0])
	d.FlipBit(name, 2*format.SnapshotBlock+100, 0)
	o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{FS: d, Unchecked: true})
	h := listen(t, o)
	pc = enginetest.Open(t, "/store", o)
	tx := enginetest.Begin(t, pc)
	refuse := true
	d.SetFault(func(op simdisk.Op) error {
		if refuse && op.Kind == simdisk.OpRead && op.Len > 8192 {
			return syscall.ENOMEM
		}
		return nil
	})
	failed := 0
	for _, pid := range pids {
		if _, err := pc.Get(tx, pid); err != nil {
			failed++
		}
	}
	if failed > 0 {
		if i := h.await("CleaningStopped", 1).(engine.CleaningStoppedInfo); !errors.Is(i.Err, syscall.ENOMEM) {
			t.Errorf("%+v", i)
		}
	} else {
		t.Error("no page was in the corrupt block, or reading the log did not fail")
	}
	d.SetFault(nil)
	for _, pid := range pids {
		if _, err := pc.Get(tx, pid); err != nil {
			t.Fatal(err)
		}
	}
	tx.End()
	if i := h.await("Corruption", 1).(engine.CorruptionInfo); !strings.Contains(i.What, name) {
		t.Errorf("%+v", i)
	}
	if i := h.await("SnapshotRebuilt", 1).(engine.SnapshotRebuiltInfo); i.File != name || i.Blocks != 1 {
		t.Errorf("%+v", i)
	}
	h.await("CleaningResumed", 1)
	enginetest.Close(t, pc)
}

// temper is a Materializer whose methods panic on command. Its values are no views.
type temper struct {
	engine.Bytes
	bomb *syncString
}

// syncString is a string that goroutines share.
type syncString struct {
	mu sync.Mutex
	s  string
}

func (s *syncString) set(to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s = to
}

func (m temper) at(method string) {
	m.bomb.mu.Lock()
	defer m.bomb.mu.Unlock()
	if m.bomb.s == method {
		panic("bomb in " + method)
	}
}

func (m temper) Merge(frags [][]byte) []byte {
	m.at("Merge")
	return m.Bytes.Merge(frags)
}

func (m temper) Size(frag []byte) int {
	m.at("Size")
	return m.Bytes.Size(frag)
}

func (m temper) Append(dst, frag []byte) []byte {
	m.at("Append")
	return m.Bytes.Append(dst, frag)
}

func (m temper) Decode(src []byte) ([]byte, error) {
	m.at("Decode")
	return m.Bytes.Decode(src)
}

// A panic of the Materializer in the cleaner's goroutine ends nothing: it is an event that names the page, and the
// segment stays as it is. The cleaner goes on with others, and with this one once its live bytes have changed.
func TestPanicInCleanerIsAnnounced(t *testing.T) {
	for _, method := range []string{"Merge", "Append", "Decode", "Size"} {
		d := simdisk.New(12, simdisk.Options{})
		o := enginetest.WithSeam(enginetest.SimOptions(d), seam.Options{FS: d, Eager: true})
		o.ConsolidateAfter = 100
		pc := cleanable(t, o)
		tx := enginetest.Begin(t, pc)
		for pid := engine.FirstUserPage; pid < 102; pid += 8 { // pages in several messages, which a move merges
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Link(tx, pid, p.Ptr, []byte("delta")))
		}
		tx.End()
		want := enginetest.Contents(t, pc)
		enginetest.Close(t, pc)
		h := listen(t, o)
		m := temper{bomb: &syncString{}}
		s := enginetest.OpenWith(t, "/store", m, o)
		if method == "Size" { // of values that are resident
			tx := enginetest.Begin(t, s)
			for pid := engine.FirstUserPage; pid < 102; pid++ {
				if _, err := s.Get(tx, pid); err != nil {
					t.Fatal(err)
				}
			}
			tx.End()
		}
		m.bomb.set(method)
		engine.CleanerOf(s).RestartEager()
		i := h.await("Panic", 1).(engine.PanicInfo)
		inTemper := strings.Contains(string(i.Stack), "temper")
		if i.Value != "bomb in "+method || i.Page < engine.FirstUserPage || !inTemper {
			t.Errorf("%s: %v\n%s", method, i, i.Stack)
		}
		m.bomb.set("")
		works(t, s)
		if got := enginetest.Contents(t, s); got != want {
			t.Errorf("%s: the contents differ", method)
		}
		enginetest.Soon(t, "Flush after a panic", func() { enginetest.Flush(t, s) })
		enginetest.Close(t, s)
	}
}

// A panic of the Materializer in the evictor's goroutine ends nothing. Pages that cannot be consolidated are evicted as
// they are. Those whose size is not known stay, until it is.
func TestPanicInEvictorIsAnnounced(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Merge", "Append", "Size"} {
		o := &engine.Options{SegmentSize: 64 << 10, ConsolidateAfter: 100, FlushEvery: time.Millisecond}
		h := listen(t, o)
		m := temper{bomb: &syncString{}}
		pc := enginetest.OpenWith(t, t.TempDir(), m, o)
		tx := enginetest.Begin(t, pc)
		for range 2000 {
			pid, ptr, err := pc.Allocate(tx, make([]byte, 500))
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Link(tx, pid, ptr, make([]byte, 100)))
		}
		tx.End()
		enginetest.Flush(t, pc)
		m.bomb.set(method)
		if err := pc.SetCacheCapacity(200_000); err != nil {
			t.Fatal(err)
		}
		if method == "Size" {
			if i := h.await("Panic", 1).(engine.PanicInfo); i.Value != "bomb in Size" {
				t.Errorf("%+v", i)
			}
			m.bomb.set("")
		}
		for end := time.Now().Add(time.Minute); pc.Stats().Cache.HeapResident > 210_000; {
			if time.Sleep(time.Millisecond); time.Now().After(end) {
				t.Fatalf("%s: %d bytes are resident", method, pc.Stats().Cache.HeapResident)
			}
		}
		m.bomb.set("")
		enginetest.Close(t, pc)
	}
}

// A callback may call every method of the store but Close, whatever the event: no lock is held meanwhile.
func TestCallbackMayCallBack(t *testing.T) {
	d := simdisk.New(13, simdisk.Options{})
	o := enginetest.SimOptions(d)
	var pc *engine.PageCache[[]byte]
	opened, done := make(chan struct{}), make(chan error, 1)
	o.Events.LogFailed = func(engine.LogFailedInfo) {
		<-opened
		_ = pc.Stats()
		_, err := pc.Flush()
		_, gcErr := pc.AttemptGC()
		done <- errors.Join(err, gcErr, pc.Err())
	}
	pc = enginetest.Open(t, "/store", o)
	enginetest.NoCheck(t, pc)
	close(opened)
	enginetest.Allocate(t, pc, []byte("a"))
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	_, _ = pc.Flush()
	select {
	case err := <-done:
		if !errors.Is(err, engine.ErrFailed) {
			t.Errorf("the callback got %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the callback hangs")
	}
}

// A callback that never returns delays Open and Close by at most a second, and no other call.
func TestCallbackThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := enginetest.SimOptions(simdisk.New(14, simdisk.Options{NoRing: true}))
		release := make(chan struct{})
		o.Events.Degraded = func(engine.DegradedInfo) { <-release }
		start := time.Now()
		pc := enginetest.Open(t, "/store", o)
		enginetest.Allocate(t, pc, []byte("a"))
		enginetest.Flush(t, pc)
		if err := pc.CloseContext(context.Background()); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 4*time.Second {
			t.Errorf("Open and Close took %v", d)
		}
		close(release)
	})
}

func ExampleEvents() {
	o := &engine.Options{Temporary: true, Events: engine.Events{
		LogFailed: func(i engine.LogFailedInfo) { fmt.Println("page somebody:", i.Err) },
		DiskFull:  func(i engine.DiskFullInfo) { fmt.Println("delete something:", i) },
	}}
	pc, err := engine.Open("", engine.Bytes{}, o)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(pc.Err(), pc.Close())
	// Output: <nil> <nil>
}
