package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asMain in the environment makes the test binary run as pcbench.
const asMain = "PCBENCH_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR2) // starts the goroutine of os/signal before tests count them
	os.Exit(m.Run())
}

func TestListen(t *testing.T) {
	signals, exited := make(chan os.Signal, 2), make(chan int, 1)
	var errOut bytes.Buffer
	ctx, stop := listen(signals, &errOut, func(status int) { exited <- status })
	defer stop()
	if ctx.Err() != nil {
		t.Fatal(ctx.Err())
	}
	late := time.After(time.Minute)
	signals <- os.Interrupt
	select {
	case <-ctx.Done():
	case <-late:
		t.Fatal("the context does not end after the first signal")
	}
	select {
	case status := <-exited:
		t.Fatalf("exit %d at the first signal", status)
	default:
	}
	signals <- syscall.SIGTERM
	select {
	case status := <-exited:
		if status != exitInterrupted {
			t.Errorf("exit %d", status)
		}
	case <-late:
		t.Fatal("no exit after the second signal")
	}
	if !strings.Contains(errOut.String(), "stopping") || !strings.Contains(errOut.String(), "at once") {
		t.Errorf("standard error: %s", &errOut)
	}
}

// pcbenchIn runs a command line with its store in dir.
func pcbenchIn(t *testing.T, dir, line string) (out, errOut string, status int) {
	t.Helper()
	var o, e bytes.Buffer
	status = command(context.Background(), append(strings.Fields(line), "--directory="+dir), &o, &e, nil)
	return o.String(), e.String(), status
}

// child is a pcbench process.
type child struct {
	*exec.Cmd
	t   *testing.T
	err *bufio.Reader // its standard error
}

// startChild starts a pcbench that is killed after a minute.
func startChild(t *testing.T, out *os.File, args ...string) *child {
	t.Helper()
	return startChildReading(t, nil, out, args...)
}

// startChildReading is startChild with a standard input. A file that is nil is /dev/null.
func startChildReading(t *testing.T, in, out *os.File, args ...string) *child {
	t.Helper()
	c := &child{t: t, Cmd: exec.CommandContext(t.Context(), os.Args[0], args...)}
	c.Env = append(os.Environ(), asMain+"=1")
	if in != nil {
		c.Stdin = in
	}
	if out != nil {
		c.Stdout = out
	}
	pipe, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.err = bufio.NewReader(pipe)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
	t.Cleanup(func() { late.Stop() })
	return c
}

// until reads standard error up to a line that contains text.
func (c *child) until(text string) {
	c.t.Helper()
	for {
		line, err := c.err.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			c.t.Fatalf("no %q: %v", text, err)
		}
	}
}

func (c *child) signal(s os.Signal) {
	c.t.Helper()
	if err := c.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// ends waits for the process, which must report that it was interrupted.
func (c *child) ends() {
	c.t.Helper()
	_ = c.Wait() // the exit status holds the outcome
	if status := c.ProcessState.ExitCode(); status != exitInterrupted {
		c.t.Errorf("ended with %v", c.ProcessState)
	}
}

// awaitMarker waits until pcbench has made its store.
func awaitMarker(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if found, _ := filepath.Glob(filepath.Join(dir, "*", "store", "superblock")); len(found) > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no store")
		}
	}
}

// After the first signal pcbench reports the load and leaves nothing behind.
func TestFirstSignal(t *testing.T) {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		dir := t.TempDir()
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		c := startChild(t, out, "run", "--rw=randwrite", "--size=1m", "--segment=256k", "--runtime=1h",
			"--time_based", "--directory="+dir)
		awaitMarker(t, dir)
		c.signal(s)
		c.until("stopping")
		c.until("the store is removed")
		c.ends()
		report, err := os.ReadFile(out.Name())
		if err != nil || !strings.Contains(string(report), "Run status group 0") {
			t.Errorf("no report: %v\n%s", err, report)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("files left behind: %v, %v", left, err)
		}
	}
}

