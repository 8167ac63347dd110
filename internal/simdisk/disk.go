package simdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"pagecache/internal/vfs"
)

// ErrCrashed is what everything returns once the disk has crashed.
var ErrCrashed = errors.New("simulated disk has crashed")

// Kind is a kind of operation, for faults.
type Kind int

// The kinds of operation.
const (
	OpWrite       Kind = iota // WriteAt
	OpDeviceWrite             // a write of a Device
	OpSync
	OpAllocate
	OpTruncate
	OpOpen
	OpRename
	OpRemove
	OpSyncDir
	OpRead
)

// Op is an operation that is about to be done.
type Op struct {
	Kind Kind
	Name string
	Off  int64
	Len  int
}

// Options shape a Disk. The zero value is a disk without limits with blocks of 4096 bytes.
type Options struct {
	Block              int   // of devices, in bytes; 0: 4096
	Depth              int   // of devices; 0: 4
	Capacity           int64 // bytes that all files together may have; 0: no limit
	NoRing, NoDirect   bool  // what devices report, and refuse if it is insisted on
	ForgetOnFailedSync bool  // S5
}

// Disk is a simulated disk. It implements vfs.FS. Safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	wake    sync.Cond // on mu: crashed, or no longer hung
	opts    Options
	rng     *rand.Rand
	files   map[string]*inode // as seen now
	durable map[string]*inode // directory entries that a crash cannot take
	pending []entryOp         // changes of entries that are not durable, in order
	dirs    map[string]bool   // durable at once, as vfs.FS.MkdirAll promises
	fault   func(Op) error
	left    int // operations until the crash; below 0: none planned
	hung    bool
	tags    uint64 // of device writes, handed out
	ops     atomic.Int64
	crashed atomic.Bool // set under mu
}

// entryOp puts a name to an inode, or removes it (nil), and removes the name that the inode had.
type entryOp struct {
	name string
	node *inode
	from string // of a rename, else empty
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
	d := &Disk{opts: o, rng: rand.New(rand.NewPCG(seed, 0x5eed)), files: map[string]*inode{}, durable: map[string]*inode{},
		dirs: map[string]bool{"/": true, ".": true}, left: -1}
	d.wake.L = &d.mu
	return d
}

// Ops is how many operations have been done.
func (d *Disk) Ops() int { return int(d.ops.Load()) }

// CrashAfter makes the disk crash at the n-th operation from now on: that one is left pending, or not done, and everything
// from then on fails with ErrCrashed.
func (d *Disk) CrashAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = n
}

// Crashed reports whether the disk has crashed.
func (d *Disk) Crashed() bool { return d.crashed.Load() }

// SetFault has f asked before each operation: its error, if any, is the operation's, which then has an effect that is not known.
func (d *Disk) SetFault(f func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// SetCapacity changes the limit on the bytes of all files; 0: none.
func (d *Disk) SetCapacity(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.Capacity = n
}

// Hang makes devices stop to complete, or go on.
func (d *Disk) Hang(hung bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hung = hung
	d.wake.Broadcast()
}

// op counts an operation. A returned error is its outcome; left tells that it is the one at which the disk crashes.
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

// Crash crashes the disk and returns what is found after the restart; seed decides what of the pending survives.
func (d *Disk) Crash(seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashLocked()
	n := New(seed, d.opts)
	rng := rand.New(rand.NewPCG(seed, 0xc4a5))
	maps.Copy(n.dirs, d.dirs)
	entries := maps.Clone(d.durable)
	for _, e := range d.pending[:rng.IntN(len(d.pending)+1)] {
		apply(entries, e)
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		f := entries[name].crash(rng)
		n.files[name], n.durable[name] = f, f
	}
	return n
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
	d.change(entryOp{newname, f, oldname}) // one entry of the journal: both sides survive, or neither
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

// ReadDurable returns what a file would hold after a crash now in which nothing pending survives; nil if it would not exist.
func (d *Disk) ReadDurable(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.durable[filepath.Clean(name)]
	if f == nil {
		return nil
	}
	return f.durable.read(make([]byte, f.durable.size), 0)
}

// WriteFile makes a file durable with the given contents, or changes it, without counting as an operation.
func (d *Disk) WriteFile(name string, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	f := &inode{}
	for _, c := range []*content{&f.now, &f.durable} {
		c.size = int64(len(b))
		c.write(b, 0)
	}
	d.files[name], d.durable[name] = f, f
}

// FlipBit flips a bit of a file, on the medium and in the cache.
func (d *Disk) FlipBit(name string, off int64, bit uint) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[filepath.Clean(name)]
	for _, c := range []*content{&f.now, &f.durable} {
		if off < c.size {
			b := c.read(make([]byte, 1), off)
			b[0] ^= 1 << (bit & 7)
			c.write(b, off)
		}
	}
}

// Copy returns a disk with the same durable contents.
func (d *Disk) Copy() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := New(1, d.opts)
	maps.Copy(n.dirs, d.dirs)
	for name, f := range d.durable {
		c := &inode{now: f.durable.clone(), durable: f.durable.clone()}
		n.files[name], n.durable[name] = c, c
	}
	return n
}
