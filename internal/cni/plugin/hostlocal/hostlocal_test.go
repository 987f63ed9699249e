package hostlocal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

func request(dir, id, more string) *plugin.Request {
	return &plugin.Request{ContainerID: id, IfName: "eth0", Config: []byte(
		`{"cniVersion":"1.1.0","name":"n"` + more + `,"ipam":{"type":"host-local","dataDir":"` + dir + `","ranges":[[{"subnet":"10.0.0.0/27"}]]}}`)}
}

// TestConcurrent leases from many goroutines; no address is given twice.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	seen := map[string]string{}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			id := fmt.Sprint("pod", i)
			res, err := add(context.Background(), request(dir, id, ""))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, ok := seen[res.IPs[0].Address.String()]; ok {
				t.Errorf("%s and %s have %s", id, other, res.IPs[0].Address.String())
			}
			seen[res.IPs[0].Address.String()] = id
		})
	}
	wg.Wait()
	if len(seen) != 16 {
		t.Errorf("%d addresses", len(seen))
	}
	// A second lease of the same pod is refused and does not cost it the first.
	if _, err := add(context.Background(), request(dir, "pod3", "")); err == nil {
		t.Error("a second lease of one pod")
	}
	if err := check(context.Background(), request(dir, "pod3", "")); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := del(context.Background(), request(dir, "pod3", "")); err != nil {
			t.Error(err)
		}
	}
	if err := check(context.Background(), request(dir, "pod3", "")); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("CHECK of what is released: %v", err)
	}
	if err := gc(context.Background(), request(dir, "", `,"cni.dev/valid-attachments":[{"containerID":"pod5","ifname":"eth0"}]`)); err != nil {
		t.Error(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "n", "10.*"))
	if len(files) != 1 {
		t.Errorf("leases after GC: %v", files)
	}
}

// TestFormat: files are those of the upstream plugin, also of its first releases.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	res, err := add(context.Background(), request(dir, "pod1", ""))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "n", res.IPs[0].Address.IP.String()))
	if err != nil || string(data) != "pod1\r\neth0" {
		t.Errorf("%q, %v", data, err)
	}
	last, _ := os.ReadFile(filepath.Join(dir, "n", "last_reserved_ip.0"))
	if string(last) != res.IPs[0].Address.IP.String() {
		t.Errorf("last_reserved_ip.0 is %q", last)
	}
	old := filepath.Join(dir, "n", "10.0.0.20")
	if err := os.WriteFile(old, []byte("ancient"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := del(context.Background(), request(dir, "ancient", "")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old lease is still there: %v", err)
	}
}

func TestAsked(t *testing.T) {
	dir := t.TempDir()
	res, err := add(context.Background(), request(dir, "a", `,"args":{"cni":{"ips":["10.0.0.9"]}}`))
	if err != nil || res.IPs[0].Address.String() != "10.0.0.9/27" {
		t.Errorf("%v, %v", res, err)
	}
	if _, err := add(context.Background(), request(dir, "b", `,"args":{"cni":{"ips":["192.0.2.9"]}}`)); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("an address of no range: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "n", "10.*"))
	if len(files) != 1 {
		t.Errorf("leases: %v", files)
	}
	r := request(dir, "c", "")
	r.Config = []byte(`{"name":"../n","ipam":{"type":"host-local","dataDir":"` + dir + `","subnet":"10.0.0.0/24"}}`)
	if _, err := add(context.Background(), r); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("a network name with a slash: %v", err)
	}
}

func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# comment\nnameserver 192.0.2.1\nsearch a.test b.test\noptions ndots:5\ndomain a.test\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dns, err := resolvConf(file)
	if err != nil || strings.Join(dns.Nameservers, ",") != "192.0.2.1" || len(dns.Search) != 2 || dns.Domain != "a.test" || dns.Options[0] != "ndots:5" {
		t.Errorf("%+v, %v", dns, err)
	}
}
