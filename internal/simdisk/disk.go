package simdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"pagecache/internal/vfs"
)

// ErrCrashed is the error of every call after the disk has crashed.
var ErrCrashed = errors.New("simulated disk has crashed")

// OpKind is a kind of operation.
type OpKind int

// The kinds of operation.
const (
	OpWrite       OpKind = iota // WriteAt
	OpDeviceWrite               // a write of a Device
	OpSync
	OpAllocate
	OpTruncate
	OpOpen
	OpRename
	OpRemove
	OpSyncDir
	OpRead
)

// String returns the name of the kind.
func (k OpKind) String() string {
	names := [...]string{"write", "device write", "sync", "allocate", "truncate", "open", "rename", "remove",
		"sync directory", "read"}
	if k < 0 || int(k) >= len(names) {
		return "invalid kind"
	}
	return names[k]
}

// Op is an operation that a fault decides about.
type Op struct {
	Kind OpKind
	Name string
	Off  int64
	Len  int
}

// Options shape a Disk. The zero value is a disk without limits with blocks of 4096 bytes.
type Options struct {
	Block              int   // of devices, in bytes; 0: 4096
	Depth              int   // of devices; 0: 4
	Capacity           int64 // limit on the bytes of all files together; 0: none
	NoRing, NoDirect   bool  // devices work without, and opening fails with ModeOn
	ForgetOnFailedSync bool  // Y5
}

// Disk is a simulated disk. It implements vfs.FS. Safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	wake    sync.Cond // on mu: crashed, or no longer hung
	opts    Options
	rng     *rand.Rand
	files   map[string]*inode // as shown now
	durable map[string]*inode // directory entries that survive a crash
	pending []entryOp         // changes of entries that are not durable, in order
	dirs    map[string]bool   // durable at once, as vfs.FS.MkdirAll requires
	fault   func(Op) error
	left    int // operations until the crash; negative: no crash is planned
	hung    bool
	tags    uint64 // the last tag of a device write
	ops     atomic.Int64
	crashed atomic.Bool // set under mu
}

// entryOp gives a name to an inode, or removes the name (node is nil), and removes the old name of a renamed inode.
type entryOp struct {
	name string
	node *inode
	from string // the old name of a rename; otherwise empty
}

var _ vfs.FS = (*Disk)(nil)

// New returns an empty disk.
func New(seed uint64, o Options) *Disk {
	if o.Block == 0 {
		o.Block = 4096
	}
	if o.Depth == 0 {
		o.Depth = 4
	}
	d := &Disk{opts: o, rng: rand.New(rand.NewPCG(seed, 0x5eed)), left: -1,
		files: map[string]*inode{}, durable: map[string]*inode{}, dirs: map[string]bool{"/": true, ".": true}}
	d.wake.L = &d.mu
	return d
}

// op counts an operation and returns its error. last reports that the disk crashes at this operation.
func (d *Disk) op(o Op) (last bool, err error) {
	if d.crashed.Load() {
		return false, ErrCrashed
	}
	d.ops.Add(1)
	if d.left > 0 {
		if d.left--; d.left == 0 {
			d.crashLocked()
			return true, ErrCrashed
		}
	}
	if d.fault != nil {
		return false, d.fault(o)
	}
	return false, nil
}

func (d *Disk) crashLocked() {
	d.crashed.Store(true)
	d.wake.Broadcast()
}

func apply(m map[string]*inode, e entryOp) {
	if e.node == nil {
		delete(m, e.name)
		return
	}
	delete(m, e.from)
	m[e.name] = e.node
}

func (d *Disk) change(e entryOp) {
	apply(d.files, e)
	d.pending = append(d.pending, e)
}

// MkdirAll is vfs.FS.MkdirAll.
func (d *Disk) MkdirAll(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed.Load() {
		return ErrCrashed
	}
	for dir = filepath.Clean(dir); !d.dirs[dir]; dir = filepath.Dir(dir) {
		if d.files[dir] != nil {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		d.dirs[dir] = true
	}
	return nil
}

// Open is vfs.FS.Open.
func (d *Disk) Open(name string, flag vfs.Flag) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	if d.dirs[name] {
		return nil, fmt.Errorf("open %s: not a regular file", name)
	}
	f := d.files[name]
	if f == nil && (flag&vfs.FlagCreate == 0 || flag&vfs.FlagWrite == 0 || !d.dirs[filepath.Dir(name)]) {
		if d.crashed.Load() {
			return nil, ErrCrashed
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if _, err := d.op(Op{Kind: OpOpen, Name: name}); err != nil {
		return nil, err
	}
	if f == nil {
		f = &inode{}
		d.change(entryOp{name: name, node: f})
	}
	if flag&vfs.FlagTrunc != 0 && flag&vfs.FlagWrite != 0 {
		f.resize(0)
	}
	return &file{d: d, name: name, f: f, write: flag&vfs.FlagWrite != 0}, nil
}

// Rename is vfs.FS.Rename.
func (d *Disk) Rename(oldname, newname string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	if _, err := d.op(Op{Kind: OpRename, Name: newname}); err != nil {
		return err
	}
	f := d.files[oldname]
	if f == nil {
		return &fs.PathError{Op: "rename", Path: oldname, Err: fs.ErrNotExist}
	}
	if filepath.Dir(oldname) != filepath.Dir(newname) {
		return &fs.PathError{Op: "rename", Path: oldname, Err: errors.ErrUnsupported}
	}
	d.change(entryOp{newname, f, oldname}) // one change: both names survive, or neither
	return nil
}

// Remove is vfs.FS.Remove.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	if _, err := d.op(Op{Kind: OpRemove, Name: name}); err != nil {
		return err
	}
	if d.dirs[name] {
		delete(d.dirs, name)
		return nil
	}
	if d.files[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	d.change(entryOp{name: name})
	return nil
}

// Abs implements vfs.FS. There is no working directory, so it only cleans the path.
func (d *Disk) Abs(name string) (string, error) { return filepath.Clean(name), nil }

// ReadDir is vfs.FS.ReadDir.
func (d *Disk) ReadDir(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir = filepath.Clean(dir)
	if d.crashed.Load() {
		return nil, ErrCrashed
	}
	if !d.dirs[dir] {
		return nil, &fs.PathError{Op: "readdir", Path: dir, Err: fs.ErrNotExist}
	}
	var names []string
	for name := range d.files {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir is vfs.FS.SyncDir.
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir = filepath.Clean(dir)
	if _, err := d.op(Op{Kind: OpSyncDir, Name: dir}); err != nil {
		return err
	}
	d.pending = slices.DeleteFunc(d.pending, func(e entryOp) bool {
		if filepath.Dir(e.name) != dir {
			return false
		}
		apply(d.durable, e)
		return true
	})
	return nil
}
