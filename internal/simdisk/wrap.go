package simdisk

import "pagecache/internal/vfs"

// Wrap is a file system on which a test replaces files, or calls that are made in directories. A nil function changes
// nothing.
type Wrap struct {
	vfs.FS
	// File opens a file in d.
	File func(d vfs.Dir, name string, flag vfs.Flag) (vfs.File, error)
	// Sync makes the entries of d durable.
	Sync func(d vfs.Dir) error
	// Dir opens a directory by calling open. path is its whole path.
	Dir func(path string, open func() (vfs.Dir, error)) (vfs.Dir, error)
}

// OpenDir is vfs.FS.OpenDir.
func (w *Wrap) OpenDir(path string) (vfs.Dir, error) {
	return w.open(path, func() (vfs.Dir, error) { return w.FS.OpenDir(path) })
}

func (w *Wrap) open(path string, open func() (vfs.Dir, error)) (d vfs.Dir, err error) {
	if w.Dir == nil {
		d, err = open()
	} else {
		d, err = w.Dir(path, open)
	}
	if err != nil {
		return nil, err
	}
	return wrapped{d, w}, nil
}

// wrapped is an open directory of a Wrap.
type wrapped struct {
	vfs.Dir
	w *Wrap
}

func (d wrapped) Open(name string, flag vfs.Flag) (vfs.File, error) {
	if d.w.File == nil {
		return d.Dir.Open(name, flag)
	}
	return d.w.File(d.Dir, name, flag)
}

func (d wrapped) OpenDir(name string) (vfs.Dir, error) {
	return d.w.open(d.Name()+"/"+name, func() (vfs.Dir, error) { return d.Dir.OpenDir(name) })
}

func (d wrapped) Sync() error {
	if d.w.Sync == nil {
		return d.Dir.Sync()
	}
	return d.w.Sync(d.Dir)
}
