package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/pflag"

	"pagecache/engine"
)

// backup is the command pcbench backup. It writes a store that is not open to a file or to standard output.
func backup(ctx context.Context, args []string, out, raw io.Writer) error {
	f := pflag.NewFlagSet("pcbench backup", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	snaps := f.String("snapshots", "", "`directory` of the snapshots (default that of the store)")
	since := f.Int64("since", 0, "write only what is newer than the backup that ended at this `LSN`")
	toDir := f.Bool("directory", false, "make a store in a new directory, in place of a file")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprint(out, "pcbench backup OPTIONS DIR FILE writes all of a store that is not open to a file,\n",
			"which must not exist; FILE - is standard output. It verifies every byte that it\n",
			"reads, and says where the backup ends. With --since, restore needs the older\n",
			"backup, too. With --directory, FILE is the name of a directory, in which backup\n",
			"makes a store. It shares the bytes of the other one, and takes no space, on a\n",
			"file system that can do that, such as XFS. (A program backs up a store that it\n",
			"has open with PageCache.Checkpoint.)\n\n", f.FlagUsages())
		return err
	} else if err != nil {
		return &usageError{explainFlag(f, err)}
	}
	if f.NArg() != 2 || *since < 0 {
		return &usageError{errors.New("backup: name the directory of the store, and a file or -")}
	}
	if *toDir && *since > 0 {
		return &usageError{errors.New("backup: --directory makes a complete store, without --since")}
	}
	dir, name := f.Arg(0), f.Arg(1)
	if err := wantStore("backup", dir); err != nil {
		return err
	}
	if *toDir {
		return backupTo(ctx, dir, *snaps, name, out)
	}
	write := func(w io.Writer) (end engine.LSN, n int64, err error) {
		return engine.Backup(ctx, dir, &engine.Options{SnapshotDir: *snaps}, w, engine.LSN(*since))
	}
	if name == "-" {
		_, _, err := write(&interruptibleWriter{ctx: ctx, w: raw})
		return interrupted(ctx, "backup", err)
	}
	end, n, err := toNewFile(name, write)
	if err != nil {
		return interrupted(ctx, "backup", err)
	}
	_, err = fmt.Fprintf(out, "%s is a backup of %s: %d bytes; it ends at LSN %d\n", name, dir, n, end)
	return err
}

// backupTo makes a store in a directory of one that is not open.
func backupTo(ctx context.Context, dir, snaps, to string, out io.Writer) error {
	i, err := engine.BackupTo(ctx, dir, &engine.Options{SnapshotDir: snaps}, to)
	if err != nil {
		return interrupted(ctx, "backup", err)
	}
	_, err = fmt.Fprintf(out, "%s is as %s was at LSN %d: %d segments, %d blobs\n", to, dir, i.LSN, i.Segments, i.Blobs)
	return err
}

// toNewFile lets write write a file, which gets its name once it is whole and durable.
func toNewFile(name string, write func(io.Writer) (engine.LSN, int64, error)) (end engine.LSN, n int64, err error) {
	if _, err := os.Lstat(name); err == nil {
		return 0, 0, fmt.Errorf("%s exists already", name)
	}
	tmp := name + ".unfinished"
	f, err := newFile(tmp)
	if err != nil {
		return 0, 0, err
	}
	end, n, err = write(f)
	if err == nil {
		err = f.Sync()
	}
	linked := false
	if err == nil {
		err = giveName(tmp, name)
		linked = err == nil
	}
	if e := os.Remove(tmp); !linked || !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	if err = errors.Join(err, f.Close()); err != nil { // Close releases the lock
		return 0, 0, err
	}
	if err := syncDir(filepath.Dir(name)); err != nil { // a crash may take the name away
		return 0, 0, errors.Join(err, os.Remove(name))
	}
	return end, n, nil
}

// syncDir makes the names in a directory durable, where the file system knows such a call.
func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// giveName gives a file another name, which must not exist. The file may lose its old name.
func giveName(old, name string) error {
	err := os.Link(old, name) // unlike a rename, it replaces nothing
	if !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, os.ErrPermission) {
		return err
	}
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("%s exists already", name)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Rename(old, name) // a file system without links
}

