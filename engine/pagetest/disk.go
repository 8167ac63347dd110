package pagetest

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// ErrCrashed is the cause of every error after the disk has crashed.
var ErrCrashed = simdisk.ErrCrashed

// Disk is a simulated disk with a file system, in memory. Several stores, and one after another, can use it. It keeps
// what was written and what is durable apart:
//
//   - A write is durable once the call that waits for it has returned. Until then, a crash may keep it, lose it, or
//     tear it by sectors of 512 bytes, independently of other writes.
//   - Files that were made, renamed or removed survive a crash in that order, up to some point. Everything before the
//     last sync of the directory survives.
//
// All methods are safe for concurrent use.
type Disk struct {
	sim     *simdisk.Disk
	seed    uint64
	crashes atomic.Uint64 // outcomes that Crash has drawn
}

// NewDisk returns an empty disk. The same seed and the same calls in the same order give the same disk.
func NewDisk(seed uint64) *Disk { return &Disk{sim: simdisk.New(seed, simdisk.Options{}), seed: seed} }

// Options returns a copy of o, with which Open, OpenLog, Check and Salvage work on this disk; nil stands for the
// defaults. The directory is any absolute path, such as "/db". It is made by Open. Options.Temporary needs one, too.
//
// A store on a Disk starts no work of its own, so that a test can repeat what it did: only calls clean (AttemptGC),
// write snapshots (Snapshot) and evict. The one exception is the flush after Options.FlushEvery; a negative number
// excludes it, too.
func (d *Disk) Options(o *engine.Options) *engine.Options {
	c := engine.Options{}
	if o != nil {
		c = *o
	}
	seam.Set(&c, seam.Options{FS: d.sim})
	return &c
}

// Crash cuts the power, if it is still on, and returns the disk after the restart, without faults and delays. The
// stores that are open fail with ErrCrashed; close them. What survives of the writes that were not durable is drawn
// anew by each call: calling Crash again gives another outcome of the same crash.
func (d *Disk) Crash() *Disk {
	seed := d.seed*0x9e3779b97f4a7c15 + d.crashes.Add(1)
	return &Disk{sim: d.sim.Crash(seed), seed: seed}
}

// CrashAfter cuts the power at the n-th operation from now on, n ≥ 1. Crash then returns the disk after the restart.
func (d *Disk) CrashAfter(n int) { d.sim.CrashAfter(n) }

// Crashed reports whether the power was cut, by CrashAfter or Crash.
func (d *Disk) Crashed() bool { return d.sim.Crashed() }

// Ops returns the number of operations so far, reads not included. A test that crashes after each of them in turn, as
// the example in docs/TESTING-YOUR-DATABASE.md does, leaves no moment out.
func (d *Disk) Ops() int { return d.sim.Ops() }

// Kind is a kind of operation.
type Kind int

// The kinds of operation.
const (
	KindWrite   Kind = iota + 1 // a write to a file
	KindSync                    // a sync of a file or directory
	KindRead                    // a read of a file, but not one through a memory map
	KindSpace                   // taking space for a file, giving it back, or changing its length
	KindEntries                 // opening, making, renaming or removing a file or directory
)

