package logs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/monitor/contract"
)

func open(o *Options, warn func(string)) (*Logs, error) {
	l := &Logs{}
	return l, l.Open(o, warn)
}

// newLog makes a log on a file; what it warns of is an error.
func newLog(t testing.TB, o Options) (*Logs, string) {
	path := filepath.Join(t.TempDir(), "log")
	o.Paths = append(o.Paths, path)
	l, err := open(&o, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(false) })
	return l, path
}

// plainText takes the times off and joins partial records.
func plainText(t *testing.T, path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 || len(f[0]) != 35 || f[1] != "stdout" {
			t.Fatalf("a torn record %q", line)
		}
		if f[2] == "P" {
			f[3] = strings.TrimSuffix(f[3], "\n")
		}
		out.WriteString(f[3])
	}
	return out.String()
}

// TestLines feeds a text in pieces of every kind, as reads from a pipe come.
func TestLines(t *testing.T) {
	var want bytes.Buffer
	for i := range 300 {
		want.WriteString(strings.Repeat("x", i*i%9001) + "\n")
	}
	for _, piece := range []int{1, 7, 100, 8191, 8192, 8193, 65536} {
		l, path := newLog(t, Options{})
		s := &Stream{Name: "stdout", Priority: '6'}
		stamp := l.Stamp()
		data := want.Bytes()
		if piece == 1 {
			data = data[:20000]
		}
		kept := []byte{}
		for rest := data; len(rest) > 0; {
			n := min(piece, len(rest))
			kept = append(kept, rest[:n]...)
			rest = rest[n:]
			kept = kept[l.Lines(s, kept, stamp, len(kept)%3 == 0):]
			if len(kept) >= contract.MaxOutput {
				t.Fatalf("%d bytes were kept back", len(kept))
			}
		}
		l.Lines(s, kept, stamp, true)
		l.Finish(s)
		l.Flush()
		wanted := string(data)
		if !strings.HasSuffix(wanted, "\n") {
			wanted += "\n"
		}
		if got := plainText(t, path); got != wanted {
			t.Errorf("pieces of %d: %d bytes, not %d", piece, len(got), len(wanted))
		}
		if st, _ := os.Stat(path); st.Size() != l.files[0].size {
			t.Errorf("size %d, counted %d", st.Size(), l.files[0].size)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	l, path := newLog(t, Options{SizeMax: 1000})
	s := &Stream{Name: "stdout", Priority: '6'}
	for i := range 500 {
		l.Lines(s, []byte(strings.Repeat("y", i)+"\n"), l.Stamp(), true)
		if i%7 == 0 {
			l.Flush()
			if st, _ := os.Stat(path); st.Size() > 1000 {
				t.Fatalf("%d bytes", st.Size())
			}
		}
	}
	l.Lines(s, []byte(strings.Repeat("z", 5000)+"\n"), l.Stamp(), true)
	l.Flush()
	if got := plainText(t, path); got != strings.Repeat("z", 5000)+"\n" {
		t.Errorf("a record longer than the limit: %d bytes", len(got))
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	l, _ := newLog(t, Options{})
	s := &Stream{Name: "stdout", Priority: '6'}
	data := []byte(strings.Repeat("some text\n", 1000) + "rest")
	if n := testing.AllocsPerRun(20, func() {
		l.Lines(s, data, l.Stamp(), true)
		l.Flush()
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLines(b *testing.B) {
	l, err := open(&Options{Paths: []string{"/dev/null"}}, func(string) {})
	if err != nil {
		b.Fatal(err)
	}
	s := &Stream{Name: "stdout", Priority: '6'}
	data := bytes.Repeat([]byte("2026-01-01 INFO a line of about eighty bytes, as programs are wont to write them.\n"), 700)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		l.Lines(s, data, l.Stamp(), true)
		l.Flush()
	}
}
