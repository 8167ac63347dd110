package rafttest

import (
	"math/rand/v2"
	"sync"
	"time"

	"pagecache/internal/simdisk"
)

// Member is a node of a cluster that Upset makes trouble for. Its methods are called with the lock of Upset held.
type Member interface {
	Start()      // after Kill or Stop
	Kill()       // cuts the power
	Stop()       // stops it in order
	Connect()    // connects it with all members that are up
	Disconnect() // ends its connections
	Disk() *simdisk.Disk
}

// events are what Upset does to a member: begin, and after a while end.
var events = []struct {
	name  string
	begin func(m Member, rng *rand.Rand) (end func())
}{
	{"kills", func(m Member, _ *rand.Rand) func() { m.Kill(); return m.Start }},
	{"stops", func(m Member, _ *rand.Rand) func() { m.Stop(); return m.Start }},
	{"partitions", func(m Member, _ *rand.Rand) func() { m.Disconnect(); return m.Connect }},
	{"slow disks", trouble(TroubleSlow, false)},
	{"hanging disks", trouble(TroubleHang, false)},
	{"hanging disks and kills", trouble(TroubleHang, true)},
	{"torn disks", trouble(TroubleTear, true)},
	{"full disks", trouble(TroubleFull, false)},
	{"full disks and kills", trouble(TroubleFull, true)},
}

// trouble returns the begin of a trouble that ends, or that a kill ends.
func trouble(tr Trouble, kill bool) func(Member, *rand.Rand) func() {
	return func(m Member, rng *rand.Rand) func() {
		end := Begin(m.Disk(), tr, rng)
		return func() {
			if kill {
				m.Kill()
				m.Disk().SetCapacity(0) // which a crash does not end
				m.Start()
			} else {
				end()
			}
		}
	}
}

// Upset kills, stops, cuts off and restarts members, and makes their disks slow, hang, tear and full, one member at a
// time or more, until the time is over. It returns how often it did what.
func Upset(lock sync.Locker, members []Member, rng *rand.Rand, long time.Duration) map[string]int {
	did := map[string]int{}
	sleep := func(least, most int) { time.Sleep(time.Duration(least+rng.IntN(most-least)) * time.Millisecond) }
	for end := time.Now().Add(long); time.Now().Before(end); {
		sleep(50, 450)
		victims := 1
		if rng.IntN(4) == 0 { // a lost majority
			victims = 2 + rng.IntN(len(members)-1)
		}
		var ends []func()
		lock.Lock()
		for _, i := range rng.Perm(len(members))[:victims] {
			e := events[rng.IntN(len(events))]
			did[e.name]++
			ends = append(ends, e.begin(members[i], rng))
		}
		lock.Unlock()
		sleep(0, 700)
		lock.Lock()
		for _, end := range ends {
			end()
		}
		for _, m := range members { // those that were cut off, with those that were restarted
			m.Connect()
		}
		lock.Unlock()
	}
	return did
}
