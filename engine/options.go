package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// SegmentMode says what becomes of segments whose contents are dead.
type SegmentMode int

// The segment modes.
const (
	GC     SegmentMode = iota // recycled
	Linear                    // kept, in order: for standalone logs
)

// Compression says how page messages are compressed.
type Compression int

// The kinds of compression.
const (
	CompressionNone Compression = iota
	CompressionZstd
)

// IOMode says how the log is written.
type IOMode int

// The ways of writing the log.
const (
	IOAuto    IOMode = iota // io_uring if it works, else system calls
	IOUring                 // io_uring, or an error from Open
	IOSyscall               // system calls
)

// DirectMode says whether the log is written with O_DIRECT.
type DirectMode int

// The ways of using O_DIRECT.
const (
	DirectAuto DirectMode = iota // if the file system takes it
	DirectOn                     // or an error from Open
	DirectOff
)

// Options configure a store. The zero value of every field means its default, which is given in brackets. Unless a comment
// says otherwise a field may change from one opening to the next.
type Options struct {
	// SegmentSize in bytes [8 MiB], 16 KiB … 16 MiB, a multiple of 4096. Fixed when the store is made: later
	// openings may leave it zero, and must not say another.
	SegmentSize int
	// IOBuffers is how many segments can be in memory while they are filled and written [3], 2 … 32. Costs
	// SegmentSize bytes outside the Go heap each.
	IOBuffers int
	// CacheCapacity is the bound on the bytes of pages that are kept in memory, views of the disk included [1 GiB]; it is passed by a twentieth at most, and for a moment by what each goroutine has just read or written. Where it
	// is small, less than is written between flushes is kept. See also SetCacheCapacity.
	CacheCapacity int64
	// CopyOnRead copies what is read from the disk into the heap. Else a page that lies there in one piece, of Bytes or of a Materializer that aliases, is a
	// view of the mapped file: to look at it after the disk has failed, or after somebody has cut the file short, is a fault that ends the process
	// unless debug.SetPanicOnFault is set.
	CopyOnRead bool
	// ConsolidateAfter is the number of fragments above which a page is rewritten as one [10], 1 … 1<<20. Lower: faster reads from
	// disk, more written.
	ConsolidateAfter int
	// FlushEvery is how long a write may stay in memory only when nobody waits for it [500 ms]; negative: for ever.
	FlushEvery time.Duration
	// SnapshotEvery is about how many messages are written between snapshots [1 000 000]. Fewer: a quicker opening after a crash, more written: 16 bytes for
	// each page.
	SnapshotEvery int
	// SnapshotDir is where snapshots go [the store's directory]. A store that does not find one there opens from the log alone.
	SnapshotDir string
	// CleanupThreshold is the live share below which a segment is worth cleaning [0.40], 0.01 … 1, once there is some room to gain. When there is much,
	// fuller ones are cleaned too.
	CleanupThreshold float64
	// CleanupSkew raises the threshold for old segments, by up to so many percent for the oldest [10], 0 … 98.
	CleanupSkew int
	// SegmentMode says whether segments are recycled [GC].
	SegmentMode SegmentMode
	// Temporary removes the store at Close; an opening that fails removes only what it has made. Without a directory the store is made
	// under /dev/shm, or os.TempDir without that.
	Temporary bool
	// ReadOnly opens a store that is there with a lock that others who read share, and writes nothing at all, not even repairs. It shows
	// what is stable; whatever would write is ErrReadOnly. Of SnapshotEvery and what concerns writing nothing is used.
	ReadOnly bool
	// Compression of page messages [none], where it makes them smaller. Those of a store may be compressed or not, so it may change.
	Compression Compression
	// CompressionLevel [5], 1 … 22, as zstd counts.
	CompressionLevel int
	// IDPersistInterval is how many ids GenerateID hands out between durable notes of them [1 000 000]. A crash skips up to twice
	// as many. Every Tx draws one. At most 1<<32, so that ids never run out. An opening that finds no clean close adds the double of
	// the larger of the old and new interval.
	IDPersistInterval uint64
	// IO is how the log is written [IOAuto].
	IO IOMode
	// Direct is whether O_DIRECT is used [DirectAuto].
	Direct DirectMode
	// PrintProfileOnClose writes Stats to the Logger at Close.
	PrintProfileOnClose bool
	// Logger gets the few messages there are [none].
	Logger *slog.Logger

	fs         vfs.FS // test seam: the simulated disk
	eager      bool   // test seam: clean whatever can be cleaned
	logAlone   bool   // open without the snapshot
	unchecked  bool   // test seam: verify no snapshot as a whole
	verbatim   bool   // Salvage: nothing is merged, ever
	foreground bool   // test seam: nothing is done to the disk that a call does not wait for, but by the flusher; set with fs
}