// newFile makes a file and locks it. If a backup that was killed has left one, newFile removes that first.
func newFile(name string) (*os.File, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(name, flags, 0o644)
	if errors.Is(err, os.ErrExist) {
		if err := removeUnfinished(name); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(name, flags, 0o644)
	}
	if err != nil {
		return nil, err
	}
	err = lock(f)
	if err == nil { // another backup may have taken it for an unfinished one before it was locked
		err = stillNamed(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// stillNamed returns an error if a file has lost its name.
func stillNamed(f *os.File) error {
	open, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(f.Name()); err != nil || !os.SameFile(open, named) {
		return fmt.Errorf("another backup is writing %s", f.Name())
	}
	return nil
}

// streamMagic begins a stream: see docs/FORMAT.md.
const streamMagic = "PCKP"

// removeUnfinished removes a file that a backup has left. A finished backup may have another name of the same file, so
// nothing is written to it.
func removeUnfinished(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lock(f); err != nil {
		return err
	}
	head, err := io.ReadAll(io.LimitReader(f, int64(len(streamMagic))))
	if err != nil {
		return err
	}
	if len(head) > 0 && string(head) != streamMagic {
		return fmt.Errorf("%s is no unfinished backup: rename or remove it", name)
	}
	return os.Remove(name)
}

// lock locks a file for the time that it is open.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("another backup is writing %s", f.Name())
	}
	return err
}

// interrupted returns err, or that an interrupted command has left nothing.
func interrupted(ctx context.Context, what string, err error) error {
	if err != nil && ctx.Err() != nil {
		return &unfinishedError{fmt.Errorf("%s: interrupted: nothing was made", what)}
	}
	return err
}

// restore is the command pcbench restore. It makes a store of backups.
func restore(ctx context.Context, args []string, out io.Writer) error {
	f := pflag.NewFlagSet("pcbench restore", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprint(out, "pcbench restore DIR FILE... makes a store in DIR, which must not exist, of a\n",
			"complete backup and of those made with --since, each of which continues the one\n",
			"before; - is standard input. DIR appears once everything was verified and is\n",
			"durable, or not at all.\n")
		return err
	} else if err != nil {
		return &usageError{explainFlag(f, err)}
	}
	if f.NArg() < 2 {
		return &usageError{errors.New("restore: name a new directory, and the files of the backup")}
	}
	streams, closeAll, err := openStreams(ctx, f.Args()[1:])
	if err != nil {
		return interrupted(ctx, "restore", err)
	}
	defer closeAll()
	i, err := engine.Install(ctx, f.Arg(0), nil, streams...)
	if err != nil {
		return interrupted(ctx, "restore", err)
	}
	_, err = fmt.Fprintf(out, "%s is as the store was at LSN %d: %d segments, %d blobs\n", f.Arg(0), i.LSN, i.Segments,
		i.Blobs)
	return err
}

// verify is the command pcbench verify. It verifies backups.
func verify(ctx context.Context, args []string, out io.Writer) error {
	f := pflag.NewFlagSet("pcbench verify", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		_, err := fmt.Fprint(out, "pcbench verify FILE... verifies every byte of backups, each of which continues\n",
			"the one before; - is standard input. The exit status is 1 if one is corrupt.\n")
		return err
	} else if err != nil {
		return &usageError{explainFlag(f, err)}
	}
	if f.NArg() < 1 {
		return &usageError{errors.New("verify: name the files of the backup")}
	}
	streams, closeAll, err := openStreams(ctx, f.Args())
	var i engine.CheckpointInfo
	if err == nil {
		defer closeAll()
		i, err = engine.VerifyCheckpoint(ctx, streams...)
	}
	if err != nil && ctx.Err() != nil {
		return &unfinishedError{errors.New("verify: interrupted: the backup was not verified to its end")}
	}
	if err != nil {
		return err
	}
	what := "complete"
	if i.Since > 0 {
		what = fmt.Sprintf("newer than LSN %d", i.Since)
	}
	_, err = fmt.Fprintf(out, "the backup is good: %s, %d bytes; it ends at LSN %d\n", what, i.Bytes, i.LSN)
	return err
}

// openStreams opens files for reading; - is standard input. Reads from a pipe end when ctx is done.
func openStreams(ctx context.Context, names []string) (streams []io.Reader, closeAll func(), err error) {
	var files []*os.File
	closeAll = func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
	for _, name := range names {
		f := os.Stdin
		if name != "-" {
			// Opening a named pipe waits for its writer.
			if f, err = unlessDone(ctx, func() (*os.File, error) { return os.Open(name) }); err != nil {
				closeAll()
				return nil, nil, err
			}
			files = append(files, f)
		}
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			streams = append(streams, f)
			continue
		}
		streams = append(streams, &interruptibleReader{ctx: ctx, r: f})
	}
	return streams, closeAll, nil
}
