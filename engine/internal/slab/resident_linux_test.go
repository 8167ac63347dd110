package slab

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// touched returns the bytes of a pool's chunks that the kernel keeps in memory.
func touched(t *testing.T, p *Pool) (n int64) {
	for _, ch := range p.chunks {
		if ch == nil {
			continue
		}
		var vec [chunkLen]byte
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, address(ch.mem), chunkSize, uintptr(unsafe.Pointer(&vec)))
		if errno != 0 {
			t.Fatal(errno)
		}
		for _, v := range vec {
			n += int64(v&1) * pageSize
		}
	}
	return n
}

// Resident is what the kernel says, as values come and go. Proves H4.
func TestResidentIsExact(t *testing.T) {
	if raced {
		t.Skip("the chunks are on the Go heap")
	}
	p, _ := open(t, 64<<20)
	compare := func(when string) {
		t.Helper()
		if st, n := p.Stats(), touched(t, p); n != st.Resident-p.meta.Load() {
			t.Errorf("%s: %d bytes are touched, %+v and %d for lists", when, n, st, p.meta.Load())
		}
	}
	var all [][]byte
	for i := range 3000 {
		b := p.Alloc(0, 100+i*7%60_000)
		if b == nil {
			break
		}
		clear(b)
		all = append(all, b)
		if i%500 == 0 {
			compare("growing")
		}
	}
	for i, b := range all {
		if i%3 > 0 {
			p.Free(b)
		}
	}
	compare("shrinking")
	p.Flush()
	compare("flushed")
	for i, b := range all {
		if i%3 == 0 {
			p.Free(b)
		}
	}
	p.each((*class).trim)
	compare("empty")
	if n := touched(t, p); n != 0 {
		t.Errorf("%d bytes are touched when nothing is live", n)
	}
}
