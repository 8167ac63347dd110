package scratch

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// use borrows a Buffer and returns it with n bytes of memory.
func use(b *Buffers, lane uint32, n int) {
	m := b.Take(lane)
	if cap(m.Encoded) < n {
		m.Encoded = make([]byte, n)
	}
	b.Put(lane, m)
}

// Memory that is kept is counted, stays within the limit, and is released by the second tick after its last use.
// Trap 48.
func TestIdleBuffersAreReleased(t *testing.T) {
	const limit = 3 << 20
	k := New(limit)
	b := NewBuffers(k)
	defer k.Stop()
	var borrowed []*Buffer
	for range 100 {
		borrowed = append(borrowed, b.Take(0))
	}
	for i, m := range borrowed {
		m.Encoded, m.Packed = make([]byte, 800<<10), make([]byte, 10)
		b.Put(uint32(i), m)
		if n := k.Bytes(); n > limit {
			t.Fatalf("%d bytes are kept, the limit is %d", n, limit)
		}
	}
	if n := k.Bytes(); n < limit/2 {
		t.Errorf("%d bytes are kept, the limit is %d", n, limit)
	}
	k.Tick()
	if k.Bytes() == 0 {
		t.Error("memory is released right after its use")
	}
	use(b, 0, 10)
	k.Tick()
	if k.Bytes() == 0 {
		t.Error("memory is released right after a use of a part of it")
	}
	k.Tick()
	if n := k.Bytes(); n != 0 {
		t.Errorf("%d bytes are kept when idle", n)
	}
}

// The memory of a rare long value is not kept.
func TestLongBuffersAreNotKept(t *testing.T) {
	k := New(1 << 30)
	b := NewBuffers(k)
	defer k.Stop()
	use(b, 1, maxKept+1)
	if n := k.Bytes(); n != 0 {
		t.Errorf("%d bytes are kept", n)
	}
	m := b.Take(1)
	m.Packed = make([]byte, maxKept+1)
	b.Put(1, m)
	if n := k.Bytes(); n != 0 {
		t.Errorf("%d bytes of compressed data are kept", n)
	}
	use(b, 1, maxKept)
	if n := k.Bytes(); n != maxKept {
		t.Errorf("%d bytes are kept, want %d", n, maxKept)
	}
}

// A Buffer belongs to one call at a time, and the count is exact when all have ended.
func TestBufferHasOneOwner(t *testing.T) {
	k := New(1 << 20)
	b := NewBuffers(k)
	defer k.Stop()
	var wg sync.WaitGroup
	for g := range byte(4) {
		wg.Go(func() {
			for n := range 3000 {
				m := b.Take(uint32(n))
				m.Encoded = append(m.Encoded[:0], g, g)
				if n%7 == 0 {
					m.Packed = make([]byte, n)
				}
				if m.Encoded[0] != g || m.Encoded[1] != g {
					t.Error("two owners")
				}
				b.Put(uint32(n), m)
				if n%500 == 0 {
					k.Tick()
				}
			}
		})
	}
	wg.Wait()
	k.Tick()
	if k.Tick(); k.Bytes() != 0 {
		t.Errorf("%d bytes are counted, none is kept", k.Bytes())
	}
}

// The timer ticks while a task asks for it, or memory is used, and not when nothing is left to do. Stop ends it.
func TestIdleKeeperHasNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(1)
		ticks, left := 0, 2
		k.OnTick(func(bool) bool {
			ticks++
			left--
			return left > 0
		})
		want := func(n int) {
			t.Helper()
			time.Sleep(10*Interval + Interval/2)
			synctest.Wait()
			if ticks != n {
				t.Errorf("%d ticks, want %d", ticks, n)
			}
			ticks = 0
		}
		k.Wake()
		want(2) // the task asked for the second
		k.Use()
		want(2) // the second finds that it is idle
		k.Use()
		k.Stop()
		want(0)
		k.Wake()
		want(0)
	})
}

// A Wake during a tick asks for another one. After Stop during a tick none follows.
func TestWakeAndStopDuringTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(1)
		ticks := 0
		k.OnTick(func(bool) bool {
			switch ticks++; ticks {
			case 1, 2:
				k.Wake()
			case 4:
				k.Stop()
			}
			return ticks == 4
		})
		k.Wake()
		time.Sleep(10 * Interval)
		synctest.Wait()
		if ticks != 3 {
			t.Errorf("%d ticks, want 3", ticks)
		}
		k.Wake()
		time.Sleep(10 * Interval)
		synctest.Wait()
		if ticks != 4 {
			t.Errorf("%d ticks, want 4", ticks)
		}
	})
}
