// Package engine is a page cache and log for databases: pages, named by number, that live in memory and on disk at once.
//
// A page is a chain of fragments. Link appends a small delta, Replace writes the page anew, Get returns the fragments merged by
// the caller's Materializer; Bytes is the one for pages that are byte strings. Every change is a compare-and-swap against the
// state that the caller saw (PagePtr), and one message in a log-structured file. Open brings all of it back.
//
//	tx, err := pc.Begin()
//	pid, ptr, err := pc.Allocate(tx, first)           // in memory
//	ptr, won, err := pc.Link(tx, pid, ptr, delta)     // in memory, if nobody changed the page meanwhile
//	_, err = pc.MakeStable(ptr.LastLSN())             // on stable storage
//	page, err := pc.Get(tx, pid)                      // page.Value, valid until
//	tx.End()
//
// # What it guarantees
//
// The numbers of rules and traps are those of docs/RULES.md, which also lists the tests that prove each.
//
//	P1  Durability. When MakeStable(lsn) or Flush has returned nil, the message at lsn and all before it survive any crash. Stable
//	    bytes are never written again, the log becomes stable strictly in order, and recovery never drops in silence what was
//	    known to be stable (rules 1, 5, 10). By blocks that are padded and left behind, one queue of writes, and a
//	    known-stable LSN in every segment header and pad.
//	P2  Batches. What lies between PinLog and Seal comes back whole or not at all (trap 1), whatever its size, and an open batch
//	    holds up nobody's durability but that of what was written after it (trap 11). By markers in the log; nothing is held open.
//	P3  One winner. Of several calls with the same PagePtr exactly one changes the page; the others are told its current state.
//	    Housekeeping never makes a caller lose (rule 6). By a timestamp in the head of the chain that moves on real change only.
//	P4  Views. A value that Get returns stays as it is until its Tx ends, and is never torn or half merged (rules 2, 3). By entries
//	    that are immutable once published, and by reading through the map only what nobody writes any more.
//	P5  Ids. GenerateID and Begin never return a number twice in the life of a store, crashes included; a page id is used again only after
//	    its freeing has won and everybody who could have seen the page has gone (trap 2). By a durable note of a bound above every
//	    id handed out, and by epochs.
//	P6  Failure. After a failed write to the log everybody who waits is woken, every later write is ErrFailed with the
//	    cause, and reads go on (rule 8, trap 10). Lack of space fails the call that needs it and nothing else (rule 9).
//	P7  What was shown stays. Open shows nothing that a power cut right afterwards could take back (rule 11). By writing the
//	    tail of a log that was not closed cleanly anew, before anything is read from it.
//	P8  Damage. No bytes on disk make Open or a read panic, hang, or return a wrong value; they are CorruptErrors that say
//	    where (rule 12).
//	P9  Accounts. Before a message can become stable its segment's live bytes include it (rule 7).
//	P10 Space. What is dead is recycled in the background, in proportion to what is written, and never while a Tx, a batch or a crash could still
//	    need it (rule 4). Opening takes time for what was written since the last snapshot, not for the number of pages.
//
// It gives no isolation between transactions: a Tx keeps what it can reach from being reclaimed, and no more. What locks, orders
// and retries across pages is the business of the database above.
//
// # Reading the code
//
// Begin with pagecache.go, then follow a page down (link.go, internal/iobuf) and up (get.go). store.go and recover.go open and
// close what page stores and standalone logs (log.go) share. docs/ARCHITECTURE.md has the map.
package engine
