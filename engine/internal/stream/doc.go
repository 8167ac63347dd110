// Package stream finds the records of a standalone log by their numbers. A log has any number of streams; each numbers
// its records, in rising order.
//
// Guarantees:
//
//	S1  The state of a stream is what its messages in the log say, in the order of the log. So an opening finds it by
//	    reading them once more, and nothing beside the log needs to be kept consistent with it.
//	S2  A Cut outlives the records that it cuts: they lie before it, and segments leave the log from its beginning.
//	S3  A call that fails leaves nothing behind: whatever it appends is one message, a record or a group, and all that
//	    may fail is done before the message is committed.
//	S4  Nothing is kept on the heap for a record, except for one that is carried forward before it is stable. A sealed
//	    segment ends with an index, which is read through the map. The offsets of the others are in tables, in
//	    anonymous memory.
//	S5  Lookups take no lock. Each sees the state of the stream at one moment.
//	S6  The value of a note is that of its newest message. It is in memory, and is written again before the segment of
//	    that message leaves the log.
//	S7  A stream whose records take a quarter of a segment at most keeps at most eight segments, or four times as long
//	    as such streams together, behind the segments that others keep. Its records are written again.
//	S8  A record that does not fit a segment is found once all of its parts are in the log before it, and their
//	    segments stay as long as it does.
//
// The records of a stream are the concatenation of its pieces, by number as by place in the log:
//
//	stream ──▶ state ──▶ piece first … last ──▶ run ──▶ segment ──▶ table, or index in the map
//	                     piece first … last ──▶ run ──▶ …
//
// A run is a part of the index of a segment (format.Run). There is a piece for each run, or for what Cuts have left of
// it.
//
// Set.mu orders appends of all streams, and so the messages in the log. It is held while the log waits for an io
// buffer. Lookups do not take it.
package stream
