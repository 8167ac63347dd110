// Package checkpoint copies page stores: it holds a store as it was at one moment, writes it to a stream while the
// store goes on, verifies streams, and makes stores of them. docs/decisions/016-a-checkpoint-is-a-log.md has the
// reasons, docs/FORMAT.md the bytes.
//
//	Z1  A checkpoint is the log up to a cut, which was the stable end of some moment: a crash at that moment would
//	    have left the same. It has nothing that was written later.
//	Z2  While a checkpoint is open, no segment and no blob is used again or removed that it shows. After Close nothing
//	    is held.
//	Z3  A store is installed whole or not at all: it gets its name once all of it was verified and is durable.
//	Z4  A stream that is not exactly what Write has written is refused, with the offset. Nothing behind its last part
//	    is read.
//	Z5  An incremental stream is applied to the state that it was made for, and to no other: each segment that it does
//	    not have must be there by its identity.
//
// part.go has the parts of a stream; write.go takes checkpoints and writes streams; read.go reads and verifies them;
// walk.go verifies the messages of a segment; install.go makes stores of them; view.go shows a checkpoint as a file
// system, from which it is read as any store is. scrub.go verifies an open store, and pace.go leaves room to callers.
package checkpoint
