//go:build linux

package mmapread

import (
	"sync"
	"testing"
)

// If one range after another is cold, the kernel is asked about few of them. Known blocks are not fetched again, and
// long ranges are not fetched without asking. Once ranges are warm again, the kernel is asked about all of them.
func TestColdStreak(t *testing.T) {
	const count, long = 4096, 16 * streakBytes
	f, m, n := coldFile(t, count*blockSize+long, 64*blockSize)
	warm := func(off, length int64) int {
		cold, err := m.Warm([]Range{{off, int(length)}})
		if err != nil {
			t.Fatal(err)
		}
		return cold
	}
	for i := range int64(count / 2) {
		warm(i*blockSize+blockSize/2, blockSize) // two halves; from the second range on the first block is known
	}
	c, xs := m.Counts(), n.take()
	if asked := int64(count / 2 / streakOdds); c.Mincores < asked/2+streakLength || c.Mincores > 2*asked+streakLength {
		t.Errorf("asked %d times", c.Mincores)
	}
	if want := int64(count/2+1) * blockSize; c.Fetched != want || c.Cold != count/2 {
		t.Errorf("%+v, want %d bytes fetched", c, want)
	}
	for _, x := range xs[1:] {
		if x.Len != blockSize {
			t.Fatalf("fetched %v", x)
		}
	}
	rest := make([]byte, (count/2-1)*blockSize+long)
	if _, err := f.ReadAt(rest, (count/2+1)*blockSize); err != nil { // the rest is cached from now on
		t.Fatal(err)
	}
	if cold := warm(count*blockSize, long); cold != 0 {
		t.Error("a long range was fetched without asking")
	}
	m.cold.streak.Store(streakLength) // restores the streak
	cold := 0
	for i := int64(count/2 + 1); i < count; i++ {
		cold += warm(i*blockSize, blockSize)
	}
	if cold > 20*streakOdds { // the kernel is asked about each with a chance of 1 in streakOdds
		t.Errorf("%d ranges were fetched though they were cached", cold)
	}
}

// During a streak, goroutines warm ranges in windows that other goroutines are just mapping.
func TestColdStreakNewWindows(t *testing.T) {
	const count, window = 512, 16 * blockSize
	_, m, _ := coldFile(t, count*window, window)
	m.cold.streak.Store(1 << 40)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range int64(count) {
				if _, err := m.Warm([]Range{{i*window + window/2, window / 2}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
