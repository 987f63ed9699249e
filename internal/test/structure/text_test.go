package structure

import (
	"go/ast"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// starters are the packages whose point is to run before main.
var starters = []string{"applets/early", "applets/early/initstage", "applets/early/runc", "applets/early/shimrun"}

// environment lists who may read it besides applets and the daemon, and why.
var environment = []string{
	"internal/step/crash_on.go",          // crash points: compiled in for tests only
	"internal/daemon/service/service.go", // what the service manager tells
	"internal/oci/libct/libct.go",        // libcontainer's own sign that a process is its init stage
}

var forbidden = []string{"util", "utils", "common", "types", "helpers", "helper", "lib", "manager", "pkg", "misc"}

func TestPackages(t *testing.T) {
	documented := map[string]bool{}
	parsed(t, func(r room, name string, fset *token.FileSet, file *ast.File) {
		if slices.Contains(forbidden, file.Name.Name) || slices.Contains(forbidden, path.Base(r.Name)) {
			t.Errorf("%s: the name says nothing", r.Name)
		}
		if file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != "" {
			if name := file.Name.Name; name != "main" && !strings.HasPrefix(file.Doc.Text(), "Package "+name+" ") {
				t.Errorf("%s: the package comment does not begin with \"Package %s\"", place(fset, file, r), name)
			}
			documented[r.Name] = true
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" && !slices.Contains(starters, r.Name) {
				t.Errorf("%s: importing a package has no effect", place(fset, f, r))
			}
		}
	})
	for _, r := range rooms(t) {
		if len(r.Files) > 0 && !documented[r.Name] {
			t.Errorf("%s has no package comment", r.Name)
		}
	}
}

// TestPackageLevel: nothing is computed when a package is linked. What the trace
// of the executable shows is checked too, in TestInit.
func TestPackageLevel(t *testing.T) {
	parsed(t, func(r room, name string, fset *token.FileSet, file *ast.File) {
		if r.isTest() {
			return
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			ast.Inspect(g, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncLit:
					return false
				case *ast.CompositeLit:
					if _, ok := n.Type.(*ast.MapType); ok && len(n.Elts) > 0 {
						t.Errorf("%s: a map filled at package level: use a switch, a slice or sync.OnceValue", place(fset, n, r))
					}
				case *ast.CallExpr:
					if s, ok := n.Fun.(*ast.SelectorExpr); ok && strings.HasPrefix(s.Sel.Name, "MustCompile") {
						t.Errorf("%s: a pattern compiled at package level: use sync.OnceValue", place(fset, n, r))
					}
				}
				return true
			})
		}
	})
}

func TestEnvironment(t *testing.T) {
	parsed(t, func(r room, name string, fset *token.FileSet, file *ast.File) {
		if r.isTest() || in(r.Name, "applets/...") || r.Name == "internal/daemon" || slices.Contains(environment, r.Name+"/"+name) {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				switch pkg, _ := s.X.(*ast.Ident); {
				case pkg == nil || pkg.Name != "os" && pkg.Name != "syscall" && pkg.Name != "unix":
				case s.Sel.Name == "Getenv" || s.Sel.Name == "LookupEnv" || s.Sel.Name == "ExpandEnv":
					t.Errorf("%s: the environment is read in applets and the daemon only", place(fset, n, r))
				}
			}
			return true
		})
	})
}

// Sizes, in lines without tests, and who is over them for now: the numbers may
// only shrink.
const (
	maxFunction = 60
	maxFile     = 600
	maxPackage  = 2500
)

var larger = map[string]int{}

func TestSizes(t *testing.T) {
	packages := map[string]int{}
	parsed(t, func(r room, name string, fset *token.FileSet, file *ast.File) {
		lines := fset.File(file.Pos()).LineCount()
		packages[r.Name] += lines
		check := func(what, at string, n, limit int) {
			if l, ok := larger[what]; ok {
				limit = l
			}
			if n > limit {
				t.Errorf("%s: %s has %d lines, limit %d", at, what, n, limit)
			}
		}
		check(r.Name+"/"+name, r.Name, lines, maxFile)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1
				check(r.Name+"."+f.Name.Name, place(fset, f, r), n, maxFunction)
			}
		}
	})
	for name, n := range packages {
		limit := maxPackage
		if l, ok := larger[name]; ok {
			limit = l
		}
		if n > limit {
			t.Errorf("%s has %d lines, limit %d", name, n, limit)
		}
	}
}

// TestDocumented: every exported name outside tests and main has a comment.
func TestDocumented(t *testing.T) {
	parsed(t, func(r room, _ string, fset *token.FileSet, file *ast.File) {
		if file.Name.Name == "main" {
			return
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
					t.Errorf("%s: %s has no comment", place(fset, d, r), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if name := undocumented(d, s); name != "" {
						t.Errorf("%s: %s has no comment", place(fset, s, r), name)
					}
				}
			}
		}
	})
}

// exportedReceiver tells whether a function is seen from outside. Methods that
// only make a type satisfy a known interface need no words.
func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	switch f.Name.Name {
	case "Error", "Unwrap", "String", "Is", "MarshalJSON", "UnmarshalJSON", "Write", "Read", "Close", "Len", "Less", "Swap":
		return false
	}
	e := f.Recv.List[0].Type
	if p, ok := e.(*ast.StarExpr); ok {
		e = p.X
	}
	if x, ok := e.(*ast.IndexExpr); ok {
		e = x.X
	}
	id, ok := e.(*ast.Ident)
	return ok && id.IsExported()
}

func undocumented(d *ast.GenDecl, s ast.Spec) string {
	switch s := s.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
			return s.Name.Name
		}
	case *ast.ValueSpec:
		for _, n := range s.Names {
			if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
				return n.Name
			}
		}
	}
	return ""
}

// TestTexts: no note to self is left and no path of the machine it was made on.
func TestTexts(t *testing.T) {
	notes := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`)
	home := regexp.MustCompile(`(^|[\s"'` + "`" + `(=:])/wor` + `k/`)
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if name := e.Name(); name == ".git" || p == filepath.Join(root, "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if e.Name() == ".git" { // of a second work tree
			return nil
		}
		if fi, err := e.Info(); err != nil || !fi.Mode().IsRegular() || fi.Size() > 1<<20 {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil || slices.Contains(data[:min(len(data), 512)], 0) {
			return err
		}
		for i, line := range strings.Split(string(data), "\n") {
			if notes.MatchString(line) || home.MatchString(line) {
				t.Errorf("%s:%s: %s", p, strconv.Itoa(i+1), strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
