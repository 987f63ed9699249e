package image

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image/layers"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/signature"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
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

	done   chan struct{}
	id     string
	err    error
	events chan types.ProgressProperties // of the try that is made

	mu      sync.Mutex
	moved   uint64 // bytes so far
	last    time.Time
	samples []sample // of moved, oldest first
	hosts   []string
	layers  []LayerProgress
	told    *Progress // by the process that does it, if another one does
	local   bool      // it is an import, and no registry is asked
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

// Pull fetches an image and returns its id. Calls for the same image with the same
// credentials share one transfer.
//
// A caller that goes away does not end the transfer, even if it was the last: the
// kubelet gives up a call sooner than a pull and asks again, and then finds it done
// or far. It ends by itself at the latest when no byte has come for the progress
// timeout.
func (s *Service) Pull(ctx context.Context, ref string, auth Auth) (string, error) {
	return s.PullFor(ctx, ref, auth, Pod{})
}

// Pod is what pulls know of the pod that needs the image.
type Pod struct {
	Namespace string // whose rules count; "": not known
	Cgroup    string // its cgroup parent, which may have to bear the cost
	Artifact  bool   // it needs an artifact and no image
}

// PullFor is Pull for a pod.
func (s *Service) PullFor(ctx context.Context, ref string, auth Auth, pod Pod) (string, error) {
	if _, ok := isID(ref); ok && len(ref) >= 64 {
		return "", errs.Invalid("cannot pull %q: this is an id, which no registry knows; give a name", ref)
	}
	names, err := s.toPull(ref)
	if err != nil {
		return "", err
	}
	if _, err := credentials(auth); err != nil {
		return "", err
	}
	if id, offline, err := s.await(ctx, ref, names); offline || err != nil {
		return id, err
	}
	place := ""
	if s.opts.Outside != nil {
		if place, err = s.opts.Outside.Place(pod.Cgroup); err != nil {
			return "", fmt.Errorf("cannot pull %s: %w", ref, err)
		}
	}
	rules := s.rules.Load()
	shared := ""
	if rules.perNamespace() {
		shared = pod.Namespace
	}
	taken, err := rules.takeLogins(pod.Namespace, names)
	if err != nil {
		return "", fmt.Errorf("cannot pull %s: %w", ref, err)
	}
	j := Job{Ref: ref, Auth: auth, Namespace: pod.Namespace, Artifact: pod.Artifact, Logins: taken, Rules: *rules, BigFilesDir: s.opts.BigFilesDir}
	p, begun := s.join(ref, fmt.Sprintf("%q %q %q %q %v", names, place, shared, auth, pod.Artifact), func(p *Pull) (id string, err error) {
		defer s.dropLogins(taken)
		if place != "" {
			return s.outside(p, place, j)
		}
		return s.run(p, names, &j)
	})
	if !begun {
		s.dropLogins(taken)
	}
	select {
	case <-p.done:
		return p.id, p.err
	case <-ctx.Done():
		return "", fmt.Errorf("pulling %s goes on without this caller: %w", ref, ctx.Err())
	}
}

// dropLogins deletes credentials that were for one pull.
func (s *Service) dropLogins(l logins) {
	if err := l.drop(); err != nil {
		s.opts.Log.Warn("credentials are left behind", "err", err)
	}
}

// join finds the pull in flight of what is wanted, or begins it.
func (s *Service) join(ref, what string, run func(*Pull) (string, error)) (p *Pull, begun bool) {
	sum := sha256.Sum256([]byte(what))
	key := hex.EncodeToString(sum[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pulls[key]; p != nil {
		return p, false
	}
	now := time.Now()
	p = &Pull{Ref: ref, Started: now, last: now, done: make(chan struct{})}
	if s.ctx.Err() != nil {
		p.err = fmt.Errorf("cannot pull %s: %w", ref, context.Cause(s.ctx))
		close(p.done)
		return p, false
	}
	s.pulls[key] = p
	s.busy.Go(func() {
		defer giveBack()
		defer s.tidy()
		defer func() {
			if v := recover(); v != nil {
				s.opts.Log.Error("a pull panicked; please report this", "image", ref, "panic", v, "stack", string(debug.Stack()))
				p.id, p.err = "", panicked(ref, v)
			}
			s.mu.Lock()
			delete(s.pulls, key)
			s.keep(p)
			s.mu.Unlock()
			close(p.done)
		}()
		s.active.RLock()
		defer s.active.RUnlock()
		p.id, p.err = run(p)
	})
	return p, true
}

// run tries the names in turn.
func (s *Service) run(p *Pull, names []reference.Named, j *Job) (id string, err error) {
	if err := s.makeTempDir(); err != nil {
		return "", err
	}
	creds, err := credentials(j.Auth)
	if err != nil {
		return "", err
	}
	if creds == nil {
		if err := checkAuthFile(j.Rules.AuthFile, "global_auth_file"); err != nil {
			return "", err
		}
	}
	policy, err := j.policyContext()
	if err != nil {
		return "", err
	}
	defer func() { _ = policy.Destroy() }()
	for _, n := range names {
		sys := s.sysOf(j, creds, n)
		p.mu.Lock()
		p.hosts, p.layers = hostsOf(sys, n), nil
		p.mu.Unlock()
		var e error
		for try := 0; try < 2; try++ {
			id, e = s.fetch(p, policy, n, sys, j)
			if e == nil {
				s.opts.Log.Info("pulled", "image", n.String(), "id", id, "dur", time.Since(p.Started))
				return id, nil
			}
			// A layer that was to be shared went with its image meanwhile.
			if !errors.Is(e, storage.ErrLayerUnknown) && !errors.Is(e, storage.ErrParentUnknown) {
				break
			}
		}
		e = pullError(e, n, sys)
		if errs.Is(e, errs.KindExhausted) {
			s.full.Store(true)
		}
		err = errors.Join(err, fmt.Errorf("cannot pull %s: %w", n, e))
	}
	return "", err
}

func (s *Service) fetch(p *Pull, policy *signature.PolicyContext, n reference.Named, sys *types.SystemContext, j *Job) (id string, err error) {
	ref, err := docker.NewReference(n)
	if err != nil {
		return "", err
	}
	return s.transfer(p, s.rules.Load().ProgressTimeout, func(ctx context.Context) (string, error) {
		return s.copyFrom(ctx, p, source{opened: opened{ImageReference: ref}, name: n, job: j}, policy, sys)
	})
}

// transfer runs a copy that reports to p, and ends it when no byte comes for the limit.
func (s *Service) transfer(p *Pull, limit time.Duration, run func(context.Context) (string, error)) (string, error) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	p.events = make(chan types.ProgressProperties, 16)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.watch(p.events, limit, cancel)
	}()
	id, err := run(ctx)
	close(p.events)
	<-watched
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return "", cause
	}
	return id, err
}

