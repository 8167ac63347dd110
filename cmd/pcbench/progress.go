package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/engine"
)

// progress shows how far a load has got. On a terminal it rewrites one line; otherwise it writes a line every few
// seconds.
type progress struct {
	out      io.Writer
	terminal bool
	every    time.Duration

	mu    sync.Mutex // held while a line is written
	width int        // of the line on the terminal
}

// events returns callbacks that write a line for each event of a store that is a warning or an error. A nil progress
// writes none.
func (p *progress) events() engine.Events {
	if p == nil {
		return engine.Events{}
	}
	return engine.AllEvents(func(e engine.Event) {
		if e.Level() >= slog.LevelWarn {
			p.print("pcbench: " + strings.ToLower(e.Level().String()) + ": " + e.String())
		}
	})
}

// print writes a line that stays. On a terminal it replaces the line that is rewritten.
func (p *progress) print(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
		fmt.Fprintf(p.out, "\r%s\r", strings.Repeat(" ", p.width))
		p.width = 0
	}
	fmt.Fprintln(p.out, line)
}

// rewrite replaces the line on the terminal; an empty one clears it.
func (p *progress) rewrite(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case line != "":
		fmt.Fprintf(p.out, "\r%-*s", p.width, line)
	case p.width > 0:
		fmt.Fprintf(p.out, "\r%s\r", strings.Repeat(" ", p.width))
	}
	p.width = len(line)
}

// newProgress returns a progress that writes to f, usually standard error.
func newProgress(f *os.File) *progress {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil {
		return &progress{out: f, terminal: true, every: 200 * time.Millisecond}
	}
	return &progress{out: f, every: 3 * time.Second}
}

// progressState is the content of a progress line.
type progressState struct {
	ramping               bool
	share                 float64 // done so far, 0 to 1
	readBytes, writeBytes int64
	reads, writes         int64
}

// watch shows the states that now returns until the caller calls end, which clears the line on a terminal. A nil
// progress shows nothing.
func (p *progress) watch(name string, now func() progressState) (end func()) {
	if p == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(p.every)
		defer tick.Stop()
		started := time.Now()
		last, lastAt := progressState{}, started
		for {
			select {
			case <-quit:
				p.rewrite("")
				return
			case at := <-tick.C:
				s := now()
				line := s.line(name, last, at.Sub(lastAt), at.Sub(started))
				last, lastAt = s, at
				if p.terminal {
					p.rewrite(line)
				} else {
					p.print(line)
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}

// line returns a progress line with the speed since last, the share done, and the time left, such as
// "NAME: [w=1240MiB/s,19.8k IOPS][45.0%][eta 00m:03s]".
func (s progressState) line(name string, last progressState, since, all time.Duration) string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s: ", name)
	if s.ramping {
		fmt.Fprint(b, "[ramping up]")
	}
	speed := func(letter string, bytes, n int64) {
		if n > 0 {
			rate := func(n int64) uint64 { return uint64(perSecond(n, int64(since))) }
			fmt.Fprintf(b, "[%s=%sB/s,%s IOPS]", letter, shorten(rate(bytes), 4, prefixBinary),
				shorten(rate(n), 4, prefixDecimal))
		}
	}
	speed("r", s.readBytes-last.readBytes, s.reads-last.reads)
	speed("w", s.writeBytes-last.writeBytes, s.writes-last.writes)
	fmt.Fprintf(b, "[%.1f%%]", s.share*100)
	if s.share > 0 {
		eta := int64(all.Seconds() * (1 - s.share) / s.share)
		fmt.Fprintf(b, "[eta %02dm:%02ds]", eta/60, eta%60)
	}
	return b.String()
}
