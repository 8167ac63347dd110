package main

import (
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "512": 512, "512b": 512, "4k": 4096, "4K": 4096, "64Ki": 65536, "64kB": 65536, "1m": 1 << 20, "1g": 1 << 30,
		"3G": 3 << 30, "2t": 2 << 40, "1p": 1 << 50, "0x1000": 4096, "-1": -1} {
		if n, err := parseSize(text); err != nil || n != want {
			t.Errorf("%q: %d, %v; want %d", text, n, err, want)
		}
	}
	for text, want := range map[string]string{"": "is not a size", "k": "is not a size", "4x": `unit "x"`, "4kk": `unit "kk"`, "1.5g": "unit", "64KiB": "write 64k",
		"99999999999g": "too large", "4 k": "unit", "-4k": "too large"} {
		if n, err := parseSize(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v; want %q", text, n, err, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]time.Duration{"10": 10 * time.Second, "10s": 10 * time.Second, "500ms": 500 * time.Millisecond, "1m": time.Minute,
		"2h": 2 * time.Hour, "1d": 24 * time.Hour, "7us": 7 * time.Microsecond, "0": 0} {
		if d, err := parseTime(text); err != nil || d != want {
			t.Errorf("%q: %v, %v; want %v", text, d, err, want)
		}
	}
	for _, text := range []string{"", "s", "1x", "-1", "1.5s", "1m30s", "999999999d", "9223372036854775807"} {
		if d, err := parseTime(text); err == nil {
			t.Errorf("%q: %v", text, d)
		}
	}
}

// The texts are what fio 3.33 prints for the same numbers.
func TestShorten(t *testing.T) {
	for _, c := range []struct {
		n      uint64
		width  int
		binary bool
		want   string
	}{
		{0, 4, false, "0"}, {6722, 4, false, "6722"}, {11700, 4, false, "11.7k"}, {12346, 4, false, "12.3k"}, {1234567, 4, false, "1235k"},
		{9999999, 4, false, "10000k"}, {4096, 4, true, "4096"}, {65536, 4, true, "64.0Ki"}, {1 << 20, 4, true, "1024Ki"}, {47815065, 4, true, "45.6Mi"},
		{3 << 30, 4, true, "3072Mi"}, {999999, 6, false, "999999"}, {315532123, 6, false, "315532k"}, {3497512, 6, false, "3497.5k"},
		{1<<64 - 1, 4, true, "16384Pi"},
	} {
		if got := shorten(c.n, c.width, c.binary); got != c.want {
			t.Errorf("shorten(%d, %d, %t) = %s, want %s", c.n, c.width, c.binary, got, c.want)
		}
	}
}
