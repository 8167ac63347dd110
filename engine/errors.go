package engine

import (
	"errors"
	"fmt"

	"pagecache/engine/internal/blob"
	"pagecache/engine/internal/checkpoint"
	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pageids"
	"pagecache/engine/internal/pagemap"
	"pagecache/engine/internal/report"
	"pagecache/engine/internal/roots"
	"pagecache/engine/internal/scope"
	"pagecache/engine/internal/stream"
	"pagecache/internal/vfs"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// The errors that errors.Is finds in the errors of this package.
var (
	// ErrClosed reports that the store, or log, was closed.
	ErrClosed = errors.New("store is closed")
	// ErrCorrupt reports corrupt data on disk. errors.As finds a *CorruptError with the place.
	ErrCorrupt = recovery.ErrCorrupt
	// ErrLocked reports that another process, or another opening in this one, uses the store.
	ErrLocked = logstore.ErrLocked
	// ErrReadOnly reports a call that would write to a store opened with Options.ReadOnly, or a writing call of a Tx
	// that View has begun.
	ErrReadOnly = iobuf.ErrReadOnly
	// ErrNoSpace reports that the disk is full, or that a quota or file-size limit was reached. Nothing was done. The
	// call may succeed once there is room.
	ErrNoSpace = logstore.ErrNoSpace
	// ErrFailed reports that the log stopped after an I/O error; the error wraps its cause. Reads go on. Reopen to
	// recover.
	ErrFailed = iobuf.ErrFailed
	// ErrTooLarge reports a value, a record, a transaction or the name of a root that is longer than the format allows,
	// or too many roots.
	ErrTooLarge = iobuf.ErrTooLarge
	// ErrTxEnded reports a Tx that has ended, is nil, or belongs to another store.
	ErrTxEnded = scope.ErrEnded
	// ErrConflict reports that a transaction was not committed, since another one has changed a page that it has read
	// or changed. errors.As finds a *ConflictError with the page.
	ErrConflict = pagemap.ErrConflict
	// ErrNoPage reports that a transaction changes a page that does not exist.
	ErrNoPage = errors.New("no such page")
	// ErrBatchEnded reports a Batch that was sealed or aborted before.
	ErrBatchEnded = iobuf.ErrBatchEnded
	// ErrBatchOpen reports a batch that was still open when Close stopped waiting for it. errors.As finds a
	// *BatchOpenError with the LSN.
	ErrBatchOpen = errors.New("batch was left open")
	// ErrReservationEnded reports a Reservation that was completed or aborted before.
	ErrReservationEnded = errors.New("reservation has ended")
	// ErrDropped reports a record that DropBelow has dropped.
	ErrDropped = stream.ErrDropped
	// ErrNoRecord reports that a Stream has no record of this number.
	ErrNoRecord = stream.ErrNoRecord
	// ErrSequence reports a record whose number is not above that of the last one of its Stream.
	ErrSequence = stream.ErrOrder
	// ErrTruncated reports that TruncateAfter has removed a record that Follow has returned.
	ErrTruncated = errors.New("record was truncated")
	// ErrRootNotFound reports that no root has this name.
	ErrRootNotFound = errors.New("no root of that name")
	// ErrReserved reports a call that changes or takes apart page 0 or 1, which the store itself uses.
	ErrReserved = errors.New("page is reserved")
	// ErrPageRange reports a page id above the highest that a page can have.
	ErrPageRange = errors.New("page id out of range")
	// ErrTooManyPages reports that all page ids are in use.
	ErrTooManyPages = pageids.ErrExhausted
	// ErrFormat reports a store whose format version this code does not know, or whose pages have a format of another
	// name (Named).
	ErrFormat = logstore.ErrFormat
	// ErrKind reports a standalone log opened as a page store, or the reverse.
	ErrKind = logstore.ErrKind
	// ErrPanic reports that the Materializer panicked while the store moved a page. The panic itself is an event: see
	// Events.Panic.
	ErrPanic = errors.New("the Materializer panicked")
	// ErrChain reports the stream of a checkpoint that does not continue what is before it.
	ErrChain = checkpoint.ErrChain
	// ErrUnsupported reports that this operating system has no implementation.
	ErrUnsupported = vfs.ErrUnsupported
)

// A CorruptError reports where data on disk is corrupt, as closely as that is known. It wraps ErrCorrupt.
type CorruptError = recovery.CorruptError

// A ConflictError names the page because of which a transaction was not committed. It wraps ErrConflict.
type ConflictError = pagemap.ConflictError

// A Place is a position in a file and in the log, as far as it is known.
type Place = recovery.Place

// Events are callbacks that announce failures and their end; see Options.Events. Each has an argument of one of the
// types below. docs/EVENTS.md lists them all.
type Events = report.Events

// An Event is the argument of any of the Events.
type Event = report.Event

// The arguments of the Events. Each is an Event.
type (
	LogFailedInfo        = report.LogFailedInfo
	DiskFullInfo         = report.DiskFullInfo
	SpaceAgainInfo       = report.SpaceAgainInfo
	CleaningStoppedInfo  = report.CleaningStoppedInfo
	CleaningResumedInfo  = report.CleaningResumedInfo
	SnapshotsStoppedInfo = report.SnapshotsStoppedInfo
	SnapshotsResumedInfo = report.SnapshotsResumedInfo
	SnapshotRebuiltInfo  = report.SnapshotRebuiltInfo
	CorruptionInfo       = report.CorruptionInfo
	TailDroppedInfo      = report.TailDroppedInfo
	SlowWriteInfo        = report.SlowWriteInfo
	DegradedInfo         = report.DegradedInfo
	BatchOpenInfo        = report.BatchOpenInfo
	TxOpenInfo           = report.TxOpenInfo
	PanicInfo            = report.PanicInfo
	BackgroundErrorInfo  = report.BackgroundErrorInfo
)

// AllEvents returns Events that call f for every event.
func AllEvents(f func(Event)) Events { return report.All(f) }

// isAnnounced reports whether the cause of an error is an event of its own, so that the error need not be one.
func isAnnounced(err error) bool {
	return errors.Is(err, ErrFailed) || errors.Is(err, ErrPanic) || errors.Is(err, iobuf.ErrClosed) ||
		errors.Is(err, ErrClosed) || logstore.IsNoSpace(err)
}

// A BatchOpenError reports what is missing after a Close that left a batch open. It wraps ErrBatchOpen.
type BatchOpenError struct {
	// LSN is where the batch begins, or the earliest one of those that overlap with it. The next opening shows all that
	// was written below, and nothing that was written at or above.
	LSN format.LSN
}

func (e *BatchOpenError) Error() string {
	return fmt.Sprintf("close: %v: writes from LSN %d on will be missing", ErrBatchOpen, e.LSN)
}

// Unwrap returns ErrBatchOpen.
func (e *BatchOpenError) Unwrap() error { return ErrBatchOpen }

// describe wraps an error of a lower layer: it says which call failed, and adds the sentinel of this package.
func describe(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, iobuf.ErrClosed):
		return fmt.Errorf("%s: %w", doing, ErrClosed)
	case errors.Is(err, blob.ErrTooLarge), errors.Is(err, roots.ErrTooMany):
		return fmt.Errorf("%s: %w: %w", doing, ErrTooLarge, err)
	case errors.Is(err, ErrFailed), errors.Is(err, ErrNoSpace):
		return fmt.Errorf("%s: %w", doing, err)
	case logstore.IsNoSpace(err):
		return fmt.Errorf("%s: %w: %w", doing, ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// describePage is describe for a call on a page.
func describePage(doing string, pid format.PageID, err error) error {
	if err == nil {
		return nil
	}
	return describe(fmt.Sprintf("%s page %d", doing, pid), err)
}

// verb returns the name of the call that makes a change of that kind, for errors.
func verb(k format.Kind) string {
	if k == format.KindAppend {
		return "link"
	}
	return "replace"
}

// notConsolidated is what is reported about an error of consolidate that no call returns.
const notConsolidated = "a page was not consolidated"
