package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// putGroup writes a group at LSN lsn to dst, with messages of the given kinds and bodies, and returns its length.
func putGroup(dst []byte, lsn LSN, seed Seed, kinds []Kind, bodies ...[]byte) int {
	at := GroupStep
	for i, body := range bodies {
		w := MakeWord(kinds[i], HeaderSize+len(body))
		PutHeader(dst[at:], lsn+LSN(at), PageID(6+i), lsn)
		copy(dst[at+HeaderSize:], body)
		PutCRC(dst[at:], w, seed)
		PutWord(dst[at:], w)
		at += AlignUp(w.Len())
	}
	PutGroupHead(dst[HeaderSize:], len(bodies))
	sealGroup(dst, lsn, seed, at)
	return at
}

// sealGroup writes the header of a group of n bytes.
func sealGroup(dst []byte, lsn LSN, seed Seed, n int) {
	w := MakeWord(KindGroup, n)
	PutHeader(dst, lsn, 0, lsn)
	PutCRC(dst, w, seed)
	PutWord(dst, w)
}

// A group is valid only if all of its messages are, and it consists of them alone. Proves F1, rule 12.
func TestCheckGroup(t *testing.T) {
	const lsn, seed = LSN(8192), Seed(7)
	first, second := bytes.Repeat([]byte{1}, 13), bytes.Repeat([]byte{2}, 40)
	group := func(kinds ...Kind) []byte {
		b := make([]byte, 512)
		return b[:putGroup(b, lsn, seed, kinds, first, second)]
	}
	b := group(KindData, KindData)
	if want := GroupSize(len(first), len(second)); len(b) != want {
		t.Errorf("the group has %d bytes, want %d", len(b), want)
	}
	h, body, err := DecodeMessage(b, lsn, seed)
	if err == nil {
		err = CheckGroup(body, lsn, seed)
	}
	if err != nil || h.Step() != GroupStep {
		t.Fatalf("step %d, %v", h.Step(), err)
	}
	// Each message is valid by itself.
	at := GroupStep
	for _, want := range [][]byte{first, second} {
		m, got, err := DecodeMessage(b[at:], lsn+LSN(at), seed)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("message at %d: %q, %v", at, got, err)
		}
		at += m.Step()
	}
	// The checksum of the group is right, and something in it is not.
	for what, spoil := range map[string]func(b []byte) []byte{
		"no message":    func(b []byte) []byte { PutGroupHead(b[HeaderSize:], 0); return b[:GroupStep] },
		"no head":       func(b []byte) []byte { return b[:HeaderSize+4] },
		"two parts":     func(b []byte) []byte { b[HeaderSize] = 2; return b },
		"one too many":  func(b []byte) []byte { b[HeaderSize+4] = 3; return b },
		"one too few":   func(b []byte) []byte { b[HeaderSize+4] = 1; return b },
		"cut":           func(b []byte) []byte { return b[:len(b)-8] },
		"a flipped bit": func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"another LSN":   func(b []byte) []byte { b[GroupStep+8] ^= 8; return b },
		"a zero word": func(b []byte) []byte {
			binary.LittleEndian.PutUint32(b[GroupStep:], 0)
			return b
		},
		"a batch marker": func([]byte) []byte { return group(KindData, KindBatchBegin) },
		"a group":        func([]byte) []byte { return group(KindGroup, KindData) },
		"a pad":          func([]byte) []byte { return group(KindPad, KindData) },
		"longer":         func(b []byte) []byte { return append(b, make([]byte, 8)...) },
	} {
		b := spoil(group(KindData, KindData))
		sealGroup(b, lsn, seed, len(b))
		_, body, err := DecodeMessage(b, lsn, seed)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckGroup(body, lsn, seed); !errors.Is(err, ErrGroup) {
			t.Errorf("%s: %v, want ErrGroup", what, err)
		}
	}
	// The messages of a group that moves to another slot verify there.
	b = group(KindData, KindData)
	h, _, _ = DecodeMessage(b, lsn, seed)
	ResealGroup(b, h, 8)
	PutCRC(b, MakeWord(h.Kind, h.Len), 8)
	if _, body, err = DecodeMessage(b, lsn, 8); err == nil {
		err = CheckGroup(body, lsn, 8)
	}
	if err != nil {
		t.Error(err)
	}
}

// Walking over any group that is accepted finds as many messages as its head says, and ends where it ends.
func FuzzGroup(f *testing.F) {
	b := make([]byte, 512)
	n := putGroup(b, 4096, 3, []Kind{KindData, KindAppend}, []byte("a record"), []byte("a longer one"))
	f.Add(b[HeaderSize:n], int64(4096), uint32(3))
	f.Add([]byte{}, int64(0), uint32(0))
	f.Fuzz(func(t *testing.T, body []byte, lsn int64, seed uint32) {
		if CheckGroup(body, LSN(lsn), Seed(seed)) != nil {
			return
		}
		left, pos := binary.LittleEndian.Uint32(body[4:]), GroupHeadSize
		for ; pos < len(body); left-- {
			h, _, err := DecodeMessage(body[pos:], LSN(lsn)+HeaderSize+LSN(pos), Seed(seed))
			if err != nil || !h.Kind.Grouped() {
				t.Fatalf("%v, %v", h.Kind, err)
			}
			pos += h.Step()
		}
		if left != 0 || pos != len(body) {
			t.Fatalf("%d messages left, at %d of %d", left, pos, len(body))
		}
	})
}
