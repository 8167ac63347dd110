package engine

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"pagecache/engine/internal/logstore"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// What the model, crash and kill tests have in common: a model of a store, the history of what was done to a real one, and a driver
// that does random things to it. The history is kept outside of the store, and by LSN, so that what the store must hold after a crash
// follows from where its log ended: no other state is right.

// effect is one change and its place in the log.
type effect struct {
	lsn  LSN
	kind effectKind
	pid  PageID
	val  []byte
	name string // of a root
	root PageID // 0: none
}

type effectKind uint8

const (
	effSet  effectKind = iota // the whole page: Allocate and Replace
	effLink                   // a delta
	effFree
	effRoot
)

func (e effect) String() string {
	switch e.kind {
	case effRoot:
		return fmt.Sprintf("%d: root %q = %v", e.lsn, e.name, e.root)
	case effFree:
		return fmt.Sprintf("%d: free %v", e.lsn, e.pid)
	}
	return fmt.Sprintf("%d: %s %v %d bytes", e.lsn, [...]string{"set", "link"}[e.kind], e.pid, len(e.val))
}

// modelPage is what Get has to say about a page.
type modelPage struct {
	kind PageKind
	val  []byte
}

// model is what a store holds.
type model struct {
	pages map[PageID]modelPage
	roots map[string]PageID
}

func newModel() model { return model{map[PageID]modelPage{}, map[string]PageID{}} }

func (m model) clone() model { return model{maps.Clone(m.pages), maps.Clone(m.roots)} }

func (m model) apply(e effect) {
	switch e.kind {
	case effSet:
		m.pages[e.pid] = modelPage{KindMaterialized, e.val}
	case effLink:
		m.pages[e.pid] = modelPage{KindMaterialized, slices.Concat(m.pages[e.pid].val, e.val)}
	case effFree:
		m.pages[e.pid] = modelPage{kind: KindFree}
	case effRoot:
		if e.root != 0 {
			m.roots[e.name] = e.root
		} else {
			delete(m.roots, e.name)
		}
	}
}

// violation is an error of the store that only the model shows.
type violation string

func (v violation) Error() string { return string(v) }

func violated(format string, args ...any) error { return violation(fmt.Sprintf(format, args...)) }

// holds reports whether the store holds exactly what the model says.
func (m model) holds(pc *PageCache[[]byte], tx *Tx) error {
	last := FirstUserPage
	for pid := range m.pages {
		last = max(last, pid)
	}
	last = max(last, pc.pages.IDs.Next()) + 3
	for pid := FirstUserPage; pid <= last; pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			return err
		}
		if want := m.pages[pid]; p.Kind != want.kind || !bytes.Equal(p.Value, want.val) {
			return violated("page %d is %v of %s, want %v of %s", pid, p.Kind, brief(p.Value), want.kind, brief(want.val))
		}
	}
	roots, err := pc.Meta(tx)
	if err != nil {
		return err
	}
	if !maps.Equal(roots, m.roots) {
		return violated("roots are %v, want %v", roots, m.roots)
	}
	return nil
}

func brief(b []byte) string {
	if len(b) > 12 {
		return fmt.Sprintf("%d bytes %x…", len(b), b[:12])
	}
	return fmt.Sprintf("%d bytes %x", len(b), b)
}

// span is a batch: the LSNs of its markers, end 0 while it is open.
type span struct{ begin, end LSN }

// history is what was done to a store since its log was last known to the end.
type history struct {
	base    model // at the last opening
	now     model // with all effects, if one goroutine works
	effects []effect
	batches []span
	acked   LSN    // everything below was acknowledged as stable
	nextID  uint64 // ids and timestamps below may have been handed out
}

func newHistory() *history { return &history{base: newModel(), now: newModel()} }

// check asks whether the store holds what the history says now.
func (h *history) check(pc *PageCache[[]byte]) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	if err := h.seen(tx.TS()); err != nil {
		return err
	}
	return h.now.holds(pc, tx)
}

// seen takes in an id that was handed out: it is higher than all before it (O3).
func (h *history) seen(id uint64) error {
	if id < h.nextID {
		return violated("id %d was handed out, and %d before", id, h.nextID-1)
	}
	h.nextID = id + 1
	return nil
}

func (h *history) add(e effect) {
	h.effects = append(h.effects, e)
	h.now.apply(e)
}

func (h *history) ack(below LSN) { h.acked = max(h.acked, below) }

