package image

import (
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
)

// Progress is how far a pull is, or how it ended.
type Progress struct {
	Ref            string
	Started, Moved time.Time // Moved: when the last byte came
	// Hosts are the registries that are asked, mirrors first; the first one that has
	// the image serves it. Of an import it is the file.
	Hosts  []string
	Layers []LayerProgress // none until the manifest is there
	Bytes  uint64          // that have come, also those of tries that failed
	Rate   float64         // bytes per second, of late
	// Ended is zero while it goes on; then ID or Err tells how.
	Ended   time.Time
	ID, Err string
}

// LayerProgress is how far a layer is.
type LayerProgress struct {
	Digest     string
	MediaType  string
	Size, Done int64 // bytes as they travel; Size is -1 if the registry does not say
	State      LayerState
}

// LayerState is what happens to a layer.
type LayerState string

// The states; Present was there before.
const (
	Present   LayerState = "present"
	Waiting   LayerState = "waiting"
	Fetching  LayerState = "fetching"
	Fetched   LayerState = "fetched"
	Unpacking LayerState = "unpacking"
	Done      LayerState = "done"
)

// rateSpan is the time of which the rate is told, sampleSpan the finest part of it.
const (
	rateSpan   = 10 * time.Second
	sampleSpan = rateSpan / 20
	keptPulls  = 16 // that have ended
)

// sample is how many bytes had come at a time.
type sample struct {
	at    time.Time
	moved uint64
}

// report is a pull as its layers see it.
type report struct{ *Pull }

// Expect implements layers.Report.
func (r report) Expect(all, missing []types.BlobInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.layers = nil
	for _, l := range all {
		state := Present
		if slices.ContainsFunc(missing, func(m types.BlobInfo) bool { return m.Digest == l.Digest }) {
			state = Waiting
		}
		r.layers = append(r.layers, LayerProgress{Digest: l.Digest.String(), MediaType: l.MediaType, Size: l.Size, State: state})
	}
}

// Moved implements layers.Report.
func (r report) Moved(p types.ProgressProperties) { r.events <- p }

// Unpacking implements layers.Report.
func (r report) Unpacking(d digest.Digest) { r.reach(d, Unpacking) }

// Done implements layers.Report.
func (r report) Done(d digest.Digest) { r.reach(d, Done) }

// reach notes the state of a layer.
func (p *Pull) reach(d digest.Digest, s LayerState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.layers {
		if l := &p.layers[i]; l.Digest == d.String() && l.State != Present {
			l.State = s
		}
	}
}

// note takes part in the count what the image library or the fetcher tells of a blob.
// The caller holds p.mu.
func (p *Pull) note(e types.ProgressProperties) {
	now := time.Now()
	p.moved, p.last = p.moved+e.OffsetUpdate, now
	if n := len(p.samples); n == 0 || now.Sub(p.samples[n-1].at) >= sampleSpan {
		p.samples = append(slices.DeleteFunc(p.samples, func(s sample) bool { return now.Sub(s.at) > rateSpan }), sample{now, p.moved})
	}
	i := slices.IndexFunc(p.layers, func(l LayerProgress) bool { return l.Digest == e.Artifact.Digest.String() })
	if i < 0 && (strings.Contains(e.Artifact.MediaType, "config") || strings.HasSuffix(e.Artifact.MediaType, "container.image.v1+json")) {
		return // some bytes that are no layer
	}
	if i < 0 { // an unusual image, which the library copies alone
		p.layers = append(p.layers, LayerProgress{Digest: e.Artifact.Digest.String(), MediaType: e.Artifact.MediaType, Size: e.Artifact.Size, State: Waiting})
		i = len(p.layers) - 1
	}
	l := &p.layers[i]
	if l.State == Unpacking || l.State == Done { // this comes late
		l.Done = max(l.Done, int64(e.Offset))
		return
	}
	switch e.Event {
	case types.ProgressEventNewArtifact:
		l.State, l.Done = Fetching, 0
	case types.ProgressEventRead:
		l.State, l.Done = Fetching, int64(e.Offset)
	case types.ProgressEventDone:
		l.State, l.Done = Fetched, max(l.Done, int64(e.Offset))
	case types.ProgressEventSkipped:
		if l.State == Waiting {
			l.State = Present
		}
	}
}

// Progress tells how far the pull is.
func (p *Pull) Progress() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.told != nil {
		out := *p.told
		out.Ref, out.Started = p.Ref, p.Started
		return out
	}
	out := Progress{Ref: p.Ref, Started: p.Started, Moved: p.last, Bytes: p.moved, Hosts: p.hosts, Layers: slices.Clone(p.layers)}
	for _, s := range p.samples {
		if d := time.Since(s.at); d < rateSpan && d > 0 {
			out.Rate = float64(p.moved-s.moved) / d.Seconds()
			break
		}
	}
	return out
}

// hostsOf lists the registries that serve a name.
func hostsOf(sys *types.SystemContext, n reference.Named) []string {
	reg, err := sysregistriesv2.FindRegistry(sys, n.Name())
	if err != nil || reg == nil {
		return []string{reference.Domain(n)}
	}
	sources, err := reg.PullSourcesFromReference(n)
	if err != nil {
		return []string{reference.Domain(n)}
	}
	var hosts []string
	for _, s := range sources {
		if h := reference.Domain(s.Reference); !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Ended lists the last pulls that have ended, oldest first.
func (s *Service) Ended() []Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ended)
}

// keep remembers a pull that has ended. The caller holds s.mu.
func (s *Service) keep(p *Pull) {
	e := p.Progress()
	e.Ended, e.ID, e.Rate = time.Now(), p.id, 0
	if p.err != nil {
		e.Err = p.err.Error()
	}
	if len(s.ended) >= keptPulls {
		s.ended = s.ended[1:]
	}
	s.ended = append(slices.Clip(s.ended), e)
	if s.opts.OnPull != nil && !p.local {
		s.opts.OnPull(e, p.err)
	}
}
