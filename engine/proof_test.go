package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/logstore"
	"pagecache/internal/osfs"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
)

// One thousand commits, each of one page whose message fills one block exactly, so that no pad is written, and each
// acknowledged. The process is killed. A bit that is flipped anywhere in a commit but the last is reported with its
// place, by Open and by Check. So is one in the last, once the store was idle for a moment. Proves rule 13, trap 25.
func TestAcknowledgedCommitsAreProven(t *testing.T) {
	t.Parallel()
	const commits, block = 1000, 4096
	for _, idle := range []bool{false, true} {
		t.Run(fmt.Sprintf("idle=%v", idle), func(t *testing.T) {
			dir := t.TempDir()
			pc := enginetest.Open(t, dir, &engine.Options{SegmentMode: engine.SegmentModeLinear}) // nothing moves
			enginetest.NoCheck(t, pc)
			var lsns []engine.LSN
			tx := enginetest.Begin(t, pc)
			for i := range commits {
				_, ptr, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, block-24))
				if err == nil {
					_, err = pc.MakeStable(ptr.LastLSN())
				}
				if err != nil {
					t.Fatal(err)
				}
				if lsns = append(lsns, ptr.LastLSN()); ptr.LastLSN()%block != 0 {
					t.Fatalf("a message at LSN %d: it does not fill a block", ptr.LastLSN())
				}
			}
			tx.End()
			proven := commits - 1
			if idle {
				untilProven(t, dir, lsns[commits-1]+1)
				proven = commits
			}
			killed := filepath.Join(t.TempDir(), "killed")
			if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(filepath.Join(killed, enginetest.LogName), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			rng := rand.New(rand.NewPCG(1, 2))
			for n := range 40 {
				i := rng.IntN(proven)
				if n == 0 {
					i = proven - 1
				}
				// Nothing was recycled, so offsets are LSNs.
				flip(t, f, int64(lsns[i])+rng.Int64N(block), uint(rng.IntN(8)))
				_, err := engine.Open(killed, engine.Bytes{}, nil)
				var c *engine.CorruptError
				if !errors.Is(err, engine.ErrCorrupt) || !errors.As(err, &c) {
					t.Fatalf("commit %d of %d is corrupt, and Open returns %v", i, commits, err)
				}
				if at, known := c.Place.LSN(); at != lsns[i] || !known {
					t.Errorf("commit %d at LSN %v is corrupt: %v", i, lsns[i], err)
				}
				if err := enginetest.Problems(killed, nil); !errors.Is(err, engine.ErrCorrupt) {
					t.Errorf("commit %d of %d is corrupt, and Check finds %v", i, commits, err)
				}
				rewind(t, f, filepath.Join(dir, enginetest.LogName), int64(lsns[i]), block)
			}
		})
	}
}