// bound is the LSN at and above which nothing can be made stable because of open batches.
func (h *history) bound() LSN {
	bound := LSN(math.MaxInt64)
	for again := true; again; {
		again = false
		for _, b := range h.batches {
			if b.begin < bound && (b.end == 0 || b.end >= bound) {
				bound, again = b.begin, true
			}
		}
	}
	return bound
}

// cut asks whether a log that ends at end is lawful, and makes what it then holds the beginning of a new history. Oracles: what was
// acknowledged is there (O1), and batches are whole (O2).
func (h *history) cut(end LSN) error {
	if end < h.acked {
		return violated("the log ends at LSN %d, and all below %d was acknowledged", end, h.acked)
	}
	for _, b := range h.batches {
		if b.begin < end && (b.end == 0 || b.end >= end) {
			return violated("the log ends at LSN %d, in the batch from %d to %d", end, b.begin, b.end)
		}
	}
	slices.SortFunc(h.effects, func(a, b effect) int { return cmp.Compare(a.lsn, b.lsn) })
	for _, e := range h.effects {
		if e.lsn < end {
			h.base.apply(e)
		}
	}
	h.now, h.effects, h.batches = h.base.clone(), nil, nil
	h.ack(end)
	return nil
}

func (h *history) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "acknowledged below %d, batches %v", h.acked, h.batches)
	for _, e := range h.effects[max(0, len(h.effects)-60):] {
		fmt.Fprintf(&b, "\n\t%v", e)
	}
	return b.String()
}

// scanEnd reads where the log of a store ends, without opening the store. False: there is no store.
func scanEnd(fsys vfs.FS, dir string) (LSN, bool, error) {
	f, err := fsys.Open(filepath.Join(dir, logstore.SuperName), vfs.FlagRead)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	b := make([]byte, format.SuperblockSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return 0, false, err
	}
	sb, err := format.DecodeSuperblock(b)
	if err != nil {
		return 0, false, err
	}
	log, err := fsys.Open(filepath.Join(dir, logstore.LogName), vfs.FlagRead)
	if err != nil {
		return 0, false, err
	}
	defer log.Close()
	res, err := recovery.Scan(log, recovery.Options{Store: sb.Store, SegmentSize: sb.SegmentSize, Generation: sb.Generation,
		Clean: sb.Clean, End: sb.End, File: logstore.LogName})
	if err != nil {
		return 0, true, err
	}
	return res.End, true, nil
}

// driver does random things to a store and asks at once whether the answers are right. It belongs to one goroutine, and nobody else
// may change the store meanwhile.
type driver struct {
	pc       *PageCache[[]byte]
	rng      *rand.Rand
	h        *history
	max      int // bytes of a value, at most
	syncs    bool
	trace    func(format string, args ...any) // nil: none
	alive    []PageID
	ptrs     map[PageID]PagePtr[[]byte]
	stale    []oldState
	open     []openBatch
	txs      []openTx
	ticks    int
	changed  error          // a value did that was read
	cleaned  int            // steps of cleaning that did something
	eager    bool           // give segments every chance to be recycled
	patience int            // how long Txs last then
	freed    map[PageID]int // when the page was freed
	noSpace  int            // how often ErrNoSpace was seen
}

type oldState struct {
	pid PageID
	ptr PagePtr[[]byte]
}

type openBatch struct {
	b *Batch
	i int // in history.batches
}

type openTx struct {
	tx    *Tx
	since int
	held  []heldValue
}

// heldValue is a value that was read, and what it was then: it does not change before the Tx ends.
type heldValue struct {
	pid       PageID
	was, read []byte
}

// finish ends a Tx.
func (d *driver) finish(t *openTx) {
	for _, h := range t.held {
		if d.changed == nil && !bytes.Equal(h.was, h.read) {
			d.changed = violated("a value of page %d changed before its Tx ended: %s, was %s", h.pid, brief(h.read), brief(h.was))
		}
	}
	t.tx.End()
}

// hold keeps a value that was read in tx.
func (d *driver) hold(tx *Tx, pid PageID, v []byte) {
	for i := range d.txs {
		if d.txs[i].tx == tx {
			d.txs[i].held = append(d.txs[i].held, heldValue{pid, bytes.Clone(v), v})
		}
	}
}

