package lint

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```$")
	goFence = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The files and headings that links in documents refer to exist.
func TestLinks(t *testing.T) {
	for _, name := range files(t, ".md") {
		text := fence.ReplaceAllString(read(t, name), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			target := name
			if to != "" {
				target = path.Join(path.Dir(name), to)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: link to %s: %v", name, m[1], err)
				continue
			}
			if anchor != "" && strings.HasSuffix(target, ".md") && !hasAnchor(read(t, target), anchor) {
				t.Errorf("%s: link to %s: no such heading", name, m[1])
			}
		}
	}
}

// hasAnchor reports whether a heading of the document has this anchor. GitHub makes anchors from headings this way.
func hasAnchor(text, anchor string) bool {
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		id := strings.Map(func(r rune) rune {
			switch {
			case r == ' ' || r == '-':
				return '-'
			case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, h[1])
		if id == anchor {
			return true
		}
	}
	return false
}

// tested lists the documents whose examples are part of tested code, and where that is.
var tested = map[string][]string{
	"README.md":                     {"engine/example_test.go", "engine/examples/btree/example_test.go"},
	"docs/MATERIALIZER.md":          {"engine/example_materializer_test.go"},
	"docs/REPLICATION.md":           {"raft/raftlog/example_test.go", "raft/raftpages/example_test.go"},
	"docs/TESTING-YOUR-DATABASE.md": {"engine/pagetest/book_test.go"},
}

// The examples in these documents are part of tested code.
func TestDocumentedExamples(t *testing.T) {
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	for doc, in := range tested {
		code := ""
		for _, name := range in {
			code += squeeze(read(t, name)) + "\n"
		}
		found := goFence.FindAllStringSubmatch(read(t, doc), -1)
		if len(found) == 0 {
			t.Errorf("%s has no example", doc)
		}
		for _, m := range found {
			if !strings.Contains(code, squeeze(m[1])) {
				t.Errorf("%q do not contain this example of %s:\n%s", in, doc, m[1])
			}
		}
	}
}

// The packages that commands in the documents name exist.
func TestNamedPackages(t *testing.T) {
	command := regexp.MustCompile("go (?:run|test|build|vet) [^`\n]*")
	named := regexp.MustCompile(`(?:^|\s)\./([\w/]+)`)
	for _, name := range files(t, ".md") {
		for _, c := range command.FindAllString(read(t, name), -1) {
			for _, m := range named.FindAllStringSubmatch(c, -1) {
				if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
					t.Errorf("%s: %q: %v", name, c, err)
				}
			}
		}
	}
}
