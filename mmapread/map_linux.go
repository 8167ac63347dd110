package mmapread

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	mmap "github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// windowSize is the number of bytes that one window maps. 1 GiB of address space costs nothing until it is touched.
const windowSize = 1 << 30

// refusedFor is the time for which no window is mapped after the kernel had no address space or memory for one.
const refusedFor = time.Second

// Map is a file mapped for reading. Safe for concurrent use, but for Close, which must come after the last use of the
// Map and of every view of it.
type Map struct {
	f      *os.File
	whole  bool  // OpenWhole
	window int64 // bytes that one window maps, a multiple of the page size

	size    atomic.Int64                // the file size last seen; a view may fault if the file was truncated since
	windows atomic.Pointer[[]mmap.MMap] // the slice is replaced under mu and never changed; nil once closed
	cold    cold
	// opened is when the map was opened: times are counted from it, by a clock that nobody sets. Constant.
	opened time.Time
	// refused is the time since opened, in nanoseconds, until which no further window is mapped. Written under mu; a
	// stale value costs a try.
	refused atomic.Int64

	mu        sync.Mutex
	mapRegion func(f *os.File, n int, prot, flags int, off int64) (mmap.MMap, error) // seam for tests
}

// Open maps f, which must stay open until Close. It maps each window on first use. fetch may be nil; with it, Warm
// reads cold blocks. If the file is to be read in random order, advise the kernel so (fadvise RANDOM), or it reads more
// than those blocks.
func Open(f *os.File, fetch Fetcher) (*Map, error) { return open(f, windowSize, fetch) }

// OpenWhole maps a file that does not grow and is read from beginning to end. f must stay open until Close. View warms
// each range itself.
func OpenWhole(f *os.File, fetch Fetcher) (*Map, error) {
	m, err := open(f, 1, fetch)
	if err != nil {
		return nil, err
	}
	m.window, m.whole = max(blockSize, (m.size.Load()+blockSize-1)&^(blockSize-1)), true
	if fetch != nil {
		// The kernel's own read ahead of each piece would delay the next piece. A hint.
		_ = unix.Fadvise(m.cold.fd, 0, 0, unix.FADV_RANDOM)
	}
	return m, nil
}

func open(f *os.File, window int64, fetch Fetcher) (*Map, error) {
	m := &Map{f: f, window: window, mapRegion: mmap.MapRegion, opened: time.Now()}
	m.windows.Store(&[]mmap.MMap{})
	// Fd makes the file blocking: a ring does not wait for a non-blocking one.
	m.cold.fetch, m.cold.fd = fetch, int(f.Fd())
	m.cold.blocks.Store(&[]blocks{})
	if _, err := m.statSize(); err != nil {
		return nil, err
	}
	return m, nil
}

// View returns bytes [off, off+n) of the file. The caller must not write to them. They stay valid until Close, and
// change only if that range of the file is written again. They are a copy if the range crosses the boundary of a window
// or address space is short. A range outside the file is an error that wraps ErrBounds. Reading a view may fault if the
// file is truncated: see Guard.
func (m *Map) View(off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || off > m.size.Load()-int64(n) {
		if err := m.viewSlow(off, n); err != nil {
			return nil, err
		}
	}
	i, at := int(off/m.window), off%m.window
	if at+int64(n) > m.window {
		return m.viewAcross(off, n)
	}
	ws := m.windows.Load()
	if ws == nil {
		return nil, ErrClosed
	}
	if !m.whole && i < len(*ws) && (*ws)[i] != nil {
		return (*ws)[i][at : at+int64(n) : at+int64(n)], nil
	}
	w, err := m.windowAt(i)
	if err != nil {
		return nil, err
	}
	if w == nil {
		return m.viewCopy(off, n)
	}
	if m.whole {
		_, _ = m.Warm([]Range{{Off: off, Len: n}}) // touching the view shows an error
	}
	return w[at : at+int64(n) : at+int64(n)], nil
}

// viewSlow checks whether the file has grown over the range since its size was last read.
func (m *Map) viewSlow(off int64, n int) error {
	if m.windows.Load() == nil {
		return ErrClosed
	}
	if off < 0 || n < 0 {
		return fmt.Errorf("view %d bytes at offset %d: %w", n, off, ErrBounds)
	}
	size, err := m.statSize()
	if err != nil {
		return err
	}
	if off > size-int64(n) {
		return fmt.Errorf("view %d bytes at offset %d of a file of %d: %w", n, off, size, ErrBounds)
	}
	return nil
}

