package mmapread

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// After streakLength answers of the kernel in a row that something is missing, it is asked about one range in
// streakOdds only, until it answers that nothing is. The other ranges, if they are of at most streakBytes, are fetched
// without asking: asking was 5 % of a cold read, and fetching a few blocks that are cached costs some microseconds.
const streakLength, streakOdds, streakBytes = 64, 16, 64 << 10

// cold is what a Map knows of the page cache.
type cold struct {
	fetch Fetcher // nil: page faults read cold blocks
	fd    int
	// blocks by window. The slice is replaced under the Map's mu, together with the windows, and never changed.
	blocks atomic.Pointer[[]blocks]
	// doubted is the time from Map.opened to the last Doubt by Warm, in nanoseconds. The goroutine that moves it calls
	// Doubt.
	doubted atomic.Int64
	// found is the time from Map.opened at which Doubt last found a block evicted; distrust is the time until which no
	// block counts as warm without asking the kernel. Both are in nanoseconds, or 0: never. The goroutine that moves
	// doubted writes them. They publish nothing; a stale value costs a question or a page fault.
	found, distrust atomic.Int64
	// streak is the number of answers in a row that said that something is missing. It is a hint.
	streak atomic.Int64

	warm, colds, fetched, ahead, mincores, doubts atomic.Int64 // Counts: written by calls that had to ask the kernel
}

// plan is the list of what must be fetched of some ranges.
type plan struct {
	missing []Range // in whole blocks
	bytes   int64   // of missing
	cold    int     // ranges of which something is missing
	vec     [1024]byte
}

var plans = sync.Pool{New: func() any { return new(plan) }}

func (p *plan) release() {
	p.missing, p.bytes, p.cold = p.missing[:0], 0, 0
	plans.Put(p)
}

// Warm returns once every block of the ranges has been in the page cache, so that touching their views does not wait
// for the disk. It fetches all cold blocks at once and parks the goroutine meanwhile. It returns the number of cold
// ranges. A range that is known to be warm costs some nanoseconds. Without a Fetcher Warm does nothing.
//
// The kernel may evict blocks at any time; touching them is then an ordinary page fault. For files that the process
// neither owns nor can write, mincore(2) reveals nothing; their blocks are assumed resident.
//
// A range outside the file is an error that wraps ErrBounds. Other errors say that some block could not be fetched;
// touching it shows the cause.
func (m *Map) Warm(ranges []Range) (int, error) {
	if m.cold.fetch == nil {
		return 0, nil
	}
	for i, r := range ranges {
		if !m.isWarm(r) {
			return m.warmSlow(ranges[i:])
		}
	}
	if rand.Uint32()%doubtOdds == 0 {
		m.doubtSometimes()
	}
	return 0, nil
}

// IsWarm reports whether Warm of the range would do nothing, because the range is known to be warm or there is no
// Fetcher. It costs some nanoseconds.
func (m *Map) IsWarm(r Range) bool {
	if m.cold.fetch == nil {
		return true
	}
	if !m.isWarm(r) {
		return false
	}
	if rand.Uint32()%doubtOdds == 0 {
		m.doubtSometimes()
	}
	return true
}

// Cached appends to dst whether each block of 4 KiB of the range is in the kernel's page cache. It asks the kernel,
// since the map forgets all warm blocks once the kernel has evicted one. The range begins and ends with a block, and
// lies in the file. If the kernel does not say, only blocks count that are known to be warm. It costs a
// system call for each window, and some nanoseconds for each block.
func (m *Map) Cached(dst []bool, r Range) []bool {
	p := plans.Get().(*plan)
	defer p.release()
	for off, end := r.Off, r.Off+int64(r.Len); off < end; {
		at := off % m.window
		n := min(end-off, m.window-at, int64(len(p.vec))<<blockShift)
		blocks := int((n + blockSize - 1) >> blockShift)
		w, err := m.windowAt(int(off / m.window))
		asked := err == nil && at+n <= int64(len(w))
		if asked {
			m.cold.mincores.Add(1)
			asked = mincore(w[at:at+n], p.vec[:blocks])
		}
		known := m.known(off / m.window)
		for i := range blocks {
			dst = append(dst, asked && p.vec[i]&1 != 0 ||
				!asked && known != nil && known.all(at+int64(i)<<blockShift, 1))
		}
		off += n
	}
	return dst
}

