package pagemap

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/roots"
	"pagecache/engine/internal/txn"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Take takes the id of a page that was never allocated or is free. An id whose page is lost, because both the snapshot
// and the log are corrupt, is passed over and not handed out in this opening. The loop ends, since each turn uses an id
// up, and no id above those of the snapshot is lost.
func (m *Map) Take() (format.PageID, *Slot, error) {
	for {
		pid, err := m.IDs.Take(m.readers)
		if err != nil {
			return 0, nil, err
		}
		s, err := m.Unused(pid)
		if errors.Is(err, recovery.ErrCorrupt) {
			continue
		}
		if err != nil {
			m.IDs.GiveBack(pid)
		}
		return pid, s, err
	}
}

// Unused returns the slot of a page that was never allocated or is free. The caller owns the page's id.
func (m *Map) Unused(pid format.PageID) (*Slot, error) {
	s, _, err := m.Find(pid)
	if err == nil && s == nil {
		s = m.Table.Make(pid)
	}
	return s, err
}

// FindRoot looks up the page that holds the root of a name. If there is none, the target of its head's root is 0.
func (m *Map) FindRoot(name string) (pid format.PageID, s *Slot, h *Head, err error) {
	pid, ok := m.Roots.Find(name)
	if ok {
		s, h, err = m.Find(pid)
	}
	if err == nil && !isRoot(h, name) { // not even if it is that of another name now (roots, I3)
		return 0, nil, nil, nil
	}
	return pid, s, h, err
}

// isRoot reports whether h, which may be nil, is the head of a page that holds the root of a name.
func isRoot(h *Head, name string) bool {
	r := h.Root()
	return r.Target != 0 && r.Name == name
}

// A RootChange is a root that a transaction has read, and may change.
type RootChange struct {
	Name string
	To   format.PageID // 0: the root is removed
	At   format.PageID // the page that will hold a root that there was not; 0: any
	read txn.Read      // of the page that holds the root; it is no page if there was no root
	was  format.Root
}

// Was returns the page that the root named when it was read; 0: there was no root.
func (r *RootChange) Was() format.PageID { return r.was.Target }

// renames reports whether the change adds or removes the name.
func (r *RootChange) renames() bool { return (r.was.Target == 0) != (r.To == 0) }

// ReadRoot reads the root of a name for a transaction with these reads, which holds token, or none: nil. Errors: a
// *ConflictError, and those of Find.
//
// A name that is missing has no page that could count as read. So the version of the names of its shard counts: each
// commit that adds or removes one of them changes it. It is read before the second lookup, and compared after that. If
// it is the same, no name was added or removed between, so the name was missing throughout.
func (m *Map) ReadRoot(name string, reads *txn.Reads, token *txn.Token) (r RootChange, err error) {
	r.Name = name
	pid, s, h, err := m.FindRoot(name)
	if err != nil {
		return r, err
	}
	token.Add(m.Names(name))
	if h != nil {
		token.Add(pid)
		h, changed, ok := reads.Read(pid, s)
		if !ok {
			return r, Conflict(changed)
		}
		if isRoot(h, name) {
			r.read, r.was = reads.Last(), h.Root()
			return r, nil
		}
	}
	names, err := m.readNames(m.Roots.Shard(name), reads)
	if err != nil {
		return r, err
	}
	if _, _, h, err = m.FindRoot(name); err != nil {
		return r, err
	}
	if _, changed := txn.Changed([]txn.Read{names}); changed || h != nil {
		return r, Conflict(names.Page)
	}
	return r, nil
}

// firstNames is the Names of the first shard.
const firstNames = format.MaxPageID + 1

// Names returns the number by which transactions know the version of the names of the shard of a name. No page has it.
func (m *Map) Names(name string) format.PageID {
	return firstNames + format.PageID(m.Roots.Shard(name).Number())
}

// readNames reads the version of the names of a shard.
func (m *Map) readNames(s *roots.Shard, reads *txn.Reads) (txn.Read, error) {
	n := s.Number()
	if _, changed, ok := reads.Read(firstNames+format.PageID(n), &m.names[n]); !ok {
		return txn.Read{}, Conflict(changed)
	}
	return reads.Last(), nil
}

// Conflict returns the error for a conflict on a page. One about names of roots is one on page 0.
func Conflict(page format.PageID) *ConflictError {
	if page >= firstNames {
		page = format.MetaPage
	}
	return &ConflictError{page}
}

// Renaming is the part of a commit that changes roots. It holds the locks of the shards in which it adds or removes
// names, until End. A name is in the index before the commit makes its root, and until it has removed it (roots, I3).
type Renaming struct {
	m              *Map
	locked         []*roots.Shard
	added, removed []rename // added are in the index
	writes         []Write  // of the commit: versions of names, and pages of roots
	won            bool
}

type rename struct {
	name string
	page format.PageID
}

