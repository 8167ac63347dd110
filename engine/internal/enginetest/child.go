package enginetest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A Child is a process of the test's own binary that works on a store until it is killed. It says what it begins and
// what was acknowledged, line by line, on file descriptor 3. Writes of up to 4 KiB to a pipe are atomic, so no line is
// there in part.
type Child struct {
	Test string   // the only test that it runs
	Env  []string // beside the environment of this process
	// Ready reports whether a line says that the child has got so far that After begins; nil: After begins with the
	// process. It is called until it returns true, and not by the goroutine that has called Live.
	Ready func(line string) bool
	After time.Duration
	// Cut, if set, cuts the power just before the child is killed. Restore, if set, turns it on again afterwards.
	Cut, Restore func() error
}

// Live runs the child and kills it. It returns the lines that the child has written, and how many of them had come when
// the power was cut: math.MaxInt if it was not. It fails, with what the child has printed, if the child is not ready
// within 30 seconds, fails before it is killed, or if the race detector has found something in it. After a power cut
// the child may fail.
func (c *Child) Live() (lines []string, sure int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	cmd := exec.Command(exe, "-test.run=^"+c.Test+"$")
	cmd.Env = append(os.Environ(), c.Env...)
	var said bytes.Buffer
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{w}, &said, &said
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, 0, err
	}
	var heard atomic.Int64 // len(lines), for this goroutine
	ready, eof := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(eof)
		open := c.Ready != nil
		for in := bufio.NewReaderSize(r, 64<<10); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSuffix(line, "\n")
			lines = append(lines, line)
			if heard.Add(1); open && c.Ready(line) {
				open = false
				close(ready)
			}
		}
	}()
	if c.Ready == nil {
		close(ready)
	}
	select {
	case <-ready:
		time.Sleep(c.After)
	case <-eof:
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Signal(syscall.SIGQUIT) // it prints its goroutines
		time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		<-eof
		err = errors.New("the child was not ready after 30s")
	}
	sure = math.MaxInt
	if c.Cut != nil {
		sure = int(heard.Load())
		err = errors.Join(err, c.Cut())
	}
	_ = cmd.Process.Kill()
	<-eof
	_ = cmd.Wait()
	if c.Restore != nil {
		err = errors.Join(err, c.Restore())
	}
	return lines, sure, c.verdict(cmd.ProcessState, said.Bytes(), err)
}

// verdict adds to err what a child that has ended, and has printed said, did wrong.
func (c *Child) verdict(state *os.ProcessState, said []byte, err error) error {
	st := state.Sys().(syscall.WaitStatus)
	failed := err == nil && c.Cut == nil && st.Signal() != syscall.SIGKILL && st.ExitStatus() != 0
	if failed || bytes.Contains(said, []byte("DATA RACE")) {
		err = errors.Join(err, fmt.Errorf("the child failed before it was killed: %v", state))
	}
	if err != nil {
		err = fmt.Errorf("%w\noutput of the child:\n%s", err, said)
	}
	return err
}
