//go:build nearly

// Package early is left out of this build.
package early
