package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/artifact"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image/trust"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

// What a registry has under a name may be no image but an artifact. The manifest tells
// (image specification, "Guidelines for Artifact Usage"), so that nothing is fetched in
// vain. Artifacts go to a store of their own and are images to whoever lists them.

// isArtifact tells a manifest of an artifact from one of an image.
func isArtifact(data []byte, mediaType string) bool {
	if mediaType != v1.MediaTypeImageManifest {
		return false
	}
	var m v1.Manifest
	if json.Unmarshal(data, &m) != nil {
		return false // the library shall judge it
	}
	if m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != manifest.DockerV2Schema2ConfigMediaType {
		return true
	}
	for _, l := range m.Layers {
		if !strings.HasPrefix(l.MediaType, "application/vnd.oci.image.layer.") && !strings.HasPrefix(l.MediaType, "application/vnd.docker.image.rootfs.") {
			return true
		}
	}
	return false
}

// unparsed is what is to be judged of a source: of an index, this machine's image.
func unparsed(ctx context.Context, src types.ImageSource, sys *types.SystemContext) (*image.UnparsedImage, error) {
	u := image.UnparsedInstance(src, nil)
	data, mediaType, err := u.Manifest(ctx)
	if err != nil || !manifest.MIMETypeIsMultiImage(mediaType) {
		return u, err
	}
	index, err := manifest.ListFromBlob(data, mediaType)
	if err != nil {
		return nil, err
	}
	instance, err := index.ChooseInstance(sys)
	if err != nil {
		return nil, errs.Unimplemented("it has nothing for machines like this one, linux/%s: %w", runtime.GOARCH, err)
	}
	u = image.UnparsedInstance(src, &instance)
	_, _, err = u.Manifest(ctx)
	return u, err
}

// copyArtifact fetches what a source has into the store of artifacts.
func (s *Service) copyArtifact(ctx context.Context, p *Pull, from source, policy *signature.PolicyContext, sys *types.SystemContext) (id string, err error) {
	if s.opts.Artifacts == nil || !from.job.Artifact && !from.job.Rules.Artifacts {
		return "", errs.Precondition("it is no image but an artifact, and oci_artifact_mount_support is off")
	}
	dir, err := s.opts.Artifacts.Stage()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	ref, err := directory.NewReference(dir)
	if err != nil {
		return "", err
	}
	p.expectArtifact(from.manifest)
	if _, err := copy.Image(ctx, policy, staged{ref, dir, s.opts.Artifacts, from.manifest}, from.opened, &copy.Options{
		SourceCtx: sys, DestinationCtx: sys, ReportWriter: io.Discard, PreserveDigests: true,
		ProgressInterval: 1, Progress: p.events,
	}); err != nil {
		return "", err
	}
	if id, err = s.opts.Artifacts.Add(from.name.String(), dir); err != nil {
		return "", err
	}
	return id, s.untag(from.name)
}

// source is an opened source of a pull.
type source struct {
	opened
	name     reference.Named
	job      *Job
	image    *image.UnparsedImage // for this machine; nil if that cannot be told
	manifest []byte
	local    bool // it is on this machine
}

// staged is the folder for an artifact; blobs that are there already are not fetched.
type staged struct {
	types.ImageReference
	dir      string
	store    *artifact.Store
	manifest []byte
}

func (d staged) NewImageDestination(ctx context.Context, sys *types.SystemContext) (types.ImageDestination, error) {
	dst, err := d.ImageReference.NewImageDestination(ctx, sys)
	if err != nil {
		return nil, err
	}
	for _, b := range blobsOf(d.manifest) {
		path, there := d.store.Blob(b.Digest.String())
		if !there || artifact.Sound(path, b.Digest.String()) != nil { // a pull repairs what is damaged
			continue
		}
		if err := os.Link(path, filepath.Join(d.dir, b.Digest.Encoded())); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, errors.Join(err, dst.Close())
		}
	}
	return dst, nil
}

// blobsOf lists what an OCI manifest names, its configuration first; of others it may
// know nothing.
func blobsOf(data []byte) []v1.Descriptor {
	var m v1.Manifest
	_ = json.Unmarshal(data, &m) // whoever needs it has read it
	return append([]v1.Descriptor{m.Config}, m.Layers...)
}

