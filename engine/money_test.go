package engine_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

var (
	moneySeeds = flag.Int("money.seeds", 40, "the number of disks that TestMoneyStaysOverCrashes uses [-short: 6]")
	moneyKills = flag.Int("money.kills", 8, "how often TestMoneyStaysOverKills kills a process [-short: 3]")
)

// bank is a store of accounts. The balance of an account is the sum of the numbers on its page, of 8 bytes each. A
// third of the accounts lie on long pages, and a third on pages that roots name, which each transfer replaces.
type bank struct {
	t        *testing.T
	pc       *engine.PageCache[[]byte]
	accounts int
}

const firstBalance = 100

func accountName(i int) string { return fmt.Sprintf("account %d", i) }

func (b *bank) total() uint64 { return uint64(b.accounts) * firstBalance }

// open makes the accounts, if they are not there.
func (b *bank) open() error {
	if enginetest.NextPage(b.pc) > engine.FirstUserPage {
		return nil
	}
	for i := range b.accounts {
		lsn, err := b.pc.Update(b.t.Context(), func(tx *engine.Tx[[]byte]) error {
			pid, err := tx.Allocate(b.page(i, firstBalance))
			if err == nil {
				err = tx.SetRoot(accountName(i), pid)
			}
			return err
		})
		if err == nil {
			_, err = b.pc.MakeStable(lsn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// page returns a page of an account.
func (b *bank) page(i int, balance uint64) []byte {
	list := []uint64{balance}
	if i%3 == 1 {
		list = append(list, make([]uint64, 40)...)
	}
	return bytesOf(list...)
}

// balance reads an account, and returns its page, too.
func (b *bank) balance(tx *engine.Tx[[]byte], i int) (sum uint64, pid engine.PageID, err error) {
	if pid, err = tx.Root(accountName(i)); err != nil {
		return 0, 0, err
	}
	p, err := tx.Get(pid)
	for _, v := range listIn(p.Value) {
		sum += v
	}
	return sum, pid, err
}

// add adds to an account with that balance and page. n may be negative, as a uint64.
func (b *bank) add(tx *engine.Tx[[]byte], i int, balance uint64, pid engine.PageID, n uint64) error {
	switch {
	case i%3 == 2:
		moved, err := tx.Allocate(b.page(i, balance+n))
		return errors.Join(err, tx.SetRoot(accountName(i), moved), tx.Free(pid))
	case balance%4 == 0:
		return tx.Replace(pid, b.page(i, balance+n))
	}
	return tx.Link(pid, bytesOf(n))
}

// transfer transfers a random amount between random accounts.
func (b *bank) transfer(rng *rand.Rand) error {
	from, to := rng.IntN(b.accounts), rng.IntN(b.accounts)
	if from == to {
		return nil
	}
	lsn, err := b.pc.Update(b.t.Context(), func(tx *engine.Tx[[]byte]) error {
		x, pidX, err := b.balance(tx, from)
		if err != nil {
			return err
		}
		y, pidY, err := b.balance(tx, to)
		if err != nil {
			return err
		}
		n := min(x, 1+rng.Uint64N(20))
		return errors.Join(b.add(tx, from, x, pidX, -n), b.add(tx, to, y, pidY, n))
	})
	if err == nil && rng.IntN(8) == 0 {
		_, err = b.pc.MakeStable(lsn)
	}
	return err
}

// levy takes 1 from each account that has it, and gives all of that to one, in one transaction of many messages.
func (b *bank) levy(rng *rand.Rand) error {
	to := rng.IntN(b.accounts)
	_, err := b.pc.Update(b.t.Context(), func(tx *engine.Tx[[]byte]) error {
		taken := uint64(0)
		for i := range b.accounts {
			x, pid, err := b.balance(tx, i)
			if err == nil && i != to && x > 0 {
				taken++
				err = b.add(tx, i, x, pid, ^uint64(0))
			}
			if err != nil {
				return err
			}
		}
		x, pid, err := b.balance(tx, to)
		if err != nil {
			return err
		}
		return b.add(tx, to, x, pid, taken)
	})
	return err
}

// sum fails the test unless a View finds all the money.
func (b *bank) sum(when string) error {
	sum, calls := uint64(0), 0
	err := b.pc.View(b.t.Context(), func(tx *engine.Tx[[]byte]) error {
		if calls++; calls > 1 {
			b.t.Errorf("%s: a View is repeated", when)
		}
		for i := range b.accounts {
			n, _, err := b.balance(tx, i)
			if err != nil {
				return err
			}
			sum += n
		}
		return nil
	})
	if err == nil && sum != b.total() {
		b.t.Errorf("%s: the sum is %d, want %d", when, sum, b.total())
	}
	return err
}

// work lets goroutines transfer, sum and do housekeeping, until a call fails, or n transfers each are made. It returns
// an error of a call.
func (b *bank) work(seed uint64, n int) error {
	var failed atomic.Pointer[error]
	var writers, others sync.WaitGroup
	do := func(f func() error) bool {
		err := f()
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
		return failed.Load() == nil
	}
	var done atomic.Bool
	for g := range 3 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			for i := 0; i < n && do(func() error {
				if rng.IntN(16) == 0 {
					return b.levy(rng)
				}
				return b.transfer(rng)
			}); i++ {
			}
		})
	}
	others.Go(func() {
		for !done.Load() && do(func() error { return b.sum("beside transfers") }) {
		}
	})
	others.Go(func() {
		for !done.Load() && do(func() error {
			_, err := b.pc.AttemptGC()
			return errors.Join(err, b.pc.Snapshot())
		}) {
			time.Sleep(time.Millisecond)
		}
	})
	writers.Wait()
	done.Store(true)
	others.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Transfers keep the sum, which Views see throughout, through crashes at any time, also while the store is opened after
// a crash, three of them before anybody looks: pages, blobs, moved pages and pages that roots name. Accounts and blobs
// agree with the pages. Some transactions change all accounts, and on half of the disks most are written in parts.
// Proves P11, D1 and Q1 to Q3.
func TestMoneyStaysOverCrashes(t *testing.T) {
	t.Parallel()
	seeds := *moneySeeds
	if testing.Short() {
		seeds = min(seeds, 6)
	}
	worked, inOpen := 0, 0
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 5))
		d := simdisk.New(seed, simdisk.Options{Block: 512})
		open := func() (*bank, error) {
			o := enginetest.SimOptions(d)
			o.ConsolidateAfter, o.CacheCapacity = 3, 8<<10
			pc, err := engine.Open("/store", engine.Bytes{}, o)
			if err != nil {
				return nil, err
			}
			engine.SetInline(pc, 256)
			if seed%2 == 1 {
				engine.SetGroupLimit(pc, 100)
			}
			b := &bank{t: t, pc: pc, accounts: 9}
			return b, b.open()
		}
		b, err := open()
		if err != nil {
			t.Fatal(err)
		}
		for depth := 0; depth < 3; depth++ {
			if depth > 0 {
				d.CrashAfter(1 + rng.IntN(150))
				if b, err = open(); err != nil && !errors.Is(err, simdisk.ErrCrashed) {
					t.Fatalf("seed %d, crash %d: open: %v", seed, depth, err)
				}
			}
			if err == nil {
				d.CrashAfter(1 + rng.IntN(200))
				err = b.work(seed, 200)
				if err != nil && !errors.Is(err, simdisk.ErrCrashed) && !errors.Is(err, engine.ErrFailed) {
					t.Fatalf("seed %d, crash %d: %v", seed, depth, err)
				}
				worked++
			} else {
				inOpen++
			}
			if b != nil {
				_ = b.pc.Close()
			}
			d, err = d.Crash(seed+uint64(depth)), nil
		}
		if b, err = open(); err != nil {
			t.Fatalf("seed %d: open: %v", seed, err)
		}
		_, blobs := engine.ExactBlobs(b.pc)
		if err := errors.Join(b.sum(fmt.Sprintf("seed %d", seed)), engine.ExactAccounts(b.pc), blobs); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if err := b.pc.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("crashed %d times at work, %d times while the store was opened", worked, inOpen)
	if worked == 0 || inOpen == 0 && seeds >= 6 {
		t.Error("that proves little")
	}
}

