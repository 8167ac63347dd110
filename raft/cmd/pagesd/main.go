// Pagesd is an example of a replicated page store: pages that several nodes have alike, by hashicorp/raft with packages
// raftlog and raftpages. docs/REPLICATION.md describes how to run it, and what it promises.
//
//	pagesd init    -id n1 -dir DIR -advertise ADDRESS        begin a cluster, once
//	pagesd serve   -id n1 -dir DIR -listen ADDRESS -tls DIR  run a node
//	pagesd client  -to ADDRESSES -tls DIR COMMAND            send a request
//	pagesd certs   DIR node:NAME client:NAME …               make certificates for tests
//	pagesd inspect -id n1 -dir DIR                           what a stopped node has
//	pagesd recover -id n1 -dir DIR -advertise ADDRESS        go on alone after a majority was lost
//
// # Requests
//
// Nodes answer HTTP/1.1, over TLS unless they are -insecure, at the address at which they also talk to each other.
// Every node takes every request, and forwards it to the leader if only that can answer. KEY is 1 to 1024 bytes; a body
// has at most -max-body bytes.
//
//	PUT    /v1/page?key=KEY              the page of the key becomes the body
//	POST   /v1/page?key=KEY              the body is appended to the page of the key ("link")
//	DELETE /v1/page?key=KEY
//	GET    /v1/page?key=KEY              the page, as the whole cluster has it now (linearizable)
//	GET    /v1/page?key=KEY&local=true   the page as this node has it, which may be old
//	GET    /v1/status[?leader=true]      this node, or the leader
//	POST   /v1/join                      {"id":"n2","address":"host:port","voter":true}
//	POST   /v1/leave                     {"id":"n2"}
//	POST   /v1/transfer                  {"id":"n2"}, or nothing: any other voter becomes the leader
//	POST   /v1/snapshot                  this node takes a snapshot and shortens its log
//	GET    /v1/backup                    this node's pages, for engine.Install and for the next request
//	POST   /v1/restore                   all pages become those of a backup; only the leader takes it
//
// A change is answered with {"index":N}, its place in the log of raft. A page comes with the header Pagesd-Index, the
// index that the node had applied when it read. Other requests are answered with the status of a node. An error is
// {"error":"…","outcome":"not done"}: nothing was changed, and the request can be sent again after status 503; or
// {"error":"…","outcome":"unknown"}: the change may have been made, or will be. The outcome of a request without an
// answer is unknown, too. 404 says that there is no such key.
//
// # Exit codes
//
// 0: it was stopped by SIGTERM or SIGINT, and everything is closed, or a command has succeeded. 1: an error. 2: wrong
// flags. 3: a stop did not end within -stop-timeout. 4: the node has failed, as after an I/O error; start it again. A
// second signal ends it at once.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// The exit codes.
const (
	exitError = iota + 1
	exitUsage
	exitIncomplete
	exitFailed
)

// usageError is a fault of the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the process
	os.Exit(code(run(ctx, os.Args[1:])))
}

// code prints an error and returns the exit code.
func code(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "pagesd:", err)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errFailed):
		return exitFailed
	case errors.Is(err, errIncomplete):
		return exitIncomplete
	}
	return exitError
}

// run runs a command.
func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return usageError("usage: pagesd init|serve|client|certs|inspect|recover …; docs/REPLICATION.md describes them")
	}
	f := flag.NewFlagSet("pagesd "+args[0], flag.ContinueOnError)
	f.SetOutput(io.Discard)
	var c config
	switch args[0] {
	case "serve":
		c.flags(f)
		if err := parse(f, args[1:], c.validate); err != nil {
			return err
		}
		return serve(ctx, &c)
	case "init":
		c.place(f)
		if err := parse(f, args[1:], c.identified); err != nil {
			return err
		}
		return initialize(&c)
	case "recover":
		c.place(f)
		peers := f.String("peers", "", "`FILE` with the members, in the form of raft's peers.json [this node]")
		if err := parse(f, args[1:], c.identified); err != nil {
			return err
		}
		return recoverNode(&c, *peers)
	case "inspect":
		c.place(f)
		if err := parse(f, args[1:], nil); err != nil {
			return err
		}
		s, err := inspect(&c)
		if err != nil {
			return err
		}
		return show(s)
	case "certs":
		if len(args) < 3 {
			return usageError("usage: pagesd certs DIR node:NAME client:NAME …")
		}
		return certs(args[1], args[2:])
	case "client":
		return runClient(ctx, f, args[1:])
	}
	return usageError(fmt.Sprintf("there is no command %q", args[0]))
}

