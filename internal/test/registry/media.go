package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layout tells the files of an OCI image layout with images of the registry. names are
// those that it gives them, for what the registry calls NAME:TAG.
func (r *Registry) Layout(names map[string]string) (map[string][]byte, error) {
	files := map[string][]byte{v1.ImageLayoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	idx := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		r.mu.Lock()
		m, ok := r.manifests[names[name]]
		r.mu.Unlock()
		if !ok {
			return nil, fmt.Errorf("the registry has no %s", names[name])
		}
		if err := r.collect(files, names[name][:strings.LastIndex(names[name], ":")], m); err != nil {
			return nil, err
		}
		d := v1.Descriptor{MediaType: m.mediaType, Digest: digest.Digest(m.digest), Size: int64(len(m.data))}
		if name != "" {
			d.Annotations = map[string]string{v1.AnnotationRefName: name}
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	data, err := json.Marshal(idx)
	files[v1.ImageIndexFile] = data
	return files, err
}

func blobFile(d digest.Digest) string {
	return filepath.Join("blobs", d.Algorithm().String(), d.Encoded())
}

// collect adds a manifest and what it names, as far as it is there: an index may name
// images that were not copied.
func (r *Registry) collect(files map[string][]byte, repository string, m manifest) error {
	files[blobFile(digest.Digest(m.digest))] = m.data
	var parts struct {
		Config            v1.Descriptor
		Layers, Manifests []v1.Descriptor
	}
	if err := json.Unmarshal(m.data, &parts); err != nil {
		return err
	}
	for _, d := range append(parts.Layers, parts.Config) {
		if data := r.Blob(string(d.Digest)); data != nil {
			files[blobFile(d.Digest)] = data
		}
	}
	for _, d := range parts.Manifests {
		r.mu.Lock()
		child, ok := r.manifests[repository+"@"+string(d.Digest)]
		r.mu.Unlock()
		if ok {
			if err := r.collect(files, repository, child); err != nil {
				return err
			}
		}
	}
	return nil
}

// DockerArchive tells the files of an archive as `docker save` wrote them until version
// 24, of images with gzip or plain layers.
func (r *Registry) DockerArchive(names map[string]string) (map[string][]byte, error) {
	type item struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	files, list := map[string][]byte{}, []item{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		r.mu.Lock()
		m := r.manifests[names[name]]
		r.mu.Unlock()
		var parts v1.Manifest
		if err := json.Unmarshal(m.data, &parts); err != nil {
			return nil, err
		}
		i := item{Config: parts.Config.Digest.Encoded() + ".json", RepoTags: []string{name}}
		if name == "" {
			i.RepoTags = nil
		}
		files[i.Config] = r.Blob(string(parts.Config.Digest))
		for _, l := range parts.Layers {
			data := r.Blob(string(l.Digest))
			if z, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
				if data, err = io.ReadAll(z); err != nil {
					return nil, err
				}
			}
			file := filepath.Join(l.Digest.Encoded(), "layer.tar")
			files[file] = data
			i.Layers = append(i.Layers, file)
		}
		list = append(list, i)
	}
	data, err := json.Marshal(list)
	files["manifest.json"] = data
	return files, err
}

// WriteFolder writes files into a folder, which comes into being with all of them.
func WriteFolder(dir string, files map[string][]byte) error {
	tmp := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(tmp, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return err
		}
	}
	return os.Rename(tmp, dir)
}

// WriteTar writes files into an archive, compressed or not, which comes into being whole.
func WriteTar(path string, files map[string][]byte, c Compression) error {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o644, Size: int64(len(files[name]))})
		if err == nil {
			_, err = w.Write(files[name])
		}
		if err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	data, _, err := compress(buf.Bytes(), c)
	if err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
