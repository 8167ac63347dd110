package txn

import (
	"context"
	"sync/atomic"
	"time"

	"pagecache/segments/format"
)

// Fallback lets a transaction win that has lost many times: while it holds the token, changes by others of the pages
// that it reads wait. Nobody waits for longer than TokenTime, after which the token is lost, wherever its owner is. The
// zero Fallback is ready for use. It must not be copied. Safe for concurrent use.
type Fallback struct {
	// token is the one in force, or one that is lost; nil if there is none. Its writers are Take and End. The swap
	// publishes the token. A stale token has ended, so that nobody waits for it; a stale nil lets one more change pass.
	token atomic.Pointer[Token]
}

// TokenTime is the time after which a token is lost.
const TokenTime = 10 * time.Millisecond

// Token is held by one transaction, over several attempts. It belongs to the goroutine of the transaction, except for
// what goroutines do that wait.
type Token struct {
	of    *Fallback
	lost  time.Time     // when it is
	ended chan struct{} // closed by End
	// pages has a bit for each stripe with pages that were read. Written by Add; bits are only set. *Edge: Add sets the
	// bit, then the owner loads the page's head; another goroutine looks at the bit, then changes the page.* So each of
	// them, at most once in the time of a token, changes a page that is read meanwhile. A stale word does the same.
	pages [stripeCount / 64]atomic.Uint64
}

// Take takes the token, and waits while another transaction holds it. It returns nil if ctx ends meanwhile.
func (f *Fallback) Take(ctx context.Context) *Token {
	for { // ends: each turn but the last means that another transaction holds the token, for TokenTime at most
		old := f.token.Load()
		if old == nil || old.IsLost() {
			t := &Token{of: f, lost: time.Now().Add(TokenTime), ended: make(chan struct{})}
			if f.token.CompareAndSwap(old, t) {
				return t
			}
			continue
		}
		if old.wait(ctx.Done()); ctx.Err() != nil {
			return nil
		}
	}
}

// Pass waits if another transaction than the owner of the token own, which may be nil, holds the token and has read the
// page, which the caller is about to change. It does not wait for the next token.
func (f *Fallback) Pass(page format.PageID, own *Token) {
	if t := f.token.Load(); t != nil && t != own {
		t.pass(page)
	}
}

func (t *Token) pass(page format.PageID) {
	n := stripeOf(page)
	if t.pages[n/64].Load()&(1<<(n%64)) != 0 {
		t.wait(nil)
	}
}

// wait waits until the token has ended or is lost, or cancel is closed.
func (t *Token) wait(cancel <-chan struct{}) {
	left := time.Until(t.lost)
	if left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-t.ended:
	case <-cancel:
	case <-timer.C:
	}
}

// Add makes changes of a page by others wait. It precedes the reading of the page. t may be nil.
func (t *Token) Add(page format.PageID) {
	if t != nil {
		n := stripeOf(page)
		t.pages[n/64].Or(1 << (n % 64))
	}
}

// IsLost reports whether the time of the token is over.
func (t *Token) IsLost() bool { return !time.Now().Before(t.lost) }

// End gives the token back, and wakes those that wait. t may be nil.
func (t *Token) End() {
	if t != nil {
		t.of.token.CompareAndSwap(t, nil)
		close(t.ended)
	}
}
