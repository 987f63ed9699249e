// Package conmon turns conmon's command line into a run of the monitor loop.
//
// It has a small option table of its own and imports, besides lean rooms, package
// syscall only: see package loop for why. It is a row of the applet table and, to
// be small, called by package early before that table exists.
package conmon

import (
	"syscall"

	"github.com/monocrio/monocrio/applets/early/ctor"
	"github.com/monocrio/monocrio/internal/monitor/contract"
	"github.com/monocrio/monocrio/internal/monitor/loop"
	"github.com/monocrio/monocrio/internal/version"
)

// contractVersion is the release of conmon whose contract this monitor keeps.
// Engines choose options by it.
const contractVersion = "2.2.1"

const self = "/proc/self/exe"

// Main runs the monitor; args begin with the applet's name.
func Main(args []string) int {
	env := syscall.Environ()
	if ctor.Args() == nil {
		// Called by a name that the C start level does not know: say it again.
		return again(args, env)
	}
	var p parser
	p.defaults()
	if err := p.parse(args[1:]); err != "" {
		return complain(err)
	}
	switch {
	case p.help:
		write(1, usage())
		return 0
	case p.version:
		write(1, "conmon version "+contractVersion+"\ncommit: monocrio-"+version.Version+" "+version.Commit+"\n")
		return 0
	}
	if err := p.check(); err != "" {
		return complain(err)
	}
	ready, background := ctor.Background()
	if !p.sync && !background {
		return again(args, append(env, "_MONOCRIO_BACKGROUND=1"))
	}
	o := &p.o
	o.Background = background
	if p.sync {
		o.MonitorPidFile = ""
	}
	if err := p.environment(env); err != "" {
		return complain(err)
	}
	o.CatchSignals, o.Logs.UTCOffset = ctor.CatchSignals, ctor.UTCOffset
	o.Ready = func() {
		if background {
			syscall.Write(ready, []byte{0})
			syscall.Close(ready)
		}
	}
	return loop.Run(o)
}

// again executes the same command line under the plain name.
func again(args, env []string) int {
	for _, e := range env {
		if e == "_MONOCRIO_AGAIN=1" {
			return complain("this executable was built without its C start level")
		}
	}
	err := syscall.Exec(self, append([]string{"conmon"}, args[1:]...), append(env, "_MONOCRIO_AGAIN=1"))
	return complain("cannot execute " + self + ": " + err.Error())
}

// environment takes the descriptors out of the environment and leaves the rest to
// the runtime: without the settings that keep this process small.
func (p *parser) environment(env []string) string {
	o := &p.o
	for _, e := range env {
		name, value := cut(e, '=')
		fd, number := atoi(value)
		switch {
		case name == contract.SyncPipe:
			o.SyncFD = int(fd)
		case name == contract.StartPipe:
			o.StartFD = int(fd)
		case name == contract.AttachPipe:
			o.AttachFD = int(fd)
		case e == "GOMAXPROCS=1", e == "GOGC=off", e == "GOMEMLIMIT=16MiB",
			name == "_MONOCRIO_BACKGROUND", name == "_MONOCRIO_AGAIN":
			continue
		default:
			o.Env = append(o.Env, e)
			continue
		}
		if !number || fd < 0 || fd > 1<<20 {
			return "cannot use " + e + ": it does not name a descriptor"
		}
	}
	o.Released = ctor.Released()
	return ""
}

func complain(text string) int {
	write(2, "[conmon:e]: "+text+"\n")
	return 1
}

func write(fd int, text string) { syscall.Write(fd, []byte(text)) }
