package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseSize parses a number of bytes as fio does: bare numbers are bytes, k, m, g, t and p (also Ki and kB, in any case) are
// powers of 1024.
func parseSize(s string) (int64, error) {
	digits, unit := splitUnit(s)
	n, err := strconv.ParseInt(digits, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size: a number of bytes, or one with k, m, g, t (powers of 1024), like 64k", s)
	}
	if unit == "" || unit == "b" {
		return n, nil
	}
	power := strings.IndexByte("kmgtp", unit[0]) + 1
	switch rest := unit[1:]; {
	case power > 0 && rest == "ib":
		return 0, fmt.Errorf("%q is ambiguous: fio takes %s for a power of 1000; write %s%c for a power of 1024", s, s[len(digits):], digits, unit[0])
	case power == 0 || rest != "" && rest != "i" && rest != "b":
		return 0, fmt.Errorf("%q is not a size: the unit %q is none of k, m, g, t", s, unit)
	}
	if n<<(10*power)>>(10*power) != n || n < 0 {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n << (10 * power), nil
}

// parseTime parses a duration as fio does: bare numbers are seconds; units are us, ms, s, m, h, d.
func parseTime(s string) (time.Duration, error) {
	digits, unit := splitUnit(s)
	units := map[string]time.Duration{"": time.Second, "us": time.Microsecond, "ms": time.Millisecond, "s": time.Second,
		"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	n, err := strconv.ParseInt(digits, 10, 64)
	u, ok := units[unit]
	if err != nil || !ok || n < 0 {
		return 0, fmt.Errorf("%q is not a time: seconds, or a number with us, ms, s, m, h, d, like 500ms", s)
	}
	if n > int64(1<<63-1)/int64(u) {
		return 0, fmt.Errorf("%q is too long", s)
	}
	return time.Duration(n) * u, nil
}

// splitUnit cuts s before its trailing letters and returns these in lower case.
func splitUnit(s string) (digits, unit string) {
	if len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") {
		return s, ""
	}
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '-' })
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.ToLower(s[i:])
}

// shorten writes n with at most width digits and a prefix, as fio does: 11.7k, 45.6Mi. binary divides by 1024, else by 1000.
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
	if fraction[0] == '1' { // rounded up to the next whole
		return strconv.FormatUint(n+1, 10) + "." + fraction[2:] + prefixes[i]
	}
	return whole + fraction[1:] + prefixes[i]
}

// bytesText is n bytes as fio writes sizes: 15.6MiB.
func bytesText(n int64) string { return shorten(uint64(n), 4, true) + "B" }

// bytesSI is n bytes with powers of 1000: 16.4MB.
func bytesSI(n int64) string { return shorten(uint64(n), 4, false) + "B" }
