package appliance

import (
	"slices"
	"strings"
	"testing"
)

// A machine of a kernel, this file and an image, without any configuration.
func TestOneFile(t *testing.T) {
	m := newMachine(t)
	m.layout("hello", `echo "hello from $(hostname), process $$"; ls /proc/sys/net/ipv4/ip_forward; id -u; grep Seccomp: /proc/self/status; exit 3`)
	if others := slices.DeleteFunc(slices.Clone(m.fs.names), func(f string) bool { return f == "init" || strings.HasPrefix(f, "images/hello/") }); len(others) > 0 {
		t.Errorf("the machine has more than one file and an image: %v", others)
	}
	m.append = []string{"monocrio.run=localhost/hello:1", "monocrio.hostname=box", "CONTAINER_OFFLINE=true"}
	r := m.boot()
	r.shows("hello from box, process 1\n")
	r.shows("Seccomp:\t2")
	r.shows("init: localhost/hello:1 ended with status 3")
	r.shows("init: the machine is down")
	r.ends()
}

const network = `{"cniVersion": "1.0.0", "name": "crio", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.85.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}, {"type": "portmap", "capabilities": {"portMappings": true}}]}`

// configured is a machine with a disk, a network and pods of its own: a web server behind
// a port of the node, and one that looks at the machine.
func configured(t *testing.T, script string) *machine {
	m := newMachine(t)
	m.layout("web", `echo "web starts"; echo page >/tmp/page; httpd -p 80 -h /tmp; trap 'echo web stops >/data/stopped; exit 0' TERM; while :; do sleep 0.1; done`)
	m.layout("look", script)
	m.fs.file("etc/crio/crio.conf", 0o644, []byte("[crio.image]\nimages_dir = \"/images\"\noffline = true\n"))
	m.fs.file("etc/cni/net.d/10-bridge.conflist", 0o644, []byte(network))
	m.fs.file("etc/hostname", 0o644, []byte("box\n"))
	m.fs.file("etc/monocrio/pods/web/pod.json", 0o644, []byte(`{"port_mappings": [{"container_port": 80, "host_port": 8080}]}`))
	m.fs.file("etc/monocrio/pods/web/httpd.json", 0o644, []byte(`{"image": {"image": "localhost/web:1"},
		"mounts": [{"container_path": "/data", "host_path": "/var/data"}], "linux": {"resources": {"memory_limit_in_bytes": 67108864}}}`))
	node := `"linux": {"security_context": {"privileged": true, "namespace_options": {"network": 2, "pid": 2}}}`
	m.fs.file("etc/monocrio/pods/look/pod.json", 0o644, []byte(`{`+node+`}`))
	m.fs.file("etc/monocrio/pods/look/look.json", 0o644, []byte(`{"image": {"image": "localhost/look:1"}, "mounts": [{"container_path": "/data", "host_path": "/var/data"}, {"container_path": "/console", "host_path": "/dev/console"}], `+node+`}`))
	return m
}

// The disk keeps what is written, pods of the last boot make place for those of this one,
// the daemon and containers that end are started again, and the machine ends in order.
func TestConfigured(t *testing.T) {
	m := configured(t, `
		exec >/console 2>&1
		get() { until wget -q -O - 2>/dev/null http://127.0.0.1:8080/page; do sleep 1; done; }
		daemon() { for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = crio ] && echo ${p#/proc/} && return; done; }
		web() { for p in /proc/[0-9]*; do grep -q 'while :; do sleep 0.1' $p/cmdline 2>/dev/null && [ "$(cat $p/comm 2>/dev/null)" = sh ] && [ ${p#/proc/} != $$ ] && echo ${p#/proc/} && return; done; }
		echo "look: boot" $(ls /data).
		touch /data/been
		echo "look: got $(get)"
		old=$(daemon); w=$(web)
		[ -n "$w" ] || echo "look: no web"
		kill -9 $old
		until new=$(daemon) && [ -n "$new" ] && [ "$new" != "$old" ]; do sleep 1; done
		[ "$(web)" = "$w" ] && echo "look: web outlived the daemon"
		kill -9 $w
		until again=$(web) && [ -n "$again" ] && [ "$again" != "$w" ]; do sleep 1; done
		echo "look: web is back, $(get)"
		sync
		kill -TERM 1
		sleep 1000`)
	m.disk()
	m.append = []string{"monocrio.data=/dev/vda"}
	r := m.boot()
	for _, text := range []string{"look: boot .", "look: got page", "init: the daemon is started again: it ended with killed", "look: web outlived the daemon",
		"look: web is back, page", "init: terminated: the machine ends", "init: the machine is down"} {
		r.shows(text)
	}
	r.ends()
	if strings.Contains(r.text(), "no web") {
		t.Errorf("the script did not see the other container:\n%s", r.text())
	}
	r = m.bootAgain()
	r.shows("look: boot been stopped.")
	r.shows("look: got page")
	r.shows("init: the machine is down")
	r.ends()
}

// The power button ends a machine whose pods would run for ever.
func TestPowerButton(t *testing.T) {
	m := configured(t, `echo "look: ready" >/console; exec sleep 100000`)
	if m.arch == "arm64" {
		t.Skip("QEMU's machine \"virt\" without firmware has its button on GPIO keys, for which kernels of clouds have no driver")
	}
	r := m.boot()
	r.shows("look: ready")
	r.powerButton()
	r.shows("init: the power button was pressed")
	r.shows("init: the machine is down")
	r.ends()
}

// A machine that lacks what it is told to use says so.
func TestComplaints(t *testing.T) {
	m := newMachine(t)
	m.fs.file("etc/monocrio/pods/empty/pod.json", 0o644, []byte(`{}`))
	m.fs.file("etc/monocrio/pods/broken/a.json", 0o644, []byte("{\n\"image\": }"))
	m.append = []string{"monocrio.run=localhost/absent:1", "monocrio.colour=green", "CONTAINER_OFFLINE=true"}
	r := m.boot()
	r.shows("monocrio.colour=green on the kernel's command line means nothing")
	r.shows("cannot use /etc/monocrio/pods/empty: it has no container")
	r.shows("cannot read /etc/monocrio/pods/broken/a.json: line 2")
	r.shows("init: cannot run localhost/absent:1, and tries again: ")
	r.shows("this node is offline")
}
