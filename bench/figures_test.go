package bench

import (
	"testing"
	"time"
)

func TestNumber(t *testing.T) {
	for want, v := range map[string]float64{"1 795 000": 1_795_000, "2629": 2629, "538": 538.4, "13": 13.01,
		"25.1": 25.14, "0.42": 0.42, "2": 2.001, "0": 0, "0.00123": 0.001234567} {
		if got := Number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	for want, v := range map[float64][]float64{0: nil, 2: {3, 1, 2}, 2.5: {4, 1, 2, 3}} {
		if got := Median(v); got != want {
			t.Errorf("%v: %v, want %v", v, got, want)
		}
	}
}

func TestBusy(t *testing.T) {
	if b := Busy(10 * time.Millisecond); b < 0 || b > 1 {
		t.Errorf("%v of the machine is busy", b)
	}
}
