package txn

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/segments/format"
)

// others returns a page with another stripe than page.
func others(page format.PageID) format.PageID {
	other := page + 1
	for stripeOf(other) == stripeOf(page) {
		other++
	}
	return other
}

// Changes of pages that the holder of the token has read wait until it ends, or is lost, and no others. Proves Q7.
func TestTokenHoldsBackChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Fallback
		passed := func(page format.PageID, own *Token) time.Duration {
			start := time.Now()
			f.Pass(page, own)
			return time.Since(start)
		}
		const page = format.PageID(7)
		if d := passed(page, nil); d != 0 {
			t.Errorf("without a token a change waits for %v", d)
		}
		token := f.Take(t.Context())
		if d := passed(page, nil); d != 0 {
			t.Errorf("a change of a page that was not read waits for %v", d)
		}
		token.Add(page)
		if d := passed(page, token); d != 0 {
			t.Errorf("a change of the owner waits for %v", d)
		}
		if d := passed(others(page), nil); d != 0 {
			t.Errorf("a change of another page waits for %v", d)
		}
		if token.IsLost() {
			t.Error("the token is lost at once")
		}
		if d := passed(page, nil); d != TokenTime {
			t.Errorf("a change waits for %v, want %v", d, TokenTime)
		}
		if d := passed(page, nil); d != 0 || !token.IsLost() {
			t.Errorf("a change waits for %v for a token that is lost", d)
		}
		next := f.Take(t.Context()) // although the other one has not ended
		next.Add(page)
		token.End() // which does not end the next
		if d := passed(page, token); d != TokenTime {
			t.Errorf("a change of one that has lost the token waits for %v, want %v", d, TokenTime)
		}
		next.End()
		third := f.Take(t.Context())
		third.Add(page)
		go func() {
			time.Sleep(TokenTime / 2)
			third.End()
		}()
		if d := passed(page, nil); d != TokenTime/2 {
			t.Errorf("a change waits for %v, and the token ended after %v", d, TokenTime/2)
		}
	})
}

// One transaction at a time holds the token. Others get it when it ends, or is lost, or give up with their context.
func TestTokenIsTakenInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Fallback
		const many = 50
		taken := make(chan *Token)
		for range many {
			go func() { taken <- f.Take(t.Context()) }()
		}
		for i := range many {
			token := <-taken
			synctest.Wait()
			select {
			case <-taken:
				t.Fatal("two hold the token at once")
			default:
			}
			if i%2 == 0 {
				token.End()
			} // else it is lost
		}
		ctx, cancel := context.WithTimeout(t.Context(), TokenTime/2)
		defer cancel()
		start := time.Now()
		if token := f.Take(ctx); token != nil || time.Since(start) != TokenTime/2 {
			t.Errorf("a wait for the token ends after %v with %v", time.Since(start), token)
		}
	})
}

// A transaction takes the token after eight conflicts, waits no more while it holds it, and takes it again when it is
// lost.
func TestBackoffTakesTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Fallback
		b := Backoff{Fallback: &f}
		wait := func() {
			t.Helper()
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 7 {
			wait()
			if b.Token() != nil {
				t.Errorf("the token is taken after %d conflicts", b.Conflicts())
			}
		}
		wait()
		token := b.Token()
		if token == nil {
			t.Fatal("the token is not taken")
		}
		start := time.Now()
		wait()
		if time.Since(start) != 0 || b.Token() != token {
			t.Errorf("with the token an attempt waits for %v", time.Since(start))
		}
		time.Sleep(TokenTime)
		wait()
		if b.Token() == token || b.Token() == nil {
			t.Error("a token that was lost is not taken again")
		}
		b.End()
		if b.Token() != nil || f.token.Load() != nil {
			t.Error("the token is not given back")
		}
		none := Backoff{}
		for range 20 {
			if err := none.Wait(t.Context()); err != nil || none.Token() != nil {
				t.Fatal("a token without a fallback")
			}
		}
	})
}
