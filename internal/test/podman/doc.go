// Package podman holds tests of our monitor under an engine that is not ours: podman,
// which starts conmon for each container and each exec and relies on its contract.
//
// The same tests run with Debian's conmon, which shows that they ask for the
// contract and not for us.
package podman
