package load

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/cmd/pcbench/internal/job"
	"pagecache/cmd/pcbench/internal/units"
	"pagecache/engine"
)

// Progress shows how far a load has got. On a terminal it rewrites one line; otherwise it writes a line every few
// seconds. A nil Progress shows nothing.
type Progress struct {
	Out      io.Writer
	Terminal bool
	Every    time.Duration
	Newline  time.Duration // on a terminal, the interval between new lines; 0: none

	mu    sync.Mutex // held while a line is written
	width int        // of the line on the terminal that is rewritten
}

// OnTerminal reports whether w is a terminal.
func OnTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Columns returns the width of a terminal, or 0 if it is not known.
func Columns(f *os.File) int {
	w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(w.Col)
}

// NewProgress returns a Progress that writes to f, usually standard error.
func NewProgress(f *os.File) *Progress {
	if OnTerminal(f) {
		return &Progress{Out: f, Terminal: true, Every: 200 * time.Millisecond}
	}
	return &Progress{Out: f, Every: 3 * time.Second}
}

// columns returns the width of the terminal, or 0 if it is not known.
func (p *Progress) columns() int {
	f, ok := p.Out.(*os.File)
	if !ok || !p.Terminal {
		return 0
	}
	return Columns(f)
}

// With returns a Progress as the options of a run want it: nil for eta=never.
func (p *Progress) With(r *job.Run) *Progress {
	if p == nil || r.ETA == "never" {
		return nil
	}
	q := &Progress{Out: p.Out, Terminal: p.Terminal, Every: p.Every, Newline: r.ETANewline}
	if r.ETAInterval > 0 {
		q.Every = r.ETAInterval
	}
	return q
}

// progressState is the content of a progress line.
type progressState struct {
	ramping bool
	waiting bool    // for startdelay
	share   float64 // done so far, 0 to 1
	bytes   [3]int64
	ops     [3]int64
}

// watch shows the states that now returns until the caller calls end, which clears the line on a terminal.
func (p *Progress) watch(name string, now func() progressState) (end func()) {
	started, last, lastAt := time.Now(), progressState{}, time.Now()
	return p.Lines(func() string {
		s, at := now(), time.Now()
		line := s.line(name, last, [2]time.Duration{at.Sub(lastAt), at.Sub(started)}, p.columns()-1)
		last, lastAt = s, at
		return line
	})
}

// Lines shows the lines that now returns until the caller calls end, which clears the line on a terminal.
func (p *Progress) Lines(now func() string) (end func()) {
	if p == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(p.Every)
		defer tick.Stop()
		began := time.Now()
		for {
			select {
			case <-quit:
				p.clear()
				return
			case at := <-tick.C:
				line := now()
				if !p.Terminal {
					p.Print(line)
					continue
				}
				if most := p.columns() - 1; most > 0 && len(line) > most {
					line = line[:most]
				}
				keep := p.Newline > 0 && at.Sub(began) >= p.Newline
				if p.rewrite(line, keep); keep {
					began = at
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}

// Events returns callbacks that write a line for each event of a store that is a warning or an error. A nil Progress
// writes none.
func (p *Progress) Events() engine.Events {
	if p == nil {
		return engine.Events{}
	}
	return engine.AllEvents(func(e engine.Event) {
		if e.Level() >= slog.LevelWarn {
			p.Print("pcbench: " + strings.ToLower(e.Level().String()) + ": " + e.String())
		}
	})
}

// Print writes a line that stays. On a terminal it takes the place of the line that is rewritten.
func (p *Progress) Print(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearLocked()
	fmt.Fprintln(p.Out, line)
}

// rewrite replaces the line on the terminal. keep says that the next one goes below it.
func (p *Progress) rewrite(line string, keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.Out, "\r%-*s", p.width, line)
	if p.width = len(line); keep {
		fmt.Fprintln(p.Out)
		p.width = 0
	}
}

// clear removes the line on the terminal.
func (p *Progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearLocked()
}

func (p *Progress) clearLocked() {
	if p.width > 0 {
		fmt.Fprintf(p.Out, "\r%s\r", strings.Repeat(" ", p.width))
		p.width = 0
	}
}

// line returns a progress line with the speed since last, the share done, and the time left, such as
// "NAME: [w=1240MiB/s,19.8k IOPS][45.0%][eta 00m:03s]". The times are those since last and since the start. If it has
// more than most columns, which is 0 if that is not known, it has no operations per second, and then no speeds.
func (s progressState) line(name string, last progressState, since [2]time.Duration, most int) string {
	speeds, short := "", ""
	for d, letter := range []string{"r", "w", "t"} {
		if n := s.ops[d] - last.ops[d]; n > 0 {
			rate := func(n int64) uint64 { return uint64(perSecond(n, int64(since[0]))) }
			bytes := units.Shorten(rate(s.bytes[d]-last.bytes[d]), 4, units.Binary)
			speeds += fmt.Sprintf("[%s=%sB/s,%s IOPS]", letter, bytes, units.Shorten(rate(n), 4, units.Decimal))
			short += fmt.Sprintf("[%s=%sB/s]", letter, bytes)
		}
	}
	end := fmt.Sprintf("[%.1f%%]", s.share*100)
	if s.share > 0 {
		eta := int64(since[1].Seconds() * (1 - s.share) / s.share)
		end += fmt.Sprintf("[eta %02dm:%02ds]", eta/60, eta%60)
	}
	switch {
	case s.waiting:
		speeds = "[waiting]"
	case s.ramping:
		speeds = "[ramping up]" + speeds
	}
	for _, line := range []string{name + ": " + speeds + end, name + ": " + short + end, short + end} {
		if most <= 0 || len(line) <= most {
			return line
		}
	}
	return end
}
