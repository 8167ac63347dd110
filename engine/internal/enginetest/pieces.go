package enginetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"pagecache/engine"
)

// Pieces are the contents of a store in pieces that are lost one by one: of a page store one for each page id and one
// for the roots; of a standalone log one for each record. A piece that could not be read has an error instead.
type Pieces struct {
	buf  []byte // the pieces, each with its length before it
	ends []int  // the ends of the pieces in buf
	errs map[int]error
}

func (p *Pieces) reset() {
	p.buf, p.ends = p.buf[:0], p.ends[:0]
	clear(p.errs)
}

// add adds a piece that consists of a number and a value.
func (p *Pieces) add(n uint64, v []byte) {
	p.buf = binary.AppendUvarint(p.buf, uint64(len(v)))
	p.buf = binary.AppendUvarint(p.buf, n)
	p.buf = append(p.buf, v...)
	p.ends = append(p.ends, len(p.buf))
}

// fail adds a piece that cannot be read.
func (p *Pieces) fail(err error) {
	if p.errs == nil {
		p.errs = map[int]error{}
	}
	p.errs[len(p.ends)] = err
	p.ends = append(p.ends, len(p.buf))
}

func (p *Pieces) piece(i int) []byte {
	if i == 0 {
		return p.buf[:p.ends[0]]
	}
	return p.buf[p.ends[i-1]:p.ends[i]]
}

// Equal reports whether p has the same pieces as q, and errors for the same ones.
func (p *Pieces) Equal(q *Pieces) bool {
	return bytes.Equal(p.buf, q.buf) && slices.Equal(p.ends, q.ends) &&
		slices.Equal(slices.Sorted(maps.Keys(p.errs)), slices.Sorted(maps.Keys(q.errs)))
}

// agrees reports whether p has the same pieces as q, of those that neither has an error for.
func (p *Pieces) agrees(q *Pieces) bool {
	for i := range min(len(p.ends), len(q.ends)) {
		if p.errs[i] == nil && q.errs[i] == nil && !bytes.Equal(p.piece(i), q.piece(i)) {
			return false
		}
	}
	return len(p.ends) == len(q.ends) || len(p.errs)+len(q.errs) > 0
}

// partOf returns an error unless all pieces that p has are those of whole. If tail is set, all pieces of whole from the
// first error on may be missing in p.
func (p *Pieces) partOf(whole *Pieces, tail bool) error {
	if n := len(p.ends); n != len(whole.ends) && !(tail && len(p.errs) > 0 && n <= len(whole.ends)+1) {
		return fmt.Errorf("%d pieces, want %d", n, len(whole.ends))
	}
	for i := range p.ends {
		if p.errs[i] != nil {
			continue
		}
		if got, want := p.piece(i), whole.piece(i); !bytes.Equal(got, want) {
			return fmt.Errorf("piece %d is %s, want %s", i, Brief(got), Brief(want))
		}
	}
	return nil
}

// replace returns p with another piece at i, which has no error.
func (p *Pieces) replace(i int, n uint64, v []byte) *Pieces {
	q := &Pieces{}
	for j := range p.ends {
		switch err := p.errs[j]; {
		case i == j:
			q.add(n, v)
		case err != nil:
			q.fail(err)
		default:
			q.buf = append(q.buf, p.piece(j)...)
			q.ends = append(q.ends, len(q.buf))
		}
	}
	return q
}

// addRoots adds the roots of a page store as one piece.
func (p *Pieces) addRoots(roots map[string]engine.PageID) {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(roots)) {
		b = fmt.Appendf(b, "%s=%d ", name, roots[name])
	}
	p.add(0, b)
}

// addModel adds the pages up to last and the roots.
func (p *Pieces) addModel(m Model, last engine.PageID) {
	for pid := engine.FirstUserPage; pid <= last; pid++ {
		p.add(uint64(m.Pages[pid].Kind), m.Pages[pid].Val)
	}
	p.addRoots(m.Roots)
}

// addPages adds the pages up to last and the roots of an open store. The iterator over the pages must agree with Get.
func (p *Pieces) addPages(pc *engine.PageCache[[]byte], last engine.PageID) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	next := engine.PageID(0)
	for pid, kind := range pc.Pages(tx) {
		next = pid + 1
		if pid < engine.FirstUserPage {
			continue
		}
		if pid > last {
			return Violated("the store has a page %d, %v", pid, kind)
		}
		page, err := pc.Get(tx, pid)
		if err != nil {
			p.fail(err)
			continue
		}
		if page.Kind != kind {
			return Violated("page %d is %v, by the iterator %v", pid, page.Kind, kind)
		}
		p.add(uint64(page.Kind), page.Value)
	}
	for pid := max(next, engine.FirstUserPage); pid <= last; pid++ {
		page, err := pc.Get(tx, pid)
		if err != nil || page.Kind != engine.KindUnallocated {
			return Violated("page %d, beyond those of the iterator, is %v, error %v", pid, page.Kind, err)
		}
		p.add(uint64(page.Kind), nil)
	}
	roots, err := pc.Meta(tx)
	if err != nil {
		p.fail(err)
		return nil
	}
	p.addRoots(roots)
	return nil
}

// addRecords adds the records of an open log. An error of the iterator is the last piece.
func (p *Pieces) addRecords(l *engine.Log) {
	for r, err := range l.Records(0) {
		if err != nil {
			p.fail(err)
			return
		}
		p.add(uint64(r.LSN), r.Bytes)
	}
}