// The second signal ends a pcbench that hangs: here no process reads its report, which is longer than a pipe holds.
func TestSecondSignal(t *testing.T) {
	for _, second := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		dir := t.TempDir()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		c := startChild(t, w, "run", "--rw=randwrite", "--size=1m", "--segment=256k", "--runtime=1h",
			"--time_based", "--numjobs=64", "--output-format=json", "--directory="+dir)
		w.Close()
		awaitMarker(t, dir)
		c.signal(os.Interrupt)
		c.until("stopping")
		time.Sleep(200 * time.Millisecond) // pcbench cannot end meanwhile
		c.signal(second)
		c.until("at once")
		c.ends()
	}
}

// check, salvage and dump end within 100 ms of a signal, also if nobody reads what they write, and say what was not
// done. On a busy machine one of several tries must be that fast.
func TestCommandsStopAtOnce(t *testing.T) {
	dir := t.TempDir()
	_, errOut, status := pcbenchIn(t, dir, "run --rw=write --bs=128 --size=24m --unlink=0 --name=a")
	if status != 0 {
		t.Fatalf("%d, %s", status, errOut)
	}
	store := filepath.Join(dir, "a.pcbench", "store")
	for _, args := range [][]string{{"check", store}, {"salvage", store, filepath.Join(dir, "out")}, {"dump", store}} {
		interrupted, fastest := false, time.Hour
		for try := 0; try < 10 && fastest > 100*time.Millisecond; try++ {
			if err := os.RemoveAll(filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
			r, w, err := os.Pipe() // nobody reads it
			if err != nil {
				t.Fatal(err)
			}
			c := startChild(t, w, args...)
			w.Close()
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", c.Process.Pid))
				var read int64
				_, scanErr := fmt.Sscanf(string(b), "rchar: %d", &read)
				if err != nil || scanErr != nil || read > 256<<10 {
					break // it reads the store, or has ended
				}
			}
			began := time.Now()
			_ = c.Process.Signal(os.Interrupt) // it may have ended
			text, _ := io.ReadAll(c.err)
			took := time.Since(began)
			_ = c.Wait()
			r.Close()
			if c.ProcessState.ExitCode() != exitInterrupted {
				continue // the signal came before the handler, or after the end
			}
			interrupted, fastest = true, min(fastest, took)
			if !strings.Contains(string(text), args[0]+": interrupted: ") {
				t.Errorf("%s does not say what was not done: %s", args[0], text)
			}
		}
		if !interrupted || fastest > 100*time.Millisecond {
			t.Errorf("%s: interrupted %t, the fastest end after %v", args[0], interrupted, fastest)
		}
	}
}

// Trap: backup, restore and verify did not end at the first signal while they waited for a pipe.
func TestSignalWhileWaitingForPipe(t *testing.T) {
	dir := t.TempDir()
	_, errOut, status := pcbenchIn(t, dir, "run --rw=write --bs=4k --size=8m --unlink=0 --name=a")
	if status != 0 {
		t.Fatalf("%d, %s", status, errOut)
	}
	store := filepath.Join(dir, "a.pcbench", "store")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(dir, "made")
	for _, args := range [][]string{{"verify", "-"}, {"restore", made, "-"}, {"backup", store, "-"}, {"verify", fifo},
		{"restore", made, fifo}} {
		in, toIn, err := os.Pipe() // nothing is written to it
		if err != nil {
			t.Fatal(err)
		}
		fromOut, out, err := os.Pipe() // nobody reads it
		if err != nil {
			t.Fatal(err)
		}
		c := startChildReading(t, in, out, args...)
		awaitBlocked(t, c.Process.Pid)
		c.signal(syscall.SIGTERM)
		c.until(args[0] + ": interrupted")
		c.ends()
		for _, f := range []*os.File{in, toIn, fromOut, out} {
			f.Close()
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// awaitBlocked waits until a process has a thread that waits for a pipe, for at most 3 s: not every kernel tells.
func awaitBlocked(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		calls, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", pid))
		for _, name := range calls {
			b, _ := os.ReadFile(name)
			if strings.Contains(string(b), "pipe") || strings.Contains(string(b), "wait_for_partner") {
				return
			}
		}
	}
}

// Trap: a job that waited for its startdelay did not end at the first signal.
func TestSignalDuringStartDelay(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, nil, "run", "--rw=write", "--size=1m", "--startdelay=10m", "--directory="+dir)
	awaitMarker(t, dir)
	time.Sleep(200 * time.Millisecond) // it most likely waits now
	began := time.Now()
	c.signal(syscall.SIGTERM)
	c.ends()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it ended after %v", took)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
}
