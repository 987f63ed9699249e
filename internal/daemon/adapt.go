package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/checkpoint/archive"
	"github.com/monocrio/monocrio/internal/daemon/facts"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/monitor"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/storage"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The engines know no pod; these few lines let them stand where pod's seams are.

// pins implements pod.Namespaces. Others find the namespaces below dir, under the
// pods' ids, which are the last part of the folders in which they are pinned.
type pins struct{ dir string }

func (p pins) Pin(ctx context.Context, r namespace.PinRequest) error {
	if err := namespace.Pin(ctx, r); err != nil {
		return err
	}
	return mount.ExposeNamespaces(r.Dir, p.dir, filepath.Base(r.Dir))
}

func (p pins) Unpin(dir string) error {
	return errors.Join(mount.HideNamespaces(p.dir, filepath.Base(dir)), namespace.Unpin(dir))
}

// cgroups implements pod.Cgroups.
type cgroups struct{ driver cgroup.Driver }

// ownParent is where pods go that the kubelet gives no cgroup.
func (c cgroups) ownParent(id string) string {
	if c.driver == cgroup.Systemd {
		return "crio-pod" + id + ".slice"
	}
	return "/crio/pod-" + id
}

func (c cgroups) ParentPath(parent, id string) (path string, ours bool, err error) {
	if parent == "" {
		parent, ours = c.ownParent(id), true
	}
	path, err = cgroup.ParentPath(c.driver, parent)
	return path, ours, err
}

func (c cgroups) ContainerPath(parent, id string) string {
	return cgroup.ContainerPath(c.driver, parent, "crio", id)
}

// containerCgroup is where a container's cgroup is; empty if its name cannot be meant.
func (c cgroups) containerCgroup(parent, id string) string {
	path, err := cgroup.Path(c.driver, c.ContainerPath(parent, id))
	if err != nil {
		return ""
	}
	return path
}

func (c cgroups) Create(ctx context.Context, path string, limits *specs.LinuxResources) error {
	return cgroup.CreateParent(ctx, c.driver, path, limits)
}

func (c cgroups) Remove(ctx context.Context, path string) error {
	return cgroup.Remove(ctx, c.driver, path)
}

// removeParent deletes the cgroup above our pods' own, if nobody is in it.
func (c cgroups) removeParent() {
	if c.driver != cgroup.Cgroupfs {
		return // a slice goes with its last unit
	}
	for _, dir := range cgroup.Dirs(filepath.Dir(c.ownParent(""))) {
		_ = unix.Rmdir(dir) // not there, or another daemon's pods are
	}
}

// images implements pod.Images.
type images struct {
	*image.Service
	store *storage.Store
}

// Checkpoint implements checkpoint.Images.
func (s images) Checkpoint(ctx context.Context, ref string) (id string, is bool, err error) {
	i, err := s.Find(ctx, ref)
	if err != nil { // whoever wants the image will say what is wrong with it
		return "", false, nil
	}
	return i.ID, !i.Artifact && i.Annotations[archive.Annotation] != "", nil
}

// Look implements checkpoint.Images. The lease bears our mark and no record: if we are
// killed here, the next start sweeps it.
func (s images) Look(ctx context.Context, id string, f func(dir string) error) (err error) {
	lease := ident.New()
	if err := s.store.Lease(ctx, storage.Lease{ID: lease, Image: id}); err != nil {
		return err
	}
	defer func() {
		e := s.store.Unmount(ctx, lease)
		err = errors.Join(err, e, s.store.Release(ctx, lease))
	}()
	dir, err := s.store.Mount(ctx, lease)
	if err != nil {
		return err
	}
	return f(dir)
}

