package config

// Image is the table [crio.image].
type Image struct {
	DefaultTransport     string   `toml:"default_transport" flag:"default-transport" is:"docker://" doc:"prefix of references that name no transport; only docker:// pulls"`
	GlobalAuthFile       string   `toml:"global_auth_file" flag:"global-auth-file" is:"path?" live:"yes" doc:"credentials for registries, in the format of docker's config.json"`
	NamespacedAuthDir    string   `toml:"namespaced_auth_dir" is:"path?" live:"yes" doc:"folder with credentials for one pull each, from the kubelet's credential provider: NAMESPACE-SHA256.json, the sum being that of the image's name without tag; a pull for a pod of that namespace takes the file and deletes it"`
	PauseImage           string   `toml:"pause_image" flag:"pause-image" inert:"the pause process is this executable; no image is needed" doc:"image of the pause process"`
	PauseImageAuthFile   string   `toml:"pause_image_auth_file" flag:"pause-image-auth-file" inert:"the pause process is this executable; no image is needed" doc:"credentials for it"`
	PauseCommand         string   `toml:"pause_command" flag:"pause-command" inert:"the pause process is this executable; no image is needed" doc:"its command"`
	PinnedImages         []string `toml:"pinned_images" flag:"pinned-images" live:"yes" doc:"images that the kubelet must not collect: exact names, name*, or *word*"`
	SignaturePolicy      string   `toml:"signature_policy" flag:"signature-policy" is:"path?" live:"yes" doc:"policy.json; empty: /etc/containers/policy.json, or a built-in one that accepts everything"`
	SignaturePolicyDir   string   `toml:"signature_policy_dir" flag:"signature-policy-dir" is:"path?" live:"yes" doc:"folder with a policy per namespace of pods, NAMESPACE.json, instead of signature_policy; if it has any, images are judged again when containers and image volumes are made"`
	InsecureRegistries   []string `toml:"insecure_registries" flag:"insecure-registry" inert:"registries.conf says which registries are insecure" doc:"registries without TLS"`
	RegistriesConf       string   `toml:"registries_conf" flag:"registries-conf" is:"path?" live:"yes" doc:"registries.conf; empty: the system's"`
	RegistriesConfDir    string   `toml:"registries_conf_dir" flag:"registries-conf-dir" is:"path?" live:"yes" doc:"drop-ins of registries.conf; empty: the system's"`
	CertsDir             string   `toml:"certs_dir" flag:"certs-dir" is:"path?" live:"yes" doc:"a folder per registry with its CA and client certificates; empty: the system's"`
	ImageVolumes         string   `toml:"image_volumes" flag:"image-volumes" is:"mkdir bind ignore" live:"yes" doc:"what becomes of VOLUMEs of an image"`
	BigFilesTemporaryDir string   `toml:"big_files_temporary_dir" flag:"big-files-temporary-dir" is:"path?" doc:"where pulls put large temporary files; empty: beside the storage"`
	AutoReloadRegistries bool     `toml:"auto_reload_registries" flag:"auto-reload-registries" env:"AUTO_RELOAD_REGISTRIES" inert:"changed files are always seen: registries.conf and its drop-ins are watched like crio.conf" doc:"watch registries.conf and its drop-ins"`
	ImagesDir            string   `toml:"images_dir" flag:"images-dir" is:"path?" live:"yes" doc:"folder with images as OCI layouts and as archives (oci-archive, docker-archive; also compressed), which are imported once, in the background, and pinned while their file is there; empty: none"`
	Offline              bool     `toml:"offline" flag:"offline" live:"yes" doc:"ask no registry: a pull finds what is there, or fails at once"`
	AdditionalStores     []string `toml:"additional_image_stores" flag:"additional-image-stores" is:"paths" doc:"read-only image stores that are used in place, such as one on the machine's own medium; those of storage.conf count too"`
	PullProgressTimeout  Duration `toml:"pull_progress_timeout" flag:"pull-progress-timeout" live:"yes" doc:"a pull that moves no byte for so long is given up; 0s: never"`
	ArtifactMounts       bool     `toml:"oci_artifact_mount_support" flag:"oci-artifact-mount-support" env:"CONTAINER_OCI_ARTIFACT_SUPPORT" live:"yes" doc:"pull OCI artifacts, and mount their files where image volumes name them"`
	ShortNameMode        string   `toml:"short_name_mode" flag:"short-name-mode" is:"enforcing disabled" live:"yes" doc:"a name without registry that is no alias, when registries.conf searches several registries: enforcing does not pull it, disabled tries each"`
}

