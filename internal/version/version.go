// Package version holds the facts about this build.
package version

// Version is the program's version, semantic (the kubelet parses it). The linker
// may set it: -X github.com/monocrio/monocrio/internal/version.Version=1.2.3
var Version = "0.1.0"

// Commit is the source revision; empty if the build was not told.
var Commit = ""
