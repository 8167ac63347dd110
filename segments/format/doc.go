// Package format defines the ids of the log and the layout of its bytes, as pure functions: nothing here does input or
// output, keeps state, or depends on another package of this module. It is internal to this module although it can be
// imported: it promises no compatibility of its Go API. The bytes on disk are docs/FORMAT.md's promise.
//
//	F1  A decoder accepts any bytes: it does not panic, and no length or count in its result exceeds the limits that
//	    its caller gives (rule 12).
//	F2  A decoded value that is encoded and decoded again is the same.
//	F3  A message verifies only in the store, generation and slot that it was written for: its checksum starts from
//	    them (Seed).
//
// docs/FORMAT.md draws the same tables. Everything is little endian.
package format
