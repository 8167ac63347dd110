package simdisk

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"

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
	OpRemove // Dir.Remove and Dir.Unlink
	OpSyncDir
	OpRead
	OpMkdir // of Dir.Mkdir
	OpPunch
)

// String returns the name of the kind.
func (k OpKind) String() string {
	names := [...]string{"write", "device write", "sync", "allocate", "truncate", "open", "rename", "remove",
		"sync directory", "read", "mkdir", "punch"}
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
	Garbage            bool  // Y8
	NoClone            bool  // files cannot share their bytes
}

// Disk is a simulated disk. It implements vfs.FS. Safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	wake    sync.Cond // on mu: crashed, or no longer hung
	opts    Options
	rng     *rand.Rand
	root    *folder
	pending []entryOp // changes of entries that are not durable, in order
	inodes  uint64    // the last one
	fault   func(Op) error
	left    int // operations until the crash; negative: no crash is planned
	hung    bool
	stall   func(Op) bool // see HangAt
	stalls  int           // calls of HangAt
	hanging int           // operations that wait for the next one
	tags    uint64        // the last tag of a device write
	ops     atomic.Int64
	delay   atomic.Int64 // nanoseconds that each write and sync takes; set by tests, read before mu is locked
	crashed atomic.Bool  // set under mu
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
	d := &Disk{opts: o, rng: rand.New(rand.NewPCG(seed, 0x5eed)), left: -1}
	d.wake.L = &d.mu
	d.root = d.newFolder()
	return d
}

// op counts an operation and returns its error. last reports that the disk crashes at this operation.
func (d *Disk) op(o Op) (last bool, err error) {
	d.awaitStall(o)
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

// awaitStall lets an operation wait if HangAt says so.
func (d *Disk) awaitStall(o Op) {
	if d.stall == nil || d.crashed.Load() || !d.stall(o) {
		return
	}
	d.hanging++
	for n := d.stalls; n == d.stalls && !d.crashed.Load(); {
		d.wake.Wait()
	}
	d.hanging--
}

func (d *Disk) crashLocked() {
	d.crashed.Store(true)
	d.wake.Broadcast()
}

// Abs implements vfs.FS. There is no working directory, so it only cleans the path.
func (d *Disk) Abs(name string) (string, error) { return filepath.Clean(name), nil }

// MkdirAll is vfs.FS.MkdirAll.
func (d *Disk) MkdirAll(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed.Load() {
		return ErrCrashed
	}
	_, err := d.makeAll(dir)
	return err
}

// OpenDir is vfs.FS.OpenDir.
func (d *Disk) OpenDir(name string) (vfs.Dir, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed.Load() {
		return nil, ErrCrashed
	}
	name = filepath.Clean(name)
	f, err := d.folder("open", name)
	if err != nil {
		return nil, err
	}
	return &dir{d: d, f: f, path: name}, nil
}
