package iobuf

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// memDevice keeps the written bytes in memory. It completes writes in an order that its seed chooses, checks that no
// byte is written twice (proves rule 1), and fails the write that failAt names. The flusher uses it from New on, so a
// test changes it within locked.
type memDevice struct {
	t       testing.TB
	mu      sync.Mutex
	block   int
	rng     *rand.Rand
	data    []byte
	written []bool // by block
	flight  []vfs.Write
	failAt  int // the number of the write that fails, from 1; 0: none
	writes  int
	zeroed  [][2]int64
	delay   time.Duration
	hang    chan struct{} // if set, Do waits until it is closed
	before  func()        // if set, Do calls it first; one leader at a time does
	failed  bool          // a write has failed; no other may begin
	broken  error         // of Do
	bytes   int           // that were given to Do
}

func newMemDevice(t testing.TB, block, size int, seed uint64) *memDevice {
	return &memDevice{
		t: t, block: block, rng: rand.New(rand.NewPCG(seed, 1)),
		data: make([]byte, size), written: make([]bool, size/block),
	}
}

func (d *memDevice) Depth() int { return 4 }
func (d *memDevice) Block() int { return d.block }

func (d *memDevice) Close() error { return nil }

// locked calls use, which may read and change d, while the log does not use d.
func (d *memDevice) locked(use func(d *memDevice)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	use(d)
}

func (d *memDevice) Do(writes []vfs.Write, min int, dst []vfs.Completion) ([]vfs.Completion, error) {
	d.mu.Lock()
	hang, before, delay := d.hang, d.before, d.delay
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if before != nil {
		before()
	}
	if delay > 0 {
		time.Sleep(delay)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return dst, d.broken
	}
	d.flight = append(d.flight, writes...)
	if len(d.flight) > d.Depth() {
		d.t.Errorf("%d writes in flight, depth is %d", len(d.flight), d.Depth())
	}
	if d.failed && len(writes) > 0 {
		d.t.Error("a write begins after one has failed")
	}
	for _, w := range writes {
		d.bytes += len(w.Buf)
		if w.Off%int64(d.block) != 0 || len(w.Buf)%d.block != 0 || len(w.Buf) == 0 {
			d.t.Errorf("write of %d bytes at %d with blocks of %d", len(w.Buf), w.Off, d.block)
		}
	}
	n := min
	if extra := len(d.flight) - min; extra > 0 {
		n += d.rng.IntN(extra + 1)
	}
	for range n {
		if len(d.flight) == 0 {
			break
		}
		i := d.rng.IntN(len(d.flight))
		w := d.flight[i]
		d.flight[i] = d.flight[len(d.flight)-1]
		d.flight = d.flight[:len(d.flight)-1]
		d.writes++
		c := vfs.Completion{Tag: w.Tag}
		if d.writes == d.failAt {
			c.Err, d.failed = syscall.EIO, true
		} else {
			d.store(w)
		}
		dst = append(dst, c)
	}
	return dst, nil
}

// Park implements vfs.Parker. The next Do completes some of the writes, or none.
func (d *memDevice) Park() bool {
	runtime.Gosched()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.IntN(4) > 0
}

// Unpark implements vfs.Parker.
func (d *memDevice) Unpark() {}

// zero zeroes a range in which nothing was written.
func (d *memDevice) zero(off, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off%int64(d.block) != 0 || n%int64(d.block) != 0 || n <= 0 {
		d.t.Errorf("%d bytes zeroed at %d with blocks of %d", n, off, d.block)
	}
	for b := int(off) / d.block; b < int(off+n)/d.block; b++ {
		if d.written[b] {
			d.t.Errorf("block %d zeroed after it was written", b)
		}
	}
	clear(d.data[off : off+n])
	d.zeroed = append(d.zeroed, [2]int64{off, n})
}

// zeroedSoFar returns the ranges that zero has zeroed.
func (d *memDevice) zeroedSoFar() (ranges [][2]int64) {
	d.locked(func(d *memDevice) { ranges = slices.Clone(d.zeroed) })
	return ranges
}

func (d *memDevice) store(w vfs.Write) {
	if d.data == nil {
		return // benchmarks
	}
	for b := int(w.Off) / d.block; b < (int(w.Off)+len(w.Buf))/d.block; b++ {
		if d.written[b] {
			d.t.Errorf("block %d written twice", b)
		}
		d.written[b] = true
	}
	copy(d.data[w.Off:], w.Buf)
}

// memSpace hands out slots out of order, up to a limit.
type memSpace struct {
	mu     sync.Mutex
	next   int
	limit  int
	sealed map[format.LSN]bool
	slots  map[format.LSN]format.SegmentID
	least  segments.Urgency
	room   func(segments.Urgency) error // nil: there is always room
	blank  *int                         // of every slot; nil: all slots were written
}

func (s *memSpace) OpenSegment(base format.LSN, _ segments.Urgency) (format.SegmentID, segments.Urgency, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next >= s.limit {
		return 0, 0, fmt.Errorf("%w: %w", segments.ErrNoRoom, syscall.ENOSPC)
	}
	id := format.SegmentID(s.next ^ 1)
	s.next++
	s.slots[base] = id
	return id, s.least, nil
}

func (s *memSpace) Room(u segments.Urgency) error {
	s.mu.Lock()
	room := s.room
	s.mu.Unlock()
	if room == nil {
		return nil
	}
	return room(u)
}

func (s *memSpace) Ledger() format.Ledger { return format.Ledger{} }

func (s *memSpace) Blank() int {
	if s.blank == nil {
		return 1 << 30
	}
	return *s.blank
}

func (s *memSpace) SealSegment(slot format.SegmentID, base format.LSN, _ segments.PageList) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed[base] = true
}

