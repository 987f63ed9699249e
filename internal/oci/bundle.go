package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/monocrio/monocrio/internal/errs"
)

// ConfigFile is the name of a bundle's specification (OCI runtime-spec, bundle.md).
const ConfigFile = "config.json"

// LoadBundle reads the specification of a bundle and checks what every runtime
// needs: a root that is a folder. A missing or
// malformed file is KindInvalid and named with the place of the mistake.
func LoadBundle(dir string) (*specs.Spec, error) {
	path := filepath.Join(dir, ConfigFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errs.Invalid("cannot load bundle %s: it has no %s", dir, ConfigFile)
	case err != nil:
		return nil, fmt.Errorf("cannot load bundle %s: %w", dir, err)
	}
	spec, err := parseSpec(path, data)
	if err != nil {
		return nil, err
	}
	switch {
	case spec.Root == nil || spec.Root.Path == "":
		return nil, errs.Invalid("cannot load bundle %s: %s names no root.path", dir, path)
	case spec.Linux == nil:
		return nil, errs.Invalid("cannot load bundle %s: %s has no linux section", dir, path)
	}
	root := spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(dir, root)
	}
	if fi, err := os.Stat(root); err != nil || !fi.IsDir() {
		return nil, errs.Invalid("cannot load bundle %s: its root file system %s is not a folder", dir, root)
	}
	return spec, nil
}

// parseSpec decodes a specification and names line and offset of a mistake.
func parseSpec(path string, data []byte) (*specs.Spec, error) {
	var spec specs.Spec
	err := json.Unmarshal(data, &spec)
	if err == nil {
		return &spec, nil
	}
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	offset := int64(-1)
	if errors.As(err, &syntax) {
		offset = syntax.Offset
	} else if errors.As(err, &typ) {
		offset = typ.Offset
	}
	if offset < 0 || offset > int64(len(data)) {
		return nil, errs.Invalid("cannot read %s: %w", path, err)
	}
	line := 1 + bytes.Count(data[:offset], []byte{'\n'})
	return nil, errs.Invalid("cannot read %s: line %d, offset %d: %w", path, line, offset, err)
}

// WriteBundle writes a specification as dir/config.json, mode 0600, aside and
// renamed: a reader sees the old one or the new one. The folder must exist.
func WriteBundle(dir string, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err == nil {
		err = replaceFile(filepath.Join(dir, ConfigFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot write bundle %s: %w", dir, err)
	}
	return nil
}

// WritePidFile writes a pid as decimal text, aside and renamed, mode 0644.
func WritePidFile(path string, pid int) error {
	if err := replaceFile(path, fmt.Append(nil, pid), 0o644); err != nil {
		return fmt.Errorf("cannot write pid file %s: %w", path, err)
	}
	return nil
}

// replaceFile needs no sync: bundles and pid files lie on a tmpfs and mean
// nothing after a reboot.
func replaceFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// ExecProcess describes a command that is run beside a bundle's own process: like that
// one, with other arguments and a terminal or none. A size of zero is unknown.
func ExecProcess(bundle string, args []string, terminal bool, size Size) (*specs.Process, error) {
	if len(args) == 0 {
		return nil, errs.Invalid("the command is empty")
	}
	spec, err := LoadBundle(bundle)
	if err != nil {
		return nil, err
	}
	p := spec.Process
	if p == nil {
		return nil, errs.Invalid("bundle %s names no process", bundle)
	}
	p.Args, p.Terminal, p.ConsoleSize = args, terminal, nil
	if !terminal {
		return p, nil
	}
	if size != (Size{}) {
		p.ConsoleSize = &specs.Box{Width: uint(size.Width), Height: uint(size.Height)}
	}
	if !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return p, nil
}
