package engine_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// Open refuses a log with a message that frees a reserved page. Proves rule 12.
func TestHostileFree(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{})
	o := enginetest.SimOptions(d)
	pc := enginetest.Open(t, "/store", o)
	r, err := engine.StoreOf(pc).Log.Reserve(format.KindFree, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Complete()
	enginetest.NoCheck(t, pc)
	enginetest.Close(t, pc)
	enginetest.WithSeam(o, seam.Options{FS: d, LogAlone: true})
	if _, err = engine.Open("/store", engine.Bytes{}, o); !errors.Is(err, engine.ErrCorrupt) {
		t.Errorf("Open: error %v, want ErrCorrupt", err)
	}
}

// If the superblock holds an implausible next page id, Open reports corruption and allocates no table for the pages.
// Proves rule 12.
func TestHostileNextPage(t *testing.T) {
	dir := t.TempDir()
	pc := enginetest.Open(t, dir, nil)
	enginetest.Close(t, pc)
	name := filepath.Join(dir, "superblock")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	sb, err := format.DecodeSuperblock(b)
	if err != nil {
		t.Fatal(err)
	}
	sb.NextPage = 1 << 26
	if err := os.WriteFile(name, sb.Append(nil), 0o644); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = engine.Open(dir, engine.Bytes{}, nil)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, engine.ErrCorrupt) || after.TotalAlloc-before.TotalAlloc > 100<<20 {
		t.Errorf("Open: error %v, want ErrCorrupt; %d MiB allocated", err, (after.TotalAlloc-before.TotalAlloc)>>20)
	}
}

// If the id counter in the superblock is so large that ids would overflow, Open reports corruption and changes no file.
// Proves rule 12.
func TestHostileIDs(t *testing.T) {
	first, _ := enginetest.DirtyStore(t, simdisk.New(7, simdisk.Options{}))
	good, err := format.DecodeSuperblock(first.ReadDurable("/store/superblock"))
	if err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(sb *format.Superblock){
		func(sb *format.Superblock) { sb.NextID = math.MaxUint64 },
		func(sb *format.Superblock) { sb.NextID = 1 << 63 },
		func(sb *format.Superblock) { sb.IDInterval = math.MaxUint64 },
		func(sb *format.Superblock) { sb.IDInterval = 1 << 62 },
	} {
		d, sb := first.Crash(1), good
		change(&sb)
		d.WriteFile("/store/superblock", sb.Append(nil))
		before := fmt.Sprint(enginetest.Files(t, d))
		_, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if !errors.Is(err, engine.ErrCorrupt) || !strings.Contains(err.Error(), "out of bounds") {
			t.Errorf("change %d: error %v, want ErrCorrupt", i, err)
		}
		if fmt.Sprint(enginetest.Files(t, d)) != before {
			t.Errorf("change %d: a refused Open changed files", i)
		}
	}
}
