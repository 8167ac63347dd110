package mmapread

import (
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	blockSize  = 4096
	blockShift = 12
	// doubtEvery is how often it is looked whether warm blocks are still there, and doubtSample how many are looked at. doubtOdds is one in how
	// many calls of Warm that find everything warm look at the clock for that.
	doubtEvery, doubtSample, doubtOdds = time.Second, 64, 1024
	// coldStreak is after how many answers that something is missing the kernel is asked about one range in coldOdds only, until it says that
	// nothing is. The others, if they are of at most coldMost bytes, are fetched at once: asking was 5 % of a cold read, and fetching a
	// little of what is there costs some microseconds.
	coldStreak, coldOdds, coldMost = 64, 16, 64 << 10
)

// blocks says for each block of a window whether it was in the page cache at some time since it was last dropped: 32 KiB for a GiB.
//
// Warm sets bits once the kernel has said so, Drop and Doubt clear them. A stale bit costs time and nothing else: a set one whose block the
// kernel has taken back meanwhile a page fault, a clear one a question.
type blocks []atomic.Uint64

func newBlocks(window int64) blocks { return make(blocks, (window+64*blockSize-1)/(64*blockSize)) }

// span is a range of blocks [first, last] in words.
func span(off, n int64) (first, last int64) { return off >> blockShift, (off + n - 1) >> blockShift }

// mask returns which bits of word w belong to [first, last].
func mask(w, first, last int64) uint64 {
	m := ^uint64(0)
	if lo := first - w<<6; lo > 0 {
		m <<= lo
	}
	if hi := last - w<<6; hi < 63 {
		m &= 1<<(hi+1) - 1
	}
	return m
}

// all reports whether every block of [at, at+n) is set; n > 0.
func (b blocks) all(at, n int64) bool {
	first, last := span(at, n)
	for w := first >> 6; w <= last>>6; w++ {
		if m := mask(w, first, last); b[w].Load()&m != m {
			return false
		}
	}
	return true
}

func (b blocks) set(at, n int64) {
	first, last := span(at, n)
	for w := first >> 6; w <= last>>6; w++ {
		b[w].Or(mask(w, first, last))
	}
}

func (b blocks) clear(at, n int64) {
	first, last := span(at, n)
	for w := first >> 6; w <= last>>6; w++ {
		b[w].And(^mask(w, first, last))
	}
}

// any returns a block that is set, looking from a random one on; −1 if there is none.
func (b blocks) any() int64 {
	start := rand.IntN(len(b))
	for i := range len(b) {
		w := (start + i) % len(b)
		if v := b[w].Load(); v != 0 {
			r := rand.IntN(64)
			return int64(w)<<6 + int64((bits.TrailingZeros64(bits.RotateLeft64(v, -r))+r)&63)
		}
	}
	return -1
}

// cold is what a Map knows of the page cache.
type cold struct {
	fetch Fetcher // nil: blocks are brought in by touching them
	fd    int
	// blocks of the windows, by window; replaced, never changed, under mu, together with the windows.
	blocks atomic.Pointer[[]blocks]
	// doubted is when it was last looked whether warm blocks are still there, in nanoseconds. Whoever moves it looks.
	doubted atomic.Int64

	// streak is how many answers in a row said that something is missing. It is a hint.
	streak atomic.Int64

	warm, colds, fetched, ahead, mincores, doubts atomic.Int64 // Counts: written by those that had to ask the kernel
}

// plan is the fetching of the cold parts of some ranges.
type plan struct {
	missing []Range
	bytes   int64
	cold    int // ranges of which something is missing
	vec     [1024]byte
}

var plans = sync.Pool{New: func() any { return new(plan) }}

func (p *plan) release() {
	p.missing, p.bytes, p.cold = p.missing[:0], 0, 0
	plans.Put(p)
}

// Warm returns once every block of the ranges has been in the page cache, so that touching their views does not wait for the disk: the goroutine is
// parked while they are read, all at once. It returns how many ranges were cold. Warm ranges cost some nanoseconds each, if it is known that they are.
//
// The kernel may take blocks back at any time; then touching them is a page fault like any other. It does not tell of files that this process may
// not write to and does not own what is cached: they are taken for warm. Without a Fetcher Warm does nothing.
//
// Outside the file: ErrBounds. Other errors say that something could not be fetched; why will be found out by touching it.
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

// IsWarm reports whether a range is known to be warm, or need not be: the fast half of Warm, for one range. Some nanoseconds.
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

// known returns what is known of the blocks of a window; nil: nothing.
func (m *Map) known(i int64) blocks {
	if bs := m.cold.blocks.Load(); bs != nil && i < int64(len(*bs)) {
		return (*bs)[i]
	}
	return nil
}

