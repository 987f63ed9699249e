package runc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/libct"
)

// execFailed is the status when the process could not be run, as runc-exec(8)
// has it: 1 to 254 are the process's own.
const execFailed = 255

// execFlags are those of runc-exec(8).
type execFlags struct {
	process, cwd, user, pidFile, consoleSocket, label, apparmor string
	env, caps, cgroups                                          []string
	gids                                                        []int64
	tty, detach, noNewPrivs, ignorePaused                       bool
	preserve                                                    int
}

func (a *app) exec() *cobra.Command {
	var x execFlags
	c := &cobra.Command{
		Use: "exec CONTAINER [--] COMMAND [ARGUMENT...]", Short: "run one more process in a container",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			err := a.runExec(c, args[0], args[1:], &x)
			if err != nil && a.code == 0 {
				a.code = execFailed
			}
			return err
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the id belongs to the command
	f.StringVarP(&x.process, "process", "p", "", "file with the whole process as JSON")
	f.StringVar(&x.cwd, "cwd", "", "working directory")
	f.StringArrayVarP(&x.env, "env", "e", nil, "set a variable, NAME=VALUE")
	f.StringVarP(&x.user, "user", "u", "", "UID[:GID]")
	f.Int64SliceVarP(&x.gids, "additional-gids", "g", nil, "further groups")
	f.BoolVarP(&x.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&x.detach, "detach", "d", false, "do not wait")
	f.StringVar(&x.pidFile, "pid-file", "", "file for the process id")
	f.StringVar(&x.consoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	f.StringVar(&x.label, "process-label", "", "SELinux label")
	f.StringVar(&x.apparmor, "apparmor", "", "AppArmor profile")
	f.BoolVar(&x.noNewPrivs, "no-new-privs", false, "forbid gaining privileges")
	f.StringArrayVarP(&x.caps, "cap", "c", nil, "add a capability")
	f.IntVar(&x.preserve, "preserve-fds", 0, "number of further descriptors to hand on")
	f.StringArrayVar(&x.cgroups, "cgroup", nil, "run in a cgroup below the container's: [CONTROLLER[,...]:]PATH")
	f.BoolVar(&x.ignorePaused, "ignore-paused", false, "start it in a paused container, where it waits")
	return c
}

func (a *app) runExec(c *cobra.Command, id string, command []string, x *execFlags) error {
	p, err := a.execProcess(c, id, command, x)
	if err != nil {
		return err
	}
	req := libct.SpawnRequest{Process: p, IgnorePaused: x.ignorePaused}
	if req.SubCgroups, err = subCgroups(x.cgroups); err != nil {
		return err
	}
	if req.ExtraFiles, err = extraFiles(x.preserve); err != nil {
		return err
	}
	tty, err := execConsole(&req, x)
	if err != nil {
		return err
	}
	if tty != nil {
		defer tty.close()
	}
	if req.Console != nil {
		defer req.Console.Close()
	}
	signals := make(chan os.Signal, 64)
	if !x.detach {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		signal.Notify(signals)
		defer signal.Stop(signals)
	}
	proc, err := a.rt.Spawn(c.Context(), id, req)
	if err != nil {
		return err
	}
	if tty != nil {
		err = tty.begin()
	}
	if err == nil && x.pidFile != "" {
		err = oci.WritePidFile(x.pidFile, proc.Pid())
	}
	if err != nil {
		_ = proc.Signal(unix.SIGKILL)
		_, werr := proc.Wait()
		return errors.Join(err, werr)
	}
	if x.detach {
		return nil
	}
	a.code, err = a.foreground(proc, signals, tty)
	return err
}

// execConsole connects the process's streams: to a console socket, to our own
// terminal, or as they are.
func execConsole(req *libct.SpawnRequest, x *execFlags) (tty *terminal, err error) {
	if !req.Process.Terminal {
		if x.consoleSocket != "" {
			return nil, errs.Invalid("a console socket was given, but the process wants no terminal")
		}
		req.Stdin, req.Stdout, req.Stderr = os.Stdin, os.Stdout, os.Stderr
		return nil, nil
	}
	switch {
	case x.consoleSocket != "":
		req.Console, err = libct.DialConsole(x.consoleSocket)
	case x.detach:
		err = errNoTerminal
	default:
		tty, req.Console, err = pairedTerminal()
	}
	return tty, err
}

// execProcess is the process of a file, or the container's own changed by the
// options.
func (a *app) execProcess(c *cobra.Command, id string, command []string, x *execFlags) (*specs.Process, error) {
	if x.process != "" {
		if len(command) > 0 {
			return nil, errs.Invalid("a command and --process exclude each other")
		}
		return readProcess(x.process)
	}
	if len(command) == 0 {
		return nil, errs.Invalid("no command is given to exec in container %s", id)
	}
	s, err := a.rt.State(c.Context(), id)
	if err != nil {
		return nil, err
	}
	spec, err := oci.LoadBundle(s.Bundle)
	if err != nil {
		return nil, err
	}
	p := spec.Process
	if p == nil {
		p = &specs.Process{Cwd: "/"}
	}
	p.Args, p.Terminal = command, x.tty
	if x.cwd != "" {
		p.Cwd = x.cwd
	}
	p.Env = append(p.Env, x.env...)
	if c.Flags().Changed("no-new-privs") {
		p.NoNewPrivileges = x.noNewPrivs
	}
	if x.label != "" {
		p.SelinuxLabel = x.label
	}
	if x.apparmor != "" {
		p.ApparmorProfile = x.apparmor
	}
	addCapabilities(p, x.caps)
	for _, gid := range x.gids {
		if gid < 0 || gid > 1<<32-2 {
			return nil, errs.Invalid("group %d does not exist", gid)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(gid))
	}
	return p, setUser(p, x.user)
}

func readProcess(path string) (*specs.Process, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read process: %w", err)
	}
	p := &specs.Process{}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, errs.Invalid("cannot read process %s: %w", path, err)
	}
	return p, nil
}

