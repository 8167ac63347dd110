package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

const superFile = "/store/superblock"

// image is the durable state of a store at one moment.
type image struct {
	what     string
	disk     *simdisk.Disk
	contents string
}

// newLives returns images of a small store over its lives: after each opening, after one more page, after 30 more, and
// after each clean close. Every second life ends in a kill, the last one in a clean close.
func newLives(t *testing.T) (images []image) {
	t.Helper()
	d := simdisk.New(1, simdisk.Options{})
	for life := range 5 {
		pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		add := func(what string, args ...any) {
			images = append(images, image{fmt.Sprintf(what, args...), d.Copy(), enginetest.Contents(t, pc)})
		}
		add("opening %d", life)
		for _, n := range []int{1, 30} { // the second fills segments
			enginetest.AllocateMany(t, pc, n, 1000)
			enginetest.Flush(t, pc)
			add("%d pages more in life %d", n, life)
		}
		killed := d.Copy()
		contents := enginetest.Contents(t, pc)
		if err := pc.Close(); err != nil {
			t.Fatal(err)
		}
		if life%2 == 1 {
			d = killed
			continue
		}
		images = append(images, image{fmt.Sprintf("closing %d", life), d.Copy(), contents})
	}
	return images
}

// openShows opens a store and compares its contents. It returns whether the opening was refused as corrupt.
func openShows(t *testing.T, o *engine.Options, contents string) (refused bool, err error) {
	t.Helper()
	pc, err := engine.Open("/store", engine.Bytes{}, o)
	if errors.Is(err, engine.ErrCorrupt) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer pc.Close()
	if got := enginetest.Contents(t, pc); got != contents {
		return false, fmt.Errorf("it opens with %d bytes of contents, want %d", len(got), len(contents))
	}
	return false, nil
}

// bothCurrent reports whether both copies of the superblock on a disk count.
func bothCurrent(d *simdisk.Disk) bool {
	_, states, err := format.DecodeSuperCopies(d.ReadDurable(superFile))
	return err == nil && states == [2]format.SuperCopy{format.SuperCopyCurrent, format.SuperCopyCurrent}
}

// If any sector of the superblock is lost, unreadable, or holds garbage, or a whole copy is, the store opens with all
// its contents, after a kill and after a clean close, and the next opening for writing has both copies again. A
// read-only opening and Check work, too, and the loss is logged. Proves rule 16, trap 34.
func TestStoreSurvivesLostSuperblockSector(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	images := newLives(t)
	for _, im := range images[len(images)-2:] { // in use, and closed
		for sector := range format.SuperblockSize / 512 {
			for how, lose := range map[string]func(d *simdisk.Disk, b []byte){
				"zeroed":  func(_ *simdisk.Disk, b []byte) { clear(b) },
				"garbage": func(_ *simdisk.Disk, b []byte) { copy(b, fmt.Appendf(nil, "%0512d", rng.Uint64())) },
				"unreadable": func(d *simdisk.Disk, _ []byte) {
					unreadable := int64(sector * 512)
					d.SetFault(func(o simdisk.Op) error {
						if o.Kind == simdisk.OpRead && o.Name == superFile && o.Off <= unreadable &&
							o.Off+int64(o.Len) > unreadable {
							return syscall.EIO
						}
						return nil
					})
				},
			} {
				d := im.disk.Copy()
				b := d.ReadDurable(superFile)
				lose(d, b[sector*512:][:512])
				d.WriteFile(superFile, b)
				var logs bytes.Buffer
				o := enginetest.SimOptions(d)
				o.ReadOnly, o.Logger = true, slog.New(slog.NewTextHandler(&logs, nil))
				refused, err := openShows(t, o, im.contents)
				if refused || err != nil {
					t.Fatalf("%s, sector %d %s, read only: refused %v, %v", im.what, sector, how, refused, err)
				}
				hurt := !bothCurrent(d) || how == "unreadable"
				if logged := strings.Contains(logs.String(), "superblock"); logged != hurt {
					t.Fatalf("%s, sector %d %s: logged %q", im.what, sector, how, logs.String())
				}
				o = enginetest.SimOptions(d)
				if err := enginetest.Problems("/store", o); err != nil {
					t.Fatalf("%s, sector %d %s: check: %v", im.what, sector, how, err)
				}
				if refused, err := openShows(t, o, im.contents); refused || err != nil {
					t.Fatalf("%s, sector %d %s: refused %v, %v", im.what, sector, how, refused, err)
				}
				if !bothCurrent(d) {
					t.Fatalf("%s, sector %d %s: a copy is still lost after the next opening", im.what, sector, how)
				}
			}
		}
	}
}

