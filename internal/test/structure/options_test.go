package structure

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/config"
)

var updateOptions = flag.Bool("update-options", false, "write docs/options.md anew")

// shown maps each option to the tests that show that it works: those whose comment has
// a line "Options: NAME, NAME...". A name is TABLE.KEY, or --FLAG.
func shown(t *testing.T) map[string][]string {
	all := map[string][]string{}
	for _, r := range rooms(t) {
		for _, name := range r.Tests {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(r.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || !strings.HasPrefix(f.Name.Name, "Test") {
					continue
				}
				for _, option := range optionsOf(f.Doc.Text()) {
					all[option] = append(all[option], r.Name+": "+f.Name.Name)
				}
			}
		}
	}
	return all
}

func optionsOf(doc string) (names []string) {
	_, list, ok := strings.Cut("\n"+doc, "\nOptions: ")
	if !ok {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n") // the list may have several lines
	for name := range strings.SplitSeq(list, ",") {
		names = append(names, strings.TrimSpace(name))
	}
	return names
}

// Each option has a test that shows that it works; docs/options.md says which. An option
// that is accepted without effect is shown to warn by TestWarnings.
func TestOptionsAreShown(t *testing.T) {
	tests, known := shown(t), map[string]bool{}
	var b strings.Builder
	b.WriteString("# Options and the tests that show that they work\n\nMade from the declarations in internal/config and the comments of the tests;\n" +
		"`go test ./internal/test/structure -update-options` writes it. That every option refuses wrong values, naming file and\n" +
		"line, is shown by internal/config: TestWrongValueOfEachOption; that each environment variable counts by TestEnvironment.\n\n" +
		"| option | flag | reload | tests |\n|---|---|---|---|\n")
	for _, o := range config.All() {
		name := o.Name()
		known[name] = true
		list := tests[name]
		if o.Inert != "" {
			if strings.Contains(o.Inert, "not built in yet") {
				t.Errorf("%s: its declaration does not say why it has no effect", name)
			}
			list = append(list, "internal/config: TestWarnings (no effect: "+o.Inert+")")
		}
		if len(list) == 0 {
			t.Errorf("no test says that it shows %s", name)
		}
		slices.Sort(list)
		row := func(b bool, yes string) string {
			if b {
				return yes
			}
			return ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, row(o.Flag != "", "--"+o.Flag), row(o.Live, "live"), strings.ReplaceAll(strings.Join(list, "<br>"), "|", "\\|"))
	}
	for name := range tests {
		if !known[name] {
			t.Errorf("%v: there is no option %s", tests[name], name)
		}
	}
	path := filepath.Join(root, "docs", "options.md")
	if *updateOptions {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != b.String() {
		t.Errorf("docs/options.md is not what the tests say; -update-options writes it (%v)", err)
	}
}
