package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"pagecache/engine/internal/checkpoint"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/report"
	"pagecache/engine/internal/seam"
	"pagecache/internal/osfs"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// SegmentMode says what happens to segments without live data.
type SegmentMode int

// The segment modes.
const (
	SegmentModeGC     SegmentMode = iota // they are recycled
	SegmentModeLinear                    // they are kept, in order
)

// String returns the name of the mode.
func (m SegmentMode) String() string { return enumName("SegmentMode", int(m), "gc", "linear") }

// Compression says how the messages of pages are compressed.
type Compression int

// The kinds of compression.
const (
	CompressionNone Compression = iota
	CompressionZstd
)

// String returns the name of the compression.
func (c Compression) String() string { return enumName("Compression", int(c), "none", "zstd") }

// IO says how the log is written.
type IO int

// The ways of writing the log.
const (
	IOAuto    IO = iota // io_uring if it works, else system calls
	IOUring             // io_uring, or Open fails
	IOSyscall           // system calls
)

// String returns the name of the way.
func (i IO) String() string { return enumName("IO", int(i), "auto", "io_uring", "syscall") }

// Direct says whether the log is written with O_DIRECT.
type Direct int

// The choices.
const (
	DirectAuto Direct = iota // if the file system supports it
	DirectOn                 // with O_DIRECT, or Open fails
	DirectOff                // through the page cache
)

// String returns the name of the choice.
func (d Direct) String() string { return enumName("Direct", int(d), "auto", "on", "off") }

// enumName returns the i-th name, or a text with the number if there is none.
func enumName(enum string, i int, names ...string) string {
	if i >= 0 && i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", enum, i)
}

// Options configure a store. The zero value of every field means its default, given in brackets. Unless its comment
// says otherwise, a field may change from one opening to the next.
type Options struct {
	// SegmentSize is the length of a segment in bytes [8 MiB]: 16 KiB … 16 MiB, a multiple of 4096. It is fixed when
	// the store is made; later openings leave it zero or repeat it.
	SegmentSize int
	// IOBuffers is the number of segments that can be in memory while they are filled and written [3], 2 … 32. Each
	// costs SegmentSize bytes outside the Go heap.
	IOBuffers int
	// CacheCapacity limits resident page bytes, mapped views included [1 GiB]. The default is less if that exceeds a
	// quarter of the memory of the machine, or of the limit of the process's cgroup (version 1 or 2), as they are when
	// the process opens its first store. The capacity may be exceeded by 5 %, and briefly by one value per goroutine. A
	// capacity smaller than the data written between flushes also limits how much unflushed data stays resident. See
	// SetCacheCapacity, and Stats for the capacity in use.
	CacheCapacity int64
	// EvictionWrites limits the bytes that evictions write, in percent of those that callers write [10], up to 1000.
	// Before a page of several messages is evicted, it may be written as one, so that the next Get reads one message.
	// A higher number makes such reads faster and writes more; negative means that evictions write nothing. While
	// callers read and write next to nothing, the limit does not apply; each page is then written at most once.
	EvictionWrites int
	// CopyOnRead copies values read from disk into the heap. Without it, a page stored as one message may be returned
	// as a view of the memory-mapped file (Bytes, or a Decode that aliases). Reading such a view after the disk fails
	// or the file is truncated raises SIGBUS, which crashes the process unless debug.SetPanicOnFault is set.
	CopyOnRead bool
	// ConsolidateAfter is the number of fragments above which a page is rewritten as one [10], 1 … 1<<20. A lower
	// number makes reads from disk faster and writes more.
	ConsolidateAfter int
	// FlushEvery is the longest time an unawaited write stays only in memory [500 ms]. Negative disables background
	// flushing, except once, some 20 ms after the last call that waited for a write.
	FlushEvery time.Duration
	// SnapshotEvery is about the number of messages written between snapshots [1 000 000], counted across openings. A
	// lower number makes Open after a crash faster and writes more: 16 bytes for each page.
	SnapshotEvery int
	// SnapshotDir is the directory for snapshots [the store's directory]. A store that finds no snapshot of its own
	// there opens from the log alone. Stores can share it.
	SnapshotDir string
	// CleanupThreshold is the live fraction below which a segment is cleaned [0.40], 0.01 … 1, once garbage exceeds 20
	// % of live data. Above 43 %, any segment is cleaned; in a store of few segments this begins earlier, so that the
	// file stays within 1.7 times the live data. While nothing is written, any segment is cleaned until garbage is
	// below 5 %.
	CleanupThreshold float64
	// CleanupSkew raises the threshold for old segments, by up to this many percent for the oldest [0], 0 … 98.
	CleanupSkew int
	// SegmentMode says whether segments are recycled [SegmentModeGC].
	SegmentMode SegmentMode
	// Temporary removes the store at Close; an Open that fails removes only what it has made. With an empty directory
	// name the store is made below /dev/shm, or below os.TempDir if /dev/shm is missing, read only, or has no room for
	// 16 segments. The next such Open, of any process, removes the stores that killed processes have left there.
	Temporary bool
	// ReadOnly opens an existing store under a shared lock and writes nothing, not even repairs. It shows the stable
	// contents; every mutating call returns ErrReadOnly. Options that concern writing are ignored.
	ReadOnly bool
	// Compression is the compression of page messages [CompressionNone]. A message that would not get shorter is
	// written as it is. A store may hold messages of every kind.
	Compression Compression
	// CompressionLevel is the zstd level [5], 1 … 22.
	CompressionLevel int
	// IDPersistInterval is the number of ids that GenerateID returns between durable notes of them [1 000 000], at most
	// 1<<32. Each Begin also consumes an id. After an unclean shutdown, ids resume past twice the larger of the old and
	// new interval.
	IDPersistInterval uint64
	// IO is the way the log is written [IOAuto].
	IO IO
	// Direct says whether the log is written with O_DIRECT [DirectAuto].
	Direct Direct
	// PrintProfileOnClose writes Stats to the Logger at Close.
	PrintProfileOnClose bool
	// Logger gets a line for each of the Events [none].
	Logger *slog.Logger
	// Events are callbacks that announce failures and their end [none]. See docs/EVENTS.md.
	Events Events `json:"-"`
	// SlowWrite is the time from which on a device write counts as slow, and is announced as an event [1 s]. Negative
	// means never.
	SlowWrite time.Duration

	seam   seam.Options     // for this module's own tests, Check and Salvage
	report *report.Reporter // of the opening; set by withDefaults
}

