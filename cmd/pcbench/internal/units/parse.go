package units

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseSize parses a number of bytes as fio does with its default kb_base=1024. Numbers without a unit, decimal or
// 0x…, are bytes. The units k, m, g, t and p, alone or followed by b or i, are powers of 1024; followed by ib, they are
// powers of 1000. Upper and lower case are equal. A number with a unit may have decimals: 1.5g.
func ParseSize(s string) (int64, error) {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		n, err := strconv.ParseUint(hex, 16, 63)
		if err != nil {
			return 0, fmt.Errorf("%q is not a size: want up to 16 hexadecimal digits and no unit after 0x", s)
		}
		return int64(n), nil
	}
	digits, unit := splitUnit(s)
	switch {
	case strings.HasPrefix(unit, "%"):
		return 0, fmt.Errorf("%q is not a size: percents are not supported here; want bytes, like 64k", s)
	case strings.ContainsAny(unit, ",-:/"):
		return 0, fmt.Errorf("%q is not a size: want one only, like 64k", s)
	}
	mult, ok := multiplier(unit)
	if !ok {
		return 0, fmt.Errorf("%q is not a size: unknown unit %q; want k, m, g or t", s, unit)
	}
	n, err := scale(digits, mult)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%q is too large", s)
	case err != nil:
		return 0, fmt.Errorf("%q is not a size: want bytes, or a number with k, m, g, t (powers of 1024), like 64k", s)
	}
	return n, nil
}

// multiplier returns the number of bytes of a unit in lower case.
func multiplier(unit string) (int64, bool) {
	if unit == "" || unit == "b" {
		return 1, true
	}
	power, base := strings.IndexByte("kmgtp", unit[0])+1, int64(1024)
	if rest := unit[1:]; rest == "ib" {
		base = 1000
	} else if rest != "" && rest != "i" && rest != "b" {
		power = 0
	}
	if power == 0 {
		return 0, false
	}
	mult := int64(1)
	for range power {
		mult *= base
	}
	return mult, true
}

// scale returns digits times mult, rounded down. Its error wraps strconv.ErrRange or strconv.ErrSyntax.
func scale(digits string, mult int64) (int64, error) {
	whole, fraction, decimal := strings.Cut(digits, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64/mult || n < -math.MaxInt64/mult {
		return 0, strconv.ErrRange
	}
	if n *= mult; !decimal {
		return n, nil
	}
	f, err := strconv.ParseFloat("0."+fraction, 64)
	if err != nil || strings.ContainsAny(fraction, "eE+-xX_") || fraction == "" {
		return 0, strconv.ErrSyntax
	}
	part := int64(f * float64(mult))
	if strings.HasPrefix(whole, "-") {
		part = -part
	}
	return n + part, nil
}

var timeUnits = map[string]time.Duration{"us": time.Microsecond, "usec": time.Microsecond,
	"ms": time.Millisecond, "msec": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour,
	"d": 24 * time.Hour}

// ParseTime parses a duration as fio does. A number without a unit counts whole units of unit. The units are us (or
// usec), ms (or msec), s, m, h and d, in any case. Several parts are added: 1m30s. A part may have decimals: 1.5s.
func ParseTime(s string, unit time.Duration) (time.Duration, error) {
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("%q is negative: must be 0 or more, like 500ms", s)
	}
	bad := fmt.Errorf("%q is not a time: want a number with us, ms, s, m, h, d, like 500ms or 1m30s", s)
	rest, sum := strings.ToLower(s), int64(0)
	if rest == "" {
		return 0, bad
	}
	for parts := 0; rest != ""; parts++ {
		digits, after := splitUnit(rest)
		end := strings.IndexAny(after, "0123456789")
		if end < 0 {
			end = len(after)
		}
		u, ok := timeUnits[after[:end]]
		if after == "" && parts == 0 {
			u, ok = unit, true
		}
		if !ok {
			return 0, bad
		}
		n, err := scale(digits, int64(u))
		if errors.Is(err, strconv.ErrRange) || err == nil && n > int64(longestTime)-sum {
			return 0, fmt.Errorf("%q is too long", s)
		}
		if err != nil {
			return 0, bad
		}
		sum, rest = sum+n, after[end:]
	}
	return time.Duration(sum), nil
}

// longestTime is the limit of ParseTime: the sum of two durations does not overflow.
const longestTime = time.Duration(1 << 61)

// splitUnit splits s after its digits and decimals. It returns the rest in lower case.
func splitUnit(s string) (digits, unit string) {
	for i, r := range s {
		if (r < '0' || r > '9') && r != '.' && (r != '-' || i > 0) {
			return s[:i], strings.ToLower(s[i:])
		}
	}
	return s, ""
}
