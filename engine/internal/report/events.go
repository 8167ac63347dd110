package report

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"pagecache/recovery"
	"pagecache/segments/format"
)

// Events are callbacks by which a store, or a standalone log, announces failures and their end. A field that is nil is
// not called. Options.Logger gets a line for each event as well, whether or not it has a callback.
//
// A goroutine of the store calls them, one at a time and in the order in which things happened, and never a goroutine
// that works for a caller. So a callback needs no lock of its own, it delays no call, and it may call any method of the
// store except Close and CloseContext, which wait for it. It should return soon: while it runs, later events wait.
// At most 1024 wait, further ones are lost, and a BackgroundError then says how many. Open and Close return after all
// events that they have caused were announced, but wait for at most a second. An event may come after Close, if a
// device write ends only then.
//
// A callback that panics, or that calls runtime.Goexit, harms nothing but itself: the panic is logged, and later events
// are announced as ever.
type Events struct {
	// LogFailed: the log has stopped for good after an I/O error. Writes fail with ErrFailed, and reads go on. Reopen
	// the store. Err of the store returns the same error.
	LogFailed func(LogFailedInfo)
	// DiskFull: the disk, a quota or a file-size limit has no room for a write. Calls fail with ErrNoSpace; reads go
	// on.
	DiskFull func(DiskFullInfo)
	// SpaceAgain: for a second, no write has lacked room after a DiskFull.
	SpaceAgain func(SpaceAgainInfo)
	// CleaningStopped: no space is recycled until CleaningResumed or, if the log has failed or slots can neither be
	// marked as free nor left out of use, until the store is reopened.
	CleaningStopped func(CleaningStoppedInfo)
	// CleaningResumed: the cleaner has made progress again after a CleaningStopped.
	CleaningResumed func(CleaningResumedInfo)
	// SnapshotsStopped: a snapshot could not be written. The store tries again every five seconds, unless the log has
	// failed. Meanwhile the next Open takes longer and longer, and no data is at risk.
	SnapshotsStopped func(SnapshotsStoppedInfo)
	// SnapshotsResumed: a snapshot was written after a SnapshotsStopped.
	SnapshotsResumed func(SnapshotsResumedInfo)
	// SnapshotRebuilt: the pages of corrupt blocks of a snapshot were looked up in the log. A Corruption came before.
	SnapshotRebuilt func(SnapshotRebuiltInfo)
	// Corruption: data on disk is corrupt or cannot be read. Each place is announced once for each opening.
	Corruption func(CorruptionInfo)
	// TailDropped: the log ended in messages that a crash had torn, and Open has cut them off. None of them was
	// acknowledged.
	TailDropped func(TailDroppedInfo)
	// SlowWrite: a device write takes longer than Options.SlowWrite. It is announced while it is under way, and again
	// when it has ended.
	SlowWrite func(SlowWriteInfo)
	// Degraded: a fast way to read or write does not work here, and a slower one is used instead. Each is announced
	// once for each opening.
	Degraded func(DegradedInfo)
	// BatchOpen: a batch has been open for a second. Nothing that was written since its PinLog becomes stable before
	// its Seal.
	BatchOpen func(BatchOpenInfo)
	// TxOpen: a Tx has been open for a second. No space that it may look at is used again before its End.
	TxOpen func(TxOpenInfo)
	// Panic: the Materializer has panicked in work that the store does by itself, such as cleaning or evicting. The
	// store goes on without that page's part of the work. Each page is announced once for each opening.
	Panic func(PanicInfo)
	// BackgroundError: something has failed that no call returns and that the store can live with.
	BackgroundError func(BackgroundErrorInfo)
}

// All returns Events that call f for every event.
func All(f func(Event)) Events {
	return Events{
		LogFailed: to[LogFailedInfo](f), DiskFull: to[DiskFullInfo](f), SpaceAgain: to[SpaceAgainInfo](f),
		CleaningStopped: to[CleaningStoppedInfo](f), CleaningResumed: to[CleaningResumedInfo](f),
		SnapshotsStopped: to[SnapshotsStoppedInfo](f), SnapshotsResumed: to[SnapshotsResumedInfo](f),
		SnapshotRebuilt: to[SnapshotRebuiltInfo](f), Corruption: to[CorruptionInfo](f),
		TailDropped: to[TailDroppedInfo](f), SlowWrite: to[SlowWriteInfo](f), Degraded: to[DegradedInfo](f),
		BatchOpen: to[BatchOpenInfo](f), TxOpen: to[TxOpenInfo](f), Panic: to[PanicInfo](f),
		BackgroundError: to[BackgroundErrorInfo](f),
	}
}

