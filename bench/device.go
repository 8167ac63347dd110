package bench

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DirectLog is the floor of a log: it copies what it is given into large buffers and writes these directly to the disk,
// in order and over and over again into the same space, without headers or checksums.
type DirectLog struct {
	f    *os.File
	mu   sync.Mutex
	at   int   // bytes in the first buffer
	off  int64 // of the next write
	size int64
	// current is the buffer that is being filled. The others are in free, or being written.
	current []byte
	free    chan []byte
	wg      sync.WaitGroup
	failed  error
}

const (
	directBuffer  = 8 << 20
	directBuffers = 3
)

// NewDirectLog makes a log in the file name, which has size bytes, a multiple of 8 MiB.
func NewDirectLog(name string, size int64) (*DirectLog, error) {
	f, err := openDirect(name, unix.O_DSYNC)
	if err != nil {
		return nil, err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l := &DirectLog{f: f, size: size, free: make(chan []byte, directBuffers)}
	for range directBuffers {
		l.free <- aligned(directBuffer)
	}
	l.current = <-l.free
	return l, nil
}

// openDirect opens a file, or makes it, for I/O that bypasses the file cache, if the file system can do that.
func openDirect(name string, flags int) (*os.File, error) {
	const all = os.O_CREATE | os.O_RDWR
	f, err := os.OpenFile(name, all|flags|unix.O_DIRECT, 0o644)
	if errors.Is(err, unix.EINVAL) {
		f, err = os.OpenFile(name, all|flags, 0o644)
	}
	return f, err
}

// aligned returns n bytes that direct I/O can use.
func aligned(n int) []byte {
	const block = 4096
	b := make([]byte, n+block)
	return b[-uintptr(unsafe.Pointer(&b[0]))%block:][:n]
}

// Append appends b. It returns the error of an earlier write. Safe for concurrent use.
func (l *DirectLog) Append(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(b) > 0 && l.failed == nil {
		n := copy(l.current[l.at:], b)
		if b, l.at = b[n:], l.at+n; l.at == len(l.current) {
			l.turn()
		}
	}
	return l.failed
}

// turn writes the current buffer in the background and continues with another one. The caller holds l.mu.
func (l *DirectLog) turn() {
	full, off := l.current, l.off
	l.off = (l.off + directBuffer) % l.size
	l.wg.Go(func() {
		_, err := l.f.WriteAt(full, off)
		l.free <- full
		if err != nil {
			l.mu.Lock()
			l.failed = err
			l.mu.Unlock()
		}
	})
	l.current, l.at = <-l.free, 0
}

// Flush writes what was appended. The rest of its buffer is written, too.
func (l *DirectLog) Flush() error {
	l.mu.Lock()
	l.turn()
	l.mu.Unlock()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Close closes the file. Nothing may be appended any more.
func (l *DirectLog) Close() error {
	l.wg.Wait()
	return l.f.Close()
}

// FloorNodes is the floor of a NodeStore: the popular nodes are in memory from the beginning and stay there, the others
// are read directly from the disk, each at its known place, and updates are appended to a DirectLog.
type FloorNodes struct {
	f      *os.File
	memory []byte
	places []int32 // of each node in memory; −1: it is on the disk
	log    *DirectLog
	room   sync.Pool // of *[]byte: a block for a node
}

var _ NodeStore = (*FloorNodes)(nil)

const (
	floorBlock   = 16 << 10  // space of a node on the disk
	floorLogFile = 256 << 20 // size of the log's file
)

// OpenFloorNodes opens the store in dir, or makes one, for count nodes of which those in popular are kept in memory.
func OpenFloorNodes(dir string, count int, popular []int) (_ *FloorNodes, err error) {
	s := &FloorNodes{places: make([]int32, count)}
	s.room.New = func() any {
		b := aligned(floorBlock)
		return &b
	}
	if s.memory, err = hugeMemory(max(1, len(popular)) * NodeSize); err != nil {
		return nil, err
	}
	if s.f, err = openDirect(filepath.Join(dir, "nodes"), 0); err != nil {
		return nil, err
	}
	if s.log, err = NewDirectLog(filepath.Join(dir, "log"), floorLogFile); err != nil {
		return nil, err
	}
	for i := range s.places {
		s.places[i] = -1
	}
	if info, err := s.f.Stat(); err != nil || info.Size() == 0 {
		return s, err
	}
	for i, node := range popular {
		if err := s.fromDisk(node, func(b []byte) error { copy(s.node(i), b); return nil }); err != nil {
			return nil, err
		}
		s.places[node] = int32(i)
	}
	return s, nil
}

// node returns a node in memory.
func (s *FloorNodes) node(place int) []byte { return s.memory[place*NodeSize:][:NodeSize] }

// fromDisk reads a node and calls f with it.
func (s *FloorNodes) fromDisk(node int, f func([]byte) error) error {
	b := s.room.Get().(*[]byte)
	defer s.room.Put(b)
	if _, err := s.f.ReadAt(*b, int64(node)*floorBlock); err != nil {
		return err
	}
	return f((*b)[:NodeSize])
}

// Load implements NodeStore.
func (s *FloorNodes) Load(count int) error {
	const blocks = 256 // of a write
	values, b := NewValues(0, NodeSize), aligned(blocks*floorBlock)
	for i := range count {
		copy(b[i%blocks*floorBlock:], NewNode(i, values))
		if n := i%blocks + 1; n == blocks || i == count-1 {
			if _, err := s.f.WriteAt(b[:n*floorBlock], int64(i+1-n)*floorBlock); err != nil {
				return err
			}
		}
	}
	return s.f.Sync()
}

// Read implements NodeStore.
func (s *FloorNodes) Read(key uint64) error {
	node := nodeOf(key)
	if place := s.places[node]; place >= 0 {
		return lookAtItem(s.node(int(place)), key)
	}
	return s.fromDisk(node, func(b []byte) error { return lookAtItem(b, key) })
}

// Update implements NodeStore. A change of a node that is not in memory is in the log only.
func (s *FloorNodes) Update(item []byte) error {
	if place := s.places[nodeOf(itemKey(item))]; place >= 0 {
		putItems(s.node(int(place)), item)
	} else if err := s.Read(itemKey(item)); err != nil {
		return err
	}
	return s.log.Append(item)
}

// Close implements NodeStore.
func (s *FloorNodes) Close() error {
	return errors.Join(s.log.Close(), s.f.Close(), unix.Munmap(s.memory))
}

// FloorPages is the floor of an Updater that has less memory than pages: a quarter of the pages is in memory, the
// others are read directly from the disk, each at its known place, and changes are appended to a DirectLog. A page has
// 16 KiB.
type FloorPages struct{ nodes *FloorNodes }

var _ Updater = FloorPages{}

// OpenFloorPages opens the store in dir, or makes one, for count pages.
func OpenFloorPages(dir string, count int) (FloorPages, error) {
	quarter := make([]int, count/4)
	for i := range quarter {
		quarter[i] = i
	}
	nodes, err := OpenFloorNodes(dir, count, quarter)
	return FloorPages{nodes}, err
}

// loadMany writes pages to their places.
func (s FloorPages) loadMany(first int, values [][]byte) error {
	b := aligned(len(values) * floorBlock)
	for i, v := range values {
		copy(b[i*floorBlock:][:floorBlock], v)
	}
	_, err := s.nodes.f.WriteAt(b, int64(first)*floorBlock)
	return err
}

// Get implements Store.
func (s FloorPages) Get(page int) (int, error) {
	if place := s.nodes.places[page]; place >= 0 {
		return look(s.nodes.node(int(place))), nil
	}
	return NodeSize, s.nodes.fromDisk(page, func(b []byte) error { look(b); return nil })
}

// Replace implements Store.
func (s FloorPages) Replace(_ int, value []byte) error { return s.nodes.log.Append(value) }

// Link implements Store.
func (s FloorPages) Link(_ int, delta []byte) error { return s.nodes.log.Append(delta) }

// Commit implements Store. Nothing becomes durable.
func (s FloorPages) Commit(page int, delta []byte) error { return s.Link(page, delta) }

// BlindLink implements Updater.
func (s FloorPages) BlindLink(page int, delta []byte) error { return s.Link(page, delta) }

// GetLink implements Updater.
func (s FloorPages) GetLink(page int, delta []byte) error {
	if _, err := s.Get(page); err != nil {
		return err
	}
	return s.Link(page, delta)
}

// FragmentsLink implements Updater.
func (s FloorPages) FragmentsLink(page int, delta []byte) error { return s.GetLink(page, delta) }

// GetReplace implements Updater.
func (s FloorPages) GetReplace(page int, value []byte) error { return s.GetLink(page, value) }

// GetMany implements Updater.
func (s FloorPages) GetMany(pages []int) error {
	for _, page := range pages {
		if _, err := s.Get(page); err != nil {
			return err
		}
	}
	return nil
}

// Flush implements Store.
func (s FloorPages) Flush() error { return s.nodes.log.Flush() }

// Close implements Store.
func (s FloorPages) Close() error { return s.nodes.Close() }