// newDriver begins to work on a store that holds what h says. After an error too the driver is there, for its end.
func newDriver(pc *PageCache[[]byte], rng *rand.Rand, h *history) (*driver, error) {
	d := &driver{pc: pc, rng: rng, h: h, max: 200, syncs: true, ptrs: map[PageID]PagePtr[[]byte]{}, freed: map[PageID]int{}}
	tx, err := d.tx()
	if err != nil {
		return d, err
	}
	for pid, p := range h.now.pages {
		if p.kind == KindMaterialized {
			d.alive = append(d.alive, pid)
		}
	}
	slices.Sort(d.alive)
	for _, pid := range d.alive {
		p, err := pc.Get(tx, pid)
		if err != nil {
			return d, err
		}
		d.ptrs[pid] = p.Ptr
		d.hold(tx, pid, p.Value)
	}
	return d, nil
}

// tx returns an open Tx: usually the last one, sometimes a new one beside or instead of it.
func (d *driver) tx() (*Tx, error) {
	if n := len(d.txs); n > 0 {
		switch k := d.rng.IntN(8); {
		case k > 1 || n < 3 && d.patience > 2:
			return d.txs[n-1].tx, nil
		case k == 1 || n > 3:
			i := d.rng.IntN(n)
			d.finish(&d.txs[i])
			if d.txs = slices.Delete(d.txs, i, i+1); n > 1 {
				return d.txs[n-2].tx, nil
			}
		}
	}
	tx, err := d.pc.Begin()
	if err != nil {
		return nil, err
	}
	d.txs = append(d.txs, openTx{tx: tx, since: d.ticks})
	return tx, d.h.seen(tx.TS())
}

// end ends all Txs.
func (d *driver) end() {
	for i := range d.txs {
		d.finish(&d.txs[i])
	}
	d.txs = nil
}

// work does n things.
func (d *driver) work(n int) error {
	for range n {
		if err := d.step(); errors.Is(err, ErrNoSpace) {
			d.noSpace++
		} else if err != nil {
			return err
		}
	}
	return nil
}

// step does one thing. A violation is an error of the store; what else it returns is what the store returned.
func (d *driver) step() error {
	d.ticks++
	if d.changed != nil {
		return d.changed
	}
	if d.eager && d.rng.IntN(4) == 0 {
		return d.recycle()
	}
	tx, err := d.tx()
	if err != nil {
		return err
	}
	switch k := d.rng.IntN(100); {
	case k < 14 || len(d.alive) == 0:
		return d.allocate(tx)
	case k < 50:
		return d.link(tx)
	case k < 60:
		return d.replace(tx)
	case k < 66:
		return d.free(tx)
	case k < 70:
		return d.old(tx)
	case k < 76:
		return d.get(tx)
	case k < 80:
		return d.root(tx)
	case k < 84:
		id, err := d.pc.GenerateID()
		if err != nil {
			return err
		}
		return d.h.seen(id)
	case k < 88:
		return d.pin()
	case k < 93:
		return d.seal()
	case k < 95:
		return d.clean()
	case k < 96:
		return d.snapshot()
	}
	if !d.syncs {
		return nil
	}
	return d.sync()
}

// snapshot writes one, unless a batch is open, for which it would wait.
func (d *driver) snapshot() error {
	if len(d.open) > 0 {
		return nil
	}
	d.tracef("snapshot")
	err := d.pc.Snapshot()
	if errors.Is(err, ErrNoSpace) {
		return nil
	}
	return err
}

func (d *driver) tracef(format string, args ...any) {
	if d.trace != nil {
		d.trace(format, args...)
	}
}

// value is a new random value: of random bytes, of one byte, or of zeros, which must not be taken for a torn write.
func (d *driver) value() []byte {
	n, sizes := d.rng.IntN(40), 16
	if d.eager {
		sizes = 4
	}
	switch d.rng.IntN(sizes) {
	case 0:
		n = d.rng.IntN(d.max + 1)
	case 1, 2:
		n = d.rng.IntN(min(d.max, 600) + 1)
	}
	v := make([]byte, n)
	switch d.rng.IntN(4) {
	case 0: // zeros
	case 1:
		for i := range v {
			v[i] = byte(d.ticks)
		}
	default:
		for i := range v {
			v[i] = byte(d.rng.Uint32())
		}
	}
	return v
}

func (d *driver) pick() PageID { return d.alive[d.rng.IntN(len(d.alive))] }

// did notes a change that was won.
func (d *driver) did(e effect, ptr PagePtr[[]byte]) error {
	e.lsn = ptr.LastLSN()
	if e.lsn < d.h.acked || len(d.h.effects) > 0 && e.lsn <= d.h.effects[len(d.h.effects)-1].lsn {
		return violated("%v is not above all that was before, acknowledged below %d", e, d.h.acked)
	}
	d.tracef("%v", e)
	d.h.add(e)
	if old, ok := d.ptrs[e.pid]; ok && len(d.stale) < 64 {
		d.stale = append(d.stale, oldState{e.pid, old})
	}
	d.ptrs[e.pid] = ptr
	return nil
}

