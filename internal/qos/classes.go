package qos

import (
	"github.com/monocrio/monocrio/internal/annotation"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Classes are all of a node.
type Classes struct {
	*BlockIO
	*RDT
}

// resctrl is where the kernel's file system of that name is mounted.
const resctrl = "/sys/fs/resctrl"

// Read reads the files of classes; "" is none. See ReadBlockIO and ReadRDT.
func Read(blockIO string, rescan bool, rdt string) (*Classes, error) {
	b, err := ReadBlockIO(blockIO, rescan)
	if err != nil {
		return nil, err
	}
	r, err := ReadRDT(rdt, resctrl)
	return &Classes{BlockIO: b, RDT: r}, err
}

// Names of annotations: for one container as the CRI's client sets it, for one container
// of a pod, for all of them.
const (
	rdtOwn     = "io.kubernetes.cri.rdt-class"
	rdtPod     = "rdt.resources.beta.kubernetes.io/"
	blockIOOwn = "io.kubernetes.cri.blockio-class"
	blockIOPod = "blockio.resources.beta.kubernetes.io/"
)

// Assign puts a container into the classes that its annotations name. The notes tell
// what has no effect.
func (c *Classes) Assign(acts annotation.Acting, container string, s *specs.Spec) (notes []string, err error) {
	if name, _, ok := named(acts, container, blockIOOwn, blockIOPod); ok {
		if s.Linux.Resources == nil {
			s.Linux.Resources = &specs.LinuxResources{}
		}
		if s.Linux.Resources.BlockIO, notes, err = c.BlockIO.Class(name); err != nil {
			return nil, err
		}
	}
	if name, own, ok := named(acts, container, rdtOwn, rdtPod); ok {
		s.Linux.IntelRdt, err = c.RDT.Class(name, !own, own)
	}
	return notes, err
}

// named finds the class of a container; own says that its own annotation names it.
func named(acts annotation.Acting, container, ownKey, podPrefix string) (name string, own, ok bool) {
	if name, ok = acts.Get(ownKey, ""); ok {
		return name, true, true
	}
	for _, key := range []string{podPrefix + "container." + container, podPrefix + "pod"} {
		if name, ok = acts.Get(key, ""); ok {
			return name, false, true
		}
	}
	return "", false, false
}
