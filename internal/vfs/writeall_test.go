package vfs

import (
	"errors"
	"slices"
	"testing"
)

// stubDevice completes a bounded number of writes in each Do, the newest first.
type stubDevice struct {
	t       *testing.T
	most    int             // completions of one Do
	fail    map[int64]error // by offset: the error of the completion
	broken  map[int64]error // by offset: the error of Do when the write is started
	flight  []Write         // newest last
	started []int64         // offsets in the order of starting
	dead    error
}

func (d *stubDevice) Depth() int   { return 3 }
func (d *stubDevice) Block() int   { return 1 }
func (d *stubDevice) Close() error { return nil }

func (d *stubDevice) Do(writes []Write, min int, dst []Completion) ([]Completion, error) {
	for _, w := range writes {
		d.started = append(d.started, w.Off)
		d.flight = append(d.flight, w)
		if err := d.broken[w.Off]; err != nil {
			d.dead = err
		}
	}
	if len(d.flight) > d.Depth() {
		d.t.Errorf("%d writes are in flight, at most %d", len(d.flight), d.Depth())
	}
	if min > len(d.flight) {
		d.t.Errorf("waits for %d writes, in flight are %d", min, len(d.flight))
	}
	for n := 0; n < d.most && len(d.flight) > 0; n++ {
		w := d.flight[len(d.flight)-1]
		d.flight = d.flight[:len(d.flight)-1]
		dst = append(dst, Completion{Tag: w.Tag, Err: d.fail[w.Off]})
	}
	return dst, d.dead
}

func writesAt(n int) (writes []Write) {
	for i := range n {
		writes = append(writes, Write{Off: int64(i), Buf: []byte{byte(i)}, Tag: uint64(i)})
	}
	return writes
}

// WriteAll starts every write once, in order, within the depth, and returns after all have completed.
func TestWriteAll(t *testing.T) {
	for n := range 9 {
		for most := 1; most <= 3; most++ {
			d := &stubDevice{t: t, most: most}
			err := WriteAll(d, writesAt(n))
			if err != nil || len(d.flight) > 0 || len(d.started) != n || !slices.IsSorted(d.started) {
				t.Errorf("%d writes, %d at a time: started %v, in flight %v, %v", n, most, d.started, d.flight, err)
			}
		}
	}
}

// The errors of all writes are found. A device that works on leaves nothing in flight.
func TestWriteAllReportsEachFailure(t *testing.T) {
	first, last := errors.New("first"), errors.New("last")
	d := &stubDevice{t: t, most: 2, fail: map[int64]error{0: first, 6: last}}
	err := WriteAll(d, writesAt(7))
	if !errors.Is(err, first) || !errors.Is(err, last) || errors.Is(err, ErrInFlight) {
		t.Error(err)
	}
	if len(d.started) != 7 || len(d.flight) > 0 {
		t.Errorf("started %v, in flight %v, %v", d.started, d.flight, err)
	}
}

// If the device itself fails, writes may be in flight, and the error says so, beside those of the writes that did
// complete.
func TestWriteAllWithABrokenDevice(t *testing.T) {
	gone, bad := errors.New("device is gone"), errors.New("bad sector")
	d := &stubDevice{t: t, most: 1, broken: map[int64]error{1: gone}, fail: map[int64]error{1: bad}}
	err := WriteAll(d, writesAt(2))
	if !errors.Is(err, ErrInFlight) || !errors.Is(err, gone) || !errors.Is(err, bad) || len(d.flight) != 1 {
		t.Errorf("in flight %v, %v", d.flight, err)
	}
}