// known returns the blocks of window i; nil if nothing is known of it.
func (m *Map) known(i int64) blocks {
	if bs := m.cold.blocks.Load(); bs != nil && i < int64(len(*bs)) {
		return (*bs)[i]
	}
	return nil
}

// isWarm reports whether a range is known to be warm, and what is known is trusted.
func (m *Map) isWarm(r Range) bool {
	bs := m.cold.blocks.Load()
	if bs == nil || r.Off < 0 || r.Len <= 0 {
		return r.Len == 0 && bs != nil
	}
	if m.cold.distrust.Load() != 0 {
		return false
	}
	for off, n := r.Off, int64(r.Len); n > 0; {
		at := off % m.window
		part := min(n, m.window-at)
		if b := m.known(off / m.window); b == nil || !b.all(at, part) {
			return false
		}
		off, n = off+part, n-part
	}
	return true
}

func (m *Map) warmSlow(ranges []Range) (int, error) {
	m.doubtSometimes()
	p := plans.Get().(*plan)
	defer p.release()
	if err := m.missing(ranges, p); err != nil {
		return 0, err
	}
	cold := p.cold
	if len(p.missing) > 0 {
		m.cold.colds.Add(int64(cold))
		m.cold.fetched.Add(p.bytes)
		if err := m.cold.fetch.Fetch(m.cold.fd, p.missing); err != nil {
			return cold, err
		}
	}
	m.setWarm(ranges)
	return cold, nil
}

// ReadAhead starts to fetch what is cold of the ranges and does not wait. It is a hint: it ignores ranges outside the
// file, and the Fetcher limits the reads in flight.
func (m *Map) ReadAhead(ranges []Range) {
	if m.cold.fetch == nil {
		return
	}
	p := plans.Get().(*plan)
	defer p.release()
	for _, r := range ranges {
		if !m.isWarm(r) {
			_ = m.missing([]Range{r}, p) // after an error, of a range outside the file, it has added nothing
		}
	}
	if len(p.missing) > 0 {
		m.cold.ahead.Add(int64(m.cold.fetch.ReadAhead(m.cold.fd, p.missing)))
	}
}

// missing adds to the plan the blocks of the ranges that are not in the page cache.
func (m *Map) missing(ranges []Range, p *plan) error {
	for _, r := range ranges {
		if m.isWarm(r) {
			continue
		}
		if r.Off < 0 || r.Len < 0 || r.Off > m.size.Load()-int64(r.Len) {
			if err := m.viewSlow(r.Off, r.Len); err != nil {
				return err
			}
		}
		before := p.bytes
		for off, n := r.Off, int64(r.Len); n > 0; {
			at := off % m.window
			part := min(n, m.window-at)
			w, err := m.windowAt(int(off / m.window))
			if err != nil {
				return err
			}
			b := m.known(off / m.window)
			if m.cold.distrust.Load() != 0 {
				b = nil
			}
			switch {
			case b != nil && b.all(at, part): // the warm part of a range in two windows
			case part <= streakBytes && m.cold.streak.Load() >= streakLength && rand.Uint32()%streakOdds != 0:
				p.presume(b, off-at, at, part)
			default:
				m.ask(w, off-at, at, part, p)
			}
			off, n = off+part, n-part
		}
		if p.bytes > before {
			p.cold++
		} else if r.Len > 0 {
			m.cold.warm.Add(1)
		}
	}
	return nil
}

