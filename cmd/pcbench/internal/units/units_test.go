package units

import (
	"strings"
	"testing"
	"time"
)

// The numbers are those that fio 3.33 uses for the same texts in --bs, --size and --io_size.
func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "512": 512, "512b": 512, "4096B": 4096, "010": 10, "0x1000": 4096, "0X1f": 31, "-1": -1, "-4k": -4096,
		"4k": 4096, "4K": 4096, "4kb": 4096, "4KB": 4096, "4kB": 4096, "4ki": 4096, "4Ki": 4096, "4kib": 4000,
		"4KiB": 4000, "64KiB": 64000,
		"1m": 1 << 20, "1M": 1 << 20, "1mb": 1 << 20, "1MB": 1 << 20, "1mi": 1 << 20, "1mib": 1e6, "1MiB": 1e6,
		"3g": 3 << 30, "3G": 3 << 30, "3gb": 3 << 30, "3Gi": 3 << 30, "3GiB": 3e9,
		"1.5g": 3 << 29, "1.5k": 1536, "0.5m": 1 << 19, "-1.5k": -1536, "1.5kib": 1500, "1.9": 1,
		"2t": 2 << 40, "2T": 2 << 40, "2tb": 2 << 40, "2Ti": 2 << 40, "2tib": 2e12, "1p": 1 << 50, "1pib": 1e15,
		"9223372036854775807": 1<<63 - 1,
	} {
		if n, err := ParseSize(text); err != nil || n != want {
			t.Errorf("%q: %d, %v; want %d", text, n, err, want)
		}
	}
	// fio accepts the beginning of some of these; pcbench does not.
	for text, want := range map[string]string{
		"": "is not a size", "k": "is not a size", "-": "is not a size", "+4k": "is not a size",
		" 4k": "is not a size", "1_000": "unit",
		"4x": `unit "x"`, "4kk": `unit "kk"`, "4 k": `unit " k"`, "1k1": "unit", "1kibx": "unit", "1e3": "unit",
		"4bb": "unit", "4ib": "unit",
		"1.5.2g": "is not a size", "1.g": "is not a size", "50%": "percents", "4k,8k": "one only", "4,8": "one only",
		"4k-8k": "one only",
		"4k:8k": "one only",
		"0x":    "hexadecimal", "0x1k": "no unit", "0x-1": "hexadecimal", "0xffffffffffffffff": "hexadecimal",
		"99999999999g": "too large", "-99999999999g": "too large", "9223372036854775808": "too large",
		"9223372036854775807k": "too large",
	} {
		if n, err := ParseSize(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v; want %q", text, n, err, want)
		}
	}
}

// The times are those that fio 3.33 runs for the same texts.
func TestParseTime(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "10": 10 * time.Second, "10s": 10 * time.Second, "1S": time.Second, "500ms": 500 * time.Millisecond,
		"100MS":   100 * time.Millisecond,
		"100msec": 100 * time.Millisecond, "7us": 7 * time.Microsecond, "100000usec": 100 * time.Millisecond,
		"1m": time.Minute, "1M": time.Minute, "2h": 2 * time.Hour, "2H": 2 * time.Hour, "1d": 24 * time.Hour,
		"1.5": 1500 * time.Millisecond, "1m30s": 90 * time.Second, "0.5m": 30 * time.Second,
		"1h1m1s1ms1us": time.Hour + time.Minute + time.Second + time.Millisecond + time.Microsecond,
	} {
		if d, err := ParseTime(text, time.Second); err != nil || d != want {
			t.Errorf("%q: %v, %v; want %v", text, d, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "is not a time", "s": "is not a time", "1x": "is not a time", "1.5.2s": "is not a time",
		"1m30": "is not a time",
		"1sec": "is not a time",
		"1min": "is not a time", "1ms5": "is not a time", "-1": "0 or more", "-5ms": "0 or more",
		"999999999d":          "too long",
		"9223372036854775807": "too long", "9223372036854775808": "too long",
	} {
		if d, err := ParseTime(text, time.Second); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", text, d, err, want)
		}
	}
}

// The texts are those that fio 3.33 prints for the same numbers.
func TestShorten(t *testing.T) {
	for _, c := range []struct {
		n     uint64
		width int
		base  Base
		want  string
	}{
		{0, 4, Decimal, "0"}, {6722, 4, Decimal, "6722"}, {11700, 4, Decimal, "11.7k"}, {12346, 4, Decimal, "12.3k"},
		{1234567, 4, Decimal, "1235k"},
		{9999999, 4, Decimal, "10000k"}, {4096, 4, Binary, "4096"}, {65536, 4, Binary, "64.0Ki"},
		{1 << 20, 4, Binary, "1024Ki"},
		{47815065, 4, Binary, "45.6Mi"},
		{3 << 30, 4, Binary, "3072Mi"}, {999999, 6, Decimal, "999999"}, {315532123, 6, Decimal, "315532k"},
		{3497512, 6, Decimal, "3497.5k"},
		{1<<64 - 1, 4, Binary, "16384Pi"},
	} {
		if got := Shorten(c.n, c.width, c.base); got != c.want {
			t.Errorf("Shorten(%d, %d, %d) = %s, want %s", c.n, c.width, c.base, got, c.want)
		}
	}
}

// A time without a unit counts in the unit of its option.
func TestParseTimeUnit(t *testing.T) {
	if d, err := ParseTime("50", time.Microsecond); err != nil || d != 50*time.Microsecond {
		t.Errorf("%v, %v", d, err)
	}
}
