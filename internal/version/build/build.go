// Package build tells how this executable was built.
package build

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/version"
)

// Info is what `crio version` prints.
type Info struct {
	Version         string   `json:"version"`
	GitCommit       string   `json:"gitCommit"`
	GitCommitDate   string   `json:"gitCommitDate"`
	GitTreeState    string   `json:"gitTreeState"`
	BuildDate       string   `json:"buildDate"`
	GoVersion       string   `json:"goVersion"`
	Compiler        string   `json:"compiler"`
	Platform        string   `json:"platform"`
	Linkmode        string   `json:"linkmode"`
	BuildTags       []string `json:"buildTags"`
	LDFlags         string   `json:"ldFlags"`
	SeccompEnabled  bool     `json:"seccompEnabled"`
	AppArmorEnabled bool     `json:"appArmorEnabled"`
	Dependencies    []string `json:"dependencies,omitempty"`
}

// Get reads the facts from the executable itself. Linkmode, SeccompEnabled and
// AppArmorEnabled are the caller's to fill in.
func Get() Info {
	unknown := func(s string) string {
		if s == "" {
			return "unknown"
		}
		return s
	}
	i := Info{Version: version.Version, GitCommit: unknown(version.Commit), GitCommitDate: unknown(version.CommitDate), GitTreeState: unknown(version.TreeState),
		BuildDate: unknown(version.CommitDate), GoVersion: runtime.Version(), Compiler: runtime.Compiler,
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Linkmode: "unknown", LDFlags: version.LDFlags}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return i
	}
	for _, s := range b.Settings {
		if s.Key == "-tags" {
			i.BuildTags = strings.Split(s.Value, ",")
		}
	}
	for _, d := range b.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		i.Dependencies = append(i.Dependencies, strings.TrimSpace(d.Path+" "+d.Version+" "+d.Sum))
	}
	return i
}

// Print writes the facts for people; verbose adds the modules.
func (i Info) Print(w io.Writer, verbose bool) {
	rows := [][2]string{{"Version", i.Version}, {"GitCommit", i.GitCommit}, {"GitCommitDate", i.GitCommitDate}, {"GitTreeState", i.GitTreeState},
		{"BuildDate", i.BuildDate}, {"GoVersion", i.GoVersion}, {"Compiler", i.Compiler}, {"Platform", i.Platform}, {"Linkmode", i.Linkmode},
		{"BuildTags", strings.Join(i.BuildTags, " ")}, {"LDFlags", i.LDFlags}, {"SeccompEnabled", strconv.FormatBool(i.SeccompEnabled)},
		{"AppArmorEnabled", strconv.FormatBool(i.AppArmorEnabled)}}
	for _, r := range rows {
		fmt.Fprintf(w, "%-16s %s\n", r[0]+":", r[1])
	}
	if !verbose {
		return
	}
	fmt.Fprintln(w, "Dependencies:")
	for _, d := range i.Dependencies {
		fmt.Fprintln(w, "  "+d)
	}
}
