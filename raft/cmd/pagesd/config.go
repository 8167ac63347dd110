package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// rpcHeartbeats is the time limit of a call of another node, in heartbeats.
const rpcHeartbeats = 10

// config is what the flags of a node say.
type config struct {
	id, dir           string
	listen, advertise string
	monitor           string
	identity          identity
	insecure          bool
	join              []string
	nonvoter          bool
	via               map[string]string

	heartbeat     time.Duration
	timeout       time.Duration
	joinTimeout   time.Duration
	stopTimeout   time.Duration
	maxBody       int64
	requests      int
	cache         int64
	snapshotAfter uint64
	snapshotEvery time.Duration
	trailing      uint64
	logLevel      string
}

// place declares the flags that say which node it is.
func (c *config) place(f *flag.FlagSet) {
	f.StringVar(&c.dir, "dir", "", "directory of the node's `DIR`: its log and its pages")
	f.StringVar(&c.id, "id", "", "the node's `NAME` in the cluster; it keeps it for ever")
	f.StringVar(&c.advertise, "advertise", "", "`ADDRESS` at which others reach this node [that of -listen]")
	f.StringVar(&c.logLevel, "log", "info", "`LEVEL` of the log on standard error: debug, info, warn, error")
	f.Int64Var(&c.cache, "cache", 256<<20, "`BYTES` of memory for pages")
}

// flags declares the flags of serve.
func (c *config) flags(f *flag.FlagSet) {
	c.place(f)
	f.StringVar(&c.listen, "listen", "", "`ADDRESS` to listen at, for nodes and clients")
	f.StringVar(&c.monitor, "monitor", "", "`ADDRESS` for /healthz, /readyz and /metrics, in plain HTTP [none]")
	f.Func("tls", "directory `DIR` with ca.pem, cert.pem and key.pem; see pagesd certs", func(s string) error {
		c.identity = identity(s)
		return nil
	})
	f.BoolVar(&c.insecure, "insecure", false, "no TLS: every program that reaches the address may do everything")
	f.Func("join", "`ADDRESSES` of nodes of the cluster to join, with commas between them", func(s string) error {
		c.join = append(c.join, strings.Split(s, ",")...)
		return nil
	})
	f.BoolVar(&c.nonvoter, "nonvoter", false, "join without a vote: a copy for reads")
	f.Func("via", "`ADDRESS=OTHER`: connect to OTHER to reach ADDRESS; may be repeated", func(s string) error {
		from, to, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want ADDRESS=OTHER")
		}
		if c.via == nil {
			c.via = map[string]string{}
		}
		c.via[from] = to
		return nil
	})
	f.DurationVar(&c.heartbeat, "heartbeat", time.Second, "`TIME` without a word from the leader until an election")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "`TIME` limit of a request")
	f.DurationVar(&c.joinTimeout, "join-timeout", time.Minute, "`TIME` limit for an empty node to find the leader")
	f.DurationVar(&c.stopTimeout, "stop-timeout", 20*time.Second, "`TIME` limit of a stop after SIGTERM or SIGINT")
	f.Int64Var(&c.maxBody, "max-body", 512<<10, "`BYTES` that the body of a request may have")
	f.IntVar(&c.requests, "requests", 512, "`COUNT` of requests that may be under way")
	f.Uint64Var(&c.snapshotAfter, "snapshot-after", 65536, "`COUNT` of entries after which a snapshot is taken")
	f.DurationVar(&c.snapshotEvery, "snapshot-every", 30*time.Second, "`TIME` between looks whether one is due")
	f.Uint64Var(&c.trailing, "trailing", 65536, "`COUNT` of entries that stay in the log after a snapshot")
}

// identified returns an error unless the flags say which node it is.
func (c *config) identified() error {
	if c.id == "" || c.dir == "" {
		return usageError("-id and -dir are required")
	}
	if c.advertise == "" {
		c.advertise = c.listen
	}
	host, _, err := net.SplitHostPort(c.advertise)
	if err != nil {
		return usageError(fmt.Sprintf("-advertise: %v", err))
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return usageError(fmt.Sprintf("-advertise: others cannot reach %s", c.advertise))
	}
	return nil
}

// validate returns an error unless serve can use the flags.
func (c *config) validate() error {
	if c.listen == "" {
		return usageError("-listen is required")
	}
	if err := c.identified(); err != nil {
		return err
	}
	if (c.identity == "") != c.insecure {
		return usageError("one of -tls and -insecure is required")
	}
	if c.heartbeat < 20*time.Millisecond || c.timeout <= 0 || c.stopTimeout <= 0 || c.maxBody <= 0 || c.requests <= 0 {
		return usageError("times and limits must be positive, and -heartbeat at least 20ms")
	}
	if _, _, err := c.identity.load(); c.identity != "" && err != nil {
		return err
	}
	return nil
}

// logger returns the logger of the flags.
func (c *config) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: c.id, Level: hclog.LevelFromString(c.logLevel)})
}

// raft returns the configuration of raft.
func (c *config) raft(logger hclog.Logger) *raft.Config {
	r := raft.DefaultConfig()
	r.LocalID = raft.ServerID(c.id)
	r.Logger = logger
	r.NoSnapshotRestoreOnStart = true
	r.NoLegacyTelemetry = true
	r.ShutdownOnRemove = false // the node goes on answering that it is no member
	r.BatchApplyCh = true
	if c.heartbeat > 0 {
		r.HeartbeatTimeout, r.ElectionTimeout, r.LeaderLeaseTimeout = c.heartbeat, c.heartbeat, c.heartbeat/2
	}
	if c.snapshotEvery > 0 {
		r.SnapshotInterval, r.SnapshotThreshold, r.TrailingLogs = c.snapshotEvery, c.snapshotAfter, c.trailing
	}
	return r
}
