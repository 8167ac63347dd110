package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// Each record of many writers is in the log once, also those of batches. Records are in the order of their LSNs, and
// the records of one writer in the order in which it wrote them.
func TestConcurrentLogWriters(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	const writers, rounds = 4, 60
	var mu sync.Mutex
	all := map[engine.LSN]string{}
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			last := engine.LSN(0)
			for i := range rounds {
				v := fmt.Sprintf("%d/%03d/%s", g, i, strings.Repeat("x", i%7*90))
				var lsns []engine.LSN
				var err error
				switch i % 3 {
				case 0:
					var lsn engine.LSN
					lsn, _, err = l.Write([]byte(v))
					lsns = []engine.LSN{lsn}
				case 1:
					var r *engine.Reservation
					if r, err = l.Reserve(len(v)); err == nil {
						copy(r.Bytes(), v)
						_, _, err = r.Complete()
						lsns = []engine.LSN{r.LSN()}
					}
				case 2:
					lsns, err = l.WriteBatch([][]byte{[]byte(v), []byte(v)})
				}
				if err != nil {
					t.Error(err)
					return
				}
				for _, lsn := range lsns {
					if lsn <= last {
						t.Errorf("LSN %d after %d", lsn, last)
					}
					last = lsn
					mu.Lock()
					all[lsn] = v
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for range 2 {
		if _, err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		lsns, bodies := enginetest.Records(t, l, 0)
		if len(lsns) != len(all) || !slices.IsSorted(lsns) {
			t.Errorf("%d records, want %d", len(lsns), len(all))
		}
		var order [writers]string
		for i, b := range bodies {
			if all[lsns[i]] != b || order[b[0]-'0'] > b {
				t.Fatalf("LSN %d holds %q, want %q", lsns[i], b, all[lsns[i]])
			}
			order[b[0]-'0'] = b
		}
		enginetest.Close(t, l)
		l = enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	}
	enginetest.Close(t, l)
}

// Records begins with the first record at or above its LSN and ends where the log was stable when the iteration began.
// It skips aborted reservations, batch markers and the ends of segments.
func TestRecordsYieldsStableRecords(t *testing.T) {
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(simdisk.New(2, simdisk.Options{})))
	defer enginetest.Close(t, l)
	for r, err := range l.Records(0) {
		t.Errorf("an empty log has a record at LSN %d, %v", r.LSN, err)
	}
	var want []engine.LSN
	for i := range 100 {
		r, err := l.Reserve(i * 13)
		if err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			err = r.Abort()
		} else {
			want = append(want, r.LSN())
			_, _, err = r.Complete()
		}
		if i%10 == 0 {
			var b *engine.Batch
			if b, err = l.PinLog(); err == nil {
				err = b.Seal()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(l.Records(0))
	defer stop()
	n := 0
	if r, err, ok := next(); !ok || err != nil || r.LSN != want[0] { // the iteration has begun
		t.Errorf("first record at LSN %d, %v %v", r.LSN, err, ok)
	} else {
		n++
	}
	if _, _, err := l.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	if lsns, _ := enginetest.Records(t, l, 0); !slices.Equal(lsns, want) {
		t.Errorf("%v, want only the stable records %v", lsns, want)
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, err, ok := next(); ok; _, err, ok = next() {
		if err != nil {
			t.Errorf("record %d of an iteration that had begun: %v", n, err)
		}
		n++
	}
	if n != len(want) {
		t.Errorf("an iteration yields %d records, %d were stable when it began", n, len(want))
	}
	lsns, _ := enginetest.Records(t, l, -5)
	if len(lsns) != len(want)+1 {
		t.Errorf("%d records, want %d", len(lsns), len(want)+1)
	}
	end := l.StableLSN() + 1
	for i, lsn := range lsns {
		for _, from := range []engine.LSN{lsn - 7, lsn - 1, lsn, lsn + 1} {
			rest := lsns[i:]
			if from > lsn {
				rest = lsns[i+1:]
			}
			if got, _ := enginetest.Records(t, l, from); !slices.Equal(got, rest) {
				t.Fatalf("%d records from LSN %d on, want %d", len(got), from, len(rest))
			}
		}
	}
	for _, from := range []engine.LSN{end, end + 1, end + 16<<10, 1 << 60} {
		if got, _ := enginetest.Records(t, l, from); len(got) != 0 {
			t.Errorf("%d records from LSN %d on, but the log ends at %d", len(got), from, end)
		}
	}
}

// Nothing above an open reservation becomes stable. The log can be read meanwhile, and not closed. Proves rule 5.
func TestOpenReservationHoldsStability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(simdisk.New(3, simdisk.Options{})))
		first, err := l.Reserve(3)
		if err != nil {
			t.Fatal(err)
		}
		lsn, ptr, err := l.Write([]byte("behind it"))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := l.Read(lsn, ptr); err != nil || string(b) != "behind it" {
			t.Errorf("read above an open reservation: %q, %v", b, err)
		}
		waited := make(chan error, 1)
		go func() {
			_, err := l.MakeStable(lsn)
			waited <- err
		}()
		synctest.Wait() // until MakeStable waits
		if l.StableLSN() >= first.LSN() {
			t.Fatalf("stable up to %d, with a reservation open at %d", l.StableLSN(), first.LSN())
		}
		select {
		case err := <-waited:
			t.Fatalf("MakeStable above an open reservation returned %v", err)
		default:
		}
		if err := l.Close(); err == nil {
			t.Fatal("Close with an open reservation succeeded")
		}
		if n := copy(first.Bytes(), "first"); n != 3 {
			t.Errorf("the reservation has %d bytes, want 3", n)
		}
		if _, _, err := first.Complete(); err != nil {
			t.Fatal(err)
		}
		enginetest.Soon(t, "MakeStable", func() {
			if err := <-waited; err != nil {
				t.Errorf("make stable: %v", err)
			}
		})
		if _, bodies := enginetest.Records(t, l, 0); !slices.Equal(bodies, []string{"fir", "behind it"}) {
			t.Errorf("the log holds %q", bodies)
		}
		enginetest.Close(t, l)
	})
}