// Rename adds the changes of roots to the writes of a commit, in the order of page ids. The caller calls End of what it
// returns, also after an error. Errors: a *ConflictError, roots.ErrTooMany, and those of Take.
func (m *Map) Rename(c *Commit, changes []RootChange, reads *txn.Reads) (*Renaming, error) {
	n := &Renaming{m: m}
	if err := n.lock(changes, reads); err != nil {
		return n, err
	}
	for i := range changes {
		r := &changes[i]
		if r.To == r.was.Target {
			continue
		}
		if r.was.Target == 0 {
			if err := n.add(r, reads); err != nil {
				return n, err
			}
		} else if r.To == 0 {
			n.removed = append(n.removed, rename{r.was.Name, r.read.Page})
		}
		n.writes = append(n.writes, r.write())
	}
	c.Writes = append(c.Writes, n.writes...)
	slices.SortFunc(c.Writes, func(a, b Write) int { return cmp.Compare(a.Read.Page, b.Read.Page) })
	return n, nil
}

// Changes reports whether a page is one of those that hold the roots, or stands for a version of names. n may be nil.
func (n *Renaming) Changes(page format.PageID) bool {
	return n != nil && slices.ContainsFunc(n.writes, func(w Write) bool { return w.Read.Page == page })
}

// Messages calls visit with the length of the body of each message.
func (n *Renaming) Messages(visit func(body int)) {
	for i := range n.writes {
		for j := range n.writes[i].Parts {
			visit(n.writes[i].Parts[j].bodyLen())
		}
	}
}

// lock locks the shards in which names are added or removed, and changes the versions of their names.
func (n *Renaming) lock(changes []RootChange, reads *txn.Reads) error {
	var shards []*roots.Shard
	for i := range changes {
		if changes[i].renames() {
			shards = append(shards, n.m.Roots.Shard(changes[i].Name))
		}
	}
	slices.SortFunc(shards, func(a, b *roots.Shard) int { return cmp.Compare(a.Number(), b.Number()) })
	for _, s := range slices.Compact(shards) {
		s.Lock()
		n.locked = append(n.locked, s)
		read, err := n.m.readNames(s, reads)
		if err != nil {
			return err
		}
		n.writes = append(n.writes, Write{Read: read, Entry: func(h *Head, _ []pagestack.Ref) *Head {
			return pagestack.NewFree(NextTS(h), 0, format.DiskPtr{}) // a version, and no page
		}})
	}
	return nil
}

// add takes a page for a root that there was not, and enters its name into the index.
func (n *Renaming) add(r *RootChange, reads *txn.Reads) (err error) {
	// The index and the entry keep the name: that of the caller may be a part of something large.
	r.was.Name = strings.Clone(r.Name)
	s := n.m.Roots.Shard(r.Name)
	if pid, found := s.Find(r.Name); found {
		return cmp.Or(n.m.CheckRoot(pid), error(Conflict(firstNames)))
	}
	if !n.m.Roots.Admit() {
		return roots.ErrTooMany
	}
	pid, slot := r.At, (*Slot)(nil)
	if pid == 0 {
		pid, slot, err = n.m.Take()
	} else {
		slot, err = n.m.Unused(pid)
	}
	if err != nil {
		n.m.Roots.Withdraw()
		return err
	}
	s.Add(r.was.Name, pid)
	n.added = append(n.added, rename{r.was.Name, pid})
	if _, changed, ok := reads.Read(pid, slot); !ok {
		return Conflict(changed)
	}
	r.read = reads.Last()
	return nil
}

// write returns the change of the root's page.
func (r *RootChange) write() Write {
	root := format.Root{Name: r.was.Name, Target: r.To}
	w := Write{Read: r.read, Parts: []Part{{Kind: format.KindRoot, Body: format.AppendRoot(nil, root)}}}
	w.Entry = func(h *Head, m []pagestack.Ref) *Head { return pagestack.NewRoot(NextTS(h), root, m[0]) }
	if r.To == 0 {
		w.Parts[0] = Part{Kind: format.KindFree}
		w.Entry = func(h *Head, m []pagestack.Ref) *Head { return pagestack.NewFree(NextTS(h), m[0].LSN, m[0].Ptr) }
	}
	return w
}

// Won says that the commit has made its changes. End follows.
func (n *Renaming) Won() { n.won = true }

// End follows the commit, which has made its changes if Won was called.
func (n *Renaming) End() {
	for _, r := range n.added {
		if !n.won {
			n.m.Roots.Shard(r.name).Remove(r.name)
			n.m.IDs.GiveBack(r.page)
		}
	}
	for _, r := range n.removed {
		if n.won {
			n.m.former.keep(&n.m.Clock.Views, r.name, r.page)
			n.m.Roots.Shard(r.name).Remove(r.name)
			n.m.IDs.Give(n.m.readers, r.page)
		}
	}
	for _, s := range n.locked {
		s.Unlock()
	}
}
