package engine_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
)

// napping sleeps in each Decode and counts the calls.
type napping struct {
	engine.Bytes
	nap, calls *atomic.Int64
}

func (n napping) Decode(b []byte) ([]byte, error) {
	n.calls.Add(1)
	time.Sleep(time.Duration(n.nap.Load()))
	return b, nil
}

// Close interrupts a long cleaning step, and unmaps nothing that the step still reads.
func TestCloseWhileCleaning(t *testing.T) {
	dir := t.TempDir()
	o := &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
	pc := enginetest.Open(t, dir, o)
	pids := enginetest.AllocateMany(t, pc, 2000, 50)
	enginetest.Close(t, pc)
	enginetest.WithSeam(o, seam.Options{Eager: true})
	m := napping{nap: new(atomic.Int64), calls: new(atomic.Int64)}
	s := enginetest.OpenWith(t, dir, m, o)
	resume := engine.CleanerOf(s).Pause() // or it could be done before its decoding is slow
	tx := enginetest.Begin(t, s)
	for i, pid := range pids {
		if i%4 == 0 {
			p, err := s.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(s.Replace(tx, pid, p.Ptr, make([]byte, 50)))
		}
	}
	tx.End()
	m.nap.Store(int64(30 * time.Millisecond))
	before := m.calls.Load()
	resume()
	engine.CleanerOf(s).Kick()
	enginetest.Soon(t, "waiting for a cleaning step that decodes", func() {
		for m.calls.Load() < before+2 {
			time.Sleep(time.Millisecond)
		}
	})
	before = m.calls.Load()
	enginetest.Soon(t, "Close beside a cleaning step", func() { enginetest.Close(t, s) })
	if n := m.calls.Load() - before; n > 100 { // the step has more than 1000
		t.Errorf("the cleaner decoded %d pages before it stopped", n)
	}
}

// If the device hangs while the cleaner waits for an io buffer, Close returns an error.
func TestCloseWhileCleanerWaitsForHungDevice(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute, in which Close waits for the device")
	}
	t.Parallel()
	d := simdisk.New(3, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	pids := enginetest.AllocateMany(t, pc, 100, 1500)
	enginetest.Flush(t, pc)
	tx := enginetest.Begin(t, pc)
	for i, pid := range pids {
		if i%3 == 0 {
			p, err := pc.Get(tx, pid)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Must(t)(pc.Replace(tx, pid, p.Ptr, nil))
		}
	}
	tx.End()
	enginetest.Flush(t, pc)
	d.Hang(true)
	engine.CleanerOf(pc).RestartEager()
	time.Sleep(300 * time.Millisecond) // for the cleaner to wait
	done := make(chan error, 1)
	go func() { done <- pc.Close() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("Close with a hung device: no error")
		}
	case <-time.After(60 * time.Second):
		t.Error("Close did not return within a minute")
	}
	enginetest.Check(t, "/store", enginetest.SimOptions(d.Crash(1)))
}

// blocking lets one Decode, the first after once was set, close began and wait until resume is closed.
type blocking struct {
	engine.Bytes
	once *atomic.Pointer[block]
}

type block struct{ began, resume chan struct{} }

func (b blocking) Decode(src []byte) ([]byte, error) {
	if w := b.once.Swap(nil); w != nil {
		close(w.began)
		<-w.resume
	}
	return src, nil
}

// If Close stops waiting for the Tx of a running Get, the Get still returns its value: Close unmaps nothing under it.
func TestCloseUnderGet(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s, in which Close waits for the Tx")
	}
	t.Parallel()
	once := new(atomic.Pointer[block])
	pc := enginetest.OpenWith(t, t.TempDir(), blocking{once: once}, &engine.Options{FlushEvery: -1})
	tx := enginetest.Begin(t, pc)
	pid, ptr, err := pc.Allocate(tx, []byte("base"))
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Must(t)(pc.Link(tx, pid, ptr, []byte("delta")))
	engine.Evict(pc, tx, pid)
	w := &block{began: make(chan struct{}), resume: make(chan struct{})}
	once.Store(w)
	done := make(chan error, 1)
	go func() {
		p, err := pc.Get(tx, pid)
		if err == nil && string(p.Value) != "basedelta" {
			err = fmt.Errorf("value %q, want basedelta", p.Value)
		}
		done <- err
	}()
	enginetest.Soon(t, "Decode in Get", func() { <-w.began })
	enginetest.Soon(t, "Close with an open Tx", func() {
		if err := pc.Close(); err == nil {
			t.Error("Close with an open Tx: no error")
		}
	})
	close(w.resume)
	enginetest.Soon(t, "Get beside Close", func() { err = <-done })
	if err != nil {
		t.Errorf("Get beside Close: %v", err)
	}
	tx.End()
}
