package main

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// ours is where this project keeps the licences of what no Go module brings: compilers
// and C libraries are installed without them in some places.
const ours = "bundle/licences"

// cParts describes what the C linker adds: the GNU C library, whose version stands in
// the executable because scripts/build asks for it, and the helpers of the compiler
// that it calls. Of libseccomp only numbers in its header are used.
func cParts(info *buildinfo.BuildInfo, executable string, data []byte, folder string) ([]pkg, error) {
	if !slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "CGO_ENABLED" && s.Value == "1" }) {
		return nil, nil
	}
	banner := regexp.MustCompile(`GNU C Library \(([^)\n]*)\) \w+ release version ([0-9.]*[0-9])`).FindSubmatch(data)
	if banner == nil {
		return nil, fmt.Errorf("cannot tell which C library is linked into %s: build it by scripts/build", executable)
	}
	vendor, version := string(banner[1]), string(banner[2])
	purl := "pkg:generic/glibc@" + version
	if at := strings.Index(vendor, " GLIBC "); at > 0 { // Debian and its like tell their own
		version = vendor[at+len(" GLIBC "):]
		purl = "pkg:deb/" + strings.ToLower(vendor[:at]) + "/glibc@" + strings.ReplaceAll(version, "+", "%2B")
	}
	gcc, err := compiler(executable)
	if err != nil {
		return nil, err
	}
	parts := []pkg{
		{ID: "SPDXRef-Package-glibc", Name: "glibc", Version: version, Location: "https://www.gnu.org/software/libc/", Declared: "LGPL-2.1-or-later",
			Refs: []reference{{"PACKAGE-MANAGER", "purl", purl}}},
		{ID: "SPDXRef-Package-libgcc", Name: "libgcc", Version: gcc, Location: "https://gcc.gnu.org/", Declared: "GPL-3.0-or-later WITH GCC-exception-3.1",
			Refs: []reference{{"PACKAGE-MANAGER", "purl", "pkg:generic/gcc@" + gcc}}},
	}
	for i := range parts {
		parts[i].Concluded, parts[i].Copyright = "NOASSERTION", "NOASSERTION"
		if err := os.CopyFS(filepath.Join(folder, "licences", parts[i].Name), os.DirFS(filepath.Join(ours, parts[i].Name))); err != nil {
			return nil, fmt.Errorf("cannot copy the licence of %s: %w", parts[i].Name, err)
		}
	}
	return parts, nil
}

// compiler is the version that GCC writes into what it compiles.
func compiler(executable string) (string, error) {
	f, err := elf.Open(executable)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if s := f.Section(".comment"); s != nil {
		data, err := s.Data()
		if err != nil {
			return "", err
		}
		for line := range bytes.SplitSeq(data, []byte{0}) {
			if words := strings.Fields(string(line)); len(words) > 1 && words[0] == "GCC:" {
				return words[len(words)-1], nil
			}
		}
	}
	return "", fmt.Errorf("cannot tell which compiler made %s: it has no comment of GCC's", executable)
}
