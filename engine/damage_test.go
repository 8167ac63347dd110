package engine

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var damageSeeds = flag.Int("damage.seeds", 300, "how many damages TestDamageAnywhere does to a store")

// Whatever is damaged in whichever file of a store that was closed cleanly, bits, sectors, or its end: it opens and shows what is right, or says where it is
// damaged. No page is wrong or missing without a word, nothing panics, and no more memory is taken than the store is long. O7. Proves rules 10 and 12.
func TestDamageAnywhere(t *testing.T) {
	d, o, want := checked(t)
	lines := map[string]bool{}
	for line := range strings.Lines(want) {
		lines[line] = true
	}
	all := files(t, d.Copy())
	var names []string
	for name := range all {
		names = append(names, filepath.Join("/store", name))
	}
	blobs, err := d.ReadDir("/store/blobs")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		names = append(names, filepath.Join("/store/blobs", b))
	}
	total := 0
	for _, name := range names {
		total += len(d.ReadDurable(name))
	}
	told, right := 0, 0
	for seed := range uint64(*damageSeeds) {
		rng := rand.New(rand.NewPCG(seed, 5))
		name := names[rng.IntN(len(names))]
		b := d.ReadDurable(name)
		what := ""
		for range 1 + rng.IntN(3) {
			if len(b) == 0 {
				break
			}
			at := rng.IntN(len(b))
			switch rng.IntN(4) {
			case 0, 1:
				b[at] ^= 1 << rng.IntN(8)
				what += fmt.Sprintf(" bit at %d", at)
			case 2:
				at &^= 511
				clear(b[at:min(at+512<<rng.IntN(4), len(b))])
				what += fmt.Sprintf(" zeros at %d", at)
			case 3:
				b = b[:at]
				what += fmt.Sprintf(" cut to %d", at)
			}
		}
		hurt := d.Copy()
		hurt.WriteFile(name, b)
		o := *o
		o.seam.FS, o.seam.Unchecked = hurt, seed%2 == 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ok, err := showsRight(t, &o, lines)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("seed %d: %s:%s: %v", seed, name, what, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(40*total)+64<<20 {
			t.Errorf("seed %d: %s:%s: %d bytes allocated for a store of %d", seed, name, what, n, total)
		}
		if ok {
			right++
		} else {
			told++
		}
	}
	t.Logf("%d damages were told of, %d did no harm", told, right)
	if told == 0 || right == 0 {
		t.Error("that proves little")
	}
}

// showsRight opens a store and reports whether everything is there. An error is what must not be.
func showsRight(t *testing.T, o *Options, want map[string]bool) (bool, error) {
	t.Helper()
	lawful := func(err error) bool {
		return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrFormat) || errors.Is(err, ErrKind) || errors.Is(err, fs.ErrNotExist)
	}
	pc, err := Open("/store", Bytes{}, o)
	if err != nil {
		if lawful(err) || strings.Contains(err.Error(), "segments of") {
			return false, nil
		}
		return false, err
	}
	defer pc.Close()
	tx := begin(t, pc)
	defer tx.End()
	whole, pages := true, 0
	for pid := FirstUserPage; pid < PageID(pc.pages.IDs.Next()); pid++ {
		p, err := pc.Get(tx, pid)
		if err != nil {
			if !lawful(err) {
				return false, err
			}
			whole = false
			continue
		}
		if p.Kind == KindMaterialized {
			pages++
		}
		if line := fmt.Sprintf("%d %v %x\n", pid, p.Kind == KindMaterialized, p.Value); !want[line] {
			return false, fmt.Errorf("page %d is %v of %d bytes, and never was", pid, p.Kind, len(p.Value))
		}
	}
	there := 0
	for line := range want {
		if strings.Contains(line, " true ") {
			there++
		}
	}
	if whole && pages != there {
		return false, fmt.Errorf("%d pages are there, of %d, and nothing was said", pages, there)
	}
	return whole, nil
}
