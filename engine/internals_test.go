package engine_test

import (
	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
)

func init() {
	enginetest.Internals.EndBatch = engine.EndBatch
	enginetest.Internals.RootPage = engine.RootPage
	enginetest.Internals.NewestLSN = engine.NewestLSN
	enginetest.Internals.Unnoted = engine.Unnoted
	enginetest.Internals.SegmentSize = func(pc *engine.PageCache[[]byte]) int {
		return engine.StoreOf(pc).SegmentSize()
	}
}
