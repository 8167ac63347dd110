//go:build invariants

package invariants

import "hash/crc32"

// A Sum is the checksum of bytes that must not change. The zero Sum is that of nothing.
type Sum struct {
	crc uint32
	set bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SumOf returns the Sum of b.
func SumOf(b []byte) Sum { return Sum{crc32.Checksum(b, castagnoli), true} }

// IsSet reports whether s is a Sum of anything.
func (s Sum) IsSet() bool { return s.set }

// Matches reports whether s is the Sum of b.
func (s Sum) Matches(b []byte) bool { return s == SumOf(b) }
