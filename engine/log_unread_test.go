package engine_test

import (
	"bytes"
	"errors"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// The disk does not return the block at the end of a sealed segment, and with it all of the index. The log opens, for
// writing too, and has every record that does not lie in the block. Reading one that does, and stepping over the place,
// fails with the place. Once the disk returns the block again, everything is there. Proves rule 10; trap 30.
func TestIndexInUnreadableBlock(t *testing.T) {
	const block = 4096
	for _, clean := range []bool{false, true} {
		d := simdisk.New(1, simdisk.Options{})
		l := enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
		var rs []engine.Record
		for i := range 200 {
			p := enginetest.Random(200+i, uint64(i))
			lsn, ptr, err := l.Write(p)
			if err != nil {
				t.Fatal(err)
			}
			rs = append(rs, engine.Record{LSN: lsn, Ptr: ptr, Bytes: p})
			if i%7 == 6 {
				enginetest.Flush(t, l)
			}
		}
		enginetest.Flush(t, l)
		if clean {
			enginetest.Close(t, l)
		} else {
			enginetest.NoCheck(t, l)
		}
		whole, size := d.Copy(), engine.LSN(enginetest.SimOptions(d).SegmentSize)
		segments := scannedLog(t, whole).Segments
		lost := 0
		for _, g := range segments[:len(segments)-2] { // those that are known to have been stable
			d := whole.Copy()
			at := int64(g.Slot.Offset(int(size))) + int64(size) - block
			d.SetUnreadable(logFile, at, block)
			l, err := engine.OpenLog("/store", enginetest.SimOptions(d))
			if err != nil {
				t.Fatalf("clean %v, segment %v: %v", clean, g.Base, err)
			}
			for _, r := range rs {
				got, err := l.Read(r.LSN, r.Ptr)
				switch in := r.LSN < g.Base+size && r.LSN+engine.LSN(r.Ptr.Len) > g.Base+size-block; {
				case in && (!vfs.IsUnreadable(err) || enginetest.Placed(err) != nil):
					t.Errorf("record %v lies in the block: %v", r.LSN, err)
				case in:
					lost++
				case err != nil || !bytes.Equal(got, r.Bytes):
					t.Errorf("record %v does not lie in the block: %v", r.LSN, err)
				}
			}
			for r, err := range l.Records(0) {
				if err != nil && (!vfs.IsUnreadable(err) || enginetest.Placed(err) != nil) || r.LSN >= g.Base+size {
					t.Errorf("segment %v: LSN %v, %v", g.Base, r.LSN, err)
				}
			}
			n := 0
			for _, err := range l.Records(g.Base + size) {
				if n++; err != nil {
					t.Error(err)
				}
			}
			mustWrite(t, l, 10)
			if n < 5 || errors.Join(l.DropBelow(g.Base), l.Close()) != nil {
				t.Errorf("segment %v: %d records behind", g.Base, n)
			}
			d.SetUnreadable(logFile, 0, 0)
			l = enginetest.OpenLog(t, "/store", enginetest.SimOptions(d))
			i := len(rs)
			for n := range rs {
				if rs[n].LSN >= l.FirstLSN()+format.SegmentStart {
					i = n
					break
				}
			}
			for r, err := range l.Records(0) {
				if err != nil || i < len(rs) && (r.LSN != rs[i].LSN || !bytes.Equal(r.Bytes, rs[i].Bytes)) {
					t.Fatalf("segment %v, readable again: LSN %v, %v", g.Base, r.LSN, err)
				}
				i++
			}
			if i != len(rs)+1 {
				t.Errorf("segment %v, readable again: %d records", g.Base, i)
			}
			enginetest.Close(t, l)
		}
		if lost == 0 {
			t.Error("no record lay in a block")
		}
	}
}
