package docs

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the folder with README.md and docs: this checkout, unless told otherwise.
func root() string {
	if dir := os.Getenv("MONOCRIO_DOCS"); dir != "" {
		return dir
	}
	return "../../.."
}

// generated are made from the program's own tables, which other tests hold; their examples
// show what may be typed and need no order.
func generated() []string {
	return []string{"docs/conmon.8.md", "docs/crio-status.8.md", "docs/crio.8.md", "docs/crio.conf.5.md", "docs/crio.conf.d.5.md", "docs/pinns.8.md", "docs/options.md"}
}

// elsewhere are documents whose commands another test runs, and that test.
func elsewhere() map[string][2]string {
	return map[string][2]string{
		"docs/installation.md": {"internal/test/bundle/docs_test.go", "TestInstallationGuide"},
		"docs/appliance.md":    {"internal/test/appliance/docs_test.go", "TestGuide"},
	}
}

func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == "systemctl" || name == "journalctl":
		os.Exit(askUnits(os.Args))
	case os.Getenv("MONOCRIO_DOCS_WORLD") != "":
		os.Exit(inside())
	}
	code := m.Run()
	if made.dir != "" {
		os.RemoveAll(made.dir)
	}
	os.Exit(code)
}

// documents are all that are held here, with their blocks.
func documents(t *testing.T) map[string][]*block {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root(), "docs/*.md"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no documents below %s: %v", root(), err)
	}
	all := map[string][]*block{}
	for _, f := range append(found, filepath.Join(root(), "README.md")) {
		rel, err := filepath.Rel(root(), f)
		if err != nil {
			t.Fatal(err)
		}
		if _, other := elsewhere()[rel]; other || slices.Contains(generated(), rel) {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		list, err := parse(filepath.Base(rel), string(data))
		if err != nil {
			t.Error(err)
			continue
		}
		all[rel] = list
	}
	return all
}

// TestEveryBlock: no command of a document goes unnoticed. parse refuses what would not
// be seen; the rest is run by TestDocuments or by the test that is named here.
func TestEveryBlock(t *testing.T) {
	documents(t)
	for doc, by := range elsewhere() {
		text, err := os.ReadFile(filepath.Join(root(), by[0]))
		if os.IsNotExist(err) && os.Getenv("MONOCRIO_DOCS") != "" {
			continue // documents without the sources
		}
		if err != nil || !strings.Contains(string(text), "func "+by[1]+"(") || !strings.Contains(string(text), `"`+doc+`"`) {
			t.Errorf("%s: its commands are not run by %s of %s (%v)", doc, by[1], by[0], err)
		}
	}
}

// TestLinks: what documents of ours link to is there.
func TestLinks(t *testing.T) {
	for doc := range documents(t) {
		data, err := os.ReadFile(filepath.Join(root(), doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(string(data), -1) {
			if _, err := os.Stat(filepath.Join(root(), filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", doc, m[1])
			}
		}
	}
}

// result is what became of a block.
type result struct {
	Name   string
	Skip   string // why it was not run
	Failed string
	Output string
	over   bool // no later block can run
}

// TestDocuments runs every command of the documents.
func TestDocuments(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, mounts, cgroups")
	}
	machine := os.Getenv("MONOCRIO_DOCS_MACHINE")
	for doc, list := range documents(t) {
		if !slices.ContainsFunc(list, func(b *block) bool { return b.Kind == "sh" }) {
			continue
		}
		if machine != "" && machine != filepath.Base(doc) {
			continue
		}
		t.Run(filepath.Base(doc), func(t *testing.T) {
			if os.Getenv("MONOCRIO_BIN") == "" {
				t.Skip("MONOCRIO_BIN names no executable")
			}
			p := newPlace(t, machine != "")
			results := p.run(doc)
			for _, b := range list {
				if b.Kind != "sh" {
					continue
				}
				t.Run(b.name(), func(t *testing.T) {
					r, ok := results[b.name()]
					t.Logf("%s--- printed:\n%s", b.Text, r.Output)
					switch {
					case !ok:
						t.Error("it was not reached")
					case r.Skip != "":
						t.Skip(r.Skip)
					case r.Failed != "":
						t.Error(r.Failed)
					}
				})
			}
		})
	}
}

// run has a document run in its world and tells what became of each block.
func (p *place) run(doc string) map[string]result {
	p.t.Helper()
	cmd := p.command(doc)
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	results := map[string]result{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			p.t.Errorf("the world says %q", lines.Text())
			continue
		}
		results[r.Name] = r
	}
	if err := cmd.Wait(); err != nil {
		p.t.Errorf("the world of %s: %v", doc, err)
	}
	return results
}