// Test harnesses outside of this package reach the seam through packages seam and vfs, which only this module can
// import.
func init() {
	seam.Set = func(options any, s seam.Options) { options.(*Options).seam = s }
	vfs.SetFS = func(options any, fs vfs.FS) { options.(*Options).seam.FS = fs }
}

const (
	defaultIOBuffers         = 3
	defaultCacheCapacity     = 1 << 30
	defaultEvictionWrites    = 10
	defaultConsolidateAfter  = 10
	defaultFlushEvery        = 500 * time.Millisecond
	defaultSnapshotEvery     = 1_000_000
	defaultCleanupThreshold  = 0.40
	defaultCompressionLevel  = 5
	defaultIDPersistInterval = 1_000_000
	defaultSlowWrite         = time.Second
	segmentSizeMultiple      = 4096
	maxEvictionWrites        = 1000
	// maxIDPersistInterval leaves room for a billion crashes before ids run out.
	maxIDPersistInterval = 1 << 32
)

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// withDefaults returns a copy with every zero field set to its default, except SegmentSize, which the store decides.
func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	orDefault(&c.IOBuffers, defaultIOBuffers)
	orDefault(&c.CacheCapacity, capacityFor(osfs.MemoryLimit()))
	orDefault(&c.EvictionWrites, defaultEvictionWrites)
	orDefault(&c.ConsolidateAfter, defaultConsolidateAfter)
	orDefault(&c.FlushEvery, defaultFlushEvery)
	orDefault(&c.SnapshotEvery, defaultSnapshotEvery)
	orDefault(&c.CleanupThreshold, defaultCleanupThreshold)
	orDefault(&c.CompressionLevel, defaultCompressionLevel)
	orDefault(&c.IDPersistInterval, defaultIDPersistInterval)
	orDefault(&c.SlowWrite, defaultSlowWrite)
	c.report = report.New(report.Config{Logger: c.Logger, Events: c.Events, Announced: isAnnounced})
	if c.seam.FS == nil {
		c.seam.FS = osfs.OS
	} else if c.seam.FS != osfs.OS {
		c.seam.Foreground = true
	}
	c.seam.Impatient = c.seam.Impatient || c.seam.Foreground // there, only the caller of Close can end a batch
	return c
}

// capacityFor returns the default capacity on a machine with the given bytes of memory; 0: that is not known.
func capacityFor(memory int64) int64 {
	const share = 4 // of the memory
	if memory == 0 {
		return defaultCacheCapacity
	}
	return max(1, min(defaultCacheCapacity, memory/share))
}

