package inspect

import (
	"slices"
	"time"

	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/preload"
)

// pulls answers with the pulls in flight, oldest first, and the last that have ended.
func (s *server) pulls() *Pulls {
	out := &Pulls{Now: time.Now(), Pulls: []Pull{}, Recent: []Pull{}}
	for _, p := range s.Images.Pulls() {
		out.Pulls = append(out.Pulls, pull(p.Progress()))
	}
	slices.SortFunc(out.Pulls, func(a, b Pull) int { return a.Started.Compare(b.Started) })
	for _, p := range s.Images.Ended() {
		out.Recent = append(out.Recent, pull(p))
	}
	return out
}

func pull(p image.Progress) Pull {
	out := Pull{Image: p.Ref, Started: p.Started, Hosts: append([]string{}, p.Hosts...), Rate: p.Rate, LastByte: p.Moved, Layers: []Layer{}, ID: p.ID, Error: p.Err}
	total, known := int64(0), len(p.Layers) > 0
	for _, l := range p.Layers {
		out.Layers = append(out.Layers, Layer{Digest: l.Digest, State: string(l.State), Done: l.Done, Size: l.Size})
		if l.State == image.Present {
			continue
		}
		out.Done, total, known = out.Done+l.Done, total+l.Size, known && l.Size >= 0
	}
	if len(p.Layers) == 0 { // whoever pulls tells no more than this
		out.Done = int64(p.Bytes)
	}
	if known {
		out.Total = &total
		if left := float64(total - out.Done); out.Rate > 0 && p.Ended.IsZero() {
			seconds := left / out.Rate
			out.Left = &seconds
		}
	}
	if !p.Ended.IsZero() {
		out.Ended = &p.Ended
	}
	return out
}

// media answers with the images that come by files.
func (s *server) media() *Media {
	out := &Media{Now: time.Now(), Media: []Medium{}}
	var list []preload.Medium
	out.Dir, list, out.Problem = s.Media()
	for _, m := range list {
		n := Medium{Path: m.Path, State: string(m.State), Images: []MediumImage{}, Error: m.Error}
		if !m.Retry.IsZero() {
			n.Retry = &m.Retry
		}
		for _, i := range m.Images {
			n.Images = append(n.Images, MediumImage{Names: i.Names, ID: i.ID, State: string(i.State)})
		}
		out.Media = append(out.Media, n)
	}
	return out
}
