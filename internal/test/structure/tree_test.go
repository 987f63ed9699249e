package structure

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	module = "github.com/monocrio/monocrio"
	root   = "../../.."

	// A module of ours that bears another's name, by a replace in go.mod: `./...`
	// does not reach it, but the rules do.
	nested     = "github.com/seccomp/libseccomp-golang"
	nestedRoom = "internal/linux/seccomp/libseccomp"
)

var update = flag.Bool("update", false, "write the lists in testdata anew")

// room is a package of ours as `go list` sees it; names are relative to the module.
type room struct {
	Name    string // "." is the root
	Dir     string
	Imports []string // ours relative, others in full
	Files   []string
	Tests   []string // test files, for the text rules
}

// goList runs `go list` with the tags of scripts/env, whatever the caller's are.
func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-c", `. scripts/env && exec go list "$@"`, "go"}, args...)...)
	cmd.Dir = root
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, errs.Bytes())
	}
	return out
}

func relative(path string) string {
	switch path {
	case module:
		return "."
	case nested:
		return nestedRoom
	}
	return strings.TrimPrefix(path, module+"/")
}

var listed struct {
	sync.Once
	rooms []room
}

// rooms lists all packages of the module and of the one nested in it.
func rooms(t *testing.T) []room {
	t.Helper()
	listed.Do(func() {
		dec := json.NewDecoder(bytes.NewReader(goList(t, "-json=ImportPath,Dir,Imports,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,IgnoredGoFiles", "./...", nested)))
		for {
			var p struct {
				ImportPath, Dir                                                       string
				Imports, GoFiles, CgoFiles, TestGoFiles, XTestGoFiles, IgnoredGoFiles []string
			}
			if err := dec.Decode(&p); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			r := room{Name: relative(p.ImportPath), Dir: p.Dir, Tests: append(p.TestGoFiles, p.XTestGoFiles...)}
			for _, i := range p.Imports {
				r.Imports = append(r.Imports, relative(i))
			}
			r.Files = append(p.GoFiles, p.CgoFiles...)
			for _, f := range p.IgnoredGoFiles { // other tags, other systems
				if strings.HasSuffix(f, "_test.go") {
					r.Tests = append(r.Tests, f)
				} else {
					r.Files = append(r.Files, f)
				}
			}
			listed.rooms = append(listed.rooms, r)
		}
	})
	if len(listed.rooms) < 40 {
		t.Fatalf("go list found %d packages only", len(listed.rooms))
	}
	return listed.rooms
}

// isTest tells whether a package exists for tests only.
func (r room) isTest() bool { return isTest(r.Name) }

func isTest(name string) bool {
	return strings.HasPrefix(name, "internal/test/") || strings.HasSuffix(name, "test") && strings.HasPrefix(name, "internal/")
}

// ours tells whether a name as in room.Imports is a package of this module. (The
// standard library's internal/ packages are in nobody else's imports.)
func ours(name string) bool {
	return name == "." || in(name, "applets/...") || strings.HasPrefix(name, "internal/")
}

// in tells whether a package is that one or, with a pattern that ends in "/...",
// in that folder.
func in(name, pattern string) bool {
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == folder || strings.HasPrefix(name, folder+"/")
	}
	return name == pattern
}

func inAny(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return in(name, p) })
}

// parsed calls f with every non-test file of ours, tests' helpers excluded.
func parsed(t *testing.T, f func(r room, name string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	for _, r := range rooms(t) {
		for _, name := range r.Files {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(r.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			f(r, name, fset, file)
		}
	}
}

// golden compares lines with a file in testdata, or writes it.
func golden(t *testing.T, file string, lines []string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(data)), "\n")
	var diff []string
	for _, l := range lines {
		if !slices.Contains(want, l) {
			diff = append(diff, "+ "+l)
		}
	}
	for _, l := range want {
		if !slices.Contains(lines, l) {
			diff = append(diff, "- "+l)
		}
	}
	if len(diff) > 0 {
		t.Errorf("%s differs; if that is meant, run with -update and say why in the commit:\n%s", path, strings.Join(diff, "\n"))
	}
}

func place(fset *token.FileSet, n ast.Node, r room) string {
	p := fset.Position(n.Pos())
	return fmt.Sprintf("%s/%s:%d", r.Name, filepath.Base(p.Filename), p.Line)
}