// addCapabilities adds to the sets in which a command finds them at once.
func addCapabilities(p *specs.Process, caps []string) {
	if len(caps) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	set := p.Capabilities
	for _, name := range caps {
		set.Bounding = append(set.Bounding, name)
		set.Effective = append(set.Effective, name)
		set.Permitted = append(set.Permitted, name)
		// Ambient may not exceed inheritable; a container with the one has the other.
		if len(set.Inheritable) > 0 {
			set.Inheritable = append(set.Inheritable, name)
			set.Ambient = append(set.Ambient, name)
		}
	}
}

// setUser understands UID and UID:GID.
func setUser(p *specs.Process, user string) error {
	if user == "" {
		return nil
	}
	uid, gid, both := strings.Cut(user, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return errs.Invalid("user %q must be UID or UID:GID in digits", user)
	}
	p.User.UID = uint32(n)
	if both {
		if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
			return errs.Invalid("user %q must be UID or UID:GID in digits", user)
		}
		p.User.GID = uint32(n)
	}
	return nil
}

// subCgroups understands "PATH" and "CONTROLLER[,CONTROLLER...]:PATH"; "/" is the
// container's cgroup itself.
func subCgroups(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	paths := map[string]string{}
	for _, s := range list {
		controllers, path, ok := strings.Cut(s, ":")
		if !ok {
			controllers, path = "", s
		}
		if path == "" || strings.Contains("/"+path+"/", "/../") {
			return nil, errs.Invalid("cgroup %q must name a path below the container's", s)
		}
		path = strings.TrimPrefix(filepath.Clean("/"+path), "/")
		for name := range strings.SplitSeq(controllers, ",") {
			if _, twice := paths[name]; twice {
				return nil, errs.Invalid("cgroup %q is given twice", s)
			}
			paths[name] = path
		}
	}
	return paths, nil
}

func (a *app) update() *cobra.Command {
	var file string
	var u updateFlags
	c := &cobra.Command{Use: "update CONTAINER", Short: "change a container's limits", Args: oneID}
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := a.resources(c, file, &u)
		if err != nil {
			return err
		}
		return a.rt.Update(c.Context(), args[0], r)
	}
	c.Flags().StringVarP(&file, "resources", "r", "", "file with the limits as JSON; - is standard input")
	u.register(c)
	return c
}

// updateFlags has the options of runc-update(8); only those given count.
type updateFlags struct {
	blkioWeight                               uint16
	period, rtPeriod, shares, burst           uint64
	quota, rtRuntime, memory, reserve         int64
	swap, pids, idle                          int64
	cpus, mems, l3, bandwidth, kernel, kerTCP string
}

