package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/load"
	"pagecache/cmd/pcbench/internal/report"
	"pagecache/internal/htmlpage"
	"pagecache/internal/machine"
)

// pictures makes the page of a run: at its end for --html, and at any time for --live. A nil pictures makes none.
type pictures struct {
	run  *job.Run
	jobs []*job.Spec
	html *output // nil: none

	server net.Listener // nil: none
	stop   func()       // ends the server
	served chan error

	mu     sync.Mutex // guards the fields below, which requests read
	facts  []htmlpage.Fact
	runner *load.Runner
	table  func() *htmlpage.Comparison // nil: no comparison
}

// newPictures prepares the pages that a run asks for, before anything else begins: it makes the file, and listens. It
// returns nil if the run asks for none.
func newPictures(p *job.Parsed) (*pictures, error) {
	if p.Run.HTML == "" && p.Run.Live == "" {
		return nil, nil
	}
	x := &pictures{run: &p.Run, jobs: p.Jobs}
	x.describe("")
	if p.Run.HTML != "" {
		o, err := newOutput("--html", p.Run.HTML, nil)
		if err != nil {
			return nil, err
		}
		x.html = o
	}
	if p.Run.Live != "" {
		l, err := htmlpage.Listen(p.Run.Live)
		if err != nil {
			x.discard()
			return nil, fmt.Errorf("--live=%s: %w", p.Run.Live, err)
		}
		ctx, stop := context.WithCancel(context.Background())
		x.server, x.stop, x.served = l, stop, make(chan error, 1)
		go func() { x.served <- htmlpage.Serve(ctx, l, htmlpage.NewLive(x.now, liveEvery)) }()
	}
	return x, nil
}

// liveEvery is the interval at which a live page shows newer values.
const liveEvery = time.Second

// url returns where the live page is, or "" if there is none.
func (x *pictures) url() string {
	if x == nil || x.server == nil {
		return ""
	}
	return "http://" + x.server.Addr().String() + "/"
}

// announce says where the live page is.
func announce(x *pictures, pr *load.Progress) {
	if url := x.url(); url != "" && pr != nil {
		pr.Print("pcbench: the pictures are at " + url + " while the jobs run")
	}
}

// compare sets the function that returns the comparison so far.
func (x *pictures) compare(table func() *htmlpage.Comparison) {
	if x != nil {
		x.mu.Lock()
		x.table = table
		x.mu.Unlock()
	}
}

// page returns the page of a result. The caller holds x.mu.
func (x *pictures) page(r *load.Result) *htmlpage.Report {
	facts := append([]htmlpage.Fact(nil), x.facts...)
	if len(r.Timelines) > 0 { // the device of the log is known once a job has begun
		facts = append(facts, htmlpage.Fact{Name: "log", Value: r.Timelines[0].Before.Log.Device})
	}
	p := report.Page(r, facts)
	if x.table != nil {
		if t := x.table(); len(t.Rows) > 0 { // a round is complete
			p.Comparisons = append(p.Comparisons, *t)
		}
		p.Notes = append(p.Notes, "The pictures are those of the page cache in its last round.")
	}
	return p
}

// describe sets the facts: the conditions of the run, with the disk below dir if it is known.
func (x *pictures) describe(dir string) {
	var facts []htmlpage.Fact
	add := func(name, value string) {
		if value != "" {
			facts = append(facts, htmlpage.Fact{Name: name, Value: value})
		}
	}
	add("command", "pcbench "+strings.Join(os.Args[1:], " "))
	add("pcbench", report.Version)
	add("commit", cmp.Or(machine.Commit(), "unknown, since the build did not record it"))
	m := machine.Describe(dir)
	if dir == "" {
		m.Disk, m.FileSystem = "", ""
	}
	for _, p := range m.Pairs() {
		add(p[0], p[1])
	}
	x.mu.Lock()
	x.facts = facts
	x.mu.Unlock()
}

// watch follows a run that is about to begin.
func (x *pictures) watch(r *load.Runner) {
	if x == nil {
		return
	}
	r.Timelines = true
	r.Opened = func(dirs []string) { x.describe(dirs[0]) }
	x.mu.Lock()
	x.runner = r
	x.mu.Unlock()
}

// now returns the page of the run so far.
func (x *pictures) now() *htmlpage.Report {
	x.mu.Lock()
	defer x.mu.Unlock()
	var r *load.Result
	if x.runner != nil {
		r = x.runner.Now()
	}
	if r == nil {
		r = &load.Result{}
	}
	page := x.page(r)
	switch n := len(r.Timelines); {
	case n == 0:
		page.Notes = append(page.Notes, "The pages are laid out. The pictures follow when the jobs begin.")
	case n < len(x.jobs) || r.Timelines[n-1].Whole == nil:
		page.Notes = append(page.Notes, "The jobs run. The page shows newer values every second.")
	}
	return page
}

// finish ends the live page and writes the file. A nil result is that of a run that did not begin.
func (x *pictures) finish(r *load.Result) error {
	if x == nil {
		return nil
	}
	x.endLive()
	if x.html == nil {
		return nil
	}
	if r == nil {
		return x.html.close(false)
	}
	x.mu.Lock()
	page := x.page(r)
	x.mu.Unlock()
	if err := page.Write(x.html); err != nil {
		_ = x.html.close(false) // the first error counts
		return fmt.Errorf("--html: %w", err)
	}
	return x.html.close(true)
}

// endLive ends the live page. Requests that are under way get a second.
func (x *pictures) endLive() {
	if x.server != nil {
		x.stop()
		<-x.served // the listener's error says nothing to the reader of the report
	}
}

// discard removes what newPictures has made.
func (x *pictures) discard() {
	if x.html != nil {
		_ = x.html.close(false) // another error is reported
	}
}
