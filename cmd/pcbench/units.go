package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseSize parses a number of bytes as fio does with its default kb_base=1024. Numbers without a unit, decimal or
// 0x…, are bytes. The units k, m, g, t and p, alone or followed by b or i, are powers of 1024; followed by ib, they
// are powers of 1000. Upper and lower case are equal.
func parseSize(s string) (int64, error) {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		n, err := strconv.ParseUint(hex, 16, 63)
		if err != nil {
			return 0, fmt.Errorf("%q is not a size: want up to 16 hexadecimal digits and no unit after 0x", s)
		}
		return int64(n), nil
	}
	digits, unit := splitUnit(s)
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%q is too large", s)
	case err != nil:
		return 0, fmt.Errorf("%q is not a size: want bytes, or a number with k, m, g, t (powers of 1024), like 64k", s)
	case unit == "" || unit == "b":
		return n, nil
	case unit[0] == '%':
		return 0, fmt.Errorf("%q is not a size: percents are not supported; want bytes, like 64k", s)
	case strings.ContainsAny(unit, ",-:"):
		return 0, fmt.Errorf("%q is not a size: want one only, for reads, writes and all pages, like 64k", s)
	case unit[0] == '.':
		return 0, fmt.Errorf("%q is not a size: want a whole number, like 1536m for 1.5g", s)
	}
	power, thousand := strings.IndexByte("kmgtp", unit[0])+1, int64(1024)
	if rest := unit[1:]; rest == "ib" {
		thousand = 1000
	} else if rest != "" && rest != "i" && rest != "b" {
		power = 0
	}
	if power == 0 {
		return 0, fmt.Errorf("%q is not a size: unknown unit %q; want k, m, g or t", s, unit)
	}
	for range power {
		if n > math.MaxInt64/thousand || n < -math.MaxInt64/thousand {
			return 0, fmt.Errorf("%q is too large", s)
		}
		n *= thousand
	}
	return n, nil
}

var timeUnits = map[string]time.Duration{"": time.Second, "us": time.Microsecond, "usec": time.Microsecond,
	"ms": time.Millisecond, "msec": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour,
	"d": 24 * time.Hour}

// parseTime parses a duration as fio does. Numbers without a unit are seconds. The units are us (or usec), ms (or
// msec), s, m, h and d, in any case.
func parseTime(s string) (time.Duration, error) {
	digits, unit := splitUnit(s)
	n, err := strconv.ParseInt(digits, 10, 64)
	u, ok := timeUnits[unit]
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%q is too long", s)
	case err != nil || !ok:
		return 0, fmt.Errorf("%q is not a time: want seconds, or a whole number with us, ms, s, m, h, d, like 500ms", s)
	case n < 0:
		return 0, fmt.Errorf("%q is negative: must be 0 or more, like 500ms", s)
	case n > int64(longestTime/u):
		return 0, fmt.Errorf("%q is too long", s)
	}
	return time.Duration(n) * u, nil
}

// longestTime is the limit of parseTime: the sum of two durations does not overflow.
const longestTime = time.Duration(1 << 61)

// splitUnit splits s after its digits. It returns the rest in lower case.
func splitUnit(s string) (digits, unit string) {
	for i, r := range s {
		if (r < '0' || r > '9') && (r != '-' || i > 0) {
			return s[:i], strings.ToLower(s[i:])
		}
	}
	return s, ""
}

// Bases of the prefixes of shorten.
const (
	prefixDecimal = false // powers of 1000: k, M, G
	prefixBinary  = true  // powers of 1024: Ki, Mi, Gi
)

// shorten formats n with at most width digits and a prefix, as fio does: 11.7k, 45.6Mi.
func shorten(n uint64, width int, binary bool) string {
	prefixes, thousand := []string{"", "k", "M", "G", "T", "P"}, uint64(1000)
	if binary {
		prefixes, thousand = []string{"", "Ki", "Mi", "Gi", "Ti", "Pi"}, 1024
	}
	var rest uint64
	i := 0
	for ; i < len(prefixes)-1 && len(strconv.FormatUint(n, 10)) > width; i++ {
		n, rest = n/thousand, n%thousand
	}
	whole := strconv.FormatUint(n, 10)
	if i == 0 {
		return whole
	}
	decimals := width - len(whole) - 1
	if decimals <= 0 {
		if rest >= thousand/2 {
			n++
		}
		return strconv.FormatUint(n, 10) + prefixes[i]
	}
	fraction := strconv.FormatFloat(float64(rest)/float64(thousand), 'f', decimals, 64)
	if fraction[0] == '1' { // rounded up to the next whole number
		return strconv.FormatUint(n+1, 10) + "." + fraction[2:] + prefixes[i]
	}
	return whole + fraction[1:] + prefixes[i]
}

// bytesText formats n bytes as fio does: 15.6MiB.
func bytesText(n int64) string { return shorten(uint64(n), 4, prefixBinary) + "B" }

// bytesSI formats n bytes with powers of 1000: 16.4MB.
func bytesSI(n int64) string { return shorten(uint64(n), 4, prefixDecimal) + "B" }
