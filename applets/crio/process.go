package crio

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	rpprof "runtime/pprof"
	"strconv"
	"time"

	"runtime/debug"

	"github.com/monocrio/monocrio/internal/config"
	"golang.org/x/sys/unix"
)

// maxThreads is more than any node's calls in progress that sit in the kernel.
const maxThreads = 100_000

// settle makes the process what a daemon is: no standard input, no traces of a login
// session in what its children inherit.
func settle() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), 0, 0); err != nil {
		return fmt.Errorf("cannot close the standard input: %w", err)
	}
	debug.SetMaxThreads(maxThreads)
	return errors.Join(os.Unsetenv("XDG_RUNTIME_DIR"), os.Unsetenv("DBUS_SESSION_BUS_ADDRESS"))
}

// joinedMounts marks the process that has joined the namespace already.
const joinedMounts = "_MONOCRIO_KUBENSMNT"

// joinMounts enters the mount namespace that KUBENSMNT names, for nodes that keep
// kubelet and runtime in one of their own. A process of several threads cannot change
// it; one thread can, and executes us again.
func joinMounts() error {
	path := os.Getenv("KUBENSMNT")
	if path == "" || os.Getenv(joinedMounts) == path {
		return os.Unsetenv(joinedMounts)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if t, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || t != unix.CLONE_NEWNS {
		return fmt.Errorf("%s is no mount namespace", path)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot join %s: %w", path, err)
	}
	err = unix.Exec(self, os.Args, append(os.Environ(), joinedMounts+"="+path))
	return fmt.Errorf("cannot execute %s in %s: %w", self, path, err)
}

// profile does what the flags --profile... ask for, until stop.
func profile(p *config.Process, log *slog.Logger) (stop func(), err error) {
	var undo []func()
	stop = func() {
		for _, f := range undo {
			f()
		}
	}
	if p.Profile {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.ProfilePort)))
		if err != nil {
			return nil, fmt.Errorf("cannot serve profiles (--profile-port): %w", err)
		}
		s := &http.Server{Handler: profiles(), ReadHeaderTimeout: 5 * time.Second}
		go func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				log.Warn("profiles are not served any more", "err", err)
			}
		}()
		undo = append(undo, func() { s.Close() })
		log.Info("serving profiles", "address", l.Addr().String())
	}
	if p.ProfileCPU != "" {
		f, err := os.Create(p.ProfileCPU)
		if err == nil {
			err = rpprof.StartCPUProfile(f)
		}
		if err != nil {
			stop()
			return nil, fmt.Errorf("cannot profile the processor use (--profile-cpu): %w", err)
		}
		undo = append(undo, func() { rpprof.StopCPUProfile(); f.Close() })
	}
	if p.ProfileMem != "" {
		f, err := os.Create(p.ProfileMem)
		if err != nil {
			stop()
			return nil, fmt.Errorf("cannot profile the memory use (--profile-mem): %w", err)
		}
		undo = append(undo, func() {
			runtime.GC() // what is garbage is not in use
			if err := errors.Join(rpprof.WriteHeapProfile(f), f.Close()); err != nil {
				log.Warn("the memory profile is not written", "err", err)
			}
		})
	}
	return stop, nil
}

func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
