package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// sealedSize is the size of the segments of sealedLog in bytes. The log's indexes are longer than a block.
const sealedSize = 64 << 10

// sealedLogOptions returns the options of sealedLog.
func sealedLogOptions(d *simdisk.Disk) *engine.Options {
	o := enginetest.SimOptions(d)
	o.SegmentSize = sealedSize
	return o
}

// sealedLog makes a log on a simulated disk with small records in several sealed segments, and closes it cleanly or
// crashes. It returns the disk and the records.
func sealedLog(t *testing.T, clean bool) (*simdisk.Disk, []engine.Record) {
	t.Helper()
	d := simdisk.New(1, simdisk.Options{})
	l := enginetest.OpenLog(t, "/store", sealedLogOptions(d))
	var rs []engine.Record
	for i := range 10_000 {
		p := bytes.Repeat([]byte{byte(i)}, 1+i%8)
		lsn, ptr, err := l.Write(p)
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, engine.Record{LSN: lsn, Ptr: ptr, Bytes: p})
		if i%1000 == 999 {
			enginetest.Flush(t, l)
		}
	}
	for range 3 { // so that the segments before are proven to be durable
		enginetest.Flush(t, l)
		mustWrite(t, l, 10)
	}
	enginetest.Flush(t, l)
	if !clean {
		after := d.Crash(1)
		_ = l.Close()
		return after, rs
	}
	enginetest.Close(t, l)
	return d, rs
}

// scannedLog returns what recovery finds.
func scannedLog(t *testing.T, d *simdisk.Disk) *recovery.Result {
	t.Helper()
	r, err := enginetest.ScanLog(d, "/store")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// indexAt returns where the index of a sealed segment begins in the file, and its length.
func indexAt(t *testing.T, d *simdisk.Disk, g recovery.Segment) (off int64, n int) {
	t.Helper()
	const size = sealedSize
	seg := d.ReadDurable("/store/log")[g.Slot.Offset(size):][:size]
	held, err := d.OpenDir("/store")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	b, err := held.Open(enginetest.SuperName, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	super := make([]byte, format.SuperblockSize)
	if _, err := b.ReadAt(super, 0); err != nil {
		t.Fatal(err)
	}
	sb, err := format.DecodeSuperblock(super)
	if err != nil {
		t.Fatal(err)
	}
	seed := format.MakeSeed(sb.Store, g.Generation, g.Slot)
	trailer, err := format.DecodeIndexTrailer(seg[size-format.IndexTrailerSize:], g.Base, size, seed)
	if err != nil {
		t.Fatal(err)
	}
	return int64(g.Slot.Offset(size)) + int64(size-trailer.Len), trailer.Len
}

// has fails the test unless the log holds the records.
func has(t *testing.T, l *engine.Log, want []engine.Record) {
	t.Helper()
	lsns, bodies := enginetest.Records(t, l, 0)
	for _, r := range want {
		i, found := slices.BinarySearch(lsns, r.LSN)
		if !found || bodies[i] != string(r.Bytes) {
			t.Fatalf("the record at LSN %v is missing or wrong", r.LSN)
		}
	}
}

// Sealed segments are opened by their indexes, after a clean close and after a kill, and also read-only.
func TestLogOpensByIndexes(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		d, rs := sealedLog(t, clean)
		r := scannedLog(t, d)
		if n := len(r.Segments) - r.Indexed; len(r.Segments) < 6 || n > 2 || clean && n > 1 {
			t.Errorf("clean %v: %d of %d segments were read", clean, n, len(r.Segments))
		}
		o := sealedLogOptions(d)
		o.ReadOnly = true
		l := enginetest.OpenLog(t, "/store", o)
		has(t, l, rs)
		enginetest.Close(t, l)
		o.ReadOnly = false
		for range 3 { // the tail moves, or stays, and is sealed later
			l = enginetest.OpenLog(t, "/store", o)
			has(t, l, rs)
			for range 30 {
				mustWrite(t, l, 1000)
			}
			enginetest.Close(t, l)
		}
		r = scannedLog(t, d)
		if n := len(r.Segments) - r.Indexed; n > 1 {
			t.Errorf("clean %v: %d of %d segments were read in the end", clean, n, len(r.Segments))
		}
	}
}

// A corrupt or unreadable index costs no record and no opening; it is logged, and Check and Salvage report it. The same
// holds for Records when the index becomes corrupt later.
func TestCorruptIndexIsReported(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		for _, what := range []string{"header", "entry", "trailer", "unreadable"} {
			t.Run(fmt.Sprintf("clean=%v/%s", clean, what), func(t *testing.T) {
				d, rs := sealedLog(t, clean)
				off, n := indexAt(t, d, scannedLog(t, d).Segments[1])
				corrupt := func() {
					switch what {
					case "header":
						d.FlipBit("/store/log", off+3, 4)
					case "entry":
						d.FlipBit("/store/log", off+30, 0)
					case "trailer":
						d.FlipBit("/store/log", off+int64(n)-5, 7)
					case "unreadable":
						d.SetUnreadable("/store/log", off+4096, 1) // another block than that of the last records
					}
				}
				var logs bytes.Buffer
				o := sealedLogOptions(d)
				o.Logger = slog.New(slog.NewTextHandler(&logs, nil))
				l := enginetest.OpenLog(t, "/store", o)
				enginetest.NoCheck(t, l)
				corrupt()
				has(t, l, rs)
				enginetest.Close(t, l)
				if !strings.Contains(logs.String(), "index of a segment is corrupt") {
					t.Errorf("the log says: %s", &logs)
				}
				logs.Reset()
				for range 2 {
					l = enginetest.OpenLog(t, "/store", o)
					enginetest.NoCheck(t, l)
					has(t, l, rs)
					mustWrite(t, l, 100)
					enginetest.Close(t, l)
				}
				if !strings.Contains(logs.String(), "its records were read instead") {
					t.Errorf("the log says: %s", &logs)
				}
				problems := enginetest.Problems("/store", sealedLogOptions(d))
				ce := (*engine.CorruptError)(nil)
				if !errors.Is(problems, engine.ErrCorrupt) || !errors.As(problems, &ce) {
					t.Fatalf("Check: %v", problems)
				}
				if at, _ := ce.Place.Offset(); int64(at) != off {
					t.Errorf("Check: %v, want offset %d", problems, off)
				}
				report, err := engine.Salvage("/store", "/out", sealedLogOptions(d), nil)
				if err != nil || len(report.Losses) != 1 || report.Losses[0].Kind != engine.LossFile {
					t.Fatalf("Salvage: %+v, %v", report, err)
				}
			})
		}
	}
}