func to[T Event](f func(Event)) func(T) { return func(info T) { f(info) } }

// An Event is the argument of one of the Events: one of the types with names that end in Info. String is a line for
// people, and LogValue has the fields that are not zero.
type Event interface {
	fmt.Stringer
	slog.LogValuer
	// Level is how severe the event is, and that of its line in the log: slog.LevelError, LevelWarn or LevelInfo.
	Level() slog.Level

	title() string   // the message of the line in the log
	deliver(*Events) // calls the callback
}

// LogFailedInfo says why the log has stopped.
type LogFailedInfo struct {
	Err error // wraps ErrFailed and the cause
}

// DiskFullInfo says what found no room.
type DiskFullInfo struct {
	What string // "log" or "blobs"
	Err  error  // wraps the cause, such as syscall.ENOSPC
}

// SpaceAgainInfo says what finds room again.
type SpaceAgainInfo struct {
	What  string        // that of the DiskFullInfo
	After time.Duration // since the DiskFull
}

// CleaningStoppedInfo says why nothing is cleaned.
type CleaningStoppedInfo struct {
	Err error
}

// CleaningResumedInfo says how long nothing was cleaned.
type CleaningResumedInfo struct {
	After time.Duration // since the CleaningStopped
}

// SnapshotsStoppedInfo says why no snapshot can be written.
type SnapshotsStoppedInfo struct {
	Dir string // path of the directory of the snapshots
	Err error
}

// SnapshotsResumedInfo says how long no snapshot could be written.
type SnapshotsResumedInfo struct {
	After time.Duration // since the SnapshotsStopped
}

// SnapshotRebuiltInfo says what was looked up in the log.
type SnapshotRebuiltInfo struct {
	File      string // path of the snapshot
	Blocks    int    // corrupt blocks
	LostPages int    // of these blocks: the log is corrupt there, too, and Get returns an error
	Took      time.Duration
}

// CorruptionInfo says what is corrupt, and where.
type CorruptionInfo struct {
	What  string         // what is corrupt, and what the store does about it
	File  string         // path; empty if it is not known
	Place recovery.Place // in the file and in the log, as far as it is known
	Err   error          // a *CorruptError, or the error of reading; nil if What says it all
}

// TailDroppedInfo says where the log ends.
type TailDroppedInfo struct {
	End format.LSN // of the log
	Why string     // why the message at End does not count
}

// SlowWriteInfo describes a device write.
type SlowWriteInfo struct {
	Offset int64         // in the log file, bytes
	Bytes  int           // length of the write
	Took   time.Duration // so far
	Ended  bool          // false: the write is still under way
}

// DegradedInfo says what is slower than it could be.
type DegradedInfo struct {
	What   string // "log device", "blob device", "device beside the log", "reader" or "reading at Open"
	Use    string // what is used instead; empty if Reason says it
	Reason string // why
}

// BatchOpenInfo names a batch.
type BatchOpenInfo struct {
	LSN format.LSN    // at which it begins: (*Batch).LSN
	Age time.Duration // since PinLog
}

// TxOpenInfo names a Tx.
type TxOpenInfo struct {
	TS  uint64        // (*Tx).TS
	Age time.Duration // since Begin, at least
}

// PanicInfo describes a panic of the Materializer.
type PanicInfo struct {
	Doing string // what the store was doing, such as "move"
	Page  format.PageID
	Value any    // of the panic
	Stack []byte // as debug.Stack formats it
}

// BackgroundErrorInfo says what has failed.
type BackgroundErrorInfo struct {
	What string // what was not done
	File string // path of the file; empty if there is none
	Err  error
}

func call[T any](f func(T), info T) {
	if f != nil {
		f(info)
	}
}

