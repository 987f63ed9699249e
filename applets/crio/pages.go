package crio

import (
	"fmt"
	"strings"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/manual"
)

const about = `Serve the Kubernetes Container Runtime Interface (CRI) to a kubelet: pods, containers, images, exec, attach, port forward, statistics.

Runtime, monitor, CNI plugins and pause process are in this one file. Containers do not end with the daemon: it may be stopped, killed and upgraded at any time, and adopts them when it starts again.

The configuration is read from ` + confFile + ` and the files below ` + confDir + ` (crio.conf(5)); environment variables win over files, flags win over all.`

// daemonSections are what crio(8) says beyond commands and flags.
func daemonSections() []manual.Block {
	return []manual.Block{
		manual.Heading("Signals"),
		manual.Term("SIGTERM, SIGINT", "End: no more calls are taken, those in progress may go on for ten seconds, what is written goes to the disk. Pods and containers go on. The exit status is 0."),
		manual.Term("SIGHUP", "Reload the configuration; see crio.conf(5). If anything in it is wrong the present one stays, and the log says what."),
		manual.Term("SIGUSR1", "Write the stacks of all goroutines to crio-goroutine-stacks-TIME.log in the folder for temporary files."),
		manual.Term("SIGUSR2", "Collect garbage and return memory to the system."),
		manual.Heading("Environment"),
		manual.Text("Options name their variables above. Further ones:"),
		manual.Term("KUBENSMNT", "File of a mount namespace, which the daemon joins when it starts. If it cannot, the log says so and it goes on."),
		manual.Term("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID", "A service manager is told when the daemon is ready, reloads and ends, and that it is alive; sd_notify(3)."),
		manual.Term("HTTP_PROXY, HTTPS_PROXY, NO_PROXY", "Proxies for registries."),
		manual.Heading("Exit status"),
		manual.Text("0 after a signal; 1 if the daemon cannot start, or a command fails. Its message tells what, and how to mend it."),
		manual.Heading("Files"),
		manual.Term(confFile, "The configuration; it need not exist."),
		manual.Term(confDir, "Its drop-ins."),
		manual.Term("/etc/containers/registries.conf, policy.json, certs.d, auth.json", "Registries, signatures, certificates, credentials."),
		manual.Term("/etc/cni/net.d", "The network of pods. A change counts at once."),
		manual.Term("/var/run/crio/crio.sock", "The socket: CRI, and HTTP for crio-status(8)."),
		manual.Term("/var/lib/crio, /run/crio", "Records of pods and containers; what does not survive a boot."),
		manual.Heading("See also"),
		manual.Text("crio.conf(5), crio.conf.d(5), crio-status(8), containers-registries.conf(5), containers-policy.json(5)"),
	}
}

// confPage is crio.conf(5), from the declarations of the options.
func confPage() manual.Page {
	p := manual.Page{Name: "crio.conf", Section: 5, Short: "configuration of the CRI daemon crio"}
	p.Blocks = []manual.Block{
		manual.Heading("Description"),
		manual.Text("A TOML file. The daemon reads " + confFile + ", then the files below " + confDir + " in the order of their paths; what comes later wins. Environment variables win over files, flags over all. `crio config` prints the result, `crio config --default` the defaults, each with comments."),
		manual.Text("A key that does not exist is a warning that names file, line and the nearest key that does. A wrong value is an error with both, and the daemon does not start."),
		manual.Heading("Reload"),
		manual.Text("When one of the files changes, or at SIGHUP, all are read again. Options marked \"live\" below then have their new values for all that begins after; the tables of handlers and workloads are live as a whole, except that a handler that pods use cannot go. If anything is wrong, everything stays as it was. The log names what has changed, and what needs a restart, which leaves pods and containers running. registries.conf, its drop-ins, CNI configurations and OCI hooks are read again too when they change; policy.json and credentials are read by each pull."),
	}
	table := ""
	for _, o := range config.All() {
		if o.Key == "" {
			continue
		}
		if o.Table != table {
			table = o.Table
			p.Blocks = append(p.Blocks, manual.Heading("Table ["+table+"]"))
		}
		p.Blocks = append(p.Blocks, manual.Term(o.Key+" = "+strings.ReplaceAll(o.Text(), "\n", " "), optionText(&o)))
	}
	p.Blocks = append(p.Blocks, annotationSections()...)
	p.Blocks = append(p.Blocks, manual.Heading("See also"), manual.Text("crio(8), crio.conf.d(5), oci-hooks(5), containers-mounts.conf(5), containers-registries.conf(5), containers-policy.json(5), containers-storage.conf(5)"))
	return p
}

func optionText(o *config.Option) string {
	help := o.Help()
	text := strings.ToUpper(help[:1]) + help[1:] + "."
	if o.Flag != "" {
		text += " Flag: --" + o.Flag
		if o.Letter != "" {
			text += ", -" + o.Letter
		}
		text += "."
	}
	if len(o.Env) > 0 {
		text += fmt.Sprintf(" Environment: %s.", strings.Join(o.Env, ", "))
	}
	return text
}

func dropInPage() manual.Page {
	return manual.Page{Name: "crio.conf.d", Section: 5, Short: "folder of drop-ins for crio.conf", Blocks: []manual.Block{
		manual.Heading("Description"),
		manual.Text("Every file below " + confDir + ", whatever its name, is read after " + confFile + " in the order of the paths; names that begin with a dot are left out. Each has the form of crio.conf(5) and needs to name only what differs. Of two files that set one option the later wins; a table of a handler or workload that several files have is put together key by key."),
		manual.Text("The flag --config-dir names another folder. With --config and without it there is none."),
		manual.Heading("Example"),
		manual.Code("# " + confDir + "/10-crun.conf\n[crio.runtime]\ndefault_runtime = \"crun\"\n[crio.runtime.runtimes.crun]\nruntime_path = \"/usr/bin/crun\""),
		manual.Heading("See also"),
		manual.Text("crio(8), crio.conf(5)"),
	}}
}
