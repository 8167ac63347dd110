package main

// pageTargets are the bugs in everything that knows pages.
var pageTargets = []target{
	{"engine/internal/pagemap/install.go", pageTests, []bug{
		{reordered,
			"\tm.store.Space.Live(e.Ptr())\n\tr.Complete()\n",
			"\tr.Complete()\n\tm.store.Space.Live(e.Ptr())\n",
			""},
		{notCounted, "\t\tm.store.Space.Dead(old.Ptr)\n", "", ""},
		{wakeupLost, "\t\tr.Abort()\n\t\treturn false\n", "\t\tr.Complete()\n\t\treturn false\n", ""},
		{inverted, "if ptr.ID == keep {", "if ptr.ID != keep {", ""},
		{offByOne, "return h.TS() + 1", "return h.TS() + 2", ""},
	}},
	{"engine/internal/pagemap/commit.go", commitTests, []bug{
		{checkDropped, "\tif page, changed := txn.Changed(c.Reads); changed {",
			"\tif page, changed := txn.Changed(nil); changed {",
			"Decide finds it, and the group costs some room of the log."},
		{reordered, "\tif !won {\n\t\tat.abort()\n", "\tif !won {\n\t\tat.complete()\n", ""},
		{notCounted, "refs[at.parts.ready(refs):] {\n\t\tm.store.Space.Live(r.Ptr)\n",
			"refs[at.parts.ready(refs):] {\n\t\t_ = r\n", ""},
		{notCounted, "\t\t\tm.dead(w.below, w.Parts[0].Blob)\n", "\t\t\t_ = w.below\n", ""},
		{notCounted, "\t\t\tm.store.Space.Dead(r.Ptr)\n", "\t\t\t_ = r\n", ""},
		{offByOne, "\t\tprev = lsn\n", "\t\t_ = lsn\n", ""},
		{checkDropped, "\t\tif !prepared {\n\t\t\trec.Abort()\n", "\t\tif !prepared {\n\t\t\t_ = rec\n", ""},
		{checkDropped, "if size > MostCommitted {", "if size > MostCommitted*2 {", ""},
		{inverted, "SegmentSize()/4); size > most {", "SegmentSize()/4); size < most {", ""},
	}},
	{"engine/internal/clean/cleaner.go", partsTests, []bug{
		{checkDropped, "v.Live == 0 && c.keep(v.Base) && c.c", "v.Live == 0 && c.c", ""},
	}},
	{"engine/internal/pagemap/rescan.go", partsTests, []bug{
		{checkDropped, "if err == nil && r.m.commits.isVoid(h, body) {",
			"if false && r.m.commits.isVoid(h, body) {", ""},
	}},
	{"engine/internal/pagemap/snapshot.go", partsTests, []bug{
		{swallowed, "\t\tw.AddDecision(d)\n", "\t\t_ = d\n", ""},
		{checkDropped, "\tdefer func() { w.RaiseHigh(s.m.commits.highestPart()) }()", "\tdefer func() {}()", ""},
	}},
	{"engine/internal/pagemap/snapshot.go", []string{"engine/internal/pagemap SnapshotBeside"}, []bug{
		{checkDropped, "h := m.head(format.CounterPage); h != nil",
			"h := m.Table.Make(format.CounterPage).Entry(); h != nil", ""},
	}},
	{"engine/transaction.go", []string{"engine LastLSN"}, []bug{
		{checkDropped, "ptr = PagePtr[P]{pid, h.TS(), tx.pc.pages.Effect(h.LSN)}",
			"ptr = PagePtr[P]{pid, h.TS(), h.LSN}", ""},
	}},
	{"engine/get.go", []string{"engine LastLSN"}, []bug{
		{checkDropped, "if !settled || pc.pages.HasRecent() {", "if !settled {", ""},
		{checkDropped, "pid, h.TS(), pc.pages.Effect(h.LSN)\n", "pid, h.TS(), h.LSN\n", ""},
	}},
	{"engine/internal/pagemap/views.go", viewTests, []bug{
		{checkDropped, "if v.Open() == 0 {\n\t\treturn // a View", "if true {\n\t\treturn // a View", ""},
		{swallowed, "next.pages = slices.Clip(f.find(name))", "next.pages = nil", ""},
		{inverted, "pin.cut < b.moment {", "pin.cut > b.moment {", ""},
		{checkDropped, "uint64(b.id) < pin.blobs && pin", "uint64(b.id) > pin.blobs && pin", ""},
		{inverted, "return base < p.below && epoch > p.epoch", "return base >= p.below && epoch > p.epoch", ""},
		{inverted, "return base < p.below && epoch > p.epoch", "return base < p.below && epoch < p.epoch", ""},
		{notCounted, "\tslot.Loosen()\n", "", ""},
		{checkDropped, "\t\t\tif past {\n", "\t\t\tif past && h != nil {\n",
			"Find returns the slot, and the second look finds again that there was no page."},
		{swallowed, "\tm.former.drop(&m.Clock.Views)\n", "", ""},
		{checkDropped, "\t\treturn h.ToOnDisk()\n", "\t\treturn h\n", ""},
	}},
	{"engine/internal/pagestack/slot.go", []string{"engine/internal/pagestack Pack|Slot|ConcurrentEvictions"}, []bug{
		{checkDropped, "if h.Depth() != 1 || ptr.Blob ||", "if ptr.Blob ||", ""},
		{checkDropped, "ptr.Blob || ptr.Len == 0 ||", "ptr.Len == 0 ||", ""},
		{offByOne, "ptr.Off/format.Align > maxPackedOff", "ptr.Off/format.Align > maxPackedOff+1", ""},
		{offByOne, "if ts >= 1<<(numberBits-lenBits)-1 {", "if ts > 1<<(numberBits-lenBits)-1 {", ""},
		{checkDropped, "if lenBits == 0 || ptr.Len>>lenBits != 0 {", "if lenBits == 0 {", ""},
		{inverted, "return numbers >> lenBits, uint32(", "return numbers, uint32(", ""},
		{checkDropped, "wordOf(old), wordOf(new))", "old, wordOf(new))", ""},
		{checkDropped, "wordOf(old), wordOf(new))", "wordOf(old), new)", ""},
		{checkDropped, "s.word.Load() == wordOf(h)", "s.word.Load() == h", ""},
		{wrongVictim, "return PackedOffset(h), IsPacked(h)", "return PackedOffset(h), h != nil", ""},
		{checkDropped, "ptr.Blob || ptr.Len == 0 ||", "ptr.Blob ||", ""},
		{notCounted, "s.word.Store(wordOf(h)) }", "s.word.Store(h) }", ""},
		{checkDropped, "return h == other || wordOf(h) == wordOf(other) }", "return h == other }", ""},
		{offByOne, "Ref{LSN: lsnAt(off), Ptr", "Ref{LSN: lsnAt(off) + format.Align, Ptr", ""},
		{checkDropped, "\tif IsPacked(h) {\n\t\treturn nil\n\t}\n", "", ""},
		{checkDropped, "h.place>>kindShift != place(KindOnDisk) {", "h.Kind() == KindDelta {", ""},
	}},
	{"engine/internal/pagestack/unstamped.go", []string{"engine/internal/pagestack", "engine/internal/txn"}, []bug{
		{checkDropped, "h.stamp.Load() | unstampedBit\n", "h.stamp.Load()\n", ""},
		{checkDropped, "\t\tcase old&stampingBit != 0:\n\t\t\treturn false\n", "", ""},
		{notCounted, "old&^unstampedBit) {\n\t\t\th.forget()\n", "old&^unstampedBit) {\n", ""},
		{checkDropped, "if old&stampingBit != 0 && h.stamp.CompareAndSwap(old, old&^(unstampedBit|stampingBit)) {",
			"if h.stamp.CompareAndSwap(old, old&^stampingBit) {", ""},
	}},
	{"engine/salvage.go", []string{"engine Salvage"}, []bug{
		{checkDropped, "err != nil || torn && c == (format.Cut{}) {", "err != nil {", ""},
		{checkDropped, "torn && err == nil && bytes.Equal(", "!torn && err == nil && bytes.Equal(", ""},
	}},
	{"engine/internal/salvage/gaps.go", partsTests, []bug{
		{inverted, "if !decided[s.first] && known[s.first] {", "if decided[s.first] && known[s.first] {", ""},
		{checkDropped, "if len(void) > 0 {", "if false {", ""},
	}},
	{"engine/internal/pagemap/parts.go", partsTests, []bug{
		{notCounted, "\t\tfor _, r := range refs[p.live:] { // rule 7\n\t\t\tp.m.store.Space.Live(r.Ptr)\n",
			"\t\tfor _, r := range refs[p.live:] { // rule 7\n\t\t\t_ = r\n", ""},
		{notCounted, "\t\tp.live = len(refs)\n", "", ""},
		{notCounted, "\t\tp.m.store.Space.Dead(r.Ptr)\n", "\t\t_ = r\n", ""},
		{swallowed, "\tp.m.commits.end(&p.span, 0)\n", "", ""},
		{checkDropped, "\tif p.rec.IsAborted() {\n", "\tif false && p.rec.IsAborted() {\n",
			"Decide finds it, and the rest costs room of the log."},
		{offByOne, "p.m.store.Log.ReservePart(first, len(p.sizes), size.bytes)",
			"p.m.store.Log.ReservePart(first, len(p.sizes)+1, size.bytes)", ""},
		{offByOne, "\tp.left = size.messages - 1\n", "\tp.left = size.messages\n", ""},
		{reordered, "\tm.commits.begin(&p.span, m.store.Log.Tail())\n",
			"\tm.commits.begin(&p.span, m.store.Log.Tail()+1<<40)\n", ""},
		{checkDropped, "\t\tfrom = min(from, first)\n", "\t\t_ = first\n", ""},
		{swallowed, "\tp.m.commits.announce(&p.span, p.m.store.Log.StableEnd())\n", "", ""},
		{checkDropped, "\tc.highest = max(c.highest, s.effect)\n", "", ""},
		{swallowed, "\t\tlast = p.span.parts[len(p.span.parts)-1].from\n", "\t\t_ = last\n", ""},
		{inverted, "return inside(d) && !m.needs(d, base)", "return inside(d) && m.needs(d, base)", ""},
		{swallowed, "\t\tif inside(d) {\n\t\t\tkept", "\t\tif false {\n\t\t\tkept", ""},
		{swallowed, "\t\t\tc.decided[i].At = at\n", "", ""},
		{checkDropped, "\tc.highest = max(c.highest, at)\n", "", ""},
		{swallowed, "\tr.Complete()\n", "\tr.Abort()\n", ""},
		{swallowed, "\t\t\tm.commits.decided = append(m.commits.decided, d)\n", "", ""},
		{swallowed, "\t\t\tm.commits.before = append(m.commits.before, d.First)\n", "", ""},
		{inverted, "head.InParts(h.Kind) && !counts", "head.InParts(h.Kind) && counts", ""},
		{offByOne, "return i >= 0 && lsn < s.parts[i].to", "return i > 0 && lsn < s.parts[i].to", ""},
		{checkDropped, "\tif !found {\n\t\ti--\n", "\tif !found {\n\t\ti += 0\n", ""},
		{checkDropped, "\t\tif s.effect < stable {\n", "\t\tif s.effect >= stable {\n", ""},
	}},
	{"engine/commit.go", transactionTests, []bug{
		{checkDropped, "\t\t\tif tx.own(r.Page) == nil && !", "\t\t\tif r.Page == 0 && !", ""},
		{notCounted, "\t\ttx.pc.mem.swapped(&tx.scope, w.id, below, e, m)\n", "\t\t_, _ = m, below\n", ""},
		{notCounted, "\t\ttx.pc.pages.IDs.Give(&tx.pc.txs.Domain, w.id)\n", "", ""},
		{checkDropped, "\tw.parts, w.fresh = nil, false\n", "\tw.parts = nil\n", ""},
		{swallowed, "\t\t\ttx.drop(w)\n", "", ""},
		{checkDropped, "if err = f(tx); tx.t.failed != nil {", "if err = f(tx); err != nil && tx.t.failed != nil {",
			"commit returns the conflict, too."},
	}},
	{"engine/internal/txn/fallback.go", fallbackTests, []bug{
		{checkDropped, "t != nil && t != own {", "t != nil {", ""},
		{checkDropped, "if old == nil || old.IsLost() {", "if old == nil || old != nil {", ""},
		{wakeupLost, "\t\tclose(t.ended)\n", "", ""},
		{wrongVictim, "\t\tt.of.token.CompareAndSwap(t, nil)\n", "\t\tt.of.token.Store(nil)\n", ""},
		{checkDropped, "&(1<<(n%64)) != 0 {", "|(1<<(n%64)) != 0 {", ""},
	}},
	{"engine/internal/txn/backoff.go", fallbackTests, []bug{
		{offByOne, "\ttokenAfter = 8\n", "\ttokenAfter = 9\n", ""},
		{checkDropped, "\tif b.token != nil && b.token.IsLost() {\n\t\tb.End()\n\t}\n", "", ""},
		{checkDropped, "b.conflicts <= yields || b.token != nil {", "b.conflicts <= yields {", ""},
	}},
	{"engine/transaction.go", fallbackTests, []bug{
		{checkDropped, "\t\ttx.t.token.Add(pid)\n", "", ""},
	}},
	{"engine/change.go", fallbackTests, []bug{
		{checkDropped, "\t\tpc.fallback.Pass(pg.id, c.token)\n", "", ""},
	}},
	{"engine/transaction.go", transactionTests, []bug{
		{checkDropped, "\t\tif r.Page != pid {\n", "\t\tif r.Page == 0 {\n", ""},
		{swallowed, "\t\ttx.pc.pages.IDs.GiveBack(w.id)\n", "", ""},
		{swallowed, "\t\t\ttx.pc.values.Discard(&w.parts[i].payload)\n", "\t\t\t_ = i\n", ""},
		{checkDropped, "\t\tok = txn.VersionOf(pg.head) == read.Version()\n", "\t\tok = pg.head != nil\n", ""},
		{checkDropped, "\t\tpg.slot = tx.pc.pages.Table.Make(pid)\n", "\t\treturn pg, read, nil\n", ""},
		{checkDropped, "w.parts, w.merged = append(w.parts, v), false", "w.parts = append(w.parts, v)", ""},
		{checkDropped, "\t\tp.Body = bytes.Clone(p.Body)\n", "\t\t_ = bytes.Clone(p.Body)\n", ""},
		{checkDropped, "\tcase tx.t.ended:\n", "\tcase false:\n", ""},
	}},
	{"engine/internal/txn/record.go", txnTests, []bug{
		{inverted, "if r.age > other.record.age && turn", "if r.age < other.record.age && turn", ""},
		{checkDropped, "if !r.holds(&r.reads[n]) {", "if r.reads[n].slot == nil {", ""},
		{inverted, "if other.age > r.age {", "if other.age < r.age {", ""},
		{inverted, "\tcase aborted:\n\t\ti.remove(i.below)\n\t\treturn i.below",
			"\tcase aborted:\n\t\ti.remove(i.below)\n\t\treturn i.above", ""},
		{checkDropped, "\t\tif VersionOf(h) != read.version {\n", "\t\tif h == nil {\n", ""},
		{inverted, "\t\ti.remove(i.above)\n\t\treturn i.above", "\t\ti.remove(i.above)\n\t\treturn i.below", ""},
	}},
	{"engine/internal/txn/record.go", txnTests, []bug{
		{reordered, "\tr.stamped()\n\tfor n := range r.reads {", "\tfor n := range r.reads {", ""},
		{swallowed, "\t\tr.views.keep(i, r.stamped())\n", "", ""},
	}},
	{"engine/internal/txn/views.go", txnTests, []bug{
		{reordered, "\tv.open.Store(&list)\n\tinvariants.Jitter()\n\tv.now.Store(w.cut)\n",
			"\tv.now.Store(w.cut)\n\tinvariants.Jitter()\n\tv.open.Store(&list)\n",
			"The two stores are next to each other: only random delays show it."},
		{offByOne, "until > w.cut && until < lowest", "until >= w.cut && until < lowest", ""},
		{checkDropped, "until > w.cut && until < lowest", "until > w.cut && lowest > 0", ""},
		{checkDropped, "if h != nil && h.IsUnstamped() {\n\t\tv.stamp(s, h)\n\t}\n\treturn h\n}\n\n// unpacked",
			"if h != nil && h.IsUnstamped() {\n\t\t_ = s\n\t}\n\treturn h\n}\n\n// unpacked", ""},
		{checkDropped, "if v.needing(v.since(s), v.Moment()) == nil && e.Settle() {", "if e.Settle() {", ""},
		{checkDropped, "\tif e.IsStamping() {\n", "\tif e != nil {\n", ""},
		{checkDropped, "\tcase r.until.Load() == 0:\n\t\tv.remove(r)\n", "\tcase r.until.Load() == 0:\n", ""},
		{inverted, "if w.cut < until {", "if w.cut > until {", ""},
		{wrongVictim, "func(r *version) bool { return r.by == by.LSN }",
			"func(r *version) bool { return r.entry == by }", ""},
		{notCounted, "\t\tv.charge(r)\n\t\tr = next\n", "\t\t_ = v\n\t\tr = next\n", ""},
	}},
	{"engine/internal/txn/clock.go", txnTests, []bug{
		{checkDropped, "s.changing.Load() == 0 && s.stamp.Load() <= moment", "s.stamp.Load() <= moment", ""},
		{checkDropped, "s.changing.Load() == 0 && s.stamp.Load() <= moment", "s.changing.Load() == 0", ""},
		{offByOne, "s.stamp.Load() <= moment", "s.stamp.Load() <= moment+1", ""},
		{inverted, "s.changing.Load() == 0 && s.stamp.Load() <= moment", "s.stamp.Load() > moment", ""},
	}},
	{"engine/internal/txn/reads.go", txnTests, []bug{
		{checkDropped, "VersionOf(load(read.slot)) != read.version {",
			"VersionOf(load(read.slot)) < read.version {", ""},
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
		{swallowed, "time.Since(g.began))))\n\t\treturn err\n", "time.Since(g.began))))\n", ""},
		{checkDropped,
			"\tif g.c.Closed.Load() {\n\t\treturn 0, iobuf.ErrClosed\n\t}\n",
			"\t_ = iobuf.ErrClosed\n",
			""},
		{checkDropped, "\tif g.stopped {\n\t\treturn false\n\t}\n", "", ""},
		{offByOne, "if id >= g.hard.Load() {", "if id > g.hard.Load() {", ""},
	}},
	{"engine/internal/epoch/epoch.go", epochTests, []bug{
		{inverted, "if state < pinned && state", "if (s == nil || state > pinned) && state", ""},
		{reordered,
			"func (d *Domain) Retire() uint64 { return d.clock.Add(1) }",
			"func (d *Domain) Retire() uint64 { return d.clock.Add(1) - 1 }",
			""},
		{checkDropped, "return s.state.Load() == 0 && s.state.CompareAndSwap(0,",
			"return s.state.CompareAndSwap(s.state.Load(),", ""},
		{checkDropped, "if s != nil && s.state.Load() == pinned {", "if s != nil {", ""},
		{checkDropped, "\tif s != nil && pinned>>1 > began {\n\t\ts = nil\n\t}\n", "", ""},
		{reordered, "\t\treturn began\n", "\t\treturn d.clock.Load()\n", ""},
		{checkDropped, "} else if s.state.CompareAndSwap(0, removed) {",
			"} else if s.state.CompareAndSwap(s.state.Load(), removed) {", ""},
		{wakeupLost, "\t\td.sparse()\n", "", ""},
		{notCounted, "\td.guests = kept\n", "", ""},
	}},
	{"engine/change.go", pageTests, []bug{
		{inverted, "on: ifHead, from: h, sameState: true}", "on: ifHead, from: h, sameState: false}", ""},
		{offByOne, "if h.Depth() > pc.limit {", "if h.Depth() > pc.limit+1 {", ""},
		{checkDropped, "h.TS() == c.old.ts && pid", "h.TS() >= c.old.ts && pid", ""},
		{checkDropped, "pid == c.old.pid && !c.old.IsZero()", "!c.old.IsZero()", ""},
		{notCounted, "\t\t\tpc.mem.swapped(tx, pg.id, h, e, w)\n", "\t\t\t_ = w\n", ""},
		{notCounted, "\tpc.mem.counts.consolidations.Add(1)\n", "", ""},
		{checkDropped, "\t\tif turn == patientTurns {\n\t\t\tg.shut()",
			"\t\tif turn == -patientTurns {\n\t\t\tg.shut()", ""},
		{checkDropped, "\t\tif pc.pages.Clock.Load(pg.slot).Depth() <= much*pc.limit {\n\t\t\treturn\n\t\t}\n", "", ""},
		{offByOne, "Depth() <= much*pc.limit {\n\t\t\treturn", "Depth() <= much*pc.limit*1000 {\n\t\t\treturn", ""},
		{checkDropped, "c.sameState && c.on == ifOwned { // the cleaner",
			"c.sameState && c.on == ifHead { // the cleaner", ""},
		{checkDropped, "if !c.sameState && c.kind != format.KindCounter { // a note may",
			"if false { // a note may", ""},
		{checkDropped, "if !c.sameState && c.kind != format.KindCounter { // a note may",
			"if c.kind != format.KindCounter { // a note may", ""},
		{checkDropped, "\t\tif h.Depth() <= pc.limit {\n\t\t\treturn\n\t\t}\n\t\t// The", "\t\t// The", ""},
		{checkDropped, "\t\tpc.ids.CatchUp()\n", "", ""},
		{notCounted, "\t\t\t\ttx.Wrote(c.bodyLen())\n", "", ""},
		{checkDropped, "h := pages.Claim(pg.slot)", "h := pages.Load(pg.slot)", ""},
		{checkDropped, "!c.meets(pg.id, h) { // nothing to do", "h == nil { // nothing to do", ""},
		{checkDropped, "turn < politeTurns && txn", "turn < 0 && txn", ""},
		{notCounted, "\t\tpc.pages.Clock.Stamp(pg.id)\n", "", ""},
		{notCounted, "\tpc.pages.Clock.End(pg.id)\n", "", ""},
	}},
	{"engine/internal/pagestack/grow.go", growTests, []bug{
		{checkDropped, "if below.Ext.used.CompareAndSwap(uint32(begin), uint32(end)) {",
			"if below.Ext.used.Swap(uint32(end)) > 0 {", ""},
		{checkDropped, "int(e.Ext.used.Load()) == len(e.Frag) && len", "len",
			"The compare-and-swap of Grow finds it."},
		{offByOne, "len(e.Frag)+n <= int(e.Ext.capacity)", "len(e.Frag)+n <= int(e.Ext.capacity)+1", ""},
		{notCounted, "\te.Ext.used.CompareAndSwap(uint32(end), uint32(begin))\n", "\t_, _ = begin, end\n", ""},
		{offByOne, "\te.Frag = memory[:n:n]\n", "\te.Frag = memory[:n]\n", ""},
		{offByOne, "below.Ext, memory[:end:end]\n", "below.Ext, memory[:end]\n", ""},
		{offByOne, "makeStamp(head.TS()+1, head.Depth()+1)", "makeStamp(head.TS()+1, head.Depth())", ""},
		{offByOne, "makeStamp(head.TS()+1, head.Depth()+1)", "makeStamp(head.TS(), head.Depth()+1)", ""},
		{wrongVictim, "\tcopy(memory[begin:end], delta)\n", "\tcopy(memory[begin-1:end], delta)\n", ""},
		{checkDropped, "\tif !e.IsGrown() {\n\t\treturn e.Frag\n\t}\n",
			"\tif e.Ext != nil {\n\t\treturn e.Frag\n\t}\n", ""},
		{notCounted, "int64(unsafe.Sizeof(Ext{})) + int64(len(memory))", "int64(unsafe.Sizeof(Ext{})) + int64(n)", ""},
		{checkDropped, "if n == 0 || size > MaxRoomy {", "if n == 0 {", ""},
		{inverted, "\tif head.IsGrown() {\n", "\tif !head.IsWhole() {\n", ""},
	}},
	{"engine/internal/pagestack/place.go", growTests, []bug{
		{inverted, "const bits, whole = 5, 1", "const bits, whole = 1, 1", ""},
		{wrongVictim, "grown  = 11 //", "grown  = 9 //", ""},
	}},
	{"engine/change.go", growthTests, []bug{
		{checkDropped, "\tif h.HasRoom() { // the page", "\tif h == nil { // the page", ""},
		{checkDropped, "\t\tc.frag, c.size = c.made.Frag, c.made.Ext.Size\n", "\t\tc.frag = c.made.Frag\n", ""},
		{checkDropped, "&& !mmapread.MayView(pc.raw(frag)):", "&& mmapread.MayView(nil) == false:", ""},
	}},
	{"engine/move.go", growthTests, []bug{
		{checkDropped, "none, 0, invariants.Sum{}\n\tc.made = nil\n", "none, 0, invariants.Sum{}\n", ""},
		{notCounted, "\t\t\tc.frag, c.size = c.made.Frag, c.made.Ext.Size\n", "\t\t\tc.frag = c.made.Frag\n", ""},
		{checkDropped, "\t\tif h.HasRoom() { // the page", "\t\tif h == nil { // the page", ""},
	}},
	{"engine/memory.go", growthTests, []bug{
		{notCounted, "\tif h.IsGrown() {\n\t\treturn entrySize\n\t}\n", "", ""},
	}},
	{"engine/fetch.go", growthTests, []bug{
		{checkDropped, "e.Ext != nil && !h.HasRoom(), nil", "e.Ext != nil, nil", ""},
		{checkDropped, "(each || !h.IsGrown())", "!h.IsGrown()", ""},
		{inverted, "(each || !h.IsGrown())", "(each || h.Next() != nil)", ""},
	}},
	{"engine/fetch.go", copyTests, []bug{
		{checkDropped, "\tbuf.Encoded = append(buf.Encoded[:0], pc.raw(delta)...)\n",
			"\tbuf.Encoded = pc.raw(delta)\n", ""},
		{notCounted, "\tc.grow, c.size, c.sum = pc.grow, int64", "\tc.size, c.sum = int64", ""},
		{checkDropped, "\t\tdefault:\n\t\t\tc, err = pc.m.Decode(clip(",
			"\t\tdefault:\n\t\t\tc, _ = pc.m.Decode(clip(b))\n\t\t\t_, err = pc.m.Decode(clip(", ""},
		{checkDropped, "\t\t\tc.frag, err = pc.m.Decode(clip(bytes.Clone(encoded)))\n",
			"\t\t\tc.frag, err = pc.m.Decode(clip(bytes.TrimSuffix(encoded, nil)))\n", ""},
		{checkDropped, "func clip(b []byte) []byte { return b[:len(b):len(b)] }",
			"func clip(b []byte) []byte { return b }", ""},
	}},
	{"engine/evict.go", growthTests, []bug{
		{wrongVictim, "\t\tfrag := d.Fragment()\n", "\t\tfrag := d.Frag\n", ""},
	}},
	{"engine/transaction.go", growthTests, []bug{
		{checkDropped, "\t\tcase len(w.parts) > 0:\n", "\t\tcase len(w.parts) > maxParts:\n", ""},
	}},
	{"engine/commit.go", growthTests, []bug{
		{notCounted, "\t\tpagestack.EntryOf[P](e).Discard()\n", "\t\t_ = e\n", ""},
	}},
	{"engine/ids.go", pageTests, []bug{
		{checkDropped, "\tpc.pages.IDs.Give(&pc.txs.Domain, pid)\n", "", ""},
		{swallowed, "\t\tpc.pages.IDs.GiveBack(pg.id)\n\t\treturn", "\t\treturn", ""},
	}},
	{"engine/internal/scope/set.go", scopeTests, []bug{
		{notCounted, "\t\tn += tx.S().bytes.Load()\n", "\t\tn = tx.S().bytes.Load()\n", ""},
		{checkDropped, "\tt.Domain.Join(&tx.S().Slot)\n", "", ""},
		{checkDropped, "if tx.S().Slot.TryEnter(&t.Domain) {", "if tx.S().Slot.TryEnter(&t.Domain) || true {", ""},
		{notCounted, "\t\tt.solo.CompareAndSwap(tx, nil)\n", "", ""},
	}},
	{"engine/page.go", pageTests, []bug{
		{checkDropped,
			"if !isPage(h) {\n\t\treturn PagePtr[P]{}\n\t}\n\treturn ptrTo",
			"if h == nil {\n\t\treturn PagePtr[P]{}\n\t}\n\treturn ptrTo",
			""},
	}},
	{"engine/page.go", hotTests, []bug{
		{wakeupLost, "opens != nil {\n\t\tclose(*opens)\n\t}\n", "opens != nil {\n\t\t_ = opens\n\t}\n", ""},
		{checkDropped, "\t\t<-*opens\n", "", ""},
	}},
	{"engine/ids.go", rootTests, []bug{
		{checkDropped, "if now != old || now == 0 && new == 0 {", "if now != old {", ""},
		{checkDropped, "\tcase len(name) > MaxRootName:\n", "\tcase len(name) > MaxRootName+1:\n", ""},
		{checkDropped, "won = err == nil && r.Was() == old; won {", "won = err == nil; won {", ""},
		{swallowed, "\t\treturn r, tx.conflict(c.Page)\n", "\t\treturn r, nil\n", ""},
	}},
	{"engine/internal/pagemap/rename.go", rootTests, []bug{
		{notCounted, "\t\tn.m.Roots.Withdraw()\n", "", ""},
		{swallowed, "\t\t\tn.m.IDs.GiveBack(r.page)\n", "", ""},
		{notCounted, "\t\t\tn.m.IDs.Give(n.m.readers, r.page)\n", "", ""},
		{notCounted, "Remove(r.name)\n\t\t\tn.m.IDs.Give(", "Find(r.name)\n\t\t\tn.m.IDs.Give(", ""},
		{notCounted, "Remove(r.name)\n\t\t\tn.m.IDs.GiveBack(", "Find(r.name)\n\t\t\tn.m.IDs.GiveBack(", ""},
		{checkDropped, "\tr.was.Name = strings.Clone(r.Name)\n", "\tr.was.Name = strings.TrimSpace(r.Name)\n", ""},
		{checkDropped, "r.Target != 0 && r.Name == name", "r.Target != 0", ""},
		{offByOne, "NewFree(NextTS(h), 0, format", "NewFree(NextTS(h)-1, 0, format", ""},
		{checkDropped, "changed || h != nil {", "changed && h != nil {", ""},
		{wrongVictim, "return n != nil && slices", "return n == nil || slices", ""},
	}},
	{"engine/internal/roots/roots.go", rootTests, []bug{
		{offByOne, "if x.n.Add(1) > Max {", "if x.n.Add(1) >= Max {", ""},
		{notCounted, "\t\tif n == nil {\n\t\t\ts.used++\n\t\t}\n", "", ""},
		{offByOne, "4*(s.used+1) > 3*len(*t) {", "s.used+1 > len(*t) {", ""},
		{notCounted, "\ts.x.n.Add(-1)\n\tif", "\tif", ""},
		{wrongVictim, "\t\t\tcell.Store(removed)\n", "\t\t\tcell.Store(nil)\n", ""},
		{checkDropped, "8*s.live < len(*t) &&", "0*s.live > len(*t) &&", ""},
		{checkDropped, "if other.hash == n.hash && other.name == n.name {",
			"if other.hash != n.hash && other.name == n.name {", ""},
		{checkDropped, "if n.hash == h && n != removed && n.name == name {",
			"if n.hash == h && n != removed {", "Two names with the same 64-bit hash are not found in a test."},
	}},
	{"engine/internal/pagemap/roots.go", rootTests, []bug{
		{checkDropped, "h == nil || h.LSN != msg.LSN ||", "h == nil ||", ""},
		{swallowed, "\tif failed.err != nil {\n\t\treturn failed.err\n\t}\n", "", ""},
		{notCounted, "\tfor _, pid := range b.again {\n\t\tfill.Add(m.head(pid).Root().Name, pid)\n\t}\n", "", ""},
		{checkDropped, "\t\t\tif m.head(r.Page) == nil {\n", "\t\t\tif true {\n", ""},
		{checkDropped, ".Root().Target != 0 || m.base == nil {", ".Root().Target == 0 || m.base == nil {", ""},
	}},
}

