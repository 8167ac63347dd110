package pagemap

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	"pagecache/engine/internal/pagestack"
	"pagecache/engine/internal/txn"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// BenchmarkRebuild measures Rebuild for a log of small messages, of which one in five is a whole page, with and
// without a snapshot of all pages below them. Each page has at least one message in the log.
func BenchmarkRebuild(b *testing.B) {
	for _, c := range []struct {
		messages, pages int
		snapshot        bool
	}{
		{600_000, 100_000, false}, {600_000, 100_000, true}, {600_000, 600_000, false}, {1000, 100, false},
	} {
		b.Run(fmt.Sprintf("messages=%d/pages=%d/snapshot=%v", c.messages, c.pages, c.snapshot), func(b *testing.B) {
			f := &forge{t: b, rng: rand.New(rand.NewPCG(1, 5)), pages: map[format.PageID][]forged{}}
			f.disk = simdisk.New(1, simdisk.Options{})
			f.next = format.FirstUserPage
			f.o = openUnbuilt(b, f.disk, 8<<20)
			body := make([]byte, 100)
			for i := range c.pages {
				f.write(format.KindCompact, format.FirstUserPage+format.PageID(i), body)
			}
			if c.snapshot {
				f.exact = true
				f.snapshot()
			}
			for i := range c.messages {
				pid := format.FirstUserPage + format.PageID(f.rng.IntN(c.pages))
				k := format.KindAppend
				if i%5 == 0 {
					k = format.KindCompact
				}
				f.write(k, pid, body)
			}
			f.flush()
			f.o.store.Abandon()
			f.o = openUnbuilt(b, f.disk, 0)
			defer f.o.store.Abandon()
			b.ReportAllocs()
			for b.Loop() {
				m := new(Map)
				m.Init(f.o.store, f.o.blobs, f.o.snaps, &f.o.domain)
				if err := m.Rebuild(f.o.found); err != nil {
					b.Fatal(err)
				}
			}
			messages := c.messages
			if !c.snapshot {
				messages += c.pages
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages), "ns/message")
		})
	}
}

// Transactions of 4 pages read and 2 of them written anew with 100 bytes, uniform over 100 000 pages, and the same two
// writes as changes of single pages.
func BenchmarkCommit(b *testing.B) {
	const pages = 100_000
	d := simdisk.New(1, simdisk.Options{})
	o := openUnbuilt(b, d, 8<<20)
	defer o.store.Abandon()
	if err := o.m.Rebuild(o.found); err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 100)
	entry := func(h *Head, msgs []pagestack.Ref) *Head {
		e := pagestack.New[[]byte](pagestack.KindBase, NextTS(h), 1, msgs[0].LSN, msgs[0].Ptr)
		e.Frag = body
		return &e.Head
	}
	single := func(pid format.PageID) {
		for {
			h := o.m.Clock.Claim(o.m.Table.Make(pid))
			r, err := o.m.store.Log.Reserve(format.KindCompact, pid, len(body))
			if err != nil {
				b.Fatal(err)
			}
			copy(r.Body(), body)
			e := entry(h, []pagestack.Ref{{LSN: r.LSN(), Ptr: r.Ptr()}})
			o.m.Clock.Begin(pid)
			won := o.m.Install(o.m.Table.Make(pid), h, e, &r, 0)
			if won {
				o.m.Clock.Stamp(pid)
			}
			o.m.Clock.End(pid)
			if won {
				return
			}
		}
	}
	for pid := range format.PageID(pages) {
		single(format.FirstUserPage + pid)
	}
	var seed, age atomic.Uint64
	each := func(b *testing.B, do func(pids []format.PageID)) {
		b.ReportAllocs()
		b.SetParallelism(4 / min(4, runtime.GOMAXPROCS(0)))
		b.RunParallel(func(pb *testing.PB) {
			rng := rand.New(rand.NewPCG(seed.Add(1), 0))
			for pb.Next() {
				var pids [4]format.PageID
				for i := range pids {
					pids[i] = format.FirstUserPage + format.PageID(rng.IntN(pages/4)+i*pages/4)
				}
				do(pids[:])
			}
		})
	}
	b.Run("transaction", func(b *testing.B) {
		each(b, func(pids []format.PageID) {
			mine := age.Add(1)
			for {
				var reads txn.Reads
				reads.Reset(&o.m.Clock)
				ok := true
				for _, pid := range pids {
					_, _, now := reads.Read(pid, o.m.Table.Make(pid))
					ok = ok && now
				}
				if !ok {
					continue
				}
				all := reads.All()
				parts := []Part{{Kind: format.KindCompact, Body: body}}
				c := Commit{Age: mine, Reads: all[2:], Writes: []Write{
					{Read: all[0], Parts: parts, Entry: entry}, {Read: all[1], Parts: parts, Entry: entry}}}
				if _, err := o.m.Commit(&c); err == nil {
					return
				}
			}
		})
	})
	b.Run("single", func(b *testing.B) {
		each(b, func(pids []format.PageID) {
			single(pids[0])
			single(pids[1])
		})
	})
}
