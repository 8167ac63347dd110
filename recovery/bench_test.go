package recovery

import (
	"fmt"
	"testing"

	"pagecache/segments/format"
)

func BenchmarkScan(b *testing.B) {
	for _, c := range []struct{ segment, segments, value int }{
		{16 << 10, 1, 64}, {16 << 10, 4, 64}, {1 << 20, 64, 64}, {1 << 20, 64, 1024}, {1 << 20, 64, 16 << 10},
	} {
		b.Run(fmt.Sprintf("segment=%d/segments=%d/value=%d", c.segment, c.segments, c.value), func(b *testing.B) {
			f := make(file, c.segment*c.segments)
			messages, joined := 0, format.Identity(0)
			for i := range c.segments {
				seg := f[i*c.segment:][:c.segment]
				h := format.SegmentHeader{State: format.SegmentStateInUse, SegmentSize: c.segment, BlockSize: 512,
					Generation: 1, Base: format.LSN(i * c.segment), Stable: format.NoLSN, Slot: format.SegmentID(i),
					Store: testStore, Timeline: testTimeline}
				joined += h.Identity()
				h.Ledger.Joined = joined
				h.Put(seg)
				seed := format.MakeSeed(testStore, 1, h.Slot)
				n := format.HeaderSize + c.value
				pos := format.SegmentStart
				for ; len(seg)-pos >= n; pos += format.AlignUp(n) {
					w := format.MakeWord(format.KindAppend, n)
					format.PutHeader(seg[pos:], h.Base+format.LSN(pos), 2, h.Base)
					format.PutCRC(seg[pos:], w, seed)
					format.PutWord(seg[pos:], w)
					messages++
				}
				if left := len(seg) - pos; left >= format.HeaderSize {
					k := format.Known{Durable: h.Base, Stable: h.Base - 1}
					format.PutWord(seg[pos:], format.PutPad(seg[pos:], h.Base+format.LSN(pos), k, left, seed))
				}
			}
			o := Options{Store: testStore, SegmentSize: c.segment, Generation: 1,
				Lineage: format.Lineage{{Timeline: testTimeline}}}
			b.SetBytes(int64(len(f)))
			b.ReportAllocs()
			for b.Loop() {
				r, err := Scan(f, o)
				if err != nil || r.End != format.LSN(len(f)) {
					b.Fatal(r, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(messages), "ns/message")
		})
	}
}
