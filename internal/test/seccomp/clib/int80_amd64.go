package clib

// static long int80(long nr, long a, long b) {
//	long ret;
//	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b) : "memory", "r8", "r9", "r10", "r11");
//	return ret;
// }
import "C"

// Int80 makes a call of 32-bit x86 and returns what the kernel does, a negative
// errno for failure. Kernels without such calls end the process by SIGSEGV.
func Int80(nr, a, b uint32) int { return int(int32(C.int80(C.long(nr), C.long(a), C.long(b)))) }
