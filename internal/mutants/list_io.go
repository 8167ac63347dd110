package main

// ioTargets are the bugs in the packages next to the operating system, and in the eviction policy.
var ioTargets = []target{
	{"iouring/writer_calls.go", writerTests, []bug{
		{syncDropped, "uintptr(uint64(off)>>32), unix.RWF_DSYNC)", "uintptr(uint64(off)>>32), 0)", ""},
		{syncDropped, "\t\terr = c.sync(c.target)\n", "", ""},
		{swallowed, "if errno != unix.EOPNOTSUPP && errno != unix.ENOSYS {", "if true {", ""},
		{inverted,
			"\tif errno != 0 {\n\t\treturn -int32(errno)\n",
			"\tif errno == 0 {\n\t\treturn -int32(errno)\n",
			""},
		{notCounted, "\tc.pushed = c.pushed[:0]\n", "", ""},
	}},
	{"iouring/writer.go", writerTests, []bug{
		{offByOne, "if len(writes) > len(w.free) {", "if len(writes) > len(w.free)+1 {", ""},
		{checkDropped, "|| x.Off < 0 || x.Off%int64(w.block) != 0 {", "|| x.Off < 0 {", ""},
		{offByOne,
			"w.q.Push(id, f.w.Off+int64(f.done), f.w.Buf[f.done:])",
			"w.q.Push(id, f.w.Off, f.w.Buf[f.done:])",
			""},
		{notCounted, "\tw.free = append(w.free, id)\n\treturn c\n", "\treturn c\n", ""},
		{offByOne, "n := int(res) / w.unit * w.unit", "n := int(res)", ""},
		{swallowed, "\t\t\tw.failed = err\n\t\t\treturn w.reap(dst), err\n", "\t\t\treturn w.reap(dst), err\n", ""},
		{swallowed, "\tif w.failed != nil {\n\t\treturn f.failed(w.failed), true\n\t}\n", "", ""},
		{inverted, "if f.retries > maxPartial {", "if f.retries < maxPartial {", ""},
		{checkDropped, "\t\tif len(w.free) == len(w.inFlight) {\n\t\t\tunmark(w.file)\n\t\t}\n", "\t\tunmark(w.file)\n",
			"No test makes a kernel keep a write so long. The mark would go with it, as it does after a kill."},
	}},
	{"iouring/writer_park.go", []string{"iouring Park"}, []bug{
		{wakeupLost, "\tp.ring.Mute(false)\n", "", ""},
		{inverted, "if !r.CanMute() {", "if r.CanMute() {", "Park cannot wait then, and Do waits as before."},
		{notCounted, "p.limit = min(2*p.limit, mostPark)", "p.limit = min(p.limit, mostPark)", ""},
	}},
	{"iouring/writer_mark.go", markTests, []bug{
		{checkDropped, "\tl := unix.Flock_t{Type: unix.F_RDLCK, Start: markByte, Len: 1}\n\tif err",
			"\tl := unix.Flock_t{Type: unix.F_UNLCK, Start: markByte, Len: 1}\n\tif err", ""},
		{inverted, "return l.Type == unix.F_RDLCK, nil", "return l.Type != unix.F_RDLCK, nil", ""},
	}},
	{"internal/osfs/file_linux.go", markTests, []bug{
		{checkDropped, "\t\t_ = unix.Flock(f.fd, unix.LOCK_UN)\n", "", ""},
	}},
	{"mmapread/doubt_linux.go", mmapTests, []bug{
		{inverted, "vec[:]) && vec[0]&1 == 0 {", "vec[:]) && vec[0]&1 != 0 {", ""},
		{checkDropped, "\t\t\tforget(*bs)\n", "", ""},
		{inverted, "if now-last >= int64(doubtEvery) &&", "if now-last < int64(doubtEvery) &&", ""},
		{offByOne, "at := block << blockShift", "at := (block + 1) << blockShift", ""},
		{checkDropped, "if found := c.found.Load(); found != 0 && now-found < int64(distrustFor) {", "if true {", ""},
		{inverted, "until != 0 && now >= until {", "until != 0 && now < until {", ""},
	}},
	{"mmapread/warm_linux.go", mmapTests, []bug{
		{checkDropped, "\t\t\tif m.cold.distrust.Load() != 0 {\n\t\t\t\tb = nil\n\t\t\t}\n", "", ""},
	}},
	{"lru/enforce.go", lruTests, []bug{
		{notCounted, "\t\tp.retries.add(key)\n", "", ""},
		{inverted, "if p.exhausted || p.budget.Excess() <= 0 {", "if p.exhausted || p.budget.Excess() > 0 {", ""},
		{wakeupLost, "\tp.Kick() // continue after the next look at the queue\n", "", ""},
		{notCounted, "\t\tp.counts.swept.Add(freed)\n", "\t\t_ = freed\n", ""},
		{offByOne, "} else if rounds++; rounds == 2 {", "} else if rounds++; rounds == 1 {", ""},
		{checkDropped, "\t\tp.adviser.forget(key)\n", "", ""},
	}},
	{"lru/budget.go", lruTests, []bug{
		{notCounted, "\tif n := a.mapped.Swap(0); n != 0 {\n\t\tb.mapped.Add(n)\n\t}\n", "\ta.mapped.Swap(0)\n", ""},
		{notCounted, "func (b *Budget) total() int64 { return b.heap.Load() + b.mapped.Load() }",
			"func (b *Budget) total() int64 { return b.heap.Load() }", ""},
		{offByOne, "case excess > 0:", "case excess > 1<<20:", ""},
		{inverted, "case excess > capacity/hardShare:", "case excess < capacity/hardShare:", ""},
		{notCounted, "\tb.setGrain()\n\tif n := len", "\tif n := len", ""},
		{checkDropped, "Store(min(max(1, capacity), mostCapacity))", "Store(max(1, capacity))", ""},
	}},
	{"lru/retries.go", lruTests, []bug{
		{checkDropped, "\t\tif _, found := r.keys[key]; !found {\n\t\t\tcontinue\n\t\t}\n", "", ""},
		{notCounted, "\t\t\tbusy++\n", "", ""},
		{offByOne, "found || len(r.queue) >= maxRetries {", "found {", ""},
	}},
	{"lru/allowance.go", allowanceTests, []bug{
		{inverted, "\tif want <= a.left {\n", "\tif want > a.left {\n", ""},
		{notCounted, "\ta.left = max(0, a.left-n)\n", "", ""},
		{notCounted, "\ta.last = now\n", "", ""},
		{checkDropped, "*a.percent/100, saved)", "*a.percent/100, saved<<40)", ""},
		{inverted, "a.calm = now.Written-a.since.Written < misses",
			"a.calm = now.Written-a.since.Written > misses", ""},
		{notCounted, "\t\ta.since = now\n", "", ""},
		{checkDropped, "\tif a.percent < 0 {\n\t\treturn false\n\t}\n", "", ""},
		{offByOne, "want := size * longChain / int64(max(1, min(fewer, longChain)))", "want := size", ""},
		{notCounted, "\ta.written.Add(n)\n", "", ""},
		{offByOne, "misses >= calmMisses {", "misses >= 0 {", ""},
	}},
	{"engine/evict.go", evictTests, []bug{
		{checkDropped, "== pagestack.KindOnDisk ||\n\t\th.LSN >= pc.core.store.Log.StableEnd() {",
			"== pagestack.KindOnDisk {", ""},
		{inverted, "if heap+mapped > int64(fewer)*seekBytes ||", "if heap+mapped < int64(fewer)*seekBytes ||", ""},
		{notCounted, "\tpc.mem.allowance.Wrote(int64(e.Ptr().Len))\n", "", ""},
		{wrongVictim, "|| (heap-baseHeap)*baseRatio > baseHeap+baseMapped {",
			"|| heap < 0 && baseHeap+baseMapped < 0 {", ""},
		{checkDropped, "pagestack.KindDelta || h.LSN >= pc.core.store.Log.StableEnd() {", "pagestack.KindDelta {", ""},
		{notCounted, "rewritten.Load() - y.allowance.Written()\n", "rewritten.Load()\n", ""},
		{reordered, "range slices.Backward(deltas) {", "range slices.All(deltas) {", ""},
		{checkDropped, "clip(bytes.Clone(pc.raw(frag)))", "clip(bytes.TrimSpace(pc.raw(frag)))", ""},
		{checkDropped, "if wrote {\n\t\treturn lru.OutcomeBusy",
			"if wrote && tx == nil {\n\t\treturn lru.OutcomeBusy", ""},
		{checkDropped, "h == nil || h.Depth() == 1 ||", "h == nil ||", ""},
		{notCounted, "\tpc.mem.exhausted.Store(-1)\n", "", ""},
	}},
}

// writerTests are the tests that must notice a bug in the writers of package iouring.
var writerTests = []string{"iouring Writer|Call|Write|Sync|Dsync", "iouring", "internal/osfs"}

// markTests are the tests that must notice a bug in the marks of writes in flight.
var markTests = []string{"internal/osfs", "iouring"}

// mmapTests are the tests that must notice a bug in package mmapread.
var mmapTests = []string{"mmapread"}

// lruTests are the tests that must notice a bug in package lru.
var lruTests = []string{"lru", "engine Evict|Memory|Resident|Capacity"}

// allowanceTests are the tests that must notice a bug in the limit on the bytes that evictions write, and evictTests
// those that must notice one in an eviction.
var (
	allowanceTests = []string{"lru", "engine EvictionWrites|Quarter"}
	evictTests     = []string{
		"engine Eviction|Evicted|PolicyKeeps|Quarter|ResidentBytes|SetCache",
		"engine Model|Clean",
	}
)
