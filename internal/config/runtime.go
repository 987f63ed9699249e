package config

// Runtime is the table [crio.runtime]: how pods and containers run.
type Runtime struct {
	DefaultRuntime      string   `toml:"default_runtime" flag:"default-runtime" live:"yes" doc:"runtime handler of pods that name none"`
	DefaultUlimits      []string `toml:"default_ulimits" flag:"default-ulimits" live:"yes" doc:"NAME=SOFT:HARD for every container"`
	NoPivot             bool     `toml:"no_pivot" flag:"no-pivot" doc:"for a root file system that cannot be pivoted (a RAM disk)"`
	SELinux             bool     `toml:"selinux" flag:"selinux" live:"yes" doc:"set SELinux labels where the kernel has it"`
	LogToJournald       bool     `toml:"log_to_journald" flag:"log-journald" doc:"write containers' output to the journal as well"`
	DropInfraCtr        bool     `toml:"drop_infra_ctr" flag:"drop-infra-ctr" live:"yes" doc:"no pause process but in pods that share a PID namespace"`
	ReadOnly            bool     `toml:"read_only" flag:"read-only" live:"yes" doc:"make all root file systems read-only, with tmpfs on /run, /tmp and /var/tmp"`
	Conmon              string   `toml:"conmon" flag:"conmon" live:"yes" is:"path?" old:"monitor_path of a handler" doc:"a foreign monitor executable; empty: our own"`
	ConmonCgroup        string   `toml:"conmon_cgroup" flag:"conmon-cgroup" live:"yes" old:"monitor_cgroup of a handler" doc:"where monitors live"`
	ConmonEnv           []string `toml:"conmon_env" flag:"conmon-env" live:"yes" old:"monitor_env of a handler" doc:"environment of the monitors"`
	HooksDir            []string `toml:"hooks_dir" flag:"hooks-dir" live:"yes" is:"paths" doc:"folders with OCI hooks, oci-hooks(5); missing ones are skipped"`
	DefaultCapabilities []string `toml:"default_capabilities" flag:"default-capabilities" live:"yes" doc:"capabilities of containers, before what a pod adds and drops"`
	AddInheritableCaps  bool     `toml:"add_inheritable_capabilities" flag:"add-inheritable-capabilities" live:"yes" doc:"make them inheritable too, as before CVE-2022-27652"`
	DefaultEnv          []string `toml:"default_env" flag:"default-env" live:"yes" is:"pairs" doc:"NAME=VALUE for the environment of every container"`
	MinGOMAXPROCS       int      `toml:"min_injected_gomaxprocs" flag:"min-injected-gomaxprocs" live:"yes" env:"CONTAINER_INJECT_GOMAXPROCS" is:"0.." doc:"least GOMAXPROCS that is put into the environment of containers of burstable and best-effort pods; who asks for more CPUs gets more; 0: none is put there"`
	DefaultSysctls      []string `toml:"default_sysctls" flag:"default-sysctls" is:"pairs" doc:"NAME=VALUE, set in every pod that owns the namespace"`
	AllowedDevices      []string `toml:"allowed_devices" flag:"allowed-devices" live:"yes" doc:"what pods may ask for by the annotation devices.crio.io"`
	AdditionalDevices   []string `toml:"additional_devices" flag:"additional-devices" live:"yes" doc:"HOST:CONTAINER:PERMISSIONS for every container"`
	CDISpecDirs         []string `toml:"cdi_spec_dirs" flag:"cdi-spec-dirs" live:"yes" is:"paths" doc:"folders with the specifications of CDI devices; later ones win"`
	DeviceOwnership     bool     `toml:"device_ownership_from_security_context" flag:"device-ownership-from-security-context" live:"yes" env:"-" doc:"device nodes belong to the container's user and group"`
	DecryptionKeysPath  string   `toml:"decryption_keys_path" flag:"decryption-keys-path" env:"-" is:"path?" live:"yes" doc:"folder with the private keys of encrypted images (PEM, DER or JWK, without a password), and certificates for PKCS#7; it is read for each pull of one"`
	ArtifactStores      []string `toml:"additional_artifact_stores" flag:"additional-artifact-stores" env:"-" is:"paths" doc:"folders with more OCI artifacts, which are only read: artifacts below each is an OCI image layout"`
	SeccompProfile      string   `toml:"seccomp_profile" flag:"seccomp-profile" live:"yes" is:"path?" doc:"file with the default seccomp profile; empty or absent: the built-in one"`
	PrivilegedSeccomp   string   `toml:"privileged_seccomp_profile" flag:"privileged-seccomp-profile" live:"yes" is:"path?" doc:"file with the seccomp profile of privileged containers; empty: none"`
	AppArmorProfile     string   `toml:"apparmor_profile" flag:"apparmor-profile" live:"yes" doc:"name of the default AppArmor profile; crio-default is loaded by the daemon"`
	BlockIOConfigFile   string   `toml:"blockio_config_file" flag:"blockio-config-file" env:"-" is:"path?" doc:"file with classes of block I/O" live:"yes"`
	BlockIOReload       bool     `toml:"blockio_reload" flag:"blockio-reload" env:"-" doc:"look for block devices again for each container" live:"yes"`
	IRQBalanceConfig    string   `toml:"irqbalance_config_file" flag:"irqbalance-config-file" env:"-" doc:"configuration of irqbalance, in which isolated CPUs are banned"`
	IRQBalanceRestore   string   `toml:"irqbalance_config_restore_file" flag:"irqbalance-config-restore-file" env:"-" doc:"where the CPUs that were banned before are kept; disable: they are not restored"`
	RDTConfigFile       string   `toml:"rdt_config_file" flag:"rdt-config-file" env:"-" is:"path?" doc:"file with classes of cache and memory bandwidth (resctrl)" live:"yes"`
	CgroupManager       string   `toml:"cgroup_manager" flag:"cgroup-manager" is:"? systemd cgroupfs" doc:"who makes cgroups; empty: systemd where it runs"`
	DefaultMountsFile   string   `toml:"default_mounts_file" flag:"default-mounts-file" live:"yes" is:"path?" doc:"file with mounts for every container, containers-mounts.conf(5)"`
	ContainerExitsDir   string   `toml:"container_exits_dir" flag:"container-exits-dir" is:"path?" doc:"where monitors leave exit codes; empty: exits in run_dir"`
	ContainerAttachDir  string   `toml:"container_attach_socket_dir" flag:"container-attach-socket-dir" is:"path?" doc:"where attach sockets are reachable; empty: attach in run_dir"`
	BindMountPrefix     string   `toml:"bind_mount_prefix" flag:"bind-mount-prefix" live:"yes" is:"path?" doc:"where the host's root is seen, for a daemon that runs in a container"`
	UIDMappings         string   `toml:"uid_mappings" flag:"uid-mappings" live:"yes" old:"user namespaces of pods" doc:"CONTAINER:HOST:SIZE, several parted by commas: user IDs of pods that say nothing of user namespaces and are neither privileged nor in namespaces of the node"`
	GIDMappings         string   `toml:"gid_mappings" flag:"gid-mappings" live:"yes" old:"user namespaces of pods" doc:"CONTAINER:HOST:SIZE, their group IDs"`
	MinimumUID          int64    `toml:"minimum_mappable_uid" flag:"minimum-mappable-uid" old:"user namespaces of pods" doc:"least host user ID that an annotation may map; -1: any"`
	MinimumGID          int64    `toml:"minimum_mappable_gid" flag:"minimum-mappable-gid" old:"user namespaces of pods" doc:"least host group ID that an annotation may map; -1: any"`
	LogLevel            string   `toml:"log_level" flag:"log-level,l" live:"yes" is:"trace debug info warn warning error fatal panic" doc:"least level that the daemon logs"`
	LogFilter           string   `toml:"log_filter" flag:"log-filter" live:"yes" is:"regexp" doc:"regular expression; the daemon logs only messages that match it"`
	NamespacesDir       string   `toml:"namespaces_dir" flag:"namespaces-dir" is:"path" doc:"where others find the namespaces of pods: netns/ID, ipcns/ID, utsns/ID, userns/ID"`
	PinnsPath           string   `toml:"pinns_path" flag:"pinns-path" is:"path?" inert:"the daemon pins namespaces itself" doc:"the pinns executable"`
	EnableCRIU          bool     `toml:"enable_criu_support" flag:"enable-criu-support" old:"container_level_enabled" doc:"true is checkpoint_restore there"`
	PidsLimit           int64    `toml:"pids_limit" flag:"pids-limit" live:"yes" is:"1.. or -1" old:"the kubelet's podPidsLimit" doc:"most processes of one container; -1: no limit"`
	LogSizeMax          int64    `toml:"log_size_max" flag:"log-size-max" is:"8192.. or -1" old:"the kubelet's containerLogMaxSize" doc:"bytes at which a container log starts anew; -1: never"`
	CtrStopTimeout      int64    `toml:"ctr_stop_timeout" flag:"ctr-stop-timeout" env:"CONTAINER_STOP_TIMEOUT" is:"1.." inert:"every stop of the CRI names its grace period" doc:"seconds that a container has to end"`
	SeparatePullCgroup  string   `toml:"separate_pull_cgroup" flag:"separate-pull-cgroup" env:"PULL_IN_A_CGROUP" doc:"cgroup in which images are pulled, by processes of their own: pod for the cgroup of the pod that needs the image, or with systemd the name of a slice"`
	InfraCPUSet         string   `toml:"infra_ctr_cpuset" flag:"infra-ctr-cpuset" live:"yes" is:"cpus" doc:"CPUs of pause processes"`
	SharedCPUSet        string   `toml:"shared_cpuset" flag:"shared-cpuset" live:"yes" is:"cpus" doc:"CPUs that containers with their own may share, by the annotation cpu-shared.crio.io"`
	AbsentMountSources  []string `toml:"absent_mount_sources_to_reject" flag:"absent-mount-sources-to-reject" live:"yes" is:"paths" doc:"host paths that are not made when a mount names them and they are absent"`
	EnablePodEvents     bool     `toml:"enable_pod_events" flag:"enable-pod-events" env:"ENABLE_POD_EVENTS" inert:"events are always served; they cost nothing while nobody listens" doc:"serve the events of pods and containers (evented PLEG)"`
	HostNetworkSELinux  bool     `toml:"hostnetwork_disable_selinux" flag:"hostnetwork-disable-selinux" live:"yes" doc:"no SELinux separation for pods of the host network"`
	DisableHostPorts    bool     `toml:"disable_hostport_mapping" flag:"disable-hostport-mapping" env:"DISABLE_HOSTPORT_MAPPING" doc:"ignore the host ports of pods"`
	Timezone            string   `toml:"timezone" flag:"timezone" live:"yes" env:"CONTAINER_TIME_ZONE" doc:"time zone of containers: Local for the node's, or a name such as Europe/Berlin; empty: the image's"`
	NoSyncLog           bool     `toml:"no_sync_log" flag:"no-sync-log" live:"yes" old:"no_sync_log of a handler" doc:"do not force a log to the disk when its container ends"`
	CreateTimeout       Duration `toml:"container_create_timeout" flag:"container-create-timeout" old:"container_create_timeout of a handler" doc:"how long making a pod or container may take before it is undone"`

	// Runtimes holds the tables [crio.runtime.runtimes.NAME].
	Runtimes map[string]Handler `toml:"runtimes"`
	// Workloads holds the tables [crio.runtime.workloads.NAME].
	Workloads map[string]Workload `toml:"workloads"`
}

