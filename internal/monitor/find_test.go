package monitor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	file, bundle := filepath.Join(dir, "pid"), filepath.Join(dir, "bundle")
	cmd := exec.Command("sh", "-c", "read x", "monitor", "-b", bundle)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	if _, ok := Find(bundle, file); ok {
		t.Error("found without a pid file")
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if id, ok := Find(bundle, file); !ok || id.Pid != cmd.Process.Pid || !id.Alive() {
		t.Errorf("%v %v", id, ok)
	}
	if _, ok := Find(bundle+"2", file); ok {
		t.Error("found for a bundle that is not among the arguments")
	}
}