const moneyEnv = "PAGECACHE_MONEY_DIR"

// openBank opens a bank in a directory.
func openBank(t *testing.T, dir string) *bank {
	pc := enginetest.Open(t, dir, &engine.Options{SegmentSize: 64 << 10, ConsolidateAfter: 3, CacheCapacity: 16 << 10,
		SnapshotEvery: 500})
	engine.SetInline(pc, 256)
	engine.SetGroupLimit(pc, 200) // most transactions are written in parts
	b := &bank{t: t, pc: pc, accounts: 60}
	if err := b.open(); err != nil {
		t.Fatal(err)
	}
	return b
}

// This is the child process of TestMoneyStaysOverKills.
func TestMoneyChild(t *testing.T) {
	dir := os.Getenv(moneyEnv)
	if dir == "" {
		t.Skip("only TestMoneyStaysOverKills starts it")
	}
	b := openBank(t, dir)
	fmt.Println("open")
	if err := b.work(uint64(os.Getpid()), 1<<30); err != nil {
		t.Fatal(err)
	}
}

// Transfers keep the sum when a process that makes them is killed, again and again.
func TestMoneyStaysOverKills(t *testing.T) {
	t.Parallel()
	kills := *moneyKills
	if testing.Short() {
		kills = min(kills, 3)
	}
	dir, rng := t.TempDir(), rand.New(rand.NewPCG(7, 7))
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range kills {
		cmd := exec.Command(exe, "-test.run=^TestMoneyChild$")
		cmd.Env = append(os.Environ(), moneyEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := make([]byte, 4)
		if _, err := out.Read(said); err != nil || string(said) != "open" {
			t.Errorf("kill %d: the child says %q, %v", i, said, err)
		}
		time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
		b := openBank(t, dir)
		_, blobs := engine.ExactBlobs(b.pc)
		if err := errors.Join(b.sum(fmt.Sprintf("kill %d", i)), engine.ExactAccounts(b.pc), blobs); err != nil {
			t.Errorf("kill %d: %v", i, err)
		}
		enginetest.Close(t, b.pc)
	}
}