func (i LogFailedInfo) deliver(e *Events)        { call(e.LogFailed, i) }
func (i DiskFullInfo) deliver(e *Events)         { call(e.DiskFull, i) }
func (i SpaceAgainInfo) deliver(e *Events)       { call(e.SpaceAgain, i) }
func (i CleaningStoppedInfo) deliver(e *Events)  { call(e.CleaningStopped, i) }
func (i CleaningResumedInfo) deliver(e *Events)  { call(e.CleaningResumed, i) }
func (i SnapshotsStoppedInfo) deliver(e *Events) { call(e.SnapshotsStopped, i) }
func (i SnapshotsResumedInfo) deliver(e *Events) { call(e.SnapshotsResumed, i) }
func (i SnapshotRebuiltInfo) deliver(e *Events)  { call(e.SnapshotRebuilt, i) }
func (i CorruptionInfo) deliver(e *Events)       { call(e.Corruption, i) }
func (i TailDroppedInfo) deliver(e *Events)      { call(e.TailDropped, i) }
func (i SlowWriteInfo) deliver(e *Events)        { call(e.SlowWrite, i) }
func (i DegradedInfo) deliver(e *Events)         { call(e.Degraded, i) }
func (i BatchOpenInfo) deliver(e *Events)        { call(e.BatchOpen, i) }
func (i TxOpenInfo) deliver(e *Events)           { call(e.TxOpen, i) }
func (i PanicInfo) deliver(e *Events)            { call(e.Panic, i) }
func (i BackgroundErrorInfo) deliver(e *Events)  { call(e.BackgroundError, i) }

func (LogFailedInfo) title() string         { return "log has stopped" }
func (DiskFullInfo) title() string          { return "disk is full" }
func (SpaceAgainInfo) title() string        { return "disk has room again" }
func (CleaningStoppedInfo) title() string   { return "cleaning has stopped" }
func (CleaningResumedInfo) title() string   { return "cleaning goes on" }
func (SnapshotsStoppedInfo) title() string  { return "snapshot not written" }
func (SnapshotsResumedInfo) title() string  { return "snapshot written again" }
func (SnapshotRebuiltInfo) title() string   { return "snapshot blocks rebuilt" }
func (CorruptionInfo) title() string        { return "corruption found" }
func (TailDroppedInfo) title() string       { return "log ends in a torn tail" }
func (SlowWriteInfo) title() string         { return "device write is slow" }
func (DegradedInfo) title() string          { return "I/O path is not the fastest" }
func (BatchOpenInfo) title() string         { return "batch is open for long" }
func (TxOpenInfo) title() string            { return "transaction is open for long" }
func (PanicInfo) title() string             { return "Materializer panicked" }
func (i BackgroundErrorInfo) title() string { return i.What }

// Level implements Event.
func (LogFailedInfo) Level() slog.Level { return slog.LevelError }

// Level implements Event.
func (DiskFullInfo) Level() slog.Level { return slog.LevelWarn }

// Level implements Event.
func (SpaceAgainInfo) Level() slog.Level { return slog.LevelInfo }

// Level implements Event.
func (CleaningStoppedInfo) Level() slog.Level { return slog.LevelWarn }

// Level implements Event.
func (CleaningResumedInfo) Level() slog.Level { return slog.LevelInfo }

// Level implements Event.
func (SnapshotsStoppedInfo) Level() slog.Level { return slog.LevelWarn }

// Level implements Event.
func (SnapshotsResumedInfo) Level() slog.Level { return slog.LevelInfo }

// Level implements Event.
func (SnapshotRebuiltInfo) Level() slog.Level { return slog.LevelInfo }

// Level implements Event.
func (CorruptionInfo) Level() slog.Level { return slog.LevelError }

// Level implements Event.
func (TailDroppedInfo) Level() slog.Level { return slog.LevelWarn }

// Level implements Event.
func (SlowWriteInfo) Level() slog.Level { return slog.LevelWarn }

// Level implements Event.
func (DegradedInfo) Level() slog.Level { return slog.LevelInfo }

// Level implements Event.
func (BatchOpenInfo) Level() slog.Level { return slog.LevelWarn }

// Level implements Event.
func (TxOpenInfo) Level() slog.Level { return slog.LevelWarn }

// Level implements Event.
func (PanicInfo) Level() slog.Level { return slog.LevelError }

// Level implements Event.
func (BackgroundErrorInfo) Level() slog.Level { return slog.LevelWarn }

