// Package podfile reads the files in which people describe pods and containers: the
// CRI's PodSandboxConfig and ContainerConfig as JSON, as crictl takes them.
package podfile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Read reads a file into a message: the CRI's field names, in snake_case or lowerCamel;
// enumerations as numbers or names.
func Read(path string, m proto.Message) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	var raw any
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, place(data, err))
	}
	data, err = json.Marshal(plainValues(raw, ""))
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(data, m); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

// plainValues turns the values of environment variables, which people write as
// text, into the base64 that protobuf's JSON wants for bytes.
func plainValues(v any, key string) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if text, ok := e.(string); ok && key == "envs" && k == "value" {
				v[k] = []byte(text)
				continue
			}
			v[k] = plainValues(e, k)
		}
	case []any:
		for i := range v {
			v[i] = plainValues(v[i], key)
		}
	}
	return v
}

// place adds the line to an error of package json.
func place(data []byte, err error) error {
	var at int64 = -1
	if e, ok := err.(*json.SyntaxError); ok {
		at = e.Offset
	}
	if at < 0 || at > int64(len(data)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+strings.Count(string(data[:at]), "\n"), err)
}

// Pod is a pod and its containers.
type Pod struct {
	Config     *cri.PodSandboxConfig
	Containers []*cri.ContainerConfig
}

// ReadPod reads a folder: pod.json, which may be missing, is the pod, and each other
// *.json a container, in the order of their names. What they do not say of names and
// logs follows from the names of the folder and the files; logs go below logDir.
func ReadPod(dir, logDir string) (*Pod, error) {
	name := filepath.Base(dir)
	p := &Pod{Config: &cri.PodSandboxConfig{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.json")) // sorted
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if filepath.Base(f) == "pod.json" {
			err = Read(f, p.Config)
		} else {
			c := &cri.ContainerConfig{}
			if err = Read(f, c); err == nil && c.GetImage().GetImage() == "" {
				err = fmt.Errorf("cannot use %s: it names no image: {\"image\": {\"image\": \"registry.example/app:1\"}}", f)
			}
			p.add(strings.TrimSuffix(filepath.Base(f), ".json"), c)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(p.Containers) == 0 {
		return nil, fmt.Errorf("cannot use %s: it has no container; write one as NAME.json there", dir)
	}
	p.complete(name, logDir)
	return p, nil
}

func (p *Pod) add(name string, c *cri.ContainerConfig) {
	if c.Metadata == nil {
		c.Metadata = &cri.ContainerMetadata{}
	}
	c.Metadata.Name = cmp.Or(c.GetMetadata().GetName(), name)
	c.LogPath = cmp.Or(c.GetLogPath(), c.GetMetadata().GetName()+".log")
	p.Containers = append(p.Containers, c)
}

func (p *Pod) complete(name, logDir string) {
	c := p.Config
	if c.Metadata == nil {
		c.Metadata = &cri.PodSandboxMetadata{}
	}
	m := c.GetMetadata()
	m.Name, m.Namespace = cmp.Or(m.GetName(), name), cmp.Or(m.GetNamespace(), "default")
	m.Uid = cmp.Or(m.GetUid(), m.GetNamespace()+"-"+m.GetName())
	c.LogDirectory = cmp.Or(c.GetLogDirectory(), filepath.Join(logDir, m.GetNamespace()+"_"+m.GetName()))
	c.Hostname = cmp.Or(c.GetHostname(), m.GetName())
	if c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == cri.NamespaceMode_NODE {
		c.Hostname = "" // the node's
	}
}

// OnNode is a pod in the node's network with one container of an image, which runs the
// image's own command under the default seccomp profile.
func OnNode(name, image, logDir string) *Pod {
	net := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER}
	p := &Pod{Config: &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: net}}}}
	p.add(name, &cri.ContainerConfig{Image: &cri.ImageSpec{Image: image},
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: net,
			Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}}}})
	p.complete(name, logDir)
	return p
}
