package spec

import (
	"bytes"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (b *builder) process() error {
	p, c := b.spec.Process, b.in.Config
	p.Terminal = c.GetTty()
	p.NoNewPrivileges = b.sc.GetNoNewPrivs()
	p.Rlimits = b.in.Node.Rlimits
	var err error
	if p.Args, err = b.args(); err != nil {
		return err
	}
	p.Cwd = c.GetWorkingDir()
	if p.Cwd == "" {
		p.Cwd = b.in.Image.WorkingDir
	}
	if p.Cwd = path.Clean("/" + p.Cwd); p.Cwd == "." {
		p.Cwd = "/"
	}
	if p.Env, err = b.env(); err != nil {
		return err
	}
	return b.identity()
}

// args follows Kubernetes: a command replaces the image's entry point and its
// arguments; arguments alone replace only the image's.
func (b *builder) args() ([]string, error) {
	c, i := b.in.Config, b.in.Image
	command, args := c.GetCommand(), c.GetArgs()
	if len(command) == 0 {
		command = i.Entrypoint
		if len(args) == 0 {
			args = i.Cmd
		}
	}
	all := slices.Concat(command, args)
	if len(all) == 0 {
		return nil, errs.Invalid("container %s: there is nothing to run: neither the request nor the image has a command", c.GetMetadata().GetName())
	}
	for _, a := range all {
		if strings.ContainsRune(a, 0) {
			return nil, errs.Invalid("container %s: the command has a null byte in %q", c.GetMetadata().GetName(), a)
		}
	}
	return all, nil
}

// env: the image's under the node's under the request's; a later value replaces an
// earlier one in its place.
func (b *builder) env() ([]string, error) {
	var env []string
	at := map[string]int{}
	set := func(kv string) {
		k, _, _ := strings.Cut(kv, "=")
		if i, ok := at[k]; ok {
			env[i] = kv
			return
		}
		at[k] = len(env)
		env = append(env, kv)
	}
	set("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if b.in.Config.GetTty() {
		set("TERM=xterm")
	}
	if b.in.Pod.Hostname != "" {
		set("HOSTNAME=" + b.in.Pod.Hostname)
	}
	for _, kv := range slices.Concat(b.in.Image.Env, b.in.Node.Env) {
		set(kv)
	}
	for _, e := range b.in.Config.GetEnvs() {
		k, v := e.GetKey(), string(e.GetValue())
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			return nil, errs.Invalid("container %s: the environment variable %q has a name or value that no process can have", b.in.Config.GetMetadata().GetName(), k)
		}
		set(k + "=" + v)
	}
	if n := b.gomaxprocs(); n > 0 {
		if _, there := at["GOMAXPROCS"]; !there {
			set("GOMAXPROCS=" + strconv.FormatInt(n, 10))
		}
	}
	return env, nil
}

// identity resolves user and groups as the image's own files say.
func (b *builder) identity() error {
	u, err := b.lookupUser()
	if err != nil {
		return err
	}
	if g := b.sc.GetRunAsGroup(); g != nil {
		if err := checkID("run_as_group", g.GetValue()); err != nil {
			return err
		}
		u.Gid = int(g.GetValue())
	}
	// The primary group may be no name's and is always among the groups.
	groups := []uint32{uint32(u.Gid)}
	add := func(g uint32) {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	switch p := b.sc.GetSupplementalGroupsPolicy(); p {
	case cri.SupplementalGroupsPolicy_Merge:
		for _, g := range u.Sgids {
			add(uint32(g))
		}
	case cri.SupplementalGroupsPolicy_Strict:
	default:
		return errs.Invalid("supplemental_groups_policy %d: Merge and Strict are known", p)
	}
	for _, g := range b.sc.GetSupplementalGroups() {
		if err := checkID("supplemental_groups", g); err != nil {
			return err
		}
		add(uint32(g))
	}
	b.spec.Process.User = specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid), AdditionalGids: groups}
	b.user = &cri.LinuxContainerUser{Uid: int64(u.Uid), Gid: int64(u.Gid)}
	for _, g := range groups {
		b.user.SupplementalGroups = append(b.user.SupplementalGroups, int64(g))
	}
	if home := u.Home; home != "" && !slices.ContainsFunc(b.spec.Process.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		b.spec.Process.Env = append(b.spec.Process.Env, "HOME="+home)
	}
	return nil
}

func checkID(field string, id int64) error {
	if id < 0 || id > 1<<32-2 {
		return errs.Invalid("%s %d: ids are 0 to 4294967294", field, id)
	}
	return nil
}

// lookupUser finds the user that is asked for: by id, by name, or as the image
// says.
func (b *builder) lookupUser() (*user.ExecUser, error) {
	want := b.in.Image.User
	switch {
	case b.sc.GetRunAsUser() != nil:
		if err := checkID("run_as_user", b.sc.GetRunAsUser().GetValue()); err != nil {
			return nil, err
		}
		want = strconv.FormatInt(b.sc.GetRunAsUser().GetValue(), 10)
	case b.sc.GetRunAsUsername() != "":
		want = b.sc.GetRunAsUsername()
	}
	if strings.Contains(want, "\n") || strings.Count(want, ":") > 1 {
		return nil, errs.Invalid("user %q: write NAME or ID, and after a colon a group", want)
	}
	u, err := user.GetExecUser(want, &user.ExecUser{Home: "/"}, reader(b.in.Passwd), reader(b.in.Group))
	switch {
	case errors.Is(err, user.ErrNoPasswdEntries), errors.Is(err, user.ErrNoGroupEntries):
		return nil, errs.Invalid("user %q: there is no such user or group in the image's /etc/passwd and /etc/group", want)
	case err != nil:
		return nil, errs.Invalid("user %q: %w", want, err)
	}
	return u, nil
}

func reader(data []byte) io.Reader { return bytes.NewReader(data) }