// A corrupt record in a sealed segment is found when it is read, and by Check; the log opens. O7.
func TestCorruptRecordBelowIndex(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		d, rs := sealedLog(t, clean)
		d.FlipBit("/store/log", int64(rs[3].Ptr.Off)+25, 3)
		l := enginetest.OpenLog(t, "/store", sealedLogOptions(d))
		enginetest.NoCheck(t, l)
		if _, err := l.Read(rs[3].LSN, rs[3].Ptr); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("clean %v: read: %v", clean, err)
		}
		if b, err := l.Read(rs[4].LSN, rs[4].Ptr); err != nil || !bytes.Equal(b, rs[4].Bytes) {
			t.Errorf("clean %v: read the next record: %v", clean, err)
		}
		enginetest.Close(t, l)
		if err := enginetest.Problems("/store", sealedLogOptions(d)); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("clean %v: check: %v", clean, err)
		}
	}
}

// lifeOfLog opens a log, writes and flushes records and batches over several segments, drops the lowest, and closes the
// log. It calls acked for each record that was acknowledged, with the LSN below which the log may have been dropped.
func lifeOfLog(d *simdisk.Disk, round int, acked func(lsn engine.LSN, body string, dropped engine.LSN)) error {
	l, err := engine.OpenLog("/store", enginetest.SimOptions(d))
	if err != nil {
		return err
	}
	work := func() error {
		var pending []engine.Record
		dropped := engine.LSN(0)
		for i := range 30 {
			body := fmt.Appendf(nil, "%d/%d/%s", round, i, strings.Repeat("x", i%5*400))
			if i%7 == 3 {
				lsns, err := l.WriteBatch([][]byte{body, body})
				if err != nil {
					return err
				}
				for _, lsn := range lsns {
					pending = append(pending, engine.Record{LSN: lsn, Bytes: body})
				}
			} else {
				lsn, _, err := l.Write(body)
				if err != nil {
					return err
				}
				pending = append(pending, engine.Record{LSN: lsn, Bytes: body})
			}
			if i%4 != 3 {
				continue
			}
			if _, err := l.Flush(); err != nil {
				return err
			}
			if i == 27 {
				dropped = pending[0].LSN - 16<<10
				acked(0, "", dropped)
				if err := l.DropBelow(dropped); err != nil {
					return err
				}
			}
			for _, r := range pending {
				acked(r.LSN, string(r.Bytes), dropped)
			}
			pending = pending[:0]
		}
		return nil
	}
	return errors.Join(work(), l.Close())
}

