package proc

import "strings"

// Blocked tells the state letter of a process and the kernel function that it waits
// in ("D" and "nfs_wait_bit_killable"); "?" for what cannot be read.
func Blocked(pid int) (state, wchan string) {
	state, wchan = "?", "?"
	if st, err := Status(pid); err == nil && st["State"] != "" {
		state = st["State"]
	}
	if data, err := readFile(pid, "wchan"); err == nil && len(data) > 0 && string(data) != "0" {
		wchan = strings.TrimSpace(string(data))
	}
	return state, wchan
}
