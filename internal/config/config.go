// Package config is the content of crio.conf: plain data, immutable once loaded.
//
// Each option is declared once, as a struct field whose tags give its TOML key,
// its command-line flag, one line of documentation and whether it may change while
// the daemon runs. The parser, the flags, and the text that `crio config` prints
// all come from that declaration.
//
// Files are read in order, crio.conf first, then the drop-ins of crio.conf.d in
// lexical order; later ones win, flags win over all. A key that does not exist
// is a warning with its file and line, a value that cannot be meant an error.
package config

import "time"

// Config is the whole configuration. The tags: toml (key), flag (name, empty: no
// flag), live (a reload may change it), doc.
type Config struct {
	Crio    Crio
	API     API
	Runtime Runtime
	Image   Image
	Network Network
	NRI     NRI
	Stats   Stats
}

// Crio is the table [crio]: where things are kept.
type Crio struct {
	Root           string   `toml:"root" flag:"root" doc:"where images and containers' layers are kept (containers/storage); podman and skopeo on this machine see the same images"`
	RunRoot        string   `toml:"runroot" flag:"runroot" doc:"volatile state of the storage"`
	ImageStore     string   `toml:"imagestore" flag:"imagestore" doc:"a separate place for images that are pulled"`
	StorageDriver  string   `toml:"storage_driver" flag:"storage-driver" doc:"storage driver: overlay, or vfs"`
	StorageOptions []string `toml:"storage_option" flag:"storage-opt" doc:"options for the storage driver"`
	LogDir         string   `toml:"log_dir" flag:"log-dir" doc:"folder of the container logs of pods that name none"`
	StateDir       string   `toml:"state_dir" flag:"state-dir" doc:"the records of pods and containers"`
	RunDir         string   `toml:"run_dir" flag:"run-dir" doc:"volatile state: pinned namespaces, bundles, sockets"`
}

// API is the table [crio.api]: where the daemon listens.
type API struct {
	Listen             string   `toml:"listen" flag:"listen" doc:"path of the CRI socket"`
	StreamAddress      string   `toml:"stream_address" flag:"stream-address" doc:"IP address on which exec, attach and port forward are served; the kubelet on this machine is the only client"`
	StreamPort         string   `toml:"stream_port" flag:"stream-port" doc:"port there; 0: any free one"`
	StreamEnableTLS    bool     `toml:"stream_enable_tls" flag:"stream-enable-tls" doc:"encrypt them"`
	StreamTLSCert      string   `toml:"stream_tls_cert" flag:"stream-tls-cert" doc:"PEM file with the certificate chain; these three files are read again when they change"`
	StreamTLSKey       string   `toml:"stream_tls_key" flag:"stream-tls-key" doc:"PEM file with the certificate's key"`
	StreamTLSCA        string   `toml:"stream_tls_ca" flag:"stream-tls-ca" doc:"PEM file with the authorities that clients' certificates must come from; empty: clients need none"`
	StreamIdleTimeout  Duration `toml:"stream_idle_timeout" flag:"stream-idle-timeout" doc:"a connection on which nothing moves for so long is closed; 0s: never"`
	TLSMinVersion      string   `toml:"tls_min_version" flag:"tls-min-version" doc:"oldest version of TLS: VersionTLS12 or VersionTLS13"`
	TLSCipherSuites    []string `toml:"tls_cipher_suites" flag:"tls-cipher-suites" doc:"cipher suites of TLS 1.2, by their IANA names; empty: Go's choice"`
	GRPCMaxSendMsgSize int      `toml:"grpc_max_send_msg_size" flag:"grpc-max-send-msg-size" doc:"largest answer, bytes"`
	GRPCMaxRecvMsgSize int      `toml:"grpc_max_recv_msg_size" flag:"grpc-max-recv-msg-size" doc:"largest request, bytes"`
}

