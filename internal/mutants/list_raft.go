package main

// raftTargets are the bugs in the members of a raft group, which are in a module of their own.
var raftTargets = []target{
	{"raft/raftpages/apply.go", raftApplyTests, []bug{
		{offByOne, "todo[0].Index <= f.st.index {", "todo[0].Index < f.st.index {", ""},
		{offByOne, "= entries[last].Index, entries[last].Term", "= entries[0].Index, entries[0].Term", ""},
		{swallowed, "\t\terr = f.stop(err)\n", "\t\t_ = f.stop(err)\n", ""},
		{inverted, "errors.Is(err, own) {\n\t\t\treturn false", "errors.Is(err, own) {\n\t\t\treturn true", ""},
		{swallowed, "\t\t\tsome[bad] = err\n", "\t\t\tsome[bad] = nil\n", ""},
		{wrongVictim, "\t\t\tcase rejected && i == last:\n", "\t\t\tcase rejected:\n", ""},
		{notCounted, "\t\t\t\tnext.confIndex, next.conf = e.Index, slices.Clone(e.Data)\n",
			"\t\t\t\t_ = slices.Clone(e.Data)\n", ""},
		{offByOne, "most, rejected = bad+1, true", "most, rejected = max(bad, 1), true", ""},
		{offByOne, "\t\tcase bad > 0: //", "\t\tcase bad > 1: //", ""},
		{swallowed, "\t\t\treturn done, err\n", "\t\t\treturn done, nil\n", ""},
		{inverted, "return time.Now().Before(w.until)", "return !time.Now().Before(w.until)", ""},
		{inverted, "\tif f.o.OnFail != nil {\n\t\tdefer func() {", "\tif f.o.OnFail == nil {\n\t\tdefer func() {", ""},
	}},
	{"raft/raftpages/dir.go", raftDirTests, []bug{
		{syncDropped, "\treturn true, d.Sync()\n", "\treturn true, nil\n", ""},
		{syncDropped, "\treturn f.Sync()\n", "\treturn nil\n", ""},
		{swallowed, "currentName); err != nil {\n\t\treturn true, err",
			"currentName); err != nil {\n\t\treturn false, err", ""},
		{offByOne, "(number < 1 ||", "(number < 0 ||", ""},
		{checkDropped, "err != nil || !ok {", "err != nil || !ok && number < 0 {", ""},
		{wrongVictim, "&& name != storeName(number):", "&& name == storeName(number):", ""},
		{notCounted, "\t\tcase name == currentTemp:\n", "\t\tcase name == currentTemp && number < 0:\n", ""},
	}},
	{"raft/raftpages/fsm.go", raftStoreTests, []bug{
		{checkDropped, "err == nil && n != first {", "err == nil && n < first {", ""},
		{swallowed, "\t\terr = fmt.Errorf(\"%s names the store",
			"\t\terr = nil\n\t\t_ = fmt.Errorf(\"%s names the store", ""},
		{notCounted, "\t\terr = errors.Join(err, p.discard(f))\n", "\t\t_ = p\n", ""},
		{wakeupLost, "\tf.applied.Store(next.index)\n\tf.wakeLocked()\n", "\tf.applied.Store(next.index)\n", ""},
		{wakeupLost, "ErrStopped, f.st.index, err)\n\tf.wakeLocked()\n", "ErrStopped, f.st.index, err)\n", ""},
		{wakeupLost, "\tf.pending = nil\n\tf.wakeLocked()\n", "\tf.pending = nil\n", ""},
		{checkDropped, "\tif was := f.errLocked(); was != nil {\n\t\treturn was\n\t}\n", "", ""},
		{notCounted, "f.st, f.newest, f.serial = st, st, h.number", "f.st, f.serial = st, h.number", ""},
	}},
	{"raft/raftpages/restore.go", raftStoreTests, []bug{
		{checkDropped, "\tif !st.equal(&k.st) {", "\tif st.index == 0 {", ""},
		{syncDropped, "\t\t\t_, err = h.pc.MakeStable(lsn)\n", "\t\t\t_ = lsn\n", ""},
		{checkDropped, "p.st.index == f.st.index && p.st.term", "p.st.index <= f.st.index || p.st.term", ""},
		{inverted, "\t\tif begun {", "\t\tif !begun {", ""},
		{notCounted, "f.st, f.newest, f.lsn = p.st, p.st,", "f.st, f.newest, f.lsn = p.st, f.newest,", ""},
		{notCounted, "\t\t\t_ = f.remove(old.number)\n", "\t\t\t_ = old.number\n", ""},
		{wakeupLost, "\tf.applied.Store(f.st.index)\n\tf.wakeLocked()\n", "\tf.applied.Store(f.st.index)\n", ""},
		{inverted, "\t\tif x.f == f {", "\t\tif x.f != f {", ""},
		{checkDropped, "if p == nil || p.id != id {", "if p == nil {", ""},
		{notCounted, "\t\treturn p.discard(f)\n\t}\n\treturn nil", "\t\treturn nil\n\t}\n\treturn nil", ""},
	}},
	{"raft/raftpages/snapshot.go", raftStoreTests, []bug{
		{checkDropped, "if st.index < least || st.index == 0 {", "if st.index == 0 {", ""},
		{checkDropped, "\tcase f.newest.conf == nil:\n", "\tcase f.newest.conf == nil && f.closed:\n", ""},
		{checkDropped, "\t\t\tif next.index < given.index {", "\t\t\tif next.index > given.index {", ""},
		{checkDropped, "if next.confIndex <= given.index {", "if next.confIndex > 0 {", ""},
		{syncDropped, "if _, err = h.pc.MakeStable(lsn); errors.Is", "if _ = lsn; errors.Is", ""},
		{swallowed, "f.cur.Load() == h {\n\t\t\terr = f.stop(err)\n", "f.cur.Load() == h {\n\t\t\t_ = f.stop\n", ""},
		{notCounted, "errors.Join(err, k.f.remove(k.number)))", "err)", ""},
		{notCounted, "\t<-k.result\n\treturn k.f.remove(k.number)\n", "\t<-k.result\n\treturn nil\n", ""},
		{checkDropped, "\tif k.ended || k.own {\n", "\tif k.own {\n", ""},
		{notCounted, "\t\tf.changed(*next, lsn)\n", "\t\t_ = next\n", ""},
		{swallowed, "\t\t\t_, err = io.Copy(io.Discard, r) //", "\t\t\t_ = r //", ""},
	}},
	{"raft/raftpages/read.go", raftReadTests, []bug{
		{checkDropped, "\t\tif index <= passed {\n", "\t\tif index <= passed || index > 0 {\n", ""},
		{checkDropped, "\t\tif err := verify(ctx, r, started.guard, term); err != nil {\n",
			"\t\tif err := ctx.Err(); err != nil {\n", ""},
		{checkDropped, "+followers > voters/2 || r", "+followers > 0 || r", ""},
		{checkDropped, "b.r != r || b.term != term {", "b.r != r {", ""},
		{checkDropped, "passed, err := f.barrier(ctx, r, term, 0)", "passed, err := uint64(0), error(nil)", ""},
	}},
	{"raft/raftpages/state.go", raftApplyTests, []bug{
		{offByOne, "engine.PageID(low)+1); err", "engine.PageID(low)); err", ""},
		{offByOne, "(uint64(pid) - 1) << (32 * shift)", "uint64(pid) << (32 * shift)", ""},
		{notCounted, "\t\tif !slices.Contains(names, name) {\n", "\t\tif name == \"\" {\n", ""},
		{checkDropped, "&& int(count) != len(parts) {", "&& count == 0 {", ""},
	}},
	{"raft/raftpages/raft.go", []string{"raft/raftpages Prepare"}, []bug{
		{offByOne, "\tcase first > index+1:\n", "\tcase first > index:\n", ""},
		{offByOne, "\tcase last < index:\n", "\tcase last <= index:\n", ""},
		{inverted, "\tif entry.Term != term {", "\tif entry.Term == term {", ""},
		{checkDropped, "\tif conf.ProtocolVersion < raft.", "\tif 0 > raft.", ""},
	}},
}

var (
	// raftApplyTests are the tests that must notice a bug in how a member applies entries and keeps its state.
	raftApplyTests = []string{"raft/raftpages Apply$|LargeState|Batches|Stop|Rejected|State|Split|FullDisk$"}
	// raftStoreTests are those that must notice one in its store and in snapshots, raftDirTests those of its directory.
	raftStoreTests = []string{
		"raft/raftpages Open$|Stop|Wait|Snapshot|Received|Install|State|Stream|View|Current|Apply$",
		"raft/raftpages Restor",
	}
	raftDirTests = []string{"raft/raftpages Open$|CurrentFails|CrashWhile"}
	// raftReadTests are those that must notice one in linearizable reads.
	raftReadTests = []string{"raft/raftpages Read"}
)
