package enginetest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"pagecache/engine"
)

// Effect is one change of a store and its place in the log.
type Effect struct {
	LSN  engine.LSN
	Kind EffectKind
	Page engine.PageID // of a root, the one that holds it
	Val  []byte
	Name string        // of a root
	Root engine.PageID // the root's new page; 0: none
}

// EffectKind is the kind of a change.
type EffectKind uint8

// The kinds of change.
const (
	EffectSet  EffectKind = iota // a whole page: Allocate and Replace
	EffectLink                   // a delta
	EffectFree
	EffectRoot
)

// String returns the name of the kind.
func (k EffectKind) String() string {
	if names := [...]string{"set", "link", "free", "root"}; int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("EffectKind(%d)", uint8(k))
}

// String describes the change in one line.
func (e Effect) String() string {
	switch e.Kind {
	case EffectRoot:
		return fmt.Sprintf("%d: root %q on %v = %v", e.LSN, e.Name, e.Page, e.Root)
	case EffectFree:
		return fmt.Sprintf("%d: free %v", e.LSN, e.Page)
	}
	return fmt.Sprintf("%d: %v %v %d bytes", e.LSN, e.Kind, e.Page, len(e.Val))
}

// ModelPage is a page as Get must return it.
type ModelPage struct {
	Kind engine.PageKind
	Val  []byte
}

// Model is the contents of a store.
type Model struct {
	Pages map[engine.PageID]ModelPage
	Roots map[string]engine.PageID
}

// NewModel returns the model of an empty store.
func NewModel() Model {
	return Model{map[engine.PageID]ModelPage{}, map[string]engine.PageID{}}
}

// Clone returns a copy. The values of pages are shared.
func (m Model) Clone() Model { return Model{maps.Clone(m.Pages), maps.Clone(m.Roots)} }

// Apply changes the model as e changes the store.
func (m Model) Apply(e Effect) {
	switch e.Kind {
	case EffectSet:
		m.Pages[e.Page] = ModelPage{engine.KindMaterialized, e.Val}
	case EffectLink:
		m.Pages[e.Page] = ModelPage{engine.KindMaterialized, slices.Concat(m.Pages[e.Page].Val, e.Val)}
	case EffectFree:
		m.Pages[e.Page] = ModelPage{Kind: engine.KindFree}
	case EffectRoot:
		if e.Root != 0 {
			m.Roots[e.Name] = e.Root
			m.Pages[e.Page] = ModelPage{Kind: engine.KindRoot}
		} else {
			delete(m.Roots, e.Name)
			m.Pages[e.Page] = ModelPage{Kind: engine.KindFree}
		}
	}
}

// Violation is an error of the store that only the model shows.
type Violation string

// Error returns the text of the violation.
func (v Violation) Error() string { return string(v) }

// Violated makes a Violation, as fmt.Errorf makes an error.
func Violated(format string, args ...any) error { return Violation(fmt.Sprintf(format, args...)) }

// Compare compares a page with the one that the model has. It returns a Violation if they differ.
func (m Model) Compare(pid engine.PageID, p engine.Page[[]byte]) error {
	if want := m.Pages[pid]; p.Kind != want.Kind || !bytes.Equal(p.Value, want.Val) {
		return Violated("page %d is %v of %s, want %v of %s", pid, p.Kind, Brief(p.Value), want.Kind, Brief(want.Val))
	}
	return nil
}

// Holds compares all pages and roots of the store with the model. It returns a Violation if they differ.
func (m Model) Holds(pc *engine.PageCache[[]byte], tx *engine.Tx[[]byte]) error {
	last := engine.FirstUserPage
	for pid := range m.Pages {
		last = max(last, pid)
	}
	last = max(last, NextPage(pc)) + 3
	for pid := engine.FirstUserPage; pid <= last; pid++ {
		p, err := pc.Get(tx, pid)
		if err == nil {
			err = m.Compare(pid, p)
		}
		if err != nil {
			return err
		}
	}
	roots, err := pc.Meta(tx)
	if err != nil {
		return err
	}
	if !maps.Equal(roots, m.Roots) {
		return Violated("roots are %v, want %v", roots, m.Roots)
	}
	return nil
}

// Span is a batch: the LSNs of its two markers. End is 0 while the batch is open.
type Span struct{ Begin, End engine.LSN }

