package job

import (
	"fmt"
	"time"

	"pagecache/cmd/pcbench/internal/units"
	"pagecache/engine"
)

// ownOptions are the options that fio does not have, without those of the engine.
var ownOptions = []Option{
	{Name: "delta", Arg: "size", Own: true, Help: "size of a delta: writes are Links of deltas, not Replaces of " +
		"whole " +
		"pages", set: size(1, func(s *Spec) *int64 { return &s.Own.Delta })},
	{Name: "cold", Own: true, Help: "keep the whole run cold, as direct=1 does in fio: the page cache keeps no page, " +
		"and " +
		"the kernel's is emptied all the time", set: onOff(func(s *Spec) *bool { return &s.Own.Cold })},
	{Name: "batch", Arg: "number", Own: true, Help: "write batches of this number of pages, which are recovered " +
		"whole or " +
		"not " +
		"at all; a batch is one operation", set: number(1, 1<<16, func(s *Spec) *int { return &s.Own.Batch })},
	{Name: "transaction", Arg: "number", Own: true, Help: "write this number of pages in one transaction, with " +
		"retries after conflicts; a transaction is one operation",
		set: number(1, 1<<12, func(s *Spec) *int { return &s.Own.Transaction })},
	{Name: "prefetch", Arg: "number", Own: true, Help: "pages to read ahead in order", set: number(1, 1<<16,
		func(s *Spec) *int { return &s.Own.Prefetch })},
	{Name: "snapshots", Arg: "time", Own: true, Help: "interval of snapshots that are written beside the load",
		set: duration(
			time.Second, func(s *Spec) *time.Duration { return &s.Own.Snapshots })},
	{Name: "log", Own: true, Help: "use a standalone log: a write appends a record of bs bytes, a read reads one; " +
		"the " +
		"oldest beyond size are dropped", set: onOff(func(s *Spec) *bool { return &s.Own.Log })},
	{Name: "node", Own: true, Help: "pages are nodes of a B-tree, 16k each unless bs is given: a read looks up a " +
		"key, a write inserts or updates a record of delta bytes (128), with its key of 16",
		set: onOff(func(s *Spec) *bool { return &s.Own.Node })},
}

var (
	ioNames          = []string{"auto", "uring", "syscall"}
	modeNames        = []string{"gc", "linear"}
	compressionNames = []string{"none", "zstd"}
)