// Network is the table [crio.network].
type Network struct {
	DefaultNetwork string   `toml:"cni_default_network" flag:"cni-default-network" doc:"name of the network that pods join; empty: the first file"`
	NetworkDir     string   `toml:"network_dir" flag:"cni-config-dir" is:"path" doc:"folder of the CNI configuration files"`
	PluginDirs     []string `toml:"plugin_dirs" flag:"cni-plugin-dir" is:"paths" doc:"folders of CNI plugins; what is in none of them is embedded"`
	PluginDir      string   `toml:"plugin_dir" is:"path?" old:"plugin_dirs" doc:"one more such folder"`
	StatusGrace    Duration `toml:"cni_status_grace_period" flag:"cni-status-grace-period" env:"CNI_STATUS_GRACE_PERIOD" doc:"how long the plugins' STATUS may fail before a network that was ready counts as not ready; 0s: not at all"`
	Template       string   `toml:"cni_conf_template" flag:"cni-conf-template" is:"path?" doc:"a CNI configuration with {{PodCIDR}}, {{PodCIDRRanges}} or {{Routes}} in it, filled into network_dir when the kubelet tells the node's pod CIDR; empty: the pod CIDR is ignored"`
	CacheDir       string   `toml:"cni_cache_dir" flag:"cni-cache-dir" is:"path" doc:"results of CNI plugins and address leases"`
}

// Metrics is the table [crio.metrics]: figures for Prometheus.
type Metrics struct {
	Enable     bool     `toml:"enable_metrics" flag:"enable-metrics" doc:"serve figures about the daemon at /metrics"`
	Collectors []string `toml:"metrics_collectors" flag:"metrics-collectors" doc:"which of them; names with or without container_runtime_crio_ before them"`
	Host       string   `toml:"metrics_host" flag:"metrics-host" is:"ip" doc:"IP address on which they are served"`
	Port       int      `toml:"metrics_port" flag:"metrics-port" is:"0..65535" doc:"port there"`
	Socket     string   `toml:"metrics_socket" flag:"metrics-socket" is:"socket?" doc:"Unix socket on which they are served as well; empty: none"`
	Cert       string   `toml:"metrics_cert" flag:"metrics-cert" is:"path?" doc:"PEM file with a certificate: serve them over TLS; made together with its key if neither file is there"`
	Key        string   `toml:"metrics_key" flag:"metrics-key" is:"path?" doc:"PEM file with its key"`
}

// Tracing is the table [crio.tracing]: spans for OpenTelemetry.
type Tracing struct {
	Enable   bool   `toml:"enable_tracing" flag:"enable-tracing" doc:"send traces of calls and their steps"`
	Endpoint string `toml:"tracing_endpoint" flag:"tracing-endpoint" is:"hostport" doc:"HOST:PORT of the collector (OTLP over gRPC)"`
	Rate     int    `toml:"tracing_sampling_rate_per_million" flag:"tracing-sampling-rate-per-million" is:"0..1000000" doc:"how many of a million calls are traced whose caller does not decide it"`
}

