package inspect

import (
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/cni/owed"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lossAge is how long a failure is shown among the living: whoever wanted the pod has
// tried again since, or wants it no more.
const lossAge = time.Hour

// pods answers with everything that lives, failed or owes.
func (s *server) pods() *Pods {
	out := &Pods{Now: time.Now(), Started: s.started, Pods: s.tree(), Failed: []Failed{}, Owed: []Debt{}}
	for i := range out.Pods {
		out.Pods[i].Timeline = nil
		for j := range out.Pods[i].Containers {
			out.Pods[i].Containers[j].Timeline = nil
		}
	}
	for _, l := range s.Model.Losses() {
		if out.Now.Sub(l.At) > lossAge {
			continue
		}
		f := failed(l)
		f.Timeline = nil
		out.Failed = append(out.Failed, f)
	}
	debts, err := s.debts()
	for _, d := range debts {
		out.Owed = append(out.Owed, debt(d))
	}
	out.OwedUnknown = err
	return out
}

// debtTime is how long the ledger may take. It is on the disk, which may be what is
// wrong, and then the rest must be told without it.
const debtTime = 500 * time.Millisecond

// debts reads the ledger; unknown says why that could not be done.
func (s *server) debts() (list []owed.Due, unknown string) {
	type answer struct {
		list []owed.Due
		err  error
	}
	late := time.After(debtTime)
	got := make(chan answer, 1)
	select {
	case s.ledger <- struct{}{}:
		go func() {
			defer func() { <-s.ledger }()
			l, err := s.Model.Debts()
			got <- answer{l, err}
		}()
	case <-late: // an earlier reading hangs
		return nil, stuck
	}
	select {
	case a := <-got:
		if a.err != nil {
			unknown = a.err.Error()
		}
		return a.list, unknown
	case <-late:
		return nil, stuck
	}
}

const stuck = "the ledger in state_dir cannot be read: is the disk stuck?"

// why answers about one pod, named by its id, the beginning of it, or NAMESPACE/NAME.
func (s *server) why(id string) (*Why, error) {
	all, named := s.tree(), strings.Contains(id, "/")
	out := &Why{Now: time.Now(), Started: s.started, Failed: []Failed{}, Owed: []Debt{}}
	means := func(x, name string) bool {
		return named && name == id || !named && len(id) > 0 && strings.HasPrefix(x, id)
	}
	for i := range all {
		p := &all[i]
		if !means(p.ID, p.Namespace+"/"+p.Name) {
			continue
		}
		if out.Pod != nil && out.Pod.ID != id { // of a name the newest
			if !named {
				return nil, errs.Invalid("cannot tell which pod is meant by %q: several ids begin so", id)
			}
			if byTime(out.Pod.Created, p.Created) > 0 {
				continue
			}
		}
		out.Pod = p
	}
	for _, l := range s.Model.Losses() {
		of := l.ID
		if l.Kind != "pod" {
			of = l.Owner
		}
		if means(of, podOf(l)) || out.Pod != nil && of == out.Pod.ID {
			out.Failed = append(out.Failed, failed(l))
		}
	}
	debts, unknown := s.debts()
	for _, d := range debts {
		if means(d.Pod, d.Name) || out.Pod != nil && d.Pod == out.Pod.ID {
			out.Owed = append(out.Owed, debt(d))
		}
	}
	if out.OwedUnknown = unknown; out.Pod == nil && len(out.Failed) == 0 && len(out.Owed) == 0 {
		return nil, errs.NotFound("pod", id)
	}
	return out, nil
}

// podOf is the name of the pod that a loss is about.
func podOf(l step.Loss) string {
	if l.Kind == "pod" {
		return l.Name
	}
	return l.Name[:strings.LastIndexByte(l.Name, '/')]
}

// States of what the records do not tell: a pod whose record is lost, and an object
// whose record is being written.
const (
	gone    = "gone"
	writing = "writing"
)

const busy = "its record is being written, and that takes long: is the disk of state_dir full or stuck?"

// tree is all pods with their containers, by name, and what hangs above the rest.
func (s *server) tree() []Pod {
	pending := s.Model.Pending() // first: what begins to live meanwhile is in both
	pods, ctrs := s.Model.Lives()
	out := make([]Pod, 0, len(pods))
	at := map[string]int{}
	for i := range pods {
		at[pods[i].View.ID] = i
		out = append(out, podAnswer(&pods[i]))
	}
	out = withMembers(out, at, ctrs, pending)
	for i := range out {
		slices.SortFunc(out[i].Containers, func(a, b Member) int { return byTime(a.Created, b.Created) })
	}
	slices.SortFunc(out, func(a, b Pod) int {
		if c := strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name); c != 0 {
			return c
		}
		return byTime(a.Created, b.Created)
	})
	return out
}

// withMembers adds containers to their pods, and what is about to be made; at tells
// where a pod is in the list.
func withMembers(out []Pod, at map[string]int, ctrs []state.Life[state.ContainerView], pending []step.Loss) []Pod {
	under := func(pod string) *Pod {
		if _, ok := at[pod]; !ok { // its record is lost: only its containers are left
			at[pod] = len(out)
			out = append(out, Pod{Object: Object{ID: pod, State: gone}, IPs: []string{}, Containers: []Member{}})
		}
		return &out[at[pod]]
	}
	known := map[string]bool{}
	for i := range ctrs {
		p := under(ctrs[i].View.Request.Pod)
		p.Containers = append(p.Containers, member(&ctrs[i]))
		known[ctrs[i].View.ID] = true
	}
	for _, l := range pending {
		o := object(l.ID, l.Name[strings.LastIndexByte(l.Name, '/')+1:], 0, l.Trail)
		o.State, o.Since, o.Created = string(state.Creating), &l.At, &l.At
		if _, there := at[l.ID]; l.Kind == "pod" && !there {
			namespace, _, _ := strings.Cut(l.Name, "/")
			at[l.ID] = len(out)
			out = append(out, Pod{Object: o, Namespace: namespace, IPs: []string{}, Containers: []Member{}})
		} else if l.Kind != "pod" && !known[l.ID] {
			p := under(l.Owner)
			p.Containers = append(p.Containers, Member{Object: o})
		}
	}
	return out
}

