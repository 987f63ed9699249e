package client

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/inspect"
)

func TestAges(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 0: "0s", 999 * time.Millisecond: "0s", 12 * time.Second: "12s", 192 * time.Second: "3m12s", 61 * time.Minute: "1h01m",
		5*time.Hour + 3*time.Minute: "5h03m", 47 * time.Hour: "47h00m", 52 * time.Hour: "2d4h"} {
		if got := age(d); got != want {
			t.Errorf("%v: %s, not %s", d, got, want)
		}
	}
	for s, want := range map[float64]string{0: "0.0ms", 0.0123: "12.3ms", 0.9994: "999.4ms", 1: "1.0s", 12.34: "12.3s", 192: "3m12s"} {
		if got := took(s); got != want {
			t.Errorf("%v: %s, not %s", s, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for text, want := range map[string]string{"": "", "cannot stop": "cannot stop", "pod " + id + ": a\nb\r\n": "pod 0123456789ab: a; b", id: "0123456789ab", "x" + id + "0": "x" + id + "0",
		"é" + id + "é, dead beef": "é0123456789abé, dead beef"} {
		if got := line(text); got != want {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}

// same compares a text with lines that are written without the margin of Go's source.
func same(t *testing.T, got string, want ...string) {
	t.Helper()
	if w := strings.Join(want, "\n") + "\n"; got != w {
		t.Errorf("\n%s\nnot\n%s", got, w)
	}
}

var (
	now   = time.Date(2026, 11, 28, 3, 0, 0, 0, time.Local)
	podID = strings.Repeat("a1", 32)
	ctrID = strings.Repeat("b2", 32)
)

func before(d time.Duration) *time.Time { t := now.Add(-d); return &t }

func sample() inspect.Pods {
	running := inspect.Member{Object: inspect.Object{ID: ctrID, Name: "app", Attempt: 2, State: "running", Since: before(3*time.Minute + 12*time.Second)}}
	ended := inspect.Member{Object: inspect.Object{ID: ctrID, Name: "init", State: "exited", Since: before(4 * time.Minute)}, Exit: &inspect.Exit{Code: 137, Reason: "OOMKilled"}}
	slow := &inspect.Event{At: *before(12 * time.Second), What: "network", Verb: "up", Seconds: 12, Running: true, WaitsFor: "CNI plugin slow: ADD", Tries: 2, Error: "no\nlease"}
	return inspect.Pods{Now: now, Pods: []inspect.Pod{
		{Object: inspect.Object{ID: podID, Name: "db", State: "ready", Since: before(5 * time.Minute)}, Namespace: "default", IPs: []string{"10.0.0.2"}, Containers: []inspect.Member{ended, running}},
		{Object: inspect.Object{ID: podID, Name: "web", State: "creating", Since: before(12 * time.Second), Doing: slow}, Namespace: "default"},
		{Object: inspect.Object{ID: podID, Name: "quiet", State: "ready", Since: nil}, Namespace: "kube-system"},
	}, Failed: []inspect.Failed{
		{Kind: "container", ID: ctrID, Name: "default/db/side", Pod: podID, At: *before(time.Minute), Times: 3, Error: "cannot create container side: no"},
		{Kind: "pod", ID: ctrID, Name: "default/lost", At: *before(time.Minute), Times: 1, Step: "files", Error: "cannot make pod " + ctrID + ": files: disk full"},
	}, Owed: []inspect.Debt{{Pod: ctrID, Name: "default/old", Network: "net", Since: *before(time.Hour), Tries: 4, Error: "refused"}}}
}

func TestPodTable(t *testing.T) {
	all := sample()
	all.Pods[1].ID, all.Pods[2].ID = ctrID, ctrID
	var b bytes.Buffer
	if err := podTable(&b, all, false); err != nil {
		t.Fatal(err)
	}
	same(t, b.String(),
		"STATE     FOR    POD AND CONTAINERS  ID            STEP     DETAIL",
		"ready     5m00s  default/db          a1a1a1a1a1a1           10.0.0.2",
		"exited    4m00s    init              b2b2b2b2b2b2           exit 137 OOMKilled",
		"running   3m12s    app #2            b2b2b2b2b2b2",
		"failed    1m00s    side              b2b2b2b2b2b2           3 times: cannot create container side: no",
		"creating  12s    default/web         b2b2b2b2b2b2  network  12.0s, waits for CNI plugin slow: ADD, try 2; before: no; lease",
		"ready     ?      kube-system/quiet   b2b2b2b2b2b2",
		"failed    1m00s  default/lost        b2b2b2b2b2b2  files    disk full",
		"owed      1h00m  default/old         b2b2b2b2b2b2  network  CNI DEL of network net, 5 tries: refused")
	b.Reset()
	if err := podTable(&b, all, true); err != nil || strings.Contains(b.String(), "quiet") || !strings.Contains(b.String(), "default/db") || strings.Contains(b.String(), "app #2") || !strings.Contains(b.String(), "init") {
		t.Errorf("%v\n%s", err, b.String())
	}
	b.Reset()
	if err := podTable(&b, inspect.Pods{}, false); err != nil || b.String() != "there are no pods\n" {
		t.Errorf("%v %q", err, b.String())
	}
}

// TestNarrow: a line does not wrap at a terminal's edge.
func TestNarrow(t *testing.T) {
	var b bytes.Buffer
	tab := newTable(&b, "A", "B")
	tab.row("one", "a text that is long")
	if err := tab.write(12); err != nil {
		t.Fatal(err)
	}
	same(t, b.String(), "A    B", "one  a text…")
	b.Reset()
	rude := newTable(&b, "A", "B")
	rude.row("\x1b[2J", "tab\tand\nline")
	if err := rude.whole(); err != nil {
		t.Fatal(err)
	}
	same(t, b.String(), "A     B", "?[2J  tab?and?line")
	b.Reset()
	tab.failure("two", "cannot do it: disk full")
	tab.failure("three with a long name", "x")
	if err := tab.write(34); err != nil {
		t.Fatal(err)
	}
	same(t, b.String(), "A                       B", "one                     a text th…", "two                     …disk full", "three with a long name  x")
}

func TestTimelineText(t *testing.T) {
	p := sample().Pods[1]
	p.Created = before(time.Hour)
	p.Timeline = []inspect.Event{
		{At: now.Add(-48 * time.Hour), What: "creating", Verb: "reached"},
		{At: *before(13 * time.Second), What: "files", Verb: "up", Seconds: 0.0012, Tries: 1},
		{At: *before(13 * time.Second), What: "cgroup", Verb: "down", Seconds: 0.5, Tries: 3, Error: "busy"},
		*p.Doing,
	}
	var b bytes.Buffer
	why := &inspect.Why{Now: now, Started: *before(time.Minute), Pod: &p, Owed: sample().Owed}
	if err := timeline(&b, why, ""); err != nil {
		t.Fatal(err)
	}
	same(t, b.String(),
		"pod default/web",
		"  id     "+podID,
		"  state  creating, for 12s",
		"  now    network, for 12.0s, waits for CNI plugin slow: ADD, try 2; before: no; lease",
		"",
		"  WHEN             TOOK          WHAT",
		"  Nov 26 03:00:00                is creating",
		"  02:59:47.000     1.2ms         files",
		"  02:59:47.000     500.0ms       undo cgroup  (try 3) failed: busy",
		"  02:59:48.000     12.0s so far  network      (try 2) waits for CNI plugin slow: ADD; before: no; lease",
		"",
		"owed: the CNI DEL of network net, since 02:00:00.000, tried 5 times",
		"  refused",
		"",
		"The daemon began at 02:59:00.000. Of what was done before, only states and results are known.")
}

func TestPullTable(t *testing.T) {
	total, left := int64(200e6), 30.2
	p := inspect.Pull{Image: "quay.io/a/b:1", Started: *before(40 * time.Second), Hosts: []string{"mirror", "quay.io"}, Done: 50e6, Total: &total, Rate: 5e6, LastByte: now, Left: &left,
		Layers: []inspect.Layer{{Digest: "sha256:" + podID, State: "unpacking", Done: 40e6, Size: 40e6}, {Digest: "sha256:" + ctrID, State: "fetching", Done: 10e6, Size: 160e6}}}
	silent := p
	silent.LastByte, silent.Layers, silent.Total, silent.Left = *before(time.Minute), nil, nil, nil
	var b bytes.Buffer
	if err := pullTable(&b, inspect.Pulls{Now: now, Pulls: []inspect.Pull{p, silent}, Recent: []inspect.Pull{{Image: "x", Started: *before(time.Hour), Ended: before(time.Minute), Error: "denied", Done: 12}}}); err != nil {
		t.Fatal(err)
	}
	same(t, b.String(),
		"STATE        FOR  DONE                      RATE          LEFT  FROM             IMAGE AND LAYERS",
		"fetching     40s  50.0 MB of 200.0 MB, 25%  5.0 MB/s      31s   mirror, quay.io  quay.io/a/b:1",
		"  unpacking       40.0 MB                                                          a1a1a1a1a1a1",
		"  fetching        10.0 MB of 160.0 MB, 6%                                          b2b2b2b2b2b2",
		"fetching     40s  50.0 MB                   silent 1m00s  ?     mirror, quay.io  quay.io/a/b:1",
		"",
		"ENDED   AGO    TOOK    BYTES  IMAGE  DETAIL",
		"failed  1m00s  59m00s  12 B   x      denied")
}

// TestMeant: whom an id or a name means.
func TestMeant(t *testing.T) {
	all := sample()
	all.Pods[1].ID, all.Pods[2].ID = strings.Repeat("c3", 32), strings.Repeat("c4", 32)
	all.Pods = append(all.Pods, inspect.Pod{Object: inspect.Object{ID: strings.Repeat("d5", 32), Name: "web"}, Namespace: "other"})
	all.Pods[0].Containers = all.Pods[0].Containers[1:]
	all.Failed, all.Owed = all.Failed[1:], nil
	all.Failed[0].ID = strings.Repeat("e6", 32)
	for id, want := range map[string]string{"db": "default/db ", "default/db": "default/db ", "a1": podID + " ", "b2": podID + " " + ctrID, "other/web": "other/web ", "lost": "default/lost ",
		"e6e6": strings.Repeat("e6", 32) + " ", "web": "! pods of 2 namespaces", "c": "! cannot tell", "none": "! there is no"} {
		pod, ctr, err := meant(&all, id)
		got := pod + " " + ctr
		if err != nil {
			got = "! " + err.Error()
		}
		if !strings.HasPrefix(got, want) || err == nil && got != want {
			t.Errorf("%s: %q, not %q", id, got, want)
		}
	}
}

// TestOtherDaemon: what answers at the socket may be no daemon of ours.
func TestOtherDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/pulls" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte("no JSON"))
	})}
	go srv.Serve(l)
	defer srv.Close()
	c := New("unix://" + path)
	if _, err := c.Pulls(t.Context()); err == nil || !strings.Contains(err.Error(), "does not know /v1/pulls") {
		t.Error(err)
	}
	if _, err := c.pods(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot read the daemon's answer") {
		t.Error(err)
	}
	srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	silent, err := net.Listen("unix", path+"2")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := New(path + "2").pods(ctx); err == nil || !strings.Contains(err.Error(), "does not answer in time") {
		t.Error(err)
	}
}
