package iobuf

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// heldDevice holds writes back until it is told to complete them, and its Park returns for Unpark only.
type heldDevice struct {
	*memDevice
	held     []vfs.Write // guarded by the lead
	holds    atomic.Bool // Do completes nothing
	started  atomic.Int64
	unpark   chan struct{} // room for one
	unparked atomic.Int64  // calls of Unpark
	parked   atomic.Int64  // goroutines in Park
	parks    atomic.Int64  // calls of Park
	beside   func()        // if set, Do calls it while a goroutine is in Park
}

func (d *heldDevice) Do(writes []vfs.Write, need int, dst []vfs.Completion) ([]vfs.Completion, error) {
	if d.beside != nil && d.parked.Load() > 0 {
		d.beside()
	}
	d.held = append(d.held, writes...)
	d.started.Add(int64(len(writes)))
	if need == 0 && d.holds.Load() {
		return dst, nil
	}
	writes, d.held = d.held, nil
	return d.memDevice.Do(writes, len(writes), dst)
}

func (d *heldDevice) Park() bool {
	d.parks.Add(1)
	d.parked.Add(1)
	defer d.parked.Add(-1)
	<-d.unpark
	return true
}

func (d *heldDevice) Unpark() {
	d.unparked.Add(1)
	select {
	case d.unpark <- struct{}{}:
	default:
	}
}

// newHeldRig returns a log whose leader is parked with one write in flight.
func newHeldRig(t *testing.T) (*rig, *heldDevice) {
	d := &heldDevice{unpark: make(chan struct{}, 1)}
	d.holds.Store(true)
	wrap := func(m *memDevice) vfs.Device { d.memDevice = m; return d }
	r := newRig(t, setup{buffers: 4, markAfter: time.Hour, wrap: wrap})
	r.fillTo(r.seg/2 + 100) // the header takes the first chunk, and is written with the second
	r.within("the leader parks", func() bool { return d.parked.Load() == 1 })
	return r, d
}

// fillTo puts messages until the log has n bytes.
func (r *rig) fillTo(n int) {
	for r.Tail() < format.LSN(n) {
		if _, err := r.put(format.KindData, 0, body(100, 1)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// A writer that has filled a chunk starts its write, and takes the completions, while the leader is parked. It does so
// itself: nothing waits for the leader to come back. A leader for which nothing is left to wait for is woken.
func TestWriterLeadsWhileLeaderIsParked(t *testing.T) {
	r, d := newHeldRig(t)
	before := d.started.Load()
	r.fillTo(3*r.seg/4 + 400)
	if d.started.Load() == before {
		t.Error("a full chunk waits for the leader")
	}
	before = d.started.Load()
	r.fillTo(r.seg + 400)
	if d.started.Load() == before {
		t.Error("the rest of a segment waits for the leader")
	}
	if n := d.parked.Load(); n != 1 || r.DurableEnd() != 0 {
		t.Errorf("%d goroutines are parked, and the log is durable to %d", n, r.DurableEnd())
	}
	d.holds.Store(false)
	r.fillTo(2*r.seg + 400)
	if int(r.DurableEnd()) < r.seg {
		t.Errorf("durable to %d: completions wait for the leader", r.DurableEnd())
	}
	r.untilIdle()
	if d.unparked.Load() == 0 {
		t.Error("the leader was not woken")
	}
	if _, err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A leader that comes back while a writer leads for it waits until the writer has ended its turn.
func TestLeaderWaitsForWriterThatLeads(t *testing.T) {
	r, d := newHeldRig(t)
	turns := 0
	d.beside = func() {
		turns++
		d.Unpark()
		for d.parked.Load() > 0 {
			runtime.Gosched()
		}
		for range 1000 {
			runtime.Gosched() // until it waits
		}
		d.holds.Store(false)
	}
	r.fillTo(2*r.seg + 400)
	r.untilIdle()
	if turns == 0 {
		t.Error("no writer has led for the leader")
	}
	if _, err := r.Close(); err != nil {
		t.Error(err)
	}
}

// If the device breaks in the turn of a writer, the log fails, and the leader ends.
func TestDeviceBreaksWhileWriterLeads(t *testing.T) {
	r, d := newHeldRig(t)
	d.holds.Store(false)
	d.locked(func(d *memDevice) { d.broken = syscall.EIO })
	var err error
	for end := r.Tail() + format.LSN(r.seg); err == nil && r.Tail() < end; {
		_, err = r.put(format.KindData, 0, body(100, 1))
	}
	if !isEIO(err) {
		t.Errorf("a write returns %v", err)
	}
	if _, err := r.Close(); !isEIO(err) {
		t.Errorf("Close returns %v", err)
	}
}

// A writer that leads zeroes nothing: that waits for the disk, and the writer may hold locks.
func TestWriterThatLeadsZeroesNothing(t *testing.T) {
	blank, helping := 0, atomic.Bool{}
	d := &heldDevice{unpark: make(chan struct{}, 1)}
	d.holds.Store(true)
	zeroed := func(*memDevice) {
		if helping.Load() {
			t.Error("a writer zeroes")
		}
	}
	wrap := func(m *memDevice) vfs.Device { d.memDevice = m; return d }
	r := newRig(t, setup{buffers: 4, markAfter: time.Hour, blank: &blank, zero: zeroed, wrap: wrap})
	r.fillTo(r.seg/2 + 100)
	r.within("the leader parks", func() bool { return d.parked.Load() == 1 })
	helping.Store(true)
	r.fillTo(2*r.seg + 400)
	if d.started.Load() < 4 {
		t.Error("no writer has led")
	}
	helping.Store(false)
	d.holds.Store(false)
	d.Unpark()
	if _, err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A goroutine that waits for the log brings a parked leader back: while one waits, the leader waits in the kernel.
func TestWaiterEndsPark(t *testing.T) {
	r, d := newHeldRig(t)
	lsn := r.Tail() - 1
	if err := r.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	if d.unparked.Load() == 0 {
		t.Error("the leader was not woken")
	}
	if _, err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A leader is woken if a goroutine has begun to wait for the log while a writer led for it.
func TestWaiterWakesLeaderWhoseLeadWasLent(t *testing.T) {
	r, d := newHeldRig(t)
	done := make(chan error, 1)
	waits := false
	d.beside = func() {
		if waits {
			return
		}
		waits = true
		go func() { done <- r.MakeStable(r.Tail() - 8) }()
		r.within("a goroutine waits", func() bool {
			r.state.mu.Lock()
			defer r.state.mu.Unlock()
			return len(r.state.waiters) > 0
		})
	}
	r.fillTo(3*r.seg/4 + 400)
	r.within("the leader is woken", func() bool { return d.unparked.Load() > 0 })
	d.holds.Store(false)
	d.Unpark()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := r.Close(); err != nil {
		t.Error(err)
	}
}

// While the writes of a log that has stopped are in flight, its leader waits, also if a chunk was filled.
func TestStoppedLogWaitsForItsWrites(t *testing.T) {
	r, d := newHeldRig(t)
	r.chunkFilled.Store(true) // as the owner of a reservation does, as the log stops
	r.fail(syscall.EIO)
	d.Unpark()
	r.within("the leader waits again", func() bool { return d.parks.Load() > 1 })
	d.holds.Store(false)
	d.Unpark()
	if _, err := r.Close(); err == nil {
		t.Error("Close of a log that has stopped returned nil")
	}
}
