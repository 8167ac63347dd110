package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
)

// The helpers below are for tests that stay in package engine, which cannot import enginetest. That has the same
// helpers for all others.

// coreOf returns the part of the store that page stores and logs have in common.
func (pc *PageCache[P]) coreOf() *core { return &pc.core }

// coreOf returns the part of the log that page stores and logs have in common.
func (l *Log) coreOf() *core { return &l.core }

// openTest opens a store of byte strings.
func openTest(t testing.TB, dir string, o *Options) *PageCache[[]byte] {
	t.Helper()
	pc, err := Open(dir, Bytes{}, o)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	return pc
}

// simOptions returns the options of a small store on the simulated disk.
func simOptions(d *simdisk.Disk) *Options {
	return &Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, seam: seam.Options{FS: d}}
}

// openSim opens the store in /store on the simulated disk.
func openSim(t testing.TB, d *simdisk.Disk) *PageCache[[]byte] {
	t.Helper()
	return openTest(t, "/store", simOptions(d))
}

// openSimLog opens the log in /store on the simulated disk.
func openSimLog(t testing.TB, d *simdisk.Disk) *Log {
	t.Helper()
	l, err := OpenLog("/store", simOptions(d))
	if err != nil {
		t.Fatalf("open log: %v", err)
	}
	return l
}

// anyStore is a store or a standalone log.
type anyStore interface {
	Close() error
	coreOf() *core
}

// closeTest closes a store or log, which must succeed, and runs Check on it. If the test has corrupted the store, it
// uses closeUnchecked.
func closeTest(t testing.TB, s anyStore) {
	t.Helper()
	c := s.coreOf()
	if !closeUnchecked(t, s) {
		return
	}
	if _, bench := t.(*testing.B); bench || c.opts.Temporary {
		return
	}
	_, err := Check(c.store.Dir, &c.opts, func(problem error) { t.Errorf("check of the closed store: %v", problem) })
	if err != nil {
		t.Errorf("check of the closed store: %v", err)
	}
}

// closeUnchecked closes a store or log, which must succeed, and reports whether it did.
func closeUnchecked(t testing.TB, s anyStore) bool {
	t.Helper()
	err := s.Close()
	if err != nil {
		t.Errorf("close store: %v", err)
	}
	return err == nil
}

// closeInBatch closes a store in which only b is open. Close must say so.
func closeInBatch(t testing.TB, pc *PageCache[[]byte], b *Batch) {
	t.Helper()
	var left *BatchOpenError
	if err := pc.Close(); !errors.As(err, &left) || left.LSN != b.LSN() {
		t.Errorf("close store with a batch open from LSN %d: %v", b.LSN(), err)
	}
}

// begin begins a Tx.
func begin(t testing.TB, pc *PageCache[[]byte]) *Tx[[]byte] {
	t.Helper()
	tx, err := pc.Begin()
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	return tx
}

// must returns a function that returns the state from a compare-and-swap call, or fails the test if the call did not
// win.
func must(t testing.TB) func(PagePtr[[]byte], bool, error) PagePtr[[]byte] {
	return func(p PagePtr[[]byte], won bool, err error) PagePtr[[]byte] {
		t.Helper()
		if err != nil || !won {
			t.Fatalf("compare-and-swap: won %v, error %v", won, err)
		}
		return p
	}
}

// get1 returns a page, read in a Tx of its own. Its value is a copy.
func get1(t testing.TB, pc *PageCache[[]byte], pid PageID) Page[[]byte] {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	p, err := pc.Get(tx, pid)
	if err != nil {
		t.Fatal(err)
	}
	p.Value = bytes.Clone(p.Value)
	return p
}

// allocate allocates a page, in a Tx of its own, and returns its id and the LSN at which it is durable.
func allocate(t testing.TB, pc *PageCache[[]byte], v []byte) (PageID, LSN) {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	pid, ptr, err := pc.Allocate(tx, v)
	if err != nil {
		t.Fatal(err)
	}
	return pid, ptr.LastLSN()
}

// some allocates n pages of size bytes each, in one Tx. Every byte of the i-th is 'a' + i.
func some(t testing.TB, pc *PageCache[[]byte], n, size int) (pids []PageID) {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	for i := range n {
		pid, _, err := pc.Allocate(tx, bytes.Repeat([]byte{'a' + byte(i)}, size))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// flushTest makes everything written stable.
func flushTest(t testing.TB, pc *PageCache[[]byte]) {
	t.Helper()
	if _, err := pc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// random returns n random bytes. The same seed always gives the same bytes.
func random(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// contentsOf returns the kinds and values of all user pages, one a line, and the roots.
func contentsOf(t testing.TB, pc *PageCache[[]byte]) string {
	t.Helper()
	tx := begin(t, pc)
	defer tx.End()
	var b strings.Builder
	for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d %v %x\n", pid, p.Kind == KindMaterialized, p.Value)
	}
	m, err := pc.Meta(tx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, m)
	return b.String()
}

// busy makes n random changes of every kind to a store.
func busy(t testing.TB, pc *PageCache[[]byte], n int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	for i := range n {
		tx := begin(t, pc)
		pid := FirstUserPage + PageID(rng.IntN(int(pc.pages.IDs.Next())))
		p, err := pc.Get(tx, pid)
		if err == nil && i%50 == 0 && p.Kind == KindMaterialized {
			_, _, err = pc.CASRoot(tx, fmt.Sprintf("root %d of %d", i, seed), 0, pid)
		}
		if err == nil {
			v := random(rng.IntN(300), uint64(i))
			if rng.IntN(30) == 0 {
				v = random(5000, uint64(i))
			}
			switch k := rng.IntN(10); {
			case k < 3 || p.Kind != KindMaterialized:
				_, _, err = pc.Allocate(tx, v)
			case k < 7:
				_, _, err = pc.Link(tx, pid, p.Ptr, v)
			case k < 9:
				_, _, err = pc.Replace(tx, pid, p.Ptr, v)
			default:
				_, _, err = pc.Free(tx, pid, p.Ptr)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		tx.End()
	}
}

// cleanAll calls AttemptGC until it makes no progress, and returns how many segments were recycled. It gives up after
// 1000 calls, as enginetest.CleanAll does.
func cleanAll(t testing.TB, pc *PageCache[[]byte]) int64 {
	t.Helper()
	before := pc.cleaner.Stats().Recycled
	for did, n := true, 0; did && n < 1000; n++ {
		var err error
		if did, err = pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
	}
	return pc.cleaner.Stats().Recycled - before
}

// records returns the records that Records yields from an LSN on, and reads each of them again by its place.
func records(t testing.TB, l *Log, from LSN) (lsns []LSN, bodies []string) {
	t.Helper()
	for r, err := range l.Records(from) {
		if err != nil {
			t.Fatalf("after %d records from LSN %d on: %v", len(lsns), from, err)
		}
		b, err := l.Read(r.LSN, r.Ptr)
		if err != nil || !bytes.Equal(b, r.Bytes) {
			t.Fatalf("read LSN %d again: %v", r.LSN, err)
		}
		lsns, bodies = append(lsns, r.LSN), append(bodies, string(r.Bytes))
	}
	return lsns, bodies
}

// soon fails the test if f takes longer than 30 seconds, which no call does that another wakes.
func soon(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: hangs", what)
	}
}

// snapshotFiles returns the names in dir that begin with "snapshot".
func snapshotFiles(t testing.TB, fsys vfs.FS, dir string) (names []string) {
	t.Helper()
	d, err := fsys.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all, err := d.ReadDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if strings.HasPrefix(n, "snapshot") {
			names = append(names, n)
		}
	}
	return names
}
