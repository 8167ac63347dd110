package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// putGroup writes a group at LSN lsn to dst, with messages of the given kinds and bodies, and returns its length.
func putGroup(dst []byte, lsn LSN, seed Seed, kinds []Kind, bodies ...[]byte) int {
	return putPart(dst, partAt{lsn, GroupHead{}}, seed, kinds, bodies...)
}

// partAt is the place and the head of a part.
type partAt struct {
	lsn  LSN
	head GroupHead
}

// putPart is putGroup for a part of a group, the first one if head names none. It sets the number of messages.
func putPart(dst []byte, p partAt, seed Seed, kinds []Kind, bodies ...[]byte) int {
	lsn, head := p.lsn, p.head
	kind := KindGroup
	if head.First > 0 {
		kind = KindGroupPart
	}
	at := HeaderSize + kind.GroupHeadSize()
	for i, body := range bodies {
		w := MakeWord(kinds[i], HeaderSize+len(body))
		PutHeader(dst[at:], lsn+LSN(at), PageID(6+i), lsn)
		copy(dst[at+HeaderSize:], body)
		PutCRC(dst[at:], w, seed)
		PutWord(dst[at:], w)
		at += AlignUp(w.Len())
	}
	head.Messages = len(bodies)
	head.Put(dst[HeaderSize:], kind)
	seal(dst, kind, lsn, seed, at)
	return at
}

// sealGroup writes the header of a group of n bytes.
func sealGroup(dst []byte, lsn LSN, seed Seed, n int) { seal(dst, KindGroup, lsn, seed, n) }

// seal is sealGroup for a group, or part of one, of the given kind.
func seal(dst []byte, k Kind, lsn LSN, seed Seed, n int) {
	w := MakeWord(k, n)
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
		_, err = CheckGroup(KindGroup, body, lsn, seed)
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
		if _, err := CheckGroup(KindGroup, body, lsn, seed); !errors.Is(err, ErrGroup) {
			t.Errorf("%s: %v, want ErrGroup", what, err)
		}
	}
	// The messages of a group that moves to another slot verify there.
	b = group(KindData, KindData)
	h, _, _ = DecodeMessage(b, lsn, seed)
	ResealGroup(b, h, 8)
	PutCRC(b, MakeWord(h.Kind, h.Len), 8)
	if _, body, err = DecodeMessage(b, lsn, 8); err == nil {
		_, err = CheckGroup(KindGroup, body, lsn, 8)
	}
	if err != nil {
		t.Error(err)
	}
}

