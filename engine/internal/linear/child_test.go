package linear

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"pagecache/engine"
)

// childEnv holds the childSpec of a child.
const childEnv = "PAGECACHE_LINEAR_CHILD"

// childSpec is the order that a child gets.
type childSpec struct {
	Dir   string // has the store, and the records of the goroutines
	Seed  uint64
	Life  uint64
	Early bool // a planted fault: the child says that a wait for durability has ended before it begins
}

func (s childSpec) store() string { return filepath.Join(s.Dir, "store") }

func (s childSpec) record(id int) string { return filepath.Join(s.Dir, fmt.Sprintf("calls%d", id)) }

// This is the child process of TestDurablyLinearizable. Each goroutine appends each call to a file of its own as it
// begins, and again when it has ended: bytes that a process has written to a file survive the process.
func TestChild(t *testing.T) {
	env := os.Getenv(childEnv)
	if env == "" {
		t.Skip("only TestDurablyLinearizable starts it")
	}
	var spec childSpec
	if err := json.Unmarshal([]byte(env), &spec); err != nil {
		t.Fatal(err)
	}
	files := make([]*os.File, workers)
	for id := range files {
		f, err := os.OpenFile(spec.record(id), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		files[id] = f
	}
	write := func(o *op) {
		b, err := json.Marshal(o)
		if err == nil {
			_, err = files[o.Client].Write(append(b, '\n'))
		}
		if err != nil {
			panic(err)
		}
	}
	pc, err := engine.Open(spec.store(), engine.Bytes{}, setOf(spec.Seed).options())
	if err != nil {
		t.Fatal(err)
	}
	begin, err := read(pc)
	if err != nil {
		t.Fatal(err)
	}
	w := &work{pc: pc, seed: spec.Seed, life: spec.Life, calls: 1 << 30, sync: true, after: write}
	w.before = func(o *op) {
		write(o)
		if spec.Early && (o.Call == callFlush || o.Call == callStable) {
			early := *o
			early.Done = true
			write(&early)
		}
	}
	fmt.Println("open") // the parent kills this process some time later
	_, err = w.run(begin)
	t.Fatal(err)
}

// kill runs a child, kills it after some time, and returns its calls.
func kill(spec childSpec, rng *rand.Rand) ([]*op, error) {
	env, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(env), fmt.Sprintf("GOMAXPROCS=%d", procsOf(spec.Seed)))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	hang := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	defer hang.Stop()
	in := bufio.NewReader(out)
	line, err := in.ReadString('\n')
	if err == nil && line == "open\n" {
		time.Sleep(time.Duration(1000+rng.IntN(60_000)) * time.Microsecond)
		_ = cmd.Process.Kill()
	}
	rest, _ := in.Peek(in.Size())
	if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return nil, fmt.Errorf("the child failed before it was killed: %w\n%s%s%s", err, line, rest, said.Bytes())
	}
	var ops []*op
	for id := range workers {
		more, err := readRecord(spec.record(id))
		if err != nil {
			return nil, err
		}
		ops = append(ops, more...)
	}
	return ops, nil
}

// readRecord reads the calls of one goroutine. The last line may be cut off.
func readRecord(name string) ([]*op, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(b, []byte{'\n'})
	var ops []*op
	for _, line := range slices.Clip(lines[:len(lines)-1]) {
		o := new(op)
		if err := json.Unmarshal(line, o); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, line, err)
		}
		if o.Seq < len(ops) { // it has ended
			*ops[o.Seq] = *o
			continue
		}
		ops = append(ops, o)
	}
	return ops, nil
}
