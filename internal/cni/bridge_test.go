package cni_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni"
)

// TestPods runs two pods on a bridge and lets everybody talk to everybody.
func TestPods(t *testing.T) {
	w := newWorld(t, list("1.1.0", bridge46))
	a, b := w.run(), w.run()
	if len(a.res.IPs) != 2 || a.res.IPs[0] != "10.85.0.2" || !strings.HasPrefix(a.res.IPs[1], "fd00:85::") {
		t.Fatalf("addresses %v", a.res.IPs)
	}
	serve(t, a.req.NetNS, "tcp", "[::]:80")
	serve(t, a.req.NetNS, "udp4", "0.0.0.0:80")
	want(t, b.req.NetNS, "tcp", a.res.IPs[0]+":80", b.res.IPs[0])
	want(t, b.req.NetNS, "tcp", "["+a.res.IPs[1]+"]:80", b.res.IPs[1])
	want(t, b.req.NetNS, "udp", a.res.IPs[0]+":80", b.res.IPs[0])
	want(t, "", "tcp", a.res.IPs[0]+":80", "10.85.0.1")
	want(t, "", "tcp", "["+a.res.IPs[1]+"]:80", "fd00:85::1")
	want(t, a.req.NetNS, "tcp", "127.0.0.1:80", "127.0.0.1") // lo is up
	serve(t, "", "tcp", "[::]:81")
	want(t, b.req.NetNS, "tcp", "10.85.0.1:81", b.res.IPs[0])
	if err := w.net.Check(context.Background(), a.cfg, a.req, a.res); err != nil {
		t.Error(err)
	}
	a.detach()
	a.detach() // is done already
	if err := w.net.Check(context.Background(), a.cfg, a.req, a.res); err == nil {
		t.Error("Check of a detached pod passes")
	}
	want(t, b.req.NetNS, "tcp", "10.85.0.1:81", b.res.IPs[0])
	// The file, then the namespace, go before the pod does.
	if err := os.Remove(b.cfg.File); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(b.req.NetNS, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	b.detach()
}

// TestHostPort reaches a pod by ports of the node in every way there is.
func TestHostPort(t *testing.T) {
	for _, conf := range []string{list("1.1.0", bridge46), list("0.4.0", bridge46, portmapConf)} {
		for _, filter := range []string{"0", "1"} {
			t.Run("bridge-nf-call="+filter, func(t *testing.T) { testHostPort(t, conf, filter) })
		}
	}
}

// filterBridged sets whether bridged packets pass the packet filter.
func filterBridged(t *testing.T, value string) {
	t.Helper()
	for _, name := range []string{"iptables", "ip6tables"} {
		if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte(value), 0); err != nil {
			t.Skip("needs br_netfilter: " + err.Error())
		}
	}
}

func testHostPort(t *testing.T, conf, filter string) {
	w := newWorld(t, conf)
	outside := outsider(t)
	filterBridged(t, filter)
	p := w.run(
		cni.Port{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"},
		cni.Port{HostPort: 8080, ContainerPort: 80, Protocol: "UDP"},
		cni.Port{HostPort: 8081, ContainerPort: 80, Protocol: "tcp", HostIP: "192.0.2.1"})
	peer := w.run()
	serve(t, p.req.NetNS, "tcp", "[::]:80")
	serve(t, p.req.NetNS, "udp4", "0.0.0.0:80")
	for _, network := range []string{"tcp", "udp"} {
		want(t, outside, network, "192.0.2.1:8080", "192.0.2.2") // its address is not changed
		want(t, "", network, "192.0.2.1:8080", "")
		want(t, "", network, "127.0.0.1:8080", "10.85.0.1")
		want(t, "", network, "10.85.0.1:8080", "")
		want(t, peer.req.NetNS, network, "192.0.2.1:8080", "")
		want(t, p.req.NetNS, network, "192.0.2.1:8080", "") // hairpin
	}
	want(t, outside, "tcp", "[2001:db8::1]:8080", "2001:db8::2")
	want(t, "", "tcp", "[2001:db8::1]:8080", "")
	want(t, p.req.NetNS, "tcp", "[2001:db8::1]:8080", "")
	want(t, outside, "tcp", "192.0.2.1:8081", "")
	wantNone(t, "", "tcp", "127.0.0.1:8081")
	wantNone(t, "", "tcp", "[::1]:8080")
	wantNone(t, "", "tcp", "192.0.2.1:80")
	if err := w.net.Check(context.Background(), p.cfg, p.req, p.res); err != nil {
		t.Error(err)
	}
	second := w.prepare(cni.Port{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"})
	if err := second.attach(); err == nil || !strings.Contains(err.Error(), "8080 is in use by pod "+p.req.ID) {
		t.Errorf("a second pod on the same port: %v", err)
	}
	p.detach()
	wantNone(t, "", "tcp", "127.0.0.1:8080")
	if err := second.attach(); err != nil {
		t.Error(err)
	}
}

// outsider is a machine beside the node: 192.0.2.2 and 2001:db8::2, without a route
// to pods.
func outsider(t *testing.T) string {
	t.Helper()
	ns := newNS(t)
	sh(t, "", "ip", "link", "add", "keep0", "type", "veth", "peer", "name", "eth0", "netns", ns)
	t.Cleanup(func() { sh(t, "", "ip", "link", "del", "keep0") })
	for _, c := range []struct{ ns, dev, addr string }{{"", "keep0", "1"}, {ns, "eth0", "2"}} {
		sh(t, c.ns, "ip", "addr", "add", "192.0.2."+c.addr+"/24", "dev", c.dev)
		sh(t, c.ns, "ip", "addr", "add", "2001:db8::"+c.addr+"/64", "dev", c.dev, "nodad")
		sh(t, c.ns, "ip", "link", "set", c.dev, "up")
		sh(t, c.ns, "ip", "link", "set", "lo", "up")
	}
	return ns
}

// TestMasquerade looks at pods from outside.
func TestMasquerade(t *testing.T) {
	w := newWorld(t, list("1.0.0", bridge46))
	outside := outsider(t)
	p := w.run()
	serve(t, outside, "tcp", "[::]:80")
	want(t, p.req.NetNS, "tcp", "192.0.2.2:80", "192.0.2.1")
	want(t, p.req.NetNS, "tcp", "[2001:db8::2]:80", "2001:db8::1")
}

// TestForgedLoopback: route_localnet must not open the node's loopback to others.
func TestForgedLoopback(t *testing.T) {
	w := newWorld(t, list("1.0.0", bridge4))
	p := w.run(cni.Port{HostPort: 8080, ContainerPort: 80})
	serve(t, "", "tcp", "127.0.0.1:9000")
	sh(t, p.req.NetNS, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
	sh(t, p.req.NetNS, "ip", "route", "add", "127.0.0.1/32", "via", "10.85.0.1", "src", p.res.IPs[0])
	sh(t, p.req.NetNS, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet")
	wantNone(t, p.req.NetNS, "tcp", "127.0.0.1:9000")
}
