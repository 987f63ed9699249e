package state

import (
	"context"
	"fmt"

	"github.com/monocrio/monocrio/internal/errs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Volumes resolves the images that mounts name.
func Volumes(ctx context.Context, config *cri.ContainerConfig, resolve func(ctx context.Context, ref string) (Image, error)) (list []Volume, err error) {
	for n, mount := range config.GetMounts() {
		ref := mount.GetImage().GetImage()
		if ref == "" {
			continue
		}
		image, err := resolve(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("%.0wmount at %q: %w", errs.ImageVolumeMountFailed, mount.GetContainerPath(), err)
		}
		list = append(list, Volume{Mount: n, Image: image})
	}
	return list, nil
}
