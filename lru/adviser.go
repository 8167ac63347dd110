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
	// countersPerPage is the number of counters for each page that fits. Ristretto halves all counters after as many
	// hits as there are counters. More counters remember better, but follow a change later, and in a loop they
	// saturate at 15.
	countersPerPage = 10
	// PageOverhead is the approximate number of bytes that the policy itself takes for each page it knows, counters
	// included. The Budget does not add it: a store of small pages counts it with each page.
	PageOverhead = 176
	// residentAccesses is the number of accesses credited to a page that is resident when the adviser starts.
	residentAccesses = 2
	// never is the interval in seconds at which ristretto looks for expired keys. No key expires.
	never = 365 * 24 * 3600
)

// Keys are dense and ristretto takes a hash. Multiplication by an odd number has no collisions, not even in the low
// bits that select the counters, and it has an inverse.
const (
	hashFactor  = 0x9e3779b97f4a7c15
	hashInverse = 0xf1de83e19937733d // hashFactor*hashInverse is 1
)

func hash(key uint64) (uint64, uint64) { return key * hashFactor, 0 }

// keyCost is a key and its cost in bytes.
type keyCost struct {
	key  uint64
	cost int64
}

// access is the cost of a key that a batch recorded, and whether ristretto knew the key before the batch.
type access struct {
	cost  int64
	known bool
}

// adviser is a ristretto cache that one goroutine feeds, so that the effects of a batch are known when the batch ends:
//
//   - After it sets new keys it waits for ristretto. Later lookups see them.
//   - It sets no new key twice in a batch: ristretto would report the second as rejected although the key is in.
//   - A batch is far shorter than ristretto's queue, so ristretto drops no Set.
//   - Ristretto lets known keys grow beyond its limit. The adviser readmits such keys.
type adviser struct {
	pages    Pages
	cache    *ristretto.Cache[uint64, int64] // each value is the cost that was set last, never 0
	counters int64
	limit    int64 // MaxCost
	known    int64 // keys in the cache; verdicts subtracts the keys that it returns

	// The current batch:
	accesses       [HitsLen]access
	fresh, changed []keyCost

	// closed is set once, before ristretto reports all of its keys as evicted. A stale read leaves a key in evicted,
	// which nothing reads any more.
	closed   atomic.Bool
	mu       sync.Mutex // held by ristretto's goroutine for an append
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
		OnEvict:                func(i *ristretto.Item[int64]) { a.addVerdict(&a.evicted, i) },
		OnReject:               func(i *ristretto.Item[int64]) { a.addVerdict(&a.rejected, i) },
		KeyToHash:              hash,
		IgnoreInternalCost:     true,
		TtlTickerDurationInSec: never,
	})
	return a, err
}

// addVerdict appends a key that ristretto did not keep. It runs on ristretto's goroutine. Ristretto may evict a key
// twice if its sample holds the key twice; the second time the value is 0.
func (a *adviser) addVerdict(list *[]uint64, i *ristretto.Item[int64]) {
	if i.Value == 0 || a.closed.Load() {
		return
	}
	a.mu.Lock()
	*list = append(*list, i.Key*hashInverse)
	a.mu.Unlock()
}

// verdicts returns the keys that ristretto did not keep since the last call.
func (a *adviser) verdicts() (evicted, rejected []uint64) {
	a.mu.Lock()
	evicted, rejected = a.evicted, a.rejected
	a.evicted, a.rejected = nil, nil
	a.mu.Unlock()
	a.known -= int64(len(evicted) + len(rejected))
	return evicted, rejected
}

