package secrets

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func file(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCopies(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	file(t, src+"/a", "one")
	file(t, src+"/sub/b", "two")
	real := file(t, dir+"/real", "three")
	os.Symlink(real, src+"/link")
	os.Symlink("/no/such", src+"/dangling")
	conf := file(t, dir+"/mounts.conf", "# secrets\n\n"+src+":/run/secrets\n"+real+"\n/no/such:/x\n")
	other := file(t, dir+"/other.conf", "/etc:/masked\n")
	list, err := Read(dir+"/absent", conf, other)
	if err != nil || len(list) != 3 || list[1].Dest != real {
		t.Fatal(list, err)
	}
	got, err := Copy(list, filepath.Join(dir, "out"), 7, 8)
	if err != nil || len(got) != 2 || got[0].Dest != "/run/secrets" {
		t.Fatal(got, err)
	}
	for name, want := range map[string]string{"a": "one", "sub/b": "two", "link": "three"} {
		data, err := os.ReadFile(filepath.Join(got[0].Path, name))
		if string(data) != want {
			t.Errorf("%s: %q %v", name, data, err)
		}
		if fi, _ := os.Lstat(filepath.Join(got[0].Path, name)); fi == nil || fi.Mode() != 0o640 {
			t.Errorf("%s: %v, want a regular file of mode 0640", name, fi)
		}
	}
	if _, err := os.Lstat(filepath.Join(got[0].Path, "dangling")); err == nil {
		t.Error("a link that leads nowhere was copied")
	}
}

func TestBounds(t *testing.T) {
	dir := t.TempDir()
	file(t, dir+"/big/x", strings.Repeat("x", maxBytes+1))
	if _, err := Copy([]Entry{{dir + "/big", "/d"}}, dir+"/out", 0, 0); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("too many bytes: %v", err)
	}
	os.MkdirAll(dir+"/loop", 0o755)
	os.Symlink(dir+"/loop", dir+"/loop/again")
	if _, err := Copy([]Entry{{dir + "/loop", "/d"}}, dir+"/out2", 0, 0); err == nil {
		t.Error("a folder that holds itself is copied")
	}
}

func TestWrongLines(t *testing.T) {
	for _, line := range []string{"relative:/x", "/x:relative", "/x:/"} {
		if _, err := Read(file(t, t.TempDir()+"/c", "\n"+line)); err == nil || !strings.Contains(err.Error(), ":2:") {
			t.Errorf("%q: %v", line, err)
		}
	}
	if list, err := Read("/no/such"); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
}
