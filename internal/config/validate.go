package config

import (
	"cmp"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	if c.Network.PluginDir != "" && !slices.Contains(c.Network.PluginDirs, c.Network.PluginDir) {
		c.Network.PluginDirs = append(c.Network.PluginDirs, c.Network.PluginDir)
	}
	if c.Checkpoint.Level == "" && c.Runtime.EnableCRIU {
		c.Checkpoint.Level = "checkpoint_restore"
	}
	if c.API.GRPCMaxSendMsgSize <= 0 {
		c.API.GRPCMaxSendMsgSize = Default().API.GRPCMaxSendMsgSize
	}
	if c.API.GRPCMaxRecvMsgSize <= 0 {
		c.API.GRPCMaxRecvMsgSize = Default().API.GRPCMaxRecvMsgSize
	}
	return errors.Join(c.check(c.Options()), c.metrics(), c.metricsFiles(), c.streams(), c.handlers(), c.workloads(), c.devices())
}

func (c *Config) metrics() (err error) {
	groups := []string{"cpu", "disk", "diskIO", "hugetlb", "memory", "network", "oom", "pressure", "process", "spec"}
	for _, g := range c.Stats.IncludedPodMetrics {
		switch {
		case g == "all" && len(c.Stats.IncludedPodMetrics) > 1:
			err = errors.Join(err, c.bad("crio.stats", "included_pod_metrics", g, "it stands alone: name it, or groups"))
		case g != "all" && !slices.Contains(groups, g):
			err = errors.Join(err, c.bad("crio.stats", "included_pod_metrics", g, "allowed are "+quoted(groups)+", or \"all\" alone"))
		}
	}
	return err
}

// metricsFiles: a certificate is no use without its key.
func (c *Config) metricsFiles() error {
	switch m := c.Metrics; {
	case m.Cert != "" && m.Key == "":
		return c.bad("crio.metrics", "metrics_key", "", "a file is needed because metrics_cert is set")
	case m.Key != "" && m.Cert == "":
		return c.bad("crio.metrics", "metrics_cert", "", "a file is needed because metrics_key is set")
	}
	return nil
}

func (c *Config) handlers() (err error) {
	for _, name := range sortedKeys(c.Runtime.Runtimes) {
		h, table := c.Runtime.Runtimes[name], "crio.runtime.runtimes."+name
		if !handlerName().MatchString(name) {
			err = errors.Join(err, c.bad("crio.runtime", "runtimes", name, "a handler's name has lower-case letters, digits, '-' and '.'"))
		}
		err = errors.Join(err, c.check(tableOptions(table, &h)), c.checkHandler(table, &h))
	}
	if _, ok := c.Runtime.Runtimes[c.Runtime.DefaultRuntime]; !ok {
		err = errors.Join(err, c.bad("crio.runtime", "default_runtime", c.Runtime.DefaultRuntime,
			"there is no such handler; the handlers are "+quoted(sortedKeys(c.Runtime.Runtimes))))
	}
	return err
}

func quoted(list []string) string {
	var q []string
	for _, s := range list {
		q = append(q, strconv.Quote(s))
	}
	return strings.Join(q, ", ")
}

func (c *Config) workloads() (err error) {
	for _, name := range sortedKeys(c.Runtime.Workloads) {
		w, table := c.Runtime.Workloads[name], "crio.runtime.workloads."+name
		err = errors.Join(err, c.check(append(tableOptions(table, &w), tableOptions(table+".resources", &w.Resources)...)), c.checkWorkload(table, &w))
	}
	return err
}

// LogFilter is log_filter, ready for use; nil if there is none.
func (c *Config) LogFilter() *regexp.Regexp {
	if c.Runtime.LogFilter == "" {
		return nil
	}
	re, err := regexp.Compile(c.Runtime.LogFilter)
	if err != nil { // Complete has refused it
		return nil
	}
	return re
}