// Validate reports every field that is out of its bounds, in one error. A nil Options is valid.
func (o *Options) Validate() error {
	c := o.withDefaults()
	var errs []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	s := c.SegmentSize
	require(s == 0 || s >= format.MinSegmentSize && s <= format.MaxSegmentSize && s%segmentSizeMultiple == 0,
		"SegmentSize %d: want %d … %d, a multiple of %d", s, format.MinSegmentSize, format.MaxSegmentSize,
		segmentSizeMultiple)
	require(c.IOBuffers >= 2 && c.IOBuffers <= 32, "IOBuffers %d: want 2 … 32", c.IOBuffers)
	require(c.CacheCapacity > 0, "CacheCapacity %d: want a positive number of bytes", c.CacheCapacity)
	require(c.EvictionWrites <= maxEvictionWrites, "EvictionWrites %d: want at most %d", c.EvictionWrites,
		maxEvictionWrites)
	require(c.ConsolidateAfter >= 1 && c.ConsolidateAfter <= 1<<20,
		"ConsolidateAfter %d: want 1 … %d", c.ConsolidateAfter, 1<<20)
	require(c.SnapshotEvery > 0, "SnapshotEvery %d: want a positive number of messages", c.SnapshotEvery)
	require(c.CleanupThreshold >= 0.01 && c.CleanupThreshold <= 1,
		"CleanupThreshold %v: want 0.01 … 1", c.CleanupThreshold)
	require(c.CleanupSkew >= 0 && c.CleanupSkew < 99, "CleanupSkew %d: want 0 … 98", c.CleanupSkew)
	require(c.SegmentMode == SegmentModeGC || c.SegmentMode == SegmentModeLinear,
		"SegmentMode %d: want SegmentModeGC or SegmentModeLinear", c.SegmentMode)
	require(c.Compression == CompressionNone || c.Compression == CompressionZstd,
		"Compression %d: want CompressionNone or CompressionZstd", c.Compression)
	require(c.CompressionLevel >= 1 && c.CompressionLevel <= 22, "CompressionLevel %d: want 1 … 22", c.CompressionLevel)
	require(c.IDPersistInterval <= maxIDPersistInterval, "IDPersistInterval %d: want at most %d", c.IDPersistInterval,
		uint64(maxIDPersistInterval))
	require(c.IO >= IOAuto && c.IO <= IOSyscall, "IO %d: want IOAuto, IOUring or IOSyscall", c.IO)
	require(c.Direct >= DirectAuto && c.Direct <= DirectOff,
		"Direct %d: want DirectAuto, DirectOn or DirectOff", c.Direct)
	require(!c.ReadOnly || !c.Temporary, "ReadOnly and Temporary exclude each other")
	if len(errs) > 0 {
		return fmt.Errorf("bad options: %w", errors.Join(errs...))
	}
	return nil
}

// deviceDepth is the number of log writes in flight.
const deviceDepth = 8

// device returns the way the log is written.
func (o *Options) device() vfs.DeviceOptions {
	d := vfs.DeviceOptions{Depth: deviceDepth}
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

// storeConfig returns the configuration of the page-less store. onSegment is called when a segment is opened.
func (o *Options) storeConfig(isLog bool, onSegment func()) logstore.Config {
	return logstore.Config{FS: o.seam.FS, Device: o.device(), Report: o.report, Log: isLog, SegmentSize: o.SegmentSize,
		IOBuffers: o.IOBuffers, FlushEvery: max(0, o.FlushEvery), IDInterval: o.IDPersistInterval,
		Cleaned: o.SegmentMode == SegmentModeGC && !isLog, Temporary: o.Temporary, ReadOnly: o.ReadOnly,
		Foreground: o.seam.Foreground, ZeroStep: o.seam.ZeroStep, FirstStep: o.seam.FirstStep, OnSegment: onSegment,
		SlowWrite: max(0, o.SlowWrite)}
}

// Destroy removes the files of the store or log in dir: log, superblock, blobs and snapshots. Everything else stays,
// dir itself and snapshots in another directory (Options.SnapshotDir) included. The store may be corrupt, but its
// superblock or a header of its log must show that it is one. It must not be open; Destroy waits up to two seconds for
// another opening to release it, like Open. Errors: ErrLocked, ErrFormat for a store of another version, fs.ErrNotExist
// if there is no such directory or no store in it, and those of the operating system. After the latter, or a crash,
// some files may be gone, and Destroy can be called again. Safe for concurrent use.
func Destroy(dir string) error { return destroy(osfs.OS, dir) }

func destroy(fsys vfs.FS, dir string) error { return logstore.Destroy(fsys, dir) }

// A CheckReport says what Check verified.
type CheckReport struct {
	Segments  int   // slots that hold a part of the log
	Pages     int64 // pages with a value
	Fragments int64 // messages that they consist of
	Roots     int64
	Blobs     int64
	Bytes     int64 // of encoded values
	Records   int64 // of a standalone log
	Strays    int64 // blobs that no page refers to, as a crash leaves them; the next Open removes them
	Problems  int
	Snapshot  string // path of the snapshot that was compared with the log; empty if there is none
}

// CheckpointInfo describes the streams of a checkpoint.
type CheckpointInfo = checkpoint.Info
