package cni_test

import (
	"context"
	"sync"
	"testing"

	"github.com/monocrio/monocrio/internal/cni"
)

const firewallConf = `{"type":"firewall"}`

// BenchmarkAttach measures attaching and detaching one pod in a namespace that
// exists: alone, and eight at a time.
func BenchmarkAttach(b *testing.B) {
	for _, c := range []struct {
		name, conf string
		ports      []cni.Port
	}{
		{"bridge", `{"cniVersion":"1.1.0","name":"test","plugins":[` + bridge4 + `]}`, nil},
		{"bridge46", list("1.1.0", bridge46), nil},
		{"chain", list("1.1.0", bridge4, portmapConf, firewallConf), []cni.Port{{HostPort: 8080, ContainerPort: 80}}},
	} {
		for _, verb := range []string{"add", "del"} {
			b.Run(c.name+"/"+verb, func(b *testing.B) {
				w := newWorld(b, c.conf)
				other := w.run(cni.Port{HostPort: 9090, ContainerPort: 80}) // tables and bridge are there
				defer other.detach()
				p := w.prepare(c.ports...)
				for b.Loop() {
					if verb == "del" {
						b.StopTimer()
					}
					if err := p.attach(); err != nil {
						b.Fatal(err)
					}
					if verb == "del" {
						b.StartTimer()
					} else {
						b.StopTimer()
					}
					if err := w.net.Detach(context.Background(), p.cfg, p.req, p.res.Raw); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
	b.Run("eight", func(b *testing.B) {
		w := newWorld(b, list("1.1.0", bridge4))
		var pods []*pod
		for range 8 {
			pods = append(pods, w.prepare())
		}
		for b.Loop() {
			var wg sync.WaitGroup
			for _, p := range pods {
				wg.Go(func() {
					if err := p.attach(); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			for _, p := range pods {
				p.detach()
			}
			b.StartTimer()
		}
	})
}