var (
	pageTests = []string{
		"engine/internal/pagemap",
		"engine Pages|Model|Stress$|Stats|Conflict|Free|Consolidat|Accounts|Rule|Blob|Crash$",
	}
	scopeTests = []string{
		"engine/internal/scope",
		"engine Pages|Model|Stress$|Stats|Conflict|Free|Consolidat|Accounts|Rule|Blob|Crash$",
	}
	fallbackTests = []string{"engine/internal/txn Token", "engine Token|SlowUpdate"}

	idTests    = []string{"engine/internal/pageids", "engine/internal/idgen", "engine IDs|Ids|Allocat|Crash$"}
	idgenTests = []string{"engine/internal/idgen", "engine IDs|Ids|Allocat|Crash$"}
	epochTests = []string{"engine/internal/epoch", "engine/internal/pageids"}
	hotTests   = []string{"engine HotPage", "engine Stress$"}
	rootTests  = []string{"engine/internal/roots", "engine/internal/pagemap", "engine Root|Meta|Model|Crash$|Histor"}
)

// growTests are the tests that must notice a bug in pages that grow in place.
var growTests = []string{"engine/internal/pagestack", "engine Growing|Grown|TheRoom|ReadAfterLink"}

// growthTests are those that must notice a bug in what package engine does with them.
var growthTests = []string{"engine Growing|Grown|TheRoom|ReadAfterLink", "engine Fault|View"}

// copyTests are those that must notice one in the copies of the fragments that callers give.
var copyTests = []string{"engine Growing|Grown|TheRoom|ReadAfterLink", "engine Caller|Copies|Alias|Rule|Own|View"}

// commitTests are the tests that must notice a bug in a commit of several pages.
var commitTests = []string{"engine/internal/pagemap Commit"}

// partsTests are the tests that must notice a bug in commits in parts.
var partsTests = []string{
	"engine/internal/pagemap Commit",
	"engine Parts|Decision|LastLSN|SalvageOfParts|CommitsAround",
	"engine Salvage",
}

// viewTests are the tests that must notice a bug in what a View sees and keeps.
var viewTests = []string{"engine/internal/pagemap Former", "engine View"}

// transactionTests are the tests that must notice a bug in the calls of transactions.
var transactionTests = []string{"engine Transaction|Rollback|Conflict|MoneyStays|UpdateOnePage"}

// txnTests are the tests that must notice a bug in the protocol of transactions.
var txnTests = []string{"engine/internal/txn"}
