package seccomp

import (
	"os"
	"testing"

	libseccomp "github.com/seccomp/libseccomp-golang"
)

// BenchmarkDefaultProfile builds the program of the built-in profile and writes it
// out, as each create and each exec does.
func BenchmarkDefaultProfile(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		name string
		list []libseccomp.ScmpArch
	}{{"amd64", nil}, {"amd64+x86", []libseccomp.ScmpArch{libseccomp.ArchX86}}, {"amd64+x86+x32", x86Family}} {
		p := defaultProfile(b).known()
		p.arches = c.list
		b.Run(c.name+"/ours", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f, err := p.build(b)
				if err != nil {
					b.Fatal(err)
				}
				if err := f.ExportBPF(null); err != nil {
					b.Fatal(err)
				}
			}
			f, _ := p.build(b)
			b.ReportMetric(float64(len(export(b, f))), "instructions")
		})
		b.Run(c.name+"/libseccomp", func(b *testing.B) {
			var n int
			for b.Loop() {
				f, err := p.buildC(b, 2)
				if err != nil {
					b.Fatal(err)
				}
				n = len(exportC(b, f))
			}
			b.ReportMetric(float64(n), "instructions")
		})
	}
}