// viewAcross copies a range that lies in more than one window.
func (m *Map) viewAcross(off int64, n int) ([]byte, error) {
	buf := make([]byte, 0, n) // n is limited by the size of the file
	for len(buf) < n {
		at := off + int64(len(buf))
		part, err := m.View(at, int(min(int64(n-len(buf)), m.window-at%m.window)))
		if err != nil {
			return nil, err
		}
		if err := Guard(func() error { buf = append(buf, part...); return nil }); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// viewCopy reads a range whose window cannot be mapped.
func (m *Map) viewCopy(off int64, n int) ([]byte, error) {
	if err := roomFor(n); err != nil {
		return nil, fmt.Errorf("view %d bytes at offset %d: %w", n, off, err)
	}
	_, _ = m.Warm([]Range{{Off: off, Len: n}}) // so that the system call does not wait for the disk
	buf := make([]byte, n)                     // n is limited by the size of the file
	if got, err := m.f.ReadAt(buf, off); got < n {
		return nil, fmt.Errorf("view %d bytes at offset %d: %w: %w", n, off, ErrFault, err)
	}
	return buf, nil
}

// roomFor checks that there is address space for n bytes on the heap. Without it the runtime would end the process,
// which is likely after the kernel has refused a map.
func roomFor(n int) error {
	const small, arena = 1 << 20, 64 << 20 // the runtime reserves address space in arenas
	if n < small {
		return nil
	}
	b, err := unix.Mmap(-1, 0, n+arena, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		err = unix.Munmap(b)
	}
	return err
}

func (m *Map) statSize() (int64, error) {
	fi, err := m.f.Stat()
	if err != nil {
		return 0, fmt.Errorf("map %s: %w", m.f.Name(), err)
	}
	m.size.Store(fi.Size())
	return fi.Size(), nil
}

// windowAt returns window i and maps it if necessary; nil if it cannot be mapped now.
func (m *Map) windowAt(i int) (mmap.MMap, error) {
	ws := m.windows.Load()
	if ws == nil {
		return nil, ErrClosed
	}
	if i < len(*ws) && (*ws)[i] != nil {
		return (*ws)[i], nil
	}
	if until := m.refused.Load(); until != 0 && int64(time.Since(m.opened)) < until {
		return nil, nil
	}
	return m.addWindow(i)
}

// addWindow maps window i, unless another goroutine has done so. If address space is short it returns nil, and no
// window is tried for a while.
func (m *Map) addWindow(i int) (mmap.MMap, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ws := m.windows.Load()
	if ws == nil {
		return nil, ErrClosed
	}
	if i < len(*ws) && (*ws)[i] != nil {
		return (*ws)[i], nil
	}
	w, err := m.mapRegion(m.f, int(m.window), mmap.RDONLY, 0, int64(i)*m.window)
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN) {
		m.refused.Store(int64(time.Since(m.opened) + refusedFor))
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("map %s at offset %d: %w", m.f.Name(), int64(i)*m.window, err)
	}
	if m.whole && m.cold.fetch == nil {
		// Without this each fault would read a few pages only. Reading the map shows an error.
		_ = unix.Madvise(w, unix.MADV_POPULATE_READ)
	} else if !m.whole {
		if err := unix.Madvise(w, unix.MADV_RANDOM); err != nil {
			return nil, errors.Join(fmt.Errorf("madvise %s: %w", m.f.Name(), err), w.Unmap())
		}
	}
	noteWindow(w)
	bs := *m.cold.blocks.Load()
	n := max(i+1, len(*ws))
	next, nextBlocks := make([]mmap.MMap, n), make([]blocks, n)
	copy(next, *ws)
	copy(nextBlocks, bs)
	if next[i] = w; m.cold.fetch != nil {
		nextBlocks[i] = newBlocks(m.window)
	}
	m.windows.Store(&next)
	m.cold.blocks.Store(&nextBlocks)
	return w, nil
}

// Holds reports whether b, which is not empty, begins in a view of the file at off. The cost does not depend on the
// number of windows.
func (m *Map) Holds(off int64, b []byte) bool {
	ws := m.windows.Load()
	if ws == nil || off < 0 || off/m.window >= int64(len(*ws)) {
		return false
	}
	w := (*ws)[off/m.window]
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return w != nil && at-uintptr(unsafe.Pointer(unsafe.SliceData(w))) < uintptr(len(w)) // wraps where at is below
}

// Drop unmaps the pages of a range of the file, so that they are read anew. Before a range is written again, its pages
// must be dropped here and in the page cache (fadvise DONTNEED). off and n are multiples of 4 KiB.
func (m *Map) Drop(off, n int64) error {
	m.setCold(off, n)
	return m.eachMapped(off, n, func(b []byte) error { return unix.Madvise(b, unix.MADV_DONTNEED) })
}

func (m *Map) protect(off, n int64, prot int) error {
	return m.eachMapped(off, n, func(b []byte) error { return unix.Mprotect(b, prot) })
}

// eachMapped calls f for each part of the range that is mapped.
func (m *Map) eachMapped(off, n int64, f func(b []byte) error) error {
	ws := m.windows.Load()
	if ws == nil {
		return ErrClosed
	}
	for off >= 0 && n > 0 {
		i, at := int(off/m.window), off%m.window
		part := min(n, m.window-at)
		if i < len(*ws) && (*ws)[i] != nil {
			if err := f((*ws)[i][at : at+part]); err != nil {
				return fmt.Errorf("change map of %s at offset %d: %w", m.f.Name(), off, err)
			}
		}
		off, n = off+part, n-part
	}
	return nil
}

// Close unmaps everything. All views are invalid afterwards. A second Close does nothing.
func (m *Map) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cold.blocks.Store(nil)
	ws := m.windows.Swap(nil)
	if ws == nil {
		return nil
	}
	var errs []error
	for _, w := range *ws {
		if w != nil {
			errs = append(errs, w.Unmap())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("unmap %s: %w", m.f.Name(), err)
	}
	return nil
}