// ask adds the blocks of bytes [at, at+n) of window w that the kernel says are missing. base is the window's offset in
// the file. The kernel cannot be asked about a window that is not mapped: all of its blocks count as missing, and
// reading cached ones costs little.
func (m *Map) ask(w []byte, base, at, n int64, p *plan) {
	first, last := span(at, n)
	if w == nil {
		p.add(base, first, last+1)
		return
	}
	before := p.bytes
	for first <= last {
		some := min(last+1-first, int64(len(p.vec)))
		m.cold.mincores.Add(1)
		if !mincore(w[first<<blockShift:min((first+some)<<blockShift, int64(len(w)))], p.vec[:some]) {
			p.add(base, first, first+some)
		} else {
			p.addMissing(base, first, p.vec[:some])
		}
		first += some
	}
	if p.bytes > before {
		m.cold.streak.Add(1)
	} else {
		m.cold.streak.Store(0)
	}
}

// presume adds the blocks of bytes [at, at+n) of the window at base that are not known to be warm.
func (p *plan) presume(known blocks, base, at, n int64) {
	for first, last := span(at, n); first <= last; first++ {
		if known == nil || !known.all(first<<blockShift, 1) {
			p.add(base, first, first+1)
		}
	}
}

// addMissing adds the blocks from first on whose bit 0 in vec is clear.
func (p *plan) addMissing(base, first int64, vec []byte) {
	for i := 0; i < len(vec); i++ {
		if vec[i]&1 != 0 {
			continue
		}
		from := i
		for i < len(vec) && vec[i]&1 == 0 {
			i++
		}
		p.add(base, first+int64(from), first+int64(i))
	}
}

// add adds blocks [first, end) of the window at base. It extends the last range if they follow it.
func (p *plan) add(base, first, end int64) {
	off, n := base+first<<blockShift, int((end-first)<<blockShift)
	p.bytes += int64(n)
	if k := len(p.missing) - 1; k >= 0 && p.missing[k].Off+int64(p.missing[k].Len) == off {
		p.missing[k].Len += n
		return
	}
	p.missing = append(p.missing, Range{Off: off, Len: n})
}

// mincore asks the kernel which blocks of w are in the page cache: bit 0 of each byte of vec. It reports whether the
// kernel answered.
func mincore(w, vec []byte) bool {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(w))), uintptr(len(w)),
		uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	return errno == 0
}

func (m *Map) setWarm(ranges []Range) { m.eachPart(ranges, blocks.set) }

func (m *Map) setCold(off, n int64) {
	m.eachPart([]Range{{Off: off, Len: int(n)}}, blocks.clear)
}

// eachPart calls f for the parts of the ranges that lie in windows.
func (m *Map) eachPart(ranges []Range, f func(b blocks, at, n int64)) {
	bs := m.cold.blocks.Load()
	if bs == nil {
		return
	}
	for _, r := range ranges {
		for off, n := r.Off, int64(r.Len); off >= 0 && n > 0; {
			i, at := off/m.window, off%m.window
			part := min(n, m.window-at)
			if i < int64(len(*bs)) && (*bs)[i] != nil {
				f((*bs)[i], at, part)
			}
			off, n = off+part, n-part
		}
	}
}

// Counts returns what the map has done about cold blocks.
func (m *Map) Counts() Counts {
	c := &m.cold
	return Counts{Warm: c.warm.Load(), Cold: c.colds.Load(), Fetched: c.fetched.Load(), Ahead: c.ahead.Load(),
		Mincores: c.mincores.Load(), Doubts: c.doubts.Load()}
}

// Protect makes touching a range of the map a fault, and Unprotect undoes that: a debugging aid that finds views which
// outlive their contents. off and n are multiples of 4 KiB. Windows that are mapped later are not protected.
func (m *Map) Protect(off, n int64) error { return m.protect(off, n, unix.PROT_NONE) }

// Unprotect undoes Protect.
func (m *Map) Unprotect(off, n int64) error { return m.protect(off, n, unix.PROT_READ) }
