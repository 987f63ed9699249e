package puller

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/storage"
)

func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		where  string
		driver cgroup.Driver
		parent string
		want   string // "!": refused
	}{
		{"pod", cgroup.Cgroupfs, "/kubepods/p", "/kubepods/p"},
		{"pod", cgroup.Cgroupfs, "", ""},
		{"pod", cgroup.Cgroupfs, "p.slice", "!"},
		{"pulls.slice", cgroup.Systemd, "", "pulls.slice"},
		{"pulls.slice", cgroup.Cgroupfs, "", "!"},
		{"somewhere", cgroup.Systemd, "", "!"},
	} {
		o, err := New(c.where, c.driver, storage.Options{})
		got := ""
		if err == nil {
			got, err = o.Place(c.parent)
		}
		if err != nil {
			got = "!"
		}
		if got != c.want {
			t.Errorf("%q, cgroup parent %q: %q %v, want %q", c.where, c.parent, got, err, c.want)
		}
	}
	if o, err := New("", cgroup.Systemd, storage.Options{}); o != nil || err != nil {
		t.Error("without the option pulls go elsewhere:", o, err)
	}
}

func TestBrokenJob(t *testing.T) {
	if err := Run(strings.NewReader("x"), &bytes.Buffer{}, slog.Default()); err == nil || !strings.Contains(err.Error(), "job") {
		t.Error(err)
	}
}
