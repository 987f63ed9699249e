package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// say logs numbers, one a line.
func say(l *Logs, from, to int) {
	s := &Stream{Name: "stdout", Priority: '6'}
	for n := from; n < to; n++ {
		l.Lines(s, fmt.Appendf(nil, "%d\n", n), l.Stamp(), true)
		if n%3 == 0 {
			l.Flush()
		}
	}
	l.Flush()
}

// TestRotate: nothing is lost at the seams, and the oldest goes.
func TestRotate(t *testing.T) {
	l, path := newLog(t, Options{SizeMax: 1000, Rotate: true, MaxFiles: 3})
	say(l, 1000, 1100)
	var all string
	for _, name := range []string{path + ".3", path + ".2", path + ".1", path} {
		if st, err := os.Stat(name); err != nil || st.Size() > 1000 || st.Mode() != 0o640 {
			t.Errorf("%s: %v %v", name, st, err)
		}
		all += plainText(t, name)
	}
	var want strings.Builder
	for n := range 100 {
		fmt.Fprintln(&want, 1000+n)
	}
	if !strings.HasSuffix(want.String(), all) || len(all) < 3*5*18 {
		t.Errorf("the files hold %q", all)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 3 {
		t.Errorf("files: %v", left)
	}
}

// TestRotateFails: what cannot be moved away goes on being written.
func TestRotateFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.MkdirAll(path+".1/x", 0o755); err != nil {
		t.Fatal(err)
	}
	var warned []string
	l, err := open(&Options{Paths: []string{path}, SizeMax: 500, Rotate: true, MaxFiles: 1}, func(s string) { warned = append(warned, s) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(false)
	say(l, 1000, 1020)
	if got := plainText(t, path); !strings.HasPrefix(got, "1000\n") || !strings.HasSuffix(got, "1019\n") {
		t.Errorf("the file holds %q", got)
	}
	if len(warned) == 0 || !strings.Contains(warned[0], path+".1") {
		t.Errorf("warnings %q", warned)
	}
}

// TestGlobalLimit: the beginning is kept, without gaps, over all rotations.
func TestGlobalLimit(t *testing.T) {
	for _, rotate := range []bool{false, true} {
		l, path := newLog(t, Options{GlobalMax: 500, Rotate: rotate, MaxFiles: 5, SizeMax: map[bool]int64{true: 200}[rotate]})
		say(l, 1000, 1008)
		s := &Stream{Name: "stdout"}
		l.Lines(s, []byte(strings.Repeat("x", 300)+"\n"), l.Stamp(), true)
		say(l, 1009, 1100)
		got, size := "", int64(0)
		for _, name := range []string{path + ".3", path + ".2", path + ".1", path} {
			if st, err := os.Stat(name); err == nil {
				got += plainText(t, name)
				size += st.Size()
			}
		}
		if got != "1000\n1001\n1002\n1003\n1004\n1005\n1006\n1007\n" || size > 500 {
			t.Errorf("rotate %v: %d bytes, %q", rotate, size, got)
		}
	}
}

func TestAllowed(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"good/sub", "goodish", "bad"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("../bad", filepath.Join(dir, "good/out"))
	os.Symlink("good/sub", filepath.Join(dir, "in"))
	os.Symlink("../bad/file", filepath.Join(dir, "good/link"))
	for path, want := range map[string]bool{
		"good/log": true, "good/sub/log": true, "in/log": true, "good/../good/log": true,
		"bad/log": false, "goodish/log": false, "good/out/log": false, "good/../bad/log": false, "good/link": false, "good/absent/log": false,
	} {
		o := Options{Paths: []string{dir + "/" + path}, Allowed: []string{"/no/such", dir + "/good/"}}
		l, err := open(&o, func(s string) { t.Error(s) })
		if (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			l.Close(false)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the error does not name it: %v", path, err)
		}
	}
	if left, _ := filepath.Glob(dir + "/bad/*"); len(left) > 0 {
		t.Errorf("written: %v", left)
	}
}

// TestTwoFiles: every driver gets everything.
func TestTwoFiles(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other")
	l, path := newLog(t, Options{Paths: []string{other}})
	say(l, 1000, 1010)
	if a, b := plainText(t, path), plainText(t, other); a != b || len(a) != 50 {
		t.Errorf("%q and %q", a, b)
	}
}
