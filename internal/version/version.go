// Package version holds the facts about this build. It imports nothing, because small
// applets show a version too.
package version

// Version is the program's version, semantic (the kubelet parses it). The linker
// may set it: -X github.com/monocrio/monocrio/internal/version.Version=1.2.3
var Version = "0.1.0"

// Commit, CommitDate (RFC 3339) and TreeState ("clean" or "dirty") are of the source
// revision; empty if the build was not told. The date of a build is that of its commit,
// so that builds are reproducible.
var Commit, CommitDate, TreeState string

// LDFlags is what the linker was told, but for these facts.
var LDFlags = "unknown"
