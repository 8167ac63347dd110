package checkpoint

import (
	"testing"

	"pagecache/engine/internal/logstore"
	"pagecache/segments/format"
)

// While a store is written to, segments are read in pieces that no flush has to wait for long; else in long ones.
func TestPieces(t *testing.T) {
	tail := format.LSN(0)
	p := pacer{ctx: t.Context(), tail: func() format.LSN { return tail }}
	p.begin()
	for i, grown := range []format.LSN{0, 1, 1, 0, 0, 1} {
		tail += grown
		if err := p.rest(0); err != nil {
			t.Fatal(err)
		}
		want := logstore.QuietPiece
		if grown > 0 {
			want = logstore.Piece
		}
		if got := p.piece(); got != want {
			t.Errorf("pause %d: pieces of %d bytes, want %d", i, got, want)
		}
	}
}
