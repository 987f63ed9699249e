package perf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/fsx"
)

// bannedKey is the variable of irqbalance's environment file: a mask of processors to
// which no interrupt is moved.
const bannedKey = "IRQBALANCE_BANNED_CPUS"

// KeepNone as Options.Restore keeps no file.
const KeepNone = "disable"

// banned reads irqbalance's mask.
func (t *Tuner) banned() (cpus, int, error) {
	if t.o.IRQBalance == "" {
		return nil, 0, fs.ErrNotExist
	}
	data, err := os.ReadFile(t.o.Root + t.o.IRQBalance)
	if err != nil {
		return nil, 0, err
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := assigned(line); ok {
			return parseMask(v)
		}
	}
	return nil, 0, nil
}

// assigned is the value of the variable in a line of the file.
func assigned(line string) (string, bool) {
	v, ok := strings.CutPrefix(strings.TrimSpace(line), bannedKey+"=")
	return strings.Trim(strings.TrimSpace(v), `"'`), ok
}

// ban writes irqbalance's mask, whose other settings stay, and makes it known.
func (t *Tuner) ban(set cpus, digits int) error {
	path := t.o.Root + t.o.IRQBalance
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := fsx.WriteFile(path, []byte(withBanned(string(data), set, digits)), fi.Mode().Perm(), fsx.Process); err != nil {
		return err
	}
	if t.o.Reread != nil {
		if err := t.o.Reread(); err != nil {
			t.o.Log.Warn("irqbalance does not read its changed file; it may move interrupts to processors that are a container's", "path", t.o.IRQBalance, "err", err)
		}
	}
	return nil
}

// ours stands above the variable in a file that had none.
const ours = "# not set before there were containers with undisturbed processors\n"

// withBanned is the text of irqbalance's file with another mask, and without the variable
// if it was not there before and the mask is empty.
func withBanned(text string, set cpus, digits int) string {
	line := bannedKey + "=\"" + set.mask(digits) + "\"\n"
	var b strings.Builder
	there, added := false, false
	for l := range strings.Lines(text) {
		_, is := assigned(l)
		switch {
		case l == ours:
			added = true
		case !is:
			b.WriteString(l)
		case there: // twice
		case added && len(set) == 0:
			there = true
		case added:
			there = true
			b.WriteString(ours + line)
		default:
			there = true
			b.WriteString(line)
		}
	}
	if there || len(set) == 0 {
		return b.String()
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
	return b.String() + ours + line
}

// RestartIRQBalance makes the node's irqbalance read its file again, if it runs.
func RestartIRQBalance() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "try-restart", "irqbalance.service").CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot restart irqbalance.service: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Recover gives irqbalance the mask that it had before there were containers, and what
// those want that run now: after a reboot their records are gone, and its file is not.
func (t *Tuner) Recover() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.o.Restore == "" || t.o.Restore == KeepNone {
		return nil
	}
	now, digits, err := t.banned()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no irqbalance here
	} else if err != nil {
		return err
	}
	records, err := t.others("")
	if err != nil {
		return err
	}
	wanted := cpus{}
	for _, r := range records {
		for _, c := range r.Changes {
			if c.Kind == banned {
				list, err := parseList(c.CPUs)
				if err != nil {
					return err
				}
				wanted = wanted.or(list)
			}
		}
	}
	path := t.o.Root + t.o.Restore
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fsx.WriteFile(path, []byte(now.minus(wanted).mask(digits)+"\n"), 0o644, fsx.Process)
	} else if err != nil {
		return err
	}
	before, _, err := parseMask(string(data))
	if err != nil {
		return err
	}
	if next := before.or(wanted); !slices.Equal(next, now) {
		return t.ban(next, max(digits, 1))
	}
	return nil
}
