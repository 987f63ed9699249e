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
// call, and the number that they give as its first argument: linux/net.h and
// linux/ipc.h.
func multiplexed(name string) (through string, number uint64) {
	switch name {
	case "socket":
		return socketcall, 1
	case "bind":
		return socketcall, 2
	case "connect":
		return socketcall, 3
	case "listen":
		return socketcall, 4
	case "accept":
		return socketcall, 5
	case "getsockname":
		return socketcall, 6
	case "getpeername":
		return socketcall, 7
	case "socketpair":
		return socketcall, 8
	case "send":
		return socketcall, 9
	case "recv":
		return socketcall, 10
	case "sendto":
		return socketcall, 11
	case "recvfrom":
		return socketcall, 12
	case "shutdown":
		return socketcall, 13
	case "setsockopt":
		return socketcall, 14
	case "getsockopt":
		return socketcall, 15
	case "sendmsg":
		return socketcall, 16
	case "recvmsg":
		return socketcall, 17
	case "accept4":
		return socketcall, 18
	case "recvmmsg":
		return socketcall, 19
	case "sendmmsg":
		return socketcall, 20
	case "semop":
		return ipc, 1
	case "semget":
		return ipc, 2
	case "semctl":
		return ipc, 3
	case "semtimedop":
		return ipc, 4
	case "msgsnd":
		return ipc, 11
	case "msgrcv":
		return ipc, 12
	case "msgget":
		return ipc, 13
	case "msgctl":
		return ipc, 14
	case "shmat":
		return ipc, 21
	case "shmdt":
		return ipc, 22
	case "shmget":
		return ipc, 23
	case "shmctl":
		return ipc, 24
	}
	return "", 0
}

const (
	socketcall = "socketcall"
	ipc        = "ipc"
)
