// Package module loads modules of the kernel as modprobe(8) does: by name or alias, with
// what they depend on, from the lists that depmod(8) writes.
package module

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is a folder of modules with depmod's lists.
type Tree string

// Running is the tree of the kernel that runs.
func Running() (Tree, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return Tree(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))), nil
}

// Load loads a module, or those that have the alias, after what they depend on. What is
// loaded or built in is success; fs.ErrNotExist: no module is meant by that name.
func (t Tree) Load(name string) error { return t.load(name, insert) }

func (t Tree) load(name string, insert func(path string) error) error {
	names, err := t.meant(name)
	if err != nil {
		return err
	}
	found := false
	for _, n := range names {
		files, err := t.files(n)
		if err != nil {
			return err
		}
		for i := len(files) - 1; i >= 0; i-- { // depmod writes what is needed first last
			if err := insert(filepath.Join(string(t), files[i])); err != nil {
				return err
			}
		}
		found = found || files != nil
	}
	if !found {
		return fmt.Errorf("cannot load %s: %s has no module of that name or alias: %w", name, t, fs.ErrNotExist)
	}
	return nil
}

// same makes one spelling of a module's name.
func same(name string) string { return strings.ReplaceAll(name, "-", "_") }

// nameOf is the name of a module in a file.
func nameOf(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return same(base)
}

// meant are the modules with that alias, else the one of that name.
func (t Tree) meant(name string) (names []string, err error) {
	err = t.lines("modules.alias", func(line string) bool {
		f := strings.Fields(line) // alias PATTERN MODULE
		if len(f) == 3 && f[0] == "alias" {
			if ok, _ := path.Match(f[1], name); ok || f[1] == same(name) {
				names = append(names, f[2])
			}
		}
		return true
	})
	if len(names) == 0 {
		names = []string{name}
	}
	return names, err
}

// files are a module's file and those that it depends on; empty for what is built in,
// nil if there is no such module.
func (t Tree) files(name string) (files []string, err error) {
	err = t.lines("modules.dep", func(line string) bool {
		file, needs, ok := strings.Cut(line, ":")
		if ok && nameOf(file) == same(name) {
			files = append([]string{file}, strings.Fields(needs)...)
		}
		return files == nil
	})
	if err != nil || files != nil {
		return files, err
	}
	err = t.lines("modules.builtin", func(line string) bool {
		if nameOf(line) == same(name) {
			files = []string{}
		}
		return files == nil
	})
	return files, err
}

// lines calls f with each line of a list until it returns false. A list that is not there
// is empty.
func (t Tree) lines(list string, f func(line string) bool) error {
	file, err := os.Open(filepath.Join(string(t), list))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewScanner(file)
	in.Buffer(nil, 1<<20)
	for in.Scan() && f(in.Text()) {
	}
	return in.Err()
}

// compressed is MODULE_INIT_COMPRESSED_FILE: the kernel unpacks it, if it was built with
// CONFIG_MODULE_DECOMPRESS.
const compressed = 4

func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot load a module: %w", err)
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = compressed
	}
	switch err := unix.FinitModule(int(f.Fd()), "", flags); {
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	case flags != 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)):
		return fmt.Errorf("cannot load %s: this kernel does not unpack modules (CONFIG_MODULE_DECOMPRESS); unpack them, and run depmod again: %w", file, err)
	default:
		return fmt.Errorf("cannot load %s: %w", file, err)
	}
}
