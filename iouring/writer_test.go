//go:build linux

package iouring

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeQueue writes into memory, completes in random order, and lets a test choose the result of each write.
type fakeQueue struct {
	file    []byte
	rng     *rand.Rand
	pushed  []call
	landing []call
	ready   []call
	take    func(x call) int32 // returns the result of a write; nil: all of it
	refuse  error              // the error of Enter
	lose    bool               // after the error nothing completes
	closed  bool
}

func newFakeQueue(size int) *fakeQueue {
	return &fakeQueue{file: make([]byte, size), rng: rand.New(rand.NewPCG(3, 4))}
}

func (q *fakeQueue) Push(id uint64, off int64, buf []byte) {
	q.pushed = append(q.pushed, call{id: id, off: off, buf: buf})
}

func (q *fakeQueue) Pending() bool { return len(q.pushed) > 0 }

func (q *fakeQueue) Enter(need int) error {
	if q.refuse != nil {
		if !q.lose {
			q.land(len(q.landing))
		}
		return q.refuse
	}
	q.landing = append(q.landing, q.pushed...)
	q.pushed = nil
	q.rng.Shuffle(len(q.landing), func(i, j int) { q.landing[i], q.landing[j] = q.landing[j], q.landing[i] })
	if need > len(q.landing)+len(q.ready) {
		panic("waits for more than is in flight")
	}
	q.land(max(0, need-len(q.ready)))
	return nil
}

func (q *fakeQueue) land(n int) {
	for _, x := range q.landing[:n] {
		x.res = int32(len(x.buf))
		if q.take != nil {
			x.res = q.take(x)
		}
		if x.res > 0 {
			copy(q.file[x.off:], x.buf[:x.res])
		}
		q.ready = append(q.ready, x)
	}
	q.landing = q.landing[n:]
}

func (q *fakeQueue) Pop() (uint64, int32, bool) {
	if len(q.ready) == 0 {
		return 0, 0, false
	}
	x := q.ready[0]
	q.ready = q.ready[1:]
	return x.id, x.res, true
}

// Await waits as if nothing else happened in the meantime.
func (q *fakeQueue) Await(limit time.Duration) error {
	if q.refuse == nil {
		q.land(min(1, len(q.landing)))
	}
	if len(q.ready) > 0 {
		return nil
	}
	time.Sleep(limit)
	return os.ErrDeadlineExceeded
}

func (q *fakeQueue) Close() error { q.closed = true; return nil }

// fakeWriter returns a Writer over q that continues short writes at multiples of unit.
func fakeWriter(q queue, unit, depth int) *Writer {
	w := newWriter(q, nil, 4096, depth)
	w.unit, w.pause, w.drainLimit = unit, 0, 50*time.Millisecond
	return w
}

// Short, interrupted and reordered writes are finished: the file holds what was written, and each tag completes once.
// Proves W2 and trap 12: a short write is finished before it completes.
func TestShortWrites(t *testing.T) {
	for _, unit := range []int{1, 4096} {
		const size = 1 << 20
		q := newFakeQueue(size)
		q.take = func(x call) int32 {
			if int(x.off)%unit != 0 || len(x.buf)%unit != 0 {
				t.Fatalf("unit %d: write of %d bytes at %d", unit, len(x.buf), x.off)
			}
			switch q.rng.IntN(4) {
			case 0:
				return -int32(unix.EINTR)
			case 1:
				return -int32(unix.EAGAIN)
			case 2:
				if unit == 1 || len(x.buf) > 4096 {
					return int32(max(unit, 1+q.rng.IntN(len(x.buf))))
				}
			}
			return int32(len(x.buf))
		}
		w := fakeWriter(q, unit, 4)
		buf := memory(t, size)
		landed := map[uint64]bool{}
		for off, inFlight := 0, 0; off < size || inFlight > 0; {
			var writes []Write
			for inFlight+len(writes) < 4 && off < size {
				n := min((1+q.rng.IntN(8))*4096, size-off)
				writes = append(writes, Write{Off: int64(off), Buf: buf[off : off+n], Tag: uint64(off)})
				off += n
			}
			inFlight += len(writes)
			comps, err := w.Do(writes, 1, nil)
			if err != nil || len(comps) == 0 {
				t.Fatal(comps, err)
			}
			for _, c := range comps {
				if c.Err != nil || landed[c.Tag] {
					t.Fatalf("completion %+v", c)
				}
				landed[c.Tag] = true
			}
			inFlight -= len(comps)
		}
		if !bytes.Equal(q.file, buf) {
			t.Errorf("unit %d: the file does not hold what was written", unit)
		}
	}
}

