package main

import (
	"os"
	"path/filepath"
	"testing"
)

// What `nix hash path` prints for the same folder.
func TestHash(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"a": "", "b.txt": "hello\n", "eight": "12345678", "sub/run": "#!/bin/sh\n"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o640)
		if name == "sub/run" {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../b.txt", filepath.Join(dir, "sub/link")); err != nil {
		t.Fatal(err)
	}
	got, err := hash(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := "sha256-vLOemSNZ8wAyisPw8y8UVxdPZGT1y0H9mG4tjrZwtUY="; got != want {
		t.Errorf("hash is %s, Nix says %s", got, want)
	}
}

func TestHashOfNothing(t *testing.T) {
	if _, err := hash(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a folder that is not there has a hash")
	}
}
