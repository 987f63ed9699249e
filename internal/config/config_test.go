package config

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDropInsInOrder(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir, "crio.conf", "[crio]\nroot = \"/a\"\n[crio.runtime]\nlog_level = \"warn\"\n[crio.runtime.runtimes.kata]\nruntime_path = \"/k\"\n")
	write(t, dir, "d/20-b.conf", "[crio.runtime]\nlog_level = \"debug\"\n")
	write(t, dir, "d/10-a.conf", "[crio.runtime]\nlog_level = \"error\"\n[crio.runtime.runtimes.crun]\nruntime_path = \"/c\"\n")
	c, warn, err := Load(main, filepath.Join(dir, "d"), true)
	if err != nil || len(warn) != 0 {
		t.Fatal(warn, err)
	}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	if c.Crio.Root != "/a" || c.Runtime.LogLevel != "debug" {
		t.Errorf("root %q, log level %q", c.Crio.Root, c.Runtime.LogLevel)
	}
	if got := sortedKeys(c.Runtime.Runtimes); !reflect.DeepEqual(got, []string{"crun", "kata", "runc"}) {
		t.Errorf("handlers %v", got)
	}
	if c.Network.NetworkDir != Default().Network.NetworkDir {
		t.Error("an option that no file names lost its default")
	}
}

func TestBrokenFiles(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"syntax", "[crio\nroot=1", "crio.conf:1"},
		{"type", "[crio.runtime]\n\npids_limit = \"many\"\n", "crio.conf:3"},
		{"type names its key", "[crio.runtime]\npids_limit = \"many\"\n", "a whole number is needed"},
		{"duration", "[crio.image]\npull_progress_timeout = \"soon\"\n", "duration"},
		{"a negative number of seconds", "[crio.image]\npull_progress_timeout = -5\n", "crio.image.pull_progress_timeout"},
	} {
		path := write(t, t.TempDir(), "crio.conf", c.text)
		if _, _, err := Load(path, "", true); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want it to say %q", c.name, err, c.want)
		}
	}
	if _, _, err := Load("/nowhere/crio.conf", "", true); err == nil {
		t.Error("a missing file that was asked for is no error")
	}
	if _, _, err := Load("/nowhere/crio.conf", "/nowhere/d", false); err != nil {
		t.Error(err)
	}
}

func TestUnknownKeyWarns(t *testing.T) {
	path := write(t, t.TempDir(), "crio.conf", "[crio.runtime]\nlog_levle = \"debug\"\nlog_level = \"debug\"\nzzzzzzzz = 1\n")
	c, warn, err := Load(path, "", true)
	if err != nil || len(warn) != 2 {
		t.Fatal(warn, err)
	}
	if !strings.Contains(warn[0], "crio.conf:2") || !strings.Contains(warn[0], "log_level?") {
		t.Errorf("warning %q", warn[0])
	}
	if c.Runtime.LogLevel != "debug" {
		t.Error("an unknown key kept the others from being read")
	}
}

