// Package ctor holds the little C that runs before the Go runtime exists.
//
// Why C: three things cannot be done, or not cheaply, once Go's threads run.
//
//   - A process may fork, keep its memory and go on in the child (the monitor's
//     step into the background) only while it has one thread: conmon.c.
//   - A user namespace may be entered only by a process of one thread: pinns.c.
//   - A process that does nothing but wait should cost nothing: pause.c takes
//     24 kB where a Go process takes 800.
//
// dispatch.c decides by the base name of argv[0] (by argv[1] if that name begins
// with "monocrio") and does nothing for any other name, nor in libcontainer's
// init stage. pause and pinns end there; conmon goes on into Go, which asks the
// functions below what happened.
//
// The package imports nothing, so that package early, which needs it, is
// initialised as soon as the runtime is.
package ctor

// #include "ctor.h"
import "C"

import "unsafe"

// Args returns the command line with the applet's name first if the process is a
// monitor that dispatch.c prepared; nil otherwise.
func Args() []string {
	n := int(C.monocrio_conmon_argc)
	if n == 0 {
		return nil
	}
	argv := unsafe.Slice(C.monocrio_conmon_argv, n)
	args := make([]string, n)
	for i := range args {
		args[i] = C.GoString(argv[i])
	}
	return args
}

// Background tells whether the process was forked off by conmon.c. ReadyFD is
// then the pipe on which the waiting parent wants one byte: it exits with status
// 0 as soon as it reads it, and with this process's status if it ends before.
func Background() (readyFD int, ok bool) {
	return int(C.monocrio_ready_fd), C.monocrio_ready_fd >= 0
}

// Released tells whether conmon.c has read the message on the start pipe.
func Released() bool { return C.monocrio_released != 0 }

// CatchSignals makes HUP, INT, QUIT, TERM and CHLD arrive as one byte each, the
// signal's number, on a non-blocking pipe. Handlers, unlike a signal mask, do not
// survive an exec, so no container inherits them.
func CatchSignals(fd int) { C.monocrio_catch_signals(C.int(fd)) }

// UTCOffset returns the seconds that local time is ahead of UTC at a time in
// seconds since 1970.
func UTCOffset(sec int64) int { return int(C.monocrio_utc_offset(C.longlong(sec))) }
