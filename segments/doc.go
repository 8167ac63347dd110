// Package segments manages the space of the log file. The file is an array of slots of one size; a segment of the log
// lies in a slot. The package hands out slots, counts the live bytes in each, makes the file longer, and takes slots
// back. It is internal to this module although it can be imported: it promises no compatibility.
//
//	G1  A slot is handed out only after its space on the disk is reserved and the file's new length is durable
//	    (rule 9, trap 13). Of the first slot of a log, only the part may be reserved that its segment uses
//	    (Options.Short).
//	G2  A message is counted live before its reservation completes (rule 7).
//	G3  An I/O error while the file grows is permanent; lack of room is not (rules 8 and 9).
//	G4  In the ledger, Joined − Left is the digest of the segments that are not Free (rule 14). A segment joins before
//	    its header is made, and leaves once the message that says so is stable.
//
// A Space composes the parts, one in each file:
//
//	slot.go     Segment: one slot, its state and its live bytes
//	table.go    slotTable: all slots, and the lookup of a segment by its base LSN
//	free.go     freeList: the slots that the next segments use, and those without space
//	reserve.go  reserve: the free slots that are kept for urgent writes when the file cannot grow
//	growth.go   growth: makes the file longer, on demand and ahead of need
//	zero.go     zeroer: writes zeros to the next slot ahead of need
//	space.go    Space: the calls, and the lock that guards all of these
//	recycle.go  Space: choice of segments to clean, recycling
//	shrink.go   Space: space that is given back
//
// States of a slot. Each edge names the Space's call, and the method of Segment that it makes the transition with:
//
//	        OpenSegment (open)       SealSegment (seal)         Drain (drain)
//	Free ────────────────────▶ Active ─────────────────▶ Inactive ────────────▶ Draining
//	 ▲ │                          ▲                          ▲                     │
//	 │ └──────────────────────────┴──────────────────────────┘                     │
//	 │             Adopt (adopt), while the store is opened                        │
//	 └─────────────────────────────────────────────────────────────────────────────┘
//	                                Recycle (recycle)
//
//	state     facts that hold in it                    guard of the edge that leaves it
//	Free      none: the bytes in the slot mean nothing Space.mu
//	Active    an io buffer holds the segment;          the leader that flushed the segment's end
//	          it is read from there
//	Inactive  the whole segment is durable;            compare-and-swap, by the cleaner or by DropBelow
//	          it is read through the map
//	Draining  as Inactive, and nothing in it is live;  Space.mu; the caller has waited for stability and
//	          it waits to be recycled                  readers (rule 4)
package segments