// String returns the name of the kind.
func (k Kind) String() string {
	if names := [...]string{"write", "sync", "read", "space", "entries"}; k >= 1 && int(k) <= len(names) {
		return names[k-1]
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// kinds has the kind of each operation of the simulated disk.
var kinds = map[simdisk.OpKind]Kind{
	simdisk.OpWrite: KindWrite, simdisk.OpDeviceWrite: KindWrite, simdisk.OpSync: KindSync,
	simdisk.OpSyncDir: KindSync, simdisk.OpRead: KindRead, simdisk.OpAllocate: KindSpace,
	simdisk.OpTruncate: KindSpace, simdisk.OpPunch: KindSpace, simdisk.OpOpen: KindEntries,
	simdisk.OpRename: KindEntries, simdisk.OpRemove: KindEntries, simdisk.OpMkdir: KindEntries,
}

// Op is an operation of a store on a Disk.
type Op struct {
	Kind Kind
	Path string // of the file or directory
	Off  int64  // in bytes; 0 if the kind has no place
	Len  int    // in bytes; 0 if the kind has no length
}

// Fault is what goes wrong with an operation.
type Fault int

// The faults. The last three are lies: the disk acknowledges the write. A lie about a sync makes nothing durable. A
// store cannot know of a lie; it notices the missing bytes when it reads them, with ErrCorrupt, or not at all if a
// lie is followed by a crash.
const (
	FaultNone        Fault = iota
	FaultError             // the operation fails with EIO; a write may have been made
	FaultFull              // the operation fails with ENOSPC
	FaultTorn              // of the write, some sectors are written and some are not
	FaultLost              // the write is not made
	FaultMisdirected       // the write is made at another place of the same file
)

// String returns the name of the fault.
func (f Fault) String() string {
	names := [...]string{"none", "error", "full", "torn", "lost", "misdirected"}
	if f >= 0 && int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("Fault(%d)", int(f))
}

// faultErrors has the error of the simulated disk for each fault.
var faultErrors = map[Fault]error{
	FaultError: syscall.EIO, FaultFull: syscall.ENOSPC, FaultTorn: simdisk.ErrTear, FaultLost: simdisk.ErrLose,
	FaultMisdirected: simdisk.ErrMisdirect,
}

// SetFaults makes the disk ask decide before each operation what goes wrong with it. A nil decide ends all faults. The
// lies count as FaultError for operations other than writes and syncs. decide is called by one goroutine at a time,
// must not call the Disk, and replaces the one before.
func (d *Disk) SetFaults(decide func(Op) Fault) {
	if decide == nil {
		d.sim.SetFault(nil)
		return
	}
	d.sim.SetFault(func(o simdisk.Op) error {
		op := opOf(o)
		f := decide(op)
		if f >= FaultTorn && op.Kind != KindWrite && op.Kind != KindSync {
			f = FaultError
		}
		return faultErrors[f]
	})
}

func opOf(o simdisk.Op) Op { return Op{Kind: kinds[o.Kind], Path: o.Name, Off: o.Off, Len: o.Len} }

// SetCapacity limits the bytes of all files together; 0 means no limit. Operations that need more fail with ENOSPC, as
// on a full disk. The limit may be below what is in use, and survives a crash.
func (d *Disk) SetCapacity(bytes int64) { d.sim.SetCapacity(bytes) }

// SetDelay makes each write and each sync take that long, in the time of package time; 0 ends it.
func (d *Disk) SetDelay(delay time.Duration) { d.sim.SetDelay(delay) }

// Hang makes writes to logs wait until Resume is called or the disk crashes.
func (d *Disk) Hang() { d.sim.Hang(true) }

// Resume ends Hang and HangAt.
func (d *Disk) Resume() {
	d.sim.HangAt(nil)
	d.sim.Hang(false)
}

// HangAt makes the operations wait for which hangs returns true, of every kind, until the next call of HangAt or Resume
// or until the disk crashes; all others go on. hangs is called by one goroutine at a time and must not call the Disk.
func (d *Disk) HangAt(hangs func(Op) bool) {
	if hangs == nil {
		d.sim.HangAt(nil)
		return
	}
	d.sim.HangAt(func(o simdisk.Op) bool { return hangs(opOf(o)) })
}

// Hanging returns the number of operations that wait because of HangAt.
func (d *Disk) Hanging() int { return d.sim.Hanging() }

// Files returns the length in bytes of each file, by path.
func (d *Disk) Files() map[string]int64 { return d.sim.Sizes() }

// SetUnreadable makes the disk return EIO for each read that touches bytes [off, off+n) of a file, until they are
// written again, crashes included; n 0 makes the whole file readable again. It panics if there is no such file.
func (d *Disk) SetUnreadable(path string, off, n int64) {
	d.mustHave(path)
	d.sim.SetUnreadable(path, off, n)
}

// FlipBit flips a bit of a file, as a disk does that rots. It panics if there is no such file.
func (d *Disk) FlipBit(path string, off int64, bit uint) {
	d.mustHave(path)
	d.sim.FlipBit(path, off, bit)
}

func (d *Disk) mustHave(path string) {
	if _, ok := d.sim.Sizes()[path]; !ok {
		panic(fmt.Sprintf("pagetest: the disk has no file %q; see Files", path))
	}
}
