package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/monocrio/monocrio/internal/cni/owed"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// model is what a test says there is.
type model struct {
	pods    []state.Life[state.PodView]
	ctrs    []state.Life[state.ContainerView]
	losses  []step.Loss
	pending []step.Loss
	debts   []owed.Due
	broken  error
	stuck   chan struct{} // Debts waits for it
}

func (m *model) Lives() ([]state.Life[state.PodView], []state.Life[state.ContainerView]) {
	return m.pods, m.ctrs
}
func (m *model) Losses() []step.Loss  { return m.losses }
func (m *model) Pending() []step.Loss { return m.pending }
func (m *model) Debts() ([]owed.Due, error) {
	if m.stuck != nil {
		<-m.stuck
	}
	return m.debts, m.broken
}
func (m *model) Container(id string) (state.ContainerView, error) {
	for _, c := range m.ctrs {
		if strings.HasPrefix(c.View.ID, id) {
			return c.View, nil
		}
	}
	return state.ContainerView{}, errs.NotFound("container", id)
}
func (m *model) Pod(id string) (state.PodView, error) {
	for _, p := range m.pods {
		if strings.HasPrefix(p.View.ID, id) {
			return p.View, nil
		}
	}
	return state.PodView{}, errs.NotFound("pod sandbox", id)
}
func (m *model) Spec(string) (*specs.Spec, error) { return nil, errors.New("its bundle is gone") }
func (m *model) SetPaused(context.Context, string, bool) error {
	return errs.Errorf(errs.KindDeadline, "the runtime does not answer")
}

type noImages struct{}

func (noImages) Pulls() []*image.Pull    { return nil }
func (noImages) Ended() []image.Progress { return nil }

func id(c string) string { return strings.Repeat(c, 64) }

// aPod is one that was made so many minutes ago.
func aPod(letter, name string, minutes int, p state.Phase) state.Life[state.PodView] {
	return state.Life[state.PodView]{View: state.PodView{ID: id(letter), Request: state.PodRequest{Config: state.PodConfig{PodSandboxConfig: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "ns"}}}},
		Status: state.PodStatus{Phase: p, CreatedAt: time.Now().Add(-time.Duration(minutes) * time.Minute).UnixNano()}}}
}

func aCtr(letter, pod, name string) state.Life[state.ContainerView] {
	return state.Life[state.ContainerView]{View: state.ContainerView{ID: id(letter), Request: state.ContainerRequest{Pod: id(pod), Config: state.ContainerConfig{ContainerConfig: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}}}}, Status: state.ContainerStatus{Phase: state.Live, CreatedAt: time.Now().UnixNano()}}}
}

// get asks a server of the model.
func get(t *testing.T, m *model, path string, into any) (code int, body string) {
	t.Helper()
	h := New(Options{Model: m, Images: noImages{}, Log: slog.New(slog.DiscardHandler), PodDir: func(id string) string { return "/run/" + id }}).Handler
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	data, _ := io.ReadAll(w.Result().Body)
	if into != nil && w.Code == http.StatusOK {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
	}
	return w.Code, string(data)
}

// TestTree: what has no record, no record that can be read now, or no record yet.
func TestTree(t *testing.T) {
	m := &model{}
	busyPod, busyCtr := aPod("b", "busy", 5, ""), aCtr("2", "b", "c")
	busyPod.Busy, busyCtr.Busy = true, true
	m.pods = []state.Life[state.PodView]{aPod("c", "web", 1, state.Ready), busyPod}
	m.ctrs = []state.Life[state.ContainerView]{aCtr("1", "f", "orphan"), busyCtr, aCtr("3", "c", "app")}
	var tr step.Trail
	_, end := tr.Begin(t.Context(), step.Call, "find the image")
	defer end(nil)
	m.pending = []step.Loss{{Kind: "pod", ID: id("d"), Name: "ns/coming", At: time.Now()}, {Kind: "container", ID: id("4"), Name: "ns/web/side", Owner: id("c"), At: time.Now(), Trail: tr.Entries()},
		{Kind: "container", ID: id("3"), Name: "ns/web/app", Owner: id("c"), At: time.Now()}} // which is there already
	m.losses = []step.Loss{{Kind: "pod", Name: "ns/old", At: time.Now().Add(-2 * time.Hour)}, {Kind: "pod", Name: "ns/new", At: time.Now()}}
	var all Pods
	if code, body := get(t, m, "/v1/pods", &all); code != 200 {
		t.Fatal(code, body)
	}
	var got []string
	for _, p := range all.Pods {
		text := p.Name + "=" + p.State
		for _, c := range p.Containers {
			text += "+" + c.Name + "=" + c.State
			if c.Timeline != nil {
				t.Errorf("%s has its timeline in the list", c.Name)
			}
			if c.Doing != nil {
				text += "(" + c.Doing.What + ")"
			}
		}
		got = append(got, text)
	}
	if s := strings.Join(got, " "); s != "=gone+orphan=created busy=writing+c=writing coming=creating web=ready+app=created+side=creating(find the image)" {
		t.Error(s)
	}
	if len(all.Failed) != 1 || all.Failed[0].Name != "ns/new" {
		t.Errorf("%+v", all.Failed)
	}
	m.broken = errors.New("a record is damaged")
	if code, _ := get(t, m, "/v1/pods", &all); code != 200 || all.OwedUnknown != "a record is damaged" || len(all.Pods) != 4 {
		t.Errorf("%d %+v", code, all)
	}
}

