package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/cri"
	"github.com/monocrio/monocrio/internal/daemon/machine"
	"github.com/monocrio/monocrio/internal/daemon/mark"
	"github.com/monocrio/monocrio/internal/daemon/service"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/storage"
	"github.com/monocrio/monocrio/internal/version"
	"golang.org/x/sys/unix"
)

// drainTime is how long calls may go on after the daemon was told to end.
const drainTime = 10 * time.Second

// Run serves the CRI until SIGTERM or SIGINT, or until ctx ends. Pods and
// containers are not touched by its end. SIGHUP, or a change of the files that c came
// from, reloads the configuration.
func Run(ctx context.Context, c *config.Config, from Source, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGPIPE)
	unix.Umask(0o022)
	lock, err := takeLock(c)
	if err != nil {
		return err
	}
	defer lock.Close()
	crashed, err := mark.Start(c)
	if err != nil {
		return err
	}
	p, err := build(c, log)
	if err != nil {
		return err
	}
	if err := p.pods.Recover(ctx); err != nil {
		return errors.Join(err, p.close())
	}
	p.recoverNotifier()
	if err := p.tuner.Recover(); err != nil {
		log.Warn("irqbalance may keep interrupts off processors that no container has", "err", err)
	}
	go machine.EndOrphans(ctx, p.now.Load().handlers.byName)
	if crashed && c.Crio.InternalRepair {
		go p.lookAfterCrash()
	}
	if err := p.plugins.Start(p.pods); err != nil {
		return errors.Join(err, p.close())
	}
	go p.collect(ctx)
	p.preloaded.Start(p.images, c.Image.ImagesDir)
	err = p.serve(ctx, newReloader(p, from))
	if e := service.Notify("STOPPING=1"); e != nil {
		log.Warn("cannot tell the service manager that the daemon ends", "err", e)
	}
	if err = errors.Join(err, p.close()); err != nil {
		return err
	}
	return mark.End(c)
}

// collect deletes what failed pulls have left, now and every hour.
func (p *parts) collect(ctx context.Context) {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		p.images.Collect()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// lockPatience is how long a start waits for the end of another daemon.
const lockPatience = 2 * time.Second

// takeLock keeps a second daemon from the same state.
func takeLock(c *config.Config) (*os.File, error) {
	for _, dir := range []string{c.Crio.StateDir, c.Crio.RunDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("cannot make the daemon's folder: %w", err)
		}
	}
	path := filepath.Join(c.Crio.StateDir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// A child that a killed daemon had forked and that has not executed its program
	// yet holds the lock too, for an instant.
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for end := time.Now().Add(lockPatience); err != nil && time.Now().Before(end); {
		time.Sleep(lockPatience / 100)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		f.Close()
		return nil, errs.Precondition("cannot start: another daemon holds %s; give this one its own state_dir, run_dir and listen, or end the other", path)
	}
	return f, nil
}

// serve listens and answers until ctx ends.
func (p *parts) serve(ctx context.Context, r *reloader) error {
	if err := p.streams.Listen(); err != nil {
		return err
	}
	l, err := listen(p.conf.API.Listen)
	if err != nil {
		return err
	}
	ms, err := listenMetrics(p)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer ms.Close()
	f := newFront(p, l)
	g := cri.NewGRPC(p.deps, p.conf.API.GRPCMaxSendMsgSize, p.conf.API.GRPCMaxRecvMsgSize)
	debug.FreeOSMemory() // what starting took
	p.log.Info("serving", "socket", p.conf.API.Listen, "version", version.Version, "handler", p.conf.Runtime.DefaultRuntime, "systemdCgroup", p.deps.Systemd)
	if err := p.network.Status(ctx); err != nil {
		p.log.Warn("pods cannot be attached to a network yet", "err", err)
	}
	servers := []func() error{func() error { return g.Serve(f.split.GRPC()) }, f.split.Serve, f.serveHTTP, p.streams.Serve, ms.Serve}
	failed := make(chan error, len(servers))
	for _, serve := range servers {
		go func() {
			if err := serve(); err != nil {
				failed <- fmt.Errorf("cannot serve (CRI socket %s): %w", p.conf.API.Listen, err)
			}
		}()
	}
	if err := service.Notify("READY=1"); err != nil {
		p.log.Warn("cannot tell the service manager that the daemon is ready", "err", err)
	}
	if period := service.WatchdogPeriod(); period > 0 {
		go service.Watchdog(ctx, period, p.alive, p.log)
	}
	told := make(chan os.Signal, 8)
	signal.Notify(told, unix.SIGUSR1, unix.SIGUSR2, unix.SIGHUP)
	defer signal.Stop(told)
	r.watch(ctx)
	for {
		select {
		case err := <-failed:
			return err
		case <-r.wanted:
			r.reload(false)
		case s := <-told:
			p.onSignal(s, r)
		case <-ctx.Done():
			p.log.Info("ending; pods and containers go on")
			p.events.Close()
			p.images.Close() // a pull may take long, and its caller asks again
			f.drain(g)
			return fsx.RemoveIfThere(p.conf.API.Listen)
		}
	}
}

// alive takes the locks that every call takes.
func (p *parts) alive(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		p.pods.Pods()
		p.pods.Containers()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errs.Errorf(errs.KindDeadline, "pods cannot be listed: %w", ctx.Err())
	}
}

func (p *parts) onSignal(s os.Signal, r *reloader) {
	switch s {
	case unix.SIGHUP:
		r.signalled()
	case unix.SIGUSR1:
		path, err := dumpStacks()
		p.log.Info("wrote the goroutines' stacks", "path", path, "err", err)
	case unix.SIGUSR2:
		debug.FreeOSMemory()
		p.log.Info("collected garbage")
	}
}

func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the CRI socket: %w", err)
	}
	if err := fsx.RemoveIfThere(path); err != nil { // we hold the lock: it is stale
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the CRI socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// unreferenced is how old a layer without image may be before it counts as damage.
const unreferenced = 24 * time.Hour

// lookAfterCrash checks the image store in the background after the machine went down
// without warning: the daemon serves meanwhile. Damage is told; a pull mends an image.
func (p *parts) lookAfterCrash() {
	damage, err := p.store.Check(storage.CheckOptions{Quick: true, MaxAge: unreferenced})
	if err != nil {
		p.log.Warn("cannot check the image store after an unclean shutdown", "err", err)
		return
	}
	for _, d := range damage {
		p.log.Error("the image store is damaged; crio check --repair removes this one, and a pull brings it anew",
			"kind", d.Kind, "id", d.ID, "names", d.Names, "err", errors.Join(d.Errors...))
	}
	p.log.Info("the image store was checked after an unclean shutdown", "damaged", len(damage))
}
