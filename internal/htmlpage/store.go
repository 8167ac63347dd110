package htmlpage

import (
	"fmt"
	"math"
	"time"

	"pagecache/engine"
)

// NewStore returns the work of a store between two Stats that were taken the given time in seconds apart.
func NewStore(before, after *engine.Stats, seconds float64) *Store {
	s := &Store{
		WriteAmplification: math.NaN(), SpaceAmplification: math.NaN(), HitRatio: math.NaN(),
		HeapResident: float64(after.Cache.HeapResident), SlabResident: float64(after.Cache.SlabResident),
		MappedResident: float64(after.Cache.MappedResident),
		Capacity:       float64(after.Cache.Policy.Capacity),
		Written:        perSecond(after.Log.BytesWritten-before.Log.BytesWritten, seconds),
		Moved:          perSecond(after.Space.BytesMoved-before.Space.BytesMoved, seconds),
		Cleaned:        perSecond(after.Space.Cleaned-before.Space.Cleaned, seconds),
		Recycled:       perSecond(after.Space.Recycled-before.Space.Recycled, seconds),
		Snapshots:      float64(after.Snapshots - before.Snapshots), SinceSnapshot: float64(after.Snapshot.Since),
	}
	if given := after.Log.BytesGiven - before.Log.BytesGiven; given > 0 {
		s.WriteAmplification = float64(after.Log.BytesWritten-before.Log.BytesWritten) / float64(given)
	}
	if after.Space.Amplification > 0 {
		s.SpaceAmplification = after.Space.Amplification
	}
	hits, misses := after.Cache.Hits-before.Cache.Hits, after.Cache.Misses-before.Cache.Misses
	if hits+misses > 0 {
		s.HitRatio = float64(hits) / float64(hits+misses)
	}
	return s
}

// perSecond returns n for each of seconds, or 0 if no time has passed.
func perSecond(n int64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

// StoreFacts returns the facts of a store that do not change while it is open.
func StoreFacts(s *engine.Stats) []Fact {
	return []Fact{{"directory", s.Dir}, {"device", s.Log.Device}, {"opened", fmt.Sprintf("%d times", s.Generation)}}
}

// StoreFigures returns the state of a store in short, after it has been watched for a time.
func StoreFigures(s *engine.Stats, watched time.Duration) []Fact {
	figures := []Fact{
		{"watched for", watched.Round(time.Second).String()},
		{"pages", number(float64(s.Pages.InUse))},
		{"resident", unitBytes.text(float64(s.Cache.HeapResident + s.Cache.SlabResident + s.Cache.MappedResident))},
		{"live on disk", unitBytes.text(float64(s.Space.LiveBytes + s.Space.BlobBytes))},
		{"segments in use", fmt.Sprintf("%d of %d", s.Space.SegmentsInUse, s.Space.Segments)},
		{"open Txs", fmt.Sprint(s.Txs.Open)},
	}
	if s.Log.WriteAmplification > 0 {
		figures = append(figures, Fact{"write amplification", digits(s.Log.WriteAmplification)})
	}
	if s.Space.Amplification > 0 {
		figures = append(figures, Fact{"space amplification", digits(s.Space.Amplification)})
	}
	return figures
}
