package engine_test

import (
	"errors"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// salvageOf salvages the store on a disk, which has segments of 16 KiB.
func salvageOf(d *simdisk.Disk) (engine.SalvageReport, error) {
	return engine.Salvage("/store", "/saved", enginetest.SimOptions(d), nil)
}

// If the only block with messages in the last segment cannot be read, Salvage reports that they are lost, and Open
// refuses: nothing else proves that they were acknowledged. Proves rule 10; trap 30.
func TestSalvageReportsUnreadableEnd(t *testing.T) {
	const size = 16 << 10
	d := simdisk.New(7, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	var hurt *simdisk.Disk
	for hurt == nil {
		pid, _ := enginetest.Allocate(t, pc, make([]byte, 300))
		enginetest.Flush(t, pc)
		places, err := engine.Places(pc, pid)
		if err != nil {
			t.Fatal(err)
		}
		if off := int64(places[0].Off); off%size == 4096 && off > size {
			hurt = d.Copy()
			hurt.SetUnreadable(logFile, off, 4096)
		}
	}
	enginetest.Close(t, pc)
	r, err := salvageOf(hurt)
	if err != nil || len(r.Losses) == 0 || r.Unreadable == 0 {
		t.Errorf("Salvage: %+v, error %v, want a loss of 4096 bytes that cannot be read", r, err)
	}
	if pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(hurt)); err == nil {
		t.Error("the store opens without its last segment")
		_ = pc.Close()
	} else if !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("Open: %v, want ErrCorrupt", err)
	}
}

// If the log was cut to nothing, or to its first segment, Salvage reports a loss, by what the superblock knows of the
// log: that it had begun, up to where an opening found it, or where it was closed. Open refuses. Proves rule 13.
func TestSalvageReportsLogCutShort(t *testing.T) {
	d := simdisk.New(8, simdisk.Options{})
	pc := enginetest.OpenSim(t, d)
	enginetest.AllocateMany(t, pc, 20, 3000)
	enginetest.Flush(t, pc)
	first := d.Copy()
	enginetest.Close(t, pc)
	second := first.Copy()
	pc = enginetest.OpenSim(t, second)
	found := second.Copy()
	enginetest.Close(t, pc)
	for _, c := range []struct {
		what string
		disk *simdisk.Disk
		left int
	}{
		{"in use for the first time", first, 0},
		{"in use again", found, 0},
		{"in use again", found, 16 << 10},
		{"closed", d, 0},
		{"closed", d, 16 << 10},
	} {
		d := c.disk.Copy()
		d.WriteFile(logFile, d.ReadDurable(logFile)[:c.left])
		if r, err := salvageOf(d); err != nil || len(r.Losses) == 0 {
			t.Errorf("%s, cut to %d bytes: Salvage: %+v, error %v, want a loss", c.what, c.left, r, err)
		}
		if pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d)); err == nil {
			t.Errorf("%s, cut to %d bytes: the store opens", c.what, c.left)
			_ = pc.Close()
		} else if !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("%s, cut to %d bytes: Open: %v, want ErrCorrupt", c.what, c.left, err)
		}
	}
}
