// Package clib is the C library libseccomp, for tests: what it does with a set of
// rules is what our own generator is compared with. Nothing of the executable
// imports it.
package clib

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

/*
#cgo pkg-config: libseccomp
#include <stdlib.h>
#include <seccomp.h>
*/
import "C"

// Architectures, by libseccomp's tokens: the kernel's AUDIT_ARCH values but for x32.
const (
	X86     = uint32(C.SCMP_ARCH_X86)
	AMD64   = uint32(C.SCMP_ARCH_X86_64)
	X32     = uint32(C.SCMP_ARCH_X32)
	ARM     = uint32(C.SCMP_ARCH_ARM)
	ARM64   = uint32(C.SCMP_ARCH_AARCH64)
	S390X   = uint32(C.SCMP_ARCH_S390X)
	RISCV64 = uint32(C.SCMP_ARCH_RISCV64)
)

// Native is the token of the architecture that this is compiled for.
func Native() uint32 { return uint32(C.seccomp_arch_native()) }

// Comparisons, in the order of libseccomp.
const (
	NE       = int(C.SCMP_CMP_NE)
	LT       = int(C.SCMP_CMP_LT)
	LE       = int(C.SCMP_CMP_LE)
	EQ       = int(C.SCMP_CMP_EQ)
	GE       = int(C.SCMP_CMP_GE)
	GT       = int(C.SCMP_CMP_GT)
	MaskedEQ = int(C.SCMP_CMP_MASKED_EQ)
)

// Condition is one comparison of an argument. For MaskedEQ A is the mask and B the
// value.
type Condition struct {
	Arg  uint
	Op   int
	A, B uint64
}

// Filter is a seccomp_init(3) context.
type Filter struct{ ctx C.scmp_filter_ctx }

// New makes a filter with a default action, a SECCOMP_RET value, for the native
// architecture.
func New(action uint32) (*Filter, error) {
	// Programs are compared, and need no kernel that could run them: an emulator's cannot.
	if rc := C.seccomp_api_set(5); rc != 0 {
		return nil, failure(rc)
	}
	ctx := C.seccomp_init(C.uint32_t(action))
	if ctx == nil {
		return nil, fmt.Errorf("seccomp_init refuses action %#x", action)
	}
	f := &Filter{ctx}
	runtime.SetFinalizer(f, func(f *Filter) { C.seccomp_release(f.ctx) })
	return f, nil
}

func failure(rc C.int) error {
	if rc == 0 {
		return nil
	}
	return syscall.Errno(-rc)
}

// AddArch adds an architecture; EEXIST: it is there, EDOM: it is of the other
// byte order.
func (f *Filter) AddArch(token uint32) error {
	defer runtime.KeepAlive(f)
	return failure(C.seccomp_arch_add(f.ctx, C.uint32_t(token)))
}

// Optimize sets SCMP_FLTATR_CTL_OPTIMIZE: 1 list, 2 binary tree.
func (f *Filter) Optimize(level int) error {
	defer runtime.KeepAlive(f)
	return failure(C.seccomp_attr_set(f.ctx, C.SCMP_FLTATR_CTL_OPTIMIZE, C.uint32_t(level)))
}

// AddRule adds a rule for a call by its native number.
func (f *Filter) AddRule(action uint32, nr int, conditions ...Condition) error {
	defer runtime.KeepAlive(f)
	if len(conditions) == 0 {
		return failure(C.seccomp_rule_add_array(f.ctx, C.uint32_t(action), C.int(nr), 0, nil))
	}
	all := make([]C.struct_scmp_arg_cmp, len(conditions))
	for i, c := range conditions {
		all[i].arg = C.uint(c.Arg)
		all[i].op = uint32(c.Op)
		all[i].datum_a = C.scmp_datum_t(c.A)
		all[i].datum_b = C.scmp_datum_t(c.B)
	}
	return failure(C.seccomp_rule_add_array(f.ctx, C.uint32_t(action), C.int(nr), C.uint(len(all)), &all[0]))
}

// BPF returns the program, as seccomp_export_bpf(3) writes it.
func (f *Filter) BPF() ([]byte, error) {
	defer runtime.KeepAlive(f)
	file, err := os.CreateTemp("", "bpf-")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := os.Remove(file.Name()); err != nil {
		return nil, err
	}
	if rc := C.seccomp_export_bpf(f.ctx, C.int(file.Fd())); rc != 0 {
		return nil, failure(rc)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(file)
}

// Number resolves a name; negative: a pseudo-number, -1: unknown.
func Number(token uint32, name string) int {
	s := C.CString(name)
	defer C.free(unsafe.Pointer(s))
	return int(C.seccomp_syscall_resolve_name_arch(C.uint32_t(token), s))
}

// Name is the name of a number, or empty.
func Name(token uint32, nr int) string {
	s := C.seccomp_syscall_resolve_num_arch(C.uint32_t(token), C.int(nr))
	if s == nil {
		return ""
	}
	defer C.free(unsafe.Pointer(s))
	return C.GoString(s)
}
