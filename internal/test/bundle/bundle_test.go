package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The same executable gives the same bytes, whatever time zone, umask and folder.
func TestReproducible(t *testing.T) {
	first, _ := realBundle(t)
	second, err := makeBundle(filepath.Join(t.TempDir(), "another folder"), "TZ=Asia/Kathmandu", "TEST_UMASK=077", "LC_ALL=C.UTF-8", "LANG=C.UTF-8")
	if err != nil {
		t.Fatal(err)
	}
	a, errA := os.ReadFile(first)
	b, errB := os.ReadFile(second)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%s and %s differ", first, second)
	}
}

func TestContents(t *testing.T) {
	file, dir := realBundle(t)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip's header has time %v and name %q", z.ModTime, z.Name)
	}
	var names []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		exe := slices.Contains([]string{"install", "uninstall", "rollback", "bin/monocrio", "openrc/crio", "runit/run"}, strings.TrimPrefix(h.Name, "monocrio/"))
		want := int64(0o644)
		if exe || h.Typeflag == tar.TypeDir {
			want = 0o755
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.Mode != want || h.ModTime.UTC().Format("2006-01-02T15:04:05") != "2026-01-02T03:04:05" {
			t.Errorf("%s: %d:%d %q:%q, mode %o, %v", h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.Mode, h.ModTime)
		}
	}
	for _, n := range []string{"bin/monocrio", "VERSION", "SHA256SUMS", "install", "uninstall", "rollback", "systemd/crio.service", "openrc/crio", "runit/run",
		"etc/crio.conf", "etc/10-crio-bridge.conflist.disabled", "etc/policy.json", "etc/registries.conf", "etc/crictl.yaml", "cni-plugins",
		"man/crio.8", "man/crio.conf.5", "man/crio.conf.d.5", "man/crio-status.8", "man/conmon.8", "man/pinns.8", "monocrio.spdx.json", "licences/go/LICENSE",
		"completions/bash/crio", "completions/fish/crio.fish", "completions/zsh/_crio", "completions/zsh/_crio-status", "grafana/monocrio.json"} {
		if !slices.Contains(names, "monocrio/"+n) {
			t.Errorf("%s is missing", n)
		} else if fi, err := os.Stat(filepath.Join(dir, n)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v, %v", n, fi, err)
		}
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".conflist") {
			t.Errorf("%s would be active", n)
		}
	}
}

// Every module in the executable is in the list of its parts, with a licence.
func TestParts(t *testing.T) {
	_, dir := realBundle(t)
	info, err := buildinfo.ReadFile(filepath.Join(dir, "bin/monocrio"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "monocrio.spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Packages []struct{ SPDXID, Name, VersionInfo, LicenseDeclared string }
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	have, ids := map[string]string{}, map[string]bool{}
	for i, p := range doc.Packages {
		have[p.Name] = p.VersionInfo
		if ids[p.SPDXID] {
			t.Errorf("%s stands there twice", p.SPDXID)
		}
		ids[p.SPDXID] = true
		if i > 0 && p.LicenseDeclared == "NOASSERTION" {
			t.Errorf("the licence of %s is not known", p.Name)
		}
	}
	// The C library is linked in, and libgcc with it; scripts/deps installs no others.
	for _, lib := range []string{"glibc", "libgcc"} {
		if !regexp.MustCompile(`^[0-9]+\.[0-9]+`).MatchString(have[lib]) {
			t.Errorf("the version of %s is said to be %q", lib, have[lib])
		}
	}
	if v, err := exec.Command("ldd", "--version").Output(); err != nil || !strings.Contains(string(v), have["glibc"]) {
		t.Errorf("glibc is said to be %q, ldd says %v, %.100s", have["glibc"], err, v)
	}
	if v, err := exec.Command("gcc", "-dumpfullversion").Output(); err != nil || strings.TrimSpace(string(v)) != have["libgcc"] {
		t.Errorf("libgcc is said to be %q, gcc says %q, %v", have["libgcc"], v, err)
	}
	for file, text := range map[string]string{"glibc/COPYING.LIB": "GNU LESSER GENERAL PUBLIC LICENSE", "glibc/NOTICE": "University of California", "libgcc/COPYING3": "GNU GENERAL PUBLIC LICENSE",
		"libgcc/COPYING.RUNTIME": "GCC RUNTIME LIBRARY EXCEPTION"} {
		if data, err := os.ReadFile(filepath.Join(dir, "licences", file)); err != nil || !strings.Contains(string(data), text) {
			t.Errorf("licences/%s: %v", file, err)
		}
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if !strings.HasPrefix(m.Path, ".") && have[m.Path] != m.Version {
			t.Errorf("%s %s: listed is %q", m.Path, m.Version, have[m.Path])
		}
	}
}

// What lies in the bundle is taken by those that it is for.
func TestExamples(t *testing.T) {
	_, dir := realBundle(t)
	bin := filepath.Join(dir, "bin/monocrio")
	if out, err := exec.Command(bin, "crio", "--config", filepath.Join(dir, "etc/crio.conf"), "config").CombinedOutput(); err != nil {
		t.Errorf("crio.conf: %v\n%s", err, out)
	}
	for _, n := range []string{"10-crio-bridge.conflist.disabled", "policy.json"} {
		if data, err := os.ReadFile(filepath.Join(dir, "etc", n)); err != nil || !json.Valid(data) {
			t.Errorf("%s: %v, valid JSON: %v", n, err, json.Valid(data))
		}
	}
	for _, n := range []string{"install", "uninstall", "rollback", "runit/run", "openrc/crio"} {
		if out, err := exec.Command("sh", "-n", filepath.Join(dir, n)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", n, err, out)
		}
	}
	plugins, err := os.ReadFile(filepath.Join(dir, "cni-plugins"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command(bin, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(plugins)) {
		if !slices.Contains(strings.Fields(string(list)), p) {
			t.Errorf("cni-plugins names %q, which is no applet", p)
		}
	}
	if n := len(strings.Fields(string(plugins))); n != 12 {
		t.Errorf("%d CNI plugins are listed", n)
	}
}