// Runtime is the table [crio.runtime]: how pods and containers run.
type Runtime struct {
	DefaultRuntime       string   `toml:"default_runtime" flag:"default-runtime" doc:"runtime handler of pods that name none"`
	CgroupManager        string   `toml:"cgroup_manager" flag:"cgroup-manager" doc:"systemd or cgroupfs; empty: systemd where it runs"`
	Conmon               string   `toml:"conmon" flag:"conmon" doc:"a foreign monitor executable; empty: our own"`
	DefaultCapabilities  []string `toml:"default_capabilities" flag:"default-capabilities" doc:"capabilities of containers, before what a pod adds and drops"`
	DefaultEnv           []string `toml:"default_env" flag:"default-env" doc:"NAME=VALUE for the environment of every container"`
	DefaultSysctls       []string `toml:"default_sysctls" flag:"default-sysctls" doc:"NAME=VALUE, set in every pod that owns the namespace"`
	DefaultUlimits       []string `toml:"default_ulimits" flag:"default-ulimits" doc:"NAME=SOFT:HARD for every container"`
	AdditionalDevices    []string `toml:"additional_devices" flag:"additional-devices" doc:"HOST:CONTAINER:PERMISSIONS for every container"`
	CDISpecDirs          []string `toml:"cdi_spec_dirs" flag:"cdi-spec-dirs" doc:"folders with the specifications of CDI devices; later ones win"`
	AbsentMountSources   []string `toml:"absent_mount_sources_to_reject" flag:"absent-mount-sources-to-reject" doc:"host paths that are not made when a mount names them and they are absent"`
	SeccompProfile       string   `toml:"seccomp_profile" flag:"seccomp-profile" doc:"file with the default seccomp profile; empty: the built-in one"`
	AppArmorProfile      string   `toml:"apparmor_profile" flag:"apparmor-profile" doc:"name of the default AppArmor profile"`
	SELinux              bool     `toml:"selinux" flag:"selinux" doc:"set SELinux labels where the kernel has it"`
	ReadOnly             bool     `toml:"read_only" flag:"read-only" doc:"make all root file systems read-only, with tmpfs on /run, /tmp and /var/tmp"`
	NoPivot              bool     `toml:"no_pivot" flag:"no-pivot" doc:"for a root file system that cannot be pivoted (a RAM disk)"`
	PidsLimit            int64    `toml:"pids_limit" flag:"pids-limit" doc:"most processes of one container; -1: no limit"`
	LogSizeMax           int64    `toml:"log_size_max" flag:"log-size-max" doc:"bytes at which a container log starts anew; -1: never"`
	NoSyncLog            bool     `toml:"no_sync_log" flag:"no-sync-log" doc:"do not force a log to the disk when its container ends"`
	CtrStopTimeout       int64    `toml:"ctr_stop_timeout" flag:"ctr-stop-timeout" doc:"accepted for old files, without effect: every stop of the CRI names its grace period"`
	ContainerExitsDir    string   `toml:"container_exits_dir" flag:"container-exits-dir" doc:"where monitors leave exit codes; empty: exits in run_dir"`
	ContainerAttachDir   string   `toml:"container_attach_socket_dir" flag:"container-attach-socket-dir" doc:"where attach sockets are reachable; empty: attach in run_dir"`
	EnableCRIU           bool     `toml:"enable_criu_support" flag:"enable-criu-support" doc:"allow checkpoints of containers and pods, and new ones made of them; needs criu in PATH"`
	LogLevel             string   `toml:"log_level" flag:"log-level" live:"yes" doc:"least level that is logged: trace, debug, info, warn, error"`
	HostNetworkSELinux   bool     `toml:"hostnetwork_disable_selinux" flag:"hostnetwork-disable-selinux" doc:"no SELinux separation for pods of the host network"`
	DisableHostPorts     bool     `toml:"disable_hostport_mapping" flag:"disable-hostport-mapping" doc:"ignore the host ports of pods"`
	ContainerCreateGrace Duration `toml:"container_create_timeout" flag:"container-create-timeout" doc:"how long making a pod or container may take before it is undone"`

	// Runtimes holds the tables [crio.runtime.runtimes.NAME].
	Runtimes map[string]Handler `toml:"runtimes"`
}

