package lint

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// house says what each package may import of this module: docs/ARCHITECTURE.md draws the same. A package that is not here may not
// exist.
var house = map[string][]string{
	"segments/format":           {},
	"segments":                  {"segments/format"},
	"iouring":                   {},
	"mmapread":                  {},
	"lru":                       {},
	"recovery":                  {"segments", "segments/format"},
	"engine/internal/epoch":     {"internal/invariants"},
	"engine/internal/pagetable": {"segments/format", "internal/invariants"},
	"engine/internal/pagestack": {"segments/format", "internal/invariants"},
	"engine/internal/iobuf":     {"segments", "segments/format", "internal/vfs", "internal/invariants"},
	"engine": {"engine/internal/epoch", "engine/internal/pagetable", "engine/internal/pagestack", "engine/internal/iobuf", "segments",
		"segments/format", "iouring", "mmapread", "lru", "recovery", "internal/vfs", "internal/osfs", "internal/invariants"},
	"cmd/pcbench":         {"engine", "segments/format"},
	"bench":               {"engine"},
	"internal/invariants": {},
	"internal/vfs":        {},
	"internal/osfs":       {"internal/vfs", "iouring", "mmapread"},
	"internal/simdisk":    {"internal/vfs"},
	"internal/lint":       {},
}

// helpers are what tests may import beside.
var helpers = []string{"internal/simdisk", "internal/vfs", "internal/osfs", "internal/invariants", "iouring", "segments/format"}

// outside says which packages may import a module that is not ours.
var outside = map[string][]string{
	"golang.org/x/sys":                        {"iouring", "mmapread", "internal/osfs", "cmd/pcbench", "bench"},
	"github.com/edsrzf/mmap-go":               {"mmapread"},
	"github.com/iceber/iouring-go/syscall":    {"iouring"},
	"github.com/dgraph-io/ristretto":          {"lru"},
	"github.com/klauspost/compress":           {"engine"},
	"github.com/HdrHistogram/hdrhistogram-go": {"cmd/pcbench", "bench"},
	"github.com/spf13/pflag":                  {"cmd/pcbench", "bench"},
	"github.com/cockroachdb/pebble":           {"bench"},
}

// Imports run as the house is built: down, without cycles, and no siblings. There is no cgo.
func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		allowed, known := house[owner(s.pkg)]
		if !known {
			t.Errorf("%s: package %q has no place in the house (see internal/lint/imports_test.go)", s.name, s.pkg)
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
				ok := slices.Contains(allowed, own) || owner(own) == owner(s.pkg) || s.test && slices.Contains(helpers, own)
				if !ok {
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

// owner is the package of the house that a folder belongs to: commands and benchmarks may have packages of their own.
func owner(pkg string) string {
	for _, top := range []string{"cmd/pcbench", "bench"} {
		if strings.HasPrefix(pkg, top+"/") {
			return top
		}
	}
	return pkg
}

func mayUse(imported string, s *source) bool {
	for mod, users := range outside {
		if imported == mod || strings.HasPrefix(imported, mod+"/") {
			return slices.Contains(users, owner(s.pkg)) || s.test && mod == "golang.org/x/sys"
		}
	}
	return owner(s.pkg) == "bench"
}
