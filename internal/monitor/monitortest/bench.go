package monitortest

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/monitor"
)

// BenchmarkCreate measures from the monitor's start to the container's existence.
func BenchmarkCreate(b *testing.B, r *Rig) {
	r.need(b)
	for b.Loop() {
		b.StopTimer()
		box := r.Box(b, "true")
		b.StartTimer()
		if err := box.Create(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		box.Start()
		box.WaitExit()
		box.clean()
		b.StartTimer()
	}
}

// BenchmarkLog measures a container that writes lines of 80 bytes as fast as it can;
// attached clients read along.
func BenchmarkLog(b *testing.B, r *Rig, clients int) {
	const size = 200 << 20
	r.need(b)
	b.SetBytes(size)
	source := filepath.Join(b.TempDir(), "source")
	if err := os.WriteFile(source, []byte(strings.Repeat(line80+"\n", size/(len(line80)+1))), 0o644); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.StopTimer()
		box := r.Box(b, "read go; cat /tmp/source")
		if err := os.Link(source, filepath.Join(box.Spawn.Bundle, "rootfs/tmp/source")); err != nil {
			b.Fatal(err)
		}
		box.Spawn.Stdin, box.Spawn.NoSyncLog = true, true
		box.Run()
		var done []<-chan error
		for range clients {
			done = append(done, box.attach(context.Background(), monitor.AttachStreams{Stdout: io.Discard, Stderr: io.Discard}))
		}
		b.StartTimer()
		in, w := io.Pipe()
		done = append(done, box.attach(context.Background(), monitor.AttachStreams{Stdin: in}))
		io.WriteString(w, "go\n")
		box.WaitExit()
		b.StopTimer()
		os.Remove(box.Spawn.LogPath)
		w.Close()
		for _, d := range done {
			<-d
		}
		box.clean()
		b.StartTimer()
	}
}

const line80 = "2026-01-01-INFO-a-line-of-eighty-bytes-as-programs-are-wont-to-write-them-xxxxx"

// BenchmarkExec measures one more process in a running container, from the monitor's
// start to its end.
func BenchmarkExec(b *testing.B, r *Rig) {
	r.need(b)
	box := r.Box(b, "sleep 1000")
	box.Run()
	for b.Loop() {
		s := box.exec("exit 3", "--sync")
		s.release()
		if told := s.told(); len(told) != 1 || told[0].number != 3 {
			b.Fatal(told, s.said())
		}
		s.wait()
	}
}
