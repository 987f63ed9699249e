// Command narhash prints the hash by which Nix knows a folder: that of its archive
// format, as an SRI string. Nix itself is not needed.
//
//	go run ./scripts/narhash FOLDER
//
// The archive has names, contents, targets of links and whether a file may be
// executed; no owners, times or other modes.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: narhash FOLDER")
		os.Exit(2)
	}
	sum, err := hash(os.Args[1])
	if err != nil {
		fmt.Fprintf(os.Stderr, "narhash: cannot hash %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	fmt.Println(sum)
}

func hash(path string) (string, error) {
	h := sha256.New()
	w := archive{bufio.NewWriter(h)}
	w.words("nix-archive-1")
	if err := w.node(path); err != nil {
		return "", err
	}
	if err := w.Flush(); err != nil {
		return "", err
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(h.Sum(nil)), nil
}

// archive is written to; an error of writing shows when it is flushed.
type archive struct{ *bufio.Writer }

// words writes strings as the format does: length, bytes, zeros up to eight.
func (w archive) words(words ...string) {
	for _, s := range words {
		w.length(int64(len(s)))
		_, _ = w.WriteString(s)
		w.pad(int64(len(s)))
	}
}

func (w archive) length(n int64) {
	_, _ = w.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

func (w archive) pad(n int64) {
	_, _ = w.Write(make([]byte, -n&7))
}

func (w archive) node(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	w.words("(", "type")
	switch info.Mode().Type() {
	case fs.ModeDir:
		err = w.folder(path)
	case fs.ModeSymlink:
		var target string
		target, err = os.Readlink(path)
		w.words("symlink", "target", target)
	case 0:
		w.words("regular")
		if info.Mode()&0o100 != 0 {
			w.words("executable", "")
		}
		err = w.contents(path, info.Size())
	default:
		err = fmt.Errorf("%s is not a file, folder or link", path)
	}
	w.words(")")
	return err
}

func (w archive) folder(path string) error {
	w.words("directory")
	entries, err := os.ReadDir(path) // sorted by bytes, as the format wants
	if err != nil {
		return err
	}
	for _, e := range entries {
		w.words("entry", "(", "name", e.Name(), "node")
		if err := w.node(filepath.Join(path, e.Name())); err != nil {
			return err
		}
		w.words(")")
	}
	return nil
}

func (w archive) contents(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w.words("contents")
	w.length(size)
	if _, err := io.CopyN(w, f, size); err != nil {
		return fmt.Errorf("%s changed meanwhile: %w", path, err)
	}
	w.pad(size)
	return nil
}
