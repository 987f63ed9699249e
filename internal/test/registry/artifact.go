package registry

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Artifact is what is no image.
type Artifact struct {
	Type       string // artifactType
	ConfigType string // "": an empty configuration
	Config     []byte
	Files      []Blob
}

// Blob is a file of an artifact.
type Blob struct {
	MediaType string
	Name      string // org.opencontainers.image.title
	Notes     map[string]string
	Data      []byte
}

// AddArtifact makes an artifact and keeps it like Add.
func (r *Registry) AddArtifact(name, tag string, a Artifact) (string, error) {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: a.Type, Layers: []v1.Descriptor{}}
	if a.ConfigType == "" {
		a.ConfigType, a.Config = v1.MediaTypeEmptyJSON, []byte("{}")
	}
	m.Config = v1.Descriptor{MediaType: a.ConfigType, Digest: digest.Digest(r.AddBlob(a.Config)), Size: int64(len(a.Config))}
	for _, f := range a.Files {
		notes := map[string]string{}
		for k, v := range f.Notes {
			notes[k] = v
		}
		if f.Name != "" {
			notes[v1.AnnotationTitle] = f.Name
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: f.MediaType, Digest: digest.Digest(r.AddBlob(f.Data)), Size: int64(len(f.Data)), Annotations: notes})
	}
	data, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	return r.AddManifest(name, tag, v1.MediaTypeImageManifest, data), nil
}

// Manifest returns what a tag stands for, nil if there is none.
func (r *Registry) Manifest(name, tag string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.manifests[name+":"+tag].data
}
