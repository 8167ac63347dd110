package enginetest

import (
	"errors"

	"pagecache/engine"
	"pagecache/internal/simdisk"
)

// Agree corrupts a copy of the store by calling hurt, and returns an error if the openings disagree about it: one that
// is read-only, Check, one for writing, and one after that. It returns the outcome of the first. The store must be
// usable once it was opened for writing (O4, O5); an opening that is refused writes nothing (O8).
func (s *Specimen) Agree(hurt func(*simdisk.Disk)) (Outcome, error) {
	return s.agree(hurt, (*Pieces).Equal)
}

// AgreeRoughly is Agree for sectors that the disk does not return. The openings need not read around a bad sector in
// pieces of the same size, so one may report pages or records as lost that another one shows.
func (s *Specimen) AgreeRoughly(hurt func(*simdisk.Disk)) (Outcome, error) {
	return s.agree(hurt, (*Pieces).agrees)
}

func (s *Specimen) agree(hurt func(*simdisk.Disk), same func(p, q *Pieces) bool) (Outcome, error) {
	d := s.Disk.Copy()
	hurt(d)
	wrote := false
	d.SetFault(func(o simdisk.Op) error {
		wrote = wrote || changes(o.Kind)
		return nil
	})
	var p Pieces
	refused, err := s.look(d, &p)
	if err != nil {
		return OutcomeUnlawful, err
	}
	outcome, err := s.judge(refused, &p)
	if err == nil {
		err = s.checkAgrees(d, refused, &p)
	}
	if err == nil && wrote {
		err = Violated("an opening that is read-only, or Check, has written")
	}
	if err != nil {
		return outcome, err
	}
	if s.Log {
		err = s.logAgrees(d, refused, &p, same)
	} else {
		err = s.pagesAgree(d, refused, &p, same)
	}
	if err == nil && refused != nil && wrote {
		err = Violated("an opening that was refused has written")
	}
	return outcome, err
}

// changes reports whether operations of a kind change the disk.
func changes(k simdisk.OpKind) bool {
	switch k {
	case simdisk.OpOpen, simdisk.OpSync, simdisk.OpSyncDir, simdisk.OpRead:
		return false
	}
	return true
}

// checkAgrees compares Check with an opening that was refused or has shown p.
func (s *Specimen) checkAgrees(d *simdisk.Disk, refused error, p *Pieces) error {
	var problems []error
	_, err := engine.Check("/store", s.options(d, true), func(err error) { problems = append(problems, err) })
	if err != nil {
		problems = append(problems, err)
	}
	for _, problem := range problems {
		if err := Placed(problem); err != nil {
			return Violated("Check: %v", err)
		}
	}
	if len(problems) == 0 && (refused != nil || len(p.errs) > 0) {
		return Violated("Check finds no problem, and the store shows errors: %v, %v", refused, p.errs)
	}
	return nil
}

// sameRefusal compares two openings.
func sameRefusal(readOnly, writable error) error {
	if (readOnly == nil) != (writable == nil) {
		return Violated("read-only: %v; for writing: %v", readOnly, writable)
	}
	if writable == nil {
		return nil
	}
	return Placed(writable)
}

// pagesAgree opens the page store for writing, compares it with p, changes it, and opens it again.
func (s *Specimen) pagesAgree(d *simdisk.Disk, refused error, p *Pieces, same func(p, q *Pieces) bool) error {
	pc, err := engine.Open("/store", engine.Bytes{}, s.options(d, false))
	if err := sameRefusal(refused, err); err != nil || refused != nil {
		return err
	}
	var q Pieces
	err = q.addPages(pc, s.last)
	if err == nil && !same(&q, p) {
		err = differs(&q, p)
	}
	var added engine.PageID
	if err == nil {
		added, err = s.addPage(pc)
	}
	if err := errors.Join(err, pc.Close()); err != nil {
		return err
	}
	want := q.replace(int(added-engine.FirstUserPage), uint64(engine.KindMaterialized), []byte(addedValue))
	return s.lookAgain(d, want, same)
}

const addedValue = "added to a corrupt store"

// addPage allocates a page, makes it durable and returns it.
func (s *Specimen) addPage(pc *engine.PageCache[[]byte]) (engine.PageID, error) {
	tx, err := pc.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.End()
	if tx.TS() < s.NextID {
		return 0, Violated("id %d was handed out before the store was corrupted; the next was %d", tx.TS(), s.NextID)
	}
	pid, _, err := pc.Allocate(tx, []byte(addedValue))
	if err == nil && pid > s.last {
		err = Violated("page %d was allocated, and the last was %d at most", pid, s.last)
	}
	if err == nil {
		_, err = pc.Flush()
	}
	return pid, err
}

// differs returns the error for an opening for writing that shows q after a read-only one that has shown p.
func differs(q, p *Pieces) error {
	const text = "for writing it shows other contents than read-only: %v; %v, %v"
	return Violated(text, q.partOf(p, false), q.errs, p.errs)
}

// logAgrees opens the log for writing, compares it with p, writes a record, and opens it again.
func (s *Specimen) logAgrees(d *simdisk.Disk, refused error, p *Pieces, same func(p, q *Pieces) bool) error {
	l, err := engine.OpenLog("/store", s.options(d, false))
	if err := sameRefusal(refused, err); err != nil || refused != nil {
		return err
	}
	var q Pieces
	q.addRecords(l)
	if !same(&q, p) {
		err = differs(&q, p)
	}
	for r, e := range l.Records(0) {
		if e == nil && err == nil {
			_, err = l.Read(r.LSN, r.Ptr)
		}
	}
	lsn, _, e := l.Write([]byte(addedValue))
	if err = errors.Join(err, e); err == nil {
		_, err = l.Flush()
	}
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}
	if len(q.errs) == 0 { // else the iterator ends before the new record
		q.add(uint64(lsn), []byte(addedValue))
	}
	return s.lookAgain(d, &q, same)
}

// lookAgain compares the store, which was closed cleanly, with want.
func (s *Specimen) lookAgain(d *simdisk.Disk, want *Pieces, same func(p, q *Pieces) bool) error {
	var p Pieces
	refused, err := s.look(d, &p)
	if err == nil && refused != nil {
		err = Violated("refused after it was opened for writing and closed: %v", refused)
	}
	if err == nil && !same(&p, want) {
		err = Violated("other contents after it was closed: %v; %v, %v", p.partOf(want, false), p.errs, want.errs)
	}
	return err
}
