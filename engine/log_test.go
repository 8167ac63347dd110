package engine

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

	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

func openSimLog(t *testing.T, d *simdisk.Disk) *Log {
	t.Helper()
	l, err := OpenLog("/store", simOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// records returns the records that Records yields from an LSN on.
func records(t *testing.T, l *Log, from LSN) (lsns []LSN, bodies []string) {
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

// Each record of many writers is in the log once, batches included. They are in the order of their LSNs, and those of
// one writer in the order in which it wrote them.
func TestLogWriters(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	l := openSimLog(t, d)
	const writers, rounds = 4, 60
	var all written[LSN]
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			last := LSN(0)
			for i := range rounds {
				v := fmt.Sprintf("%d/%03d/%s", g, i, strings.Repeat("x", i%7*90))
				var lsns []LSN
				var err error
				switch i % 3 {
				case 0:
					var lsn LSN
					lsn, _, err = l.Write([]byte(v))
					lsns = []LSN{lsn}
				case 1:
					var r *Reservation
					if r, err = l.Reserve(len(v)); err == nil {
						copy(r.Bytes(), v)
						_, _, err = r.Complete()
						lsns = []LSN{r.LSN()}
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
					all.add(lsn, v)
				}
			}
		})
	}
	wg.Wait()
	for range 2 {
		if _, err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		lsns, bodies := records(t, l, 0)
		if len(lsns) != len(all.m) || !slices.IsSorted(lsns) {
			t.Errorf("%d records, want %d", len(lsns), len(all.m))
		}
		var order [writers]string
		for i, b := range bodies {
			if all.m[lsns[i]] != b || order[b[0]-'0'] > b {
				t.Fatalf("%q at LSN %d", b, lsns[i])
			}
			order[b[0]-'0'] = b
		}
		closeTest(t, l)
		l = openSimLog(t, d)
	}
	closeTest(t, l)
}

// An iteration begins with the first record at or above its LSN, ends where the log was stable when it began, and skips
// aborted reservations, batch markers and the ends of segments.
func TestIterators(t *testing.T) {
	l := openSimLog(t, simdisk.New(2, simdisk.Options{}))
	defer closeTest(t, l)
	for r, err := range l.Records(0) {
		t.Errorf("an empty log has a record at LSN %d, %v", r.LSN, err)
	}
	var want []LSN
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
			var b *Batch
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
	if lsns, _ := records(t, l, 0); !slices.Equal(lsns, want) {
		t.Errorf("%v, want %v: what is not stable is not iterated over", lsns, want)
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, err, ok := next(); ok; _, err, ok = next() {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != len(want) {
		t.Errorf("%d records of an iteration that began before one more was written, want %d", n, len(want))
	}
	lsns, _ := records(t, l, -5)
	if len(lsns) != len(want)+1 {
		t.Errorf("%d records, want %d", len(lsns), len(want)+1)
	}
	end := l.StableLSN() + 1
	for i, lsn := range lsns {
		for _, from := range []LSN{lsn - 7, lsn - 1, lsn, lsn + 1} {
			rest := lsns[i:]
			if from > lsn {
				rest = lsns[i+1:]
			}
			if got, _ := records(t, l, from); !slices.Equal(got, rest) {
				t.Fatalf("%d records from LSN %d on, want %d", len(got), from, len(rest))
			}
		}
	}
	for _, from := range []LSN{end, end + 1, end + 16<<10, 1 << 60} {
		if got, _ := records(t, l, from); len(got) != 0 {
			t.Errorf("%d records from LSN %d on, the log ends at %d", len(got), from, end)
		}
	}
}

// Nothing above a reservation that has not ended becomes stable, and the log can be read meanwhile. Proves rule 5.
func TestOpenReservation(t *testing.T) {
	l := openSimLog(t, simdisk.New(3, simdisk.Options{}))
	first, err := l.Reserve(3)
	if err != nil {
		t.Fatal(err)
	}
	lsn, ptr, err := l.Write([]byte("behind it"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := l.Read(lsn, ptr); err != nil || string(b) != "behind it" {
		t.Errorf("%q %v", b, err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := l.MakeStable(lsn)
		waited <- err
	}()
	for range 100 {
		if l.StableLSN() >= first.LSN() {
			t.Fatalf("stable up to %d, with a reservation open at %d", l.StableLSN(), first.LSN())
		}
		select {
		case err := <-waited:
			t.Fatalf("MakeStable returned %v", err)
		default:
		}
	}
	if err := l.Close(); err == nil {
		t.Fatal("closed")
	}
	if n := copy(first.Bytes(), "first"); n != 3 {
		t.Errorf("room for %d bytes, want 3", n)
	}
	if _, _, err := first.Complete(); err != nil {
		t.Fatal(err)
	}
	soon(t, "MakeStable", func() {
		if err := <-waited; err != nil {
			t.Error(err)
		}
	})
	if _, bodies := records(t, l, 0); !slices.Equal(bodies, []string{"fir", "behind it"}) {
		t.Errorf("%q", bodies)
	}
	closeTest(t, l)
}

// A batch that cannot be written whole leaves the records before the failure as single records, and does not delay the
// log.
func TestWriteBatchThatFails(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{})
	l := openSimLog(t, d)
	if lsns, err := l.WriteBatch(nil); lsns != nil || err != nil {
		t.Error(lsns, err)
	}
	most := format.MaxBody(16 << 10)
	lsns, err := l.WriteBatch([][]byte{[]byte("one"), make([]byte, most+1), []byte("three")})
	if len(lsns) != 1 || !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(most)) {
		t.Errorf("%v, %v", lsns, err)
	}
	if lsn, _, err := l.Write(make([]byte, most)); err != nil {
		t.Error(err)
	} else if _, err := l.MakeStable(lsn); err != nil {
		t.Error(err)
	}
	d = d.Crash(1)
	_ = l.Close()
	l = openSimLog(t, d)
	if _, bodies := records(t, l, 0); len(bodies) != 2 || bodies[0] != "one" || len(bodies[1]) != most {
		t.Errorf("%d records, %.20q", len(bodies), bodies)
	}
	closeTest(t, l)
}

// After a crash the log ends where it was stable or later, never within a batch, and has each record before its end. If
// it is cut off anywhere, it is a prefix of itself, or reports corruption if acknowledged records are gone. O1, O2.
// Proves rule 10; trap 1.
func TestLogTails(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{})
	l := openSimLog(t, d)
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
		l, err := OpenLog("/store", simOptions(d))
		if err != nil {
			return err
		}
		_, got := records(t, l, 0)
		if n := len(got); n < least || n > len(want) || !slices.Equal(got, want[:n]) {
			t.Fatalf("%s: %d records, acknowledged %d", what, n, least)
		}
		for _, b := range batches {
			if n := len(got); n > b[0] && n < b[1] {
				t.Errorf("%s: %d records, in the batch %v", what, n, b)
			}
		}
		if _, _, err := l.Write([]byte("after")); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		closeTest(t, l)
		return nil
	}
	for seed := range uint64(30) {
		if err := check(d.Crash(seed), acked, fmt.Sprint("seed ", seed)); err != nil {
			t.Fatal(seed, err)
		}
	}
	whole := d.ReadDurable("/store/log")
	crashed := d.Crash(0)
	_ = l.Close()
	for n := 0; n <= len(whole); n += 1024 {
		cut := crashed.Crash(1)
		cut.WriteFile("/store/log", whole[:n])
		if err := check(cut, 0, fmt.Sprint("cut at ", n)); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

// A corrupt record is an error with its place, for Read and for Records, which ends there; the others can be read. O7.
func TestDamagedRecord(t *testing.T) {
	d := simdisk.New(6, simdisk.Options{})
	l := openSimLog(t, d)
	defer closeTest(t, l)
	var lsns []LSN
	var ptrs []DiskPtr
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
	const bad = 3
	d.FlipBit("/store/log", int64(ptrs[bad].Off)+500, 3)
	_, err := l.Read(lsns[bad], ptrs[bad])
	ce := (*CorruptError)(nil)
	if !errors.Is(err, ErrCorrupt) || !errors.As(err, &ce) || ce.File != "/store/log" {
		t.Fatalf("Read: %v", err)
	}
	lsn, _ := ce.Place.LSN()
	if off, _ := ce.Place.Offset(); lsn != lsns[bad] || off != ptrs[bad].Off {
		t.Errorf("Read: %v", err)
	}
	n, last := 0, error(nil)
	for r, err := range l.Records(0) {
		if last != nil {
			t.Errorf("a record at LSN %d, %v, after the error %v", r.LSN, err, last)
		}
		if last = err; err == nil {
			n++
		} else if r.LSN != 0 || !r.Ptr.IsZero() || r.Bytes != nil {
			t.Errorf("a record at LSN %d with the error", r.LSN)
		}
	}
	if n != bad || !errors.Is(last, ErrCorrupt) {
		t.Errorf("%d records, then %v", n, last)
	}
	if _, bodies := records(t, l, lsns[20]); len(bodies) != 40 {
		t.Errorf("%d records in later segments, want 40", len(bodies))
	}
}

// Lack of room fails a record and nothing else. A failed write stops the log for good, except for reading. Proves rules
// 8 and 9.
func TestLogFailures(t *testing.T) {
	d := simdisk.New(7, simdisk.Options{})
	l := openSimLog(t, d)
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
		if !errors.Is(err, ErrNoSpace) {
			t.Error(err)
		}
	}
	d.SetCapacity(0)
	if _, _, err = l.Write(make([]byte, 5000)); err != nil {
		t.Error(err)
	}
	r, err := l.Reserve(10)
	if err != nil {
		t.Fatal(err)
	}
	failOn(d, simdisk.OpDeviceWrite, 1, syscall.EIO)
	errs := map[string]error{}
	_, errs["MakeStable"] = l.MakeStable(r.LSN())
	_, errs["Flush"] = l.Flush()
	_, errs["Reserve"] = l.Reserve(1)
	_, _, errs["Write"] = l.Write(nil)
	_, errs["WriteBatch"] = l.WriteBatch([][]byte{nil})
	if _, _, err := r.Complete(); err != nil { // the place was its own before
		t.Error(err)
	}
	if b, err := l.Read(lsn, ptr); err != nil || string(b) != "good" {
		t.Errorf("%q, %v", b, err)
	}
	if _, bodies := records(t, l, 0); len(bodies) == 0 || bodies[0] != "good" {
		t.Errorf("%d records", len(bodies))
	}
	errs["Close"] = l.Close()
	for what, err := range errs {
		if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