// Stats is the table [crio.stats]: what pods and containers consume.
type Stats struct {
	CollectionPeriod      Duration `toml:"collection_period" flag:"collection-period" env:"COLLECTION_PERIOD" doc:"how old statistics and metrics may be that are told (a bare number counts seconds); 0s: they are read for each call"`
	StatsCollectionPeriod Duration `toml:"stats_collection_period" flag:"stats-collection-period" old:"collection_period" doc:"counts if that is 0s"`
	IncludedPodMetrics    []string `toml:"included_pod_metrics" flag:"included-pod-metrics" env:"CONTAINER_INCLUDED_POD_METRICS CONTAINER_INCLUDED_POD_METRCIS" doc:"groups of metrics that are told: all, or some of cpu, disk, diskIO, hugetlb, memory, network, oom, pressure, process, spec"`
}

// NRI is the table [crio.nri]: plugins of the Node Resource Interface.
type NRI struct {
	Enable              bool     `toml:"enable_nri" flag:"enable-nri" env:"-" doc:"let NRI plugins hear of pods and containers, and change them"`
	Listen              string   `toml:"nri_listen" flag:"nri-listen" env:"-" is:"socket" doc:"socket at which plugins connect"`
	PluginDir           string   `toml:"nri_plugin_dir" flag:"nri-plugin-dir" env:"-" is:"path" doc:"plugins that are started with the daemon"`
	PluginConfigDir     string   `toml:"nri_plugin_config_dir" flag:"nri-plugin-config-dir" env:"-" is:"path" doc:"their configuration"`
	DisableConnections  bool     `toml:"nri_disable_connections" flag:"nri-disable-connections" env:"-" doc:"no plugins but those of nri_plugin_dir"`
	RegistrationTimeout Duration `toml:"nri_plugin_registration_timeout" flag:"nri-plugin-registration-timeout" env:"-" doc:"how long a plugin may take to introduce itself and to learn what there is"`
	RequestTimeout      Duration `toml:"nri_plugin_request_timeout" flag:"nri-plugin-request-timeout" env:"-" doc:"how long a plugin may take for one answer before it is disconnected"`
}

// Validator is the table [crio.nri.default_validator]: rules for what NRI plugins want.
type Validator struct {
	Enable               bool     `toml:"nri_enable_default_validator" flag:"nri-enable-default-validator" env:"-" doc:"check what plugins want by the rules below"`
	RejectHooks          bool     `toml:"nri_validator_reject_oci_hook_adjustment" flag:"nri-validator-reject-oci-hook-adjustment" env:"-" doc:"refuse OCI hooks"`
	RejectSeccompDefault bool     `toml:"nri_validator_reject_runtime_default_seccomp_adjustment" flag:"nri-validator-reject-runtime-default-seccomp-adjustment" env:"-" doc:"refuse to change the runtime's default seccomp profile"`
	RejectSeccompNone    bool     `toml:"nri_validator_reject_unconfined_seccomp_adjustment" flag:"nri-validator-reject-unconfined-seccomp-adjustment" env:"-" doc:"refuse seccomp profiles for unconfined containers"`
	RejectSeccompCustom  bool     `toml:"nri_validator_reject_custom_seccomp_adjustment" flag:"nri-validator-reject-custom-seccomp-adjustment" env:"-" doc:"refuse to change a localhost seccomp profile"`
	RejectNamespaces     bool     `toml:"nri_validator_reject_namespace_adjustment" flag:"nri-validator-reject-namespace-adjustment" env:"-" doc:"refuse other namespaces"`
	RejectSysctls        bool     `toml:"nri_validator_reject_sysctl_adjustment" flag:"nri-validator-reject-sysctl-adjustment" env:"-" doc:"refuse sysctls"`
	RequiredPlugins      []string `toml:"nri_validator_required_plugins" flag:"nri-validator-required-plugins" env:"-" doc:"plugins without which no container is made"`
	TolerateMissing      string   `toml:"nri_validator_tolerate_missing_plugins_annotation" flag:"nri-validator-tolerate-missing-plugins-annotation" env:"-" doc:"annotation of pods that may lack required plugins"`
}
