package engine_test

import (
	"bytes"
	"context"
	"errors"
	"expvar"
	"fmt"
	"log"
	"runtime/trace"
	"strings"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// Commits, reads from disk and device writes are counted with their durations. A Get of a resident page records
// nothing, nor does a commit that need not wait.
func TestLatencies(t *testing.T) {
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10, FlushEvery: -1}
	pc := enginetest.Open(t, dir, o)
	if n := pc.Latencies(); n.Commit.Count != 0 || n.Read.Count != 0 {
		t.Errorf("a new store: %+v", n)
	}
	pids := enginetest.AllocateMany(t, pc, 100, 1000)
	blob, _ := enginetest.Allocate(t, pc, make([]byte, 64<<10))
	enginetest.Flush(t, pc)
	enginetest.Flush(t, pc) // has nothing to wait for
	pid, lsn := enginetest.Allocate(t, pc, []byte("a page"))
	for range 2 { // the second one has nothing to wait for
		if _, err := pc.MakeStable(lsn); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		enginetest.Get(t, pc, pid)
	}
	n, st := pc.Latencies(), pc.Stats()
	if n.Commit.Count != 2 || n.Read.Count != 0 || n.Device.Count != st.Log.Flushes ||
		n.Commit.Sum <= 0 || n.Device.Quantile(1) <= 0 {
		t.Errorf("after 2 commits and %d flushes: %+v", st.Log.Flushes, n)
	}
	enginetest.Close(t, pc)

	pc = enginetest.Open(t, dir, o)
	dropCache(t, pc)
	before := pc.Latencies().Read
	for _, pid := range pids[:50] {
		enginetest.Get(t, pc, pid)
	}
	n, st = pc.Latencies(), pc.Stats()
	if got := n.Read.Count - before.Count; got == 0 || got > st.Pages.FetchesCold || n.Read.Sum <= before.Sum {
		t.Errorf("after %d cold fetches: %+v, before them %+v", st.Pages.FetchesCold, n.Read, before)
	}
	before = n.Read
	for _, pid := range pids[:50] { // resident
		enginetest.Get(t, pc, pid)
	}
	if n = pc.Latencies(); n.Read.Count != before.Count {
		t.Errorf("after Gets of resident pages: %+v, before them %+v", n.Read, before)
	}
	dropCache(t, pc)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	if _, err := pc.GetMany(tx, pids[50:], nil); err != nil {
		t.Fatal(err)
	}
	if n = pc.Latencies(); n.Read.Count != before.Count+1 {
		t.Errorf("after a GetMany of cold pages: %+v, before it %+v", n.Read, before)
	}
	before = n.Read
	dropBlobs(t, pc)
	enginetest.Get(t, pc, blob)
	if n = pc.Latencies(); n.Read.Count == before.Count {
		t.Errorf("after a Get of a cold blob: %+v, before it %+v", n.Read, before)
	}
}

// dropCache drops the log file from the kernel's page cache.
func dropCache(t *testing.T, pc *engine.PageCache[[]byte]) {
	t.Helper()
	size, err := engine.StoreOf(pc).File().Size()
	if err == nil {
		err = engine.StoreOf(pc).File().DropCache(0, size)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Commits and device writes that fail are not counted. A slow device shows in both.
func TestLatenciesOfASlowAndAFailingDisk(t *testing.T) {
	const delay = 20 * time.Millisecond
	d := simdisk.New(1, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	d.SetDelay(delay)
	_, lsn := enginetest.Allocate(t, pc, []byte("slow"))
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	d.SetDelay(0)
	if n := pc.Latencies(); n.Commit.Count != 1 || n.Commit.Sum < delay || n.Device.Sum < delay {
		t.Errorf("a commit on a disk that needs %v: %+v", delay, n)
	}
	before := pc.Latencies()
	enginetest.NoCheck(t, pc)
	d.FailFrom(simdisk.OpDeviceWrite, 1, errors.New("broken"))
	_, lsn = enginetest.Allocate(t, pc, []byte("lost"))
	if _, err := pc.MakeStable(lsn); !errors.Is(err, engine.ErrFailed) {
		t.Fatal(err)
	}
	if n := pc.Latencies(); n.Commit.Count != before.Commit.Count || n.Device.Count != before.Device.Count {
		t.Errorf("failures were counted: %+v", n)
	}
}

// dropBlobs drops the blobs of a store from the kernel's page cache.
func dropBlobs(t *testing.T, pc *engine.PageCache[[]byte]) {
	t.Helper()
	blobs, err := engine.StoreOf(pc).Held.OpenDir(enginetest.BlobDir)
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	names, err := blobs.ReadDir()
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		f, err := blobs.Open(name, vfs.FlagRead)
		if err != nil {
			t.Fatal(err)
		}
		size, err := f.Size()
		if err := errors.Join(err, f.DropCache(0, size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// An execution trace shows commits, reads from disk and steps of cleaning as regions.
func TestTraceRegions(t *testing.T) {
	if trace.IsEnabled() {
		t.Skip("a trace is being taken")
	}
	var out bytes.Buffer
	if err := trace.Start(&out); err != nil {
		t.Fatal(err)
	}
	defer trace.Stop()
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10, FlushEvery: -1}
	pc := enginetest.Open(t, dir, o)
	pids := enginetest.AllocateMany(t, pc, 100, 1000) // the last ones will be read from an io buffer
	enginetest.Flush(t, pc)
	enginetest.Close(t, pc)
	pc = enginetest.Open(t, dir, o)
	dropCache(t, pc)
	enginetest.Get(t, pc, pids[0])
	if _, err := pc.AttemptGC(); err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, pc)
	trace.Stop()
	for _, name := range []string{"pagecache: commit", "pagecache: read from disk", "pagecache: cleaning step"} {
		if !strings.Contains(out.String(), name) {
			t.Errorf("the trace has no region %q", name)
		}
	}
}

// The state of a store as variables of package expvar: they are computed when somebody asks for them. A program that
// also imports net/http serves them at /debug/vars.
func ExamplePageCache_Stats_expvar() {
	pc, err := engine.Open("", engine.Bytes{}, &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	store := expvar.NewMap("store")
	store.Set("stats", expvar.Func(func() any { return pc.Stats() }))
	store.Set("commit_p99_seconds", expvar.Func(func() any {
		return pc.Latencies().Commit.Quantile(0.99).Seconds()
	}))
	_, _ = pc.FlushContext(context.Background())
	fmt.Println(store.Get("commit_p99_seconds"))
	fmt.Println(strings.Contains(store.String(), `"StableLSN"`))
	// Output:
	// 0
	// true
}
