// Package recovery reads a log back: which segments belong to it, where it ends, and which messages it holds. It also
// reads and writes snapshots. It serves this module and promises no compatibility to others.
//
// Scan reads the file once and decides where the log ends; Apply then visits the messages in the order of the log, and
// ByPage groups them by page for several goroutines. None of them writes: the engine makes the decisions durable (it
// marks void slots free and moves the tail to a new slot).
//
//	V1  Known-durable data is never discarded silently (rules 10 and 13): an invalid message that begins below the
//	    known-durable end is an error. Above it, the first invalid message is the torn tail. The known-durable end is
//	    the highest durable end that any valid message carries, wherever it lies, or the end of the known-stable data.
//	V2  A batch is whole or absent (trap 1).
//	V3  Data that an earlier recovery discarded never comes back: a segment of a lower generation than one before it
//	    is void (trap 7).
//	V4  No input causes a panic, or allocates more than a small multiple of the file's size (rule 12).
//	V5  All data that a snapshot refers to was stable before the snapshot got its name.
//	V6  Each block of a snapshot is verified before the first entry of it is used.
//	V7  The log alone is enough: a corrupt snapshot costs time, not data.
//	V8  Durable is not stable: the messages of an open batch may be durable, and are cut off. So only the stable LSN,
//	    in headers, pads, leaves and indexes, shows that a batch was complete, and that a missing segment was
//	    recycled.
//	V9  A durable end that a message carries counts unless a later opening may have discarded the message: not in a
//	    segment that is void (V3), and not in a slot without a header if the message's generation is older than the
//	    newest of the log. The stable LSN in the header of the tail that the opening moved proves what it has kept.
//	    A slot whose header and first block are zeros was never written to, so nothing in it counts.
//	V10 The index of a sealed segment takes the place of its messages only if the superblock or a later segment shows
//	    that the segment was durable as a whole. If nothing but the index is corrupt, the messages are read and the
//	    index is reported. In both cases the log does not end there.
//	V11 The segments that begin below the end of the messages are those that have joined the log and have not left it,
//	    by their digest, and belong to the timelines of the store (rule 14). So none is old, foreign or lost.
//	V12 The messages of a group in parts count if a message below the end of the log says that it has taken effect:
//	    its last part, or one of kind decided. Otherwise none of them counts, and the log goes on.
//
// A segment missing below the known-stable LSN has been recycled (rule 4): nothing in it was current. A segment
// missing above it ends the log.
//
// The decisions of rules 10 and 13 are a table, in decide.go.
package recovery
