// Package recovery reads a log back: which segments belong to it, where it ends, and what it holds.
//
// Scan reads the file once and decides; Apply hands out what was found, in the order of the log. Nothing is written:
// the engine makes the decisions durable (it marks void slots free and carries the tail over to a new slot).
//
// What it guarantees:
//
//	R1  Data known to be stable is never dropped in silence: damage at or below the highest stable LSN that any valid
//	    header or pad carries is an error (rule 10). Above it, the first invalid message is the torn tail.
//	R2  A batch is whole or absent (trap 1).
//	R3  What an earlier recovery has discarded never comes back: a segment of a lower generation than one before it
//	    is void (trap 7).
//	R4  No input panics, or allocates more than a small multiple of the file (rule 12).
//
// A segment that is missing below the known-stable LSN has been recycled (rule 4), which is lawful: nothing in it was current. One that
// is missing above ends the log.
//
// The decisions of rule 10 are a table, in decide.go.
package recovery
