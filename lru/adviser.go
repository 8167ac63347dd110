package lru

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"
)

const (
	minCounters = 1 << 12
	maxCounters = 1 << 26
	// perPage is how many counters there are for each page that fits. After as many hits as there are counters all of them
	// are halved: more remember better, but follow a change later and stop at 15 in a loop.
	perPage = 10
	// PageOverhead is about how many bytes the policy itself takes for each page that it knows, counters included. They are
	// in nobody's budget unless they are counted with the page, as they should be where pages are small.
	PageOverhead = 176
	// trusted is how often what is resident at the start counts as met.
	trusted = 2
	// never is the interval in seconds at which ristretto looks for keys that have expired. None does.
	never = 365 * 24 * 3600
)

// Keys are dense, and ristretto takes a hash. A product with an odd number is one without collisions, in its low bits
// neither, where the counters are; and it can be undone.
const (
	spread = 0x9e3779b97f4a7c15
	gather = 0xf1de83e19937733d // spread*gather is 1
)

func hash(key uint64) (uint64, uint64) { return key * spread, 0 }

// told is a key with the cost that ristretto is to know.
type told struct {
	key  uint64
	cost int64
}

// met is what a key cost when it was met in a batch, and whether it was known before.
type met struct {
	cost  int64
	known bool
}

// adviser is ristretto, fed by one goroutine, so that what it does with a batch is known at the end of the batch:
//
//   - it waits for ristretto after telling it of new keys, so that what it looks up next is so;
//   - no key is new twice in a batch: it would be called rejected although it is in;
//   - a batch is far shorter than ristretto's queue, so no Set is dropped;
//   - what ristretto lets grow beyond its limit has to be admitted anew.
type adviser struct {
	pages    Pages
	cache    *ristretto.Cache[uint64, int64] // the value is the cost that was told last, never 0
	counters int64
	limit    int64 // MaxCost
	known    int64 // keys in the cache, once what verdicts returns is taken off

	// Of the batch:
	met            [HitsLen]met
	fresh, changed []told

	// closed is set once, before ristretto reports everything that it held as evicted.
	closed   atomic.Bool
	mu       sync.Mutex // held for an append by ristretto's goroutine
	evicted  []uint64
	rejected []uint64
}

// newAdviser starts ristretto.
func newAdviser(pages Pages, limit, counters int64) (*adviser, error) {
	a := &adviser{pages: pages, limit: limit, counters: counters}
	var err error
	a.cache, err = ristretto.NewCache(&ristretto.Config[uint64, int64]{
		NumCounters:            counters,
		MaxCost:                limit,
		BufferItems:            HitsLen,
		OnEvict:                func(i *ristretto.Item[int64]) { a.verdict(&a.evicted, i) },
		OnReject:               func(i *ristretto.Item[int64]) { a.verdict(&a.rejected, i) },
		KeyToHash:              hash,
		IgnoreInternalCost:     true,
		TtlTickerDurationInSec: never,
	})
	return a, err
}

// verdict notes a key that ristretto does not keep. It runs on ristretto's goroutine. Ristretto may evict a key that it
// sampled twice twice; the second time there is no value any more.
func (a *adviser) verdict(list *[]uint64, i *ristretto.Item[int64]) {
	if i.Value == 0 || a.closed.Load() {
		return
	}
	a.mu.Lock()
	*list = append(*list, i.Key*gather)
	a.mu.Unlock()
}

// verdicts returns the keys that were not kept since the last call.
func (a *adviser) verdicts() (evicted, rejected []uint64) {
	a.mu.Lock()
	evicted, rejected = a.evicted, a.rejected
	a.evicted, a.rejected = nil, nil
	a.mu.Unlock()
	a.known -= int64(len(evicted) + len(rejected))
	return evicted, rejected
}

