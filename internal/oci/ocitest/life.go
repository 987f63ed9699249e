package ocitest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
)

// kindOf fails unless an error is of a kind.
func (w *World) kindOf(what string, err error, want errs.Kind) {
	w.Helper()
	if !errs.Is(err, want) {
		w.Errorf("%s: kind %d, not %d: %v", what, errs.KindOf(err), want, err)
	}
}

// ok fails for an error.
func (w *World) ok(what string, err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
}

func life(w *World) {
	began := time.Now()
	id, output := w.Create("echo to stdout; echo to stderr >&2; exit 3")
	s, err := w.RT.State(w.Ctx, id)
	w.ok("state", err)
	dir := filepath.Join(w.Dir, "bundle-"+id)
	if s.ID != id || s.Status != oci.Created || s.Pid <= 0 || s.Bundle != dir || s.Annotations["test.key"] != "value=with=signs" {
		w.Errorf("state is %+v", s)
	}
	if s.Created.Before(began.Add(-time.Minute)) || s.Created.After(time.Now().Add(time.Minute)) {
		w.Errorf("created at %v", s.Created)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if w.ok("pid file", err); strings.TrimSpace(string(pid)) != fmt.Sprint(s.Pid) {
		w.Errorf("pid file has %q, the state %d", pid, s.Pid)
	}
	if got := output(); got != "" {
		w.Errorf("output before the start: %q", got)
	}
	w.ok("start", w.RT.Start(w.Ctx, id))
	w.AwaitStatus(id, oci.Stopped)
	if got := output(); got != "to stdout\nto stderr\n" {
		w.Errorf("output is %q", got)
	}
	w.kindOf("start of a stopped container", w.RT.Start(w.Ctx, id), errs.KindPrecondition)
	w.ok("delete", w.RT.Delete(w.Ctx, id, false))
	_, err = w.RT.State(w.Ctx, id)
	w.kindOf("state after delete", err, errs.KindNotFound)
	w.ok("second delete", w.RT.Delete(w.Ctx, id, false))
}

func hooks(w *World) {
	log := filepath.Join(w.Dir, "hooks")
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >/dev/null; echo " + name + " >> " + log}}}
	}
	id, _ := w.Start("exit 0", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), Poststart: hook("poststart"), Poststop: hook("poststop")}
	})
	w.AwaitStatus(id, oci.Stopped)
	w.ok("delete", w.RT.Delete(w.Ctx, id, false))
	got, _ := os.ReadFile(log)
	if string(got) != "createRuntime\ncreateContainer\npoststart\npoststop\n" {
		w.Errorf("hooks ran: %q", got)
	}
	id, dir := w.Bundle("true", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false", Args: []string{"false"}}}}
	})
	w.cleanup(id)
	if err := w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir}); err == nil {
		w.Error("a failing createRuntime hook does not fail the creation")
	}
}

func console(w *World) {
	id, dir := w.Bundle("tty; stty size", func(s *specs.Spec) {
		s.Process.Terminal = true
		s.Process.ConsoleSize = &specs.Box{Width: 77, Height: 33}
	})
	w.cleanup(id)
	path, master := w.receiver()
	w.ok("create", w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir, ConsoleSocket: path}))
	w.reap(id)
	m := master()
	defer m.Close()
	w.ok("start", w.RT.Start(w.Ctx, id))
	_ = m.SetReadDeadline(time.Now().Add(Patience))
	in := bufio.NewReader(m)
	first, _ := in.ReadString('\n')
	second, _ := in.ReadString('\n')
	if !strings.HasPrefix(first, "/dev/") || strings.TrimSpace(second) != "33 77" {
		w.Errorf("the terminal says %q, %q", first, second)
	}
}