// TestStuckDisk: a ledger that cannot be read does not hide the rest, also when asked
// for again.
func TestStuckDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &model{pods: []state.Life[state.PodView]{aPod("a", "web", 5, state.Ready)}, stuck: make(chan struct{})}
		h := New(Options{Model: m, Images: noImages{}, Log: slog.New(slog.DiscardHandler)}).Handler
		for range 3 {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/pods", http.NoBody))
			if body := w.Body.String(); !strings.Contains(body, "is the disk stuck?") || !strings.Contains(body, id("a")) {
				t.Error(body)
			}
		}
		close(m.stuck)
		synctest.Wait()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/pods", http.NoBody))
		if body := w.Body.String(); strings.Contains(body, "stuck") {
			t.Error(body)
		}
	})
}

// TestWhyOfNames: of pods with one name the newest is meant; what is left of one is
// found by its name too.
func TestWhyOfNames(t *testing.T) {
	m := &model{debts: []owed.Due{{Pod: id("e"), Name: "ns/web"}, {Pod: id("e"), Name: "ns/other"}}}
	m.pods = []state.Life[state.PodView]{aPod("a", "web", 5, state.NotReady), aPod("b", "web", 1, state.Ready), aPod("c", "web", 9, state.Removing)}
	m.losses = []step.Loss{{Kind: "container", ID: id("1"), Name: "ns/web/app", Owner: id("b")}, {Kind: "pod", ID: id("d"), Name: "ns/lost"}}
	for ask, want := range map[string][3]any{"ns/web": {id("b"), 1, 1}, id("a"): {id("a"), 0, 0}, "aa": {id("a"), 0, 0}, "ns/lost": {"", 1, 0}, id("d"): {"", 1, 0}, "ns/other": {"", 0, 1}} {
		var why Why
		code, body := get(t, m, "/v1/pods/"+url.PathEscape(ask), &why)
		pod := ""
		if why.Pod != nil {
			pod = why.Pod.ID
		}
		if code != 200 || [3]any{pod, len(why.Failed), len(why.Owed)} != want {
			t.Errorf("%s: %d %s", ask, code, body)
		}
	}
	if code, _ := get(t, m, "/v1/pods/none", nil); code != 404 {
		t.Error(code)
	}
}

// TestContainerWithoutBundle: one that is being removed has no root any more.
func TestContainerWithoutBundle(t *testing.T) {
	m := &model{pods: []state.Life[state.PodView]{aPod("a", "web", 5, state.NotReady)}, ctrs: []state.Life[state.ContainerView]{aCtr("1", "a", "app")}}
	var c Container
	if code, body := get(t, m, "/containers/"+id("1"), &c); code != 200 || c.Root != "" || c.Labels == nil || c.Annotations == nil || c.IPs == nil || c.Pid != 0 ||
		c.CrioAnnotations["io.kubernetes.cri-o.ResolvPath"] != "/run/"+id("a")+"/resolv.conf" || strings.Contains(body, "null") {
		t.Error(code, body)
	}
	if code, _ := get(t, m, "/containers/"+id("a"), &c); code != 200 || c.Name != "k8s_POD_web_ns__0" {
		t.Errorf("%d %+v", code, c)
	}
	if code, body := get(t, m, "/pause/"+id("1"), nil); code != 504 || !strings.Contains(body, "does not answer") {
		t.Error(code, body)
	}
	m.ctrs[0].View.Request.Pod = id("f") // its pod is gone
	if code, _ := get(t, m, "/containers/"+id("1"), nil); code != 404 {
		t.Error(code)
	}
}
