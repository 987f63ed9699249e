package image

import (
	"os"
	"path/filepath"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image/trust"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
)

// Rules are the files that say which images may be had from where, and by whom. They
// may change while the daemon runs.
type Rules struct {
	AuthFile                          string
	AuthDir                           string // credentials for one pull each, by namespace
	Policy                            string
	PolicyDir                         string // policies of namespaces
	SignaturesDir                     string // registries.d: where signatures are
	RegistriesConf, RegistriesConfDir string
	ShortNames                        string // "enforcing": none that several registries may mean
	CertsDir                          string
	ProgressTimeout                   time.Duration // without a byte; 0: none
	Pinned                            []string
	Artifacts                         bool   // may be pulled and mounted
	KeysDir                           string // private keys of encrypted images
	Offline                           bool   // no registry is asked
}

// Prepare checks what the rules name, and reads registries.conf again. commit puts
// them in force and cannot fail. Pulls in flight keep the rules that they began with.
func (s *Service) Prepare(r Rules) (commit func(), err error) {
	own, err := r.policies().Namespaces()
	if err != nil {
		return nil, err
	}
	for _, namespace := range append(own, "") {
		if _, err := r.policies().Of(namespace); err != nil {
			return nil, err
		}
	}
	if err := checkAuthFile(r.AuthFile, "global_auth_file"); err != nil {
		return nil, err
	}
	if _, err := r.keys(); err != nil {
		return nil, err
	}
	// The library keeps what it has read by the names of the files; if they are broken
	// it keeps what it had.
	if _, err := sysregistriesv2.TryUpdatingCache(r.sys(nil)); err != nil {
		return nil, errs.Precondition("cannot read registries.conf: %w", err)
	}
	return func() { s.rules.Store(&r) }, nil
}

func (r *Rules) policies() *trust.Policies {
	return &trust.Policies{File: r.Policy, Dir: r.PolicyDir}
}

// Files lists the files and folders that say which registries there are.
func (r *Rules) Files() []string {
	file, dir := r.RegistriesConf, r.RegistriesConfDir
	if file == "" {
		file = "/etc/containers/registries.conf"
	}
	if dir == "" {
		dir = filepath.Join(filepath.Dir(file), "registries.conf.d")
	}
	return []string{file, dir}
}

// sys makes the library's context; auth may be nil.
func (r *Rules) sys(auth *types.DockerAuthConfig) *types.SystemContext {
	return &types.SystemContext{
		AuthFilePath:                r.AuthFile,
		SystemRegistriesConfPath:    r.RegistriesConf,
		SystemRegistriesConfDirPath: r.RegistriesConfDir,
		DockerPerHostCertDirPath:    r.CertsDir,
		RegistriesDirPath:           r.SignaturesDir,
		// No file: the store itself knows the digests of its layers, and the library
		// falls back to memory. Its database would cost several fsyncs per layer.
		BlobInfoCacheDir:        os.DevNull,
		SignaturePolicyPath:     r.Policy,
		DockerAuthConfig:        auth,
		DockerRegistryUserAgent: "monocrio",
	}
}

// sys makes the library's context; auth may be nil.
func (s *Service) sys(auth *types.DockerAuthConfig) *types.SystemContext {
	c := s.rules.Load().sys(auth)
	c.BigFilesTemporaryDir = s.temp
	return c
}

// sysOf makes the context of one pull, from one of its names.
func (s *Service) sysOf(j *Job, auth *types.DockerAuthConfig, n reference.Named) *types.SystemContext {
	c := j.Rules.sys(auth)
	c.BigFilesTemporaryDir = s.temp
	c.DockerBearerRegistryToken = j.Auth.RegistryToken
	if own := j.Logins[n.Name()]; own != "" {
		c.AuthFilePath = own
	}
	return c
}
