package format

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

// A delta carries the name of the message that it was appended to, which is unique within 32 GiB of the log; every
// other kind of message has none. Proves F2, rule 14.
func TestDeltaNamesItsMessage(t *testing.T) {
	const window = LSN(1) << 32 * Align
	for _, c := range []struct{ prev, lsn LSN }{
		{4096, 4120}, {4096, 8192}, {window - 8, window + 4096}, {window + 4096, window + 8192}, {4096, window},
		{5 * window, 6*window - 8}, {math.MaxInt64&^7 - window, math.MaxInt64 &^ 7}, {8192, 8192 + window},
	} {
		body := make([]byte, 7)
		copy(PutPrev(body, c.prev), "abc")
		for _, k := range []Kind{KindAppend, KindAppendBlob, KindAppendZstd} {
			got, rest, err := CutPrev(k, body)
			if err != nil || got != PrevOf(c.prev) || got.Below(c.lsn) != c.prev || string(rest) != "abc" {
				t.Errorf("%v at LSN %d, appended to %d: %d, %q, %v", k, c.lsn, c.prev, got.Below(c.lsn), rest, err)
			}
			for n := range PrevSize {
				if _, _, err := CutPrev(k, body[:n]); !errors.Is(err, ErrLength) {
					t.Errorf("%v with %d bytes: %v", k, n, err)
				}
			}
		}
		for d := LSN(Align); d < window; d = d*3 + Align {
			if PrevOf(c.prev) == PrevOf(c.prev+d) {
				t.Errorf("LSNs %d and %d have one name", c.prev, c.prev+d)
			}
		}
	}
	if at := PrevOf(8192).Below(4096); at != NoLSN {
		t.Errorf("no message below LSN 4096 has the name of 8192, got %d", at)
	}
	body := []byte("abcdefg")
	for k := range Kind(255) {
		if k.Delta() != (k.Plain() == KindAppend) {
			t.Errorf("%v is a delta: %v", k, k.Delta())
		}
		if p, rest, err := CutPrev(k, body); !k.Delta() && (p != 0 || !bytes.Equal(rest, body) || err != nil) {
			t.Errorf("%v: %d, %q, %v", k, p, rest, err)
		}
	}
}
