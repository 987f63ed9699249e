package nft

import (
	"bytes"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

func TestOwner(t *testing.T) {
	long := Owner{strings.Repeat("n", 200), strings.Repeat("i", 200), "eth0"}
	if n := len(long.comment()); n > 120 {
		t.Errorf("a comment of %d characters", n)
	}
	for _, o := range []Owner{{"net", "id", "eth0"}, long} {
		got, ok := parseOwner(o.comment())
		if !ok || !got.Is(o) || !o.Is(got) {
			t.Errorf("%v became %v", o, got)
		}
		if got.Is(Owner{o.Network, o.ID, "eth1"}) || got.Is(Owner{o.Network, o.ID + "x", "eth0"}) || got.Is(Owner{"x" + o.Network, o.ID, "eth0"}) {
			t.Errorf("%v is taken for another", o)
		}
	}
	if _, ok := parseOwner("somebody's comment"); ok {
		t.Error("a foreign comment is taken for ours")
	}
	stale := Stale("net", []types.GCAttachment{{ContainerID: "live", IfName: "eth0"}})
	for _, c := range []struct {
		o    Owner
		want bool
	}{{Owner{"net", "live", "eth0"}, false}, {Owner{"net", "live", "eth1"}, true}, {Owner{"net", "dead", "eth0"}, true}, {Owner{"other", "dead", "eth0"}, false}} {
		if stale(c.o) != c.want {
			t.Errorf("%v: stale is %v", c.o, !c.want)
		}
	}
}

func TestMasqueradeElements(t *testing.T) {
	for cidr, want := range map[string][]Element{
		"10.85.3.7/16": {{Set: "pods4", Key: []byte{10, 85, 3, 7}},
			{Set: "inside4", Key: []byte{10, 85, 3, 7, 10, 85, 0, 0}, End: []byte{10, 85, 3, 7, 10, 85, 255, 255}}},
		"10.85.3.7/32": {{Set: "pods4", Key: []byte{10, 85, 3, 7}},
			{Set: "inside4", Key: []byte{10, 85, 3, 7, 10, 85, 3, 7}, End: []byte{10, 85, 3, 7, 10, 85, 3, 7}}},
	} {
		ip, n, _ := net.ParseCIDR(cidr)
		got := MasqueradeElements([]net.IPNet{{IP: ip, Mask: n.Mask}})
		for i := range want {
			if got[i].Set != want[i].Set || !bytes.Equal(got[i].Key, want[i].Key) || !bytes.Equal(got[i].End, want[i].End) {
				t.Errorf("%s: %v, want %v", cidr, got[i], want[i])
			}
		}
	}
}

// own gives the test a network namespace of its own.
func own(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // and never unlock: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("needs network namespaces: " + err.Error())
	}
}

func tables(t *testing.T) int {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestTable(t *testing.T) {
	own(t)
	m := MasqueradeTable()
	a, b := Owner{"n", "a", "eth0"}, Owner{"n", "b", "eth0"}
	ea := MasqueradeElements([]net.IPNet{{IP: net.IPv4(10, 0, 0, 2), Mask: net.CIDRMask(24, 32)}})
	eb := MasqueradeElements([]net.IPNet{{IP: net.IPv4(10, 0, 0, 3), Mask: net.CIDRMask(24, 32)}, {IP: net.ParseIP("fd00::3"), Mask: net.CIDRMask(64, 128)}})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	missing := func(o Owner, e []Element, want int) {
		t.Helper()
		if n, err := m.Missing(o, e); err != nil || n != want {
			t.Errorf("%v: %d elements are missing (%v), want %d", o, n, err, want)
		}
	}
	missing(a, ea, 2)
	removed, err := m.Remove(Only(a)) // no table yet
	must(err)
	if len(removed) != 0 || tables(t) != 0 {
		t.Error("something was there")
	}
	must(m.Add(a, ea, nil))
	must(m.Add(a, ea, nil)) // again
	must(m.Add(b, eb, nil))
	missing(a, ea, 0)
	missing(b, eb, 0)
	missing(b, ea, 2)
	// The address of a, whose removal got lost, is given to b.
	must(m.Add(b, ea, nil))
	if _, err := m.Remove(Only(a)); err != nil {
		t.Fatal(err)
	}
	missing(b, ea, 0)
	refused := errors.New("refused")
	if err := m.Add(a, ea, func(Element, Owner, []byte) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a conflict: %v", err)
	}
	missing(b, ea, 0)
	removed, err = m.Remove(Only(b))
	must(err)
	if len(removed) != 1 || !removed[0].Is(b) || tables(t) != 0 {
		t.Errorf("removed %v, %d tables are left", removed, tables(t))
	}
}

// TestConcurrent: owners come and go at once; the table goes with the last.
func TestConcurrent(t *testing.T) {
	own(t)
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(home)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
				t.Error(err)
				return
			}
			o := Owner{"n", string(rune('a' + i)), "eth0"}
			e := MasqueradeElements([]net.IPNet{{IP: net.IPv4(10, 0, 0, byte(2+i)), Mask: net.CIDRMask(24, 32)}})
			for range 20 {
				if err := MasqueradeTable().Add(o, e, nil); err != nil {
					t.Error(err)
				}
				if n, err := MasqueradeTable().Missing(o, e); err != nil || n != 0 {
					t.Errorf("%d missing, %v", n, err)
				}
				if _, err := MasqueradeTable().Remove(Only(o)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := tables(t); n != 0 {
		t.Errorf("%d tables are left", n)
	}
}