// With O_DIRECT, a block of which only a part was written is written again as a whole.
func TestShortWithinBlock(t *testing.T) {
	q := newFakeQueue(1 << 16)
	var seen []int64
	q.take = func(x call) int32 {
		seen = append(seen, x.off)
		switch len(seen) {
		case 1:
			return 4096 + 512
		case 2:
			return 1024
		}
		return int32(len(x.buf))
	}
	buf := memory(t, 4*4096)
	do(t, fakeWriter(q, 4096, 2), Write{Off: 8192, Buf: buf})
	same := bytes.Equal(q.file[8192:8192+len(buf)], buf)
	if !same || len(seen) != 3 || seen[0] != 8192 || seen[1] != 8192+4096 || seen[2] != 8192+4096 {
		t.Errorf("written at %v", seen)
	}
}

// A write without progress ends with the error of its last try.
func TestWriteWithoutProgress(t *testing.T) {
	for want, res := range map[error]int32{unix.EAGAIN: -int32(unix.EAGAIN), io.ErrShortWrite: 512} {
		q := newFakeQueue(4096)
		n := 0
		q.take = func(call) int32 { n++; return res }
		w := fakeWriter(q, 4096, 2)
		comps, err := w.Do([]Write{{Buf: memory(t, 4096), Tag: 5}}, 1, nil)
		if err != nil || len(comps) != 1 || comps[0].Tag != 5 || !errors.Is(comps[0].Err, want) {
			t.Errorf("%v, %v after %d tries, want %v", comps, err, n, want)
		}
	}
}

// A failed write is reported once, with its errno, and the others succeed. Proves trap 10 as far as the device goes: an
// error ends the wait.
func TestFailedWriteReported(t *testing.T) {
	for _, e := range []unix.Errno{unix.EIO, unix.ENOSPC, unix.EROFS, unix.ECANCELED, unix.EFAULT} {
		q := newFakeQueue(1 << 16)
		q.take = func(x call) int32 {
			if x.off == 4096 {
				return -int32(e)
			}
			return int32(len(x.buf))
		}
		w := fakeWriter(q, 4096, 4)
		buf := memory(t, 3*4096)
		comps, err := w.Do([]Write{{Off: 0, Buf: buf[:4096]}, {Off: 4096, Buf: buf[4096:8192], Tag: 1},
			{Off: 8192, Buf: buf[8192:], Tag: 2}}, 3, nil)
		if err != nil || len(comps) != 3 {
			t.Fatal(comps, err)
		}
		for _, c := range comps {
			if (c.Err != nil) != (c.Tag == 1) || c.Tag == 1 && !errors.Is(c.Err, e) {
				t.Errorf("%v: completion %+v", e, c)
			}
		}
	}
}

