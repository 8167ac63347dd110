// Package statspage serves pictures of a store that is in use: amplification, resident bytes, hit ratio, cleaning and
// snapshots over the last minutes, in a web page that shows newer values each interval.
//
//	page := statspage.New(pc.Stats, nil) // pc is a PageCache or a Log
//	defer page.Close()                   // before the store is closed
//	http.Handle("/debug/pagecache", page)
//
// A page only reads: it calls Stats at an interval, and answers GET and HEAD. It does not restrict who may see it;
// ListenAndServe listens on 127.0.0.1 unless it is given another host.
//
// The pictures need net/http and html/template of the standard library, and nothing else. They are in a package of
// their own, so that a program that imports only package engine does not contain them.
package statspage

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"pagecache/engine"
	"pagecache/internal/htmlpage"
)

// Options are the settings of a Page. Each zero value stands for the default in brackets.
type Options struct {
	Title string        // of the page [the store's directory]
	Every time.Duration // interval of the samples [1 s]
	Keep  int           // number of samples kept, the newest ones [1800]
}

// The defaults of Options.
const (
	defaultEvery = time.Second
	defaultKeep  = 1800
)

// Page samples a store's statistics, and is an http.Handler that shows them. Safe for concurrent use.
type Page struct {
	opts  Options
	stats func() engine.Stats
	live  *htmlpage.Live
	stop  chan struct{}
	once  sync.Once
	done  chan struct{}

	mu      sync.Mutex // protects the fields below
	started time.Time
	last    engine.Stats
	at      time.Time         // when last was taken
	samples []htmlpage.Sample // at most opts.Keep; their elements do not change
}

var _ http.Handler = (*Page)(nil)

// New begins to sample stats, in a goroutine that ends with Close. opts may be nil. stats is called by one goroutine at
// a time; the method Stats of a PageCache or a Log is such a function.
func New(stats func() engine.Stats, opts *Options) *Page {
	p := &Page{stats: stats, stop: make(chan struct{}), done: make(chan struct{})}
	if opts != nil {
		p.opts = *opts
	}
	if p.opts.Every <= 0 {
		p.opts.Every = defaultEvery
	}
	if p.opts.Keep <= 0 {
		p.opts.Keep = defaultKeep
	}
	p.live = htmlpage.NewLive(p.report, p.opts.Every)
	p.last, p.started = stats(), time.Now()
	p.at = p.started
	go p.run()
	return p
}

// run takes samples until Close.
func (p *Page) run() {
	defer close(p.done)
	tick := time.NewTicker(p.opts.Every)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.sample()
		}
	}
}

// sample adds a sample of the time since the last one.
func (p *Page) sample() {
	now, at := p.stats(), time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := htmlpage.Sample{Seconds: at.Sub(p.started).Seconds(),
		Store: htmlpage.NewStore(&p.last, &now, at.Sub(p.at).Seconds())}
	// Reports share the elements, so the oldest is left behind and not overwritten.
	if p.samples = append(p.samples, s); len(p.samples) > p.opts.Keep {
		p.samples = p.samples[len(p.samples)-p.opts.Keep:]
	}
	p.last, p.at = now, at
}

// report returns the report of the samples so far.
func (p *Page) report() *htmlpage.Report {
	p.mu.Lock()
	samples, s, started, at := slices.Clip(p.samples), p.last, p.started, p.at
	p.mu.Unlock()
	title := p.opts.Title
	if title == "" {
		title = s.Dir
	}
	return &htmlpage.Report{Title: title, Started: started, Facts: htmlpage.StoreFacts(&s),
		Runs: []htmlpage.Run{{Figures: htmlpage.StoreFigures(&s, at.Sub(started)), Samples: samples}}}
}

// ServeHTTP answers a request: the page, or with ?part=data its values as JSON.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.live.ServeHTTP(w, r) }

// Close ends the sampling. It returns once no call of stats is under way, so that the store can be closed then. The
// page can still be read. Close may be called more than once.
func (p *Page) Close() {
	p.once.Do(func() { close(p.stop) })
	<-p.done
}

// ListenAndServe serves the page on addr, host:port, until ctx ends; then it returns nil. Without a host it listens on
// 127.0.0.1. On a loopback address, it refuses requests for any host but localhost, so that pages of other sites cannot
// read it.
func (p *Page) ListenAndServe(ctx context.Context, addr string) error {
	l, err := htmlpage.Listen(addr)
	if err != nil {
		return err
	}
	return htmlpage.Serve(ctx, l, p)
}
