package load

// search finds the largest queue depth that meets a latency, by bisection as fio does.
type search struct {
	low, high int // low is known to be fast enough (0: none), high+1 to be too slow
	now       int // the depth that is being tried
}

func newSearch(most int) *search { return &search{low: 0, high: most, now: most} }

// step learns whether the depth that was tried is fast enough. It reports whether the search is over; then now is the
// depth that was found, or 1.
func (s *search) step(fast bool) (done bool) {
	if fast {
		s.low = s.now
	} else {
		s.high = s.now - 1
	}
	if s.low >= s.high {
		s.now = max(1, s.low)
		return true
	}
	s.now = (s.low + s.high + 1) / 2
	return false
}