func (u *updateFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.Uint16Var(&u.blkioWeight, "blkio-weight", 0, "block I/O weight, 10 to 1000")
	f.Uint64Var(&u.period, "cpu-period", 0, "CPU quota period in microseconds")
	f.Int64Var(&u.quota, "cpu-quota", 0, "CPU time per period in microseconds; -1: unlimited")
	f.Uint64Var(&u.burst, "cpu-burst", 0, "CPU burst in microseconds")
	f.Uint64Var(&u.shares, "cpu-share", 0, "CPU weight, 2 to 262144")
	f.Uint64Var(&u.rtPeriod, "cpu-rt-period", 0, "realtime period in microseconds")
	f.Int64Var(&u.rtRuntime, "cpu-rt-runtime", 0, "realtime CPU time per period in microseconds")
	f.StringVar(&u.cpus, "cpuset-cpus", "", "CPUs to use, as 0-3,7")
	f.StringVar(&u.mems, "cpuset-mems", "", "memory nodes to use")
	f.Int64Var(&u.idle, "cpu-idle", 0, "1: run only when others are idle")
	f.Var(newSize(&u.memory), "memory", "memory limit in bytes; -1: unlimited")
	f.Var(newSize(&u.reserve), "memory-reservation", "soft memory limit in bytes")
	f.Var(newSize(&u.swap), "memory-swap", "limit of memory and swap in bytes; -1: unlimited")
	f.StringVar(&u.kernel, "kernel-memory", "", "ignored")
	f.StringVar(&u.kerTCP, "kernel-memory-tcp", "", "ignored")
	_, _ = f.MarkHidden("kernel-memory"), f.MarkHidden("kernel-memory-tcp")
	f.Int64Var(&u.pids, "pids-limit", 0, "largest number of tasks; -1: unlimited")
	f.StringVar(&u.l3, "l3-cache-schema", "", "Intel RDT schema of the L3 cache")
	f.StringVar(&u.bandwidth, "mem-bw-schema", "", "Intel RDT schema of the memory bandwidth")
}

// resources reads the limits from a file or collects the options.
func (a *app) resources(c *cobra.Command, file string, u *updateFlags) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	if file != "" {
		in := a.in
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return nil, fmt.Errorf("cannot read limits: %w", err)
			}
			defer f.Close()
			in = f
		}
		if err := json.NewDecoder(in).Decode(r); err != nil {
			return nil, errs.Invalid("cannot read limits from %s: %w", file, err)
		}
		return r, nil
	}
	if u.l3 != "" || u.bandwidth != "" {
		return nil, errs.Unimplemented("Intel RDT schemas cannot be changed by this runtime")
	}
	changed := c.Flags().Changed
	r.Memory, r.CPU = &specs.LinuxMemory{}, &specs.LinuxCPU{Cpus: u.cpus, Mems: u.mems}
	given(&r.Memory.Limit, &u.memory, changed("memory"))
	given(&r.Memory.Reservation, &u.reserve, changed("memory-reservation"))
	given(&r.Memory.Swap, &u.swap, changed("memory-swap"))
	given(&r.CPU.Shares, &u.shares, changed("cpu-share"))
	given(&r.CPU.Quota, &u.quota, changed("cpu-quota"))
	given(&r.CPU.Period, &u.period, changed("cpu-period"))
	given(&r.CPU.Burst, &u.burst, changed("cpu-burst"))
	given(&r.CPU.RealtimePeriod, &u.rtPeriod, changed("cpu-rt-period"))
	given(&r.CPU.RealtimeRuntime, &u.rtRuntime, changed("cpu-rt-runtime"))
	given(&r.CPU.Idle, &u.idle, changed("cpu-idle"))
	if changed("pids-limit") {
		r.Pids = &specs.LinuxPids{Limit: &u.pids}
	}
	if changed("blkio-weight") {
		r.BlockIO = &specs.LinuxBlockIO{Weight: &u.blkioWeight}
	}
	return r, nil
}

func given[T any](dst **T, value *T, changed bool) {
	if changed {
		*dst = value
	}
}

// size is a number of bytes with an optional binary unit, as "12M".
type size struct{ n *int64 }

func newSize(n *int64) *size { return &size{n} }

func (s *size) String() string { return "" }
func (s *size) Type() string   { return "bytes" }

func (s *size) Set(text string) error {
	number := strings.TrimRight(strings.ToLower(text), "ib")
	shift := 0
	if i := strings.IndexByte("kmgt", last(number)); i >= 0 {
		shift, number = 10*(i+1), number[:len(number)-1]
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < -1 || n > 1<<62>>shift {
		return errs.Invalid("%q is not a number of bytes", text)
	}
	*s.n = n
	if n > 0 {
		*s.n = n << shift
	}
	return nil
}

// last returns the last byte, or one that stands for nothing.
func last(s string) byte {
	if s == "" {
		return 0xff
	}
	return s[len(s)-1]
}
