//go:build abtest

// With this tag, compare has only the parts that abtest uses: the ours command, the list and the children. These need
// nothing of module pagecache but package engine, so that they compile against older versions of it, and no stores but
// Pebble, so that they compile fast.

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

// peerGroups is empty: abtest measures our side only.
var peerGroups []group

// abtest needs no other stores.
func otherUpdaters() []updaterStore { return nil }
func otherNodes() []nodeStore       { return nil }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "ours" {
		return runOurs(ctx, args[1:], os.Stdout)
	}
	c := &config{}
	f := pflag.NewFlagSet("compare", pflag.ContinueOnError)
	list := f.Bool("list", false, "print the facts that abtest needs")
	f.Bool("json", false, "always set with --list")
	child := f.String("child", "", "measurement that needs a process of its own")
	f.StringVar(&c.dir, "dir", ".", "")
	f.Float64Var(&c.seconds, "seconds", 3, "")
	f.IntVar(&c.divide, "divide", 1, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case *child != "":
		return runChild(c, *child)
	case *list:
		return printList(os.Stdout, true)
	}
	return fmt.Errorf("this compare was built for abtest: want ours or --list")
}