// LogValue implements slog.LogValuer.
func (i LogFailedInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i DiskFullInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i SpaceAgainInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i CleaningStoppedInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i CleaningResumedInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer. Each line has the store's directory as "dir".
func (i SnapshotsStoppedInfo) LogValue() slog.Value {
	dir := i.Dir
	i.Dir = ""
	return slog.GroupValue(append(group(i).Group(), slog.String("snapshots", dir))...)
}

// LogValue implements slog.LogValuer.
func (i SnapshotsResumedInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i SnapshotRebuiltInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer. File and Place are in the text of Err.
func (i CorruptionInfo) LogValue() slog.Value {
	if i.Err != nil {
		i.File, i.Place = "", recovery.Place{}
	}
	return group(i)
}

// LogValue implements slog.LogValuer.
func (i TailDroppedInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i SlowWriteInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i DegradedInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i BatchOpenInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i TxOpenInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer.
func (i PanicInfo) LogValue() slog.Value { return group(i) }

// LogValue implements slog.LogValuer. It leaves out the field What, which is the message of the line.
func (i BackgroundErrorInfo) LogValue() slog.Value {
	i.What = ""
	return group(i)
}

// group returns the exported fields of a struct that are not zero, under their names in lower case.
func group(info any) slog.Value {
	v := reflect.ValueOf(info)
	var attrs []slog.Attr
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		value := f.Interface()
		switch x := value.(type) {
		case []byte:
			value = string(x)
		case error:
			value = x.Error() // a handler may print the value later, or as JSON, which shows no fields of an error
		case fmt.Stringer:
			value = x.String()
		}
		attrs = append(attrs, slog.Any(strings.ToLower(v.Type().Field(i).Name), value))
	}
	return slog.GroupValue(attrs...)
}

func (i LogFailedInfo) String() string { return fmt.Sprintf("the log has stopped: %v", i.Err) }

func (i DiskFullInfo) String() string { return fmt.Sprintf("no room for the %s: %v", i.What, i.Err) }

func (i SpaceAgainInfo) String() string {
	return fmt.Sprintf("there is room for the %s again, after %v", i.What, round(i.After))
}

func (i CleaningStoppedInfo) String() string { return fmt.Sprintf("cleaning has stopped: %v", i.Err) }

func (i CleaningResumedInfo) String() string {
	return fmt.Sprintf("cleaning goes on, after %v", round(i.After))
}

func (i SnapshotsStoppedInfo) String() string {
	return fmt.Sprintf("no snapshot can be written to %s: %v", i.Dir, i.Err)
}

func (i SnapshotsResumedInfo) String() string {
	return fmt.Sprintf("snapshots are written again, after %v", round(i.After))
}

func (i SnapshotRebuiltInfo) String() string {
	text := fmt.Sprintf("%d corrupt blocks of %s were rebuilt from the log in %v", i.Blocks, i.File, round(i.Took))
	if i.LostPages > 0 {
		text += fmt.Sprintf("; %d pages are lost", i.LostPages)
	}
	return text
}

func (i CorruptionInfo) String() string { return withError(i.What, i.Err) }

func (i TailDroppedInfo) String() string {
	return fmt.Sprintf("the log ends at LSN %d in a torn tail: %s", i.End, i.Why)
}

func (i SlowWriteInfo) String() string {
	verb := "takes"
	if i.Ended {
		verb = "took"
	}
	return fmt.Sprintf("a device write of %d bytes at offset %d %s %v", i.Bytes, i.Offset, verb, round(i.Took))
}

func (i DegradedInfo) String() string {
	text := i.What + " is not the fastest"
	if i.Use != "" {
		text += ": " + i.Use
	}
	if i.Reason != "" {
		text += ": " + i.Reason
	}
	return text
}

func (i BatchOpenInfo) String() string {
	return fmt.Sprintf("the batch at LSN %d is open for %v", i.LSN, round(i.Age))
}

func (i TxOpenInfo) String() string {
	return fmt.Sprintf("the transaction with timestamp %d is open for %v", i.TS, round(i.Age))
}

func (i PanicInfo) String() string {
	return fmt.Sprintf("the Materializer panicked, %s page %d: %v", i.Doing, i.Page, i.Value)
}

func (i BackgroundErrorInfo) String() string {
	if i.File != "" && (i.Err == nil || !strings.Contains(i.Err.Error(), i.File)) {
		return withError(i.What+": "+i.File, i.Err)
	}
	return withError(i.What, i.Err)
}

func withError(text string, err error) string {
	if err != nil {
		text += ": " + err.Error()
	}
	return text
}

// round rounds a duration for people.
func round(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d
	}
	return d.Round(time.Millisecond)
}
