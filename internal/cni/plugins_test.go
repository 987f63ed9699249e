package cni_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/errs"
)

func (p *pod) check() {
	p.w.t.Helper()
	if err := p.w.net.Check(context.Background(), p.cfg, p.req, p.res); err != nil {
		p.w.t.Error(err)
	}
}

// has fails the test unless the output of a command has all words.
func has(t *testing.T, ns string, words []string, command ...string) {
	t.Helper()
	out := sh(t, ns, command...)
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%v lacks %q:\n%s", command, w, out)
		}
	}
}

func TestBandwidth(t *testing.T) {
	w := newWorld(t, list("1.0.0", bridge4, `{"type":"bandwidth","capabilities":{"bandwidth":true}}`))
	free := w.run()
	p := w.prepare()
	p.req.IngressBPS, p.req.EgressBPS = 8e6, 16e6
	if err := p.attach(); err != nil {
		t.Fatal(err)
	}
	serve(t, p.req.NetNS, "tcp", "[::]:80")
	want(t, "", "tcp", p.res.IPs[0]+":80", "10.85.0.1")
	has(t, "", []string{"tbf", "rate 8Mbit", "rate 16Mbit", "ingress"}, "tc", "qdisc", "show")
	has(t, "", []string{"bwp"}, "ip", "-br", "link")
	p.check()
	free.check()
	p.detach()
	p.detach()
	if out := sh(t, "", "tc", "qdisc", "show"); strings.Contains(out, "tbf") {
		t.Errorf("limits are left:\n%s", out)
	}
}

func TestIsolation(t *testing.T) {
	second := strings.NewReplacer("cni0", "cni1", "10.85", "10.86").Replace(bridge4)
	for _, policy := range []string{"open", "same-bridge", "isolated"} {
		t.Run(policy, func(t *testing.T) {
			fw := fmt.Sprintf(`{"type":"firewall","ingressPolicy":%q}`, policy)
			w := newWorld(t, list("1.0.0", bridge4, fw))
			filterBridged(t, "1")
			a, b := w.run(), w.run()
			// The second network.
			w.write("05-first.conflist", strings.Replace(list("1.0.0", second, fw), `"test"`, `"test2"`, 1))
			<-w.net.Changed()
			c := w.run()
			if c.cfg.Name != "test2" {
				t.Fatalf("network %s", c.cfg.Name)
			}
			serve(t, a.req.NetNS, "tcp", "[::]:80")
			addr := a.res.IPs[0] + ":80"
			want(t, "", "tcp", addr, "")
			switch policy {
			case "open":
				want(t, b.req.NetNS, "tcp", addr, "")
				want(t, c.req.NetNS, "tcp", addr, "")
			case "same-bridge":
				want(t, b.req.NetNS, "tcp", addr, "")
				wantNone(t, c.req.NetNS, "tcp", addr)
			case "isolated":
				wantNone(t, b.req.NetNS, "tcp", addr)
				wantNone(t, c.req.NetNS, "tcp", addr)
			}
			a.check()
			c.check()
			c.detach()
			if out := w.ruleset(); strings.Contains(out, `"cni1"`) {
				t.Errorf("a bridge without pods is still known:\n%s", out)
			}
		})
	}
}

func TestBridgeOptions(t *testing.T) {
	w := newWorld(t, list("1.0.0", `{"type":"bridge","bridge":"cni0","isGateway":true,"mtu":1300,"macspoofchk":true,"portIsolation":true,"promiscMode":true,
		"dns":{"nameservers":["192.0.2.53"]},"ipam":{"type":"host-local","ranges":[[{"subnet":"10.85.0.0/24","rangeStart":"10.85.0.10","rangeEnd":"10.85.0.20","gateway":"10.85.0.254"}]],"routes":[{"dst":"198.51.100.0/24"}]}}`))
	a, b := w.run(), w.run()
	if a.res.IPs[0] != "10.85.0.10" {
		t.Errorf("address %v", a.res.IPs)
	}
	if !strings.Contains(string(a.res.Raw), "192.0.2.53") {
		t.Errorf("no name server in %s", a.res.Raw)
	}
	a.check()
	has(t, a.req.NetNS, []string{"mtu 1300"}, "ip", "link", "show", "eth0")
	has(t, a.req.NetNS, []string{"198.51.100.0/24 via 10.85.0.254"}, "ip", "route")
	has(t, "", []string{"isolated on"}, "bridge", "-d", "link", "show")
	has(t, "", []string{"PROMISC"}, "ip", "link", "show", "cni0")
	serve(t, a.req.NetNS, "tcp", "0.0.0.0:80")
	want(t, "", "tcp", a.res.IPs[0]+":80", "10.85.0.254")
	wantNone(t, b.req.NetNS, "tcp", a.res.IPs[0]+":80")
	// With a forged hardware address nothing gets out.
	sh(t, a.req.NetNS, "ip", "link", "set", "eth0", "address", "02:00:00:00:be:ef")
	sh(t, "", "ip", "neigh", "flush", "all")
	wantNone(t, "", "tcp", a.res.IPs[0]+":80")
	a.detach()
	b.detach()
}