func (d *driver) allocate(tx *Tx) error {
	v := d.value()
	pid, ptr, err := d.pc.Allocate(tx, v)
	if err != nil {
		return err
	}
	if p := d.h.now.pages[pid]; p.kind == KindMaterialized {
		return violated("page %d was allocated while it is in use", pid)
	}
	if at, ok := d.freed[pid]; ok {
		for _, t := range d.txs {
			if t.since < at {
				return violated("page %d was allocated again while a Tx is open that began before it was freed", pid) // trap 2
			}
		}
		delete(d.freed, pid)
	}
	d.alive = append(d.alive, pid)
	return d.did(effect{kind: effSet, pid: pid, val: v}, ptr)
}

// won checks the answer of a compare-and-swap from the current state, with nobody else there.
func (d *driver) won(what string, pid PageID, ptr PagePtr[[]byte], won bool) error {
	if !won || ptr.IsZero() || ptr.ts != d.ptrs[pid].ts+1 { // rule 6
		return violated("%s page %d from its current state: won %v, timestamp after %d", what, pid, won, d.ptrs[pid].ts)
	}
	return nil
}

func (d *driver) link(tx *Tx) error {
	pid, v := d.pick(), d.value()
	if len(d.h.now.pages[pid].val)+len(v)+format.HeaderSize > d.pc.core.store.Super.SegmentSize/2 {
		return d.replace(tx)
	}
	ptr, won, err := d.pc.Link(tx, pid, d.ptrs[pid], v)
	if err != nil {
		return err
	}
	if err := d.won("link", pid, ptr, won); err != nil {
		return err
	}
	return d.did(effect{kind: effLink, pid: pid, val: v}, ptr)
}

func (d *driver) replace(tx *Tx) error {
	pid, v := d.pick(), d.value()
	ptr, won, err := d.pc.Replace(tx, pid, d.ptrs[pid], v)
	if err != nil {
		return err
	}
	if err := d.won("replace", pid, ptr, won); err != nil {
		return err
	}
	return d.did(effect{kind: effSet, pid: pid, val: v}, ptr)
}

func (d *driver) free(tx *Tx) error {
	i := d.rng.IntN(len(d.alive))
	pid := d.alive[i]
	ptr, won, err := d.pc.Free(tx, pid, d.ptrs[pid])
	if err != nil {
		return err
	}
	if err := d.won("free", pid, ptr, won); err != nil {
		return err
	}
	if err := d.did(effect{kind: effFree, pid: pid}, ptr); err != nil {
		return err
	}
	d.ticks++
	d.freed[pid] = d.ticks
	d.alive = slices.Delete(d.alive, i, i+1)
	return nil
}

// old tries a state that is not the page's any more.
func (d *driver) old(tx *Tx) error {
	if len(d.stale) == 0 {
		return nil
	}
	i := d.rng.IntN(len(d.stale))
	s := d.stale[i]
	d.stale = slices.Delete(d.stale, i, i+1)
	op := []func() (PagePtr[[]byte], bool, error){
		func() (PagePtr[[]byte], bool, error) { return d.pc.Link(tx, s.pid, s.ptr, []byte("stale")) },
		func() (PagePtr[[]byte], bool, error) { return d.pc.Replace(tx, s.pid, s.ptr, []byte("stale")) },
		func() (PagePtr[[]byte], bool, error) { return d.pc.Free(tx, s.pid, s.ptr) },
	}[d.rng.IntN(3)]
	ptr, won, err := op()
	if err != nil {
		return err
	}
	alive := d.h.now.pages[s.pid].kind == KindMaterialized
	if won || alive == ptr.IsZero() || alive && ptr.ts != d.ptrs[s.pid].ts {
		return violated("an old state of page %d: won %v, got %v, page in use %v", s.pid, won, ptr.IsZero(), alive)
	}
	return nil
}

