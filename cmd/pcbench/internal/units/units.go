// Package units reads and writes sizes and times as fio does.
package units

import "strconv"

// Base is the base of the prefixes of Shorten.
type Base int

// The bases.
const (
	Decimal Base = 1000 // k, M, G
	Binary  Base = 1024 // Ki, Mi, Gi
)

// Shorten formats n with at most width digits and a prefix, as fio does: 11.7k, 45.6Mi.
func Shorten(n uint64, width int, base Base) string {
	prefixes, thousand := []string{"", "k", "M", "G", "T", "P"}, uint64(base)
	if base == Binary {
		prefixes = []string{"", "Ki", "Mi", "Gi", "Ti", "Pi"}
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

// Bytes formats n bytes as fio does: 15.6MiB.
func Bytes(n int64) string { return Shorten(uint64(n), 4, Binary) + "B" }

// BytesSI formats n bytes with powers of 1000: 16.4MB.
func BytesSI(n int64) string { return Shorten(uint64(n), 4, Decimal) + "B" }
