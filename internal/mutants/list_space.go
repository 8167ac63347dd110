package main

// spaceTargets are the bugs in the accounts of the log file's slots, and in the choice of what is cleaned.
var spaceTargets = []target{
	{"segments/growth.go", segmentsTests, []bug{
		{syncDropped, "if err := g.file.Sync(); err != nil {", "if err := error(nil); err != nil {", ""},
		{swallowed, "\tdefault:\n\t\tg.fail(err)\n\t}\n\tg.diskFull", "\tdefault:\n\t}\n\tg.diskFull", ""},
		{notCounted, "\tg.table.slots = max(g.table.slots, first+n)\n", "", ""},
		{inverted, "if g.refused != nil && time.Since(g.refusedAt) <= g.backOff {",
			"if g.refused != nil && time.Since(g.refusedAt) > g.backOff {", ""},
		{wakeupLost, "\tg.changed.Broadcast()\n", "", ""},
		{swallowed, "\tcase !errors.Is(err, ErrNoRoom):\n\t\tg.fail(err)\n", "", ""},
		{offByOne, "if first+n > MaxSlots {", "if first+n > MaxSlots+1 {", ""},
		{checkDropped, "\tif errors.Is(err, ErrNoRoom) && n > 1 {\n", "\tif false {\n", ""},
		{notCounted, "\tg.refused = nil\n\tg.diskFull.Store(false)\n", "\tg.refused = nil\n", ""},
		{swallowed, "\tif g.broken == nil {\n\t\tg.broken = err\n\t}\n", "\tg.broken = err\n", ""},
	}},
	{"segments/reserve.go", segmentsTests, []bug{
		{notCounted, "return r.base + slots/r.per", "return r.base", ""},
		{offByOne, "for free <= r.kept(u, slots) {", "for free < r.kept(u, slots) {", ""},
		{offByOne, "const KeptForCleaning = 3", "const KeptForCleaning = 2", ""},
		{checkDropped, "\treturn min(keptForOpening, r.base)\n", "\treturn 0\n", ""},
	}},
	{"segments/recycle.go", segmentsTests, []bug{
		{wrongVictim, "if base := g.Base(); base < newest {", "if base := g.Base(); base <= newest {", ""},
		{checkDropped, "if g.State() != StateDraining || g.Live() != 0 {", "if g.State() != StateDraining {", ""},
		{notCounted, "\tl.Left += ledger.Left\n", "", ""},
		{offByOne, "l.Recycled = ledger.Recycled + uint64(len(ids))", "l.Recycled = ledger.Recycled + 1", ""},
		{wakeupLost, "\ts.changed.Broadcast()\n}\n\n// Retire", "}\n\n// Retire",
			"A writer waits only while background work is under way, and the end of that wakes it."},
		{swallowed, "\tif err := note(e); err != nil {\n\t\treturn false, err\n\t}\n", "\t_ = note(e)\n", ""},
		{offByOne, "Shrinks: s.table.ledger.Shrinks + 1}", "Shrinks: s.table.ledger.Shrinks}", ""},
		{inverted, "if s.free.len() > s.kept(UrgencyOrdinary) {", "if s.free.len() < s.kept(UrgencyOrdinary) {", ""},
	}},
	{"segments/free.go", segmentsTests, []bug{
		{wrongVictim, "return f.ids[len(f.ids)-1] }", "return f.ids[0] }", ""},
		{offByOne, "int(f.ids[n]) == slots-1-n {", "int(f.ids[n]) == slots-n {", ""},
		{notCounted, "\tdelete(f.written, id)\n\treturn id\n", "\treturn id\n", ""},
		{inverted,
			"\tif written {\n\t\tf.written[id] = true\n\t}\n",
			"\tif !written {\n\t\tf.written[id] = true\n\t}\n",
			""},
	}},
	{"segments/space.go", segmentsTests, []bug{
		{offByOne,
			"s.ensureFree(s.kept(UrgencyOrdinary)+1, s.kept(u)+1)",
			"s.ensureFree(s.kept(UrgencyOrdinary), s.kept(u))",
			""},
		{swallowed, "\t\t\tif s.free.len() < least {\n\t\t\t\treturn err\n\t\t\t}\n", "", ""},
		{notCounted, "format.AlignUp(int(ptr.Len)))", "int(ptr.Len))", ""},
		{inverted, "func (s *Space) Dead(ptr format.DiskPtr) { s.count(ptr, -1) }",
			"func (s *Space) Dead(ptr format.DiskPtr) { s.count(ptr, 1) }", ""},
		{swallowed, "\treturn s.growth.broken\n", "\treturn nil\n", ""},
		{notCounted, "\ts.zeroer.opened++\n", "", ""},
	}},
	{"segments/slot.go", segmentsTests, []bug{
		{checkDropped, "return s.Live() == 0 && !s.keep &&", "return s.Live() == 0 &&", ""},
		{checkDropped, "return s.Live() == 0 && !s.keep &&", "return !s.keep &&", ""},
		{notCounted, "\ts.pages.Store(nil)\n", "", ""},
		{inverted,
			"if s.State() != StateActive || s.Base() != base {",
			"if s.State() != StateActive && s.Base() != base {",
			""},
	}},
	{"segments/table.go", segmentsTests, []bug{
		{notCounted, "\tt.ledger.Joined += identity\n", "", ""},
		{notCounted, "\tt.used -= len(ids)\n", "", ""},
		{inverted, "t.newest = max(t.newest, base)", "t.newest = min(t.newest, base)", ""},
	}},
	{"segments/zero.go", segmentsTests, []bug{
		{inverted, "free.put(id, err == nil)", "free.put(id, err != nil)", ""},
		{wakeupLost, "\tz.state = zeroIdle\n\tz.changed.Broadcast()\n", "\tz.state = zeroIdle\n", ""},
		{checkDropped, "z.opened != opened || free.len() == 0", "free.len() == 0", ""},
	}},
	{"engine/internal/clean/victim.go", cleanTests, []bug{
		{wrongVictim, "return (1 - share) * math.Sqrt", "return (1 + share) * math.Sqrt", ""},
		{wrongVictim, "if s := score(v); s > highest {", "if s := score(v); s < highest || highest < 0 {", ""},
		{wrongVictim, "* math.Sqrt(float64(v.Age)) / (1 + share)", "/ math.Sqrt(float64(v.Age)) / (1 + share)", ""},
		{inverted, "if share > min(limit", "if share < min(limit", ""},
		{wrongVictim, "return float64(limit - v.Live) }", "return float64(v.Live) }", ""},
		{notCounted,
			"b.left+moveFactor*(written-b.written+max(0, b.live-live))",
			"b.left+moveFactor*(written-b.written)",
			""},
		{checkDropped, "b.live-live)), 2*used)", "b.live-live)), 1<<62)", ""},
		{notCounted, "\tb.written, b.live = written, live\n", "", ""},
		{inverted, "return u.slack() > max(", "return u.slack() < max(", ""},
		{notCounted, "return u.used - u.live - u.uncleanable }", "return u.used - u.live }", ""},
		{checkDropped, "\tif c.recycler.Waiting() > 0 {\n\t\treturn v, false\n\t}\n", "", ""},
	}},
}

// segmentsTests are the tests that must notice a bug in package segments.
var segmentsTests = []string{
	"segments",
	"engine/internal/logstore",
	"engine Space|Full|Room|Clean|Recycl|Shrink|Accounts|Unread|CutSlots|CutLog",
}

// cleanTests are the tests that must notice a bug in package clean.
var cleanTests = []string{"engine/internal/clean", "engine Clean|Space|Full|Mover|Moves"}
