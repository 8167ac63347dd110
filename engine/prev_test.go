package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Every delta in a log names the message of its page before it: plain, compressed or in a blob, in a batch or not, of
// pages that were moved, consolidated, evicted, freed and allocated again, or taken from a snapshot, while several
// goroutines change the same pages. Proves K1, rule 14.
func TestDeltasNameTheMessageBefore(t *testing.T) {
	t.Parallel()
	d := simdisk.New(1, simdisk.Options{})
	o := enginetest.WithSeam(&engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 5,
		Compression: engine.CompressionZstd, CompressionLevel: 1}, seam.Options{Eager: true, FS: d})
	kinds := map[format.Kind]int{}
	moved := int64(0)
	for opening := range uint64(4) {
		pc := enginetest.Open(t, "/store", o)
		enginetest.Busy(t, pc, 200, opening)
		pids := enginetest.AllocateMany(t, pc, 4, 50)
		b, err := pc.PinLog()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for g := range uint64(3) {
			wg.Go(func() {
				if err := contend(pc, pids, 10*opening+g); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := b.Seal(); err != nil {
			t.Fatal(err)
		}
		enginetest.Flush(t, pc)
		countLinks(t, d.Copy(), kinds)
		enginetest.CleanAll(t, pc)
		enginetest.Busy(t, pc, 200, opening+100)
		enginetest.Flush(t, pc)
		moved += pc.Stats().Space.Recycled
		countLinks(t, d.Copy(), kinds)
		if opening%2 == 0 { // else the next opening uses the snapshot of the clean close
			d = d.Crash(opening)
			_ = pc.Close()
			enginetest.WithSeam(o, seam.Options{Eager: true, FS: d})
			continue
		}
		enginetest.Close(t, pc)
		countLinks(t, d, kinds)
	}
	t.Logf("%v, %d segments recycled", kinds, moved)
	if moved == 0 || min(kinds[format.KindAppend], kinds[format.KindAppendZstd], kinds[format.KindAppendBlob]) == 0 {
		t.Errorf("the logs do not have everything: %v, %d segments recycled", kinds, moved)
	}
}

// contend changes some pages that other goroutines change too, and evicts them.
func contend(pc *engine.PageCache[[]byte], pids []engine.PageID, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 6))
	for i := range 150 {
		tx, err := pc.Begin()
		if err != nil {
			return err
		}
		pid := pids[rng.IntN(len(pids))]
		p, err := pc.Get(tx, pid)
		if err == nil {
			v := enginetest.Random(rng.IntN(200), uint64(i))
			switch rng.IntN(20) {
			case 0:
				v = enginetest.Random(5000, uint64(i))
			case 1, 2, 3, 4, 5:
				v = bytes.Repeat([]byte("compressible"), 10+rng.IntN(10))
			}
			if rng.IntN(5) == 0 {
				_, _, err = pc.Replace(tx, pid, p.Ptr, v)
			} else {
				_, _, err = pc.Link(tx, pid, p.Ptr, v)
			}
			if rng.IntN(4) == 0 {
				engine.Evict(pc, tx, pid)
			}
		}
		tx.End()
		if err != nil {
			return err
		}
	}
	return nil
}