// feed gives ristretto a batch of accesses with the current costs. It returns the number of accesses to known keys
// whose cost is unchanged. New keys are admitted first, before the batch is counted: ristretto admits a key that is as
// frequent as its victim, so one more access would admit every new key.
func (a *adviser) feed(keys []uint64) (hits int) {
	a.admitNew(keys)
	a.changed = a.changed[:0]
	grew := false
	for i, key := range keys {
		was, known := a.cache.Get(key)
		switch now := a.accesses[i]; {
		case !known || now.cost <= 0:
		case now.cost != was:
			if at := find(a.changed, key); at >= 0 {
				a.changed[at].cost = now.cost
			} else {
				a.changed = append(a.changed, keyCost{key, now.cost})
			}
			grew = grew || now.cost > was
		case now.known:
			hits++
		}
	}
	if len(a.changed) > 0 {
		for _, c := range a.changed {
			a.cache.Set(c.key, c.cost, c.cost)
		}
		a.cache.Wait()
		if grew && a.cache.RemainingCost() < 0 {
			a.readmit(a.changed)
		}
	}
	return hits
}

// admitNew notes the costs of the keys of a batch, admits the new keys and forgets those that are no longer resident.
func (a *adviser) admitNew(keys []uint64) {
	a.fresh = a.fresh[:0]
	for i, key := range keys {
		a.pages.Touch(key)
		cost := a.pages.Cost(key)
		_, known := a.cache.GetTTL(key) // unlike Get, this does not count as an access
		a.accesses[i] = access{cost, known}
		switch {
		case known && cost <= 0:
			a.forget(key)
		case !known && cost > 0:
			if find(a.fresh, key) < 0 { // feed treats a second, different cost as a change
				a.fresh = append(a.fresh, keyCost{key, cost})
			}
		}
	}
	if len(a.fresh) > 0 {
		a.admit(a.fresh)
	}
}

// find returns the index of the key in the list, or -1.
func find(list []keyCost, key uint64) int {
	return slices.IndexFunc(list, func(c keyCost) bool { return c.key == key })
}

// admit sets keys that ristretto does not know, and waits for its verdicts.
func (a *adviser) admit(list []keyCost) {
	for _, c := range list {
		if a.cache.Set(c.key, c.cost, c.cost) {
			a.known++
		}
	}
	a.cache.Wait()
}

// readmit removes the keys that are still known and lets them compete for admission again.
func (a *adviser) readmit(list []keyCost) {
	n := 0
	for _, c := range list {
		if a.forget(c.key) && c.cost > 0 {
			list[n] = c
			n++
		}
	}
	a.admit(list[:n])
}

// forget removes a key. It reports whether the key was known.
func (a *adviser) forget(key uint64) bool {
	if _, known := a.cache.GetTTL(key); !known {
		return false
	}
	a.cache.Del(key)
	a.known--
	return true
}

// load admits every resident page until stop returns true. The real number of accesses is unknown, so each page is
// credited with enough of them that a page accessed once, as in a scan, does not replace it.
func (a *adviser) load(stop func() bool) {
	var list []keyCost
	admit := func() {
		a.admit(list)
		for range residentAccesses {
			for _, c := range list {
				a.cache.Get(c.key)
			}
		}
		list = list[:0]
	}
	a.pages.Each(func(key uint64) bool {
		if cost := a.pages.Cost(key); cost > 0 {
			list = append(list, keyCost{key, cost})
		}
		if len(list) < HitsLen {
			return true
		}
		admit()
		return !stop()
	})
	admit()
}

// resize changes the limit. If the known keys exceed it, resize readmits keys until they fit or stop returns true: each
// admitted key evicts less valuable ones, and a rejected key is the less valuable one itself.
func (a *adviser) resize(limit int64, stop func() bool) {
	a.limit = limit
	a.cache.UpdateMaxCost(limit)
	if a.cache.RemainingCost() >= 0 {
		return
	}
	var list []keyCost
	a.pages.Each(func(key uint64) bool {
		list = append(list, keyCost{key, a.pages.Cost(key)})
		if len(list) < HitsLen {
			return !stop()
		}
		a.readmit(list)
		list = list[:0]
		return a.cache.RemainingCost() < 0 && !stop()
	})
	a.readmit(list)
}

// cost returns the total cost of the known keys, in bytes.
func (a *adviser) cost() int64 { return a.limit - a.cache.RemainingCost() }

func (a *adviser) close() {
	a.closed.Store(true)
	a.cache.Close()
}
