package enginetest

import (
	"cmp"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// A Specimen is a small store or standalone log in /store on a simulated disk, which a test corrupts in every way, and
// the contents that it may show then. If it was closed cleanly, these are its whole contents. If its process was
// killed, the changes that it does not prove to be durable may be missing from some LSN on: those of the last write in
// flight.
type Specimen struct {
	Disk   *simdisk.Disk // never corrupted itself
	Opts   engine.Options
	Log    bool // a standalone log
	Clean  bool
	NextID uint64   // of a page store: ids below may have been handed out
	Files  []string // paths of all files
	Size   int64    // of all files together, bytes
	Blocks bool     // verify the blocks of snapshots one by one, and not as a whole

	// Proven is the LSN below which nothing may be lost without an error.
	Proven engine.LSN

	last   engine.PageID // pages above it were never allocated
	lawful []*Pieces     // the contents that it may show, the whole ones last
	lookup map[string]bool
}

// SpecimenOf returns the page store on a disk, whose changes are those of h.
func SpecimenOf(t testing.TB, d *simdisk.Disk, o engine.Options, h *History) *Specimen {
	t.Helper()
	s := newSpecimen(t, d, o)
	s.NextID, s.last = h.NextID, engine.FirstUserPage+3
	for pid := range h.Now.Pages {
		s.last = max(s.last, pid+3)
	}
	m := h.Base.Clone()
	byLSN := func(a, b Effect) int { return cmp.Compare(a.LSN, b.LSN) }
	for _, e := range slices.SortedFunc(slices.Values(h.Effects), byLSN) {
		split := slices.ContainsFunc(h.Batches, func(b Span) bool { return b.cutBy(e.LSN) })
		if e.LSN >= s.Proven && !split {
			s.allow(func(p *Pieces) { p.addModel(m, s.last) })
		}
		m.Apply(e)
	}
	s.allow(func(p *Pieces) { p.addModel(m, s.last) })
	return s
}

// A LogRecord is a record of a standalone log that was written.
type LogRecord struct {
	LSN  engine.LSN
	Body string
	// Batch says that the record before belongs to the same batch.
	Batch bool
}

// SpecimenOfLog returns the standalone log on a disk, which has these records.
func SpecimenOfLog(t testing.TB, d *simdisk.Disk, o engine.Options, records []LogRecord) *Specimen {
	t.Helper()
	s := newSpecimen(t, d, o)
	s.Log = true
	for i := range len(records) + 1 {
		if i < len(records) && (records[i].LSN < s.Proven || records[i].Batch) {
			continue
		}
		s.allow(func(p *Pieces) {
			for _, r := range records[:i] {
				p.add(uint64(r.LSN), []byte(r.Body))
			}
		})
	}
	return s
}

func newSpecimen(t testing.TB, d *simdisk.Disk, o engine.Options) *Specimen {
	t.Helper()
	s := &Specimen{Disk: d, Opts: o, lookup: map[string]bool{}}
	for name := range Files(t, d.Copy()) {
		s.Files = append(s.Files, filepath.Join("/store", name))
	}
	for _, name := range BlobNames(t, d, "/store") {
		s.Files = append(s.Files, filepath.Join("/store", BlobDir, name))
	}
	slices.Sort(s.Files)
	for _, name := range s.Files {
		s.Size += int64(len(d.ReadDurable(name)))
	}
	held, err := d.Copy().OpenDir("/store")
	if err != nil {
		t.Fatal(err)
	}
	sb, err := logstore.ReadSuper(held)
	if err != nil {
		t.Fatal(err)
	}
	s.Clean, s.Proven = sb.Clean, Unlimited
	if !s.Clean {
		res, err := ScanLog(d.Copy(), "/store")
		if err != nil {
			t.Fatal(err)
		}
		s.Proven = res.Durable
	}
	return s
}

// allow adds contents that the store may show.
func (s *Specimen) allow(fill func(*Pieces)) {
	p := &Pieces{}
	fill(p)
	if !s.lookup[string(p.buf)] {
		s.lookup[string(p.buf)] = true
		s.lawful = append(s.lawful, p)
	}
}

// whole returns the contents of the store before it is corrupted.
func (s *Specimen) whole() *Pieces { return s.lawful[len(s.lawful)-1] }

// options returns the options to open the store with, on a disk that has it.
func (s *Specimen) options(d *simdisk.Disk, readOnly bool) *engine.Options {
	o := s.Opts
	o.ReadOnly = readOnly
	return WithSeam(&o, seam.Options{FS: d, Unchecked: s.Blocks})
}

// look opens the store read-only and fills p with its contents. refused is the error of opening; err is a Violation, or
// says that the store does not close.
func (s *Specimen) look(d *simdisk.Disk, p *Pieces) (refused, err error) {
	p.reset()
	if s.Log {
		l, err := engine.OpenLog("/store", s.options(d, true))
		if err != nil {
			return err, nil
		}
		p.addRecords(l)
		return nil, l.Close()
	}
	pc, err := engine.Open("/store", engine.Bytes{}, s.options(d, true))
	if err != nil {
		return err, nil
	}
	return nil, errors.Join(p.addPages(pc, s.last), pc.Close())
}

// An Outcome is how a corrupt store was opened.
type Outcome int

// The outcomes.
const (
	OutcomeWhole    Outcome    = iota // it shows all of its contents
	OutcomeCut                        // it shows all but changes that were not proven to be durable
	OutcomePartial                    // some pages or records are reported as corrupt, all others are right
	OutcomeRefused                    // opening it is refused
	outcomes                          // the number of outcomes
	OutcomeUnlawful = outcomes        // it shows something wrong, or the error is not one that reports corruption
)

// String returns the name of the outcome.
func (o Outcome) String() string {
	names := [...]string{"whole", "cut", "partial", "refused", "unlawful"}
	if o < 0 || int(o) >= len(names) {
		return "invalid outcome"
	}
	return names[o]
}

// judge returns the outcome. The error is a Violation if the store shows what it must not show (O1, O7).
func (s *Specimen) judge(refused error, p *Pieces) (Outcome, error) {
	if refused != nil {
		return OutcomeRefused, Placed(refused)
	}
	if len(p.errs) == 0 {
		if bytesEqual(p, s.whole()) {
			return OutcomeWhole, nil
		}
		if s.lookup[string(p.buf)] {
			return OutcomeCut, nil
		}
		return OutcomeUnlawful, Violated("wrong contents without an error: %v", p.partOf(s.whole(), false))
	}
	for _, i := range slices.Sorted(maps.Keys(p.errs)) {
		if err := Placed(p.errs[i]); err != nil {
			return OutcomeUnlawful, err
		}
	}
	var first error
	for _, whole := range slices.Backward(s.lawful) {
		err := p.partOf(whole, s.Log)
		if err == nil {
			return OutcomePartial, nil
		}
		first = cmp.Or(first, err)
	}
	return OutcomeUnlawful, Violated("wrong contents beside an error: %v", first)
}

func bytesEqual(p, q *Pieces) bool { return string(p.buf) == string(q.buf) }

// Placed returns a Violation unless err reports corruption, or a part of a file that cannot be read, with the place.
func Placed(err error) error {
	ce := (*engine.CorruptError)(nil)
	switch {
	case errors.Is(err, engine.ErrCorrupt) && errors.As(err, &ce):
		// If several segments are missing, the file is the place.
		missing := strings.Contains(ce.Reason, "missing")
		if ce.File == "" || filepath.Base(ce.File) == LogName && ce.Place.String() == "" && !missing {
			return Violated("an error without a place: %v", err)
		}
		return nil
	case errors.Is(err, format.ErrSnapshot), vfs.IsUnreadable(err):
		if !strings.Contains(err.Error(), "/store/") {
			return Violated("an error without a file: %v", err)
		}
		return nil
	}
	return Violated("not an error of a corrupt store: %v", err)
}