// cutBy reports whether a log that ends at end, or is stable up to it, cuts the batch in two.
func (s Span) cutBy(end engine.LSN) bool { return s.Begin < end && (s.End == 0 || s.End >= end) }

// History is the list of the changes of a store since the end of its log was last known. It is kept outside of the
// store and by LSN, so that the contents after a crash follow from the place where the log ends: every other state is
// wrong.
type History struct {
	Base    Model // at the last opening
	Now     Model // with all effects, if one goroutine works
	Effects []Effect
	Batches []Span
	Acked   engine.LSN // everything below it was acknowledged as stable
	NextID  uint64     // ids and timestamps below it may have been handed out
}

// NewHistory returns the history of a new store.
func NewHistory() *History { return &History{Base: NewModel(), Now: NewModel()} }

// Check compares the store with the history. It returns a Violation if they differ.
func (h *History) Check(pc *engine.PageCache[[]byte]) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	if err := h.Seen(tx.TS()); err != nil {
		return err
	}
	return h.Now.Holds(pc, tx)
}

// Seen records an id that was handed out. It must be higher than all before it (O3).
func (h *History) Seen(id uint64) error {
	if id < h.NextID {
		return Violated("id %d was handed out, and %d before", id, h.NextID-1)
	}
	h.NextID = id + 1
	return nil
}

// Add records a change.
func (h *History) Add(e Effect) {
	h.Effects = append(h.Effects, e)
	h.Now.Apply(e)
}

// Ack records that everything below an LSN was acknowledged as stable.
func (h *History) Ack(below engine.LSN) { h.Acked = max(h.Acked, below) }

// AckAll records that all changes were acknowledged as stable.
func (h *History) AckAll() {
	if n := len(h.Effects); n > 0 {
		h.Ack(h.Effects[n-1].LSN + 1)
	}
}

// Closed returns err, the error of Close, unless it is lawful: nil if no batch is open, or else a BatchOpenError that
// says what is missing, and nothing else.
func (h *History) Closed(err error) error {
	limit := h.StableLimit()
	var left *engine.BatchOpenError
	if errors.As(err, &left) && err.Error() == left.Error() && left.LSN == limit {
		return nil
	}
	if err == nil && limit != Unlimited {
		return Violated("Close did not say that a batch was left open from LSN %d", limit)
	}
	return err
}

// AckClosed records that the store was closed, which makes all changes durable that are in no open batch.
func (h *History) AckClosed() {
	limit := h.StableLimit()
	for _, e := range h.Effects {
		if e.LSN < limit {
			h.Ack(e.LSN + 1)
		}
	}
}

// Unlimited is the StableLimit of a history without open batches.
const Unlimited engine.LSN = math.MaxInt64

// StableLimit returns the lowest LSN that cannot become stable because a batch is open.
func (h *History) StableLimit() engine.LSN {
	limit := Unlimited
	for again := true; again; {
		again = false
		for _, b := range h.Batches {
			if b.cutBy(limit) {
				limit, again = b.Begin, true
			}
		}
	}
	return limit
}

// Cut checks that the log may end at end: everything that was acknowledged is there (O1), and batches are whole (O2).
// The contents of such a log become the beginning of a new history. If the log may not end there, Cut returns a
// Violation.
func (h *History) Cut(end engine.LSN) error {
	if end < h.Acked {
		return Violated("the log ends at LSN %d, and everything below %d was acknowledged", end, h.Acked)
	}
	for _, b := range h.Batches {
		if b.cutBy(end) {
			return Violated("the log ends at LSN %d, in the batch from %d to %d", end, b.Begin, b.End)
		}
	}
	slices.SortFunc(h.Effects, func(a, b Effect) int { return cmp.Compare(a.LSN, b.LSN) })
	for _, e := range h.Effects {
		if e.LSN < end {
			h.Base.Apply(e)
		}
	}
	h.Now, h.Effects, h.Batches = h.Base.Clone(), nil, nil
	h.Ack(end)
	return nil
}

// String lists the batches and the last changes.
func (h *History) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "acknowledged below %d, batches %v", h.Acked, h.Batches)
	for _, e := range h.Effects[max(0, len(h.Effects)-60):] {
		fmt.Fprintf(&b, "\n\t%v", e)
	}
	return b.String()
}
