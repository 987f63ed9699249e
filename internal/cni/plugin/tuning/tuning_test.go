package tuning

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
)

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"net.core.somaxconn":              "core/somaxconn",
		"net/ipv4/conf/IFNAME/arp_filter": "ipv4/conf/eth0/arp_filter",
		"net.ipv4.conf.IFNAME.arp_filter": "ipv4/conf/eth0/arp_filter",
		"kernel.hostname":                 "",
		"net":                             "",
		"":                                "",
		"vm/../net/core/somaxconn":        "", // dots are slashes: /vm////net/...
		"networking.core.somaxconn":       "",
	} {
		got, err := sysctlPath(key, "eth0")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", key, got, err, want)
		}
	}
}

func TestAllowed(t *testing.T) {
	list := filepath.Join(t.TempDir(), "allowlist.conf")
	set := map[string]string{"net.core.somaxconn": "1"}
	if err := allowed(set, list); err != nil {
		t.Errorf("without a list: %v", err)
	}
	for text, good := range map[string]bool{"": false, "^net\\.core\\.\n": true, "\n^net\\.ipv4\\.\n": false, "(": false} {
		if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := allowed(set, list); (err == nil) != good || (err != nil && !errs.Is(err, errs.KindInvalid)) {
			t.Errorf("list %q: %v", text, err)
		}
	}
}
