package engine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/history"
)

// historyEnv holds the historySpec of a child.
const historyEnv = "PAGECACHE_HISTORY_CHILD"

// historyKillers is the number of goroutines of a child.
const historyKillers = 4

// historySpec is the order that a child gets.
type historySpec struct {
	Dir           string // has the store, and the records of the children
	Seed, Life    uint64
	Pages, Rooted int
	Blobs         bool
	Lie           bool // a planted fault: the child says of all changes that they are durable
}

// record returns the name of the file in which the child of this life records what it does.
func (s historySpec) record() string { return filepath.Join(s.Dir, fmt.Sprint("life", s.Life)) }

// open opens the store, and makes it if it is not there.
func (s historySpec) open(t *testing.T) *lists {
	o := &engine.Options{SegmentSize: 32 << 10, IOBuffers: 3, FlushEvery: 2 * time.Millisecond, ConsolidateAfter: 5}
	return openListsIn(t, filepath.Join(s.Dir, "store"), o, &lists{pages: s.Pages, rooted: s.Rooted, blobs: s.Blobs})
}

// This is the child process of TestTransactionHistoriesOverKills. It appends each transaction to a file before its
// changes can be visible, and again when it has ended: bytes that a process has written to a file survive the process.
func TestHistoryChild(t *testing.T) {
	env := os.Getenv(historyEnv)
	if env == "" {
		t.Skip("only TestTransactionHistoriesOverKills starts it")
	}
	var spec historySpec
	if err := json.Unmarshal([]byte(env), &spec); err != nil {
		t.Fatal(err)
	}
	l := spec.open(t)
	l.value.Store(spec.Life << 32)
	out, err := os.OpenFile(spec.record(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	write := func(x *listTxn) {
		x.Durable = x.Durable || spec.Lie && x.Outcome == history.OutcomeCommitted
		line, err := json.Marshal(x)
		if err == nil {
			_, err = out.Write(append(line, '\n')) // whole, or at the end of the file: writes exclude each other
		}
		if err != nil {
			t.Error(err)
		}
	}
	l.note = func(x *listTxn) {
		begun := *x
		begun.Outcome = history.OutcomeLost
		write(&begun)
	}
	fmt.Fprintln(os.NewFile(3, "parent"), "open") // the parent kills this process some time later
	var wg sync.WaitGroup
	for g := range uint64(historyKillers) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(spec.Seed, spec.Life<<8|g))
			for {
				var mine []listTxn
				if err := l.step(rng, &mine); err != nil {
					t.Error(err)
					return
				}
				for _, x := range mine {
					write(&x)
				}
			}
		})
	}
	wg.Wait()
}

// live runs a child until it is killed, and returns its transactions.
func (s historySpec) live(after time.Duration) ([]listTxn, error) {
	env, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	c := enginetest.Child{
		Test: "TestHistoryChild", Env: []string{historyEnv + "=" + string(env)}, After: after,
		Ready: func(line string) bool { return line == "open" },
	}
	if _, _, err = c.Live(); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.record())
	if err != nil {
		return nil, err
	}
	var txns []listTxn
	at := map[int64]int{} // its index, by the time at which it began
	last := int64(0)
	for line := range bytes.Lines(b) {
		var x listTxn
		if err := json.Unmarshal(line, &x); err != nil {
			if bytes.HasSuffix(line, []byte("\n")) {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			break // the kill cut it off
		}
		last = max(last, x.Begin, x.End)
		if i, ok := at[x.Begin]; ok {
			txns[i] = x
			continue
		}
		at[x.Begin] = len(txns)
		txns = append(txns, x)
	}
	for i := range txns {
		if txns[i].Outcome == history.OutcomeLost { // it had not ended
			txns[i].End = last + 1
		}
	}
	return txns, nil
}

// asWritten returns a transaction, before all others, that has appended all values of the lists.
func asWritten(ops []history.Op) history.Txn {
	x := history.Txn{Begin: -2, End: -1}
	for _, op := range ops {
		for _, v := range op.List {
			x.Ops = append(x.Ops, history.Op{Page: op.Page, Value: v})
		}
	}
	return x
}

// compare checks the transactions of a child, and the lists that it has left: they are those of some of its
// transactions, with all that these have read. It returns the number of these transactions.
func (s historySpec) compare(before, after []history.Op, txns []listTxn) (survived int, err error) {
	was := asWritten(before)
	all, left := []history.Txn{was}, []history.Txn{was}
	there, last := map[uint64]bool{}, int64(0)
	for _, op := range after {
		for _, v := range op.List {
			there[v] = true
		}
	}
	for _, op := range was.Ops {
		if !there[op.Value] {
			return 0, enginetest.Violated("%d of an earlier life has gone", op.Value)
		}
	}
	for _, x := range txns {
		all, last = append(all, x.Txn), max(last, x.End)
		if x.Outcome == history.OutcomeAborted {
			continue
		}
		kept, err := x.survived(there)
		if err != nil {
			return 0, err
		}
		if kept {
			x.Outcome = history.OutcomeCommitted
			left = append(left, x.Txn)
			survived++
		}
	}
	left = append(left, history.Txn{Begin: last + 1, End: last + 2, Ops: after})
	for what, h := range map[string][]history.Txn{"before the kill": all, "after it": left} {
		if err := history.Check(h); err != nil {
			return 0, enginetest.Violated("%s: %v", what, err)
		}
	}
	return survived, nil
}

// run kills three children in turn that work on a new store. It returns the number of transactions, and of those with
// changes that survived.
func (s historySpec) run(t *testing.T) (total, survived int, err error) {
	rng := rand.New(rand.NewPCG(s.Seed, 77))
	s.Pages = 3 + int(s.Seed%4)*3
	s.Rooted, s.Blobs = int(s.Seed%2)*s.Pages/3, s.Seed%3 == 2
	look := func() []history.Op {
		l := s.open(t)
		defer enginetest.Close(t, l.pc)
		return l.all()
	}
	before := look()
	for s.Life = 1; s.Life <= 3; s.Life++ {
		txns, err := s.live(time.Duration(1000+rng.IntN(60_000)) * time.Microsecond)
		if err != nil {
			return total, survived, err
		}
		after := look()
		n, err := s.compare(before, after, txns)
		if err != nil {
			return total, survived, err
		}
		before, total, survived = after, total+len(txns), survived+n
	}
	return total, survived, nil
}

// TestTransactionHistories with processes that are killed, three before the store is made anew. Transactions are
// strictly serializable until the kill, and those that the next opening finds are, too. Proves P11, Q1 to Q3.
func TestTransactionHistoriesOverKills(t *testing.T) {
	t.Parallel()
	seeds := uint64(6)
	if testing.Short() {
		seeds = 2
	}
	total, survived := 0, 0
	for seed := *historyFirst; seed < *historyFirst+seeds || total < *historyTxns; seed++ {
		dir, err := os.MkdirTemp("", "pagecache-histories.")
		if err != nil {
			t.Fatal(err)
		}
		n, kept, err := historySpec{Dir: dir, Seed: seed}.run(t)
		if err != nil {
			t.Fatalf("seed %d: %v\nkept in %s", seed, err, dir)
		}
		total, survived = total+n, survived+kept
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d transactions, %d with changes survived", total, survived)
}

// The harness finds a child that says that changes are durable which are not.
func TestTransactionHistoriesOverKillsFindLies(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) { // on a busy machine, a kill may lose nothing
		_, _, err := historySpec{Dir: t.TempDir(), Seed: seed, Lie: true}.run(t)
		if v := enginetest.Violation(""); errors.As(err, &v) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("no lie was found")
}
