package seccomp

import (
	"fmt"
	"runtime"
)

// abi is an architecture of which there is a table: a column of it.
type abi uint8

const (
	amd64 abi = iota
	x86
	x32
	arm64
	arm
	abis // how many there are
)

// entry is a name in the table, with its code in each abi.
type entry struct {
	name  string
	codes [abis]code
}

// code is a call's number in 16 bits: without the x32 bit, and with ARM's private
// calls moved down behind the others.
type code uint16

const (
	none       code   = 0xffff // no such call
	maxCode           = 1024   // codes are below
	armPrivate code   = 0x3f0  // the code of the first private call of ARM
	armBase    uint32 = 0xf0000
	x32Bit     uint32 = 1 << 30
)

// native is the architecture of this executable, or ArchInvalid if there is no table.
func native() ScmpArch {
	switch runtime.GOARCH {
	case "amd64":
		return ArchAMD64
	case "386":
		return ArchX86
	case "arm64":
		return ArchARM64
	case "arm":
		return ArchARM
	}
	return ArchInvalid
}

// abiOf returns an architecture's abi, if it has one.
func abiOf(a ScmpArch) (abi, bool) {
	switch a {
	case ArchAMD64:
		return amd64, true
	case ArchX86:
		return x86, true
	case ArchX32:
		return x32, true
	case ArchARM64:
		return arm64, true
	case ArchARM:
		return arm, true
	}
	return 0, false
}

// number is what the kernel reports for a code.
func (a abi) number(c code) uint32 {
	switch {
	case a == x32:
		return x32Bit | uint32(c)
	case a == arm && c >= armPrivate:
		return armBase + uint32(c-armPrivate)
	}
	return uint32(c)
}

// code is the inverse of number; for what is no number of the abi it may be any.
func (a abi) code(number uint32) code {
	switch {
	case a == x32:
		number &^= x32Bit
	case a == arm && number >= armBase:
		number -= armBase - uint32(armPrivate)
	}
	if number >= maxCode {
		return none
	}
	return code(number)
}

// audit is the AUDIT_ARCH value that the kernel reports, linux/audit.h. x32 has none
// of its own.
func (a abi) audit() uint32 {
	switch a {
	case x86:
		return 0x4000_0003
	case arm64:
		return 0xc000_00b7
	case arm:
		return 0x4000_0028
	}
	return 0xc000_003e
}

// wide tells whether all 64 bits of an argument count.
func (a abi) wide() bool { return a == amd64 || a == arm64 }

// GetNativeArch returns the architecture that this executable is compiled for.
func GetNativeArch() (ScmpArch, error) {
	if a := native(); a != ArchInvalid {
		return a, nil
	}
	return ArchInvalid, fmt.Errorf("cannot filter system calls: there is no table for %s", runtime.GOARCH)
}

// multiplexed returns the call of 32-bit x86 through which old programs make a
// call, and the number that they give as its first argument.
func multiplexed(name string) (through string, number uint64) {
	if n := socketNumber(name); n > 0 {
		return socketcall, n
	}
	if n := ipcNumber(name); n > 0 {
		return ipc, n
	}
	return "", 0
}

const (
	socketcall = "socketcall"
	ipc        = "ipc"
)

// socketNumber is the number of linux/net.h, or 0.
func socketNumber(name string) uint64 {
	switch name {
	case "socket":
		return 1
	case "bind":
		return 2
	case "connect":
		return 3
	case "listen":
		return 4
	case "accept":
		return 5
	case "getsockname":
		return 6
	case "getpeername":
		return 7
	case "socketpair":
		return 8
	case "send":
		return 9
	case "recv":
		return 10
	case "sendto":
		return 11
	case "recvfrom":
		return 12
	case "shutdown":
		return 13
	case "setsockopt":
		return 14
	case "getsockopt":
		return 15
	case "sendmsg":
		return 16
	case "recvmsg":
		return 17
	case "accept4":
		return 18
	case "recvmmsg":
		return 19
	case "sendmmsg":
		return 20
	}
	return 0
}

// ipcNumber is the number of linux/ipc.h, or 0.
func ipcNumber(name string) uint64 {
	switch name {
	case "semop":
		return 1
	case "semget":
		return 2
	case "semctl":
		return 3
	case "semtimedop":
		return 4
	case "msgsnd":
		return 11
	case "msgrcv":
		return 12
	case "msgget":
		return 13
	case "msgctl":
		return 14
	case "shmat":
		return 21
	case "shmdt":
		return 22
	case "shmget":
		return 23
	case "shmctl":
		return 24
	}
	return 0
}
