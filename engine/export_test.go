package engine

import (
	"errors"
	"fmt"
	"io/fs"

	"pagecache/engine/internal/clean"
	"pagecache/engine/internal/idgen"
	"pagecache/engine/internal/logstore"
	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/stream"
	"pagecache/lru"
	"pagecache/segments/format"
)

// The functions below give tests in package engine_test the few internals that they need.

// CapacityFor returns the default capacity on a machine with the given bytes of memory.
var CapacityFor = capacityFor

// DestroyIn is Destroy on any file system.
var DestroyIn = destroy

// StoreOf returns the page-less store of a PageCache.
func StoreOf[P any](pc *PageCache[P]) *logstore.Store { return pc.core.store }

// StoreOfLog returns the page-less store of a standalone log.
func StoreOfLog(l *Log) *logstore.Store { return l.core.store }

// StreamTables returns the number of tables of the streams of a log, and of those that no segment has.
func StreamTables(l *Log) (made, free int) { return l.streams.Tables() }

// OnCarry calls f when the records of a stream were copied, before they are carried forward.
func OnCarry(l *Log, f func(StreamID)) { l.streams.OnCopied(f) }

// BeginLong begins to append a record that does not fit a segment.
func BeginLong(s *Stream, seq Seq, record []byte, notes ...Note) (*stream.Long, error) {
	return s.s.Long(seq, record, notes)
}

// WriteLong writes a long record as Append does, after BeginLong.
func WriteLong(s *Stream, long parts) (LSN, error) { return s.write(long) }

// CleanerOf returns the cleaner of a PageCache.
func CleanerOf[P any](pc *PageCache[P]) *clean.Cleaner { return pc.cleaner }

// RootPage returns the page that holds the root of a name, or 0 if there is none.
func RootPage(pc *PageCache[[]byte], name string) PageID {
	pid, _ := pc.pages.Roots.Find(name)
	return pid
}

// NewestLSN returns the LSN of a page's newest message, or 0 if it has none.
func NewestLSN(pc *PageCache[[]byte], pid PageID) LSN {
	if _, head, _ := pc.pages.Find(pid); head != nil {
		return head.LSN
	}
	return 0
}

// EndBatch seals a batch and returns the LSN of its end marker.
func EndBatch(b *Batch) (LSN, error) {
	lsn, err := b.b.End()
	return lsn, describe("seal", err)
}

// ExactAccounts returns an error unless the accounts of space and free ids are exact (rule 7). Nothing may change the
// store meanwhile.
func ExactAccounts(pc *PageCache[[]byte]) error {
	var problems error
	err := pc.pages.CheckAccounts(func(problem string) { problems = errors.Join(problems, errors.New(problem)) })
	return errors.Join(err, problems)
}

// ExactBlobs returns how many blobs are on the disk, and an error unless they are exactly those that pages refer to
// (trap 4). Nothing was written in this opening.
func ExactBlobs(pc *PageCache[[]byte]) (int, error) {
	names, err := pc.blobs.Names()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	err = nil
	live := map[format.BlobID]bool{}
	for pid := FirstUserPage; pid < pc.pages.IDs.Next(); pid++ {
		_, head, e := pc.pages.Find(pid)
		if err = errors.Join(err, e); head != nil {
			head.Refs(func(ref pagestack.Ref) {
				if ref.Ptr.Blob {
					ptr, e := pc.core.store.Blob(ref.LSN, ref.Ptr)
					live[ptr.ID], err = true, errors.Join(err, e)
				}
			})
		}
	}
	for _, name := range names {
		if id, ok := format.ParseBlobID(name); !ok || !live[id] {
			return 0, fmt.Errorf("no page refers to blob %s", name)
		}
	}
	if len(names) != len(live) {
		return 0, fmt.Errorf("pages refer to %d blobs, %d are on the disk", len(live), len(names))
	}
	return len(names), err
}

// SetInline sets the length of the longest value that is written to the log and not to a blob.
func SetInline(pc *PageCache[[]byte], n int) { pc.values.Inline = n }

// SetGroupLimit makes transactions that take more than n bytes of the log be written in parts of n bytes.
func SetGroupLimit(pc *PageCache[[]byte], n int) { pc.pages.SetGroupLimit(n) }

// BetweenParts makes transactions that are written in parts call f between two of them.
func BetweenParts(pc *PageCache[[]byte], f func()) { pc.pages.BetweenParts(f) }

// SetMaxBlob sets the length of the longest blob.
func SetMaxBlob(pc *PageCache[[]byte], n int) { pc.blobs.SetMaxLen(n) }

// Places returns the places of a page's current messages, newest first.
func Places(pc *PageCache[[]byte], pid PageID) (places []DiskPtr, err error) {
	_, head, err := pc.pages.Find(pid)
	if head != nil {
		head.Refs(func(r pagestack.Ref) { places = append(places, r.Ptr) })
	}
	return places, err
}

// BlobsOf returns the ids of the blobs that a page's current messages refer to, newest first.
func BlobsOf(pc *PageCache[[]byte], pid PageID) (ids []format.BlobID, err error) {
	_, head, err := pc.pages.Find(pid)
	if head != nil {
		head.Refs(func(r pagestack.Ref) {
			if r.Ptr.Blob {
				ptr, e := pc.core.store.Blob(r.LSN, r.Ptr)
				ids, err = append(ids, ptr.ID), errors.Join(err, e)
			}
		})
	}
	return ids, err
}

// Evict evicts a page as a sweep of the clock does.
func Evict(pc *PageCache[[]byte], tx *Tx[[]byte], pid PageID) { pc.mem.evict(tx.base(), pid, true) }

// EvictByPolicy evicts a page as the eviction policy does. It returns false if the page is busy.
func EvictByPolicy(pc *PageCache[[]byte], pid PageID) bool {
	return evictor[[]byte]{pc}.Evict(uint64(pid)) != lru.OutcomeBusy
}

// SkipIDNotes makes the store hand out ids without durable notes of them.
func SkipIDNotes(pc *PageCache[[]byte]) {
	pc.ids.Start(idgen.Config{Next: pc.ids.Next(), Limit: 1 << 60, Closed: &pc.core.closed, Write: pc.noteID,
		MakeDurable: pc.core.store.Log.MakeDurable})
}

// EvictAll evicts the pages, also those that are not stable.
func EvictAll(pc *PageCache[[]byte], pids []PageID) error {
	tx, err := pc.Begin()
	if err != nil {
		return err
	}
	defer tx.End()
	for _, pid := range pids {
		pc.mem.evict(tx.base(), pid, true)
	}
	return nil
}

// Unnoted reports whether the log has refused to note ids.
func Unnoted(pc *PageCache[[]byte]) bool { return pc.ids.Refused() }