// engineOptions are the fields of engine.Options.
var engineOptions = []Option{
	{Name: "cache", Arg: "size", Default: "1g", Field: "CacheCapacity", Help: "limit of the resident pages",
		set: size(1,
			func(s *Spec) *int64 { return &s.Engine.CacheCapacity })},
	{Name: "segment", Arg: "size", Default: "8m", Field: "SegmentSize", Help: "size of a segment of the log",
		set: func(s *Spec, v string) error {
			n, err := toSize(v, 1)
			if n > 1<<30 { // check knows the limit
				n = 1 << 30
			}
			s.Engine.SegmentSize = int(n)
			return err
		}},
	{Name: "io_buffers", Arg: "number", Default: "3", Field: "IOBuffers",
		Help: "segments in memory while they are filled " +
			"and written", set: number(2, 32, func(s *Spec) *int { return &s.Engine.IOBuffers })},
	{Name: "io", Arg: "how", Values: ioNames, Default: "auto", Field: "IO",
		Help: "how the log is written", set: choice(ioNames, []engine.IO{engine.IOAuto, engine.IOUring,
			engine.IOSyscall},
			func(s *Spec) *engine.IO { return &s.Engine.IO })},
	{Name: "copy_on_read", Field: "CopyOnRead", Help: "copy values that are read into the heap", set: onOff(
		func(s *Spec) *bool { return &s.Engine.CopyOnRead })},
	{Name: "consolidate_after", Arg: "number", Default: "10", Field: "ConsolidateAfter",
		Help: "fragments above which a " +
			"page is rewritten as one", set: number(1, 1<<20,
			func(s *Spec) *int { return &s.Engine.ConsolidateAfter })},
	{Name: "flush_every", Arg: "time", Default: "500ms", Field: "FlushEvery", Help: "longest time that an unawaited " +
		"write stays only in memory; never disables flushing", set: func(s *Spec, v string) error {
		return orNever(&s.Engine.FlushEvery, v)
	}},
	{Name: "eviction_writes", Arg: "percent", Default: "10", Field: "EvictionWrites",
		Help: "most bytes that evictions write, of those that jobs write; never: none",
		set: func(s *Spec, v string) error {
			s.Engine.EvictionWrites = -1
			if v == "never" {
				return nil
			}
			n, err := toInt(v, 1, 1000)
			s.Engine.EvictionWrites = int(n)
			return err
		}},
	{Name: "slow_write", Arg: "time", Default: "1s", Field: "SlowWrite",
		Help: "time from which on a device write is reported as slow; never: none",
		set:  func(s *Spec, v string) error { return orNever(&s.Engine.SlowWrite, v) }},
	{Name: "snapshot_every", Arg: "number", Default: "1000000", Field: "SnapshotEvery", Help: "messages between two " +
		"snapshots", set: number(1, 1<<40, func(s *Spec) *int { return &s.Engine.SnapshotEvery })},
	{Name: "snapshot_dir", Arg: "dir", Field: "SnapshotDir", Help: "directory for snapshots (default that of the " +
		"store)",
		set: text(func(s *Spec) *string { return &s.Engine.SnapshotDir })},
	{Name: "cleanup_threshold", Arg: "share", Default: "0.4", Field: "CleanupThreshold",
		Help: "live fraction below which " +
			"a segment is cleaned", set: float(0.01, 1, func(s *Spec) *float64 { return &s.Engine.CleanupThreshold })},
	{Name: "cleanup_skew", Arg: "percent", Default: "0", Field: "CleanupSkew", Help: "raises the threshold for old " +
		"segments", set: number(0, 98, func(s *Spec) *int { return &s.Engine.CleanupSkew })},
	{Name: "segment_mode", Arg: "how", Values: modeNames, Default: "gc", Field: "SegmentMode",
		Help: "segments without live data are recycled, or kept in order", set: choice(modeNames,
			[]engine.SegmentMode{engine.SegmentModeGC, engine.SegmentModeLinear},
			func(s *Spec) *engine.SegmentMode { return &s.Engine.SegmentMode })},
	{Name: "compression", Arg: "kind", Values: compressionNames, Default: "none", Field: "Compression",
		Help: "compression of pages", set: choice(compressionNames,
			[]engine.Compression{engine.CompressionNone, engine.CompressionZstd},
			func(s *Spec) *engine.Compression { return &s.Engine.Compression })},
	{Name: "compression_level", Arg: "number", Default: "5", Field: "CompressionLevel", Help: "level of zstd",
		set: number(1, 22, func(s *Spec) *int { return &s.Engine.CompressionLevel })},
	{Name: "id_persist_interval", Arg: "number", Default: "1000000", Field: "IDPersistInterval",
		Help: "ids between two " +
			"durable notes of them", set: func(s *Spec, v string) error {
			n, err := toInt(v, 1, 1<<32)
			s.Engine.IDPersistInterval = uint64(n)
			return err
		}},
	{Name: "store_read_only", Field: "ReadOnly", Help: "open the store that is there without writing anything " +
		"(unlink=0)",
		set: onOff(func(s *Spec) *bool { return &s.Engine.ReadOnly })},
	{Name: "print_profile", Field: "PrintProfileOnClose", Help: "write the statistics of the store to store_log when " +
		"it " +
		"is closed", set: onOff(func(s *Spec) *bool { return &s.Engine.PrintProfileOnClose })},
	{Name: "store_log", Arg: "file", Field: "Logger", Help: "file for the messages of the store; - is standard error",
		set: text(func(s *Spec) *string { return &s.Own.LogFile })},
	{Name: "temporary", Field: "Temporary", Help: "let the store remove itself when it is closed", set: onOff(
		func(s *Spec) *bool { return &s.Engine.Temporary })},
	{Name: "direct", Arg: "whether", Values: []string{"auto", "1", "0", "on", "off"}, Default: "auto", Field: "Direct",
		Help: "write the log with O_DIRECT; reads are of the page cache in any case (see cold)", set: setDirect},
	{Name: "buffered", Help: "the opposite of direct", set: func(s *Spec, v string) error {
		b, err := toBool(v)
		s.Engine.Direct = engine.DirectOn
		if b {
			s.Engine.Direct = engine.DirectOff
		}
		return err
	}},
}

func init() {
	for i := range Options {
		o := &Options[i]
		o.Own = o.Own || o.Field != "" && o.Field != "Direct"
	}
}

func setDirect(s *Spec, v string) error {
	switch v {
	case "auto":
		s.Engine.Direct = engine.DirectAuto
	case "1", "on", "":
		s.Engine.Direct = engine.DirectOn
	case "0", "off":
		s.Engine.Direct = engine.DirectOff
	default:
		return fmt.Errorf("must be one of auto, 1, on, 0, off")
	}
	return nil
}

// orNever parses a time above 0, or never, which is −1. To the engine, 0 means its default.
func orNever(at *time.Duration, v string) (err error) {
	if *at = -1; v == "never" {
		return nil
	}
	if *at, err = units.ParseTime(v, time.Second); err == nil && *at == 0 {
		err = fmt.Errorf("must be above 0, or never")
	}
	return err
}

// choice parses a name of one of values.
func choice[T any](names []string, values []T, at func(*Spec) *T) setter {
	return func(s *Spec, v string) error {
		for i, n := range names {
			if n == v {
				*at(s) = values[i]
				return nil
			}
		}
		return explainValue(v, names)
	}
}
