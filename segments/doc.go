// Package segments knows where segments lie and how much of each is alive.
//
//	G1  A slot is handed out only when its space on the disk is reserved and the file's new length is durable
//	    (rule 9, trap 13).
//	G2  A message is counted live before its reservation completes (rule 7).
//
// States of a slot, each edge with the function that makes it:
//
//	       OpenSegment            SealSegment             Drain
//	Free ──────────────▶ Active ───────────────▶ Inactive ──────▶ Draining
//	  ▲                                                              │
//	  └──────────────────────────────────────────────────────────────┘ Recycle
//
// Free: the slot's bytes mean nothing. Active: an io buffer holds it; it is read from there. Inactive: it is wholly
// durable and read through the map. Draining: nothing in it is live; it waits for stability and readers (rule 4).
package segments