// isWarm reports whether a range is known to be warm.
func (m *Map) isWarm(r Range) bool {
	bs := m.cold.blocks.Load()
	if bs == nil || r.Off < 0 || r.Len <= 0 {
		return r.Len == 0 && bs != nil
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

// ReadAhead begins to bring in what is cold of the ranges, and does not wait. It is a hint: what lies outside the file is left out, and there is a
// bound on how much is under way.
func (m *Map) ReadAhead(ranges []Range) {
	if m.cold.fetch == nil {
		return
	}
	p := plans.Get().(*plan)
	defer p.release()
	for _, r := range ranges {
		if !m.isWarm(r) {
			_ = m.missing([]Range{r}, p) // outside the file: nothing was added
		}
	}
	if len(p.missing) > 0 {
		m.cold.ahead.Add(int64(m.cold.fetch.ReadAhead(m.cold.fd, p.missing)))
	}
}

// missing adds what is not in the page cache to the plan, in whole blocks.
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
			switch b := m.known(off / m.window); {
			case b != nil && b.all(at, part): // of a range in two windows
			case part <= coldMost && m.cold.streak.Load() >= coldStreak && rand.Uint32()%coldOdds != 0:
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

// ask adds the blocks of [at, at+n) of a window that the kernel says are missing. base is the window's offset in the file. Of a window that is not mapped it
// cannot be asked: all are missing, and reading what is there costs little.
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

// presume adds the blocks of [at, at+n) of the window at base in the file that are not known to be there.
func (p *plan) presume(known blocks, base, at, n int64) {
	for first, last := span(at, n); first <= last; first++ {
		if known == nil || !known.all(first<<blockShift, 1) {
			p.add(base, first, first+1)
		}
	}
}

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

// add adds blocks [first, end) of the window at base, to the range before them if they follow it.
func (p *plan) add(base, first, end int64) {
	off, n := base+first<<blockShift, int((end-first)<<blockShift)
	p.bytes += int64(n)
	if k := len(p.missing) - 1; k >= 0 && p.missing[k].Off+int64(p.missing[k].Len) == off {
		p.missing[k].Len += n
		return
	}
	p.missing = append(p.missing, Range{Off: off, Len: n})
}

// mincore asks which blocks of w are in the page cache: bit 0 of each byte.
func mincore(w, vec []byte) bool {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(w))), uintptr(len(w)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
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

// doubtSometimes calls Doubt if the last time is long ago.
func (m *Map) doubtSometimes() {
	now, last := time.Now().UnixNano(), m.cold.doubted.Load()
	if now-last >= int64(doubtEvery) && m.cold.doubted.CompareAndSwap(last, now) && last != 0 {
		m.Doubt()
	}
}

// Doubt asks the kernel about some of the blocks that count as warm. If one is gone, nothing counts as warm any more: Warm then asks anew for
// each block, which takes about a microsecond. It returns whether that is so. Warm calls it about once a second; under memory pressure that the
// program knows of it may call it as well.
func (m *Map) Doubt() bool {
	bs, ws := m.cold.blocks.Load(), m.windows.Load()
	if bs == nil || ws == nil || len(*bs) == 0 {
		return false
	}
	var vec [1]byte
	for range doubtSample {
		i := rand.IntN(len(*bs))
		if (*bs)[i] == nil || i >= len(*ws) || (*ws)[i] == nil {
			continue
		}
		block := (*bs)[i].any()
		if block < 0 {
			continue
		}
		at := block << blockShift
		m.cold.mincores.Add(1)
		if w := (*ws)[i]; mincore(w[at:min(at+blockSize, int64(len(w)))], vec[:]) && vec[0]&1 == 0 {
			m.cold.doubts.Add(1)
			forget(*bs)
			return true
		}
	}
	return false
}

// forget clears every bit.
func forget(bs []blocks) {
	for _, b := range bs {
		for w := range b {
			b[w].Store(0)
		}
	}
}

// Counts returns what was done about cold blocks.
func (m *Map) Counts() Counts {
	c := &m.cold
	return Counts{Warm: c.warm.Load(), Cold: c.colds.Load(), Fetched: c.fetched.Load(), Ahead: c.ahead.Load(), Mincores: c.mincores.Load(),
		Doubts: c.doubts.Load()}
}

// Protect makes touching a range of the map a fault, and Unprotect undoes that: an aid to find views that outlive what they show. off and n are
// multiples of 4 KiB. Windows that are mapped later are not protected.
func (m *Map) Protect(off, n int64) error { return m.protect(off, n, unix.PROT_NONE) }

// Unprotect undoes Protect.
func (m *Map) Unprotect(off, n int64) error { return m.protect(off, n, unix.PROT_READ) }
