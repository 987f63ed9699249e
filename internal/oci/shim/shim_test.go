package shim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/monocrio/monocrio/applets/shimrun"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/ocitest"
	"github.com/monocrio/monocrio/internal/oci/shim"
	"github.com/monocrio/monocrio/internal/test/fakeshim"
)

// TestMain is, besides the tests, the two executables that they need.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "shimrun" {
		os.Exit(shimrun.Main(os.Args))
	}
	if code, is := fakeshim.Main(os.Args); is {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// newRuntime is a runtime over the fake shim.
func newRuntime(t *testing.T, root string) oci.Runtime {
	bin := t.TempDir()
	path, err := fakeshim.Install(bin)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(bin, "shimrun"))
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := shim.New(shim.Options{Path: path, Name: "fake", Root: root, Self: filepath.Join(bin, "shimrun")})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestContract(t *testing.T) {
	ocitest.Run(t, newRuntime,
		ocitest.Unfit{Case: "Descriptors", Reason: "no descriptor goes into a machine"},
		ocitest.Unfit{Case: "Stats", Reason: "it counts processes, and those in a machine are not ours"},
		ocitest.Unfit{Case: "ExecBackground", Reason: "as Stats; see TestBackground"},
	)
}

// TestBackground: a child that keeps the streams does not keep the exec.
func TestBackground(t *testing.T) {
	w := ocitest.NewWorld(t, newRuntime)
	id, _ := w.Start("sleep 1000")
	code, out, _, err := w.Exec(id, "sleep 1000 & echo done; exit 3")
	if code != 3 || err != nil || out != "done\n" {
		t.Errorf("code %d, output %q, %v", code, out, err)
	}
}

// script is a runtime whose shim is a shell script.
func script(t *testing.T, root, text string) oci.Runtime {
	t.Helper()
	bin := t.TempDir()
	path := filepath.Join(bin, "containerd-shim-script-v2")
	self, err := os.Executable()
	if err == nil {
		err = errors.Join(os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755), os.Symlink(self, filepath.Join(bin, "shimrun")))
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := shim.New(shim.Options{Path: path, Name: "script", Root: root, Self: filepath.Join(bin, "shimrun")})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBadShims: what a shim does wrong is told, and nothing is left.
func TestBadShims(t *testing.T) {
	for _, c := range []struct{ name, start, want string }{
		{"fails", "echo it is broken >&2; exit 3", "it is broken"},
		{"says nothing", "", "told no address"},
		{"says what it is not", `echo '{"version": 9, "protocol": "ttrpc", "address": "/x"}'`, "version 9"},
		{"speaks gRPC", `echo '{"version": 3, "protocol": "grpc", "address": "/x"}'`, "grpc"},
		{"is not there", "echo unix:///nowhere", "cannot reach the shim"},
		{"logs", "echo from the log >log; echo unix:///nowhere", "cannot reach"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := ocitest.NewWorld(t, func(t *testing.T, root string) oci.Runtime {
				return script(t, root, "for a; do :; done; case $a in start)\n"+c.start+"\n;; delete) touch deleted;; esac")
			})
			id, dir := w.Bundle("true")
			err := w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "deleted")); err != nil {
				t.Error("the shim was not asked to clean up")
			}
		})
	}
}

// TestGivenUp: a creation that is given up ends what it had begun.
func TestGivenUp(t *testing.T) {
	w := ocitest.NewWorld(t, func(t *testing.T, root string) oci.Runtime {
		return script(t, root, "for a; do :; done; case $a in start) echo $$ >begun; exec sleep 1000;; esac")
	})
	id, dir := w.Bundle("true", func(s *specs.Spec) { s.Linux.CgroupsPath = "" })
	ctx, cancel := context.WithCancel(w.Ctx)
	var pid int
	go func() {
		w.Await("the shim's start", func() bool {
			data, _ := os.ReadFile(filepath.Join(dir, "begun"))
			n, _ := fmt.Sscan(string(data), &pid)
			return n == 1
		})
		cancel()
	}()
	err := w.RT.Create(ctx, id, oci.CreateOptions{Bundle: dir})
	if !errs.Is(err, errs.KindCanceled) {
		t.Error(err)
	}
	w.Await("its end", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// TestDescriptors: what cannot be handed over is refused.
func TestDescriptors(t *testing.T) {
	w := ocitest.NewWorld(t, newRuntime)
	id, dir := w.Bundle("true")
	err := w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir, ExtraFiles: []*os.File{os.Stdin}})
	if !errs.Is(err, errs.KindInvalid) {
		t.Error(err)
	}
	err = w.RT.Create(w.Ctx, id, oci.CreateOptions{Bundle: dir, ConsoleSocket: "/x"})
	if !errs.Is(err, errs.KindInvalid) {
		t.Error(err)
	}
}
