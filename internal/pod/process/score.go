package process

import (
	"context"
	"errors"
	"log/slog"

	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci"
	"golang.org/x/sys/unix"
)

// SetOOMScore gives all processes of a container a new score, 0 for none; those that
// are started later inherit it.
func SetOOMScore(ctx context.Context, r oci.Runtime, id string, score int, log *slog.Logger) error {
	if score == 0 {
		return nil
	}
	pids, err := r.Processes(ctx, id)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		switch err := proc.SetOOMScore(pid, score); {
		case errors.Is(err, unix.EACCES):
			log.Warn("a part of the request has no effect on this node", "ctr", id, "why", "lowering oom_score_adj needs CAP_SYS_RESOURCE")
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}
