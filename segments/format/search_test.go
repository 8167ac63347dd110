package format

import (
	"encoding/binary"
	"testing"
)

// One flipped bit in the body of a message is recognised, whichever it is; two or three are not, nor is one in another
// message's body, and an intact message has none. Proves rule 12.
func TestFlippedBit(t *testing.T) {
	const lsn, n = 8192, 300
	seed := MakeSeed(testStore, 3, 4)
	msg := make([]byte, n)
	for i := range msg {
		msg[i] = byte(i * i)
	}
	PutHeader(msg, lsn, 77, lsn)
	w := MakeWord(KindAppend, n)
	PutCRC(msg, w, seed)
	PutWord(msg, w)
	flip := func(bit int) { msg[bit/8] ^= 1 << (bit % 8) }
	flipped := func() bool {
		h, err := DecodeHeader(msg, len(msg), lsn)
		if err != nil {
			t.Fatal(err)
		}
		return FlippedBit(msg, h, seed)
	}
	if flipped() {
		t.Error("an intact message has a flipped bit")
	}
	for bit := HeaderSize * 8; bit < n*8; bit++ {
		flip(bit)
		if !flipped() {
			t.Fatalf("bit %d is not recognised", bit)
		}
		for other := HeaderSize*8 + bit%61; other < n*8; other += 61 {
			third := HeaderSize*8 + (bit*31+other*17)%((n-HeaderSize)*8)
			flip(other)
			if other != bit && flipped() {
				t.Fatalf("bits %d and %d look like one", bit, other)
			}
			flip(third)
			if other != bit && third != bit && third != other && flipped() {
				t.Fatalf("bits %d, %d and %d look like one", bit, other, third)
			}
			flip(third)
			flip(other)
		}
		flip(bit)
	}
}

// NextMessage finds the next valid message behind bytes that look like messages. It gives up when it has verified as
// many bytes as it may, so that a hostile segment does not take time in proportion to the square of its length. Proves
// rule 12.
func TestNextMessageIsBounded(t *testing.T) {
	const lsn, n = 1 << 20, 64 << 10
	seed := MakeSeed(testStore, 1, 0)
	src := make([]byte, n)
	last := n - 32
	for pos := 0; pos < last; pos += HeaderSize { // each looks like a message up to the end
		PutHeader(src[pos:], LSN(lsn+pos), 9, 0)
		binary.LittleEndian.PutUint32(src[pos:], uint32(MakeWord(KindAppend, n-pos)))
	}
	at := last
	clear(src[at:])
	PutHeader(src[at:], LSN(lsn+at), 9, 0)
	w := MakeWord(KindAppend, 32)
	PutCRC(src[at:], w, seed)
	PutWord(src[at:], w)
	effort := n * n
	if got := NextMessage(src, lsn, seed, &effort); got != at {
		t.Errorf("found a message at %d, want %d", got, at)
	}
	effort = SearchEffort * n
	if got := NextMessage(src, lsn, seed, &effort); got != n || effort <= -n {
		t.Errorf("found a message at %d, effort %d: the search is not bounded", got, effort)
	}
	effort = SearchEffort * n
	if got := NextMessage(src[at:], LSN(lsn+at), seed, &effort); got != 0 || effort != SearchEffort*n-32 {
		t.Errorf("found a message at %d, effort %d", got, effort)
	}
	if got := NextMessage(src[at:], lsn, seed, &effort); got != 32 {
		t.Errorf("found a message of another LSN at %d", got)
	}
}