// A log survives a crash at every operation of the disk, over sealing, dropping and closing, and again in the next
// life: each record that was acknowledged and not dropped is there, and Check finds nothing. Proves rules 10 and 13.
func TestLogCrashesAtEveryOperation(t *testing.T) {
	t.Parallel()
	seeds := 12
	if testing.Short() || enginetest.Raced {
		seeds = 2
	}
	crashes := 0
	for at := 1; ; at++ {
		hit := 0
		for seed := range seeds {
			hit += crashLog(t, at, uint64(seed))
		}
		if hit == 0 {
			break
		}
		crashes += hit
	}
	t.Logf("%d crashes", crashes)
}

// crashLog lets a log live three times. In the first two lives the disk crashes at its operation number at, unless the
// log is closed before. It returns the number of crashes.
func crashLog(t *testing.T, at int, seed uint64) (crashes int) {
	t.Helper()
	d := simdisk.New(seed, simdisk.Options{Block: []int{512, 4096}[seed%2], Depth: 3})
	want := map[engine.LSN]string{}
	low := engine.LSN(0)
	acked := func(lsn engine.LSN, body string, dropped engine.LSN) {
		if low = max(low, dropped); body != "" {
			want[lsn] = body
		}
	}
	for life := range 3 {
		if life < 2 {
			d.CrashAfter(at)
		}
		err := lifeOfLog(d, life, acked)
		if !d.Crashed() {
			if err != nil {
				t.Fatalf("crash %d, seed %d, life %d: %v", at, seed, life, err)
			}
			d.CrashAfter(0)
			continue
		}
		crashes++
		d = d.Crash(uint64(at*10+life) + seed<<32)
		l, err := engine.OpenLog("/store", enginetest.SimOptions(d))
		if err != nil {
			t.Fatalf("crash %d, seed %d, life %d: %v", at, seed, life, err)
		}
		lsns, bodies := enginetest.Records(t, l, 0)
		for lsn, body := range want {
			i, found := slices.BinarySearch(lsns, lsn)
			if lsn >= low && (!found || bodies[i] != body) {
				t.Fatalf("crash %d, seed %d, life %d: the record at LSN %v is missing or wrong", at, seed, life, lsn)
			}
		}
		if err := errors.Join(l.Close(), enginetest.Problems("/store", enginetest.SimOptions(d))); err != nil {
			t.Fatalf("crash %d, seed %d, life %d: %v", at, seed, life, err)
		}
	}
	return crashes
}

// BenchmarkOpenLogMillion measures OpenLog of a log with 1 000 000 records of 128 bytes, after a clean close and after
// a kill. The log is in the page cache.
//
//	go test ./engine -run '^$' -bench OpenLogMillion -benchtime 10x
func BenchmarkOpenLogMillion(b *testing.B) {
	base := b.TempDir()
	live := filepath.Join(base, "live")
	l := enginetest.OpenLog(b, live, nil)
	p := make([]byte, 128)
	for i := range 1_000_000 {
		if _, _, err := l.Write(p); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			enginetest.Flush(b, l)
		}
	}
	killed := filepath.Join(base, "killed")
	copyDurable(b, killed, live)
	enginetest.Close(b, l)
	for _, c := range []struct{ name, from string }{{"clean", live}, {"killed", killed}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dir := filepath.Join(base, "open")
				copyDurable(b, dir, c.from)
				b.StartTimer()
				l, err := engine.OpenLog(dir, nil)
				b.StopTimer()
				if err != nil {
					b.Fatal(err)
				}
				if err := errors.Join(l.Close(), os.RemoveAll(dir)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
