package engine_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/engine/internal/seam"
	"pagecache/internal/simdisk"
	"pagecache/segments/format"
)

// openParts opens a store whose transactions write values of up to 3000 bytes to the log, and not to blobs.
func openParts(t testing.TB, d *simdisk.Disk) *engine.PageCache[[]byte] {
	t.Helper()
	pc := enginetest.OpenSim(t, d)
	engine.SetInline(pc, 12000)
	return pc
}

// fillBlock allocates as many pages as a block of a snapshot has. So the block of the pages made before has none of
// those made after.
func fillBlock(t testing.TB, pc *engine.PageCache[[]byte]) {
	t.Helper()
	enginetest.AllocateMany(t, pc, format.EntriesPerBlock, 8)
}

// bigCommit replaces n pages of the given length in one transaction and returns its LSN. The pages are made first if
// there are none.
func bigCommit(t testing.TB, pc *engine.PageCache[[]byte], pids []engine.PageID, fill byte, size int) engine.LSN {
	t.Helper()
	return update(t, pc, func(tx *engine.Tx[[]byte]) (err error) {
		for i, pid := range pids {
			if pid == 0 {
				pids[i], err = tx.Allocate(bytes.Repeat([]byte{fill}, size))
			} else {
				err = tx.Replace(pid, bytes.Repeat([]byte{fill}, size))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// replaceAlone replaces a page by a call of its own and returns its LSN.
func replaceAlone(t testing.TB, pc *engine.PageCache[[]byte], pid engine.PageID, v string) engine.LSN {
	t.Helper()
	tx := enginetest.Begin(t, pc)
	defer tx.End()
	p, err := pc.Get(tx, pid)
	if err != nil {
		t.Fatal(err)
	}
	ptr, won, err := pc.Replace(tx, pid, p.Ptr, []byte(v))
	if err != nil || !won {
		t.Fatal(won, err)
	}
	return ptr.LastLSN()
}

// wantFill fails the test unless all pages consist of the byte.
func wantFill(t testing.TB, pc *engine.PageCache[[]byte], pids []engine.PageID, fill byte, size int) {
	t.Helper()
	values := map[engine.PageID]string{}
	for _, pid := range pids {
		values[pid] = string(bytes.Repeat([]byte{fill}, size))
	}
	want(t, pc, values)
}

// The PagePtr of a page that was written in an early part names the LSN of the last part, so that MakeStable of it
// makes the whole transaction durable. Proves D5.
func TestLastLSNOfPart(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{Block: 512})
	pc := openParts(t, d)
	pids := make([]engine.PageID, 12)
	first := bigCommit(t, pc, pids, 'a', 2000)
	if _, err := pc.MakeStable(first); err != nil {
		t.Fatal(err)
	}
	lsn := bigCommit(t, pc, pids, 'b', 2000)
	tx := enginetest.Begin(t, pc)
	for i, pid := range pids {
		p, err := pc.Get(tx, pid)
		ptr, _, err2 := pc.State(tx, pid)
		inTx, err3 := tx.Get(pid)
		many, err4 := pc.GetMany(tx, []engine.PageID{pid}, nil)
		frags, _, err5 := pc.Fragments(tx, pid)
		if err := errors.Join(err, err2, err3, err4, err5); err != nil {
			t.Fatal(err)
		}
		place := engine.NewestLSN(pc, pid)
		if i == 0 && place >= lsn-16<<10 {
			t.Errorf("the first page lies at LSN %v, the commit ends at %v: it has one part", place, lsn)
		}
		for _, got := range []engine.PagePtr[[]byte]{p.Ptr, ptr, inTx.Ptr, many[0].Ptr, frags} {
			if got.LastLSN() != lsn {
				t.Errorf("page %d: LastLSN %v, want %v", pid, got.LastLSN(), lsn)
			}
		}
		if _, won, err := pc.Link(tx, pid, engine.PagePtr[[]byte]{}, nil); won || err != nil {
			t.Errorf("a Link with a zero PagePtr: %v, %v", won, err)
		}
	}
	p, err := pc.Get(tx, pids[0])
	if err != nil {
		t.Fatal(err)
	}
	tx.End()
	if _, err := pc.MakeStable(p.Ptr.LastLSN()); err != nil {
		t.Fatal(err)
	}
	d = d.Crash(1)
	enginetest.NoCheck(t, pc)
	_ = pc.Close()
	pc = openParts(t, d)
	wantFill(t, pc, pids, 'b', 2000)
	enginetest.Close(t, pc)
}

// decidedAgain returns the number of transactions of a log of which not the last part says that they count, but a
// message behind it.
func decidedAgain(t testing.TB, d *simdisk.Disk) (n int) {
	t.Helper()
	res, err := enginetest.ScanLog(d, "/store")
	if err != nil {
		t.Fatal(err)
	}
	for _, decision := range res.Decisions {
		if decision.At > decision.Last {
			n++
		}
	}
	return n
}

// When the segment of the last part becomes empty, what it says of parts that are in use is written again. So they
// count when the log is read without a snapshot, and with one, whose blocks are corrupt, too. Proves D3.
func TestDecisionsOutliveLastPart(t *testing.T) {
	t.Parallel()
	again, rebuilt := 0, int64(0)
	for seed := range uint64(8) {
		d := simdisk.New(seed, simdisk.Options{Block: 512})
		o := engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
		s := seam.Options{FS: d, Eager: seed%2 == 0, Unchecked: true}
		pc := enginetest.Open(t, "/store", enginetest.WithSeam(&o, s))
		engine.SetInline(pc, 12000)
		fillBlock(t, pc)
		early := enginetest.AllocateMany(t, pc, 6, 8)
		fillBlock(t, pc)
		late := enginetest.AllocateMany(t, pc, 10, 8)
		bigCommit(t, pc, slices.Concat(early, late), 'a', 1900)
		for round := range 6 {
			// Those of the first segment stay where they are; all others are written again and again.
			fill := byte('b' + round)
			for _, pid := range late {
				replaceAlone(t, pc, pid, string(bytes.Repeat([]byte{fill}, 1900)))
			}
			if seed%4 > 1 && round == 2 {
				if err := pc.Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
			enginetest.CleanAll(t, pc)
			enginetest.Flush(t, pc)
		}
		st := pc.Stats()
		if st.Space.Recycled == 0 {
			t.Errorf("seed %d: nothing was recycled", seed)
		}
		enginetest.NoCheck(t, pc)
		killed := d.Crash(seed)
		_ = pc.Close()
		again += decidedAgain(t, killed)
		for _, how := range []string{"without snapshots", "with snapshots", "with corrupt snapshots"} {
			next := killed.Copy()
			if how == "with corrupt snapshots" {
				corruptSnapshots(t, next)
			}
			s.FS, s.LogAlone = next, how == "without snapshots"
			pc := enginetest.Open(t, "/store", enginetest.WithSeam(&o, s))
			wantFill(t, pc, early, 'a', 1900)
			wantFill(t, pc, late, 'g', 1900)
			if err := engine.ExactAccounts(pc); err != nil {
				t.Errorf("seed %d, %s: %v", seed, how, err)
			}
			rebuilt += pc.Stats().Snapshot.Rebuilt
			enginetest.Close(t, pc)
		}
	}
	if again == 0 {
		t.Error("nothing was written again")
	}
	if rebuilt == 0 {
		t.Error("no block of a snapshot was rebuilt")
	}
}

// Parts of a commit that was given up do not count when the pages of a corrupt block of the snapshot are looked up in
// the log. Proves D1, D3.
func TestVoidPartsBehindCorruptSnapshot(t *testing.T) {
	t.Parallel()
	const size = 2000
	d := simdisk.New(3, simdisk.Options{Block: 512})
	o := engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
	s := seam.Options{FS: d, Eager: true, Unchecked: true}
	pc := enginetest.Open(t, "/store", enginetest.WithSeam(&o, s))
	engine.SetInline(pc, 12000)
	fillBlock(t, pc)
	pids := make([]engine.PageID, 9)
	bigCommit(t, pc, pids, 'a', size)
	last := pids[len(pids)-1]
	parts := 0
	engine.BetweenParts(pc, func() {
		if parts++; parts == 2 {
			replaceAlone(t, pc, last, "other")
		}
	})
	tx := enginetest.Begin(t, pc)
	for _, pid := range pids {
		if err := tx.Replace(pid, bytes.Repeat([]byte{'b'}, size)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tx.Commit(); !errors.Is(err, engine.ErrConflict) || parts < 2 {
		t.Fatalf("after %d parts Commit returns %v, want ErrConflict", parts, err)
	}
	tx.End()
	if err := pc.Snapshot(); err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, pc)
	corruptSnapshots(t, d)
	pc = enginetest.Open(t, "/store", enginetest.WithSeam(&o, s))
	wantFill(t, pc, pids[:len(pids)-1], 'a', size)
	want(t, pc, map[engine.PageID]string{last: "other"})
	if err := engine.ExactAccounts(pc); err != nil {
		t.Error(err)
	}
	if n := pc.Stats().Snapshot.Rebuilt; n != 1 {
		t.Errorf("%d blocks were rebuilt, want 1", n)
	}
	enginetest.Close(t, pc)
}

// The same if the store knows only from a snapshot that the parts count, since that begins above the last one. Proves
// D3.
func TestDecisionsOutliveOpenings(t *testing.T) {
	t.Parallel()
	again := 0
	for seed := range uint64(4) {
		d := simdisk.New(seed, simdisk.Options{Block: 512})
		o := engine.Options{SegmentSize: 16 << 10, IOBuffers: 2, FlushEvery: -1}
		s := seam.Options{FS: d, Eager: seed%2 == 0, Unchecked: true}
		pc := enginetest.Open(t, "/store", enginetest.WithSeam(&o, s))
		engine.SetInline(pc, 12000)
		pids := make([]engine.PageID, 16)
		bigCommit(t, pc, pids, 'a', 1900)
		early, late := pids[:6], pids[6:]
		others := make([]engine.PageID, 16)
		for i := range others {
			others[i], _ = enginetest.Allocate(t, pc, bytes.Repeat([]byte{'a'}, 1900))
		}
		if err := pc.Snapshot(); err != nil {
			t.Fatal(err)
		}
		enginetest.Close(t, pc)

		pc = enginetest.Open(t, "/store", enginetest.WithSeam(&o, s))
		engine.SetInline(pc, 12000)
		for range 2 {
			for _, pid := range slices.Concat(late, others) {
				replaceAlone(t, pc, pid, string(bytes.Repeat([]byte{'b'}, 1900)))
			}
			enginetest.CleanAll(t, pc)
			enginetest.Flush(t, pc)
		}
		enginetest.NoCheck(t, pc)
		killed := d.Crash(seed)
		_ = pc.Close()
		again += decidedAgain(t, killed)
		s.FS, s.LogAlone = killed, true
		pc = enginetest.Open(t, "/store", enginetest.WithSeam(&o, s))
		wantFill(t, pc, early, 'a', 1900)
		wantFill(t, pc, slices.Concat(late, others), 'b', 1900)
		if err := engine.ExactAccounts(pc); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		enginetest.Close(t, pc)
	}
	if again == 0 {
		t.Error("nothing was written again")
	}
}

// A disk that fills up in the middle of the parts makes the commit fail and leaves nothing of it, neither now nor after
// a crash. Its messages become room for others.
func TestPartsOnFullDisk(t *testing.T) {
	d := simdisk.New(3, simdisk.Options{Block: 512})
	pc := openParts(t, d)
	pids := make([]engine.PageID, 6)
	lsn := bigCommit(t, pc, pids, 'a', 2000)
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, n := range d.Sizes() {
		total += n
	}
	d.SetCapacity(total + 4<<14)
	for round := range 5 {
		_, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
			for _, pid := range pids {
				if err := tx.Replace(pid, bytes.Repeat([]byte("b"), 2000)); err != nil {
					return err
				}
			}
			for range 100 {
				if _, err := tx.Allocate(make([]byte, 3000)); err != nil {
					return err
				}
			}
			return nil
		})
		if !errors.Is(err, engine.ErrNoSpace) {
			t.Fatalf("round %d: %v, want ErrNoSpace", round, err)
		}
		wantFill(t, pc, pids, 'a', 2000)
		if err := engine.ExactAccounts(pc); err != nil {
			t.Fatal(err)
		}
		enginetest.CleanAll(t, pc)
	}
	bigCommit(t, pc, pids, 'c', 2000) // there is room for this one
	lsn = bigCommit(t, pc, pids, 'd', 2000)
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	enginetest.NoCheck(t, pc)
	again := d.Crash(3)
	_ = pc.Close()
	pc = openParts(t, again)
	wantFill(t, pc, pids, 'd', 2000)
	if next := enginetest.NextPage(pc); next > pids[len(pids)-1]+1 {
		t.Errorf("the next page is %d: ids of a transaction that failed were used", next)
	}
	enginetest.Close(t, pc)
}

// Close in the middle of a commit in parts makes it fail, and leaves nothing of it.
func TestCloseBetweenParts(t *testing.T) {
	d := simdisk.New(4, simdisk.Options{Block: 512})
	pc := openParts(t, d)
	pids := make([]engine.PageID, 6)
	bigCommit(t, pc, pids, 'a', 2000)
	closed := make(chan error, 1)
	parts := 0
	engine.BetweenParts(pc, func() {
		if parts++; parts == 2 {
			enginetest.NoCheck(t, pc)
			go func() { closed <- pc.Close() }()
			for pc.StableLSN() >= 0 { // until Close has begun
				if tx, err := pc.Begin(); err != nil {
					break
				} else {
					tx.End()
				}
			}
		}
	})
	_, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
		for _, pid := range pids {
			if err := tx.Replace(pid, bytes.Repeat([]byte("b"), 3000)); err != nil {
				return err
			}
		}
		return nil
	})
	fill, size := byte('b'), 3000
	if err != nil {
		if fill, size = 'a', 2000; !errors.Is(err, engine.ErrClosed) {
			t.Errorf("commit: %v", err)
		}
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	pc = openParts(t, d)
	wantFill(t, pc, pids, fill, size)
	enginetest.Close(t, pc)
}

// The pages of a commit in parts are in the order of their effects: a transaction that another one overtakes between
// two parts fails if they meet, and a snapshot that is written there shows none of its changes, or all.
func TestOthersBetweenParts(t *testing.T) {
	d := simdisk.New(5, simdisk.Options{Block: 512})
	pc := openParts(t, d)
	pids := make([]engine.PageID, 6)
	bigCommit(t, pc, pids, 'a', 2000)
	between, parts := func() {}, 0
	engine.BetweenParts(pc, func() { parts++; between() })
	meddled := false
	between = func() {
		if !meddled {
			meddled = true
			replaceAlone(t, pc, pids[5], "meddled")
		}
	}
	attempts := 0
	if _, err := pc.Update(t.Context(), func(tx *engine.Tx[[]byte]) error {
		attempts++
		for _, pid := range pids {
			if err := tx.Link(pid, bytes.Repeat([]byte("b"), 2000)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil || attempts != 2 || parts < 3 {
		t.Errorf("%d attempts, %d parts, %v", attempts, parts, err)
	}
	long := string(bytes.Repeat([]byte("a"), 2000)) + string(bytes.Repeat([]byte("b"), 2000))
	want(t, pc, map[engine.PageID]string{pids[0]: long, pids[5]: "meddled" + long[2000:]})
	between = func() {
		enginetest.Flush(t, pc)
		if err := pc.Snapshot(); err != nil {
			t.Error(err)
		}
	}
	lsn := bigCommit(t, pc, pids, 'c', 2500)
	if _, err := pc.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	enginetest.NoCheck(t, pc)
	again := d.Crash(5)
	_ = pc.Close()
	pc = openParts(t, again)
	wantFill(t, pc, pids, 'c', 2500)
	enginetest.Close(t, pc)
}

// limitsOf returns the numbers of bytes, near a quarter of a segment, at which a commit gets another part.
func limitsOf(segment int) (sizes []int) {
	for _, n := range []int{1, 2, 3, 5} {
		for d := -80; d <= 80; d += 8 {
			sizes = append(sizes, n*segment/4+d)
		}
	}
	return sizes
}

// Transactions of all lengths around the limits of parts do what a map does.
func TestCommitsAroundTheLimit(t *testing.T) {
	t.Parallel()
	d := simdisk.New(6, simdisk.Options{Block: 512})
	pc := openParts(t, d)
	rng := rand.New(rand.NewPCG(6, 6))
	model := map[engine.PageID]string{}
	for i, total := range limitsOf(16 << 10) {
		fill := bytes.Repeat([]byte{byte('a' + i%26)}, 4096)
		var pids []engine.PageID
		update(t, pc, func(tx *engine.Tx[[]byte]) error {
			pids = pids[:0]
			for left := total; left > 0; {
				n := min(left, 1+rng.IntN(3000))
				pid, err := tx.Allocate(fill[:n])
				if err != nil {
					return err
				}
				pids = append(pids, pid)
				model[pid] = string(fill[:n])
				left -= n + 24
			}
			return nil
		})
		want(t, pc, model)
		update(t, pc, func(tx *engine.Tx[[]byte]) error {
			for _, pid := range pids[1:] {
				if err := tx.Free(pid); err != nil {
					return err
				}
			}
			return nil
		})
		for _, pid := range pids[1:] {
			model[pid] = ""
		}
	}
	want(t, pc, model)
	if err := engine.ExactAccounts(pc); err != nil {
		t.Error(err)
	}
	enginetest.Close(t, pc)
	pc = openParts(t, d)
	want(t, pc, model)
	enginetest.Close(t, pc)
}
