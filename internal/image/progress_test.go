package image

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/registry"
)

// sum adds up what is known of a pull's layers.
func (p Progress) sum() (done, total int64, states string) {
	var words []string
	for _, l := range p.Layers {
		done, total = done+l.Done, total+l.Size
		words = append(words, string(l.State))
	}
	return done, total, strings.Join(words, " ")
}

// TestProgress: layers, bytes and hosts of a pull in flight, and how pulls ended.
func TestProgress(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.Rules.ProgressTimeout = 2 * time.Second })
	shared := noise(200_000)
	small, _ := r.add("small", "v1", registry.Image{Compress: registry.Gzip}, shared)
	r.mustPull(small + ":v1")
	full, _ := r.add("big", "v1", registry.Image{Compress: registry.Gzip}, shared, noise(300_000), noise(300_000))
	r.reg.SetFaults(registry.Faults{Stall: time.Hour, BlobsOver: 10000})
	failed := make(chan error)
	go func() {
		_, err := r.pull(full + ":v1")
		failed <- err
	}()
	var p Progress
	eventually(t, "bytes of both layers come", func() bool {
		for _, x := range r.Pulls() {
			p = x.Progress()
		}
		_, _, states := p.sum()
		return states == "present fetching fetching" && p.Layers[1].Done > 0 && p.Layers[2].Done > 0
	})
	done, total, _ := p.sum()
	if p.Ref != full+":v1" || len(p.Hosts) != 1 || p.Hosts[0] != r.addr || done >= total || total < 600_000 || !p.Ended.IsZero() {
		t.Errorf("%+v", p)
	}
	if err := <-failed; err == nil {
		t.Fatal("the pull does not fail")
	}
	r.reg.SetFaults(registry.Faults{})
	r.mustPull(full + ":v1")
	ended := r.Ended()
	if len(ended) != 3 || ended[1].Err == "" || ended[1].Ended.IsZero() || ended[2].Err != "" || ended[2].ID == "" {
		t.Fatalf("%+v", ended)
	}
	for i, want := range map[int]string{0: "done", 2: "present done done"} {
		if done, total, states := ended[i].sum(); states != want || i == 0 && done != total {
			t.Errorf("pull %d: %d of %d bytes, %s", i, done, total, states)
		}
	}
	for range keptPulls + 2 {
		_, _ = r.pull(r.addr + "/none:v1")
	}
	if n := len(r.Ended()); n != keptPulls || len(r.Pulls()) != 0 {
		t.Errorf("%d are kept", n)
	}
}

// TestHosts: mirrors are named in the order in which they are asked.
func TestHosts(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.opts.Rules.RegistriesConf = r.file("mirrors.conf", "[[registry]]\nlocation = \"far.example\"\n[[registry.mirror]]\nlocation = \"near.example:5000/cache\"\n")
	})
	names, err := r.parse("far.example/a/b:1")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(hostsOf(r.sys(nil), names[0]), " "); got != "near.example:5000 far.example" {
		t.Error(got)
	}
}

// another is a process that pulls, but in this one.
type another struct{ opts Options }

func (a another) Place(parent string) (string, error) { return parent, nil }

func (a another) Start(_ context.Context, _ string, j Job) (io.ReadCloser, error) {
	out, in := io.Pipe()
	a.opts.Outside, a.opts.Rules = nil, j.Rules
	s := New(a.opts)
	go func() {
		defer s.Close()
		in.CloseWithError(s.Work(j, in))
	}()
	return out, nil
}

// TestProgressOutside: a pull by another process shows as much as one by the daemon.
func TestProgressOutside(t *testing.T) {
	r := newRig(t, nil)
	r.opts.Outside = another{r.opts}
	daemon := New(r.opts)
	defer daemon.Close()
	name, _ := r.add("outside", "v1", registry.Image{Compress: registry.Gzip}, noise(300_000), noise(300_000))
	r.reg.SetFaults(registry.Faults{Stall: 2 * time.Second, BlobsOver: 10000})
	done := make(chan error)
	go func() {
		_, err := daemon.PullFor(t.Context(), name+":v1", Auth{}, Pod{Cgroup: "/somewhere"})
		done <- err
	}()
	eventually(t, "layers, bytes, rate and host come", func() bool {
		for _, x := range daemon.Pulls() {
			p := x.Progress()
			_, total, states := p.sum()
			if states == "fetching fetching" && p.Bytes > 0 && p.Rate > 0 && total >= 600_000 && len(p.Hosts) == 1 && p.Ref == name+":v1" {
				return true
			}
		}
		return false
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ended := daemon.Ended()
	if got, total, states := ended[0].sum(); len(ended) != 1 || states != "done done" || got != total || ended[0].ID == "" || ended[0].Rate != 0 {
		t.Errorf("%+v", ended)
	}
}
