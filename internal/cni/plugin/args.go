package plugin

import "strings"

// Arg returns the value of a key in CNI_ARGS, "" if it is not there. Keys are
// compared without regard to case, as the CNI library does for the known ones.
func Arg(args, key string) string {
	for _, kv := range strings.Split(args, ";") {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}
