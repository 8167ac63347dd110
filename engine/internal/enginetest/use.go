package enginetest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// Begin begins a Tx.
func Begin[P any](t testing.TB, pc *engine.PageCache[P]) *engine.Tx[P] {
	t.Helper()
	tx, err := pc.Begin()
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	return tx
}

// Get returns a page, read in a Tx of its own. Its value is a copy.
func Get(t testing.TB, pc *engine.PageCache[[]byte], pid engine.PageID) engine.Page[[]byte] {
	t.Helper()
	tx := Begin(t, pc)
	defer tx.End()
	p, err := pc.Get(tx, pid)
	if err != nil {
		t.Fatal(err)
	}
	p.Value = bytes.Clone(p.Value)
	return p
}

// Allocate allocates a page, in a Tx of its own, and returns its id and the LSN at which it is durable.
func Allocate(t testing.TB, pc *engine.PageCache[[]byte], v []byte) (engine.PageID, engine.LSN) {
	t.Helper()
	tx := Begin(t, pc)
	defer tx.End()
	pid, ptr, err := pc.Allocate(tx, v)
	if err != nil {
		t.Fatal(err)
	}
	return pid, ptr.LastLSN()
}

// AllocateMany allocates n pages of size bytes each, in one Tx. Every byte of the i-th is 'a' + i.
func AllocateMany(t testing.TB, pc *engine.PageCache[[]byte], n, size int) (pids []engine.PageID) {
	t.Helper()
	tx := Begin(t, pc)
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

// Flush makes everything written stable. s is a page store or a log.
func Flush(t testing.TB, s interface{ Flush() (int, error) }) {
	t.Helper()
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
}

// Must returns a function that returns the state from a compare-and-swap call, or fails the test if the call did not
// win.
func Must(t testing.TB) func(engine.PagePtr[[]byte], bool, error) engine.PagePtr[[]byte] {
	return func(p engine.PagePtr[[]byte], won bool, err error) engine.PagePtr[[]byte] {
		t.Helper()
		if err != nil || !won {
			t.Fatalf("compare-and-swap: won %v, error %v", won, err)
		}
		return p
	}
}

// Version returns the number of the version that p identifies. The versions of a page are numbered from 1 on, without
// gaps, in each opening (rule 6).
func Version[P any](p engine.PagePtr[P]) uint64 { return reflect.ValueOf(p).FieldByName("ts").Uint() }

// NextPage returns the lowest page id that was never handed out. No goroutine allocates or frees pages meanwhile.
func NextPage[P any](pc *engine.PageCache[P]) engine.PageID {
	n := pc.Stats().Pages
	return engine.FirstUserPage + engine.PageID(n.InUse+n.Roots+n.Free)
}

// Random returns n random bytes. The same seed always gives the same bytes.
func Random(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// Brief describes a value in a few characters.
func Brief(b []byte) string {
	if len(b) > 12 {
		return fmt.Sprintf("%d bytes %x…", len(b), b[:12])
	}
	return fmt.Sprintf("%d bytes %x", len(b), b)
}

// Contents returns the kinds and values of all user pages, one a line, and the roots.
func Contents(t testing.TB, pc *engine.PageCache[[]byte]) string {
	t.Helper()
	tx := Begin(t, pc)
	defer tx.End()
	var b strings.Builder
	for pid := engine.FirstUserPage; pid < NextPage(pc); pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d %v %x\n", pid, p.Kind == engine.KindMaterialized, p.Value)
	}
	m, err := pc.Meta(tx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, m)
	return b.String()
}

// isNamed reports whether a root names the page.
func isNamed(t testing.TB, pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte], pid engine.PageID) bool {
	t.Helper()
	roots, err := pc.Meta(tx)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(slices.Collect(maps.Values(roots)), pid)
}

// Busy makes n random changes of every kind to a store. It frees no page that a root names.
func Busy(t testing.TB, pc *engine.PageCache[[]byte], n int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	for i := range n {
		tx := Begin(t, pc)
		pid := engine.FirstUserPage + engine.PageID(rng.IntN(int(NextPage(pc))))
		p, err := pc.Get(tx, pid)
		if err == nil && i%50 == 0 && p.Kind == engine.KindMaterialized {
			_, _, err = pc.CASRoot(tx, fmt.Sprintf("root %d of %d", i, seed), 0, pid)
		}
		if err == nil {
			v := Random(rng.IntN(300), uint64(i))
			if rng.IntN(30) == 0 {
				v = Random(5000, uint64(i))
			}
			switch k := rng.IntN(10); {
			case k < 3 || p.Kind != engine.KindMaterialized:
				_, _, err = pc.Allocate(tx, v)
			case k < 7:
				_, _, err = pc.Link(tx, pid, p.Ptr, v)
			case k < 9 || isNamed(t, pc, tx, pid):
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

// Churn replaces all pages six times a round, which writes 15 000 bytes, and then flushes.
func Churn(t testing.TB, pc *engine.PageCache[[]byte], pids []engine.PageID, rounds int) {
	t.Helper()
	for round := range 6 * rounds {
		tx := Begin(t, pc)
		for _, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			Must(t)(pc.Replace(tx, pid, p.Ptr, bytes.Repeat([]byte{byte(round)}, 2500/len(pids))))
		}
		tx.End()
	}
	Flush(t, pc)
}

// CleanAll calls AttemptGC until it makes no progress, and returns how many segments were recycled. Eager cleaning has
// no budget, so it would never end where pages leave much of each segment unused: CleanAll gives up after 1000 calls.
func CleanAll(t testing.TB, pc *engine.PageCache[[]byte]) int64 {
	t.Helper()
	before := pc.Stats().Space.Recycled
	for did, n := true, 0; did && n < 1000; n++ {
		var err error
		if did, err = pc.AttemptGC(); err != nil {
			t.Fatal(err)
		}
	}
	return pc.Stats().Space.Recycled - before
}

// Records returns the records that Records yields from an LSN on, and reads each of them again by its place.
func Records(t testing.TB, l *engine.Log, from engine.LSN) (lsns []engine.LSN, bodies []string) {
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

// MixedStore makes a store on a simulated disk that has something of everything: blobs, compressed values, chains of
// deltas, freed pages, roots, moved pages and recycled segments. It closes the store and returns its disk, its options
// and its Contents.
func MixedStore(t testing.TB) (*simdisk.Disk, *engine.Options, string) {
	t.Helper()
	d := simdisk.New(1, simdisk.Options{})
	o := WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 4,
		Compression: engine.CompressionZstd, CompressionLevel: 1}, seam.Options{Eager: true, FS: d})
	pc := Open(t, "/store", o)
	for round := range uint64(3) {
		Busy(t, pc, 200, round)
		Flush(t, pc)
		CleanAll(t, pc)
	}
	Busy(t, pc, 100, 9) // chains of deltas
	contents := Contents(t, pc)
	Close(t, pc)
	return d, o, contents
}
