// Package applets is the roof: one table says which applets the executable has.
//
// A row holds constants and function addresses only, so the linker lays the
// table out and nothing runs for it at start. Command lines are built inside the
// applet that was chosen. An applet never imports another one; only this package
// names them.
package applets

import (
	"fmt"
	"os"
	"path/filepath"

	"go.podman.io/storage/pkg/reexec"

	"github.com/monocrio/monocrio/applets/boot"
	"github.com/monocrio/monocrio/applets/cni"
	"github.com/monocrio/monocrio/applets/conmon"
	"github.com/monocrio/monocrio/applets/crio"
	"github.com/monocrio/monocrio/applets/modprobe"
	"github.com/monocrio/monocrio/applets/ocic"
	"github.com/monocrio/monocrio/applets/pause"
	"github.com/monocrio/monocrio/applets/pinns"
	"github.com/monocrio/monocrio/applets/runc"
	"github.com/monocrio/monocrio/applets/shimrun"
	"github.com/monocrio/monocrio/applets/status"
	plugins "github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/cni/plugin"
)

// Applet is one face of the executable.
type Applet struct {
	Name, Summary string
	// Run gets the arguments with the applet's name first and returns the exit
	// status.
	Run func(args []string) int
	// Appliance tells that it is for machines that have nothing else: --install makes no
	// link, which elsewhere would hide the machine's own program.
	Appliance bool
	// Plugin is set instead of Run for a CNI plugin, which applets/cni hosts.
	Plugin *plugin.Plugin
}

// table lists every applet, in the order in which --list prints them.
var table = [...]Applet{
	{Name: "crio", Summary: "serve the Kubernetes CRI", Run: crio.Main},
	{Name: "conmon", Summary: "watch one container", Run: conmon.Main},
	{Name: "pinns", Summary: "make namespaces and keep them as files", Run: pinns.Main},
	{Name: "pause", Summary: "reap orphans and wait", Run: pause.Main},
	{Name: "crio-status", Summary: "ask a running daemon about itself", Run: status.Main},
	{Name: "ocic", Summary: "test client: pods, containers, images", Run: ocic.Main},
	{Name: "runc", Summary: "OCI runtime: create, start, kill, ... containers", Run: runc.Main},
	{Name: "shimrun", Summary: "OCI runtime over a shim: containers in virtual machines", Run: shimrun.Main},
	{Name: "init", Summary: "process 1 of a machine that has only this file", Run: boot.Main, Appliance: true},
	{Name: "modprobe", Summary: "load modules of the kernel, for init", Run: modprobe.Main, Appliance: true},
}

// All returns the applets: the table, then the CNI plugins, whose one list is in
// package cni.
func All() []Applet {
	all := table[:len(table):len(table)]
	for _, p := range plugins.Embedded() {
		all = append(all, Applet{Name: p.Name, Summary: "network: " + p.About, Plugin: p})
	}
	return all
}

// Lookup finds an applet by name; nil if there is none.
func Lookup(name string) *Applet {
	all := All()
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

func (a *Applet) run(args []string) int {
	if a.Plugin != nil {
		return cni.Main(a.Plugin, args)
	}
	return a.Run(args)
}

// Main chooses the applet by the base name of args[0], else by args[1], runs it
// and returns the exit status: 127 if no applet has that name.
//
// Before it, in this order, decide: C constructors (libcontainer's nsenter by its
// environment, package ctor by name), package initstage, package early. Then the
// storage library's helpers, by the argv[0] they gave themselves.
func Main(args []string) int {
	if reexec.Init() {
		return 0
	}
	if len(args) == 0 {
		args = []string{"monocrio"}
	}
	if a := Lookup(filepath.Base(args[0])); a != nil {
		return a.run(args)
	}
	args = args[1:]
	if len(args) == 0 {
		usage(os.Stdout)
		return 0
	}
	switch args[0] {
	case "--help", "-h", "help":
		usage(os.Stdout)
		return 0
	case "--list":
		for _, a := range All() {
			fmt.Println(a.Name)
		}
		return 0
	case "--install":
		return install(args[1:])
	}
	if a := Lookup(args[0]); a != nil {
		return a.run(args)
	}
	fmt.Fprintf(os.Stderr, "monocrio: there is no applet %q\n\n", args[0])
	usage(os.Stderr)
	return 127
}

func usage(w *os.File) {
	fmt.Fprint(w, "monocrio: a Kubernetes node runtime in one file\n\n"+
		"usage: monocrio APPLET [ARGUMENT...]   run an applet\n"+
		"       APPLET [ARGUMENT...]            the same, through a link of that name\n"+
		"       monocrio --list                 print the names of the applets\n"+
		"       monocrio --install DIR          make a link in DIR for each applet but init and modprobe\n\n"+
		"applets:\n")
	for _, a := range All() {
		fmt.Fprintf(w, "  %-12s %s\n", a.Name, a.Summary)
	}
}

// install makes one symbolic link per applet that any machine may have in a folder, pointing at this
// executable. Files that are not links to it are left alone and reported.
func install(args []string) int {
	if len(args) != 1 || args[0] == "" {
		fmt.Fprintln(os.Stderr, "monocrio: usage: monocrio --install DIR")
		return 2
	}
	self, err := os.Executable()
	if err == nil {
		err = os.MkdirAll(args[0], 0o755)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "monocrio: cannot install links in %s: %v\n", args[0], err)
		return 1
	}
	status := 0
	for _, a := range All() {
		if a.Appliance {
			continue
		}
		if err := link(self, filepath.Join(args[0], a.Name)); err != nil {
			fmt.Fprintf(os.Stderr, "monocrio: %v\n", err)
			status = 1
		}
	}
	return status
}

// link points path at self. An equal link is left as it is, a different link is
// replaced atomically, anything else is an error: it is somebody's file.
func link(self, path string) error {
	fi, err := os.Lstat(path)
	switch {
	case os.IsNotExist(err):
		return os.Symlink(self, path)
	case err != nil:
		return err
	case fi.Mode()&os.ModeSymlink == 0:
		return fmt.Errorf("cannot install %s: a file that is not a link is there; move it away first", path)
	}
	if old, err := os.Readlink(path); err != nil || old == self {
		return err
	}
	tmp := path + ".new"
	if err := os.Symlink(self, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