// If the queue fails, this and every later Do returns the error, and Close still waits for the writes in flight, before
// the caller frees their memory.
func TestQueueFails(t *testing.T) {
	for _, lose := range []bool{false, true} {
		q := newFakeQueue(1 << 16)
		w := fakeWriter(q, 4096, 4)
		buf := memory(t, 4096)
		if comps, err := w.Do([]Write{{Buf: buf, Tag: 1}}, 0, nil); err != nil || len(comps) != 0 {
			t.Fatal(comps, err)
		}
		q.refuse, q.lose = unix.EBADF, lose
		comps, err := w.Do(nil, 1, nil)
		if !errors.Is(err, unix.EBADF) || len(comps) == 1 == lose {
			t.Fatal(comps, err)
		}
		if _, err := w.Do([]Write{{Buf: buf}}, 1, nil); !errors.Is(err, unix.EBADF) {
			t.Errorf("a write to a failed queue: %v", err)
		}
		err = w.Close()
		if (err != nil) != lose || !q.closed {
			t.Errorf("close: %v", err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	}
}

// Close reports writes that fail while it waits.
func TestCloseReportsFailedWrites(t *testing.T) {
	q := newFakeQueue(1 << 16)
	q.take = func(call) int32 { return -int32(unix.EIO) }
	w := fakeWriter(q, 4096, 4)
	if _, err := w.Do([]Write{{Buf: memory(t, 4096)}}, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, unix.EIO) {
		t.Errorf("close: %v", err)
	}
}

// Without RWF_DSYNC each write is followed by a sync, and the write fails if either fails. Proves trap 12.
func TestWithoutDsync(t *testing.T) {
	for _, missing := range []unix.Errno{unix.EOPNOTSUPP, unix.ENOSYS} {
		var log []string
		var writeErr, syncErr error
		c := newCalls(-1, 4)
		c.pwritev = func(int, []byte, int64) (int, unix.Errno) { log = append(log, "pwritev2"); return -1, missing }
		c.pwrite = func(_ int, b []byte, _ int64) (int, error) {
			log = append(log, "pwrite")
			if writeErr != nil {
				return -1, writeErr
			}
			return min(len(b), 4096), nil
		}
		c.sync = func(int) error {
			log = append(log, "sync")
			err := syncErr
			if errors.Is(err, unix.EINTR) {
				syncErr = nil
			}
			return err
		}
		w := fakeWriter(c, 4096, 4)
		one := func(n int) error {
			log = nil
			comps, err := w.Do([]Write{{Buf: memory(t, n)}}, 1, nil)
			if err != nil || len(comps) != 1 {
				t.Fatal(comps, err)
			}
			return comps[0].Err
		}
		expect := func(err, want error, calls ...string) {
			t.Helper()
			if !errors.Is(err, want) || len(log) != len(calls) {
				t.Fatalf("%v after %v, want %v after %v", err, log, want, calls)
			}
			for i := range calls {
				if log[i] != calls[i] {
					t.Fatalf("%v, want %v", log, calls)
				}
			}
		}
		expect(one(4096), nil, "pwritev2", "pwrite", "sync")
		expect(one(8192), nil, "pwrite", "sync", "pwrite", "sync")
		syncErr = unix.EINTR
		expect(one(4096), nil, "pwrite", "sync", "pwrite", "sync")
		syncErr = unix.EIO
		expect(one(4096), unix.EIO, "pwrite", "sync")
		syncErr = errors.New("no errno")
		expect(one(4096), unix.EIO, "pwrite", "sync")
		syncErr, writeErr = nil, unix.ENOSPC
		expect(one(4096), unix.ENOSPC, "pwrite")
	}
}

// hungQueue is the queue of a disk that does not answer, and keeps goroutines that wait for it in the kernel.
type hungQueue struct{ *fakeQueue }

func (q hungQueue) Enter(need int) error {
	q.pushed = nil
	if need > 0 {
		select {}
	}
	return nil
}

// Close ends in bounded time although the disk does not answer, and says that writes are in flight.
func TestCloseEndsWhileDiskHangs(t *testing.T) {
	w := fakeWriter(hungQueue{newFakeQueue(1 << 16)}, 4096, 2)
	if _, err := w.Do([]Write{{Buf: make([]byte, 4096)}}, 0, nil); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- w.Close() }()
	select {
	case err := <-closed:
		if !errors.Is(err, ErrInFlight) {
			t.Errorf("Close returned %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Close does not end")
	}
}