// Handler is one table [crio.runtime.runtimes.NAME].
type Handler struct {
	Path               string   `toml:"runtime_path" doc:"OCI runtime executable; empty for the name runc: the embedded one; else NAME in PATH"`
	Root               string   `toml:"runtime_root" doc:"the runtime's state; empty: below run_dir"`
	Type               string   `toml:"runtime_type" doc:"oci"`
	MonitorPath        string   `toml:"monitor_path" doc:"monitor executable; empty: our own"`
	MonitorCgroup      string   `toml:"monitor_cgroup" doc:"where monitors live; empty: a cgroup beside the daemon's"`
	MonitorEnv         []string `toml:"monitor_env" doc:"environment of the monitors"`
	PrivilegedNoHost   bool     `toml:"privileged_without_host_devices" doc:"privileged containers get no host devices"`
	AllowedAnnotations []string `toml:"allowed_annotations" doc:"annotations that may act on pods of this handler"`
	ContainerMinMemory string   `toml:"container_min_memory" doc:"smallest memory limit that is accepted"`
	SeccompProfile     string   `toml:"seccomp_profile" doc:"default seccomp profile of this handler"`
}

// Image is the table [crio.image].
type Image struct {
	DefaultTransport     string   `toml:"default_transport" flag:"default-transport" doc:"prefix of references that name no transport; only docker:// pulls"`
	GlobalAuthFile       string   `toml:"global_auth_file" flag:"global-auth-file" doc:"credentials for registries, in the format of docker's config.json"`
	SignaturePolicy      string   `toml:"signature_policy" flag:"signature-policy" doc:"policy.json; empty: /etc/containers/policy.json, or a built-in one that accepts everything"`
	RegistriesConf       string   `toml:"registries_conf" flag:"registries-conf" doc:"registries.conf; empty: the system's"`
	RegistriesConfDir    string   `toml:"registries_conf_dir" flag:"registries-conf-dir" doc:"drop-ins of registries.conf; empty: the system's"`
	CertsDir             string   `toml:"certs_dir" flag:"certs-dir" doc:"a folder per registry with its CA and client certificates; empty: the system's"`
	PinnedImages         []string `toml:"pinned_images" flag:"pinned-images" live:"yes" doc:"images that the kubelet must not collect: exact names, name*, or *word*"`
	ImageVolumes         string   `toml:"image_volumes" flag:"image-volumes" doc:"VOLUMEs of an image: mkdir, bind or ignore"`
	BigFilesTemporaryDir string   `toml:"big_files_temporary_dir" flag:"big-files-temporary-dir" doc:"where pulls put large temporary files; empty: beside the storage"`
	PullProgressTimeout  Duration `toml:"pull_progress_timeout" flag:"pull-progress-timeout" doc:"a pull that moves no byte for so long is given up; 0s: never"`
}

// Network is the table [crio.network].
type Network struct {
	DefaultNetwork string   `toml:"cni_default_network" flag:"cni-default-network" doc:"name of the network that pods join; empty: the first file"`
	NetworkDir     string   `toml:"network_dir" flag:"cni-config-dir" doc:"folder of the CNI configuration files"`
	PluginDirs     []string `toml:"plugin_dirs" flag:"cni-plugin-dir" doc:"folders of CNI plugins; what is in none of them is embedded"`
	Template       string   `toml:"cni_conf_template" flag:"cni-conf-template" doc:"a CNI configuration with {{PodCIDR}}, {{PodCIDRRanges}} or {{Routes}} in it, filled into network_dir when the kubelet tells the node's pod CIDR; empty: the pod CIDR is ignored"`
	CacheDir       string   `toml:"cni_cache_dir" flag:"cni-cache-dir" doc:"results of CNI plugins and address leases"`
}

