package engine

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pagecache/engine/internal/seam"
)

// Bytes that become resident by transactions are counted. Proves M1.
func TestTransactionsCountResidentBytes(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{ConsolidateAfter: 4, seam: seam.Options{Foreground: true}})
	defer closeTest(t, pc)
	rng := rand.New(rand.NewPCG(1, 2))
	var pids []PageID
	for range 300 {
		if _, err := pc.Update(t.Context(), func(tx *Tx[[]byte]) error {
			if len(pids) < 10 {
				for range 2 {
					pid, err := tx.Allocate(make([]byte, rng.IntN(300)))
					if err != nil {
						return err
					}
					pids = append(pids, pid)
				}
				return nil
			}
			for range 1 + rng.IntN(4) {
				pid, v, err := pids[rng.IntN(len(pids))], bytes.Repeat([]byte("v"), rng.IntN(300)), error(nil)
				switch rng.IntN(4) {
				case 0:
					err = tx.Replace(pid, v)
				case 1:
					_, err = tx.Get(pid)
				default:
					err = tx.Link(pid, v)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(3) == 0 {
			tx := begin(t, pc)
			pc.mem.evict(tx.base(), pids[rng.IntN(len(pids))], true)
			tx.End()
		}
	}
	settleAll(pc)
	heap, mapped := residentTruth(t, pc)
	if h, m := pc.mem.budget.Resident(); h != heap || m != mapped {
		t.Errorf("%d and %d bytes are resident, counted are %d and %d", heap, mapped, h, m)
	}
}

// A transaction that has read a page that nobody has made depends on that, wherever the page is. Proves Q2.
func TestTransactionDependsOnMissingPage(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeUnchecked(t, pc) // ids are left out
	pid, _ := allocate(t, pc, nil)
	const far = PageID(1 << 20)
	tx := begin(t, pc)
	defer tx.End()
	if p, err := tx.Get(far); err != nil || p.Kind != KindUnallocated {
		t.Fatal(p.Kind, err)
	}
	if err := tx.Link(pid, nil); err != nil {
		t.Fatal(err)
	}
	pc.pages.IDs.RaiseNext(far)
	if made, _ := allocate(t, pc, nil); made != far {
		t.Fatalf("page %d is allocated", made)
	}
	_, err := tx.Commit()
	if ce := (*ConflictError)(nil); !errors.As(err, &ce) || ce.Page != far {
		t.Errorf("%v", err)
	}
}

// A name whose page has become that of another root is missing: the id was given back, and handed out again. Proves
// roots, I3.
func TestNameOnThePageOfAnotherRoot(t *testing.T) {
	pc := openTest(t, t.TempDir(), &Options{seam: seam.Options{Foreground: true}})
	defer closeUnchecked(t, pc) // the index has a name too many
	tx := begin(t, pc)
	defer tx.End()
	if _, won, err := pc.CASRoot(tx, "there", 0, 5); err != nil || !won {
		t.Fatal(won, err)
	}
	pid, _ := pc.pages.Roots.Find("there")
	pc.pages.Roots.Shard("gone").Add("gone", pid)
	if root, err := pc.Root(tx, "gone"); !errors.Is(err, ErrRootNotFound) {
		t.Errorf("Root: %d, %v", root, err)
	}
	if root, err := tx.Root("gone"); !errors.Is(err, ErrRootNotFound) {
		t.Errorf("Root of the transaction: %d, %v", root, err)
	}
	if m, err := pc.Meta(tx); err != nil || len(m) != 1 || m["there"] != 5 {
		t.Errorf("Meta: %v, %v", m, err)
	}
}