// Handler is one table [crio.runtime.runtimes.NAME].
type Handler struct {
	Path                 string            `toml:"runtime_path" is:"path?" doc:"OCI runtime executable; empty for the name runc: the embedded one; else NAME in PATH"`
	Root                 string            `toml:"runtime_root" is:"path?" doc:"the runtime's state; empty: below run_dir"`
	Type                 string            `toml:"runtime_type" is:"? oci vm" doc:"oci; vm for an executable containerd-shim-*, which makes a virtual machine for each pod; empty is oci"`
	ConfigPath           string            `toml:"runtime_config_path" is:"path?" doc:"configuration file that the shim is told to read (vm only)"`
	InheritDefault       bool              `toml:"inherit_default_runtime" doc:"take path, root, type and configuration file from the default handler"`
	PrivilegedNoHost     bool              `toml:"privileged_without_host_devices" doc:"privileged containers get no host devices"`
	AllowedAnnotations   []string          `toml:"allowed_annotations" doc:"annotations that may act on pods of this handler; those for undisturbed processors may anyway if its name contains high-performance"`
	DefaultAnnotations   map[string]string `toml:"default_annotations" doc:"annotations that containers of this handler get if their pod does not say otherwise"`
	MonitorPath          string            `toml:"monitor_path" is:"path?" doc:"monitor executable; empty: our own"`
	MonitorCgroup        string            `toml:"monitor_cgroup" doc:"where monitors live: pod for a cgroup in their pod's, the name of a slice (systemd), or the path of a cgroup; empty: with the daemon"`
	MonitorEnv           []string          `toml:"monitor_env" is:"pairs" doc:"environment of the monitors"`
	MonitorExecCgroup    string            `toml:"monitor_exec_cgroup" is:"? container" doc:"container: what ExecSync costs is charged to the container" inert:"exec has no monitor, and its processes are always charged to the container"`
	PlatformRuntimePaths map[string]string `toml:"platform_runtime_paths" doc:"executables for images of other platforms: OS/ARCH = PATH"`
	PullImage            bool              `toml:"runtime_pull_image" doc:"containers' root file systems are pulled inside the machine (vm only); the node pulls the image too, for what must be known of it"`
	ContainerMinMemory   string            `toml:"container_min_memory" is:"bytes?" doc:"smallest memory limit that is accepted"`
	NoSyncLog            bool              `toml:"no_sync_log" doc:"do not force a log to the disk when its container ends"`
	StreamWebsockets     bool              `toml:"stream_websockets" inert:"the streaming server speaks WebSocket for every handler" doc:"serve streams over WebSocket (pod type only)"`
	ExecCPUAffinity      string            `toml:"exec_cpu_affinity" is:"? first" doc:"first: processes of exec start on the container's first CPU"`
	SeccompProfile       string            `toml:"seccomp_profile" is:"path?" doc:"default seccomp profile of this handler"`
	CreateTimeout        int64             `toml:"container_create_timeout" is:"30.. or 0" doc:"seconds that making a container may take before it is undone; 0: the default"`
}

