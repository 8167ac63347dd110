package engine_test

import (
	"flag"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

// occupied returns how many bytes a file has, and how many of disk space it occupies.
func occupied(t *testing.T, name string) (size, space int64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Size, st.Blocks * 512
}

// keptSlots is the number of free slots whose space a page store keeps.
const keptSlots = 5

// spaceFull makes the tests of space as large as the limits that docs/TUNING.md names. They are close to what is
// measured, so nothing else should use the machine.
var spaceFull = flag.Bool("space.full", false, "the tests of space work with default options, on 200 MB, for minutes")

// A store that is overwritten again and again stays small, and writes little for that. Once it is idle it becomes
// smaller, and then does nothing more. Proves trap 45.
func TestOverwrittenStoreStaysSmall(t *testing.T) {
	t.Parallel()
	o, pages, most, written := &engine.Options{SegmentSize: 1 << 20}, 6250, 2.5, 2.5
	patience := 20 * time.Second
	if *spaceFull {
		// Otherwise all of it is written in half a second: a goroutine that waits for a processor counts for much.
		o, pages, most, patience = nil, 50000, 1.7, 10*time.Second
	}
	const size, rounds = 4000, 8
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, o)
	pids := enginetest.AllocateMany(t, pc, pages, size)
	rng := rand.New(rand.NewPCG(1, 1))
	worst := 0.0
	for i := range rounds * pages {
		tx := enginetest.Begin(t, pc)
		pid := pids[rng.IntN(pages)]
		p, err := pc.Get(tx, pid)
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, make([]byte, size)))
		tx.End()
		if i%64 == 0 {
			worst = max(worst, pc.Stats().Space.Amplification)
		}
	}
	busy := pc.Stats()
	t.Logf("at worst %.2f of the live data, %.2f bytes written for each byte", worst, busy.Log.WriteAmplification)
	if worst > most || busy.Log.WriteAmplification > written {
		t.Errorf("at worst %.2f of the live data, %.2f bytes written for each byte", worst, busy.Log.WriteAmplification)
	}
	var s engine.Stats
	start := time.Now()
	for ; ; time.Sleep(20 * time.Millisecond) {
		if s = pc.Stats(); s.Space.Amplification <= 1.3 {
			break
		}
		if time.Since(start) > patience {
			t.Fatalf("idle: %.2f of the live data, %+v", s.Space.Amplification, s.Space)
		}
	}
	t.Logf("idle for %v: %.2f of the live data", time.Since(start), s.Space.Amplification)
	for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if again := pc.Stats(); again.Space.BytesMoved != s.Space.BytesMoved {
			s, until = again, time.Now().Add(1500*time.Millisecond)
		}
		if time.Since(start) > 2*patience {
			t.Fatal("the idle store does not come to rest")
		}
	}
	if moved := s.Space.BytesMoved - busy.Space.BytesMoved; float64(moved) > 1.5*float64(s.Log.BytesGiven) {
		t.Errorf("the idle store moved %d bytes of %d given", moved, s.Log.BytesGiven)
	}
	s = pc.Stats()
	t.Logf("at rest: %.2f of the live data, %.2f bytes written for each byte", s.Space.Amplification,
		s.Log.WriteAmplification)
	if _, space := occupied(t, filepath.Join(dir, "log")); space != s.Space.FileBytes {
		t.Errorf("the file occupies %d bytes, Stats say %d", space, s.Space.FileBytes)
	}
	enginetest.Close(t, pc)
	size2, space := occupied(t, filepath.Join(dir, "log"))
	if live := float64(s.Space.LiveBytes); float64(space) > 1.3*live || float64(size2) > 1.7*live {
		t.Errorf("closed: %d bytes, %d occupied, for %d live", size2, space, s.Space.LiveBytes)
	}
}

// After all pages were freed, the file becomes short, while the store is idle and when it is closed. The segment that
// is being written to lies at its end. Proves trap 45; rule 9.
func TestFreedStoreGivesSpaceBack(t *testing.T) {
	t.Parallel()
	const segment, pages, size = 1 << 20, 3000, 8000
	for _, idle := range []bool{true, false} {
		dir := t.TempDir()
		name := filepath.Join(dir, "log")
		pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: segment})
		pids := enginetest.AllocateMany(t, pc, pages, size)
		tx := enginetest.Begin(t, pc)
		for _, pid := range pids {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Free(tx, pid, p.Ptr))
		}
		tx.End()
		enginetest.Flush(t, pc)
		most := 2*pc.Stats().Space.LiveBytes + (keptSlots+2)*segment
		for start := time.Now(); idle; time.Sleep(20 * time.Millisecond) {
			length, space := occupied(t, name)
			if length <= most+4*segment && space <= most {
				break
			}
			if time.Since(start) > 20*time.Second {
				t.Fatalf("idle: %d KiB, %d KiB occupied, want %d KiB", length>>10, space>>10, most>>10)
			}
		}
		enginetest.Close(t, pc)
		length, space := occupied(t, name)
		if space > most || idle && length > most+4*segment {
			t.Errorf("idle %v, closed: %d KiB, %d KiB occupied, want %d KiB", idle, length>>10, space>>10, most>>10)
		}
		pc = enginetest.Open(t, dir, nil)
		enginetest.AllocateMany(t, pc, pages, size) // into slots whose space was given back
		enginetest.Close(t, pc)
		enginetest.Check(t, dir, nil)
	}
}