// copyFrom fetches what a registry has under a name, whatever it is.
func (s *Service) copyFrom(ctx context.Context, p *Pull, from source, policy *signature.PolicyContext, sys *types.SystemContext) (id string, err error) {
	if from.src, err = from.ImageReference.NewImageSource(ctx, sys); err != nil {
		return "", err
	}
	defer from.src.Close()
	if u, err := unparsed(ctx, from.src, sys); err == nil {
		from.image = u
		data, mediaType, err := u.Manifest(ctx) // it keeps it
		if from.manifest = data; err == nil && isArtifact(data, mediaType) {
			return s.copyArtifact(ctx, p, from, policy, sys)
		}
	}
	if from.job.Artifact {
		return "", errs.Invalid("it is an image, and no artifact")
	}
	return s.copyImage(ctx, p, from, policy, sys)
}

func (s *Service) copyImage(ctx context.Context, p *Pull, from source, policy *signature.PolicyContext, sys *types.SystemContext) (string, error) {
	dst, err := istorage.Transport.NewStoreReference(s.durable, from.name, "")
	if err != nil {
		return "", err
	}
	if err := (layers.Job{Store: s.store, Durable: s.durable, Source: from.src, Image: from.image, Policy: policy, System: sys, Temp: s.temp,
		Local: from.local, Report: report{p}}).Fetch(ctx); err != nil {
		return "", err
	}
	o := &copy.Options{SourceCtx: sys, DestinationCtx: sys, ReportWriter: io.Discard,
		ProgressInterval: 1, Progress: p.events} // each read: else the end of a blob is not told
	if err := from.job.decrypt(o, from.name, from.manifest); err != nil {
		return "", err
	}
	if _, err := copy.Image(ctx, policy, dst, from.opened, o); err != nil {
		return "", err
	}
	if s.opts.Artifacts != nil {
		if err := s.opts.Artifacts.Untag(from.name.String()); err != nil {
			s.opts.Log.Warn("an artifact keeps the name of an image", "name", from.name.String(), "err", err)
		}
	}
	_, img, err := istorage.ResolveReference(dst)
	if err != nil {
		return "", err
	}
	return img.ID, nil
}

// opened is a reference whose source is open: no second login, no second manifest.
type opened struct {
	types.ImageReference
	src types.ImageSource
}

func (o opened) NewImageSource(context.Context, *types.SystemContext) (types.ImageSource, error) {
	return o.src, nil
}

// watch counts the bytes of a pull and gives up on one that waits for the registry
// and gets nothing for as long as limit; 0: it waits for ever. Unpacking does not
// count: a slow disk is no reason to begin again.
func (p *Pull) watch(progress <-chan types.ProgressProperties, limit time.Duration, cancel context.CancelCauseFunc) {
	var tick <-chan time.Time
	if limit > 0 {
		t := time.NewTicker(max(limit/10, 10*time.Millisecond))
		defer t.Stop()
		tick = t.C
	}
	started, missing := false, map[digest.Digest]bool{} // blobs whose end has not come
	for {
		select {
		case e, ok := <-progress:
			if !ok {
				return
			}
			started = true
			if e.Event == types.ProgressEventNewArtifact || e.Event == types.ProgressEventRead {
				missing[e.Artifact.Digest] = e.Artifact.Size < 0 || e.Offset < uint64(e.Artifact.Size)
			} else {
				missing[e.Artifact.Digest] = false
			}
			p.mu.Lock()
			p.note(e)
			p.mu.Unlock()
		case <-tick:
			moved, last := p.Moved()
			if waits := !started || slices.Contains(slices.Collect(maps.Values(missing)), true); waits && time.Since(last) > limit {
				cancel(errs.Errorf(errs.KindUnavailable, "%.0wthe registry stalls: no byte came for %s, after %d bytes (pull_progress_timeout)", errs.RegistryUnavailable, limit, moved))
				tick = nil
			}
		}
	}
}

// policyContext makes the signature policy ready for one pull.
func (j *Job) policyContext() (*signature.PolicyContext, error) {
	p, err := j.Rules.policies().Of(j.Namespace)
	if err != nil {
		return nil, err
	}
	return signature.NewPolicyContext(p)
}

// checkAuthFile finds a broken file of credentials before it looks like a registry
// that refuses. An absent one is fine.
func checkAuthFile(path, option string) error {
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var content struct {
		Auths map[string]any `json:"auths"`
	}
	if err == nil {
		err = json.Unmarshal(data, &content)
	}
	if err != nil {
		return errs.Precondition("cannot read the credentials in %s (%s): %w", path, option, err)
	}
	return nil
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
