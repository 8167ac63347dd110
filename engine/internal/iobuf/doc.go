// Package iobuf is the write side of the log: io buffers, reservation, group commit, stability and batches.
//
// Guarantees:
//
//	L1  A stable byte is never written again (rule 1): every device write covers whole blocks after all earlier
//	    ones, and a pad completes a partly filled block before it is written.
//	L2  The log becomes stable strictly in order (rule 5): the leader takes completed writes from the front of one
//	    queue.
//	L3  A reservation never waits for a flush of its own buffer: a flush does not seal the buffer.
//	L4  After a failed write every waiter wakes, and every later call fails with the same cause (rule 8, trap 10).
//	L5  Lack of space fails the reservation that needs a new segment and nothing else (rule 9). The slots that are
//	    reserved for urgent writers serve no others, to their last byte: otherwise writers that retry would fill the
//	    segments that the cleaner opens, and no space would ever be freed.
//	L6  The stable LSN stays below the beginning of a batch until the end of the batch is durable. A batch holds no
//	    reservation open (trap 11).
//	L7  While the cleaner makes room on a full disk, the padding of half-filled blocks is limited (LimitPadding):
//	    otherwise flushes would use up what a cleaned segment gains.
//	L8  What was acknowledged is proven by the log itself (rule 13): every message carries the durable end that was
//	    known when it was committed, and an idle log writes a mark that carries the last one (mark.go). A durable end
//	    is carried only after the device has completed every write below it, so recovery may rely on it.
//	L9  A sealed segment of a standalone log ends with an index of all its records and batch markers (index.go). No
//	    reservation takes the room that the index of those before it needs: a record, and the room for its entry, are
//	    reserved by one atomic add. A log without indexes does nothing for this.
//
// A reservation is one atomic add on the tail of the active buffer, as in Aeron's term buffers. A writer commits its
// message by setting the bit of its offset last. One goroutine at a time, the leader, walks the committed prefix and
// drives the device; the others wait for the stable LSN. (Group commit: DeWitt et al., SIGMOD 1984.)
//
// Lock order: rotation.mu, then state.mu, then buffer.read. Only rotation.mu is held across a wait (for a free
// buffer) or a call that grows the file, so the leader never takes it. No lock is held across a device call.
package iobuf
