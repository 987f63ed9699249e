package netstat

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/namespace"
)

// As in the daemon, the first thread enters no namespace.
func TestMain(m *testing.M) {
	runtime.LockOSThread()
	os.Exit(m.Run())
}

const headings = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
`

func TestParse(t *testing.T) {
	got, err := parse([]byte(headings +
		"    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n" +
		"eth0.1:18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	want := []Interface{{Name: "lo"}, {"eth0.1", 1<<64 - 1, 2, 3, 4, 9, 10, 11, 12}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"eth0: 1 2 3\n", "eth0: 1 2 3 4 5 6 7 8 x 10 11 12 13 14 15 16\n"} {
		if list, err := parse([]byte(headings + bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, list)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(headings + "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parse(data)
		if err == nil && len(list) > len(data)/32 {
			t.Errorf("%d interfaces out of %d bytes", len(list), len(data))
		}
	})
}

// pin makes a network namespace with an interface and returns its path.
func pin(t *testing.T, link string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ns")
	if err := namespace.Pin(context.Background(), namespace.PinRequest{Kinds: []namespace.Kind{namespace.Net}, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { namespace.Unpin(dir) })
	path := filepath.Join(dir, "net")
	out, err := exec.Command("nsenter", "--net="+path, "sh", "-c", "ip link set lo up && ip link add "+link+" type veth peer name p"+link).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// talk sends bytes over the loopback interface of a namespace, on a thread that comes
// back: it may be the process's first, which cannot end.
func talk(t *testing.T, path string, bytes int) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() (err error) {
			home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(home)
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			defer func() {
				if e := unix.Setns(home, unix.CLONE_NEWNET); e == nil {
					runtime.UnlockOSThread()
				} else {
					err = errors.Join(err, e)
				}
			}()
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.WriteTo(make([]byte, bytes), c.LocalAddr())
			return err
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// namespaces of all threads of this process.
func threadNamespaces(t *testing.T) map[string]bool {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(links) == 0 {
		t.Fatal(links, err)
	}
	found := map[string]bool{}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			found[to] = true
		}
	}
	return found
}

func TestVisitor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("entering namespaces needs root")
	}
	a, b := pin(t, "da0"), pin(t, "db0")
	home, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		a, b *Namespace
		err  [4]error
		home []net.Interface
	}
	ch := make(chan answer)
	go func() {
		var r answer
		v := &Visitor{}
		r.a, r.err[0] = v.Open(a)
		r.b, r.err[1] = v.Open(b)
		_, r.err[2] = v.Open(a + "-absent")
		_, r.err[3] = v.Open("/dev/null")
		v.Leave()
		v.Leave() // is nothing
		r.home, _ = net.Interfaces()
		ch <- r
	}()
	r := <-ch
	if r.err[0] != nil || r.err[1] != nil {
		t.Fatal(r.err)
	}
	if !errs.Is(r.err[2], errs.KindNotFound) || !errs.Is(r.err[3], errs.KindNotFound) {
		t.Errorf("where no namespace is: %v, %v", r.err[2], r.err[3])
	}
	read := func(n *Namespace) []Interface {
		list, err := n.Read()
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	before := read(r.a)
	talk(t, a, 1000)
	inA, inB := read(r.a), read(r.b)
	r.a.Close()
	r.b.Close()
	if list, err := r.a.Read(); err == nil {
		t.Errorf("after Close: %+v", list)
	}
	find := func(list []Interface, name string) *Interface {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
		return nil
	}
	was, lo := find(before, "lo"), find(inA, "lo")
	if was == nil || lo == nil || lo.RxBytes < was.RxBytes+1000 || lo.TxPackets <= was.TxPackets || find(inA, "da0") == nil {
		t.Errorf("in the first namespace: %+v, before that %+v", inA, before)
	}
	if lo := find(inB, "lo"); lo == nil || lo.RxBytes != 0 || find(inB, "db0") == nil || find(inB, "da0") != nil {
		t.Errorf("in the second namespace: %+v", inB)
	}
	if !reflect.DeepEqual(home, r.home) {
		t.Errorf("the thread is not at home: %v, want %v", r.home, home)
	}
	for end := time.Now().Add(20 * time.Second); len(threadNamespaces(t)) > 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("threads are left in %v", threadNamespaces(t))
		}
	}
}
