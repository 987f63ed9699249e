package seccomp

import (
	"slices"
	"testing"
)

func TestNamesOfCalls(t *testing.T) {
	for _, c := range []struct {
		arch abi
		name string
	}{{amd64, "clone3"}, {x86, "socketcall"}, {x32, "execve"}, {arm64, "openat"}, {arm, "cacheflush"}} {
		if got := NameOf(c.arch.audit(), c.arch.number(table[find(c.name)].codes[c.arch])); got != c.name {
			t.Errorf("%s of %d: %q", c.name, c.arch, got)
		}
	}
	if got := NameOf(amd64.audit(), 1023) + NameOf(1, 0); got != "" {
		t.Errorf("what is no call has the name %q", got)
	}
	list := Names()
	if !slices.Contains(list, "swapoff") || slices.Contains(list, "breakpoint") && native() == ArchAMD64 || !slices.IsSorted(list) {
		t.Error("the native calls", list)
	}
}