// A superblock that is cut short shows all contents as long as a copy is left, and is reported as corrupt otherwise.
// Proves rules 12 and 16.
func TestSuperblockCutShort(t *testing.T) {
	t.Parallel()
	images := newLives(t)
	for i, im := range images[len(images)-2:] {
		for n := range format.SuperblockSize {
			if n%997 != i%997 && n%512 != 0 && (n+1)%512 != 0 {
				continue
			}
			d := im.disk.Copy()
			d.WriteFile(superFile, d.ReadDurable(superFile)[:n])
			refused, err := openShows(t, enginetest.SimOptions(d), im.contents)
			if err != nil || refused != (n < format.SuperCopySize) {
				t.Fatalf("%s, cut to %d bytes: refused %v, %v", im.what, n, refused, err)
			}
			if !refused && !bothCurrent(d) {
				t.Fatalf("%s, cut to %d bytes: a copy is still lost after the next opening", im.what, n)
			}
		}
	}
}

// If a superblock is put back as it was at any earlier moment, whole or one copy of it, the store shows all contents of
// its log or is refused. A superblock that says that the store was closed cleanly is never believed if the log went on.
// Proves rules 12 and 16.
func TestOldSuperblockPutBack(t *testing.T) {
	t.Parallel()
	images := newLives(t)
	refusals, right := 0, 0
	for i, now := range images {
		for _, then := range images[:i] {
			current, old := now.disk.ReadDurable(superFile), then.disk.ReadDurable(superFile)
			for what, b := range map[string][]byte{
				"both copies": old,
				"copy 0":      append(bytes.Clone(old[:format.SuperCopySize]), current[format.SuperCopySize:]...),
				"copy 1":      append(bytes.Clone(current[:format.SuperCopySize]), old[format.SuperCopySize:]...),
			} {
				d := now.disk.Copy()
				d.WriteFile(superFile, b)
				refused, err := openShows(t, enginetest.SimOptions(d), now.contents)
				if err != nil || refused && what != "both copies" {
					t.Fatalf("%s of %q at %q: refused %v, %v", what, then.what, now.what, refused, err)
				}
				if refused {
					refusals++
				} else {
					right++
				}
			}
		}
	}
	t.Logf("%d were refused, %d showed all contents", refusals, right)
	if refusals == 0 {
		t.Error("no old superblock was recognised")
	}
}

// A crash at any operation of an opening or a closing, and at any of the next ones, leaves a superblock of which at
// least one copy is intact, and a store that shows its contents. Proves rule 16.
func TestCrashWhileSuperblockChanges(t *testing.T) {
	t.Parallel()
	first, pid := enginetest.DirtyStore(t, simdisk.New(1, simdisk.Options{}))
	const deep = 2
	var try func(d *simdisk.Disk, depth int)
	try = func(d *simdisk.Disk, depth int) {
		for at := 1; ; at++ {
			c := d.Copy()
			c.CrashAfter(at)
			pc, err := engine.Open("/store", engine.Bytes{}, enginetest.SimOptions(c))
			if err == nil {
				err = pc.Close()
			}
			if !c.Crashed() {
				if err != nil {
					t.Fatalf("depth %d: %v", depth, err)
				}
				return
			}
			next := c.Crash(uint64(at))
			if depth < deep {
				try(next, depth+1)
				continue
			}
			pc = enginetest.OpenSim(t, next)
			if p := enginetest.Get(t, pc, pid); string(p.Value) != "durable" {
				t.Fatalf("crash at %d, depth %d: the page holds %q", at, depth, p.Value)
			}
			enginetest.Close(t, pc)
		}
	}
	try(first, 1)
}
