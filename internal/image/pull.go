package image

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/distribution/registry/api/errcode"
	"github.com/monocrio/monocrio/internal/errs"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/signature"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/configfile"
)

// Auth are the credentials of one request; all empty: those of the auth file.
type Auth struct {
	Username, Password string
	// Auth is "user:password" in base64, as in docker's config.json.
	Auth string
	// IdentityToken is an OAuth2 refresh token; RegistryToken a bearer token that
	// is sent as it is.
	IdentityToken, RegistryToken string
}

// Pull is one pull in flight.
type Pull struct {
	Ref     string
	Started time.Time

	done chan struct{}
	id   string
	err  error

	mu    sync.Mutex
	moved uint64 // bytes so far
	last  time.Time
}

// Moved tells how many bytes have come so far and when the last one did.
func (p *Pull) Moved() (bytes uint64, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved, p.last
}

// Pulls lists the pulls in flight.
func (s *Service) Pulls() (list []*Pull) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pulls {
		list = append(list, p)
	}
	return list
}

// ErrRegistryUnavailable and ErrSignature mark errors that the kubelet shows under
// a reason of their own.
var (
	ErrRegistryUnavailable = errors.New("RegistryUnavailable")
	ErrSignature           = errors.New("SignatureValidationFailed")
)

// Pull fetches an image and returns its id. Calls for the same image with the same
// credentials share one transfer, which ends when the last of them has gone away.
func (s *Service) Pull(ctx context.Context, ref string, auth Auth) (string, error) {
	names, err := s.parse(ref)
	if err != nil {
		return "", err
	}
	creds, err := credentials(auth)
	if err != nil {
		return "", err
	}
	p := s.join(ref, names, creds, auth)
	select {
	case <-p.done:
		return p.id, p.err
	case <-ctx.Done():
		return "", fmt.Errorf("pulling %s goes on without this caller: %w", ref, ctx.Err())
	}
}

// join finds the pull in flight for an image, or starts it.
func (s *Service) join(ref string, names []reference.Named, creds *types.DockerAuthConfig, auth Auth) *Pull {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", names, auth))
	key := hex.EncodeToString(sum[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pulls[key]; p != nil {
		return p
	}
	now := time.Now()
	p := &Pull{Ref: ref, Started: now, last: now, done: make(chan struct{})}
	s.pulls[key] = p
	go func() {
		p.err = fmt.Errorf("pulling %s panicked; see the log", ref)
		defer func() {
			s.mu.Lock()
			delete(s.pulls, key)
			s.mu.Unlock()
			close(p.done)
			giveBack()
		}()
		p.id, p.err = s.run(p, names, creds, auth.RegistryToken)
	}()
	return p
}

// run tries the names in turn.
func (s *Service) run(p *Pull, names []reference.Named, creds *types.DockerAuthConfig, token string) (id string, err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	policy, err := s.policy()
	if err != nil {
		return "", err
	}
	defer policy.Destroy()
	for _, n := range names {
		sys := s.sys(creds)
		sys.DockerBearerRegistryToken = token
		var e error
		if id, e = s.fetch(ctx, cancel, p, policy, n, sys); e == nil {
			s.opts.Log.Info("pulled", "image", n.String(), "id", id, "dur", time.Since(p.Started))
			return id, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			e = cause
		}
		err = errors.Join(err, fmt.Errorf("cannot pull %s: %w", n, pullError(e)))
	}
	if errors.Is(err, syscall.ENOSPC) {
		s.collect(0)
	}
	return "", err
}

func (s *Service) fetch(ctx context.Context, cancel context.CancelCauseFunc, p *Pull, policy *signature.PolicyContext, n reference.Named, sys *types.SystemContext) (string, error) {
	src, err := docker.NewReference(n)
	if err != nil {
		return "", err
	}
	dst, err := istorage.Transport.NewStoreReference(s.store, n, "")
	if err != nil {
		return "", err
	}
	progress := make(chan types.ProgressProperties, 16)
	watched := make(chan struct{})
	go s.watch(p, progress, cancel, watched)
	_, err = copy.Image(ctx, policy, dst, src, &copy.Options{
		SourceCtx: sys, DestinationCtx: sys, ReportWriter: io.Discard,
		ProgressInterval: time.Second, Progress: progress,
		OptimizeDestinationImageAlreadyExists: true,
	})
	close(progress)
	<-watched
	if err != nil {
		return "", err
	}
	_, img, err := istorage.ResolveReference(dst)
	if err != nil {
		return "", err
	}
	return img.ID, nil
}

// watch counts the bytes of a pull and gives up on one that moves none.
func (s *Service) watch(p *Pull, progress <-chan types.ProgressProperties, cancel context.CancelCauseFunc, done chan<- struct{}) {
	defer close(done)
	var tick <-chan time.Time
	if s.opts.ProgressTimeout > 0 {
		t := time.NewTicker(max(s.opts.ProgressTimeout/10, time.Second))
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case e, ok := <-progress:
			if !ok {
				return
			}
			p.mu.Lock()
			p.moved, p.last = p.moved+e.OffsetUpdate, time.Now()
			p.mu.Unlock()
		case <-tick:
			if moved, last := p.Moved(); time.Since(last) > s.opts.ProgressTimeout {
				cancel(errs.Errorf(errs.KindUnavailable, "no byte came for %s, after %d bytes (pull_progress_timeout)", s.opts.ProgressTimeout, moved))
			}
		}
	}
}

// policy is policy.json, or "accept everything" where there is none.
func (s *Service) policy() (*signature.PolicyContext, error) {
	p, err := signature.DefaultPolicy(s.sys(nil))
	if errors.Is(err, configfile.ErrConfigFileNotFound) && s.opts.Policy == "" {
		p, err = &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}, nil
	}
	if err != nil {
		return nil, errs.Precondition("cannot read the signature policy: %w", err)
	}
	return signature.NewPolicyContext(p)
}

