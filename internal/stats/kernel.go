package stats

import (
	"os"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/device"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/linux/netstat"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/storage"
)

// Layers measures writable layers; *storage.Store does.
type Layers interface {
	// ContainerUsage tells what one container's layer takes.
	ContainerUsage(id string) (storage.Usage, error)
}

// Kernel reads this machine; path is a folder on the file system of the layers.
func Kernel(layers Layers, path string) Reader {
	most := uint64(maxKept)
	if n, err := proc.MaxFiles(os.Getpid()); err == nil {
		most = min(most, n/4)
	}
	return &kernel{tree: cgroup.Host(), keeper: cgroup.NewKeeper(int(most)), layers: layers, path: path}
}

// maxKept is how many files of cgroups are kept open between calls, some 4.5 KiB of
// kernel memory each: enough for all statistics and metrics of 100 pods.
const maxKept = 2048

type kernel struct {
	tree   cgroup.Tree
	keeper *cgroup.Keeper
	layers Layers
	path   string
}

func (k *kernel) Open(path string) (Group, error) {
	h, err := k.tree.Open(path)
	if err != nil {
		return nil, err
	}
	h.Keep(k.keeper, baseParts|moreParts|cgroup.PartQuota|cgroup.PartCPUTimes|cgroup.PartProcesses)
	return h, nil
}

func (k *kernel) Files(pid int) (files, sockets int, err error) { return proc.Files(pid) }

func (k *kernel) MaxFiles(pid int) (uint64, error) { return proc.MaxFiles(pid) }

func (k *kernel) Network(v *netstat.Visitor, path string) (Network, error) {
	n, err := v.Open(path)
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (k *kernel) Layer(id string) (bytes, inodes uint64, err error) {
	u, err := k.layers.ContainerUsage(id)
	return u.Bytes, u.Inodes, err
}

func (k *kernel) Disk() (mount.Disk, error) { return mount.DiskAt(k.path) }

func (k *kernel) BlockName(major, minor uint32) string { return device.BlockName(major, minor) }
