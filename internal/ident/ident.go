// Package ident makes and checks the identifiers of pods and containers.
//
// An ID is 64 lower-case hexadecimal digits of randomness. Because it becomes part
// of paths and cgroup names, anything that arrives from outside goes through Valid
// or Match and is never joined to a path before.
package ident

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// Len is the length of an ID in characters.
const Len = 64

// New returns a fresh ID.
func New() string {
	var b [Len / 2]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}

// Valid tells whether s is a whole ID.
func Valid(s string) bool { return len(s) == Len && isHex(s) }

// Prefix tells whether s may be the beginning of an ID: 1 to 64 hexadecimal digits.
func Prefix(s string) bool { return s != "" && len(s) <= Len && isHex(s) }

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// Short returns the first 12 digits, as people quote an ID or a SHA-256 digest.
func Short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
