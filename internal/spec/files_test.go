package spec

import (
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResolvConf(t *testing.T) {
	got, err := ResolvConf(&cri.DNSConfig{Servers: []string{"10.96.0.10", "fd00::a"}, Searches: []string{"a.local", "local"}, Options: []string{"ndots:5"}})
	if want := "search a.local local\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"; got != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := ResolvConf(nil); got != "" || err != nil {
		t.Errorf("without a configuration: %q, %v", got, err)
	}
	for _, bad := range []string{"", "a b", "1.1.1.1\nnameserver 6.6.6.6"} {
		if _, err := ResolvConf(&cri.DNSConfig{Servers: []string{bad}}); err == nil {
			t.Errorf("server %q is let through", bad)
		}
	}
}

func TestHosts(t *testing.T) {
	got := Hosts("web", []string{"10.0.0.1", "fd00::1"})
	if !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n") || !strings.HasSuffix(got, "10.0.0.1\tweb\nfd00::1\tweb\n") {
		t.Error(got)
	}
}

func TestBandwidth(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, "10M": 10e6, "1k": 1000, "1Mi": 1 << 20, "1.5G": 15e8, "2000": 2000} {
		if got, err := Bandwidth(map[string]string{"k": text}, "k"); got != want || err != nil {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"fast", "-1M", "0", "1", "9999T", "1e400"} {
		if got, err := Bandwidth(map[string]string{"k": text}, "k"); err == nil {
			t.Errorf("%q: %d is let through", text, got)
		}
	}
}
