package format

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"strings"
	"testing"
)

// 32-bit systems are refused when the module is built, and 64-bit ones are not.
func Test32BitSystemsAreRefused(t *testing.T) {
	for arch, want := range map[string]bool{
		"386": true, "arm": true, "mips": true, "mipsle": true,
		"amd64": false, "arm64": false, "loong64": false, "mips64": false, "mips64le": false, "ppc64": false,
		"ppc64le": false, "riscv64": false, "s390x": false,
	} {
		c := build.Default
		c.GOOS, c.GOARCH = "linux", arch
		if got, err := c.MatchFile(".", "bits32.go"); err != nil || got != want {
			t.Errorf("%s: refused %v, want %v: %v", arch, got, want, err)
		}
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "bits32.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = new(types.Config).Check("format", fset, []*ast.File{f}, nil)
	if err == nil || !strings.Contains(err.Error(), "undefined: pagecacheNeeds64BitSystem") {
		t.Errorf("the file compiles, or for another reason does not: %v", err)
	}
}
