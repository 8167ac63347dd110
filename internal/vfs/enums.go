package vfs

import "strings"

// Mode says whether to use a feature of the machine.
type Mode int

// The modes.
const (
	ModeAuto Mode = iota // use it if it works
	ModeOn               // use it; if it does not work, opening fails
	ModeOff              // do not use it
)

func (m Mode) String() string {
	switch m {
	case ModeAuto:
		return "auto"
	case ModeOn:
		return "on"
	case ModeOff:
		return "off"
	}
	return "invalid mode"
}

// Flag says how to open a file.
type Flag int

// The flags of Open. Reading is always allowed.
const (
	FlagRead   Flag = 0         // reading only
	FlagWrite  Flag = 1 << iota // reading and writing
	FlagCreate                  // with FlagWrite: create the file if it does not exist
	FlagTrunc                   // with FlagWrite: empty the file
)

func (f Flag) String() string {
	names := []string{"read"}
	for _, x := range []struct {
		flag Flag
		name string
	}{{FlagWrite, "write"}, {FlagCreate, "create"}, {FlagTrunc, "truncate"}} {
		if f&x.flag != 0 {
			names = append(names, x.name)
		}
	}
	return strings.Join(names, "|")
}

// LockKind is a kind of advisory lock.
type LockKind int

// The kinds of lock. Several openings of a file may hold LockShared at once; LockExclusive excludes all others.
const (
	LockShared LockKind = iota + 1
	LockExclusive
)

func (k LockKind) String() string {
	switch k {
	case LockShared:
		return "shared"
	case LockExclusive:
		return "exclusive"
	}
	return "invalid lock"
}

// Pattern is the order in which a file is read.
type Pattern int

// The patterns. The kernel reads far ahead with PatternSequential, and only the requested blocks with PatternRandom.
const (
	PatternSequential Pattern = iota + 1
	PatternRandom
)

func (p Pattern) String() string {
	switch p {
	case PatternSequential:
		return "sequential"
	case PatternRandom:
		return "random"
	}
	return "invalid pattern"
}