// feed tells ristretto of a batch of keys that were met: that they were, and what they cost now. It returns how many were
// known and cost what they did. What is new is judged first, by how often it was met before:
// ristretto lets in what has been met as often as what goes out, so one more would let in whatever comes.
func (a *adviser) feed(keys []uint64) (hits int) {
	a.judge(keys)
	a.changed = a.changed[:0]
	grew := false
	for i, key := range keys {
		was, known := a.cache.Get(key)
		switch m := a.met[i]; {
		case !known || m.cost <= 0:
		case m.cost != was:
			if at := find(a.changed, key); at >= 0 {
				a.changed[at].cost = m.cost
			} else {
				a.changed = append(a.changed, told{key, m.cost})
			}
			grew = grew || m.cost > was
		case m.known:
			hits++
		}
	}
	if len(a.changed) > 0 {
		for _, t := range a.changed {
			a.cache.Set(t.key, t.cost, t.cost)
		}
		a.cache.Wait()
		if grew && a.cache.RemainingCost() < 0 {
			a.readmit(a.changed)
		}
	}
	return hits
}

// judge looks up what is known of the keys of a batch, and tells ristretto of those that are new or gone, if any.
func (a *adviser) judge(keys []uint64) {
	a.fresh = a.fresh[:0]
	for i, key := range keys {
		a.pages.Touch(key)
		cost := a.pages.Cost(key)
		_, known := a.cache.GetTTL(key) // unlike Get this does not count
		a.met[i] = met{cost, known}
		switch {
		case known && cost <= 0:
			a.forget(key)
		case !known && cost > 0:
			if find(a.fresh, key) < 0 { // what it costs if it is met again is a change
				a.fresh = append(a.fresh, told{key, cost})
			}
		}
	}
	if len(a.fresh) > 0 {
		a.admit(a.fresh)
	}
}

// find is where the key is in the list, -1 if it is not.
func find(list []told, key uint64) int {
	return slices.IndexFunc(list, func(t told) bool { return t.key == key })
}

// admit tells ristretto of keys that it does not know, and waits for what it makes of them.
func (a *adviser) admit(list []told) {
	for _, t := range list {
		if a.cache.Set(t.key, t.cost, t.cost) {
			a.known++
		}
	}
	a.cache.Wait()
}

// readmit takes those keys out that are still known, and lets them compete for their places anew.
func (a *adviser) readmit(list []told) {
	n := 0
	for _, t := range list {
		if a.forget(t.key) && t.cost > 0 {
			list[n] = t
			n++
		}
	}
	a.admit(list[:n])
}

// forget takes a key out; false: it was not known.
func (a *adviser) forget(key uint64) bool {
	if _, known := a.cache.GetTTL(key); !known {
		return false
	}
	a.cache.Del(key)
	a.known--
	return true
}

// load admits everything that is resident, as met so often that what is met once, as in a scan, takes no place of it: how often it was really met nobody has
// counted.
func (a *adviser) load(stop func() bool) {
	var list []told
	admit := func() {
		a.admit(list)
		for range trusted {
			for _, t := range list {
				a.cache.Get(t.key)
			}
		}
		list = list[:0]
	}
	a.pages.Each(func(key uint64) bool {
		if cost := a.pages.Cost(key); cost > 0 {
			list = append(list, told{key, cost})
		}
		if len(list) < HitsLen {
			return true
		}
		admit()
		return !stop()
	})
	admit()
}

// resize changes the limit. Where less fits than is known, keys are admitted anew until it does: each that gets in
// pages out what is worth less, each that does not is less itself.
func (a *adviser) resize(limit int64, stop func() bool) {
	a.limit = limit
	a.cache.UpdateMaxCost(limit)
	if a.cache.RemainingCost() >= 0 {
		return
	}
	var list []told
	a.pages.Each(func(key uint64) bool {
		list = append(list, told{key, a.pages.Cost(key)})
		if len(list) < HitsLen {
			return !stop()
		}
		a.readmit(list)
		list = list[:0]
		return a.cache.RemainingCost() < 0 && !stop()
	})
	a.readmit(list)
}

// cost is what the known keys cost.
func (a *adviser) cost() int64 { return a.limit - a.cache.RemainingCost() }

func (a *adviser) close() {
	a.closed.Store(true)
	a.cache.Close()
}
