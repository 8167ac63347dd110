package simdisk

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"
)

// The methods below are for tests: they plan faults and crashes, and look at or change files behind the file system.

// Ops returns the number of operations so far.
func (d *Disk) Ops() int { return int(d.ops.Load()) }

// CrashAfter makes the disk crash at the n-th operation from now on. That operation stays pending or is not done, and
// every later call fails with ErrCrashed.
func (d *Disk) CrashAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = n
}

// Crashed reports whether the disk has crashed.
func (d *Disk) Crashed() bool { return d.crashed.Load() }

// SetFault makes the disk call f before each operation. If f returns an error, the operation fails with it, and its
// effect is undefined.
func (d *Disk) SetFault(f func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// FailFrom lets operations of a kind fail with err, from the n-th on. If err is nil, none fails. It replaces the
// function of SetFault.
func (d *Disk) FailFrom(kind OpKind, n int, err error) {
	var mu sync.Mutex
	d.SetFault(func(o Op) error {
		mu.Lock()
		defer mu.Unlock()
		if o.Kind != kind || err == nil {
			return nil
		}
		if n--; n > 0 {
			return nil
		}
		return err
	})
}

// SetCapacity changes the limit on the bytes of all files; 0: none.
func (d *Disk) SetCapacity(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.Capacity = n
}

// Hang stops devices from completing writes, or lets them go on.
func (d *Disk) Hang(hung bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hung = hung
	d.wake.Broadcast()
}

// HangAt makes the operations hang of which f says so, until the next call of HangAt, or a crash. All others go on. If
// f is nil, none hangs.
func (d *Disk) HangAt(f func(Op) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stall = f
	d.stalls++
	d.wake.Broadcast()
}

// Hanging returns the number of operations that hang because of HangAt.
func (d *Disk) Hanging() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hanging
}

// SetDelay makes each write and each sync take d. Writes that are given to a device together take it once.
func (d *Disk) SetDelay(delay time.Duration) { d.delay.Store(int64(delay)) }

// rest waits as long as SetDelay says. The caller does not hold mu.
func (d *Disk) rest() {
	if delay := d.delay.Load(); delay > 0 {
		time.Sleep(time.Duration(delay))
	}
}

// Sizes returns the sizes of all files in bytes, by path.
func (d *Disk) Sizes() map[string]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := map[string]int64{}
	d.root.files(shown, "/", func(name string, f *inode) { m[name] = f.now.size })
	return m
}

// Crash crashes the disk and returns the disk after the restart. seed decides which pending changes survive.
func (d *Disk) Crash(seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashLocked()
	rng := rand.New(rand.NewPCG(seed, 0xc4a5))
	entries := d.survivors(rng.IntN(len(d.pending) + 1))
	return d.restart(seed, entries, func(f *inode) content { return f.crash(rng, d.opts.Garbage) })
}

// ReadDurable returns the contents of a file after a crash in which no pending change survives; nil if the file would
// not exist.
func (d *Disk) ReadDurable(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, _ := d.lookup(filepath.Clean(name), durable).(*inode)
	if f == nil {
		return nil
	}
	return f.durable.read(make([]byte, f.durable.size), 0)
}

// WriteFile creates or replaces a file with durable contents, and makes its directory. It does not count as an
// operation.
func (d *Disk) WriteFile(name string, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	in, err := d.makeAll(filepath.Dir(filepath.Clean(name)))
	if err != nil {
		panic(err)
	}
	f := d.newInode()
	for _, c := range []*content{&f.now, &f.durable} {
		c.size = int64(len(b))
		c.write(b, 0)
	}
	in.now[filepath.Base(name)], in.durable[filepath.Base(name)] = f, f
}

// FlipBit flips a bit of a file, on the disk and in the cache.
func (d *Disk) FlipBit(name string, off int64, bit uint) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.lookup(filepath.Clean(name), shown).(*inode)
	for _, c := range []*content{&f.now, &f.durable} {
		if off < c.size {
			b := c.read(make([]byte, 1), off)
			b[0] ^= 1 << (bit & 7)
			c.write(b, off)
		}
	}
}

// Alter overwrites bytes of a file, on the disk and in the cache, and returns a function that puts back what was there.
// Nothing may write to the file in between.
func (d *Disk) Alter(name string, off int64, b []byte) (undo func()) {
	old := d.swapBytes(name, off, b, b)
	return func() { d.swapBytes(name, off, old[0], old[1]) }
}

// swapBytes writes now and durable to the two contents of a file, and returns the bytes that were there.
func (d *Disk) swapBytes(name string, off int64, now, durable []byte) (old [2][]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.lookup(filepath.Clean(name), shown).(*inode)
	for i, c := range []*content{&f.now, &f.durable} {
		b := [][]byte{now, durable}[i]
		old[i] = c.read(make([]byte, len(b)), off)
		c.write(b, off)
	}
	return old
}

// Cut makes a file end at size, on the disk and in the cache, and returns a function that puts back what was there.
// Nothing may write to the file in between.
func (d *Disk) Cut(name string, size int64) (undo func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.lookup(filepath.Clean(name), shown).(*inode)
	now, durable := f.now.size, f.durable.size
	f.now.size, f.durable.size = min(now, size), min(durable, size)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		f.now.size, f.durable.size = now, durable
	}
}

// SetUnreadable makes the sectors of a file that bytes [off, off+n) lie in unreadable, on the disk and in the cache,
// until they are written again. n 0 makes the whole file readable again.
func (d *Disk) SetUnreadable(name string, off, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.lookup(filepath.Clean(name), shown).(*inode)
	if n == 0 {
		f.bad = nil
		return
	}
	if f.bad == nil {
		f.bad = map[int64]bool{}
	}
	for s := off / sectorSize; s*sectorSize < off+n; s++ {
		f.bad[s] = true
	}
}

// LeaveGarbage makes crashes leave garbage in torn sectors, as Options.Garbage does.
func (d *Disk) LeaveGarbage() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.Garbage = true
}

// Copy returns a disk with the same durable contents.
func (d *Disk) Copy() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.restart(1, durable, func(f *inode) content { return f.durable.clone() })
}