func (s images) Resolve(ctx context.Context, spec *api.ImageSpec, namespace string) (state.Image, error) {
	ref := spec.GetImage()
	i, err := s.Find(ctx, ref)
	if err != nil {
		return state.Image{}, err
	}
	if i.Artifact && !s.Mountable() {
		return state.Image{}, errs.Precondition("cannot mount artifact %s: oci_artifact_mount_support is off", ref)
	}
	if err := s.Allow(ctx, i.ID, cmp.Or(spec.GetUserSpecifiedImage(), ref), namespace); err != nil {
		return state.Image{}, err
	}
	out := state.Image{ID: i.ID, Ref: i.ID, Name: ref, Platform: i.Platform, Config: i.Config, Artifact: i.Artifact}
	for _, key := range []string{annotation.SeccompProfile, "seccomp-profile.kubernetes.cri-o.io"} {
		if v := i.Annotations[key]; v != "" && out.Annotations == nil {
			out.Annotations = map[string]string{key: v}
		}
	}
	if len(i.RepoDigests) > 0 {
		out.Ref = i.RepoDigests[0]
	}
	if strings.HasPrefix(i.ID, strings.TrimPrefix(ref, "sha256:")) && len(i.RepoTags) > 0 {
		out.Name = i.RepoTags[0] // people know it by this
	}
	return out, nil
}

// monitors implements process.Monitors.
type monitors struct{}

func (monitors) Start(ctx context.Context, s monitor.Spawn) (monitor.Process, error) {
	return monitor.Start(ctx, s)
}

func (monitors) ReadExit(exitDir, persistDir, id string) (monitor.Exit, bool, error) {
	return monitor.ReadExit(exitDir, persistDir, id)
}

func (monitors) Reopen(ctx context.Context, bundle, log string) error {
	return monitor.ReopenWait(ctx, bundle, log)
}

func (monitors) Attach(ctx context.Context, bundle string, s monitor.AttachStreams) error {
	return monitor.Attach(ctx, bundle, s)
}

func (monitors) Wait(ctx context.Context, id proc.ID) error {
	p, err := proc.Open(id)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	defer p.Close()
	return p.Wait(ctx)
}

// handlers implements pod.Handlers.
type handlers struct {
	byName map[string]*process.Handler
	// platforms are those with another platform's runtime, by recorded names.
	platforms map[string]*process.Handler
	// features are asked of the runtime once, when somebody wants to know.
	features map[string]func() *api.RuntimeHandlerFeatures
	def      string
}

// askFeatures finds out what a runtime can do on this kernel. One that cannot say is
// taken to lack what it would have to say.
func askFeatures(h *process.Handler, log *slog.Logger) *api.RuntimeHandlerFeatures {
	out := &api.RuntimeHandlerFeatures{}
	f, err := h.Runtime.Features(context.Background())
	if err != nil {
		log.Warn("a runtime does not tell its features; recursive read-only mounts and user namespaces are not offered for it", "handler", h.Name, "err", err)
		return out
	}
	out.RecursiveReadOnlyMounts = facts.HasMountSetattr() && slices.Contains(f.MountOptions, "rro")
	if l := f.Linux; l != nil && slices.Contains(l.Namespaces, "user") {
		m := l.MountExtensions
		out.UserNamespaces = m != nil && m.IDMap != nil && m.IDMap.Enabled != nil && *m.IDMap.Enabled
	}
	return out
}

// list is what Status tells of the handlers: the default one also without a name.
func (h handlers) list() (list []*api.RuntimeHandler) {
	list = append(list, &api.RuntimeHandler{Name: "", Features: h.features[h.def]()})
	for _, name := range slices.Sorted(maps.Keys(h.byName)) {
		list = append(list, &api.RuntimeHandler{Name: name, Features: h.features[name]()})
	}
	return list
}

func (h handlers) Handler(name string) (*process.Handler, error) {
	if name == "" {
		name = h.def
	}
	for _, list := range []map[string]*process.Handler{h.byName, h.platforms} {
		if r := list[name]; r != nil {
			return r, nil
		}
	}
	var names []string
	for n := range h.byName {
		names = append(names, n)
	}
	return nil, errs.Errorf(errs.KindNotFound, "there is no runtime handler %q; the handlers are %s", name, strings.Join(names, ", "))
}
