// Package service speaks to the service manager that runs the daemon, sd_notify(3).
// Without one it does nothing.
package service

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Notify tells a state.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

// Reloading tells that a reload begins, systemd.service(5), Type=notify-reload. READY=1
// ends it.
func Reloading() error {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", ts.Nano()/int64(time.Microsecond)))
}

// WatchdogPeriod is how often the manager wants to hear from us,
// sd_watchdog_enabled(3); 0: never.
func WatchdogPeriod() time.Duration {
	usec, err := strconv.ParseUint(os.Getenv("WATCHDOG_USEC"), 10, 63)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// Watchdog tells the manager that the daemon lives, for as long as alive, which asks it
// something, comes back in time. A daemon that hangs is silent and is killed and started
// again; pods go on.
func Watchdog(ctx context.Context, period time.Duration, alive func(context.Context) error, log *slog.Logger) {
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, period)
		err := alive(ask)
		cancel()
		if err == nil {
			err = Notify("WATCHDOG=1")
		}
		if err != nil && ctx.Err() == nil {
			log.Error("the daemon cannot say that it is well; its service manager will start it again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
