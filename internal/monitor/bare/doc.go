// Package bare holds the few things of strconv, bytes, encoding/json, os and
// x/sys/unix that a monitor needs, on package syscall alone.
//
// Those packages would be initialised first, and half of the executable with them:
// the monitor process must be ready before that (see applets/early).
package bare
