package iobuf

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"pagecache/segments/format"
)

// A group is one message, and each message in it can be read by itself once the group is committed, in the buffer as in
// the file. Groups need no fence and delay nobody: they neither wait for an open batch nor count as one.
func TestGroupIsReadByMessage(t *testing.T) {
	r := newRig(t, setup{patience: time.Minute})
	records := [][]byte{body(13, 1), nil, body(700, 2)}
	r.beginDurable() // BeginBatch would wait
	lsns, err := r.WriteGroup(records)
	if err != nil {
		t.Fatal(err)
	}
	for i, lsn := range lsns {
		msg := make([]byte, format.HeaderSize+len(records[i]))
		if !r.Read(msg, lsn) {
			t.Fatalf("record %d is not in a buffer", i)
		}
		seed := format.MakeSeed(format.StoreID{}, testGeneration, r.space.slots[0])
		if _, got, err := format.DecodeMessage(msg, lsn, seed); err != nil || !bytes.Equal(got, records[i]) {
			t.Errorf("record %d: %q, %v", i, got, err)
		}
	}
	if _, err := r.WriteGroup([][]byte{make([]byte, r.seg/4)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a group longer than a quarter of a segment: %v", err)
	}
	g, err := r.ReserveGroup(1, format.GroupSize(5))
	if err != nil {
		t.Fatal(err)
	}
	_, aborted, ptr := g.Add(format.KindCompact, 7, 5)
	if at := int64(ptr.Off) % int64(r.seg); at != int64(aborted) || ptr.Len != format.HeaderSize+5 {
		t.Errorf("the message at LSN %v is said to be at %v", aborted, ptr)
	}
	g.Abort()
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	ms := r.messages(end)
	for i, lsn := range lsns {
		if m := ms[lsn]; m.h.Kind != format.KindData || !bytes.Equal(m.body, records[i]) {
			t.Errorf("record %d on the device: %v %q", i, m.h.Kind, m.body)
		}
	}
	if _, ok := ms[aborted]; ok {
		t.Error("a message of an aborted group is there")
	}
}

// A part of a group is one message, and each message in it can be read by itself. It names the first part, and says how
// many follow. Others may write between parts.
func TestGroupInParts(t *testing.T) {
	r := newRig(t, setup{})
	var parts, inside []format.LSN
	first := format.LSN(0)
	for left := 2; left >= 0; left-- {
		k := format.KindGroup
		if first > 0 {
			k = format.KindGroupPart
		}
		size := format.HeaderSize + k.GroupHeadSize() + 2*format.AlignUp(format.HeaderSize+300)
		g, err := r.ReservePart(first, left, size)
		if err != nil {
			t.Fatal(err)
		}
		if parts = append(parts, g.LSN()); first == 0 {
			first = g.LSN()
		}
		for range 2 {
			b, lsn, ptr := g.Add(format.KindCompact, 7, 300)
			copy(b, body(300, uint64(len(inside))))
			if at := int64(ptr.Off) % int64(r.seg); at != int64(lsn)%int64(r.seg) {
				t.Errorf("the message at LSN %v is said to be at %v", lsn, ptr)
			}
			inside = append(inside, lsn)
		}
		g.Complete()
		if _, err := r.put(format.KindCompact, 8, body(100, 9)); err != nil {
			t.Fatal(err)
		}
	}
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	ms := r.messages(end)
	for i, lsn := range parts {
		m := ms[lsn]
		head, err := format.DecodeGroupHead(m.h.Kind, m.body, lsn)
		if want := (format.GroupHead{First: first, Left: 2 - i, Messages: 2}); err != nil || head != want {
			t.Errorf("part %d: %+v, %v; want %+v", i, head, err, want)
		}
	}
	for i, lsn := range inside {
		if m := ms[lsn]; m.h.Page != 7 || !bytes.Equal(m.body, body(300, uint64(i))) {
			t.Errorf("message %d on the device: %+v", i, m.h)
		}
	}
}

// A reader that has found a message of a group before the group is committed gets a notice.
func TestNoticeOfMessageInGroup(t *testing.T) {
	r := newRig(t, setup{patience: time.Minute})
	g, err := r.ReserveGroup(2, format.GroupSize(5, 6))
	if err != nil {
		t.Fatal(err)
	}
	_, first, _ := g.Add(format.KindCompact, 7, 5)
	_, second, _ := g.Add(format.KindCompact, 8, 6)
	for _, lsn := range []format.LSN{first, second} {
		n := r.NoticeCommit(lsn)
		defer n.Stop()
		defer func() {
			select {
			case <-n.C:
			default:
				t.Errorf("no notice of the message at LSN %d", lsn)
			}
		}()
	}
	g.Complete()
}

// The log never becomes stable, or durable, up to a place inside a group, beside flushes of any place.
func TestGroupIsStableAsAWhole(t *testing.T) {
	r := newRig(t, setup{slots: 2000, buffers: 3})
	type span struct{ first, last format.LSN }
	var mu sync.Mutex
	var groups []span
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range uint64(200) {
				lsns, err := r.WriteGroup([][]byte{body(200, i), body(900, i), body(40, i)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				groups = append(groups, span{lsns[0], lsns[2]})
				mu.Unlock()
				if i%3 == 0 {
					if err := r.MakeStable(lsns[0]); err != nil {
						t.Error(err)
					}
					if end := min(r.StableEnd(), r.DurableEnd()); end <= lsns[2] {
						t.Errorf("the log ends at LSN %d, in the group from %d to %d", end, lsns[0], lsns[2])
					}
				}
			}
		})
	}
	wg.Go(func() {
		for range 500 {
			stable, durable := r.StableEnd(), r.DurableEnd()
			mu.Lock()
			for _, g := range groups {
				if stable > g.first && stable <= g.last || durable > g.first && durable <= g.last {
					t.Errorf("stable %d, durable %d in the group from %d to %d", stable, durable, g.first, g.last)
				}
			}
			mu.Unlock()
			if err := r.MakeDurable(r.Tail() - 1); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
