package state

import (
	"context"
	"fmt"

	"github.com/monocrio/monocrio/internal/errs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Volumes resolves the images that mounts name, for a pod of a namespace.
func Volumes(ctx context.Context, config *cri.ContainerConfig, namespace string, resolve func(ctx context.Context, image *cri.ImageSpec, namespace string) (Image, error)) (list []Volume, err error) {
	for n, mount := range config.GetMounts() {
		if mount.GetImage().GetImage() == "" {
			continue
		}
		image, err := resolve(ctx, mount.GetImage(), namespace)
		if err != nil {
			return nil, fmt.Errorf("%.0wmount at %q: %w", errs.ImageVolumeMountFailed, mount.GetContainerPath(), err)
		}
		list = append(list, Volume{Mount: n, Image: image})
	}
	return list, nil
}