func descriptors(w *World) {
	r, extra, err := os.Pipe()
	w.ok("pipe", err)
	defer r.Close()
	defer extra.Close()
	id, dir := w.Bundle("echo through three >&3; ls /proc/self/fd | cat")
	w.cleanup(id)
	out, err := os.Create(filepath.Join(dir, "output"))
	w.ok("output", err)
	defer out.Close()
	w.ok("create", w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir, Stdout: out, Stderr: out, ExtraFiles: []*os.File{extra}}))
	w.reap(id)
	w.ok("start", w.RT.Start(w.Ctx, id))
	extra.Close()
	_ = r.SetReadDeadline(time.Now().Add(Patience))
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil || line != "through three\n" {
		w.Errorf("descriptor 3 brought %q, %v", line, err)
	}
	w.AwaitStatus(id, oci.Stopped)
	// 0 to 3, and the folder that ls has open: nothing else of ours leaks in.
	if got, _ := os.ReadFile(out.Name()); string(got) != "0\n1\n2\n3\n4\n" {
		w.Errorf("descriptors inside: %q", got)
	}
}

func badBundle(w *World) {
	good, dir := w.Bundle("true")
	config := filepath.Join(dir, oci.ConfigFile)
	whole, err := os.ReadFile(config)
	w.ok("read", err)
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"absent config", "", []string{dir, "config.json"}},
		{"cut short", string(whole[:len(whole)/2]), []string{config, "offset"}},
		{"wrong type", strings.Replace(string(whole), `"hostname":"test"`, `"hostname":5`, 1), []string{config, "offset", "hostname"}},
		{"no root file system", strings.Replace(string(whole), w.rootfs, w.rootfs+"-absent", 1), []string{dir, "-absent"}},
	} {
		os.Remove(config)
		if c.text != "" {
			w.ok("write", os.WriteFile(config, []byte(c.text), 0o600))
		}
		err := w.RT.Create(w.Ctx, good, oci.CreateOptions{Bundle: dir})
		w.kindOf(c.name, err, errs.KindInvalid)
		for _, word := range c.want {
			if err != nil && !strings.Contains(err.Error(), word) {
				w.Errorf("%s: the error does not name %q: %v", c.name, word, err)
			}
		}
	}
	w.kindOf("absent bundle", w.RT.Create(w.Ctx, good, oci.CreateOptions{Bundle: dir + "-absent"}), errs.KindInvalid)
	w.kindOf("bad id", w.RT.Create(w.Ctx, "../x", oci.CreateOptions{Bundle: dir}), errs.KindInvalid)
	_, err = w.RT.State(w.Ctx, good)
	w.kindOf("state", err, errs.KindNotFound)
}

func badCommand(w *World) {
	id, dir := w.Bundle("true", func(s *specs.Spec) { s.Process.Args = []string{"/bin/not-there"} })
	err := w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir})
	if err == nil || !strings.Contains(err.Error(), "not-there") {
		w.Errorf("create with an absent command: %v", err)
	}
	_, err = w.RT.State(w.Ctx, id)
	w.kindOf("state", err, errs.KindNotFound)
	if cgroup.Exists(w.Cgroup + "/c-" + id) {
		w.Error("the cgroup is left")
	}
}

func duplicate(w *World) {
	id, _ := w.Start("sleep 1000")
	dir := filepath.Join(w.Dir, "bundle-"+id)
	w.kindOf("second create", w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir}), errs.KindAlreadyExists)
	w.AwaitStatus(id, oci.Running)
	w.kindOf("second start", w.RT.Start(w.Ctx, id), errs.KindPrecondition)
}

func unknown(w *World) {
	for _, id := range []string{"nobody", "../nobody", "", "a/b"} {
		_, err := w.RT.State(w.Ctx, id)
		w.kindOf("state", err, errs.KindNotFound)
		w.kindOf("start", w.RT.Start(w.Ctx, id), errs.KindNotFound)
		w.kindOf("kill", w.RT.Kill(w.Ctx, id, unix.SIGTERM, false), errs.KindNotFound)
		w.kindOf("kill one", w.RT.Kill(w.Ctx, id, unix.SIGKILL, false), errs.KindNotFound)
		w.ok("kill all", w.RT.Kill(w.Ctx, id, unix.SIGKILL, true))
		w.ok("delete", w.RT.Delete(w.Ctx, id, false))
		w.ok("forced delete", w.RT.Delete(w.Ctx, id, true))
		w.kindOf("pause", w.RT.Pause(w.Ctx, id), errs.KindNotFound)
		w.kindOf("resume", w.RT.Resume(w.Ctx, id), errs.KindNotFound)
		w.kindOf("update", w.RT.Update(w.Ctx, id, &specs.LinuxResources{}), errs.KindNotFound)
		_, err = w.RT.Processes(w.Ctx, id)
		w.kindOf("processes", err, errs.KindNotFound)
		_, err = w.RT.Stats(w.Ctx, id)
		w.kindOf("stats", err, errs.KindNotFound)
		_, err = w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: Process("/bin/true")})
		w.kindOf("exec", err, errs.KindNotFound)
	}
}

