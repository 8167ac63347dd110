package lint

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// house lists the packages of this module that each package may import. docs/ARCHITECTURE.md shows the same. Every
// package is listed.
var house = map[string][]string{
	"segments/format":           {},
	"segments":                  {"segments/format"},
	"iouring/internal/ring":     {},
	"iouring/internal/ringtest": {"iouring/internal/ring"},
	"iouring":                   {"iouring/internal/ring"},
	"mmapread":                  {},
	"lru":                       {},
	"recovery":                  {"segments", "segments/format"},
	"engine/internal/epoch":     {"internal/invariants"},
	"engine/internal/pagetable": {"segments/format", "internal/invariants"},
	"engine/internal/pagestack": {"segments/format", "internal/invariants"},
	"engine/internal/history":   {}, // for tests
	"engine/internal/latency":   {},
	"engine/internal/iobuf": {
		"engine/internal/latency", "engine/internal/report", "segments", "segments/format", "internal/vfs",
		"internal/invariants",
	},
	"engine/internal/blob": {
		"engine/internal/report", "internal/vfs", "iouring", "mmapread", "recovery", "segments/format",
	},
	"engine/internal/scratch":  {},
	"engine/internal/compress": {"engine/internal/scratch", "segments/format"},
	"engine/internal/idgen":    {"engine/internal/iobuf", "segments/format"},
	"engine/internal/pageids":  {"engine/internal/epoch", "recovery", "segments/format"},
	"engine/internal/roots":    {"segments/format"},
	"engine/internal/seam":     {"internal/vfs"},
	"engine/internal/logstore": {
		"engine/internal/iobuf", "engine/internal/latency", "engine/internal/report", "recovery", "segments",
		"segments/format", "mmapread", "iouring", "internal/vfs", "internal/invariants",
	},
	"engine/internal/report": {"recovery", "segments/format", "internal/vfs"},
	"engine/internal/snapshot": {
		"engine/internal/iobuf", "engine/internal/report", "recovery", "segments/format", "mmapread", "internal/vfs",
	},
	"engine/internal/pagemap": {
		"engine/internal/logstore", "engine/internal/blob", "engine/internal/snapshot", "engine/internal/pageids",
		"engine/internal/pagestack", "engine/internal/pagetable", "engine/internal/epoch", "engine/internal/iobuf",
		"engine/internal/roots", "engine/internal/txn", "engine/internal/history", "recovery", "segments/format",
		"internal/invariants",
	},
	"engine/internal/txn": {
		"engine/internal/pagestack", "engine/internal/history", "segments/format", "internal/invariants",
	},
	"engine/internal/clean": {
		"engine/internal/logstore", "engine/internal/iobuf", "engine/internal/epoch", "engine/internal/report",
		"segments", "segments/format", "internal/vfs",
	},
	"engine/internal/stream": {
		"engine/internal/logstore", "internal/vfs", "iouring", "mmapread", "recovery", "segments/format",
	},
	"engine/internal/scope": {
		"engine/internal/epoch", "engine/internal/report", "engine/internal/scratch", "lru", "segments/format",
		"internal/invariants",
	},
	"engine/internal/values": {
		"engine/internal/blob", "engine/internal/compress", "engine/internal/idgen", "engine/internal/logstore",
		"engine/internal/pagestack", "engine/internal/scope", "mmapread", "recovery", "segments/format", "internal/vfs",
	},
	"engine/internal/checkpoint": {
		"engine/internal/logstore", "engine/internal/blob", "engine/internal/snapshot", "engine/internal/scope",
		"engine/internal/iobuf", "recovery", "segments", "segments/format", "internal/vfs",
	},
	"engine/internal/salvage": {
		"engine/internal/logstore", "engine/internal/blob", "engine/internal/snapshot", "engine/internal/compress",
		"engine/internal/scratch", "recovery", "segments/format", "internal/vfs",
	},
	"engine": {
		"engine/internal/epoch", "engine/internal/pagetable", "engine/internal/pagestack", "engine/internal/iobuf",
		"engine/internal/logstore", "engine/internal/clean", "engine/internal/blob", "engine/internal/snapshot",
		"engine/internal/pagemap", "engine/internal/pageids", "engine/internal/idgen", "engine/internal/compress",
		"engine/internal/salvage", "engine/internal/scratch", "engine/internal/seam", "engine/internal/report",
		"engine/internal/checkpoint",
		"engine/internal/roots", "engine/internal/latency", "engine/internal/scope", "engine/internal/stream",
		"engine/internal/txn", "engine/internal/values", "engine/internal/history", "segments", "segments/format",
		"mmapread", "lru", "recovery", "internal/vfs", "internal/osfs", "internal/invariants",
	},
	"engine/internal/enginetest": { // a harness for tests
		"engine", "engine/internal/logstore", "engine/internal/seam", "recovery", "segments/format", "internal/simdisk",
		"internal/vfs", "internal/osfs", "internal/invariants",
	},
	"engine/internal/linear": {"engine", "engine/internal/seam"}, // tests, in a module of their own
	"engine/pagetest":        {"engine", "engine/internal/seam", "internal/simdisk"},
	"engine/examples/btree":  {"engine"}, // what an embedder may import
	"engine/statspage":       {"engine", "internal/htmlpage"},
	"engine/promstats":       {"engine"},                   // a module of its own
	"raft/raftlog":           {"engine", "raft/raftguard"}, // the last in tests; in a module of its own
	"raft/raftguard":         {},
	"raft/raftpages": { // the last in tests
		"engine", "internal/vfs", "internal/osfs", "raft/raftguard", "raft/raftlog",
	},
	"raft/internal/rafttest":     {"internal/simdisk", "raft/raftlog"}, // for tests
	"raft/migrate":               {"raft/raftlog"},
	"raft/cmd/pagesd":            {"engine", "engine/promstats", "raft/raftlog", "raft/raftpages"},
	"internal/htmlpage":          {"engine"},
	"internal/htmlpage/pagetest": {}, // a browser for tests
	"internal/machine":           {},
	"cmd/pcbench": {
		"engine", "engine/statspage", "segments/format", "internal/htmlpage", "internal/machine", "internal/versus",
	},
	"bench": {
		"engine", "engine/examples/btree", "internal/htmlpage", "internal/machine", "internal/versus", "raft/raftlog",
		"raft/raftpages",
	},
	"internal/versus":     {},
	"internal/apart":      {}, // for tests
	"internal/invariants": {},
	"internal/vfs":        {},
	"internal/osfs":       {"internal/vfs", "iouring", "mmapread"},
	"internal/simdisk":    {"internal/vfs"},
	"internal/lint":       {},
	"internal/mutants":    {},
}

