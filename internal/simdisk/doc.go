// Package simdisk is a simulated disk with a file system: it keeps what was written and what is durable apart, and can be
// crashed. Everything it does follows from its seed and the order of the calls.
//
// What it assumes of a disk, no better and no worse:
//
//	S1  A write that was not made durable may survive a crash whole, not at all, or in any part, by sectors of 512 bytes,
//	    independently of other writes: so later ones may survive without earlier ones.
//	S2  A device write (RWF_DSYNC) is durable, with the file size that it needs, once its completion was delivered, and
//	    not before. Completions come in any order.
//	S3  Sync makes all earlier writes, and the size, of its file durable.
//	S4  Directory entries survive in order: at a crash some prefix of the changes since the last SyncDir.
//	S5  After a failed Sync, with ForgetOnFailedSync, what was written stays visible but is never written, until DropCache
//	    brings the old contents back; the next Sync reports success. (Linux: ext4 and xfs behave like that.)
//	S6  A sector is written whole or not at all.
package simdisk