// expectArtifact takes the list of an artifact's files.
func (p *Pull) expectArtifact(data []byte) {
	var list []types.BlobInfo
	for _, b := range blobsOf(data)[1:] {
		list = append(list, types.BlobInfo{Digest: b.Digest, Size: b.Size, MediaType: b.MediaType})
	}
	report{p}.Expect(list, list)
}

// untag takes a name from the image that has it: an artifact has it now.
func (s *Service) untag(n reference.Named) error {
	img, err := s.byName(n.String())
	if errs.Is(err, errs.KindNotFound) || err == nil && !slices.Contains(img.Names, n.String()) {
		return nil
	}
	if err == nil {
		err = s.store.RemoveNames(img.ID, []string{n.String()})
	}
	if err != nil {
		return fmt.Errorf("cannot take the name %s from an image: %w", n, err)
	}
	return nil
}

// findArtifact looks an artifact up as Find does an image.
func (s *Service) findArtifact(ref string) (*artifact.Artifact, error) {
	if s.opts.Artifacts == nil {
		return nil, errs.NotFound("image", ref)
	}
	id, isID := isID(ref)
	if isID && len(id) == 64 {
		return s.opts.Artifacts.Find(id)
	}
	names, err := s.parse(ref)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		a, err := s.opts.Artifacts.FindName(n.String())
		if !errs.Is(err, errs.KindNotFound) {
			return a, err
		}
	}
	if isID {
		return s.opts.Artifacts.Find(id)
	}
	return nil, errs.NotFound("image", ref)
}

// asImage is an artifact as images are listed.
func (s *Service) asImage(a *artifact.Artifact) Image {
	i := Image{ID: a.ID, Size: uint64(a.Size), Annotations: a.Manifest.Annotations, Artifact: true}
	i.RepoTags, i.RepoDigests = repoDigests(a.Names, []digest.Digest{digest.NewDigestFromEncoded(digest.SHA256, a.ID)})
	s.pin(&i)
	return i
}

// artifacts lists the artifacts.
func (s *Service) artifacts() (list []Image) {
	if s.opts.Artifacts == nil {
		return nil
	}
	for _, a := range s.opts.Artifacts.List() {
		list = append(list, s.asImage(&a))
	}
	return list
}

// Mountable tells whether artifacts may be mounted.
func (s *Service) Mountable() bool { return s.rules.Load().Artifacts }

// Bring finds the artifact of a reference, or pulls it, and returns its id.
func (s *Service) Bring(ctx context.Context, ref string) (id string, err error) {
	a, err := s.findArtifact(ref)
	if err == nil {
		return a.ID, nil
	} else if !errs.Is(err, errs.KindNotFound) {
		return "", err
	}
	return s.PullFor(ctx, ref, Auth{}, Pod{Artifact: true})
}

// judgeArtifact holds an artifact against a policy as if it came from the registry of a
// name.
func (s *Service) judgeArtifact(ctx context.Context, p *signature.Policy, a *artifact.Artifact, n reference.Named) error {
	needs, err := trust.Requirements(p, n)
	if err == nil && n != nil {
		needs, err = trust.Meant(needs, n)
	}
	if err != nil {
		return err
	}
	if err := s.makeTempDir(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.temp, "judge-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	signatures, err := a.Signatures()
	if err != nil {
		return err
	}
	files := map[string][]byte{artifact.Manifest: a.Raw}
	for i, sig := range signatures {
		files[fmt.Sprint(artifact.Signature, i+1)] = sig
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	ref, err := directory.NewReference(dir)
	if err != nil {
		return err
	}
	return trust.Allowed(ctx, needs, ref, s.sys(nil))
}

// Usage tells what images and artifacts take, and what containers' layers do.
func (s *Service) Usage() (images, containers Usage, err error) {
	images, containers, err = s.opts.Store.Usage()
	if err != nil || s.opts.Artifacts == nil {
		return images, containers, err
	}
	// Artifacts lie in the root, where images do unless they have a place of their own.
	with := &images
	if s.store.ImageStore() != "" {
		with = &containers
	}
	bytes, inodes := s.opts.Artifacts.Usage()
	with.Bytes, with.Inodes = with.Bytes+bytes, with.Inodes+inodes
	return images, containers, nil
}