// helpers lists the packages that tests may import in addition.
var helpers = []string{
	"engine/internal/enginetest", "internal/simdisk", "internal/vfs", "internal/osfs", "internal/invariants", "iouring",
	"iouring/internal/ringtest", "segments/format", "internal/htmlpage/pagetest", "engine/pagetest", "internal/apart",
	"raft/internal/rafttest",
}

// outside lists, for each module that is not ours, the packages that may import it.
var outside = map[string][]string{
	"golang.org/x/sys": {
		"iouring", "iouring/internal/ring", "mmapread", "internal/osfs", "cmd/pcbench", "bench",
	},
	"github.com/edsrzf/mmap-go":            {"mmapread"},
	"github.com/iceber/iouring-go/syscall": {"iouring/internal/ring"},
	"github.com/dgraph-io/ristretto":       {"lru"},
	"github.com/klauspost/compress":        {"engine", "engine/internal/compress"},
	"github.com/spf13/pflag":               {"cmd/pcbench", "bench"},
	"github.com/cockroachdb/pebble":        {"bench"},
	"github.com/anishathalye/porcupine":    {"engine/internal/linear", "raft/raftpages", "raft/cmd/pagesd"},
	"github.com/prometheus":                {"engine/promstats", "raft/cmd/pagesd"},
	"github.com/hashicorp": {
		"raft/raftlog", "raft/raftguard", "raft/internal/rafttest", "raft/raftpages", "raft/migrate",
		"raft/cmd/pagesd", "bench",
	},
	"go.etcd.io/bbolt": {"raft/migrate", "bench"},
}

// Packages import only packages that house and outside list for them. None uses cgo.
func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		allowed, known := house[owner(s.pkg)]
		if !known {
			t.Errorf("%s: package %q is not listed in internal/lint/imports_test.go", s.name, s.pkg)
			continue
		}
		for _, im := range s.ast.Imports {
			p, err := strconv.Unquote(im.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			switch own, isOwn := strings.CutPrefix(p, module+"/"); {
			case p == "C":
				t.Errorf("%s: cgo", s.at(im.Pos()))
			case isOwn:
				ok := slices.Contains(allowed, own) || owner(own) == owner(s.pkg)
				if !ok && !(s.test && slices.Contains(helpers, own)) {
					t.Errorf("%s: %s may not import %s", s.at(im.Pos()), s.pkg, own)
				}
			case strings.Contains(strings.SplitN(p, "/", 2)[0], "."):
				if !mayUse(p, s) {
					t.Errorf("%s: %s may not import %s", s.at(im.Pos()), s.pkg, p)
				}
			}
		}
	}
}

// owner returns the entry of house for a folder. Folders below a command or the benchmarks belong to those.
func owner(pkg string) string {
	for _, top := range []string{"cmd/pcbench", "bench"} {
		if strings.HasPrefix(pkg, top+"/") {
			return top
		}
	}
	return pkg
}

// mayUse reports whether a file may import a package that is not ours.
func mayUse(imported string, s *source) bool {
	for mod, users := range outside {
		if imported == mod || strings.HasPrefix(imported, mod+"/") {
			return slices.Contains(users, owner(s.pkg)) || s.test && mod == "golang.org/x/sys"
		}
	}
	return owner(s.pkg) == "bench"
}
