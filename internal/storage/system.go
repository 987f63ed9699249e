package storage

import (
	"fmt"

	"go.podman.io/storage/types"
)

// System is where this machine's other programs (podman, skopeo) have the store, by
// containers-storage.conf(5); fields that it leaves open are empty.
func System() (Options, error) {
	o, err := types.LoadStoreOptions(types.LoadOptions{})
	if err != nil {
		return Options{}, fmt.Errorf("cannot read storage.conf: %w", err)
	}
	return Options{Root: o.GraphRoot, RunRoot: o.RunRoot, ImageStore: o.ImageStore, Driver: o.GraphDriverName, DriverOptions: o.GraphDriverOptions}, nil
}
