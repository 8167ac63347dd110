package engine

import (
	"fmt"

	"pagecache/engine/internal/iobuf"
)

// Batch is a stretch of the log that is recovered whole or not at all: everything written between PinLog and Seal, by
// anyone. Until Seal nothing written after PinLog becomes stable, so MakeStable of it waits for the Seal, and a goroutine
// that waits for its own open batch waits for ever. Nothing else waits. A Batch ends with Seal or Abort. Safe for concurrent use.
type Batch struct {
	s *store
	b *iobuf.Batch
}

// PinLog begins a batch. Errors as for Link.
func (pc *PageCache[P]) PinLog() (*Batch, error) { return pc.pinLog() }

func (s *store) pinLog() (*Batch, error) {
	call, err := s.enter()
	if err != nil {
		return nil, logError("pin log", err)
	}
	defer call.End()
	b, err := s.log.BeginBatch()
	if err != nil {
		return nil, logError("pin log", err)
	}
	return &Batch{s, b}, nil
}

// LSN is where the batch begins.
func (b *Batch) LSN() LSN { return b.b.LSN() }

// Seal ends the batch. It is durable after MakeStable of any later LSN, or Flush. After an error (ErrNoSpace, say) the batch is still open, and Seal may
// be tried again; ErrBatchEnded if it had ended already.
func (b *Batch) Seal() error { return b.end("seal batch") }

// Abort ends a batch that is not wanted as one. What was written stays, as ordinary writes. Errors as for Seal.
func (b *Batch) Abort() error { return b.end("abort batch") }

// end writes the end marker, after which what lies between is whole and so as good as written without a batch.
func (b *Batch) end(doing string) error {
	call, err := b.s.enter()
	if err == nil {
		_, err = b.b.End()
		call.End()
	}
	return logError(fmt.Sprintf("%s at LSN %d", doing, b.LSN()), err)
}
