package engine_test

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/osfs"
)

// Validate accepts the ends of each range, and every value of a field without a limit. Nil options are the defaults.
func TestValidateAcceptsRangeEnds(t *testing.T) {
	for _, o := range []*engine.Options{
		nil, {}, {SegmentSize: 16 << 10}, {SegmentSize: 20 << 10}, {SegmentSize: 16 << 20},
		{IOBuffers: 2}, {IOBuffers: 32},
		{CacheCapacity: 1}, {CacheCapacity: math.MaxInt64}, {ConsolidateAfter: 1}, {ConsolidateAfter: 1 << 20},
		{EvictionWrites: math.MinInt}, {EvictionWrites: 1000},
		{FlushEvery: 1}, {FlushEvery: math.MaxInt64}, {FlushEvery: math.MinInt64}, {SnapshotEvery: 1},
		{SnapshotEvery: math.MaxInt},
		{CleanupThreshold: 0.01}, {CleanupThreshold: 1}, {CleanupSkew: 1}, {CleanupSkew: 98},
		{SegmentMode: engine.SegmentModeLinear},
		{CompressionLevel: 1}, {CompressionLevel: 22},
		{IDPersistInterval: 1}, {IDPersistInterval: 1 << 32}, {IO: engine.IOUring}, {IO: engine.IOSyscall},
		{Direct: engine.DirectOn}, {Direct: engine.DirectOff},
	} {
		if err := o.Validate(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// If one value is bad, the error of Validate names its field and the value, and no other field. If many are bad, the
// error names all their fields.
func TestValidateNamesBadFields(t *testing.T) {
	var all engine.Options
	names := map[string]bool{}
	for _, c := range []struct {
		field string
		value any
	}{
		{"SegmentSize", -4096}, {"SegmentSize", 1}, {"SegmentSize", 12 << 10}, {"SegmentSize", 16<<20 + 4096},
		{"SegmentSize", 18 << 10}, {"IOBuffers", -2}, {"CacheCapacity", int64(math.MinInt64)},
		{"ConsolidateAfter", math.MinInt}, {"EvictionWrites", 1001},
		{"SnapshotEvery", -1},
		{"CleanupThreshold", 0.001}, {"CleanupThreshold", math.Inf(1)}, {"CleanupThreshold", math.NaN()},
		{"CleanupSkew", -1}, {"SegmentMode", engine.SegmentMode(-1)}, {"Compression", engine.Compression(-1)},
		{"CompressionLevel", -1},
		{"IDPersistInterval", uint64(1<<32 + 1)}, {"IO", engine.IO(-1)}, {"Direct", engine.Direct(3)},
	} {
		var o engine.Options
		for _, o := range []*engine.Options{&o, &all} {
			reflect.ValueOf(o).Elem().FieldByName(c.field).Set(reflect.ValueOf(c.value))
		}
		names[c.field] = true
		err := o.Validate()
		shown := c.value
		if v := reflect.ValueOf(c.value); v.CanInt() { // the number of an enumeration's value, not its name
			shown = v.Int()
		}
		want := fmt.Sprintf("bad options: %s %v: want ", c.field, shown)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %v: error %v, want one line that begins with %q", c.field, c.value, err, want)
		}
	}
	err := all.Validate()
	for name := range names {
		if err == nil || !strings.Contains(err.Error(), name+" ") {
			t.Errorf("the error does not name the bad field %s: %v", name, err)
		}
	}
}

// String of every exported enumeration gives each known value a name of its own, and each unknown value a text with the
// type and the number. It never panics.
func TestEnumStrings(t *testing.T) {
	type enum struct {
		name  string
		known int // values 0 … known-1
		text  func(i int) string
	}
	for _, e := range []enum{
		{"SegmentMode", 2, func(i int) string { return engine.SegmentMode(i).String() }},
		{"Compression", 2, func(i int) string { return engine.Compression(i).String() }},
		{"IO", 3, func(i int) string { return engine.IO(i).String() }},
		{"Direct", 3, func(i int) string { return engine.Direct(i).String() }},
		{"PageKind", 7, func(i int) string { return engine.PageKind(i).String() }},
	} {
		seen := map[string]bool{}
		for i := range e.known {
			s := e.text(i)
			if s == "" || strings.Contains(s, "(") || seen[s] {
				t.Errorf("%s %d is %q, want a name of its own", e.name, i, s)
			}
			seen[s] = true
		}
		unknown := []int{e.known, 100, math.MaxUint8}
		if e.name != "PageKind" { // which has no sign
			unknown = append(unknown, -1, math.MaxInt, math.MinInt)
		}
		for _, i := range unknown {
			if s, want := e.text(i), fmt.Sprintf("%s(%d)", e.name, i); s != want {
				t.Errorf("%s %d is %q, want %q", e.name, i, s, want)
			}
		}
	}
}

// The default capacity is at most a quarter of the memory, and Stats show it.
func TestDefaultCacheCapacity(t *testing.T) {
	for memory, want := range map[int64]int64{
		0: 1 << 30, 1: 1, 1 << 20: 1 << 18, 1<<30 + 4: 1<<28 + 1, 1 << 32: 1 << 30, math.MaxInt64: 1 << 30,
	} {
		if got := engine.CapacityFor(memory); got != want {
			t.Errorf("memory of %d bytes: capacity %d, want %d", memory, got, want)
		}
	}
	pc := enginetest.Open(t, t.TempDir(), &engine.Options{SegmentSize: 16 << 10, IOBuffers: 2})
	want := engine.CapacityFor(osfs.MemoryLimit())
	if got := pc.Stats().Cache.Capacity; got != want {
		t.Errorf("capacity %d by default, want %d", got, want)
	}
	if err := pc.SetCacheCapacity(12345); err != nil || pc.Stats().Cache.Capacity != 12345 {
		t.Errorf("capacity %d after SetCacheCapacity(12345), %v", pc.Stats().Cache.Capacity, err)
	}
}
