package daemon

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/monocrio/monocrio/internal/storage"
)

// unreferenced is how old a layer without image may be before it counts as damage.
const unreferenced = 24 * time.Hour

// watchdogPeriod is how often the service manager wants to hear from us, sd_watchdog_enabled(3);
// 0: never.
func watchdogPeriod() time.Duration {
	usec, err := strconv.ParseUint(os.Getenv("WATCHDOG_USEC"), 10, 63)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// watchdog tells the service manager that the daemon lives, for as long as alive, which
// asks it something, comes back in time. A daemon that hangs is silent and is killed and
// started again; pods go on.
func (p *parts) watchdog(ctx context.Context, period time.Duration, alive func(context.Context) error) {
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, period)
		err := alive(ask)
		cancel()
		if err == nil {
			err = notify("WATCHDOG=1")
		}
		if err != nil && ctx.Err() == nil {
			p.log.Error("the daemon cannot say that it is well; its service manager will start it again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

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