const (
	defaultSegmentSize       = 8 << 20
	defaultIOBuffers         = 3
	defaultCacheCapacity     = 1 << 30
	defaultConsolidateAfter  = 10
	defaultFlushEvery        = 500 * time.Millisecond
	defaultSnapshotEvery     = 1_000_000
	defaultCleanupThreshold  = 0.40
	defaultCleanupSkew       = 10
	defaultCompressionLevel  = 5
	defaultIDPersistInterval = 1_000_000
	segmentSizeMultiple      = 4096
	// maxIDPersistInterval leaves room for a billion crashes below maxID.
	maxIDPersistInterval = 1 << 32
	// maxID is what an id counter on disk may say; above it ids would come to their end, and begin again.
	maxID = math.MaxInt64
	// zeroAfter: segments that last longer than this are zeroed ahead; 8 MiB in that time is 80 MiB/s.
	zeroAfter = 100 * time.Millisecond
)

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// withDefaults returns a copy with every zero field set to its default, but for SegmentSize, which the store decides.
func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	orDefault(&c.IOBuffers, defaultIOBuffers)
	orDefault(&c.CacheCapacity, defaultCacheCapacity)
	orDefault(&c.ConsolidateAfter, defaultConsolidateAfter)
	orDefault(&c.FlushEvery, defaultFlushEvery)
	orDefault(&c.SnapshotEvery, defaultSnapshotEvery)
	orDefault(&c.CleanupThreshold, defaultCleanupThreshold)
	orDefault(&c.CleanupSkew, defaultCleanupSkew)
	orDefault(&c.CompressionLevel, defaultCompressionLevel)
	orDefault(&c.IDPersistInterval, defaultIDPersistInterval)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.fs == nil {
		c.fs = osfs.OS
	} else if c.fs != osfs.OS {
		c.foreground = true
	}
	return c
}

// Validate reports every field that is out of its bounds, in one error.
func (o *Options) Validate() error {
	c := o.withDefaults()
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	s := c.SegmentSize
	bad(s == 0 || s >= format.MinSegmentSize && s <= format.MaxSegmentSize && s%segmentSizeMultiple == 0,
		"SegmentSize %d: want %d … %d, a multiple of %d", s, format.MinSegmentSize, format.MaxSegmentSize, segmentSizeMultiple)
	bad(c.IOBuffers >= 2 && c.IOBuffers <= 32, "IOBuffers %d: want 2 … 32", c.IOBuffers)
	bad(c.CacheCapacity > 0, "CacheCapacity %d: want a positive number of bytes", c.CacheCapacity)
	bad(c.ConsolidateAfter >= 1 && c.ConsolidateAfter <= 1<<20, "ConsolidateAfter %d: want 1 … %d", c.ConsolidateAfter, 1<<20)
	bad(c.SnapshotEvery > 0, "SnapshotEvery %d: want a positive number of updates", c.SnapshotEvery)
	bad(c.CleanupThreshold >= 0.01 && c.CleanupThreshold <= 1, "CleanupThreshold %v: want 0.01 … 1", c.CleanupThreshold)
	bad(c.CleanupSkew >= 0 && c.CleanupSkew < 99, "CleanupSkew %d: want 0 … 98", c.CleanupSkew)
	bad(c.SegmentMode == GC || c.SegmentMode == Linear, "SegmentMode %d: want GC or Linear", c.SegmentMode)
	bad(c.Compression == CompressionNone || c.Compression == CompressionZstd, "Compression %d: want CompressionNone or CompressionZstd", c.Compression)
	bad(c.CompressionLevel >= 1 && c.CompressionLevel <= 22, "CompressionLevel %d: want 1 … 22", c.CompressionLevel)
	bad(c.IDPersistInterval <= maxIDPersistInterval, "IDPersistInterval %d: want at most %d", c.IDPersistInterval,
		uint64(maxIDPersistInterval))
	bad(c.IO >= IOAuto && c.IO <= IOSyscall, "IO %d: want IOAuto, IOUring or IOSyscall", c.IO)
	bad(c.Direct >= DirectAuto && c.Direct <= DirectOff, "Direct %d: want DirectAuto, DirectOn or DirectOff", c.Direct)
	bad(!c.ReadOnly || !c.Temporary, "ReadOnly and Temporary exclude each other")
	if len(errs) > 0 {
		return fmt.Errorf("bad options: %w", errors.Join(errs...))
	}
	return nil
}

func (o *Options) device() vfs.DeviceOptions {
	d := vfs.DeviceOptions{Depth: 8}
	switch o.IO {
	case IOUring:
		d.Ring = vfs.ModeOn
	case IOSyscall:
		d.Ring = vfs.ModeOff
	}
	switch o.Direct {
	case DirectOn:
		d.Direct = vfs.ModeOn
	case DirectOff:
		d.Direct = vfs.ModeOff
	}
	return d
}
