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

// windowSize is how much of the file one window maps, in bytes: 1 GiB of address space costs nothing until touched.
const windowSize = 1 << 30

// refusal is how long no window is tried after the kernel had no room for one.
const refusal = time.Second

// Map is a file mapped for reading. Safe for concurrent use, but for Close, which must come after the last use of
// the Map and of every view taken from it.
type Map struct {
	f      *os.File
	whole  bool  // read as a whole, not here and there
	window int64 // bytes a window maps, a multiple of the page size

	size    atomic.Int64                // file size last seen; where the file has become shorter since, looking is a fault (Guard)
	windows atomic.Pointer[[]mmap.MMap] // replaced, never changed, under mu; nil once closed
	cold    cold
	// refused is until when windows that are not mapped yet are not tried, in nanoseconds; written under mu. A stale one costs a try.
	refused atomic.Int64

	mu        sync.Mutex
	mapRegion func(f *os.File, n int, prot, flags int, off int64) (mmap.MMap, error) // seam
}

// Open maps f, which must stay open until Close. Nothing is mapped before the first use. With a Fetcher, which may be nil, Warm brings cold blocks in, and
// no more than these if the file is advised to be read at random (fadvise RANDOM).
func Open(f *os.File, fetch Fetcher) (*Map, error) { return open(f, windowSize, fetch) }

// OpenWhole maps a file that is read as a whole and does not grow. f must stay open until Close. A View of it is warm.
func OpenWhole(f *os.File, fetch Fetcher) (*Map, error) {
	m, err := open(f, 1, fetch)
	if err != nil {
		return nil, err
	}
	m.window, m.whole = max(blockSize, (m.size.Load()+blockSize-1)&^(blockSize-1)), true
	if fetch != nil {
		// What the kernel would read ahead of each piece beside is in the way of the next. A hint.
		_ = unix.Fadvise(m.cold.fd, 0, 0, unix.FADV_RANDOM)
	}
	return m, nil
}

func open(f *os.File, window int64, fetch Fetcher) (*Map, error) {
	m := &Map{f: f, window: window, mapRegion: mmap.MapRegion}
	m.windows.Store(&[]mmap.MMap{})
	m.cold.fetch, m.cold.fd = fetch, int(f.Fd()) // which also makes it a blocking one: rings refuse to wait for others
	m.cold.blocks.Store(&[]blocks{})
	if _, err := m.statSize(); err != nil {
		return nil, err
	}
	return m, nil
}

// View returns bytes [off, off+n) of the file without copying, unless the range crosses a window's boundary. The
// bytes must not be written to, stay valid until Close, and change only if that range of the file is written again. Where address space is
// short they are a copy. Outside the file: ErrBounds. Reading the view may fault if the file is cut short: see Guard.
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
		_, _ = m.Warm([]Range{{Off: off, Len: n}}) // what it cannot bring in is found out by whoever touches it
	}
	return w[at : at+int64(n) : at+int64(n)], nil
}

// viewSlow looks whether the file has grown over the range since its size was last read.
func (m *Map) viewSlow(off int64, n int) error {
	if m.windows.Load() == nil {
		return ErrClosed
	}
	if off < 0 || n < 0 {
		return fmt.Errorf("view of %d bytes at offset %d: %w", n, off, ErrBounds)
	}
	size, err := m.statSize()
	if err != nil {
		return err
	}
	if off > size-int64(n) {
		return fmt.Errorf("view of %d bytes at offset %d of a file of %d: %w", n, off, size, ErrBounds)
	}
	return nil
}

// viewAcross copies a range that lies in more than one window.
func (m *Map) viewAcross(off int64, n int) ([]byte, error) {
	buf := make([]byte, 0, n) // within the file, so bounded by it
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

// viewCopy reads a range for which there is no map.
func (m *Map) viewCopy(off int64, n int) ([]byte, error) {
	if err := roomFor(n); err != nil {
		return nil, fmt.Errorf("view of %d bytes at offset %d: %w", n, off, err)
	}
	_, _ = m.Warm([]Range{{Off: off, Len: n}}) // so as not to wait for the disk in the system call
	buf := make([]byte, n)                     // within the file, so bounded by it
	if got, err := m.f.ReadAt(buf, off); got < n {
		return nil, fmt.Errorf("view of %d bytes at offset %d: %w: %w", n, off, ErrFault, err)
	}
	return buf, nil
}

// roomFor reports whether there is address space for n bytes on the heap. The runtime ends the process where there is none, which is not
// unlikely where a map has been refused.
func roomFor(n int) error {
	const small, arena = 1 << 20, 64 << 20 // the runtime takes address space by arenas
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

// windowAt returns window i, mapped; nil if it cannot be mapped now.
func (m *Map) windowAt(i int) (mmap.MMap, error) {
	ws := m.windows.Load()
	if ws == nil {
		return nil, ErrClosed
	}
	if i < len(*ws) && (*ws)[i] != nil {
		return (*ws)[i], nil
	}
	if until := m.refused.Load(); until != 0 && time.Now().UnixNano() < until {
		return nil, nil
	}
	return m.addWindow(i)
}

// addWindow maps window i, unless another goroutine has done so meanwhile. Where address space is short there is none, for a while.
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
		m.refused.Store(time.Now().Add(refusal).UnixNano())
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("map %s at offset %d: %w", m.f.Name(), int64(i)*m.window, err)
	}
	if m.whole && m.cold.fetch == nil {
		// Each fault would bring in a few pages only. What cannot be brought in is found out by whoever reads it.
		_ = unix.Madvise(w, unix.MADV_POPULATE_READ)
	} else if !m.whole {
		if err := unix.Madvise(w, unix.MADV_RANDOM); err != nil {
			return nil, errors.Join(fmt.Errorf("madvise %s: %w", m.f.Name(), err), w.Unmap())
		}
	}
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

// Holds reports whether b, which is not empty, lies in the map. Safe for concurrent use.
func (m *Map) Holds(b []byte) bool {
	ws := m.windows.Load()
	if ws == nil {
		return false
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	for _, w := range *ws {
		if w != nil && at-uintptr(unsafe.Pointer(unsafe.SliceData(w))) < uintptr(len(w)) { // wraps where at is below
			return true
		}
	}
	return false
}

// Drop makes the map forget the pages of a range of the file, so that they are read anew. Before a range is written
// again its pages must be dropped here and in the page cache (fadvise DONTNEED). off and n are multiples of 4 KiB.
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
				return fmt.Errorf("map of %s at offset %d: %w", m.f.Name(), off, err)
			}
		}
		off, n = off+part, n-part
	}
	return nil
}

// Close unmaps everything. Views are invalid from then on; a second Close does nothing.
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