// NRI is the table [crio.nri]: plugins of the Node Resource Interface.
type NRI struct {
	Enable               bool     `toml:"enable_nri" flag:"enable-nri" doc:"let NRI plugins hear of pods and containers, and change them"`
	Listen               string   `toml:"nri_listen" flag:"nri-listen" doc:"socket at which plugins connect"`
	PluginDir            string   `toml:"nri_plugin_dir" flag:"nri-plugin-dir" doc:"plugins that are started with the daemon"`
	PluginConfigDir      string   `toml:"nri_plugin_config_dir" flag:"nri-plugin-config-dir" doc:"their configuration"`
	DisableConnections   bool     `toml:"nri_disable_connections" flag:"nri-disable-connections" doc:"no plugins but those of nri_plugin_dir"`
	RegistrationTimeout  Duration `toml:"nri_plugin_registration_timeout" flag:"nri-plugin-registration-timeout" doc:"how long a plugin may take to introduce itself and to learn what there is"`
	RequestTimeout       Duration `toml:"nri_plugin_request_timeout" flag:"nri-plugin-request-timeout" doc:"how long a plugin may take for one answer before it is disconnected"`
	Validator            bool     `toml:"nri_enable_default_validator" flag:"nri-enable-default-validator" doc:"check what plugins want by the rules below"`
	RejectHooks          bool     `toml:"nri_validator_reject_oci_hook_adjustment" flag:"nri-validator-reject-oci-hook-adjustment" doc:"refuse OCI hooks"`
	RejectSeccompDefault bool     `toml:"nri_validator_reject_runtime_default_seccomp_adjustment" flag:"nri-validator-reject-runtime-default-seccomp-adjustment" doc:"refuse to change the runtime's default seccomp profile"`
	RejectSeccompNone    bool     `toml:"nri_validator_reject_unconfined_seccomp_adjustment" flag:"nri-validator-reject-unconfined-seccomp-adjustment" doc:"refuse seccomp profiles for unconfined containers"`
	RejectSeccompCustom  bool     `toml:"nri_validator_reject_custom_seccomp_adjustment" flag:"nri-validator-reject-custom-seccomp-adjustment" doc:"refuse to change a localhost seccomp profile"`
	RejectNamespaces     bool     `toml:"nri_validator_reject_namespace_adjustment" flag:"nri-validator-reject-namespace-adjustment" doc:"refuse other namespaces"`
	RejectSysctls        bool     `toml:"nri_validator_reject_sysctl_adjustment" flag:"nri-validator-reject-sysctl-adjustment" doc:"refuse sysctls"`
	RequiredPlugins      []string `toml:"nri_validator_required_plugins" flag:"nri-validator-required-plugins" doc:"plugins without which no container is made"`
	TolerateMissing      string   `toml:"nri_validator_tolerate_missing_plugins_annotation" flag:"nri-validator-tolerate-missing-plugins-annotation" doc:"annotation of pods that may lack required plugins"`
}

// Stats is the table [crio.stats]: what pods and containers consume.
type Stats struct {
	CollectionPeriod      Duration `toml:"collection_period" flag:"collection-period" doc:"how old statistics and metrics may be that are told (a bare number counts seconds); 0s: they are read for each call"`
	StatsCollectionPeriod Duration `toml:"stats_collection_period" flag:"stats-collection-period" doc:"the former name of collection_period; counts if that is 0s"`
	IncludedPodMetrics    []string `toml:"included_pod_metrics" flag:"included-pod-metrics" doc:"groups of metrics that are told: all, or some of cpu, disk, diskIO, hugetlb, memory, network, oom, pressure, process, spec"`
}

// Duration is a time.Duration that TOML writes as text ("4m", "30s") or as whole
// seconds. An empty text leaves the default.
type Duration time.Duration

// Default returns the configuration of an installation that has no file.
func Default() *Config {
	return &Config{
		Crio: Crio{
			Root:          "/var/lib/containers/storage",
			RunRoot:       "/run/containers/storage",
			StorageDriver: "overlay",
			LogDir:        "/var/log/crio/pods",
			StateDir:      "/var/lib/crio",
			RunDir:        "/run/crio",
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
		Runtime: Runtime{
			DefaultRuntime:       "runc",
			DefaultCapabilities:  []string{"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL"},
			CDISpecDirs:          []string{"/etc/cdi", "/var/run/cdi"},
			AppArmorProfile:      "crio-default",
			PidsLimit:            -1,
			LogSizeMax:           -1,
			CtrStopTimeout:       30,
			LogLevel:             "info",
			HostNetworkSELinux:   true,
			ContainerCreateGrace: Duration(4 * time.Minute),
		},
		Image: Image{DefaultTransport: "docker://", ImageVolumes: "mkdir", PullProgressTimeout: Duration(10 * time.Minute)},
		Network: Network{
			NetworkDir: "/etc/cni/net.d/",
			PluginDirs: []string{"/opt/cni/bin/"},
			CacheDir:   "/var/lib/cni",
		},
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
		Stats: Stats{IncludedPodMetrics: []string{"all"}},
	}
}
