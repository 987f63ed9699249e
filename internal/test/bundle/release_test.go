package bundle

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// project is a copy of this one as it lies here, with a history of its own.
type project struct {
	*rig
	dir, tag string
	vars     []string
}

// newProject makes it, ready to be released. Its build for arm64 is a stand-in: a small
// program for that machine, so that the test compiles one kind only; it fails if
// NO_ARM64 is set.
func newProject(t *testing.T) *project {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("releases are made on amd64")
	}
	for _, tool := range []string{"git", "openssl", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("this machine lacks %s", tool)
		}
	}
	p := &project{rig: newRig(t)}
	p.dir = filepath.Join(p.rig.dir, "project")
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	p.sh(`mkdir "$2"; cd "$1"
		if git ls-files >/dev/null 2>&1; then git ls-files -z --cached --others --exclude-standard; else find . -type f ! -path './bin/*' ! -path './.git/*' -print0; fi |
			tar --null --ignore-failed-read -T - -cf - | tar -xf - -C "$2"`, top, p.dir)
	p.put(filepath.Join(p.dir, "scripts/build.real"), []byte(p.sh(`cat "$1/scripts/build"`, p.dir)))
	p.put(filepath.Join(p.dir, "scripts/build"), []byte(`#!/usr/bin/env bash
set -euo pipefail
[ "${GOARCH-}" = arm64 ] || exec bash "$(dirname "$0")/build.real" "$@"
. "$(dirname "$0")/env"
[ -z "${NO_ARM64-}" ] || { echo "no such compiler" >&2; exit 1; }
while [ "$1" != -o ]; do shift; done
CGO_ENABLED=0 go build -o "$2" ./scripts/narhash
`))
	version, err := os.ReadFile(filepath.Join(p.dir, "internal/version/version.go"))
	if err != nil {
		t.Fatal(err)
	}
	p.tag = "v" + regexp.MustCompile(`Version = "(.*)"`).FindStringSubmatch(string(version))[1]
	p.git("init", "-q", "-b", "main")
	p.git("add", "-A")
	p.git("commit", "-qm", "as it lies there")
	return p
}

