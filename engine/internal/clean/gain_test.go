package clean

import "testing"

// Recycled segments count as room gained, as far as the log has not grown by the pages that were moved, or by padding;
// messages of callers are no loss. Each byte counts once.
func TestGain(t *testing.T) {
	g := gain{highest: account{log: 1000}.gained()}
	for _, c := range []struct {
		what string
		account
		want int64
	}{
		{"nothing", account{0, 1000, 0}, 0},
		{"callers write", account{0, 1500, 500}, 0},
		{"pages are moved", account{0, 1580, 500}, 0},
		{"their segment is recycled", account{100, 1580, 500}, 20},
		{"again", account{100, 1580, 500}, 0},
		{"a flush pads", account{100, 1590, 500}, 0},
		{"pages are moved", account{100, 1670, 500}, 0},
		{"less was gained than padded", account{200, 1670, 500}, 10},
		{"moves in vain", account{300, 1770, 500}, 0},
		{"callers write and a segment is recycled", account{400, 1790, 520}, 100},
	} {
		if n := g.update(c.account); n != c.want {
			t.Errorf("%s: %d bytes gained, want %d", c.what, n, c.want)
		}
	}
}

// On a full disk, cleaning a segment of which only a 64th is dead pays for itself, even if half of what it frees is
// lost again. Moving in vain still uses up the budget.
func TestGainPaysForItself(t *testing.T) {
	const segment, live = mib, mib - mib/64
	if gainFactor*(segment-live)/2 < live {
		t.Errorf("moving %d bytes gains %d, which pay for %d", live, (segment-live)/2, gainFactor*(segment-live)/2)
	}
	var g gain
	c := Cleaner{budget: budget{left: 4 * mib}}
	a, steps := account{}, 0
	for ; c.mayMove(modeBusy, true) && steps < 100; steps++ {
		c.spend(live, true)
		a.log += segment // the end of the new segment stays unused
		a.recycled += segment
		c.budget.left += gainFactor * g.update(a)
	}
	if steps != 5 {
		t.Errorf("%d segments were moved in vain", steps)
	}
}

// On a full disk, callers that wait for room write nothing, so the budget of an idle store does not count there.
func TestFullDiskIsNotIdle(t *testing.T) {
	for _, c := range []struct {
		left, idle int64
		mode
		diskFull, want bool
	}{
		{1, 0, modeBusy, false, true},
		{1, 0, modeIdle, false, false},
		{1, 1, modeIdle, false, true},
		{1, 0, modeIdle, true, true},
		{0, 1, modeIdle, true, false},
		{0, 1, modeByHand, true, false},
	} {
		cl := Cleaner{budget: budget{left: c.left}, idle: budget{left: c.idle}, mode: c.mode}
		if got := cl.mayMove(c.mode, c.diskFull); got != c.want {
			t.Errorf("%+v: may move %v", c, got)
		}
		cl.spend(1, c.diskFull)
		if spent := cl.idle.left < c.idle; spent != (c.mode == modeIdle && !c.diskFull) {
			t.Errorf("%+v: the idle budget was spent: %v", c, spent)
		}
	}
}