func kill(w *World) {
	id, output := w.Start("trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
	w.Await("the trap", func() bool { return output() == "ready\n" })
	w.ok("kill", w.RT.Kill(w.Ctx, id, unix.SIGTERM, false))
	w.AwaitStatus(id, oci.Stopped)
	if got := output(); got != "ready\nterm\n" {
		w.Errorf("output is %q", got)
	}
	w.kindOf("signal to a stopped container", w.RT.Kill(w.Ctx, id, unix.SIGTERM, false), errs.KindPrecondition)
	w.ok("kill all of a stopped container", w.RT.Kill(w.Ctx, id, unix.SIGKILL, true))

	id, _ = w.Start("trap '' TERM; sleep 1000 & sleep 1000 & sleep 1000")
	w.ok("kill all", w.RT.Kill(w.Ctx, id, unix.SIGKILL, true))
	w.AwaitStatus(id, oci.Stopped)

	// A created container that never ran can be killed as well.
	id, _ = w.Create("true")
	w.ok("kill of a created container", w.RT.Kill(w.Ctx, id, unix.SIGKILL, true))
	w.AwaitStatus(id, oci.Stopped)
	w.kindOf("start of a killed container", w.RT.Start(w.Ctx, id), errs.KindPrecondition)
}

func deleting(w *World) {
	id, _ := w.Start("sleep 1000 & sleep 1000")
	w.kindOf("delete of a running container", w.RT.Delete(w.Ctx, id, false), errs.KindPrecondition)
	w.AwaitStatus(id, oci.Running)
	w.ok("forced delete", w.RT.Delete(w.Ctx, id, true))
	_, err := w.RT.State(w.Ctx, id)
	w.kindOf("state", err, errs.KindNotFound)
	w.ok("again", w.RT.Delete(w.Ctx, id, true))

	id, _ = w.Create("true")
	w.ok("forced delete of a created container", w.RT.Delete(w.Ctx, id, true))
}

// sharedPids: without a pid namespace of its own, the end of the init leaves its
// children alive; deletion must find them in the cgroup.
func sharedPids(w *World) {
	id, output := w.Start("sleep 1000 & echo $!; exit 0", func(s *specs.Spec) {
		s.Linux.Namespaces = s.Linux.Namespaces[1:]
	})
	w.AwaitStatus(id, oci.Stopped)
	var pid int
	if _, err := fmt.Sscan(output(), &pid); err != nil {
		w.Fatal(err)
	}
	if unix.Kill(pid, 0) != nil {
		w.Fatal("the child did not outlive the init: the test tests nothing")
	}
	w.ok("kill all", w.RT.Kill(w.Ctx, id, unix.SIGKILL, true))
	w.ok("delete", w.RT.Delete(w.Ctx, id, true))
	w.Await("the child's end", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

func pause(w *World) {
	id, _ := w.Start("sleep 1000")
	w.ok("pause", w.RT.Pause(w.Ctx, id))
	w.AwaitStatus(id, oci.Paused)
	w.ok("second pause", w.RT.Pause(w.Ctx, id))
	_, err := w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: Process("/bin/true")})
	w.kindOf("exec in a paused container", err, errs.KindPrecondition)
	w.ok("resume", w.RT.Resume(w.Ctx, id))
	w.AwaitStatus(id, oci.Running)
	w.ok("second resume", w.RT.Resume(w.Ctx, id))
	if code, _, _, err := w.Exec(id, "exit 4"); code != 4 || err != nil {
		w.Errorf("exec after resume: %d, %v", code, err)
	}
	w.ok("pause", w.RT.Pause(w.Ctx, id))
	w.ok("forced delete of a paused container", w.RT.Delete(w.Ctx, id, true))
}

func update(w *World) {
	if a := cgroup.Available(); !a.Has("memory") || !a.Has("pids") {
		w.Skip("the host has no memory and pids controllers")
	}
	memory, pids, shares := int64(64<<20), int64(50), uint64(512)
	id, _ := w.Start("sleep 1000", func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	})
	u, err := w.RT.Stats(w.Ctx, id)
	w.ok("stats", err)
	if u.Memory.Limit != uint64(memory) {
		w.Errorf("memory limit is %d", u.Memory.Limit)
	}
	memory *= 2
	swap := memory
	w.ok("update", w.RT.Update(w.Ctx, id, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory, Swap: &swap}, Pids: &specs.LinuxPids{Limit: &pids}, CPU: &specs.LinuxCPU{Shares: &shares},
	}))
	// A later change of one thing leaves the others.
	w.ok("update", w.RT.Update(w.Ctx, id, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}))
	u, err = w.RT.Stats(w.Ctx, id)
	w.ok("stats", err)
	if u.Memory.Limit != uint64(memory) || u.Pids.Limit != uint64(pids) {
		w.Errorf("after the update: %+v", u)
	}
	w.ok("kill", w.RT.Kill(w.Ctx, id, unix.SIGKILL, true))
	w.AwaitStatus(id, oci.Stopped)
	w.kindOf("update of a stopped container", w.RT.Update(w.Ctx, id, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}), errs.KindPrecondition)
}

