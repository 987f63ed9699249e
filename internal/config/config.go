// Package config is the content of crio.conf: plain data, immutable once loaded.
//
// Each option is declared once, as a struct field. Its tags say everything about it:
//
//	toml  its key
//	flag  its command-line flag ("name", or "name,n" with a letter); empty: none
//	env   its environment variables; absent: CONTAINER_ and the flag in capitals; "-": none
//	is    what a value must be, see check.go
//	live  what a reload does with it; absent: the daemon must be restarted
//	old   the name of what replaces it: it still works, and warns when it is set
//	inert why it has no effect here: it is accepted, and warns when it is set
//	doc   what it means, in one line
//
// The parser, the flags, the environment, the text that `crio config` prints, the man
// page and the reload all come from that declaration.
//
// Files are read in order, crio.conf first, then the drop-ins of crio.conf.d in
// lexical order; later ones win, the environment wins over files, flags over all. A key
// that does not exist is a warning with its file and line, a value that cannot be meant
// an error with both.
package config

import "time"

// Config is the whole configuration. The name of a field is that of its table.
type Config struct {
	Crio       Crio
	API        API               `table:"crio.api"`
	Runtime    Runtime           `table:"crio.runtime"`
	Checkpoint CheckpointRestore `table:"crio.checkpoint_restore"`
	Image      Image             `table:"crio.image"`
	Network    Network           `table:"crio.network"`
	Metrics    Metrics           `table:"crio.metrics"`
	Tracing    Tracing           `table:"crio.tracing"`
	Stats      Stats             `table:"crio.stats"`
	NRI        NRI               `table:"crio.nri"`
	Validator  Validator         `table:"crio.nri.default_validator"`
	Process    Process           `table:""`

	// origin tells where an option was set, by its full name: "FILE:LINE", a flag or
	// a variable. What is not in it has its default.
	origin map[string]string
}

// Crio is the table [crio]: where things are kept.
type Crio struct {
	Root              string   `toml:"root" flag:"root,r" is:"path" doc:"where images and containers' layers are kept (containers/storage); what storage.conf says of it counts unless this does, here and for the next four, so that podman and skopeo see the same images"`
	RunRoot           string   `toml:"runroot" flag:"runroot" is:"path" doc:"volatile state of the storage"`
	ImageStore        string   `toml:"imagestore" flag:"imagestore" is:"path?" doc:"a separate place for images that are pulled"`
	StorageDriver     string   `toml:"storage_driver" flag:"storage-driver,s" is:"overlay vfs" doc:"storage driver"`
	StorageOptions    []string `toml:"storage_option" flag:"storage-opt" doc:"options for the storage driver"`
	LogDir            string   `toml:"log_dir" flag:"log-dir" is:"path" doc:"folder of the container logs of pods that name none"`
	VersionFile       string   `toml:"version_file" flag:"version-file" is:"path?" doc:"where the running version is written; on a volatile file system, so that its absence tells of a reboot; empty: version in run_dir"`
	VersionPersist    string   `toml:"version_file_persist" flag:"version-file-persist" is:"path?" doc:"where it is written as well, on a disk: tells of an upgrade; empty: nowhere"`
	CleanShutdownFile string   `toml:"clean_shutdown_file" flag:"clean-shutdown-file" is:"path?" doc:"made when the daemon ends after all is on the disk, removed when it starts; empty: clean.shutdown in state_dir"`
	InternalWipe      bool     `toml:"internal_wipe" flag:"internal-wipe" inert:"no start wipes anything: records tell what a reboot or upgrade left" doc:"wipe containers and images at a start after a reboot or upgrade"`
	InternalRepair    bool     `toml:"internal_repair" flag:"internal-repair" doc:"after an unclean shutdown check the image store in the background, and report which layers are damaged; crio check --repair mends them one by one"`
	StateDir          string   `toml:"state_dir" flag:"state-dir" is:"path" doc:"the records of pods and containers"`
	RunDir            string   `toml:"run_dir" flag:"run-dir" is:"path" doc:"volatile state: pinned namespaces, bundles, sockets"`
}

// API is the table [crio.api]: where the daemon listens.
type API struct {
	Listen             string   `toml:"listen" flag:"listen" is:"socket" doc:"path of the socket that serves the CRI, and HTTP for crio-status"`
	StreamAddress      string   `toml:"stream_address" flag:"stream-address" is:"ip" doc:"IP address on which exec, attach and port forward are served; the kubelet on this machine is the only client"`
	StreamPort         string   `toml:"stream_port" flag:"stream-port" is:"port" doc:"port there; 0: any free one"`
	StreamEnableTLS    bool     `toml:"stream_enable_tls" flag:"stream-enable-tls" env:"CONTAINER_ENABLE_TLS" doc:"encrypt them"`
	StreamTLSCert      string   `toml:"stream_tls_cert" flag:"stream-tls-cert" env:"CONTAINER_TLS_CERT" is:"path?" doc:"PEM file with the certificate chain; these three files are read again when they change"`
	StreamTLSKey       string   `toml:"stream_tls_key" flag:"stream-tls-key" env:"CONTAINER_TLS_KEY" is:"path?" doc:"PEM file with the certificate's key"`
	StreamTLSCA        string   `toml:"stream_tls_ca" flag:"stream-tls-ca" env:"CONTAINER_TLS_CA" is:"path?" doc:"PEM file with the authorities that clients' certificates must come from; empty: clients need none"`
	StreamIdleTimeout  Duration `toml:"stream_idle_timeout" flag:"stream-idle-timeout" env:"STREAM_IDLE_TIMEOUT" doc:"a connection on which nothing moves for so long is closed; 0s: never"`
	TLSMinVersion      string   `toml:"tls_min_version" flag:"tls-min-version" is:"VersionTLS12 VersionTLS13" doc:"oldest version of TLS, for streams and metrics"`
	TLSCipherSuites    []string `toml:"tls_cipher_suites" flag:"tls-cipher-suites" doc:"cipher suites of TLS 1.2, by their IANA names; empty: Go's choice"`
	GRPCMaxSendMsgSize int      `toml:"grpc_max_send_msg_size" flag:"grpc-max-send-msg-size" doc:"largest answer, bytes; 0 or less: the default"`
	GRPCMaxRecvMsgSize int      `toml:"grpc_max_recv_msg_size" flag:"grpc-max-recv-msg-size" doc:"largest request, bytes; 0 or less: the default"`
}

// Process is what flags say of this process alone; no file has it.
type Process struct {
	Log         string `flag:"log" is:"path?" doc:"file to which the daemon's log is appended; empty: standard error"`
	LogFormat   string `flag:"log-format" is:"text json" doc:"form of the daemon's log"`
	Profile     bool   `flag:"profile" doc:"serve profiles (pprof) on 127.0.0.1"`
	ProfilePort int    `flag:"profile-port" doc:"port of --profile"`
	ProfileCPU  string `flag:"profile-cpu" is:"path?" doc:"file into which processor use is profiled until the daemon ends"`
	ProfileMem  string `flag:"profile-mem" is:"path?" doc:"file into which memory use is profiled when the daemon ends"`
	ProfileSock bool   `flag:"enable-profile-unix-socket" env:"ENABLE_PROFILE_UNIX_SOCKET" doc:"serve profiles on the CRI socket, below /debug/pprof"`
}

// Duration is a time.Duration that TOML writes as text ("4m", "30s") or as whole
// seconds. An empty text leaves the default.
type Duration time.Duration