// credentials turns the request's into the library's; nil: none were given.
func credentials(a Auth) (*types.DockerAuthConfig, error) {
	switch {
	case a.IdentityToken != "":
		return &types.DockerAuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}, nil
	case a.Username != "" || a.Password != "":
		return &types.DockerAuthConfig{Username: a.Username, Password: a.Password}, nil
	case a.Auth == "":
		return nil, nil
	}
	text, err := base64.StdEncoding.DecodeString(a.Auth)
	user, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok {
		return nil, errs.Invalid("cannot read the credentials: auth must be USER:PASSWORD in base64")
	}
	return &types.DockerAuthConfig{Username: user, Password: strings.TrimRight(password, "\x00")}, nil
}

// pullError gives an error of the libraries its kind and, for the kubelet, its
// reason.
func pullError(err error) error {
	var (
		policy signature.PolicyRequirementError
		login  docker.ErrUnauthorizedForCredentials
		status docker.UnexpectedHTTPStatusError
		reg    errcode.Error
		netErr net.Error
		kinded *errs.Error
	)
	switch {
	case errors.As(err, &kinded):
		return err
	case errors.As(err, &policy):
		return errs.Errorf(errs.KindDenied, "%w: %w", ErrSignature, err)
	case errors.As(err, &login):
		return errs.Errorf(errs.KindDenied, "the registry refuses the credentials: %w", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return errs.Errorf(errs.KindExhausted, "the disk is full: %w", err)
	case errors.Is(err, docker.ErrTooManyRequests):
		return errs.Errorf(errs.KindUnavailable, "%w: %w", ErrRegistryUnavailable, err)
	case errors.As(err, &reg):
		return registryError(reg, err)
	case errors.As(err, &status):
		return statusError(status.StatusCode, err)
	case errors.As(err, &netErr), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return errs.Errorf(errs.KindUnavailable, "%w: %w", ErrRegistryUnavailable, err)
	}
	return err
}

func registryError(e errcode.Error, err error) error {
	return statusError(e.Code.Descriptor().HTTPStatusCode, err)
}

func statusError(code int, err error) error {
	switch {
	case code == 404:
		return errs.With(errs.KindNotFound, err)
	case code == 401 || code == 403:
		return errs.With(errs.KindDenied, err)
	case code >= 500 || code == 429:
		return errs.Errorf(errs.KindUnavailable, "%w: %w", ErrRegistryUnavailable, err)
	}
	return err
}

// orphanAge is how long layers that belong to no image are kept: a pull that is
// tried again finds them, and a pull of another program may still be adding to
// them.
const orphanAge = time.Hour

// Collect deletes layers that belong to no image and no container and are older
// than an hour: what pulls that were given up have left.
func (s *Service) Collect() { s.collect(orphanAge) }

func (s *Service) collect(age time.Duration) {
	layers, err := s.store.Layers()
	if err != nil {
		s.opts.Log.Warn("cannot look for layers without an image", "err", err)
		return
	}
	used, err := s.used()
	if err != nil {
		s.opts.Log.Warn("cannot look for layers without an image", "err", err)
		return
	}
	parent := map[string]string{}
	for i := range layers {
		parent[layers[i].ID] = layers[i].Parent
	}
	for id := range used {
		for p := parent[id]; p != ""; p = parent[p] {
			used[p] = true
		}
	}
	// Children come before their parents: a layer with children cannot go.
	for again := true; again; {
		again = false
		for i := range layers {
			l := &layers[i]
			if used[l.ID] || time.Since(l.Created) < age {
				continue
			}
			used[l.ID] = s.store.DeleteLayer(l.ID) == nil
			again = again || used[l.ID]
		}
	}
}

// used returns the layers that images and containers name.
func (s *Service) used() (map[string]bool, error) {
	used := map[string]bool{}
	images, err := s.store.Images()
	if err != nil {
		return nil, err
	}
	for i := range images {
		used[images[i].TopLayer] = true
		for _, l := range images[i].MappedTopLayers {
			used[l] = true
		}
	}
	containers, err := s.store.Containers()
	for i := range containers {
		used[containers[i].LayerID] = true
	}
	return used, err
}