// countLinks checks what the deltas in a log name, and counts those whose message is there.
func countLinks(t *testing.T, d *simdisk.Disk, kinds map[format.Kind]int) {
	t.Helper()
	res, err := enginetest.ScanLog(d, "/store")
	if err != nil {
		t.Fatal(err)
	}
	there := map[format.LSN]bool{}
	for _, g := range res.Segments {
		there[g.Base] = true
	}
	newest := map[format.PageID]format.LSN{}
	err = res.Apply(func(m recovery.Message) error {
		prev := m.Prev.Below(m.LSN)
		switch before := newest[m.Page]; {
		case !m.Kind.Delta():
		case prev == before:
			kinds[m.Kind]++
		case there[prev-prev%(16<<10)] || prev < before: // else its segment was recycled
			return fmt.Errorf("%v at LSN %v names %v, the message of page %v before it is at %v", m.Kind, m.LSN, prev,
				m.Page, before)
		}
		newest[m.Page] = m.LSN
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// chain is a page that consists of a base and four deltas.
type chain struct {
	name  string
	pid   engine.PageID
	parts []string
	lsns  []engine.LSN
}

// value returns the value of the page after its first n messages.
func (c *chain) value(n int) string { return strings.Join(c.parts[:n], "") }

// chains are pages of every form in a store that was killed, and can have a snapshot that knows the first three
// messages of each page.
type chains struct {
	d     *simdisk.Disk
	o     engine.Options
	pages []chain
}

func newChains(t *testing.T, snapshot bool) *chains {
	t.Helper()
	s := &chains{d: simdisk.New(1, simdisk.Options{})}
	s.o = engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1, ConsolidateAfter: 100,
		Compression: engine.CompressionZstd, CompressionLevel: 1}
	pc := enginetest.Open(t, "/store", enginetest.WithSeam(&s.o, seam.Options{FS: s.d, Unchecked: true}))
	enginetest.AllocateMany(t, pc, 300, 10) // so that the chains are not in the first block of a snapshot
	forms := map[string]func(n uint64) string{
		"plain": func(n uint64) string { return string(enginetest.Random(20+int(n), n)) },
		"zstd":  func(n uint64) string { return strings.Repeat(fmt.Sprint("compressible ", n), 20) },
		"blob":  func(n uint64) string { return string(enginetest.Random(5000+int(n), n)) },
		"empty": func(uint64) string { return "" },
		"freed": func(n uint64) string { return fmt.Sprintf("%d of the second page", n) },
	}
	tx := enginetest.Begin(t, pc)
	var ptrs []engine.PagePtr[[]byte]
	for _, name := range []string{"plain", "zstd", "blob", "empty", "freed"} {
		v := forms[name](0)
		pid, ptr, err := pc.Allocate(tx, []byte(v))
		if err == nil && name == "freed" { // and allocated again
			enginetest.Must(t)(pc.Free(tx, pid, ptr))
			tx.End()
			tx = enginetest.Begin(t, pc)
			var again engine.PageID
			if again, ptr, err = pc.Allocate(tx, []byte(v)); again != pid {
				t.Fatalf("page %d was allocated instead of %d, error %v", again, pid, err)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		s.pages = append(s.pages, chain{name, pid, []string{v}, []engine.LSN{ptr.LastLSN()}})
		ptrs = append(ptrs, ptr)
	}
	for n := range uint64(4) {
		if n == 2 && snapshot {
			enginetest.Flush(t, pc)
			if err := pc.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		for i := range s.pages {
			c := &s.pages[i]
			v := forms[c.name](n + 1)
			ptrs[i] = enginetest.Must(t)(pc.Link(tx, c.pid, ptrs[i], []byte(v)))
			c.parts, c.lsns = append(c.parts, v), append(c.lsns, ptrs[i].LastLSN())
		}
	}
	tx.End()
	enginetest.Flush(t, pc)
	s.d = s.d.Copy()
	enginetest.Close(t, pc)
	return s
}

// on returns the options of the store on a disk.
func (s *chains) on(d *simdisk.Disk) *engine.Options {
	o := s.o
	return enginetest.WithSeam(&o, seam.Options{FS: d, Unchecked: true})
}

// closed closes the store cleanly on a copy of the disk, and returns that.
func (s *chains) closed(t *testing.T) *simdisk.Disk {
	t.Helper()
	d := s.d.Copy()
	enginetest.Close(t, enginetest.Open(t, "/store", s.on(d)))
	return d
}

// padOut replaces the message at lsn by a valid pad, so that nothing but what other messages say shows that it is
// missing.
func padOut(t *testing.T, d *simdisk.Disk, lsn engine.LSN) {
	t.Helper()
	changeLog(t, d, func(h format.Header, msg []byte) (format.Kind, bool) {
		if h.LSN != lsn {
			return h.Kind, false
		}
		format.PutHeader(msg, lsn, 0, h.Durable())
		clear(msg[format.HeaderSize:])
		return format.KindPad, true
	})
}

// wantAt checks that err is one of corruption, of a page, at the message at lsn.
func wantAt(t *testing.T, err error, pid engine.PageID, lsn engine.LSN) {
	t.Helper()
	ce := (*engine.CorruptError)(nil)
	if !errors.As(err, &ce) {
		t.Errorf("error %v, want ErrCorrupt", err)
		return
	}
	at, _ := ce.Place.LSN()
	page, _ := ce.Place.Page()
	if at != lsn || page != pid {
		t.Errorf("%v, want page %d, LSN %d", err, pid, lsn)
	}
}

// If a message of a page is missing below another one, the store is refused with the place of that one, also if there
// is a snapshot below them; Check reports it, and Salvage saves the page as it was before and reports it. That the
// newest message of a page is missing, its page does not show. Proves rules 10 and 14.
func TestMissingMessageIsRefused(t *testing.T) {
	t.Parallel()
	for _, snapshot := range []bool{false, true} {
		s := newChains(t, snapshot)
		for _, c := range s.pages {
			for i, lsn := range c.lsns {
				if snapshot && i < 3 {
					continue // Open does not read it
				}
				t.Run(fmt.Sprintf("snapshot=%v/%s/%d", snapshot, c.name, i), func(t *testing.T) {
					d := s.d.Copy()
					padOut(t, d, lsn)
					s.openWithout(t, d, &c, i)
					lost := engine.LSN(0)
					if i < len(c.lsns)-1 {
						lost = c.lsns[i+1]
					}
					s.salvageWithout(t, d, &c, i, lost)
				})
			}
		}
	}
}

// openWithout opens and checks the store on copies of a disk on which message i of a chain is missing.
func (s *chains) openWithout(t *testing.T, d *simdisk.Disk, c *chain, i int) {
	t.Helper()
	for _, readOnly := range []bool{true, false} {
		o := s.on(d.Copy())
		o.ReadOnly = readOnly
		if i < len(c.lsns)-1 {
			_, err := engine.Open("/store", engine.Bytes{}, o)
			wantAt(t, err, c.pid, c.lsns[i+1])
			continue
		}
		pc := enginetest.Open(t, "/store", o)
		if got := string(enginetest.Get(t, pc, c.pid).Value); got != c.value(i) {
			t.Errorf("page %d holds %s", c.pid, enginetest.Brief([]byte(got)))
		}
		enginetest.Close(t, pc)
	}
	if i == len(c.lsns)-1 {
		return
	}
	var problems []error
	_, err := engine.Check("/store", s.on(d), func(problem error) { problems = append(problems, problem) })
	if err != nil || len(problems) != 1 {
		t.Fatalf("Check: problems %v, error %v", problems, err)
	}
	wantAt(t, problems[0], c.pid, c.lsns[i+1])
}

// salvageWithout salvages the store on a disk on which message i of a chain is missing, or is appended to another
// message. The page is lost from the LSN lost on; 0: no loss is reported.
func (s *chains) salvageWithout(t *testing.T, d *simdisk.Disk, c *chain, i int, lost engine.LSN) {
	t.Helper()
	r, err := engine.Salvage("/store", "/saved", s.on(d), nil)
	if err != nil {
		t.Fatal(err)
	}
	pc := enginetest.Open(t, "/saved", s.on(d))
	defer enginetest.Close(t, pc)
	for _, other := range s.pages {
		want := other.value(len(other.parts))
		if other.pid == c.pid {
			want = c.value(i)
		}
		p := enginetest.Get(t, pc, other.pid)
		if freed := other.pid == c.pid && i == 0; string(p.Value) != want || (p.Kind == engine.KindFree) != freed {
			t.Errorf("page %d (%s) is saved as %v, %s", other.pid, other.name, p.Kind, enginetest.Brief(p.Value))
		}
	}
	if lost == 0 && len(r.Losses) == 0 {
		return
	}
	if len(r.Losses) != 1 || r.Losses[0].Kind != engine.LossPage {
		t.Fatalf("losses: %v", r.Losses)
	}
	lsn, _ := r.Losses[0].Place.LSN()
	if pid, _ := r.Losses[0].Place.Page(); pid != c.pid || lsn != lost {
		t.Errorf("%v, want page %d, LSN %d", r.Losses[0], c.pid, lost)
	}
}

// If the messages that free a page and allocate it anew are missing, a delta of the new page is not taken for one of
// the old page. Proves rule 14.
func TestDeltaOfNewPageIsNoDeltaOfTheOldOne(t *testing.T) {
	s := newChains(t, false)
	c := s.pages[len(s.pages)-1]
	d := s.d.Copy()
	changeLog(t, d, func(h format.Header, msg []byte) (format.Kind, bool) {
		if h.Page != c.pid || h.Kind != format.KindFree && h.LSN != c.lsns[0] {
			return h.Kind, false
		}
		clear(msg[format.HeaderSize:])
		return format.KindPad, true
	})
	_, err := engine.Open("/store", engine.Bytes{}, s.on(d.Copy()))
	wantAt(t, err, c.pid, c.lsns[1])
	if r, err := engine.Salvage("/store", "/saved", s.on(d), nil); err != nil || r.Lost != 1 {
		t.Fatalf("Salvage: report %+v, error %v", r, err)
	}
	pc := enginetest.Open(t, "/saved", s.on(d))
	if v := enginetest.Get(t, pc, c.pid).Value; string(v) != c.parts[0] { // which the old page had too
		t.Errorf("page %d holds %q", c.pid, v)
	}
	enginetest.Close(t, pc)
}

// Where Open does not read the log, reading a page finds that one of its messages is missing, or that a delta names
// another message than the one below it. The error has the place of that message. The other pages can be read. So it is
// after a corrupt block of the snapshot, for which the page is looked up in the log; a new snapshot does not hide that.
// Salvage saves the page as it was before the message. Proves rule 14.
func TestReadFindsWrongLink(t *testing.T) {
	t.Parallel()
	s := newChains(t, true)
	closed := s.closed(t)
	rename := func(t *testing.T, d *simdisk.Disk, lsn engine.LSN) {
		changeLog(t, d, func(h format.Header, msg []byte) (format.Kind, bool) {
			if h.LSN == lsn {
				format.PutPrev(msg[format.HeaderSize:], h.LSN-4096)
			}
			return h.Kind, h.LSN == lsn
		})
	}
	for _, c := range s.pages {
		for i, lsn := range c.lsns {
			for _, renamed := range []bool{false, true} {
				for _, rebuilt := range []bool{false, true} {
					if renamed && i == 0 || !renamed && rebuilt && i == len(c.lsns)-1 { // looks like an earlier state
						continue
					}
					t.Run(fmt.Sprintf("%s/%d/renamed=%v/rebuilt=%v", c.name, i, renamed, rebuilt), func(t *testing.T) {
						d, want := closed.Copy(), lsn
						if renamed {
							rename(t, d, lsn)
						} else {
							padOut(t, d, lsn)
						}
						if rebuilt {
							for _, name := range enginetest.SnapshotFiles(t, d, "/store") {
								at := recovery.RecordBlock(c.pid) * format.SnapshotBlock
								d.FlipBit("/store/"+name, at+100, 1)
							}
							if !renamed {
								want = c.lsns[i+1]
							}
						}
						pc := s.readWithout(t, d.Copy(), &c, want)
						if !rebuilt {
							s.salvageWithout(t, d, &c, i, lsn)
							return
						}
						enginetest.Allocate(t, pc, []byte("so that there is something to write"))
						if err := pc.Snapshot(); !errors.Is(err, engine.ErrCorrupt) {
							t.Errorf("a snapshot with a lost page: %v", err)
						}
					})
				}
			}
		}
	}
}

// readWithout opens the store on a disk on which c has a wrong message at lsn, and reads all chains.
func (s *chains) readWithout(t *testing.T, d *simdisk.Disk, c *chain, lsn engine.LSN) *engine.PageCache[[]byte] {
	t.Helper()
	pc := enginetest.Open(t, "/store", s.on(d))
	enginetest.NoCheck(t, pc)
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	for _, other := range s.pages {
		p, err := pc.Get(tx, other.pid)
		if other.pid == c.pid {
			wantAt(t, err, c.pid, lsn)
		} else if err != nil || string(p.Value) != other.value(len(other.parts)) {
			t.Errorf("page %d holds %s, error %v", other.pid, enginetest.Brief(p.Value), err)
		}
	}
	return pc
}
