package main

// pageTargets are the bugs in everything that knows pages.
var pageTargets = []target{
	{"engine/internal/pagemap/install.go", pageTests, []bug{
		{reordered,
			"\tm.store.Space.Live(e.Ptr())\n\tr.Complete()\n",
			"\tr.Complete()\n\tm.store.Space.Live(e.Ptr())\n",
			""},
		{notCounted, "\t\t\tm.store.Space.Dead(old.Ptr)\n", "", ""},
		{wakeupLost, "\t\tr.Abort()\n\t\treturn false\n", "\t\tr.Complete()\n\t\treturn false\n", ""},
		{inverted, "if ptr.ID != keep {", "if ptr.ID == keep {", ""},
		{offByOne, "return h.TS() + 1", "return h.TS() + 2", ""},
	}},
	{"engine/internal/pageids/pageids.go", idTests, []bug{
		{offByOne, "a.limbo[n].epoch <= oldest {", "a.limbo[n].epoch <= oldest+1 {", ""},
		{notCounted, "in the order of epochs\n\ta.spare.Add(1)\n", "in the order of epochs\n", ""},
		{wrongVictim, "a.free[n-1] > pid):", "a.free[n-1] < pid):", ""},
		{offByOne, "if pid > format.MaxPageID {", "if pid >= format.MaxPageID {", ""},
		{swallowed, "\t\ta.next.Add(^uint64(0))\n", "", ""},
		{checkDropped,
			"\t\tif !a.overridden[pid] {\n\t\t\ta.below = pid + 1",
			"\t\tif true {\n\t\t\ta.below = pid + 1",
			""},
		{offByOne,
			"a.below = pid + 1\n",
			"a.below = pid\n",
			""},
		{notCounted,
			"\ta.free = slices.Insert(a.free, i, pid)\n\ta.spare.Add(1)\n",
			"\ta.free = slices.Insert(a.free, i, pid)\n",
			""},
	}},
	{"engine/internal/idgen/idgen.go", idgenTests, []bug{
		{offByOne, "g.hard.Store(v + 2*g.c.Interval)", "g.hard.Store(v + 3*g.c.Interval)", ""},
		{syncDropped, "\t\terr = g.c.MakeDurable(lsn)\n", "\t\t_ = lsn\n", ""},
		{offByOne,
			"return id, id < g.soft.Load()",
			"return id, id <= g.soft.Load()",
			"The soft limit is a whole interval below the hard one."},
		{swallowed, "\tif err != nil {\n\t\treturn err\n\t}\n\tg.hard", "\tg.hard", ""},
		{checkDropped,
			"\tif g.c.Closed.Load() {\n\t\treturn 0, iobuf.ErrClosed\n\t}\n",
			"\t_ = iobuf.ErrClosed\n",
			""},
		{checkDropped, "\tif g.stopped {\n\t\treturn false\n\t}\n", "", ""},
		{offByOne, "if id >= g.hard.Load() {", "if id > g.hard.Load() {", ""},
	}},
	{"engine/internal/epoch/epoch.go", epochTests, []bug{
		{inverted, "oldest = min(oldest, state>>1)", "oldest = max(oldest, state>>1)", ""},
		{reordered,
			"func (d *Domain) Retire() uint64 { return d.clock.Add(1) }",
			"func (d *Domain) Retire() uint64 { return d.clock.Add(1) - 1 }",
			""},
		{checkDropped, "return old&inside == 0 && s.state", "return s.state", ""},
	}},
	{"engine/change.go", pageTests, []bug{
		{inverted, "on: ifHead, from: h, sameState: true}", "on: ifHead, from: h, sameState: false}", ""},
		{checkDropped, "h.TS() == c.old.ts && pid", "h.TS() >= c.old.ts && pid", ""},
		{checkDropped, "pid == c.old.pid && !c.old.IsZero()", "!c.old.IsZero()", ""},
		{notCounted, "\t\t\tpc.mem.swapped(tx, pg.id, h, e)\n", "", ""},
		{notCounted, "\tpc.mem.counts.consolidations.Add(1)\n", "", ""},
	}},
	{"engine/link.go", pageTests, []bug{
		{checkDropped, "\tpc.pages.IDs.Give(&pc.txs.domain, pid)\n", "", ""},
		{swallowed, "\t\tpc.pages.IDs.GiveBack(pg.id)\n", "", ""},
		{offByOne, "if h.Depth() > pc.limit {", "if h.Depth() > pc.limit+1 {", ""},
		{checkDropped,
			"if h == nil || h.Kind() == pagestack.KindFree {\n\t\treturn PagePtr[P]{}\n\t}\n\treturn ptrTo",
			"if h == nil || h.Kind() == pagestack.KindMeta {\n\t\treturn PagePtr[P]{}\n\t}\n\treturn ptrTo",
			""},
	}},
	{"engine/tx.go", pageTests, []bug{
		{notCounted, "\t\tn += tx.s().bytes.Load()\n", "\t\tn = tx.s().bytes.Load()\n", ""},
		{checkDropped, "\tt.domain.Register(&tx.s().slot)\n", "", ""},
	}},
}

var (
	pageTests = []string{
		"engine/internal/pagemap",
		"engine Pages|Model|Stress$|Stats|Conflict|Free|Consolidat|Accounts|Rule|Blob|Crash$",
	}
	idTests    = []string{"engine/internal/pageids", "engine/internal/idgen", "engine IDs|Ids|Allocat|Crash$"}
	idgenTests = []string{"engine/internal/idgen", "engine IDs|Ids|Allocat|Crash$"}
	epochTests = []string{"engine/internal/epoch", "engine/internal/pageids"}
)