func stats(w *World) {
	id, _ := w.Start("sleep 1000 & sleep 1000")
	w.Await("two processes", func() bool {
		list, err := w.RT.Processes(w.Ctx, id)
		w.ok("processes", err)
		return len(list) >= 2
	})
	u, err := w.RT.Stats(w.Ctx, id)
	w.ok("stats", err)
	a := cgroup.Available()
	if a.Has("pids") && u.Pids.Current < 2 || a.Has("memory") && (u.Memory.Usage == 0 || u.Memory.WorkingSet > u.Memory.Usage) ||
		a.Has("cpuacct") && u.CPU.Total == 0 {
		w.Errorf("usage is %+v", u)
	}
	w.ok("kill", w.RT.Kill(w.Ctx, id, unix.SIGKILL, true))
	w.AwaitStatus(id, oci.Stopped)
	list, err := w.RT.Processes(w.Ctx, id)
	if len(list) != 0 || err != nil {
		w.Errorf("processes of a stopped container: %v, %v", list, err)
	}
}

func parallel(w *World) {
	var wg sync.WaitGroup
	for i := range 6 {
		id, output := w.Bundle("x")
		_ = output
		w.cleanup(id)
		dir := filepath.Join(w.Dir, "bundle-"+id)
		w.ok("bundle", oci.WriteBundle(dir, w.Spec(id, "sleep 1000")))
		wg.Go(func() {
			for _, step := range []func() error{
				func() error { return w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir}) },
				func() error { return w.RT.Start(w.Ctx, id) },
				func() error {
					for range 3 {
						code, out, _, err := w.Exec(id, fmt.Sprintf("echo %d; exit %d", i, i))
						if err != nil || code != i || out != fmt.Sprintln(i) {
							return fmt.Errorf("exec: code %d, output %q, %w", code, out, err)
						}
					}
					return nil
				},
				func() error { return w.reapAndDelete(id) },
			} {
				if err := step(); err != nil {
					w.Errorf("container %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (w *World) reapAndDelete(id string) error {
	s, err := w.RT.State(w.Ctx, id)
	if err != nil {
		return err
	}
	go func() { _, _ = unix.Wait4(s.Pid, nil, 0, nil) }()
	ctx, cancel := context.WithTimeout(w.Ctx, Patience)
	defer cancel()
	return w.RT.Delete(ctx, id, true)
}

func featureList(w *World) {
	f, err := w.RT.Features(w.Ctx)
	if errs.Is(err, errs.KindUnimplemented) {
		w.Skip(err)
	}
	w.ok("features", err)
	if f.Linux == nil || len(f.Linux.Namespaces) == 0 || f.OCIVersionMax == "" {
		w.Errorf("features are %+v", f)
	}
}