// byTime puts what has no time yet last.
func byTime(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Compare(*b)
}

func podAnswer(l *state.Life[state.PodView]) Pod {
	v, c := &l.View, l.View.Request.Config
	md := c.GetMetadata()
	p := Pod{Object: object(v.ID, md.GetName(), md.GetAttempt(), l.Trail), Namespace: md.GetNamespace(), UID: md.GetUid(),
		Handler: v.Request.Handler, IPs: append([]string{}, v.Status.IPs...), Containers: []Member{}, Owed: v.Status.Owed}
	if l.Busy {
		p.State, p.Problem = writing, busy
		return p
	}
	p.State, p.Created = string(v.Status.Phase), stamp(v.Status.CreatedAt)
	p.Timeline = recorded(p.Timeline, string(state.Creating), v.Status.CreatedAt)
	p.Since = reached(l.Trail, p.State)
	if p.Since == nil && (v.Status.Phase == state.Ready || v.Status.Phase == state.Creating) {
		p.Since = p.Created // a pod is ready moments after its making began
	}
	return p
}

func member(l *state.Life[state.ContainerView]) Member {
	v, c, st := &l.View, l.View.Request.Config, l.View.Status
	md := c.GetMetadata()
	m := Member{Object: object(v.ID, md.GetName(), md.GetAttempt(), l.Trail), Image: v.Request.Image.Name, Log: v.Request.LogPath}
	if l.Busy {
		m.State, m.Problem = writing, busy
		return m
	}
	m.Created = stamp(st.CreatedAt)
	if m.Created == nil {
		m.Created = reached(l.Trail, string(state.Creating))
	}
	if st.Process != nil && st.FinishedAt == 0 {
		m.Pid = st.Process.Init.Pid
	}
	m.Timeline = recorded(recorded(recorded(m.Timeline, "created", st.CreatedAt), "running", st.StartedAt), "exited", st.FinishedAt)
	known := int64(0)
	switch m.State = string(st.Phase); {
	case st.Phase != state.Live:
	case st.State() == cri.ContainerState_CONTAINER_EXITED:
		m.State, known = "exited", st.FinishedAt
	case st.State() == cri.ContainerState_CONTAINER_RUNNING && st.Paused:
		m.State = "paused"
	case st.State() == cri.ContainerState_CONTAINER_RUNNING:
		m.State, known = "running", st.StartedAt
	default:
		m.State, known = "created", st.CreatedAt
	}
	if m.Since = stamp(known); m.Since == nil {
		m.Since = reached(l.Trail, m.State)
	}
	if st.FinishedAt != 0 {
		m.Exit = &Exit{Code: st.ExitCode, Reason: st.Reason, Message: st.Message, At: time.Unix(0, st.FinishedAt)}
	}
	return m
}

// object reads a trail: what is being done, what is wrong.
func object(id, name string, attempt uint32, trail []step.Entry) Object {
	o := Object{ID: id, Name: name, Attempt: attempt, Timeline: events(trail)}
	for i := range o.Timeline { // the newest of what goes on is the innermost
		e := &o.Timeline[i]
		if e.Running {
			doing := *e
			o.Doing = &doing
		}
		if e.Error != "" {
			o.Problem = e.What + ": " + e.Error
		}
	}
	return o
}

// recorded adds to a timeline a state of which only the record knows, because an
// earlier daemon saw it.
func recorded(list []Event, phase string, ns int64) []Event {
	if ns == 0 || slices.ContainsFunc(list, func(e Event) bool { return e.Verb == string(step.Reached) && e.What == phase }) {
		return list
	}
	list = append(list, Event{At: time.Unix(0, ns), What: phase, Verb: string(step.Reached), Tries: 1})
	slices.SortStableFunc(list, func(a, b Event) int { return a.At.Compare(b.At) })
	return list
}

func reached(trail []step.Entry, phase string) *time.Time {
	for i := len(trail) - 1; i >= 0; i-- {
		if e := trail[i]; e.Verb == step.Reached && e.What == phase {
			return &e.Began
		}
	}
	return nil
}

func events(trail []step.Entry) []Event {
	out := make([]Event, 0, len(trail))
	for _, e := range trail {
		x := Event{At: e.Began, What: e.What, Verb: string(e.Verb), Seconds: e.Took.Seconds(), Running: e.Running, Tries: e.Tries, Error: e.Err}
		if e.Running {
			x.WaitsFor = e.Waits
		}
		out = append(out, x)
	}
	return out
}

func failed(l step.Loss) Failed {
	f := Failed{Kind: l.Kind, ID: l.ID, Name: l.Name, Pod: l.Owner, At: l.At, Times: l.Times, Error: l.Err, Timeline: events(l.Trail)}
	for _, e := range l.Trail {
		if e.Verb != step.Down && e.Err != "" {
			f.Step = e.What
		}
	}
	return f
}

func debt(d owed.Due) Debt {
	return Debt{Pod: d.Pod, Name: d.Name, Network: d.Network, Since: d.Since, Tries: d.Tries, Error: d.Err}
}

func stamp(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	t := time.Unix(0, ns)
	return &t
}