// flip flips a bit of a file.
func flip(t *testing.T, f *os.File, off int64, bit uint) {
	t.Helper()
	var b [1]byte
	_, err := f.ReadAt(b[:], off)
	b[0] ^= 1 << bit
	if err == nil {
		_, err = f.WriteAt(b[:], off)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rewind copies n bytes at off from the named file to f.
func rewind(t *testing.T, f *os.File, name string, off, n int64) {
	t.Helper()
	from, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	b := make([]byte, n)
	if _, err = from.ReadAt(b, off); err == nil {
		_, err = f.WriteAt(b, off)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// untilProven waits until the log of the store in dir proves that it is durable below end.
func untilProven(t *testing.T, dir string, end engine.LSN) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		res, err := enginetest.ScanLog(osfs.OS, dir)
		if err != nil {
			t.Fatal(err)
		}
		if res.Durable >= end {
			return
		}
		if time.Since(start) > 20*time.Second {
			t.Fatalf("acknowledged below %v, proven below %v", end, res.Durable)
		}
	}
}

// A moment after the last acknowledgement the log itself proves all that was acknowledged, however long the messages
// are and however often they are flushed; then nothing more is written. Proves rule 13, trap 25.
func TestIdleStoreProvesEverything(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 1000, 4000} {
		for _, every := range []int{1, 100, 1 << 30} {
			t.Run(fmt.Sprintf("size=%d/every=%d", size, every), func(t *testing.T) {
				dir := t.TempDir()
				// A cleaner would free segments that the test reads, on a machine so slow that the store idles.
				pc := enginetest.Open(t, dir, &engine.Options{SegmentMode: engine.SegmentModeLinear})
				n := 4_000_000 / size
				if every == 1 {
					n = 100
				}
				tx := enginetest.Begin(t, pc)
				for i := range n {
					if _, _, err := pc.Allocate(tx, bytes.Repeat([]byte{byte(i)}, size)); err != nil {
						t.Fatal(err)
					}
					if i%every == every-1 {
						enginetest.Flush(t, pc)
					}
				}
				tx.End()
				enginetest.Flush(t, pc)
				untilProven(t, dir, pc.StableLSN()+1)
				time.Sleep(100 * time.Millisecond) // the file may show the mark before the write of it has ended
				before := pc.Stats().Log
				time.Sleep(100 * time.Millisecond)
				if after := pc.Stats().Log; after.BytesWritten != before.BytesWritten {
					t.Errorf("an idle store goes on writing: %+v, before %+v", after, before)
				}
			})
		}
	}
}

// A store with commits of any size, killed: for each bit that is flipped in what was acknowledged before the last
// commit, the log is reported as corrupt, or is whole because the bit means nothing. It tries one bit in 61. Proves
// rule 13, trap 25.
func TestFlippedBitOfAcknowledgedDataIsReported(t *testing.T) {
	t.Parallel()
	step := 61
	if testing.Short() || enginetest.Raced {
		step = 1009
	}
	for seed := range uint64(4) {
		d := simdisk.New(seed, simdisk.Options{Block: []int{512, 4096}[seed%2]})
		pc := enginetest.OpenSim(t, d)
		enginetest.NoCheck(t, pc)
		rng := rand.New(rand.NewPCG(seed, 3))
		var ends []engine.LSN // of what was acknowledged, after each commit
		for range 30 {
			for range 1 + rng.IntN(3) {
				enginetest.Allocate(t, pc, make([]byte, rng.IntN(1500)))
			}
			enginetest.Flush(t, pc)
			ends = append(ends, pc.StableLSN()+1)
		}
		killed := d.Crash(seed)
		held, err := killed.OpenDir("/store")
		if err != nil {
			t.Fatal(err)
		}
		sb, err := logstore.ReadSuper(held)
		if err != nil {
			t.Fatal(err)
		}
		o := enginetest.ScanOptions(sb)
		log := memory(killed.ReadDurable("/store/" + enginetest.LogName))
		res, err := recovery.Scan(log, o)
		if err != nil || res.End < ends[len(ends)-1] || res.Durable < ends[len(ends)-2] {
			t.Fatalf("%+v, %v; acknowledged below %v", res, err, ends)
		}
		end, proven := res.End, res.Durable
		unnoticed, flipped := 0, 0
		for _, g := range res.Segments {
			from := int(g.Slot.Offset(o.SegmentSize))
			upTo := min(g.Used, int(proven-g.Base))
			for bit := from * 8; bit < (from+upTo)*8; bit += step {
				log[bit/8] ^= 1 << (bit % 8)
				flipped++
				switch r, err := recovery.Scan(log, o); {
				case err == nil && r.End != end:
					t.Errorf("seed %d, bit %d: the log ends at %v, was %v, proven %v", seed, bit, r.End, end, proven)
				case err == nil:
					unnoticed++
				case !errors.Is(err, engine.ErrCorrupt):
					t.Errorf("seed %d, bit %d: %v", seed, bit, err)
				}
				log[bit/8] ^= 1 << (bit % 8)
			}
		}
		t.Logf("seed %d: %d of %d flips mean nothing", seed, unnoticed, flipped)
	}
}

// memory is a log file in memory.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(p, off) }
func (m memory) Size() (int64, error)                    { return int64(len(m)), nil }