func TestBridgeVlan(t *testing.T) {
	conf := func(vlan int) string {
		return list("1.0.0", fmt.Sprintf(`{"type":"bridge","bridge":"cni0","isGateway":true,"vlan":%d,"ipam":{"type":"host-local","subnet":"10.85.%d.0/24"}}`, vlan, vlan))
	}
	w := newWorld(t, conf(5))
	p := w.prepare()
	if err := p.attach(); errs.Is(err, errs.KindUnimplemented) {
		t.Skip("needs CONFIG_BRIDGE_VLAN_FILTERING: " + err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	has(t, "", []string{"cni0.5", "10.85.5.1/24"}, "ip", "-br", "addr")
	serve(t, p.req.NetNS, "tcp", "0.0.0.0:80")
	want(t, "", "tcp", p.res.IPs[0]+":80", "10.85.5.1")
}

// TestBridgeAddress: a second subnet on a bridge needs forceAddress.
func TestBridgeAddress(t *testing.T) {
	conf := func(more string) string {
		return list("1.0.0", `{"type":"bridge","bridge":"cni0","isGateway":true`+more+`}`)
	}
	w := newWorld(t, conf(`,"ipam":{"type":"host-local","subnet":"10.85.0.0/24"}`))
	p := w.run()
	w.write("10-test.conflist", conf(`,"ipam":{"type":"host-local","subnet":"10.86.0.0/24"}`))
	<-w.net.Changed()
	q := w.prepare()
	if err := q.attach(); !errs.Is(err, errs.KindAlreadyExists) || !strings.Contains(err.Error(), "forceAddress") {
		t.Errorf("error %v", err)
	}
	if l := w.leases(); len(l) != 1 {
		t.Errorf("leases %v", l)
	}
	w.write("10-test.conflist", conf(`,"forceAddress":true,"ipam":{"type":"host-local","subnet":"10.86.0.0/24"}`))
	<-w.net.Changed()
	q = w.run()
	has(t, "", []string{"10.86.0.1/24"}, "ip", "-br", "addr", "show", "cni0")
	p.detach()
	q.detach()
}

func TestPTP(t *testing.T) {
	w := newWorld(t, list("1.1.0", `{"type":"ptp","ipMasq":true,"mtu":1400,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.85.0.0/24"}],[{"subnet":"fd00:85::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}`))
	outside := outsider(t)
	if err := w.net.Status(context.Background()); err != nil {
		t.Fatal(err)
	}
	a, b := w.run(cni.Port{HostPort: 8080, ContainerPort: 80}), w.run()
	serve(t, a.req.NetNS, "tcp", "[::]:80")
	serve(t, outside, "tcp", "[::]:80")
	want(t, b.req.NetNS, "tcp", a.res.IPs[0]+":80", b.res.IPs[0])
	want(t, b.req.NetNS, "tcp", "["+a.res.IPs[1]+"]:80", b.res.IPs[1])
	want(t, "", "tcp", a.res.IPs[0]+":80", "")
	want(t, "", "tcp", "127.0.0.1:8080", "")
	want(t, a.req.NetNS, "tcp", "192.0.2.2:80", "192.0.2.1")
	want(t, a.req.NetNS, "tcp", "[2001:db8::2]:80", "2001:db8::1")
	want(t, outside, "tcp", "192.0.2.1:8080", "192.0.2.2")
	a.check()
	a.detach()
	b.detach()
}

func TestStatic(t *testing.T) {
	w := newWorld(t, list("1.1.0", `{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"ipam":{"type":"static","addresses":[{"address":"10.85.0.77/24","gateway":"10.85.0.1"},{"address":"fd00:85::77/64"}]}}`))
	p := w.run()
	if !slices.Equal(p.res.IPs, []string{"10.85.0.77", "fd00:85::77"}) {
		t.Errorf("addresses %v", p.res.IPs)
	}
	p.check()
	serve(t, p.req.NetNS, "tcp", "[::]:80")
	want(t, "", "tcp", "10.85.0.77:80", "10.85.0.1")
	want(t, "", "tcp", "[fd00:85::77]:80", "fd00:85::1")
}

func TestMacvlan(t *testing.T) {
	w := newWorld(t, list("1.0.0", `{"type":"macvlan","master":"keep0","mac":"02:00:00:00:00:07","ipam":{"type":"static","addresses":[{"address":"192.0.2.7/24"}]}}`))
	outside := outsider(t)
	p := w.run()
	p.check()
	serve(t, p.req.NetNS, "tcp", "[::]:80")
	want(t, outside, "tcp", "192.0.2.7:80", "192.0.2.2")
	has(t, p.req.NetNS, []string{"02:00:00:00:00:07"}, "ip", "link", "show", "eth0")
	p.detach()
	if out := sh(t, p.req.NetNS, "ip", "-br", "link"); strings.Contains(out, "eth0") {
		t.Errorf("eth0 is left:\n%s", out)
	}
	w.write("10-test.conflist", list("1.0.0", `{"type":"macvlan","master":"none0"}`))
	<-w.net.Changed()
	if err := w.prepare().attach(); !errs.Is(err, errs.KindUnavailable) {
		t.Errorf("a master that is not there: %v", err)
	}
}

func TestVlan(t *testing.T) {
	w := newWorld(t, list("1.0.0", `{"type":"vlan","master":"keep0","vlanId":7,"ipam":{"type":"static","addresses":[{"address":"198.51.100.7/24"}]}}`))
	outside := outsider(t)
	p := w.prepare()
	err := p.attach()
	if errs.Is(err, errs.KindUnimplemented) {
		if !strings.Contains(err.Error(), "CONFIG_VLAN_8021Q") {
			t.Errorf("error %v", err)
		}
		t.Skip("needs 802.1Q: " + err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	sh(t, outside, "ip", "link", "add", "link", "eth0", "name", "v7", "type", "vlan", "id", "7")
	sh(t, outside, "ip", "addr", "add", "198.51.100.2/24", "dev", "v7")
	sh(t, outside, "ip", "link", "set", "v7", "up")
	serve(t, p.req.NetNS, "tcp", "0.0.0.0:80")
	want(t, outside, "tcp", "198.51.100.7:80", "198.51.100.2")
}

func TestHostDevice(t *testing.T) {
	w := newWorld(t, list("1.0.0", `{"type":"host-device","device":"keep0","ipam":{"type":"static","addresses":[{"address":"192.0.2.9/24"}]}}`))
	outside := outsider(t)
	p := w.run()
	p.check()
	serve(t, p.req.NetNS, "tcp", "0.0.0.0:80")
	want(t, outside, "tcp", "192.0.2.9:80", "192.0.2.2")
	if _, err := net.InterfaceByName("keep0"); err == nil {
		t.Error("keep0 is still on the node")
	}
	p.detach()
	p.detach()
	if _, err := net.InterfaceByName("keep0"); err != nil {
		t.Errorf("keep0 did not come back: %v", err)
	}
	if err := w.prepare().attach(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	_ = w.net.GC(context.Background(), nil)
}

func TestTuning(t *testing.T) {
	w := newWorld(t, list("1.0.0", bridge4, `{"type":"tuning","dataDir":"`+filepath.Join(t.TempDir(), "tuning")+`","mac":"02:00:00:00:00:09","mtu":1290,"promisc":true,"allmulti":true,"txQLen":77,
		"sysctl":{"net.core.somaxconn":"99","net.ipv4.conf.IFNAME.arp_filter":"1"}}`))
	p := w.run()
	p.check()
	has(t, p.req.NetNS, []string{"mtu 1290", "02:00:00:00:00:09", "PROMISC", "ALLMULTI", "qlen 77"}, "ip", "link", "show", "eth0")
	has(t, p.req.NetNS, []string{"99"}, "cat", "/proc/sys/net/core/somaxconn")
	has(t, p.req.NetNS, []string{"1"}, "cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter")
	if !strings.Contains(string(p.res.Raw), "02:00:00:00:00:09") {
		t.Errorf("the result has not the new address: %s", p.res.Raw)
	}
	w.write("10-test.conflist", list("1.0.0", bridge4, `{"type":"tuning","sysctl":{"kernel.domainname":"x"}}`))
	<-w.net.Changed()
	if err := w.prepare().attach(); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("a sysctl outside net: %v", err)
	}
}

// TestExhausted: no address left is told as such, and one that is released is used
// again.
func TestExhausted(t *testing.T) {
	w := newWorld(t, list("1.0.0", `{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","subnet":"10.85.0.0/30"}}`))
	p := w.run()
	q := w.prepare()
	if err := q.attach(); !errs.Is(err, errs.KindExhausted) || !strings.Contains(err.Error(), "10.85.0") {
		t.Errorf("error %v", err)
	}
	p.detach()
	if err := q.attach(); err != nil {
		t.Error(err)
	}
}

// TestInvalidPorts: what cannot be meant is refused before anything is done.
func TestInvalidPorts(t *testing.T) {
	w := newWorld(t, list("1.0.0", bridge4))
	for _, p := range []cni.Port{
		{HostPort: 70000, ContainerPort: 80}, {HostPort: 80, ContainerPort: 0},
		{HostPort: 80, ContainerPort: 80, Protocol: "icmp"}, {HostPort: 80, ContainerPort: 80, HostIP: "there"},
	} {
		if err := w.prepare(p).attach(); !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if l := w.leases(); len(l) > 0 {
		t.Errorf("leases %v", l)
	}
	w.run(cni.Port{HostPort: 80, ContainerPort: 80, Protocol: "SCTP"}, cni.Port{ContainerPort: 81}).detach()
}

// TestStaleUDP: a client that sent before the pod was there is not lost for ever.
func TestStaleUDP(t *testing.T) {
	w := newWorld(t, list("1.0.0", bridge4))
	outside := outsider(t)
	var c net.Conn
	if err := inNS(outside, func() (err error) {
		c, err = net.Dial("udp", "192.0.2.1:8080")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	keep := w.run(cni.Port{HostPort: 1, ContainerPort: 1}) // so that connections are tracked
	defer keep.detach()
	ask := func() bool {
		c.Write([]byte("?"))
		buf := make([]byte, 50)
		c.SetReadDeadline(deadline(300))
		_, err := c.Read(buf)
		return err == nil
	}
	if ask() {
		t.Fatal("somebody answers before there is a pod")
	}
	p := w.run(cni.Port{HostPort: 8080, ContainerPort: 80, Protocol: "udp"})
	serve(t, p.req.NetNS, "udp4", "0.0.0.0:80")
	ok := false
	for i := 0; i < 30 && !ok; i++ {
		ok = ask()
	}
	if !ok {
		t.Error("the pod is not reached by an old client")
	}
	p.detach()
	if ask() {
		t.Error("the pod is reached after it was detached")
	}
}

// TestApplet: called without a protocol the applet explains itself.
func TestApplet(t *testing.T) {
	self, _ := os.Executable()
	cmd := exec.Command(self)
	cmd.Args[0], cmd.Env = "bridge", []string{"CNI_COMMAND=VERSION"}
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), `"1.1.0"`) {
		t.Errorf("VERSION: %s, %v", out, err)
	}
	cmd = exec.Command(self)
	cmd.Args[0], cmd.Env = "portmap", []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=x", "CNI_IFNAME=eth0", "CNI_NETNS=/nowhere", "CNI_PATH=/x"}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"n","type":"portmap"}`)
	out, err = cmd.Output()
	if err == nil || !strings.Contains(string(out), `"code"`) || !strings.Contains(string(out), "prevResult") {
		t.Errorf("ADD of a plugin that must be chained: %s, %v", out, err)
	}
}
