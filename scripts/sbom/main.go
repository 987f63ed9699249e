// Command sbom tells what an executable of ours is made of, from what the linker wrote
// into it: the modules and C libraries as an SPDX document, and their licences as files.
//
//	go run ./scripts/sbom EXECUTABLE REVISION DATE FOLDER
//
// FOLDER gets monocrio.spdx.json and licences/. The same executable gives the same
// bytes: the names are made of what they name, and the date is the commit's.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// vendored is where `go mod vendor` puts modules, licences too; where it did, the
// module cache is empty.
const vendored = "vendor"

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: sbom EXECUTABLE REVISION DATE FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintf(os.Stderr, "sbom: %v\n", err)
		os.Exit(1)
	}
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type pkg struct {
	ID        string      `json:"SPDXID"`
	Name      string      `json:"name"`
	Version   string      `json:"versionInfo"`
	Location  string      `json:"downloadLocation"`
	Analyzed  bool        `json:"filesAnalyzed"`
	Concluded string      `json:"licenseConcluded"`
	Declared  string      `json:"licenseDeclared"`
	Copyright string      `json:"copyrightText"`
	Sums      []checksum  `json:"checksums,omitempty"`
	Refs      []reference `json:"externalRefs,omitempty"`
}

type relation struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

type document struct {
	Version   string `json:"spdxVersion"`
	License   string `json:"dataLicense"`
	ID        string `json:"SPDXID"`
	Name      string `json:"name"`
	Namespace string `json:"documentNamespace"`
	Creation  struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	} `json:"creationInfo"`
	Packages  []pkg      `json:"packages"`
	Relations []relation `json:"relationships"`
}

func run(executable, revision, date, folder string) error {
	info, err := buildinfo.ReadFile(executable)
	if err != nil {
		return fmt.Errorf("cannot read what %s is made of: %w", executable, err)
	}
	data, err := os.ReadFile(executable)
	if err != nil {
		return err
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	doc := document{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "monocrio-" + revision,
		Namespace: "https://" + info.Main.Path + "/spdx/" + sum}
	doc.Creation.Created, doc.Creation.Creators = date, []string{"Tool: monocrio-scripts-sbom"}
	main := pkg{ID: "SPDXRef-Package-monocrio", Name: info.Main.Path, Version: revision, Location: "NOASSERTION", Concluded: "NOASSERTION",
		Declared: "NOASSERTION", Copyright: "NOASSERTION", Sums: []checksum{{"SHA256", sum}}}
	doc.Packages = append(doc.Packages, main)
	doc.Relations = append(doc.Relations, relation{doc.ID, "DESCRIBES", main.ID})
	add := func(p pkg) {
		doc.Packages = append(doc.Packages, p)
		doc.Relations = append(doc.Relations, relation{main.ID, "CONTAINS", p.ID})
	}
	where, err := goEnv("GOROOT", "GOMODCACHE")
	if err != nil {
		return err
	}
	std, err := standard(info.GoVersion, where[0], folder)
	if err != nil {
		return err
	}
	add(std)
	c, err := cParts(info, executable, data, folder)
	if err != nil {
		return err
	}
	for _, p := range c {
		add(p)
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if strings.HasPrefix(m.Path, ".") {
			continue // a folder of this project
		}
		p, err := dependency(m, where[1], folder)
		if err != nil {
			return err
		}
		add(p)
	}
	out, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "monocrio.spdx.json"), append(out, '\n'), 0o644)
}

// standard describes Go's own library, which lies in goroot.
func standard(version, goroot, folder string) (pkg, error) {
	if _, err := os.Stat(filepath.Join(goroot, "LICENSE")); err != nil {
		// Some distributions leave it out: the same authors' same text.
		goroot = filepath.Join(vendored, "golang.org/x/sys")
	}
	return module("std", strings.TrimPrefix(version, "go"), goroot, filepath.Join(folder, "licences/go"))
}

func dependency(m *debug.Module, cache, folder string) (pkg, error) {
	from := filepath.Join(cache, escape(m.Path)+"@"+escape(m.Version))
	if _, err := os.Stat(filepath.Join(vendored, "modules.txt")); err == nil {
		from = filepath.Join(vendored, m.Path)
	}
	p, err := module(m.Path, m.Version, from, filepath.Join(folder, "licences", m.Path))
	if err != nil {
		return p, err
	}
	if h, ok := strings.CutPrefix(m.Sum, "h1:"); ok { // Go's sum of the files' sums
		raw, err := base64.StdEncoding.DecodeString(h)
		if err != nil {
			return p, fmt.Errorf("cannot read the sum of %s: %w", m.Path, err)
		}
		p.Refs = append(p.Refs, reference{"OTHER", "go-sum-h1", hex.EncodeToString(raw)})
	}
	return p, nil
}

func goEnv(names ...string) ([]string, error) {
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot ask go env: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// escape writes capitals as the module cache does.
func escape(path string) string {
	return regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(path, func(c string) string { return "!" + strings.ToLower(c) })
}

// module describes one and copies its licences. One without any is an error: what
// cannot be given on is not to be linked in.
func module(name, version, from, to string) (pkg, error) {
	id := regexp.MustCompile(`[^A-Za-z0-9.]+`).ReplaceAllString(name+"-"+version, "-")
	p := pkg{ID: "SPDXRef-Package-" + id, Name: name, Version: version, Location: "https://proxy.golang.org/" + escape(name) + "/@v/" + escape(version) + ".zip",
		Concluded: "NOASSERTION", Declared: "NOASSERTION", Copyright: "NOASSERTION",
		Refs: []reference{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + name + "@" + version}}}
	if name == "std" {
		p.Location = "https://go.dev/dl/go" + version + ".src.tar.gz"
	}
	files, err := licences(from)
	if err != nil {
		return p, err
	}
	if len(files) == 0 {
		return p, fmt.Errorf("cannot find the licence of %s in %s", name, from)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(from, f))
		if err != nil {
			return p, err
		}
		if filepath.Dir(f) == "." && p.Declared == "NOASSERTION" {
			p.Declared = kind(string(data))
		}
		path := filepath.Join(to, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return p, err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return p, err
		}
	}
	return p, nil
}

// licences lists the files of a module that speak of its licence, sorted.
func licences(dir string) (files []string, err error) {
	name := regexp.MustCompile(`(?i)^(unlicen[cs]e|licen[cs]e|copying|notice|patents)([._-].*)?$`)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := os.Stat(filepath.Join(path, "go.mod"))
			if path != dir && (nested == nil || slices.Contains([]string{"testdata", "vendor", "test", "misc"}, d.Name())) {
				return fs.SkipDir
			}
			return nil
		}
		if name.MatchString(d.Name()) && !strings.HasSuffix(d.Name(), ".go") {
			rel, err := filepath.Rel(dir, path)
			files = append(files, rel)
			return err
		}
		return nil
	})
	slices.Sort(files)
	return files, err
}

// kind names a licence by the words that only it has.
func kind(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	has := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case has("Apache License Version 2.0"), has("Apache License, Version 2.0"):
		return "Apache-2.0"
	case has("Mozilla Public License Version 2.0"), has("Mozilla Public License, version 2.0"):
		return "MPL-2.0"
	case has("Permission is hereby granted, free of charge"):
		return "MIT"
	case has("Redistribution and use in source and binary forms") && (has("Neither the name") || has("may not be used to endorse")):
		return "BSD-3-Clause"
	case has("Redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	case has("This is free and unencumbered software released into the public domain"):
		return "Unlicense"
	case has("Permission to use, copy, modify, and/or distribute this software"):
		return "ISC"
	}
	return "NOASSERTION"
}
