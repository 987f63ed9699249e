package oci

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KillTree kills a process and its descendants by parenthood, as far as it sees
// them: who was orphaned before is not found. It stops each parent before it
// looks for its children, so that no child is born behind its back.
func KillTree(pid int) {
	var tree []int
	stop(pid, &tree)
	for _, p := range tree {
		_ = unix.Kill(p, unix.SIGKILL)
	}
}

func stop(pid int, tree *[]int) {
	if unix.Kill(pid, unix.SIGSTOP) != nil {
		return
	}
	*tree = append(*tree, pid)
	for _, child := range Children(pid) {
		stop(child, tree)
	}
}

// Children lists the children of all threads of a process
// (proc_tid_children(5)).
func Children(pid int) (list []int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for field := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				list = append(list, child)
			}
		}
	}
	return list
}