// parse parses flags, without arguments behind them, and checks them.
func parse(f *flag.FlagSet, args []string, valid func() error) error {
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
		return usageError("these are the flags")
	} else if err != nil {
		return usageError(err.Error())
	}
	if f.NArg() > 0 {
		return usageError(fmt.Sprintf("%q is not a flag", f.Arg(0)))
	}
	if valid == nil {
		return nil
	}
	return valid()
}

// show prints JSON.
func show(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// runClient sends one request.
func runClient(ctx context.Context, f *flag.FlagSet, args []string) error {
	to := f.String("to", "", "`ADDRESSES` of nodes, with commas between them")
	dir := f.String("tls", "", "directory `DIR` with ca.pem, cert.pem and key.pem")
	insecure := f.Bool("insecure", false, "no TLS")
	timeout := f.Duration("timeout", 10*time.Second, "`TIME` limit")
	local := f.Bool("local", false, "read what the node has, which may be old")
	switch err := f.Parse(args); {
	case err != nil:
		return usageError(err.Error())
	case *to == "" || (*dir == "") != *insecure || f.NArg() == 0:
		return usageError("usage: pagesd client -to ADDRESSES -tls DIR put|link KEY VALUE, get|delete KEY, status, " +
			"join ID ADDRESS, leave ID, transfer [ID], snapshot, backup FILE, restore FILE; VALUE -: standard input")
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	c := newClient(dialer{id: identity(*dir)}, strings.Split(*to, ","))
	name, args := f.Arg(0), f.Args()[1:]
	for _, x := range commands {
		if x.name == name && len(args) >= x.least && len(args) <= x.most {
			args = append(args, "")
			return x.run(ctx, c, args, *local)
		}
	}
	return usageError(fmt.Sprintf("the client has no command %q with %d arguments", name, len(args)))
}

// commands are the commands of the client, with the number of their arguments.
var commands = []struct {
	name        string
	least, most int
	run         func(ctx context.Context, c *client, args []string, local bool) error
}{
	{"put", 2, 2, clientChange(opPut)},
	{"link", 2, 2, clientChange(opLink)},
	{"delete", 1, 1, clientChange(opDelete)},
	{"get", 1, 1, func(ctx context.Context, c *client, args []string, local bool) error {
		_, value, err := c.read(ctx, args[0], local)
		if err == nil {
			_, err = os.Stdout.Write(value)
		}
		return err
	}},
	{"status", 0, 0, func(ctx context.Context, c *client, _ []string, _ bool) error {
		return showStatus(c.status(ctx, false))
	}},
	{"join", 2, 2, func(ctx context.Context, c *client, args []string, _ bool) error {
		return showStatus(c.join(ctx, member{args[0], args[1], true}))
	}},
	{"leave", 1, 1, func(ctx context.Context, c *client, args []string, _ bool) error {
		return showStatus(c.leave(ctx, args[0]))
	}},
	{"transfer", 0, 1, func(ctx context.Context, c *client, args []string, _ bool) error {
		return showStatus(c.transfer(ctx, args[0]))
	}},
	{"snapshot", 0, 0, func(ctx context.Context, c *client, _ []string, _ bool) error {
		return showStatus(c.snapshot(ctx))
	}},
	{"backup", 1, 1, func(ctx context.Context, c *client, args []string, _ bool) error {
		index, err := c.backup(ctx, args[0])
		if err != nil {
			return err
		}
		return show(answer{index})
	}},
	{"restore", 1, 1, func(ctx context.Context, c *client, args []string, _ bool) error {
		return c.restore(ctx, args[0])
	}},
}

// showStatus prints a status.
func showStatus(s status, err error) error {
	if err != nil {
		return err
	}
	return show(s)
}

// clientChange returns the command of an op.
func clientChange(o op) func(context.Context, *client, []string, bool) error {
	return func(ctx context.Context, c *client, args []string, _ bool) error {
		value := []byte(args[1])
		if args[1] == "-" {
			var err error
			if value, err = io.ReadAll(os.Stdin); err != nil {
				return err
			}
		}
		index, err := c.change(ctx, command{o, args[0], value})
		if err != nil {
			return err
		}
		return show(answer{index})
	}
}
