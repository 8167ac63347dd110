// Package simdisk is a simulated disk with a file system, for tests. It keeps written bytes and durable bytes apart,
// and can be crashed. All that it does follows from its seed and the order of the calls.
//
// Its assumptions about a disk, no better and no worse:
//
//	Y1  A write that was not made durable may survive a crash whole, not at all, or in any part, by sectors of 512
//	    bytes, independently of other writes: later ones may survive without earlier ones.
//	Y2  A device write (RWF_DSYNC) is durable, with the file size that it needs, once its completion was delivered,
//	    and not before. Completions come in any order.
//	Y3  Sync makes all earlier writes, and the size, of its file durable.
//	Y4  Directory entries survive in order: a crash keeps some prefix of the changes since the last Sync of their
//	    directories. A directory is no longer there if its own entry is lost.
//	Y5  After a failed Sync, with ForgetOnFailedSync, the written bytes stay visible but are never written to the
//	    disk, until DropCache restores the old contents; the next Sync reports success. (Linux: ext4 and xfs behave
//	    like that.)
//	Y6  A sector is written whole or not at all.
//	Y7  Reading a range that overlaps unreadable sectors (SetUnreadable) fails with EIO, and looking at it through a
//	    map with vfs.ErrFault. A sector that is written can be read again.
//	Y8  With Garbage, Y6 does not hold: each sector of a write that was not made durable may hold anything after a
//	    crash. Sectors that no such write covers keep their bytes.
//	Y9  Punch frees blocks of 4096 bytes. Until Sync, any of them may come back with their bytes after a crash. A
//	    device write to blocks without space takes space, and fails with ENOSPC if there is none. So does Allocate.
package simdisk