func (d *driver) get(tx *Tx) error {
	pid := d.pick()
	if d.rng.IntN(8) == 0 {
		pid = FirstUserPage + PageID(d.rng.IntN(20))
	}
	p, err := d.pc.Get(tx, pid)
	if err != nil {
		return err
	}
	want := d.h.now.pages[pid]
	if p.Kind != want.kind || !bytes.Equal(p.Value, want.val) {
		return violated("page %d is %v of %s, want %v of %s", pid, p.Kind, brief(p.Value), want.kind, brief(want.val))
	}
	if p.Kind != KindMaterialized {
		return nil
	}
	d.hold(tx, pid, p.Value)
	if d.rng.IntN(2) == 0 {
		d.ptrs[pid] = p.Ptr
	}
	ptr, frags, err := d.pc.Fragments(tx, pid)
	if err != nil {
		return err
	}
	slices.Reverse(frags)
	if ptr.ts != p.Ptr.ts || !bytes.Equal(slices.Concat(frags...), want.val) {
		return violated("fragments of page %d do not make up its value", pid)
	}
	return nil
}

func (d *driver) root(tx *Tx) error {
	name := string(rune('a' + d.rng.IntN(3)))
	old, to := d.h.now.roots[name], 1+PageID(d.rng.IntN(100))
	if d.rng.IntN(3) == 0 {
		to = 0
	}
	if d.rng.IntN(6) == 0 {
		if now, won, err := d.pc.CASRoot(tx, name, old+1, to); err != nil || won || now != old {
			return cmp.Or(err, violated("root %q was changed from what it was not: %v", name, now))
		}
		return nil
	}
	now, won, err := d.pc.CASRoot(tx, name, old, to)
	if err != nil {
		return err
	}
	if !won || now != to {
		return violated("root %q from %v to %v: won %v, now %v", name, old, to, won, now)
	}
	e := effect{lsn: d.pc.pages.Table.Get(format.MetaPage).Load().LSN, kind: effRoot, name: name, root: to}
	d.tracef("%v", e)
	d.h.add(e)
	return nil
}

func (d *driver) pin() error {
	if len(d.open) > 2 {
		return nil
	}
	b, err := d.pc.PinLog()
	if err != nil {
		return err
	}
	d.tracef("%d: batch begins", b.LSN())
	d.open = append(d.open, openBatch{b, len(d.h.batches)})
	d.h.batches = append(d.h.batches, span{begin: b.LSN()})
	return nil
}

func (d *driver) seal() error {
	if len(d.open) == 0 {
		return nil
	}
	return d.sealAt(d.rng.IntN(len(d.open)))
}

func (d *driver) sealAt(i int) error {
	o := d.open[i]
	lsn, err := o.b.b.End() // what Seal and Abort call
	if err != nil {
		return describe("seal", err)
	}
	d.tracef("%d: batch from %d ends", lsn, o.b.LSN())
	d.open = slices.Delete(d.open, i, i+1)
	d.h.batches[o.i].end = lsn
	return nil
}

// clean does a few steps of cleaning.
func (d *driver) clean() error {
	for range 1 + d.rng.IntN(4) {
		did, err := d.pc.AttemptGC()
		if err != nil {
			return err
		}
		if !did {
			break
		}
		d.cleaned++
	}
	return nil
}

// recycle does what lets segments be recycled: Txs end, what is written becomes stable.
func (d *driver) recycle() error {
	if d.rng.IntN(d.patience) == 0 {
		d.end()
	}
	if bound := d.h.bound(); bound == math.MaxInt64 && d.rng.IntN(2) == 0 {
		if _, err := d.pc.Flush(); err != nil {
			return err
		}
		if n := len(d.h.effects); n > 0 {
			d.h.ack(d.h.effects[n-1].lsn + 1)
		}
	}
	return d.clean()
}

// sync waits until something is stable, or looks at what is.
func (d *driver) sync() error {
	bound := d.h.bound()
	switch n := len(d.h.effects); {
	case d.rng.IntN(4) == 0:
		d.h.ack(d.pc.StableLSN() + 1)
	case d.rng.IntN(3) == 0 && bound == math.MaxInt64:
		if _, err := d.pc.Flush(); err != nil {
			return err
		}
		if n > 0 {
			d.h.ack(d.h.effects[n-1].lsn + 1)
		}
	case n > 0:
		lsn := d.h.effects[n-1-d.rng.IntN(min(n, 4))].lsn
		if lsn >= bound {
			return nil // would wait for a batch that only this goroutine can end
		}
		if _, err := d.pc.MakeStable(lsn); err != nil {
			return err
		}
		d.h.ack(lsn + 1)
	}
	if got := d.pc.StableLSN() + 1; got < d.h.acked || got > bound {
		return violated("stable below %d, acknowledged below %d, batch open from %d", got, d.h.acked, bound)
	}
	d.tracef("stable below %d", d.h.acked)
	return nil
}
