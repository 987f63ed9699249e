package config

import (
	"cmp"
	"errors"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
)

// Embedded is the name of the runtime handler that needs no executable.
const Embedded = "runc"

var handlerName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`) })

// Complete fills in what follows from other options and checks every value; each
// error names table, key, value and what is allowed. The embedded handler is always
// there.
func (c *Config) Complete() error {
	if c.Runtime.Runtimes == nil {
		c.Runtime.Runtimes = map[string]Handler{}
	}
	if _, ok := c.Runtime.Runtimes[Embedded]; !ok {
		c.Runtime.Runtimes[Embedded] = Handler{}
	}
	// Old files leave these two to the daemon by an empty text.
	c.API.StreamAddress = cmp.Or(c.API.StreamAddress, Default().API.StreamAddress)
	c.API.StreamPort = cmp.Or(c.API.StreamPort, Default().API.StreamPort)
	if c.Runtime.ContainerExitsDir == "" {
		c.Runtime.ContainerExitsDir = filepath.Join(c.Crio.RunDir, "exits")
	}
	if c.Runtime.ContainerAttachDir == "" {
		c.Runtime.ContainerAttachDir = filepath.Join(c.Crio.RunDir, "attach")
	}
	if c.Stats.CollectionPeriod == 0 {
		c.Stats.CollectionPeriod = c.Stats.StatsCollectionPeriod
	}
	return errors.Join(c.paths(), c.choices(), c.numbers(), c.lists(), c.metrics(), c.API.streams(), c.handlers())
}

func bad(table, key string, value any, allowed string) error {
	return errs.Invalid("[%s] %s = %q: %s", table, key, value, allowed)
}

func (c *Config) paths() (err error) {
	for _, p := range []struct{ table, key, path string }{
		{"crio", "root", c.Crio.Root}, {"crio", "runroot", c.Crio.RunRoot}, {"crio", "log_dir", c.Crio.LogDir},
		{"crio", "state_dir", c.Crio.StateDir}, {"crio", "run_dir", c.Crio.RunDir}, {"crio.api", "listen", c.API.Listen},
		{"crio.network", "network_dir", c.Network.NetworkDir}, {"crio.network", "cni_cache_dir", c.Network.CacheDir},
		{"crio.nri", "nri_listen", c.NRI.Listen}, {"crio.nri", "nri_plugin_dir", c.NRI.PluginDir}, {"crio.nri", "nri_plugin_config_dir", c.NRI.PluginConfigDir},
	} {
		if !filepath.IsAbs(p.path) {
			err = errors.Join(err, bad(p.table, p.key, p.path, "an absolute path is needed"))
		}
	}
	for _, s := range []struct{ table, key, path string }{{"crio.api", "listen", c.API.Listen}, {"crio.nri", "nri_listen", c.NRI.Listen}} {
		if len(s.path) > 107 {
			err = errors.Join(err, bad(s.table, s.key, s.path, "the kernel allows a socket path of 107 characters at most"))
		}
	}
	return err
}

func (c *Config) choices() (err error) {
	for _, o := range []struct {
		table, key, value string
		allowed           []string
	}{
		{"crio", "storage_driver", c.Crio.StorageDriver, []string{"overlay", "vfs"}},
		{"crio.runtime", "cgroup_manager", c.Runtime.CgroupManager, []string{"", "systemd", "cgroupfs"}},
		{"crio.api", "tls_min_version", c.API.TLSMinVersion, []string{"VersionTLS12", "VersionTLS13"}},
		{"crio.runtime", "log_level", c.Runtime.LogLevel, []string{"trace", "debug", "info", "warn", "error", "fatal"}},
		{"crio.image", "image_volumes", c.Image.ImageVolumes, []string{"mkdir", "bind", "ignore"}},
		{"crio.image", "default_transport", c.Image.DefaultTransport, []string{"docker://"}},
	} {
		if !contains(o.allowed, o.value) {
			err = errors.Join(err, bad(o.table, o.key, o.value, "allowed are "+quoted(o.allowed)))
		}
	}
	return err
}

func (c *Config) numbers() (err error) {
	if n := c.Runtime.LogSizeMax; n >= 0 && n < 8192 {
		err = errors.Join(err, bad("crio.runtime", "log_size_max", strconv.FormatInt(n, 10), "at least 8192 bytes, or -1 for no limit"))
	}
	if n := c.Runtime.PidsLimit; n < -1 || n == 0 {
		err = errors.Join(err, bad("crio.runtime", "pids_limit", strconv.FormatInt(n, 10), "a number above 0, or -1 for no limit"))
	}
	if n := c.Runtime.CtrStopTimeout; n < 1 {
		err = errors.Join(err, bad("crio.runtime", "ctr_stop_timeout", strconv.FormatInt(n, 10), "at least 1 second"))
	}
	if c.API.GRPCMaxSendMsgSize <= 0 {
		c.API.GRPCMaxSendMsgSize = Default().API.GRPCMaxSendMsgSize
	}
	if c.API.GRPCMaxRecvMsgSize <= 0 {
		c.API.GRPCMaxRecvMsgSize = Default().API.GRPCMaxRecvMsgSize
	}
	return err
}

func (c *Config) lists() (err error) {
	for _, e := range c.Runtime.DefaultEnv {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
			err = errors.Join(err, bad("crio.runtime", "default_env", e, "NAME=VALUE is needed"))
		}
	}
	for _, e := range c.Runtime.DefaultSysctls {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
			err = errors.Join(err, bad("crio.runtime", "default_sysctls", e, "NAME=VALUE is needed"))
		}
	}
	return err
}

func (c *Config) metrics() (err error) {
	groups := []string{"cpu", "disk", "diskIO", "hugetlb", "memory", "network", "oom", "pressure", "process", "spec"}
	for _, g := range c.Stats.IncludedPodMetrics {
		switch {
		case g == "all" && len(c.Stats.IncludedPodMetrics) > 1:
			err = errors.Join(err, bad("crio.stats", "included_pod_metrics", g, "it stands alone: name it, or groups"))
		case g != "all" && !contains(groups, g):
			err = errors.Join(err, bad("crio.stats", "included_pod_metrics", g, "allowed are "+quoted(groups)+", or \"all\" alone"))
		}
	}
	return err
}

func (c *Config) handlers() (err error) {
	for _, name := range sortedKeys(c.Runtime.Runtimes) {
		h, table := c.Runtime.Runtimes[name], "crio.runtime.runtimes."+name
		if !handlerName().MatchString(name) {
			err = errors.Join(err, bad("crio.runtime", "runtimes", name, "a handler's name has lower-case letters, digits, '-' and '.'"))
		}
		if h.Type != "" && h.Type != "oci" {
			err = errors.Join(err, bad(table, "runtime_type", h.Type, `only "oci" is built in`))
		}
		if h.Path != "" && !filepath.IsAbs(h.Path) {
			err = errors.Join(err, bad(table, "runtime_path", h.Path, "an absolute path is needed"))
		}
	}
	if _, ok := c.Runtime.Runtimes[c.Runtime.DefaultRuntime]; !ok {
		err = errors.Join(err, bad("crio.runtime", "default_runtime", c.Runtime.DefaultRuntime,
			"there is no such handler; the handlers are "+quoted(sortedKeys(c.Runtime.Runtimes))))
	}
	return err
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

func quoted(list []string) string {
	var q []string
	for _, s := range list {
		q = append(q, strconv.Quote(s))
	}
	return strings.Join(q, ", ")
}
