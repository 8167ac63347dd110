package snapshot

import (
	"context"

	"pagecache/recovery"
)

// The methods below are for tests of the engine. No other code calls them.

// Pause waits for the snapshot being written and lets none begin until resume is called.
func (s *Store) Pause() (resume func()) {
	s.writing <- struct{}{}
	return func() { <-s.writing }
}

// BeforeScan makes each scan of the log for corrupt blocks call f first, and fail with its error. To be called before a
// page is looked up.
func (s *Store) BeforeScan(f func(context.Context) error) {
	s.repair.pages = delayed{s.repair.pages, f}
}

type delayed struct {
	Pages
	before func(context.Context) error
}

// Rebuild implements Pages.
func (d delayed) Rebuild(ctx context.Context, numbers []int64) ([]*recovery.Block, error) {
	if err := d.before(ctx); err != nil {
		return nil, err
	}
	return d.Pages.Rebuild(ctx, numbers)
}