type rig struct {
	*Log
	t     testing.TB
	dev   *memDevice
	space *memSpace
	seg   int
}

const testGeneration = 7

// setup describes a rig. Zero fields stand for segments of 16 KiB, 2 buffers, blocks of 512 bytes and 400 slots.
type setup struct {
	segment, buffers, block, slots int
	seed                           uint64
	flushEvery, markAfter          time.Duration
	patience                       time.Duration
	delay                          time.Duration // of the device
	index                          bool
	limit                          int              // of the first segment
	blank                          *int             // of every slot; nil: all slots were written
	zero                           func(*memDevice) // what Config.Zero does beside writing zeros
	wrap                           func(*memDevice) vfs.Device
}

func newRig(t testing.TB, c setup) *rig {
	watchdog(t)
	segment, block, slots := cmp.Or(c.segment, 16<<10), cmp.Or(c.block, 512), cmp.Or(c.slots, 400)
	d := newMemDevice(t, block, segment*(slots+2), c.seed)
	d.delay = c.delay
	s := &memSpace{limit: slots, sealed: map[format.LSN]bool{}, slots: map[format.LSN]format.SegmentID{}}
	var bufs [][]byte
	for range cmp.Or(c.buffers, 2) {
		bufs = append(bufs, aligned(segment))
	}
	var zero func(off, n int64) error
	if c.blank != nil {
		s.blank = c.blank
		zero = func(off, n int64) error {
			d.zero(off, n)
			if c.zero != nil {
				c.zero(d)
			}
			return nil
		}
	}
	var dev vfs.Device = d
	if c.wrap != nil {
		dev = c.wrap(d)
	}
	l, err := New(Config{
		Limit: c.limit, Zero: zero,
		Device: dev, Space: s, Buffers: bufs, Generation: testGeneration, Chunk: segment / 4, FlushEvery: c.flushEvery,
		MarkAfter: c.markAfter, Patience: c.patience, Index: c.index,
	})
	if err != nil {
		t.Fatal(err)
	}
	l.stuckLook = trusting // before the first leader
	return &rig{Log: l, t: t, dev: d, space: s, seg: segment}
}

// hangLimit is the deadline of everything that a test waits for.
const hangLimit = 2 * time.Minute

// watchdog ends the process with the stacks of all goroutines if the test takes longer than hangLimit.
func watchdog(t testing.TB) {
	timer := time.AfterFunc(hangLimit, func() {
		stacks := make([]byte, 1<<20)
		panic(fmt.Sprintf("%s hangs:\n%s", t.Name(), stacks[:runtime.Stack(stacks, true)]))
	})
	t.Cleanup(func() { timer.Stop() })
}

func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & 4095
	return b[skip : skip+n : skip+n]
}

func (r *rig) put(kind format.Kind, page format.PageID, body []byte) (format.LSN, error) {
	res, err := r.Reserve(kind, page, len(body))
	if err != nil {
		return 0, err
	}
	copy(res.Body(), body)
	lsn := res.LSN()
	res.Complete()
	return lsn, nil
}

// untilWaiting waits until n goroutines wait for the log.
func (r *rig) untilWaiting(n int) {
	waiting := func() int {
		r.state.mu.Lock()
		defer r.state.mu.Unlock()
		return len(r.state.waiters)
	}
	for start := time.Now(); waiting() != n; time.Sleep(50 * time.Microsecond) {
		if time.Since(start) > hangLimit {
			r.t.Fatalf("%d goroutines wait, want %d", waiting(), n)
		}
	}
}

type found struct {
	h    format.Header
	body []byte
}

// proven returns the highest durable end that a message on the device carries, or else a header's.
func (r *rig) proven() (end format.LSN) {
	r.dev.mu.Lock()
	defer r.dev.mu.Unlock()
	r.space.mu.Lock()
	defer r.space.mu.Unlock()
	for _, m := range r.messages(r.DurableEnd()) {
		end = max(end, m.h.Durable())
		if m.h.Kind == format.KindPad {
			end = max(end, format.PadStable(m.body)+1)
		}
	}
	return end
}

// messages decodes the messages that the device holds below end, and fails the test at the first that does not decode.
func (r *rig) messages(end format.LSN) map[format.LSN]found {
	out := map[format.LSN]found{}
	for base := format.LSN(0); base < end; base += format.LSN(r.seg) {
		slot, ok := r.space.slots[base]
		if !ok {
			r.t.Fatalf("no slot for base %d below %d", base, end)
		}
		seg := r.dev.data[int(slot)*r.seg:][:r.seg]
		hd, err := format.DecodeSegmentHeader(seg, slot, r.seg)
		if err != nil || hd.Base != base {
			r.t.Fatalf("segment at %d: %+v %v", base, hd, err)
		}
		seed := format.MakeSeed(format.StoreID{}, testGeneration, slot)
		for pos := format.SegmentStart; r.seg-pos >= format.HeaderSize && base+format.LSN(pos) < end; {
			h, body, err := format.DecodeMessage(seg[pos:], base+format.LSN(pos), seed)
			if err != nil {
				r.t.Fatalf("message at LSN %d (below %d): %v", base+format.LSN(pos), end, err)
			}
			if h.Kind.IsGroup() {
				if _, err := format.CheckGroup(h.Kind, body, h.LSN, seed); err != nil {
					r.t.Fatalf("group at LSN %d: %v", h.LSN, err)
				}
			}
			out[h.LSN] = found{h, body}
			pos += h.Step()
		}
	}
	return out
}

func isEIO(err error) bool { return errors.Is(err, ErrFailed) && errors.Is(err, syscall.EIO) }
