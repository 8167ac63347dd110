package enginetest

import (
	"bytes"
	"cmp"
	"slices"

	"pagecache/engine"
	"pagecache/segments/format"
)

// value returns a new random value: of random bytes, of one byte, or of zeros, which recovery must not take for a torn
// write.
func (d *Driver) value() []byte {
	n, sizes := d.rng.IntN(40), 16
	if d.Eager {
		sizes = 4
	}
	switch d.rng.IntN(sizes) {
	case 0:
		n = d.rng.IntN(d.Max + 1)
	case 1, 2:
		n = d.rng.IntN(min(d.Max, 600) + 1)
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

func (d *Driver) pick() engine.PageID { return d.Alive[d.rng.IntN(len(d.Alive))] }

// did records a change that won.
func (d *Driver) did(e Effect, ptr engine.PagePtr[[]byte]) error {
	e.LSN = ptr.LastLSN()
	if e.LSN < d.H.Acked || len(d.H.Effects) > 0 && e.LSN <= d.H.Effects[len(d.H.Effects)-1].LSN {
		return Violated("%v is not above all changes before it; acknowledged below %d", e, d.H.Acked)
	}
	d.tracef("%v", e)
	d.H.Add(e)
	if old, ok := d.ptrs[e.Page]; ok && len(d.stale) < 64 {
		d.stale = append(d.stale, OldState{e.Page, old})
	}
	d.ptrs[e.Page] = ptr
	return nil
}

// Allocate allocates a page. An id may be used again only after every Tx has ended that was open when the page was
// freed (trap 2).
func (d *Driver) Allocate(tx *engine.Tx[[]byte]) error {
	v := d.value()
	pid, ptr, err := d.PC.Allocate(tx, v)
	if err != nil {
		return err
	}
	if p := d.H.Now.Pages[pid]; p.Kind == engine.KindMaterialized {
		return Violated("page %d was allocated while it is in use", pid)
	}
	if err := d.reused(pid); err != nil {
		return err
	}
	d.Alive = append(d.Alive, pid)
	return d.did(Effect{Kind: EffectSet, Page: pid, Val: v}, ptr)
}

// won checks the answer of a compare-and-swap from the current state, which no other goroutine changes (rule 6).
func (d *Driver) won(call string, pid engine.PageID, ptr engine.PagePtr[[]byte], won bool) error {
	if !won || ptr.IsZero() || Version(ptr) != Version(d.ptrs[pid])+1 {
		return Violated("%s page %d from its current state: won %v, %v after %v", call, pid, won, ptr, d.ptrs[pid])
	}
	return nil
}

// reused checks an id that was handed out.
func (d *Driver) reused(pid engine.PageID) error {
	if at, ok := d.freed[pid]; ok {
		for _, t := range d.txs {
			if t.since < at {
				return Violated("page %d was allocated again while a Tx is open that began before it was freed", pid)
			}
		}
		delete(d.freed, pid)
	}
	return nil
}

// Link appends a delta to a page. A page that is too long is replaced.
func (d *Driver) Link(tx *engine.Tx[[]byte]) error {
	pid, v := d.pick(), d.value()
	if len(d.H.Now.Pages[pid].Val)+len(v)+format.HeaderSize > Internals.SegmentSize(d.PC)/2 {
		return d.Replace(tx)
	}
	ptr, won, err := d.PC.Link(tx, pid, d.ptrs[pid], v)
	if err != nil {
		return err
	}
	if err := d.won("link", pid, ptr, won); err != nil {
		return err
	}
	return d.did(Effect{Kind: EffectLink, Page: pid, Val: v}, ptr)
}

// Replace replaces a page.
func (d *Driver) Replace(tx *engine.Tx[[]byte]) error {
	pid, v := d.pick(), d.value()
	ptr, won, err := d.PC.Replace(tx, pid, d.ptrs[pid], v)
	if err != nil {
		return err
	}
	if err := d.won("replace", pid, ptr, won); err != nil {
		return err
	}
	return d.did(Effect{Kind: EffectSet, Page: pid, Val: v}, ptr)
}

// Free frees a page.
func (d *Driver) Free(tx *engine.Tx[[]byte]) error {
	i := d.rng.IntN(len(d.Alive))
	pid := d.Alive[i]
	ptr, won, err := d.PC.Free(tx, pid, d.ptrs[pid])
	if err != nil {
		return err
	}
	if err := d.won("free", pid, ptr, won); err != nil {
		return err
	}
	if err := d.did(Effect{Kind: EffectFree, Page: pid}, ptr); err != nil {
		return err
	}
	d.ticks++
	d.freed[pid] = d.ticks
	d.Alive = slices.Delete(d.Alive, i, i+1)
	return nil
}

// old tries to change a page from a state that is superseded.
func (d *Driver) old(tx *engine.Tx[[]byte]) error {
	if len(d.stale) == 0 {
		return nil
	}
	i := d.rng.IntN(len(d.stale))
	s := d.stale[i]
	d.stale = slices.Delete(d.stale, i, i+1)
	op := []func() (engine.PagePtr[[]byte], bool, error){
		func() (engine.PagePtr[[]byte], bool, error) { return d.PC.Link(tx, s.Page, s.Ptr, []byte("stale")) },
		func() (engine.PagePtr[[]byte], bool, error) { return d.PC.Replace(tx, s.Page, s.Ptr, []byte("stale")) },
		func() (engine.PagePtr[[]byte], bool, error) { return d.PC.Free(tx, s.Page, s.Ptr) },
	}[d.rng.IntN(3)]
	ptr, won, err := op()
	if err != nil {
		return err
	}
	alive := d.H.Now.Pages[s.Page].Kind == engine.KindMaterialized
	if won || alive == ptr.IsZero() || alive && Version(ptr) != Version(d.ptrs[s.Page]) {
		return Violated("a superseded state of page %d: won %v, got %v, page in use %v", s.Page, won, ptr, alive)
	}
	return nil
}

// get reads a page, and its fragments.
func (d *Driver) get(tx *engine.Tx[[]byte]) error {
	pid := d.pick()
	if d.rng.IntN(8) == 0 {
		pid = engine.FirstUserPage + engine.PageID(d.rng.IntN(20))
	}
	state, kind, err := d.PC.State(tx, pid)
	if err != nil {
		return err
	}
	p, err := d.PC.Get(tx, pid)
	if err != nil {
		return err
	}
	if err := d.H.Now.Compare(pid, p); err != nil {
		return err
	}
	if kind != p.Kind || Version(state) != Version(p.Ptr) {
		return Violated("State of page %d: %v in version %d, Get: %v in version %d", pid, kind, Version(state), p.Kind,
			Version(p.Ptr))
	}
	if p.Kind != engine.KindMaterialized {
		return nil
	}
	d.hold(tx, pid, p.Value)
	if d.rng.IntN(2) == 0 {
		d.ptrs[pid] = p.Ptr
	}
	ptr, frags, err := d.PC.Fragments(tx, pid)
	if err != nil {
		return err
	}
	slices.Reverse(frags)
	if Version(ptr) != Version(p.Ptr) || !bytes.Equal(slices.Concat(frags...), d.H.Now.Pages[pid].Val) {
		return Violated("fragments of page %d do not make up its value", pid)
	}
	return nil
}

// Root changes a root, or tries to change it from a page that it is not.
func (d *Driver) Root(tx *engine.Tx[[]byte]) error {
	name := string(rune('a' + d.rng.IntN(3)))
	old, to := d.H.Now.Roots[name], 1+engine.PageID(d.rng.IntN(100))
	if d.rng.IntN(3) == 0 {
		to = 0
	}
	if d.rng.IntN(6) == 0 {
		if now, won, err := d.PC.CASRoot(tx, name, old+1, to); err != nil || won || now != old {
			return cmp.Or(err, Violated("root %q from %v, which is %v: won %v, now %v", name, old+1, old, won, now))
		}
		return nil
	}
	pid := Internals.RootPage(d.PC, name)
	now, won, err := d.PC.CASRoot(tx, name, old, to)
	if err != nil {
		return err
	}
	if !won || now != to {
		return Violated("root %q from %v to %v: won %v, now %v", name, old, to, won, now)
	}
	switch {
	case old == 0 && to == 0: // nothing is written
		return nil
	case old == 0:
		pid = Internals.RootPage(d.PC, name)
		err = d.reused(pid)
		if k := d.H.Now.Pages[pid].Kind; k == engine.KindMaterialized || k == engine.KindRoot {
			err = Violated("root %q is on page %d, which is %v", name, pid, k)
		}
	case to == 0:
		d.ticks++
		d.freed[pid] = d.ticks
	}
	if err != nil {
		return err
	}
	e := Effect{LSN: Internals.NewestLSN(d.PC, pid), Kind: EffectRoot, Page: pid, Name: name, Root: to}
	d.tracef("%v", e)
	d.H.Add(e)
	return nil
}

// ID generates an id.
func (d *Driver) ID() error {
	id, err := d.PC.GenerateID()
	if err != nil {
		return err
	}
	return d.H.Seen(id)
}
