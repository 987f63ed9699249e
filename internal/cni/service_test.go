package cni_test

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/errs"
)

// script installs a plugin that is a shell script.
func (w *world) script(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.bin, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

// TestParallel attaches eight pods at once; their addresses differ.
func TestParallel(t *testing.T) {
	w := newWorld(t, list("1.1.0", bridge46, portmapConf, `{"type":"firewall","ingressPolicy":"same-bridge"}`))
	var pods []*pod
	for i := range 8 {
		pods = append(pods, w.prepare(cni.Port{HostPort: 9000 + i, ContainerPort: 80}))
	}
	for range 2 {
		var wg sync.WaitGroup
		for _, p := range pods {
			wg.Go(func() {
				if err := p.attach(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		seen := map[string]bool{}
		for _, p := range pods {
			for _, ip := range p.res.IPs {
				if seen[ip] {
					t.Errorf("two pods have %s", ip)
				}
				seen[ip] = true
			}
		}
		if len(seen) != 16 {
			t.Errorf("%d addresses, want 16", len(seen))
		}
		for _, p := range pods {
			wg.Go(p.detach)
		}
		wg.Wait()
	}
}

// TestFailingAttach: a plugin that fails in the middle leaves nothing.
func TestFailingAttach(t *testing.T) {
	w := newWorld(t, list("1.1.0", bridge46, portmapConf, `{"type":"firewall","ingressPolicy":"isolated"}`, `{"type":"third"}`))
	w.script("third", `case $CNI_COMMAND in ADD) echo '{"cniVersion":"1.1.0","code":100,"msg":"not today"}'; exit 1;; esac`)
	p := w.prepare(cni.Port{HostPort: 8080, ContainerPort: 80})
	err := p.attach()
	if err == nil || !strings.Contains(err.Error(), "not today") {
		t.Fatalf("error %v", err)
	}
	if l := w.leases(); len(l) > 0 {
		t.Errorf("leases are left: %v", l)
	}
	if out := w.ruleset(); strings.Contains(out, p.req.ID) {
		t.Errorf("filter elements are left: %s", out)
	}
	if links := sh(t, p.req.NetNS, "ip", "-br", "link"); strings.Contains(links, "eth0") {
		t.Errorf("eth0 is left:\n%s", links)
	}
	// A plugin that is nowhere is noticed before anything is done.
	os.Remove(filepath.Join(w.bin, "third"))
	err = p.attach()
	if !errs.Is(err, errs.KindUnavailable) || !strings.Contains(err.Error(), `"third"`) || !strings.Contains(err.Error(), w.bin) {
		t.Errorf("missing plugin: %v", err)
	}
	if err := w.net.Status(context.Background()); !errs.Is(err, errs.KindUnavailable) || !strings.Contains(err.Error(), `"third"`) {
		t.Errorf("Status: %v", err)
	}
	w.script("third", "exit 0")
}

// TestThirdParty: an executed plugin gets everything the protocol has, and one in
// the folder wins over the embedded one of that name.
func TestThirdParty(t *testing.T) {
	w := newWorld(t, list("1.1.0", `{"type":"bridge","bridge":"cni0","capabilities":{"bandwidth":true,"portMappings":true,"io.kubernetes.cri.pod-annotations":true,"cgroupPath":true},"ipam":{"type":"host-local"}}`))
	log := filepath.Join(w.data, "log")
	w.script("bridge", `{ env | grep ^CNI_; cat; echo; } >>`+log+`
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"interface":0,"address":"203.0.113.9/24"}]}';;
STATUS) echo '{"cniVersion":"1.1.0","code":50,"msg":"no cable"}'; exit 1;;
esac`)
	if err := w.net.Status(context.Background()); !errs.Is(err, errs.KindUnavailable) || !strings.Contains(err.Error(), "no cable") {
		t.Errorf("Status: %v", err)
	}
	p := w.prepare(cni.Port{HostPort: 80, ContainerPort: 8080, Protocol: "UDP"})
	p.req.IngressBPS, p.req.Annotations, p.req.CgroupPath = 1e6, map[string]string{"a": "b"}, "/kubepods/x"
	if err := p.attach(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.res.IPs, []string{"203.0.113.9"}) {
		t.Errorf("addresses %v", p.res.IPs)
	}
	p.detach()
	data, _ := os.ReadFile(log)
	for _, want := range []string{"CNI_COMMAND=ADD", "CNI_COMMAND=DEL", "CNI_CONTAINERID=" + p.req.ID, "CNI_IFNAME=eth0", "CNI_NETNS=" + p.req.NetNS,
		"K8S_POD_NAME=" + p.req.PodName, "K8S_POD_NAMESPACE=default", "K8S_POD_INFRA_CONTAINER_ID=" + p.req.ID, "K8S_POD_UID=" + p.req.PodUID, "IgnoreUnknown=1",
		`"hostPort":80`, `"protocol":"udp"`, `"ingressRate":1000000`, `"io.kubernetes.cri.pod-annotations":{"a":"b"}`, `"cgroupPath":"/kubepods/x"`, `"prevResult"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the plugin was not given %s:\n%s", want, data)
		}
	}
	p.req.PodName = "a;b=c"
	if err := p.attach(); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("a pod name with ';': %v", err)
	}
}

// A plugin that leaves a child behind, which has its pipes, holds nobody.
func TestPluginLeavesChild(t *testing.T) {
	w := newWorld(t, list("1.1.0", `{"type":"mine"}`))
	pid := filepath.Join(w.data, "pid")
	w.script("mine", `[ "$CNI_COMMAND" = ADD ] || exit 0; setsid sleep 1000 & echo $! >`+pid+`; echo '{"cniVersion":"1.1.0","ips":[{"address":"203.0.113.9/24"}]}'`)
	p := w.prepare()
	if err := p.attach(); err != nil || !slices.Equal(p.res.IPs, []string{"203.0.113.9"}) {
		t.Errorf("%v, %v", p.res.IPs, err)
	}
	p.detach()
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Errorf("the child: %v", err)
	}
}

// A network that was ready may fail for a while; one that never was may not.
//
// Options: crio.network.cni_status_grace_period
func TestStatusGrace(t *testing.T) {
	for grace, want := range map[time.Duration]bool{0: false, time.Hour: true} {
		w := newWorld(t, list("1.1.0", `{"type":"mine"}`), func(o *cni.Options) { o.StatusGrace = grace })
		broken := filepath.Join(w.data, "broken")
		w.script("mine", `[ "$CNI_COMMAND" = STATUS ] && [ -e `+broken+` ] && { echo '{"cniVersion":"1.1.0","code":50,"msg":"no cable"}'; exit 1; }; exit 0`)
		status := func() bool {
			w.net.Forget() // the last answer counts for a moment
			return w.net.Status(context.Background()) == nil
		}
		if err := os.WriteFile(broken, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if status() {
			t.Errorf("grace %v: a network that never was ready is", grace)
		}
		if err := os.Remove(broken); err != nil {
			t.Fatal(err)
		}
		if !status() {
			t.Errorf("grace %v: a network that is ready is not", grace)
		}
		if err := os.WriteFile(broken, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if status() != want {
			t.Errorf("grace %v: a network that was ready: %v", grace, !want)
		}
	}
}

// TestProcesses runs the embedded plugins as processes: links to this executable
// under a copy's inode, with IPAM delegated from process to process.
func TestProcesses(t *testing.T) {
	w := newWorld(t, list("1.1.0", bridge46, portmapConf, `{"type":"firewall"}`, `{"type":"tuning","mtu":1400}`, `{"type":"bandwidth","ingressRate":8000000,"ingressBurst":800000}`))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range cni.Embedded() {
		file := filepath.Join(w.bin, p.Name)
		if err := os.Link(filepath.Join(w.bin, "bandwidth"), file); err == nil {
			continue
		}
		if err := os.WriteFile(file, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.net.Status(context.Background()); err != nil {
		t.Fatal(err)
	}
	p := w.run(cni.Port{HostPort: 8080, ContainerPort: 80})
	serve(t, p.req.NetNS, "tcp", "[::]:80")
	want(t, "", "tcp", "127.0.0.1:8080", "10.85.0.1")
	if out := sh(t, p.req.NetNS, "ip", "link", "show", "eth0"); !strings.Contains(out, "mtu 1400") {
		t.Errorf("tuning did nothing:\n%s", out)
	}
	if err := w.net.Check(context.Background(), p.cfg, p.req, p.res); err != nil {
		t.Error(err)
	}
	p.detach()
	// A link to the running executable is run in this process.
	if err := os.Remove(filepath.Join(w.bin, "bridge")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/exe", filepath.Join(w.bin, "bridge")); err != nil {
		t.Fatal(err)
	}
	e := cni.NewExec(cni.Embedded(), nil)
	path, err := e.FindInPath("bridge", []string{w.bin})
	if err != nil || strings.HasPrefix(path, w.bin) {
		t.Errorf("a link to ourselves: %s, %v", path, err)
	}
	if path, err := e.FindInPath("host-local", []string{w.bin}); err != nil || !strings.HasPrefix(path, w.bin) {
		t.Errorf("a copy of ourselves: %s, %v", path, err)
	}
	for _, bad := range []string{"../bridge", "a/b", "", ".", ".."} {
		if path, err := e.FindInPath(bad, []string{w.bin}); !errs.Is(err, errs.KindInvalid) {
			t.Errorf("type %q: %s, %v", bad, path, err)
		}
	}
}

// TestGC: pods that nobody detached are cleaned up by their absence from the list.
func TestGC(t *testing.T) {
	for _, version := range []string{"1.1.0", "0.4.0"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, list(version, bridge46, portmapConf, `{"type":"firewall","ingressPolicy":"same-bridge"}`, `{"type":"bandwidth","capabilities":{"bandwidth":true}}`))
			lost := w.prepare(cni.Port{HostPort: 8080, ContainerPort: 80})
			lost.req.EgressBPS = 1e7
			if err := lost.attach(); err != nil {
				t.Fatal(err)
			}
			forgotten := w.run(cni.Port{HostPort: 8081, ContainerPort: 80})
			kept := w.run(cni.Port{HostPort: 8082, ContainerPort: 80})
			// Of one even the cache is lost, and its namespace.
			unix.Unmount(forgotten.req.NetNS, unix.MNT_DETACH)
			cached, _ := filepath.Glob(filepath.Join(w.data, "results", "*"+forgotten.req.ID+"*"))
			if len(cached) != 1 {
				t.Fatalf("cached: %v", cached)
			}
			os.Remove(cached[0])
			// Another program's network must not be touched, though its file is there.
			other := filepath.Join(w.data, "networks", "podman")
			changed := w.net.Changed()
			w.write("87-podman.conflist", strings.Replace(list(version, bridge4), `"test"`, `"podman"`, 1))
			<-changed
			foreign := filepath.Join(w.data, "results", "podman-someone-eth0")
			os.WriteFile(foreign, []byte(`{"kind":"cniCacheV1","containerId":"someone","ifName":"eth0","networkName":"podman"}`), 0o600)
			os.MkdirAll(other, 0o755)
			os.WriteFile(filepath.Join(other, "10.88.0.2"), []byte("someone\r\neth0"), 0o600)
			if err := w.net.GC(context.Background(), []string{kept.req.ID}); err != nil {
				t.Fatal(err)
			}
			if l := w.leases(); len(l) != 3 {
				t.Errorf("leases: %v", l)
			}
			out := w.ruleset()
			for _, p := range []*pod{lost, forgotten} {
				if strings.Contains(out, p.req.ID) {
					t.Errorf("elements of %s are left:\n%s", p.req.ID, out)
				}
			}
			if err := w.net.Check(context.Background(), kept.cfg, kept.req, kept.res); err != nil {
				t.Error(err)
			}
			if links := sh(t, "", "ip", "-br", "link"); strings.Contains(links, "bwp") {
				t.Errorf("an ifb is left:\n%s", links)
			}
			if _, err := os.Stat(foreign); err != nil {
				t.Error(err)
			}
			os.RemoveAll(other)
			os.Remove(foreign)
		})
	}
}

// TestStatus: what is wrong with which file.
func TestStatus(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net.d")
	for _, c := range []struct{ name, file, text, want string }{
		{"no folder", "", "", "does not exist"},
		{"empty", "README", "x", "there is no CNI configuration"},
		{"syntax", "10-a.conflist", "{\n\"name\": \"a\",\n}", "10-a.conflist: line 3"},
		{"type", "10-a.conflist", "{\"name\": \"a\",\n\"plugins\": [{\"type\":\n 7}]}", "10-a.conflist: line 3: key plugins"},
		{"no name", "10-a.conflist", `{"plugins":[{"type":"bridge"}]}`, "key name is missing"},
		{"bad name", "10-a.conflist", `{"name":"../a","plugins":[{"type":"bridge"}]}`, "key name"},
		{"no type", "10-a.conflist", `{"name":"a","plugins":[{"bridge":"x"}]}`, "missing 'type'"},
		{"version", "10-a.conflist", `{"name":"a","cniVersion":"9.0.0","plugins":[{"type":"bridge"}]}`, `"9.0.0" is none of`},
		{"no plugins", "10-a.conflist", `{"name":"a","plugins":[]}`, "no plugins"},
		{"nothing", "10-a.conf", `{"name":"a"}`, "key type is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.RemoveAll(dir)
			if c.file != "" {
				os.MkdirAll(dir, 0o755)
				os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o600)
			}
			n, err := cni.New(cni.Options{ConfDir: dir, CacheDir: t.TempDir(), Plugins: cni.Embedded()})
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			err = n.Status(context.Background())
			if !errs.Is(err, errs.KindUnavailable) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("Status: %v; want one with %q", err, c.want)
			}
			if _, err := n.Select(); err == nil {
				t.Error("Select finds something")
			}
		})
	}
}

// TestChoice: lexical order, broken files are skipped, the default is by name;
// single plugins and plugins beside a list become whole lists.
func TestChoice(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
	}
	write("00-broken.conflist", "{")
	write("10-single.conf", `{"cniVersion":"0.4.0","name":"single","type":"bridge","ipam":{"type":"host-local","subnet":"10.1.0.0/16"}}`)
	write("20-list.conflist", `{"cniVersion":"1.1.0","name":"beside"}`)
	write("beside/10-main.conf", `{"type":"ptp","ipam":{"type":"host-local","dataDir":"/elsewhere","subnet":"10.2.0.0/16"}}`)
	write("30-ports.json", `{"cniVersion":"1.0.0","name":"ports","plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}`)
	for _, c := range []struct {
		def, name string
		plugins   []string
		dir       string
	}{
		{"", "single", []string{"bridge", "monocrio-portmap"}, "/cache/networks"},
		{"beside", "beside", []string{"ptp", "monocrio-portmap"}, "/elsewhere"},
		{"ports", "ports", []string{"bridge", "portmap"}, ""},
	} {
		n, err := cni.New(cni.Options{ConfDir: dir, CacheDir: "/cache", DefaultNetwork: c.def, Plugins: cni.Embedded()})
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := n.Select()
		n.Close()
		if err != nil {
			t.Fatal(err)
		}
		var l struct {
			Name    string
			Plugins []struct {
				Type string
				IPAM struct{ DataDir string }
			}
		}
		if err := json.Unmarshal(cfg.List, &l); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range l.Plugins {
			got = append(got, p.Type)
		}
		if cfg.Name != c.name || l.Name != c.name || !slices.Equal(got, c.plugins) || l.Plugins[0].IPAM.DataDir != c.dir {
			t.Errorf("default %q: %s %s", c.def, cfg.Name, cfg.List)
		}
	}
	n, _ := cni.New(cni.Options{ConfDir: dir, DefaultNetwork: "nope", Plugins: cni.Embedded()})
	defer n.Close()
	if err := n.Status(context.Background()); !errs.Is(err, errs.KindUnavailable) || !strings.Contains(err.Error(), `"nope"`) || !strings.Contains(err.Error(), "single, beside, ports") {
		t.Errorf("a default that is not there: %v", err)
	}
}

// TestWatch: folders and files come, change, are replaced and go.
func TestWatch(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b", "net.d")
	n, err := cni.New(cni.Options{ConfDir: dir, CacheDir: t.TempDir(), Plugins: cni.Embedded()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	conf := func(name string) string {
		return `{"cniVersion":"1.0.0","name":"` + name + `","plugins":[{"type":"bridge","ipam":{"type":"host-local","subnet":"10.1.0.0/16"}}]}`
	}
	wait := func(what, name string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; {
			changed := n.Changed()
			c, err := n.Select()
			if (err != nil && name == "") || (err == nil && c.Name == name) {
				if status := n.Status(context.Background()); (status == nil) != (name != "") {
					t.Errorf("%s: Status %v", what, status)
				}
				return
			}
			select {
			case <-changed:
			case <-time.After(time.Until(end)):
				t.Fatalf("%s: network %q, %v; want %q", what, c.Name, err, name)
			}
		}
	}
	wait("nothing", "")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "10-x.conflist")
	must(os.MkdirAll(dir, 0o755))
	must(os.WriteFile(file, []byte(conf("one")), 0o600))
	wait("file arrives", "one")
	must(os.WriteFile(file, []byte(conf("two")), 0o600))
	wait("file changes", "two")
	must(os.WriteFile(filepath.Join(dir, "tmp"), []byte(conf("three")), 0o600))
	must(os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "05-x.conflist")))
	wait("file is moved in", "three")
	must(os.Rename(dir, dir+".old"))
	wait("folder goes", "")
	must(os.Mkdir(dir+".new", 0o755))
	must(os.WriteFile(filepath.Join(dir+".new", "x.conflist"), []byte(conf("four")), 0o600))
	must(os.Rename(dir+".new", dir))
	wait("folder is replaced", "four")
	must(os.RemoveAll(filepath.Join(top, "a")))
	wait("everything goes", "")
	must(os.MkdirAll(dir, 0o755))
	must(os.WriteFile(file, []byte(conf("five")), 0o600))
	wait("everything comes back", "five")
}

// TestWatchWithoutInotify: the fallback looks by itself.
func TestWatchWithoutInotify(t *testing.T) {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for len(fds) < 20000 {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			break
		}
		fds = append(fds, fd)
	}
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC); err == nil {
		unix.Close(fd)
		t.Skip("cannot exhaust inotify instances")
	}
	dir := t.TempDir()
	n, err := cni.New(cni.Options{ConfDir: dir, CacheDir: t.TempDir(), Plugins: cni.Embedded()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	changed := n.Changed()
	os.WriteFile(filepath.Join(dir, "x.conf"), []byte(`{"name":"x","type":"bridge"}`), 0o600)
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Fatal("the file was not noticed")
	}
	if err := n.Status(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestOldVersions attaches by every version of the specification.
func TestOldVersions(t *testing.T) {
	for _, v := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, list(v, bridge4))
			if err := w.net.Status(context.Background()); err != nil {
				t.Fatal(err)
			}
			p := w.run()
			if !slices.Equal(p.res.IPs, []string{"10.85.0.2"}) || !strings.Contains(string(p.res.Raw), `"cniVersion":"`+v+`"`) {
				t.Errorf("%s", p.res.Raw)
			}
			if err := w.net.Check(context.Background(), p.cfg, p.req, p.res); err != nil {
				t.Error(err)
			}
			p.detach()
		})
	}
}

// TestForeignRuleset: rules of nft and of iptables-nft stay, and stay listable.
func TestForeignRuleset(t *testing.T) {
	w := newWorld(t, list("1.1.0", bridge4, `{"type":"firewall"}`))
	outside := outsider(t)
	sh(t, "", "nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; add table inet mine; add chain inet mine c; add rule inet mine c counter")
	t.Cleanup(func() { sh(t, "", "nft", "flush ruleset") })
	before := sh(t, "", "nft", "list ruleset")
	p := w.run()
	serve(t, outside, "tcp", "0.0.0.0:80")
	want(t, p.req.NetNS, "tcp", "192.0.2.2:80", "192.0.2.1")
	if _, err := net.LookupHost("localhost"); err != nil {
		t.Log(err)
	}
	p.detach()
	if after := sh(t, "", "nft", "list ruleset"); after != before {
		t.Errorf("the ruleset was\n%s\nand is\n%s", before, after)
	}
}