func (p *project) git(args ...string) string {
	p.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = p.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// script runs one of the project's, and returns what it says and its status.
func (p *project) script(name string, args ...string) (string, int) {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(p.dir, "scripts", name), args...)
	cmd.Dir = p.rig.dir
	cmd.Env = append(os.Environ(), p.vars...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		p.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// changelog writes what the project says of a release.
func (p *project) changelog(text string) {
	p.t.Helper()
	p.put(filepath.Join(p.dir, "CHANGELOG.md"), []byte("# Changes\n\n## Not released yet\n\n- later\n\n"+text+"\n## v0.0.1\n\n- before\n"))
	p.git("commit", "-qam", "changes")
}

// private writes a signer's private key.
func (r *rig) private(name string, key crypto.Signer) string {
	r.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.put(filepath.Join(r.dir, name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return filepath.Join(r.dir, name)
}

// A release that is not in order is not made, and says why in a line.
func TestReleaseRefuses(t *testing.T) {
	p := newProject(t)
	out := filepath.Join(p.rig.dir, "out")
	refuses := func(what, want string, args ...string) {
		t.Helper()
		text, code := p.script("release", append([]string{"-o", out}, args...)...)
		if code != 1 || !strings.Contains(text, want) || strings.Count(strings.TrimSpace(text), "\n") != 0 {
			t.Errorf("%s: status %d, want 1 and one line with %q:\n%s", what, code, want, text)
		}
		if left, _ := filepath.Glob(filepath.Join(p.rig.dir, "*release*")); what != "a folder that is there" && (len(left) > 0 || exists(out)) {
			t.Errorf("%s: left %v, %v", what, left, exists(out))
		}
	}
	for _, tag := range []string{"1.2.3", "v1.2", "v01.2.3", "v1.2.3/x", "vX.Y.Z", "v1.2.3+1"} {
		refuses("a tag "+tag, "no name of a release", tag)
	}
	refuses("an absent tag", "there is no tag", p.tag)
	p.git("tag", p.tag)
	refuses("no text", "CHANGELOG.md says nothing of "+p.tag, p.tag)
	p.changelog("## " + p.tag + "\n\n- something\n")
	refuses("a tag elsewhere", "HEAD does not bear "+p.tag, p.tag)
	p.git("tag", "-f", p.tag)
	p.git("tag", "v77.0.0")
	p.changelog("## v77.0.0\n\n- something\n\n## " + p.tag + "\n\n- something\n")
	p.git("tag", "-f", p.tag)
	p.git("tag", "-f", "v77.0.0")
	refuses("another number", "does not say 77.0.0", "v77.0.0")
	p.put(filepath.Join(p.dir, "stray"), nil)
	refuses("a stray file", "not committed", p.tag)
	os.Remove(filepath.Join(p.dir, "stray"))
	refuses("a public key", "it is no private key", "-k", p.signer("key.pub", "ECDSA").public, p.tag)
	refuses("a key for RSA", "only", "-k", p.private("rsa.key", p.signer("rsa.pub", "RSA").private), p.tag)
	if text, code := p.script("release", "-n", "-o", out, p.tag); code != 0 || exists(out) {
		t.Errorf("-n: status %d: %s", code, text)
	}
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	refuses("a folder that is there", "is there already", p.tag)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// What scripts/release makes is a mirror, from which a node installs what is signed, and
// scripts/verify finds the bytes that were published, or which of them differ.
func TestRelease(t *testing.T) {
	p := newProject(t)
	p.changelog("## " + p.tag + " (2026-01-02)\n\n- first\n- second\n")
	p.git("tag", p.tag)
	key := p.signer("key.pub", "ECDSA")
	private := p.private("release.key", key.private)
	out := filepath.Join(p.rig.dir, "out")

	p.vars = []string{"NO_ARM64=1"}
	text, code := p.script("release", "-o", out, p.tag)
	if left, _ := filepath.Glob(filepath.Join(p.rig.dir, ".*release*")); code != 1 || exists(out) || len(left) > 0 {
		t.Errorf("with one of two bundles: status %d, left %v, %v\n%s", code, exists(out), left, text)
	}
	p.vars = nil
	if text, code = p.script("release", "-k", private, "-o", out, p.tag); code != 0 {
		t.Fatalf("status %d\n%s", code, text)
	}
	p.checkFiles(out)

	p.site = out
	before := tree(t, p.file(""))
	p.get("--verify", key.public)
	if got := p.read("usr/lib/monocrio/current/VERSION"); got != p.tag+"\n" {
		t.Errorf("installed is %q", got)
	}
	if text, err := exec.Command(p.file("usr/bin/crio"), "--version").Output(); err != nil || !strings.Contains(string(text), strings.TrimPrefix(p.tag, "v")) {
		t.Errorf("it says %q, %v", text, err)
	}
	p.fails("another's key", 4, "not by", nil, "--verify", p.signer("other.pub", "ECDSA").public)
	p.get("-a", "arm64", "--verify", key.public, "-d", filepath.Join(p.rig.dir, "arm64"))
	p.installed("uninstall")
	p.same("uninstall", before)

	if text, code := p.script("verify", "--base-url", p.url, p.tag); code != 0 || !strings.Contains(text, "the same bytes") {
		t.Errorf("verify: status %d\n%s", code, text)
	}
	dir := filepath.Join(out, "download", p.tag)
	p.tamper(dir, "etc/crio.conf", `s/^# log_level/# log_Level/`)
	p.tamper(dir, "bin/monocrio", `s/release version 2[.]../release version 2.01/; s/GLIBC 2[.]../GLIBC 2.01/`)
	text, code = p.script("verify", "--base-url", p.url, p.tag)
	if code != 1 || !strings.Contains(text, "NOT the same") || strings.Contains(text, "published: go1") {
		t.Errorf("verify of another: status %d\n%s", code, text)
	}
	for _, want := range []string{"  differs: etc/crio.conf\n", "  differs: bin/monocrio\n", "likely reason:\n  published: GNU C Library ("} {
		if !strings.Contains(text, want) || strings.Count(text, "  differs: ") != 3 { // the third is SHA256SUMS
			t.Errorf("verify of another does not say %q:\n%s", want, text)
		}
	}
	for want, args := range map[string][]string{
		"this checkout has no v9":                {"v9"},
		"there is no such file":                  {"--file", "/nowhere/monocrio.amd64." + p.tag + ".tar.gz.sha256sum", p.tag},
		"is not the checksum of monocrio.arm64.": {"-a", "arm64", "--file", filepath.Join(dir, "monocrio.amd64."+p.tag+".tar.gz.sha256sum"), p.tag},
		"cannot get the published":               {"--base-url", "http://127.0.0.1:1", p.tag},
	} {
		if text, code := p.script("verify", args...); code != 1 || !strings.Contains(text, want) {
			t.Errorf("verify %v: status %d, want %q\n%s", args, code, want, text)
		}
	}
	if list := p.git("worktree", "list"); strings.Contains(list, "\n") {
		t.Errorf("work trees are left: %s", list)
	}
}

// checkFiles looks at what was made.
func (p *project) checkFiles(out string) {
	p.t.Helper()
	var want []string
	for _, arch := range []string{"amd64", "arm64"} {
		for _, ext := range []string{".spdx.json", ".tar.gz", ".tar.gz.sha256sum", ".tar.gz.sig"} {
			want = append(want, "download/"+p.tag+"/monocrio."+arch+"."+p.tag+ext)
		}
	}
	for _, n := range []string{"NOTES.md", "SHA256SUMS", "SHA256SUMS.sig", "VERSION", "get"} {
		want = append(want, "download/"+p.tag+"/"+n)
	}
	want = append(want, "latest/download/VERSION")
	var have []string
	for path, what := range tree(p.t, out) {
		if what[0] == '-' {
			have = append(have, path)
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(have, want) {
		p.t.Errorf("made is\n%v, want\n%v", have, want)
	}
	dir := filepath.Join(out, "download", p.tag)
	p.sh(`cd "$1" && sha256sum --quiet --strict -c SHA256SUMS && [ "$(wc -l <SHA256SUMS)" = 6 ]`, dir)
	if notes, err := os.ReadFile(filepath.Join(dir, "NOTES.md")); err != nil || string(notes) != "- first\n- second\n" {
		p.t.Errorf("the notes are %q, %v", notes, err)
	}
}

// tamper publishes a bundle, of which one file is edited, under the same name.
func (p *project) tamper(dir, file, edit string) {
	p.t.Helper()
	p.sh(`cd "$1"; n=$2; mkdir work; tar -xzf "$n" -C work
		(cd work/monocrio && sed -i "$4" "$3" && sed -i "\\, $3\$,d" SHA256SUMS && sha256sum "$3" >>SHA256SUMS)
		tar -C work -czf "$n" monocrio; sha256sum "$n" >"$n.sha256sum"; rm -r work`, dir, "monocrio.amd64."+p.tag+".tar.gz", file, edit)
}
