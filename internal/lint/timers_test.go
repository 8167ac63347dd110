package lint

import (
	"go/ast"
	"strings"
	"testing"
)

// waits lists the functions of the product that sleep, yield or start a timer, each with the reason why nothing wakes
// them instead, and when the timer runs. An idle store has none that runs (TestIdleStoreSleeps).
var waits = map[string]string{
	// Limits of one wait.
	"engine.await":     "limit of Close",
	"engine.withGrace": "limit of Close",
	"engine.within":    "limit of Close and Snapshot",
	"engine/internal/iobuf.(Log).CloseContext":      "limit of Close",
	"engine/internal/iobuf.(Log).takeLeadWithin":    "limit of Close",
	"engine/internal/iobuf.(Log).awaitGroup":        "limit of PinLog",
	"engine/internal/iobuf.(CommitNotice).await":    "limit of a leader's rest",
	"engine/internal/report.(Reporter).Flush":       "limit of Close",
	"iouring.(Reader).drain":                        "limit of Close",
	"engine/internal/logstore.(Store).readBuffered": "limit for places that nobody writes to; a few yields before",

	// Actions that are due at a time. The timer runs only while one is.
	"engine/internal/report.(Watch).arm":                "looks while a Tx is open",
	"engine/internal/iobuf.(Log).flusher":               "flushes while something is unflushed, and marks",
	"engine/internal/iobuf.(watch).arm":                 "looks while a write is in flight",
	"engine/internal/iobuf.(Log).lookLocked":            "looks while a batch is open",
	"engine/internal/report.(Reporter).end":             "waits whether something stays over",
	"engine/internal/scratch.(Keeper).Wake":             "releases memory that was used",
	"engine/internal/snapshot.(Store).sleep":            "keeps snapshots, and retries of them, apart",
	"engine/internal/snapshot.(Store).retryLaterLocked": "retries after a failure",
	"engine/internal/clean.(Cleaner).run":               "looks while something is written or held back",
	"segments.(zeroer).zeroAhead":                       "waits whether the next segment is opened soon",
	"lru.(Policy).run":                                  "feeds hits together, while there are some",
	"engine/pagetest.CheckLeaks":                        "at the end of a test, until what is ending has ended",
	"engine/pagetest.(contract).concurrent":             "yields to other goroutines of the test",
	"engine/statspage.(Page).run":                       "takes samples, which is what the page is for",

	// Pauses that leave the processor to others, during work.
	"engine/internal/snapshot.(writing).rest":           "between slices of a snapshot",
	"engine/internal/checkpoint.(pacer).rest":           "leaves room to callers while a store is copied or scrubbed",
	"engine/internal/clean.(Cleaner).nap":               "delays a writer while the cleaner is behind",
	"lru.(Policy).interruptLoad":                        "between batches of loading",
	"engine/internal/iobuf.(leader).lead":               "lets waiters run that commit again soon",
	"engine/internal/iobuf.(leader).completionsToAwait": "lets waiters run that commit again soon",
	"engine/internal/iobuf.(leader).rest":               "yields a few times before it waits for a notice",
	"iouring.(Reader).pollAlone":                        "lets others run while a fast device reads; may get no signal",
	"iouring.(Reader).ReadAhead":                        "yields until the leader, which is at work, has submitted",
	"engine/internal/txn.(Record).Install":              "lets an older transaction commit, a few times",
	"engine.(change).claim":                             "lets a transaction commit, a few times",
	"engine/internal/txn.(Backoff).Wait":                "keeps transactions apart that have collided",
	"engine/internal/txn.(Token).wait":                  "ends a wait for a transaction that may have stopped",

	// The kernel wakes nobody for these. Each has a limit.
	"engine/internal/logstore.lockFile":  "flock with a limit of time; a waiting flock cannot be ended",
	"iouring.(Reader).readByCalls":       "EAGAIN and EINTR",
	"iouring.(Writer).decide":            "EAGAIN",
	"iouring/internal/ring.(Ring).Enter": "EAGAIN and EBUSY",
	"iouring.(Reader).Settle":            "reads of a ring that has failed; else it is a limit",
}

// timed has the calls that wait for time to pass, or look again without being woken.
var timed = set(`time.Sleep time.After time.AfterFunc time.NewTimer time.NewTicker time.Tick runtime.Gosched`)

// waiting returns the names of the functions of a file that call one of timed, with the place of the first call.
func (s *source) waiting() map[string]string {
	found := map[string]string{}
	for _, d := range s.ast.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := call.X.(*ast.Ident); ok && timed[pkg.Name+"."+call.Sel.Name] {
				if name := s.pkg + "." + nameOf(f); found[name] == "" {
					found[name] = s.at(call.Pos())
				}
			}
			return true
		})
	}
	return found
}

// Every sleep, yield and timer of the product has a reason. Proves rule 18.
func TestWaits(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		switch top, _, _ := strings.Cut(s.pkg, "/"); {
		case s.test, top != "engine" && top != "iouring" && top != "lru" && top != "mmapread" && top != "recovery" &&
			top != "segments", s.pkg == "engine/internal/enginetest":
			continue
		}
		for name, at := range s.waiting() {
			if used[name] = true; waits[name] == "" {
				t.Errorf("%s: %s waits for time to pass: let an event wake it, or list it here with a reason", at, name)
			}
		}
	}
	for name := range waits {
		if !used[name] {
			t.Errorf("%s is listed, but does not exist or does not wait", name)
		}
	}
	s := sample(t, "engine/x.go", "package engine\nimport \"time\"\nfunc (c *core) poll() { for { time.Sleep(1) } }\n")
	if s.waiting()["engine.(core).poll"] == "" {
		t.Error("a sleep was not found")
	}
}
