// Command order changes the order in which a linked Go executable initialises its
// packages.
//
//	order FILE PACKAGE...
//
// Go initialises packages in the order of their import paths, each after what it
// imports. For an executable of many applets that is a pity: a package that runs a
// small applet from its init function waits for many that merely have earlier
// names. Any order in which a package follows its imports is as good, so this
// command moves each PACKAGE, with all it imports, to the front, and leaves the
// rest as it was. FILE works the same without it, only later.
//
// The linker writes the order as one array of pointers to records named
// PATH..inittask, so FILE must be a static ELF executable with its symbols; strip
// it afterwards. What a PACKAGE imports is asked of `go list`, with the caller's
// GOFLAGS.
package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: order FILE PACKAGE...")
		os.Exit(2)
	}
	if err := reorder(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "order:", err)
		os.Exit(1)
	}
}

func reorder(path string, packages []string) error {
	at, order, err := read(path)
	if err != nil {
		return fmt.Errorf("cannot read the order of initialisation in %s: %w", path, err)
	}
	var front, rest []record
	for _, p := range packages {
		needed, err := imports(p)
		if err != nil {
			return err
		}
		rest = nil
		for _, r := range order {
			if needed[r.pkg] {
				front = append(front, r)
			} else {
				rest = append(rest, r)
			}
		}
		order = rest
	}
	var data []byte
	for _, r := range append(front, order...) {
		data = binary.LittleEndian.AppendUint64(data, r.address)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, at); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// record is the linker's note of one package's initialisation.
type record struct {
	pkg     string
	address uint64
}

// read returns where in the file the array of records stands, and what it holds.
func read(path string) (int64, []record, error) {
	e, err := elf.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer e.Close()
	if e.Class != elf.ELFCLASS64 || e.Data != elf.ELFDATA2LSB || e.Type != elf.ET_EXEC {
		return 0, nil, errors.New("not a static little-endian 64-bit executable")
	}
	symbols, err := e.Symbols()
	if err != nil {
		return 0, nil, err
	}
	names := map[uint64]string{}
	var array elf.Symbol
	for _, s := range symbols {
		if p, ok := strings.CutSuffix(s.Name, "..inittask"); ok {
			names[s.Value] = strings.ReplaceAll(p, "%2e", ".") // as the linker writes dots of the last element
		} else if s.Name == "go:main.inittasks" {
			array = s
		}
	}
	if array.Size == 0 || int(array.Section) >= len(e.Sections) {
		return 0, nil, errors.New("it has no symbol go:main.inittasks")
	}
	section := e.Sections[array.Section]
	offset := array.Value - section.Addr
	data := make([]byte, array.Size)
	if _, err := section.ReadAt(data, int64(offset)); err != nil {
		return 0, nil, err
	}
	var order []record
	for ; len(data) >= 8; data = data[8:] {
		a := binary.LittleEndian.Uint64(data)
		if names[a] == "" {
			return 0, nil, fmt.Errorf("entry %d is not a package's record", len(order))
		}
		order = append(order, record{names[a], a})
	}
	return int64(section.Offset + offset), order, nil
}

// imports returns a package and all it imports.
func imports(pkg string) (map[string]bool, error) {
	cmd := exec.Command("go", "list", "-deps", pkg)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list what %s imports: %w", pkg, err)
	}
	all := map[string]bool{}
	for _, p := range strings.Fields(string(out)) {
		all[p] = true
	}
	return all, nil
}