// A part of a group says which group it belongs to, and whether more follow. All of its messages are those of pages.
// It is read by message, as a group is, and can move to another slot. Proves F1, rule 12.
func TestCheckGroupPart(t *testing.T) {
	const first, lsn, seed = LSN(4096), LSN(8192), Seed(7)
	part := func(head GroupHead, kinds ...Kind) []byte {
		b := make([]byte, 512)
		return b[:putPart(b, partAt{lsn, head}, seed, kinds, []byte("one"), []byte("another"))]
	}
	check := func(b []byte) (GroupHead, error) {
		h, body, err := DecodeMessage(b, lsn, seed)
		if err != nil {
			t.Fatal(err)
		}
		return CheckGroup(h.Kind, body, lsn, seed)
	}
	for _, head := range []GroupHead{{First: first}, {First: first, Left: 3}, {First: first, Left: MaxGroupParts - 2},
		{Left: 1}, {Left: MaxGroupParts - 1}} {
		b := part(head, KindCompact, KindRoot)
		got, err := check(b)
		want := GroupHead{First: head.First, Left: head.Left, Messages: 2}
		if want.First == 0 {
			want.First = lsn
		}
		if err != nil || got != want {
			t.Errorf("%+v: %+v, %v", head, got, err)
		}
		h, _, _ := DecodeMessage(b, lsn, seed)
		n := 0
		for pos := h.Step(); pos < h.Len; n++ {
			m, _, err := DecodeMessage(b[pos:], lsn+LSN(pos), seed)
			if err != nil {
				t.Fatal(err)
			}
			pos += m.Step()
		}
		if n != 2 || !got.InParts(h.Kind) {
			t.Errorf("%+v: %d messages, in parts %v", head, n, got.InParts(h.Kind))
		}
		ResealGroup(b, h, 8)
		PutCRC(b, MakeWord(h.Kind, h.Len), 8)
		_, body, err := DecodeMessage(b, lsn, 8)
		if err == nil {
			_, err = CheckGroup(h.Kind, body, lsn, 8)
		}
		if err != nil {
			t.Errorf("%+v, moved: %v", head, err)
		}
	}
	for what, b := range map[string][]byte{
		"a record in a part":       part(GroupHead{First: first}, KindCompact, KindData),
		"a record in a first part": part(GroupHead{Left: 1}, KindData, KindCompact),
		"a marker":                 part(GroupHead{First: first}, KindCompact, KindBatchEnd),
		"of a later group":         part(GroupHead{First: lsn}, KindCompact, KindCompact),
		"of no group":              part(GroupHead{First: -8}, KindCompact, KindCompact),
		"too many follow":          part(GroupHead{First: first, Left: MaxGroupParts - 1}, KindCompact, KindCompact),
		"too many parts":           part(GroupHead{Left: MaxGroupParts}, KindCompact, KindCompact),
	} {
		if what == "of no group" { // putPart takes it for a first part
			b = part(GroupHead{First: first}, KindCompact, KindCompact)
			binary.LittleEndian.PutUint64(b[HeaderSize:], 0)
			seal(b, KindGroupPart, lsn, seed, len(b))
		}
		if _, err := check(b); !errors.Is(err, ErrGroup) {
			t.Errorf("%s: %v, want ErrGroup", what, err)
		}
	}
}

// A list of decisions is rejected, or encodes to the same bytes again. Proves F1, rule 12.
func FuzzDecisions(f *testing.F) {
	b := make([]byte, DecisionsSize(2))
	PutDecisions(b, []Decision{{First: 4096, Last: 8192}, {First: 5000, Last: 20000}})
	f.Add(b, int64(30000))
	f.Add(b, int64(20000))
	f.Fuzz(func(t *testing.T, body []byte, at int64) {
		ds, err := DecodeDecisions(body, LSN(at))
		if err != nil {
			if !errors.Is(err, ErrDecision) {
				t.Fatal(err)
			}
			return
		}
		for _, d := range ds {
			if d.First <= 0 || d.First >= d.Last || d.Last >= LSN(at) || d.At != LSN(at) {
				t.Fatalf("%+v at %d", d, at)
			}
		}
		again := make([]byte, DecisionsSize(len(ds)))
		if PutDecisions(again, ds); !bytes.Equal(again, body) {
			t.Fatalf("%x, was %x", again, body)
		}
	})
}

// Walking over any group that is accepted finds as many messages as its head says, and ends where it ends.
func FuzzGroup(f *testing.F) {
	b := make([]byte, 512)
	n := putGroup(b, 4096, 3, []Kind{KindData, KindAppend}, []byte("a record"), []byte("a longer one"))
	f.Add(b[HeaderSize:n], int64(4096), uint32(3), false)
	at := partAt{9000, GroupHead{First: 4096}}
	n = putPart(b, at, 3, []Kind{KindCompact, KindAppend}, []byte("a page"), []byte("a delta"))
	f.Add(b[HeaderSize:n], int64(9000), uint32(3), true)
	f.Add([]byte{}, int64(0), uint32(0), false)
	f.Fuzz(func(t *testing.T, body []byte, lsn int64, seed uint32, part bool) {
		k := KindGroup
		if part {
			k = KindGroupPart
		}
		head, err := CheckGroup(k, body, LSN(lsn), Seed(seed))
		if err != nil {
			return
		}
		left, pos := head.Messages, k.GroupHeadSize()
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