func TestWrongValues(t *testing.T) {
	for _, c := range []struct {
		set  func(*Config)
		want string
	}{
		{func(c *Config) { c.Crio.Root = "relative" }, "root"},
		{func(c *Config) { c.Crio.StorageDriver = "zfs" }, "storage_driver"},
		{func(c *Config) { c.Runtime.CgroupManager = "systemctl" }, "cgroup_manager"},
		{func(c *Config) { c.Runtime.DefaultRuntime = "nope" }, "default_runtime"},
		{func(c *Config) { c.Runtime.LogSizeMax = 5 }, "log_size_max"},
		{func(c *Config) { c.Runtime.PidsLimit = 0 }, "pids_limit"},
		{func(c *Config) { c.Runtime.DefaultEnv = []string{"=x"} }, "default_env"},
		{func(c *Config) { c.Stats.IncludedPodMetrics = []string{"cpu", "all"} }, "alone"},
		{func(c *Config) { c.Stats.IncludedPodMetrics = []string{"diskio"} }, "diskIO"},
		{func(c *Config) { c.API.Listen = "/" + strings.Repeat("x", 120) }, "listen"},
		{func(c *Config) { c.API.StreamAddress = "localhost" }, "stream_address"},
		{func(c *Config) { c.API.StreamPort = "65536" }, "stream_port"},
		{func(c *Config) { c.API.StreamEnableTLS, c.API.StreamTLSKey = true, "/k" }, "stream_tls_cert"},
		{func(c *Config) { c.API.StreamEnableTLS, c.API.StreamTLSCert = true, "/c" }, "stream_tls_key"},
		{func(c *Config) {
			c.API.StreamEnableTLS, c.API.StreamTLSCert, c.API.StreamTLSKey, c.API.StreamTLSCA = true, "/c", "/k", "ca.pem"
		}, "stream_tls_ca"},
		{func(c *Config) { c.API.TLSMinVersion = "VersionTLS11" }, "tls_min_version"},
		{func(c *Config) { c.API.TLSCipherSuites = []string{"TLS_RSA_WITH_RC4_128_SHA"} }, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
		{func(c *Config) { c.API.TLSCipherSuites = []string{"TLS_AES_128_GCM_SHA256"} }, "tls_cipher_suites"},
		{func(c *Config) { c.Runtime.Runtimes = map[string]Handler{"../x": {}} }, "../x"},
		{func(c *Config) { c.Runtime.Runtimes = map[string]Handler{"a": {Path: "crun"}} }, "runtime_path"},
	} {
		conf := Default()
		c.set(conf)
		if err := conf.Complete(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want it to name %s", err, c.want)
		}
	}
}

// TestPeriod: as CRI-O's files write it, and by its former name.
//
// Options: crio.stats.stats_collection_period
func TestPeriod(t *testing.T) {
	for _, c := range []struct {
		text string
		want time.Duration
	}{
		{"", 0}, {"collection_period = 10", 10 * time.Second}, {"collection_period = \"1m\"", time.Minute},
		{"stats_collection_period = 5", 5 * time.Second}, {"stats_collection_period = 5\ncollection_period = 7", 7 * time.Second},
	} {
		conf, warn, err := Load(write(t, t.TempDir(), "crio.conf", "[crio.stats]\n"+c.text+"\n"), "", true)
		if err != nil || len(warn) != 0 {
			t.Fatal(c.text, warn, err)
		}
		if err := conf.Complete(); err != nil || time.Duration(conf.Stats.CollectionPeriod) != c.want {
			t.Errorf("%q: %v, %v", c.text, time.Duration(conf.Stats.CollectionPeriod), err)
		}
	}
	conf, _, err := Load(write(t, t.TempDir(), "crio.conf", "[crio.stats]\nincluded_pod_metrics = []\n"), "", true)
	if err != nil || len(conf.Stats.IncludedPodMetrics) != 0 || len(Default().Stats.IncludedPodMetrics) != 1 {
		t.Errorf("%v, %v", conf, err)
	}
}

// What `crio config` prints must mean what was configured.
func TestTextRoundTrip(t *testing.T) {
	c := Default()
	c.Crio.Root = "/x"
	c.Runtime.DefaultEnv = []string{"A=\"b\"", "B=\\ü\n\x01"}
	c.Runtime.Runtimes = map[string]Handler{"crun": {Path: "/usr/bin/crun", AllowedAnnotations: []string{"a"}, DefaultAnnotations: map[string]string{"a/b": "c d"}}}
	c.Runtime.Workloads = map[string]Workload{"w": {ActivationAnnotation: "x", Resources: WorkloadResources{CPUShares: 5}}}
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	got, warn, err := Load(write(t, t.TempDir(), "crio.conf", text), "", true)
	if err != nil || len(warn) != 0 {
		t.Fatalf("%v %v\n%s", warn, err, text)
	}
	got.origin = nil
	if !reflect.DeepEqual(got, c) {
		t.Errorf("printed and read again:\n%+v\nwant\n%+v", got, c)
	}
}

func TestEveryOptionIsDocumented(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Default().Options() {
		if o.Table != "" && o.Key == "" || o.Table == "" && o.Flag == "" || o.Doc == "" || seen[o.Name()] || (o.Flag != "" && seen["-"+o.Flag]) {
			t.Errorf("option %s.%s (flag %s): no key, no doc, or twice", o.Table, o.Key, o.Flag)
		}
		seen[o.Name()], seen["-"+o.Flag] = true, true
	}
}

// Old files say "" for a duration that they leave to the daemon.
func TestEmptyDuration(t *testing.T) {
	c, _, err := Load(write(t, t.TempDir(), "crio.conf", "[crio.api]\nstream_idle_timeout = \"\"\n"), "", true)
	if err != nil || c.API.StreamIdleTimeout != Default().API.StreamIdleTimeout {
		t.Error(c, err)
	}
}

func TestTLSNumbers(t *testing.T) {
	c := Default()
	c.API.TLSCipherSuites = []string{"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	if got := c.API.CipherSuites(); len(got) != 1 || got[0] != tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 {
		t.Errorf("cipher suites %v", got)
	}
	if c.API.MinVersion() != tls.VersionTLS12 {
		t.Errorf("version %x", c.API.MinVersion())
	}
	if c.API.TLSMinVersion = "VersionTLS13"; c.API.MinVersion() != tls.VersionTLS13 {
		t.Errorf("version %x", c.API.MinVersion())
	}
}

// The old switch of checkpoints is the new one's default.
//
// Options: crio.runtime.enable_criu_support
func TestCheckpointLevel(t *testing.T) {
	for _, c := range []struct {
		old         bool
		level, want string
	}{{false, "", ""}, {true, "", "checkpoint_restore"}, {true, "none", "none"}, {false, "checkpoint_only", "checkpoint_only"}} {
		conf := Default()
		conf.Runtime.EnableCRIU, conf.Checkpoint.Level = c.old, c.level
		if err := conf.Complete(); err != nil || conf.Checkpoint.Level != c.want {
			t.Errorf("%+v: %q, %v", c, conf.Checkpoint.Level, err)
		}
	}
}