// Workload is one table [crio.runtime.workloads.NAME]: pods that bear its annotation
// get what it says.
type Workload struct {
	ActivationAnnotation string            `toml:"activation_annotation" doc:"the annotation of pods that belong to the workload"`
	AnnotationPrefix     string            `toml:"annotation_prefix" doc:"prefix of the annotation PREFIX/CONTAINER, a JSON object with other resources for one container"`
	AllowedAnnotations   []string          `toml:"allowed_annotations" doc:"annotations that may act on its pods"`
	Resources            WorkloadResources `toml:"resources"`
}

// WorkloadResources is the table [crio.runtime.workloads.NAME.resources].
type WorkloadResources struct {
	CPUShares uint64 `toml:"cpushares" doc:"CPU shares"`
	CPUQuota  int64  `toml:"cpuquota" doc:"CPU quota, microseconds in a period"`
	CPUPeriod uint64 `toml:"cpuperiod" doc:"CPU period, microseconds"`
	CPUSet    string `toml:"cpuset" is:"cpus" doc:"CPUs"`
	CPULimit  int64  `toml:"cpulimit" doc:"CPU limit, thousandths of a CPU; becomes a quota"`
}

// CheckpointRestore is the table [crio.checkpoint_restore].
type CheckpointRestore struct {
	Level string `toml:"container_level_enabled" flag:"checkpoint-restore-container-level-enabled" is:"? none checkpoint_only checkpoint_restore" doc:"what is allowed: checkpoints of containers and pods, and new ones made of them; needs criu in PATH; empty: none"`
}
