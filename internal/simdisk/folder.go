package simdisk

import (
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"pagecache/internal/vfs"
)

// node is a file or a directory: *inode or *folder.
type node interface {
	identity() vfs.Identity
}

// folder is a directory.
type folder struct {
	number  uint64
	now     map[string]node // as shown
	durable map[string]node // the entries that survive a crash
	removed bool            // it has no name any more, and gets no entries
}

// entryOp gives a name in a directory to a node, or removes the name (node is nil), and removes the old name of a
// renamed node.
type entryOp struct {
	in   *folder
	name string
	node node
	from string // the old name of a rename; otherwise empty
}

func (e entryOp) apply(entries map[string]node) {
	if e.node == nil {
		delete(entries, e.name)
		return
	}
	delete(entries, e.from)
	entries[e.name] = e.node
}

// entriesOf selects one of the states of a directory.
type entriesOf func(*folder) map[string]node

func shown(f *folder) map[string]node { return f.now }

func durable(f *folder) map[string]node { return f.durable }

func (f *folder) identity() vfs.Identity { return vfs.Identity{Device: 1, Inode: f.number} }

func (f *inode) identity() vfs.Identity { return vfs.Identity{Device: 1, Inode: f.number} }

func (d *Disk) newFolder() *folder {
	d.inodes++
	return &folder{number: d.inodes, now: map[string]node{}, durable: map[string]node{}}
}

func (d *Disk) newInode() *inode {
	d.inodes++
	return &inode{number: d.inodes}
}

// elements splits a clean path. Relative paths begin at the root too.
func elements(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// lookup returns the file or directory with this path; nil if there is none.
func (d *Disk) lookup(path string, of entriesOf) node {
	var n node = d.root
	for _, name := range elements(path) {
		if name == "." {
			continue
		}
		f, ok := n.(*folder)
		if !ok {
			return nil
		}
		n = of(f)[name]
	}
	return n
}

// folder returns the directory with this clean path. op is for the error.
func (d *Disk) folder(op, path string) (*folder, error) {
	switch n := d.lookup(path, shown).(type) {
	case *folder:
		return n, nil
	case *inode:
		return nil, &fs.PathError{Op: op, Path: path, Err: syscall.ENOTDIR}
	}
	return nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
}

// makeAll makes a directory and its parents, durably, and returns it.
func (d *Disk) makeAll(path string) (*folder, error) {
	f := d.root
	for _, name := range elements(filepath.Clean(path)) {
		switch n := f.now[name].(type) {
		case *folder:
			f = n
		case *inode:
			return nil, &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
		default:
			if name != "." {
				d.settle(f)
				made := d.newFolder()
				f.now[name], f.durable[name] = made, made
				f = made
			}
		}
	}
	return f, nil
}

// change changes an entry, but not durably. Y4.
func (d *Disk) change(e entryOp) {
	if old, ok := e.in.now[e.name].(*folder); ok && node(old) != e.node {
		old.removed = true
	}
	e.apply(e.in.now)
	d.pending = append(d.pending, e)
}

// settle makes the entries of a directory durable.
func (d *Disk) settle(f *folder) {
	d.pending = slices.DeleteFunc(d.pending, func(e entryOp) bool {
		if e.in == f {
			e.apply(f.durable)
		}
		return e.in == f
	})
}

// survivors returns the entries of the directories after a crash that the first n pending changes survive.
func (d *Disk) survivors(n int) entriesOf {
	changed := map[*folder]map[string]node{}
	for _, e := range d.pending[:n] {
		if changed[e.in] == nil {
			changed[e.in] = maps.Clone(e.in.durable)
		}
		e.apply(changed[e.in])
	}
	return func(f *folder) map[string]node {
		if m := changed[f]; m != nil {
			return m
		}
		return f.durable
	}
}

// files calls f with each file below a directory and its path.
func (f *folder) files(of entriesOf, path string, visit func(path string, f *inode)) {
	for name, n := range of(f) {
		switch n := n.(type) {
		case *folder:
			n.files(of, filepath.Join(path, name), visit)
		case *inode:
			visit(filepath.Join(path, name), n)
		}
	}
}

// restart returns a disk with the entries that of selects, and files with the durable contents that contents returns.
// contents is called in the order of the paths.
func (d *Disk) restart(seed uint64, of entriesOf, contents func(*inode) content) *Disk {
	n := New(seed, d.opts)
	found := map[string]*inode{}
	d.root.files(of, "/", func(path string, f *inode) { found[path] = f })
	n.copyFolders(n.root, d.root, of)
	for _, path := range slices.Sorted(maps.Keys(found)) {
		f := n.newInode()
		f.now = contents(found[path])
		f.durable = f.now.clone()
		f.bad = maps.Clone(found[path].bad)
		in := n.lookup(filepath.Dir(path), shown).(*folder)
		in.now[filepath.Base(path)], in.durable[filepath.Base(path)] = f, f
	}
	return n
}

// copyFolders copies the directories below from, without files.
func (d *Disk) copyFolders(to, from *folder, of entriesOf) {
	for _, name := range slices.Sorted(maps.Keys(of(from))) {
		if sub, ok := of(from)[name].(*folder); ok {
			made := d.newFolder()
			to.now[name], to.durable[name] = made, made
			d.copyFolders(made, sub, of)
		}
	}
}
