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

	"github.com/monocrio/monocrio/applets/cni"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/cni/plugin/bandwidth"
	"github.com/monocrio/monocrio/internal/cni/plugin/bridge"
	"github.com/monocrio/monocrio/internal/cni/plugin/firewall"
	"github.com/monocrio/monocrio/internal/cni/plugin/hostdevice"
	"github.com/monocrio/monocrio/internal/cni/plugin/hostlocal"
	"github.com/monocrio/monocrio/internal/cni/plugin/loopback"
	"github.com/monocrio/monocrio/internal/cni/plugin/macvlan"
	"github.com/monocrio/monocrio/internal/cni/plugin/portmap"
	"github.com/monocrio/monocrio/internal/cni/plugin/ptp"
	"github.com/monocrio/monocrio/internal/cni/plugin/static"
	"github.com/monocrio/monocrio/internal/cni/plugin/tuning"
	"github.com/monocrio/monocrio/internal/cni/plugin/vlan"
)

// Applet is one face of the executable.
type Applet struct {
	Name, Summary string
	// Run gets the arguments with the applet's name first and returns the exit
	// status.
	Run func(args []string) int
	// Plugin is set instead of Run for a network plugin, which applets/cni hosts.
	Plugin *plugin.Plugin
}

// run runs the applet.
func (a *Applet) run(args []string) int {
	if a.Plugin != nil {
		return cni.Main(a.Plugin, args)
	}
	return a.Run(args)
}

// table lists every applet, in the order in which --list prints them.
var table = [...]Applet{
	{Name: "bandwidth", Summary: "CNI plugin: limit what a pod sends and receives", Plugin: &bandwidth.Plugin},
	{Name: "bridge", Summary: "CNI plugin: connect a pod to a bridge of the node", Plugin: &bridge.Plugin},
	{Name: "firewall", Summary: "CNI plugin: accept or isolate a pod's packets", Plugin: &firewall.Plugin},
	{Name: "host-device", Summary: "CNI plugin: move an interface of the node into a pod", Plugin: &hostdevice.Plugin},
	{Name: "host-local", Summary: "CNI plugin: lease addresses of ranges of this node", Plugin: &hostlocal.Plugin},
	{Name: "loopback", Summary: "CNI plugin: bring up lo in a pod", Plugin: &loopback.Plugin},
	{Name: "macvlan", Summary: "CNI plugin: give a pod an Ethernet address on the node's network", Plugin: &macvlan.Plugin},
	{Name: "portmap", Summary: "CNI plugin: lead ports of the node to a pod", Plugin: &portmap.Plugin},
	{Name: "ptp", Summary: "CNI plugin: connect a pod to the node by a pair of interfaces", Plugin: &ptp.Plugin},
	{Name: "static", Summary: "CNI plugin: give a pod addresses that are written down", Plugin: &static.Plugin},
	{Name: "tuning", Summary: "CNI plugin: change properties of a pod's interface", Plugin: &tuning.Plugin},
	{Name: "vlan", Summary: "CNI plugin: give a pod an interface in a VLAN", Plugin: &vlan.Plugin},
}

// Lookup finds an applet by name; nil if there is none.
func Lookup(name string) *Applet {
	for i := range table {
		if table[i].Name == name {
			return &table[i]
		}
	}
	return nil
}

// Main chooses the applet by the base name of args[0], else by args[1], runs it
// and returns the exit status: 127 if no applet has that name.
func Main(args []string) int {
	if len(args) == 0 {
		args = []string{"monocrio"}
	}
	name := filepath.Base(args[0])
	if a := Lookup(name); a != nil {
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
		for i := range table {
			fmt.Println(table[i].Name)
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
		"       monocrio --install DIR          make a link in DIR for each applet\n\n"+
		"applets:\n")
	for i := range table {
		fmt.Fprintf(w, "  %-12s %s\n", table[i].Name, table[i].Summary)
	}
}

// install makes one symbolic link per applet in a folder, pointing at this
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
	for i := range table {
		if err := link(self, filepath.Join(args[0], table[i].Name)); err != nil {
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
