package config

import "time"

// Default returns the configuration of an installation that has no file.
func Default() *Config {
	return &Config{
		Crio: Crio{
			Root:           "/var/lib/containers/storage",
			RunRoot:        "/run/containers/storage",
			StorageDriver:  "overlay",
			LogDir:         "/var/log/crio/pods",
			InternalRepair: true,
			StateDir:       "/var/lib/crio",
			RunDir:         "/run/crio",
		},
		API: API{
			Listen:             "/var/run/crio/crio.sock",
			StreamAddress:      "127.0.0.1",
			StreamPort:         "0",
			StreamIdleTimeout:  Duration(4 * time.Hour),
			TLSMinVersion:      "VersionTLS12",
			GRPCMaxSendMsgSize: 80 << 20,
			GRPCMaxRecvMsgSize: 80 << 20,
		},
		Runtime: defaultRuntime(),
		Image: Image{
			DefaultTransport:    "docker://",
			NamespacedAuthDir:   "/etc/crio/auth",
			SignaturePolicyDir:  "/etc/crio/policies",
			PauseCommand:        "/pause",
			ImageVolumes:        "mkdir",
			PullProgressTimeout: Duration(10 * time.Minute),
			ArtifactMounts:      true,
			ShortNameMode:       "enforcing",
		},
		Network: Network{
			NetworkDir: "/etc/cni/net.d/",
			PluginDirs: []string{"/opt/cni/bin/"},
			CacheDir:   "/var/lib/cni",
		},
		Metrics: Metrics{Host: "127.0.0.1", Port: 9090, Collectors: []string{"all"}},
		Tracing: Tracing{Endpoint: "127.0.0.1:4317"},
		NRI: NRI{
			Enable:              true,
			Listen:              "/var/run/nri/nri.sock",
			PluginDir:           "/opt/nri/plugins",
			PluginConfigDir:     "/etc/nri/conf.d",
			RegistrationTimeout: Duration(5 * time.Second),
			RequestTimeout:      Duration(2 * time.Second),
		},
		// Metrics cost nothing until somebody asks for them, and a kubelet that does
		// expects cAdvisor's whole set.
		Stats:   Stats{IncludedPodMetrics: []string{"all"}},
		Process: Process{LogFormat: "text", ProfilePort: 6060},
	}
}

func defaultRuntime() Runtime {
	return Runtime{
		DefaultRuntime:      Embedded,
		DropInfraCtr:        true,
		HooksDir:            []string{"/usr/share/containers/oci/hooks.d"},
		DefaultCapabilities: []string{"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL"},
		AllowedDevices:      []string{"/dev/fuse", "/dev/net/tun"},
		CDISpecDirs:         []string{"/etc/cdi", "/var/run/cdi"},
		DecryptionKeysPath:  "/etc/crio/keys/",
		AppArmorProfile:     "crio-default",
		IRQBalanceConfig:    "/etc/sysconfig/irqbalance",
		IRQBalanceRestore:   "/etc/sysconfig/orig_irq_banned_cpus",
		NamespacesDir:       "/var/run",
		MinimumUID:          -1,
		MinimumGID:          -1,
		PidsLimit:           -1,
		LogSizeMax:          -1,
		CtrStopTimeout:      30,
		LogLevel:            "info",
		EnablePodEvents:     true,
		HostNetworkSELinux:  true,
		CreateTimeout:       Duration(4 * time.Minute),
	}
}
