package cri

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/storage"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PullImage fetches an image and answers with its id.
func (s *Server) PullImage(ctx context.Context, r *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	a := r.GetAuth()
	id, err := s.d.Images.PullFor(ctx, r.GetImage().GetImage(), image.Auth{Username: a.GetUsername(), Password: a.GetPassword(),
		Auth: a.GetAuth(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken()},
		image.Pod{Namespace: r.GetSandboxConfig().GetMetadata().GetNamespace(), Cgroup: r.GetSandboxConfig().GetLinux().GetCgroupParent()})
	if err != nil {
		return nil, err
	}
	return &cri.PullImageResponse{ImageRef: id}, nil
}

// ListImages lists all images, or the one that the filter names.
func (s *Server) ListImages(ctx context.Context, r *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	list, err := s.images(ctx, r.GetFilter())
	return &cri.ListImagesResponse{Images: list}, err
}

func (s *Server) images(ctx context.Context, f *cri.ImageFilter) (out []*cri.Image, err error) {
	if ref := f.GetImage().GetImage(); ref != "" {
		i, err := s.d.Images.Find(ctx, ref)
		if errs.Is(err, errs.KindNotFound) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		return []*cri.Image{toImage(&i)}, nil
	}
	list, err := s.d.Images.List(ctx)
	for i := range list {
		out = append(out, toImage(&list[i]))
	}
	return out, err
}

func toImage(i *image.Image) *cri.Image {
	out := &cri.Image{Id: i.ID, RepoTags: i.RepoTags, RepoDigests: i.RepoDigests, Size: i.Size, Pinned: i.Pinned}
	user, _, _ := strings.Cut(i.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &cri.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}

// ImageStatus tells about one image; an absent one is no error.
func (s *Server) ImageStatus(ctx context.Context, r *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	i, err := s.d.Images.Find(ctx, r.GetImage().GetImage())
	if errs.Is(err, errs.KindNotFound) {
		return &cri.ImageStatusResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	extra, err := info(r.GetVerbose(), map[string]any{"imageSpec": map[string]any{"config": i.Config, "created": i.Created}})
	return &cri.ImageStatusResponse{Image: toImage(&i), Info: extra}, err
}

// RemoveImage removes an image with all its names.
func (s *Server) RemoveImage(ctx context.Context, r *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	return &cri.RemoveImageResponse{}, s.d.Images.Remove(ctx, r.GetImage().GetImage())
}

// ImageFsInfo tells what images and containers take on the disk.
func (s *Server) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	images, containers, err := s.d.Images.Usage()
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixNano()
	one := func(u storage.Usage) []*cri.FilesystemUsage {
		return []*cri.FilesystemUsage{{Timestamp: now, FsId: &cri.FilesystemIdentifier{Mountpoint: u.Path},
			UsedBytes: &cri.UInt64Value{Value: u.Bytes}, InodesUsed: &cri.UInt64Value{Value: u.Inodes}}}
	}
	return &cri.ImageFsInfoResponse{ImageFilesystems: one(images), ContainerFilesystems: one(containers)}, nil
}