// If WriteBatch fails, the records before the failure stay as single records, and the log is not held up.
func TestFailedWriteBatchLeavesSingleRecords(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	if lsns, err := l.WriteBatch(nil); lsns != nil || err != nil {
		t.Errorf("an empty batch: LSNs %v, %v", lsns, err)
	}
	most := format.MaxBody(16<<10) - format.IndexRoom(1)
	lsns, err := l.WriteBatch([][]byte{[]byte("one"), make([]byte, most+1), []byte("three")})
	if len(lsns) != 1 || !errors.Is(err, engine.ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(most)) {
		t.Errorf("a batch with a record that is too large: LSNs %v, %v", lsns, err)
	}
	if lsn, _, err := l.Write(make([]byte, most)); err != nil {
		t.Errorf("write after the failure: %v", err)
	} else if _, err := l.MakeStable(lsn); err != nil {
		t.Errorf("make stable after the failure: %v", err)
	}
	d = d.Crash(1)
	_ = l.Close()
	l = enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	if _, bodies := enginetest.Records(t, l, 0); len(bodies) != 2 || bodies[0] != "one" || len(bodies[1]) != most {
		t.Errorf("after the crash %d records, %.20q", len(bodies), bodies)
	}
	enginetest.Close(t, l)
}

// After a crash the log holds all stable records, ends at no place within a batch, and lacks no record before its end.
// A log that was cut off anywhere is a prefix of itself, or Open returns ErrCorrupt because acknowledged records are
// gone. O1, O2. Proves rule 10; trap 1.
func TestTornLogIsAPrefix(t *testing.T) {
	t.Parallel()
	d := simdisk.New(5, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	var want []string
	var batches [][2]int
	acked := 0
	for i := range 40 {
		batch := [][]byte{fmt.Appendf(nil, "%d", i)}
		if i%4 == 0 {
			batch = append(batch, make([]byte, 3000), []byte("x"))
			batches = append(batches, [2]int{len(want), len(want) + 3})
		}
		if _, err := l.WriteBatch(batch); err != nil {
			t.Fatal(err)
		}
		for _, b := range batch {
			want = append(want, string(b))
		}
		if i == 20 {
			if _, err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			acked = len(want)
		}
	}
	check := func(d *simdisk.Disk, least int, what string) error {
		o := enginetest.SimOptions(d)
		l, err := engine.OpenLog("/store", o)
		if err != nil {
			return err
		}
		enginetest.Watch(t, l, o)
		_, got := enginetest.Records(t, l, 0)
		if n := len(got); n < least || n > len(want) || !slices.Equal(got, want[:n]) {
			t.Fatalf("%s: %d records, which are not the first of %d, or fewer than %d", what, n, len(want), least)
		}
		for _, b := range batches {
			if n := len(got); n > b[0] && n < b[1] {
				t.Errorf("%s: the log ends after %d records, within the batch of records %v", what, n, b)
			}
		}
		if _, _, err := l.Write([]byte("after")); err != nil {
			t.Errorf("%s: write: %v", what, err)
		}
		enginetest.Close(t, l)
		return nil
	}
	for seed := range uint64(30) {
		if err := check(d.Crash(seed), acked, fmt.Sprint("seed ", seed)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	whole := d.ReadDurable("/store/log")
	crashed := d.Crash(0)
	_ = l.Close()
	for n := 0; n <= len(whole); n += 1024 {
		cut := crashed.Crash(1)
		cut.WriteFile("/store/log", whole[:n])
		if err := check(cut, 0, fmt.Sprint("cut at ", n)); err != nil && !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

// Read and Records report a corrupt record with its place. Records ends there. All other records can be read. O7.
func TestCorruptRecordIsReported(t *testing.T) {
	d := simdisk.New(6, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	defer enginetest.Close(t, l)
	var lsns []engine.LSN
	var ptrs []engine.DiskPtr
	for i := range 60 { // the first segments are sealed
		lsn, ptr, err := l.Write(bytes.Repeat([]byte{byte(i)}, 1000))
		if err != nil {
			t.Fatal(err)
		}
		lsns, ptrs = append(lsns, lsn), append(ptrs, ptr)
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	enginetest.NoCheck(t, l)
	const bad = 3
	d.FlipBit("/store/log", int64(ptrs[bad].Off)+500, 3)
	_, err := l.Read(lsns[bad], ptrs[bad])
	ce := (*engine.CorruptError)(nil)
	if !errors.Is(err, engine.ErrCorrupt) || !errors.As(err, &ce) || ce.File != "/store/log" {
		t.Fatalf("read a corrupt record: %v, want ErrCorrupt", err)
	}
	lsn, _ := ce.Place.LSN()
	if off, _ := ce.Place.Offset(); lsn != lsns[bad] || off != ptrs[bad].Off {
		t.Errorf("read a corrupt record: %v, want LSN %d and offset %v", err, lsns[bad], ptrs[bad].Off)
	}
	n, last := 0, error(nil)
	for r, err := range l.Records(0) {
		if last != nil {
			t.Errorf("Records yields LSN %d, %v after the error %v", r.LSN, err, last)
		}
		if last = err; err == nil {
			n++
		} else if r.LSN != 0 || !r.Ptr.IsZero() || r.Bytes != nil {
			t.Errorf("Records yields LSN %d with the error", r.LSN)
		}
	}
	if n != bad || !errors.Is(last, engine.ErrCorrupt) {
		t.Errorf("%d records, then %v; want %d, then ErrCorrupt", n, last, bad)
	}
	if _, bodies := enginetest.Records(t, l, lsns[20]); len(bodies) != 40 {
		t.Errorf("%d records in later segments, want 40", len(bodies))
	}
}

// Lack of space fails one record and nothing else. A failed device write stops the log for good, except for reads.
// Proves rules 8 and 9.
func TestLogOnFullAndFailedDisk(t *testing.T) {
	d := simdisk.New(7, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
	lsn, ptr, err := l.Write([]byte("good"))
	if err == nil {
		_, err = l.MakeStable(lsn)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.SetCapacity(1)
	for err == nil {
		_, _, err = l.Write(make([]byte, 5000))
	}
	_, errReserve := l.Reserve(5000)
	for _, err := range []error{err, errReserve} {
		if !errors.Is(err, engine.ErrNoSpace) {
			t.Errorf("on a full disk: %v, want ErrNoSpace", err)
		}
	}
	d.SetCapacity(0)
	if _, _, err = l.Write(make([]byte, 5000)); err != nil {
		t.Errorf("write with space again: %v", err)
	}
	for first := false; !first; { // the next record begins the second block, and all before it is durable
		lsn, _, err := l.Write(make([]byte, 100))
		if _, errFlush := l.Flush(); err != nil || errFlush != nil {
			t.Fatal(err, errFlush)
		}
		first = lsn%(16<<10) == format.SegmentStart
	}
	d.FailFrom(simdisk.OpDeviceWrite, 1, syscall.EIO)
	if _, _, err := l.Write(make([]byte, 5000)); err != nil { // less than the flusher writes by itself
		t.Fatal(err)
	}
	r, err := l.Reserve(10)
	if err != nil {
		t.Fatal(err)
	}
	errs := map[string]error{}
	_, errs["MakeStable"] = l.MakeStable(r.LSN())
	_, errs["Flush"] = l.Flush()
	_, errs["Reserve"] = l.Reserve(1)
	_, _, errs["Write"] = l.Write(nil)
	_, errs["WriteBatch"] = l.WriteBatch([][]byte{nil})
	if _, _, err := r.Complete(); err != nil { // it was reserved before the failure
		t.Errorf("complete a reservation: %v", err)
	}
	if b, err := l.Read(lsn, ptr); err != nil || string(b) != "good" {
		t.Errorf("read after the log failed: %q, %v", b, err)
	}
	if _, bodies := enginetest.Records(t, l, 0); len(bodies) == 0 || bodies[0] != "good" {
		t.Errorf("Records after the log failed yields %q", bodies)
	}
	errs["Close"] = l.Close()
	for what, err := range errs {
		if !errors.Is(err, engine.ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v, want ErrFailed with EIO", what, err)
		}
	}
}
