package engine_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/apart"
	"pagecache/internal/simdisk"
)

var damageSeeds = flag.Int("damage.seeds", 300, "the number of stores that TestDamageAnywhere corrupts")

// A store with flipped bits, zeroed sectors or a cut in any of its files opens and shows the right contents, or reports
// corruption. No page is wrong or missing without an error, nothing panics, and the memory that is allocated is in
// proportion to the store. O7. Proves rules 10 and 12.
func TestDamageAnywhere(t *testing.T) {
	if apart.Run(t) {
		return
	}
	d, o, contents := enginetest.MixedStore(t)
	want := map[string]bool{}
	for line := range strings.Lines(contents) {
		want[line] = true
	}
	names, total := storeFiles(t, d)
	reported, right := 0, 0
	for seed := range uint64(*damageSeeds) {
		rng := rand.New(rand.NewPCG(seed, 5))
		name := names[rng.IntN(len(names))]
		b, how := damage(rng, d.ReadDurable(name))
		hurt := d.Copy()
		hurt.WriteFile(name, b)
		o := *o
		enginetest.WithSeam(&o, seam.Options{FS: hurt, Eager: true, Unchecked: seed%2 == 0})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ok, err := showsRight(t, &o, want)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("seed %d: %s:%s: %v", seed, name, how, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(40*total)+64<<20 {
			t.Errorf("seed %d: %s:%s: %d bytes allocated for a store of %d", seed, name, how, n, total)
		}
		if ok {
			right++
		} else {
			reported++
		}
	}
	t.Logf("%d stores were reported as corrupt, %d showed all contents", reported, right)
	if reported == 0 || right == 0 {
		t.Error("all had the same outcome, which proves little")
	}
}

// storeFiles returns the paths of all files of the store in /store, blobs included, and the sum of their lengths.
func storeFiles(t *testing.T, d *simdisk.Disk) (names []string, total int) {
	t.Helper()
	for name := range enginetest.Files(t, d.Copy()) {
		names = append(names, filepath.Join("/store", name))
	}
	for _, b := range enginetest.BlobNames(t, d, "/store") {
		names = append(names, filepath.Join("/store", enginetest.BlobDir, b))
	}
	slices.Sort(names) // so that a seed always damages the same file
	for _, name := range names {
		total += len(d.ReadDurable(name))
	}
	return names, total
}

// damage changes the contents of a file in one to three places and describes how.
func damage(rng *rand.Rand, b []byte) (_ []byte, how string) {
	for range 1 + rng.IntN(3) {
		if len(b) == 0 {
			break
		}
		at := rng.IntN(len(b))
		switch rng.IntN(4) {
		case 0, 1:
			b[at] ^= 1 << rng.IntN(8)
			how += fmt.Sprintf(" bit at %d", at)
		case 2:
			at &^= 511
			clear(b[at:min(at+512<<rng.IntN(4), len(b))])
			how += fmt.Sprintf(" zeros at %d", at)
		case 3:
			b = b[:at]
			how += fmt.Sprintf(" cut to %d", at)
		}
	}
	return b, how
}

// lawfulDamage reports whether opening or reading a corrupt store may fail with err.
func lawfulDamage(err error) bool {
	return errors.Is(err, engine.ErrCorrupt) || errors.Is(err, engine.ErrFormat) || errors.Is(err, engine.ErrKind) ||
		errors.Is(err, fs.ErrNotExist)
}

// showsRight opens a store and reports whether all pages are there. want has a line of Contents for each page. The
// error says that the store shows something wrong, or fails in a way that it must not.
func showsRight(t *testing.T, o *engine.Options, want map[string]bool) (bool, error) {
	t.Helper()
	pc, err := engine.Open("/store", engine.Bytes{}, o)
	if err != nil {
		if lawfulDamage(err) || strings.Contains(err.Error(), "segments of") {
			return false, nil
		}
		return false, err
	}
	defer pc.Close()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	whole, pages := true, 0
	for pid := engine.FirstUserPage; pid < enginetest.NextPage(pc); pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			if !lawfulDamage(err) {
				return false, err
			}
			whole = false
			continue
		}
		if p.Kind == engine.KindMaterialized {
			pages++
		}
		if line := fmt.Sprintf("%d %v %x\n", pid, p.Kind == engine.KindMaterialized, p.Value); !want[line] {
			return false, fmt.Errorf("page %d is %v of %d bytes, which it never was", pid, p.Kind, len(p.Value))
		}
	}
	least := 0
	for line := range want {
		if strings.Contains(line, " true ") {
			least++
		}
	}
	if whole && pages != least {
		return false, fmt.Errorf("%d pages of %d are there, and no error was returned", pages, least)
	}
	return whole, nil
}
