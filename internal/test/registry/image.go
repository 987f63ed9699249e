package registry

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"sort"

	"github.com/klauspost/compress/zstd"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opencontainers/go-digest"
)

// Compression of a layer.
type Compression string

// The compressions.
const (
	None Compression = ""
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// Docker's media types.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// File is one entry of a layer.
type File struct {
	Data []byte
	Mode fs.FileMode // with its type; 0: 0644
	Link string      // target of a symbolic or (with Hard) hard link
	Hard bool
}

// Image is what is to be made.
type Image struct {
	Layers   []map[string]File
	Compress Compression
	Config   v1.ImageConfig
	// Docker makes a schema 2 manifest instead of an OCI one; Index wraps it in a
	// list or index, beside an entry for another machine, or without an entry for
	// this one (Foreign).
	Docker, Index, Foreign bool
	// Arch is the architecture that it says it is for; "": this machine's.
	Arch string
	// Annotations are those of the manifest.
	Annotations map[string]string
	// Seal, if not nil, encrypts a layer; it returns annotations for it.
	Seal func(data []byte, d v1.Descriptor) (sealed []byte, notes map[string]string, err error)
}

// Add makes an image and keeps it under a name and tag. It returns the digest that
// the tag stands for.
func (r *Registry) Add(name, tag string, img Image) (string, error) {
	config := v1.Image{Platform: v1.Platform{Architecture: cmp.Or(img.Arch, runtime.GOARCH), OS: "linux"}, Config: img.Config, RootFS: v1.RootFS{Type: "layers"}}
	var layers []v1.Descriptor
	for _, files := range img.Layers {
		plain, err := tarball(files)
		if err != nil {
			return "", err
		}
		data, mediaType, err := compress(plain, img.Compress)
		if err != nil {
			return "", err
		}
		if img.Docker && img.Compress == None {
			mediaType = "application/vnd.docker.image.rootfs.diff.tar"
		} else if img.Docker {
			mediaType = dockerLayer
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		if img.Seal != nil {
			if data, d.Annotations, err = img.Seal(data, d); err != nil {
				return "", err
			}
			d.MediaType, d.Size = mediaType+"+encrypted", int64(len(data))
		}
		d.Digest = digest.Digest(r.AddBlob(data))
		layers = append(layers, d)
	}
	configData, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	kind, configKind := v1.MediaTypeImageManifest, v1.MediaTypeImageConfig
	if img.Docker {
		kind, configKind = dockerManifest, dockerConfig
	}
	data, err := json.Marshal(v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: kind, Layers: layers, Annotations: img.Annotations,
		Config: v1.Descriptor{MediaType: configKind, Digest: digest.Digest(r.AddBlob(configData)), Size: int64(len(configData))}})
	if err != nil {
		return "", err
	}
	if !img.Index {
		return r.AddManifest(name, tag, kind, data), nil
	}
	d := r.AddManifest(name, "", kind, data)
	return r.addIndex(name, tag, img, v1.Descriptor{MediaType: kind, Digest: digest.Digest(d), Size: int64(len(data))})
}

func (r *Registry) addIndex(name, tag string, img Image, m v1.Descriptor) (string, error) {
	kind := v1.MediaTypeImageIndex
	if img.Docker {
		kind = dockerList
	}
	other := m // a machine that nobody has: whoever takes the first entry fails
	other.Platform = &v1.Platform{Architecture: "s390x", OS: "linux"}
	other.Digest = digest.FromString("not there")
	m.Platform = &v1.Platform{Architecture: runtime.GOARCH, OS: "linux"}
	list := []v1.Descriptor{other, m}
	if img.Foreign {
		list = list[:1]
	}
	data, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: kind, Manifests: list})
	if err != nil {
		return "", err
	}
	return r.AddManifest(name, tag, kind, data), nil
}

func tarball(files map[string]File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	// Parents before children, hard links after what they link to, the same bytes
	// each time.
	sort.Slice(names, func(i, j int) bool {
		if a, b := files[names[i]].Hard, files[names[j]].Hard; a != b {
			return b
		}
		return names[i] < names[j]
	})
	for _, n := range names {
		f := files[n]
		h := &tar.Header{Name: n, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Data)), Typeflag: tar.TypeReg}
		if f.Mode.Perm() == 0 {
			h.Mode = 0o644
		}
		if f.Mode&fs.ModeSetuid != 0 {
			h.Mode |= 0o4000
		}
		if f.Mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		switch {
		case f.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, n+"/"
		case f.Hard:
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, f.Link, 0
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), w.Close()
}

func compress(plain []byte, c Compression) (data []byte, mediaType string, err error) {
	var buf bytes.Buffer
	switch c {
	case Gzip:
		w := gzip.NewWriter(&buf)
		if _, err = w.Write(plain); err == nil {
			err = w.Close()
		}
		return buf.Bytes(), v1.MediaTypeImageLayerGzip, err
	case Zstd:
		w, err := zstd.NewWriter(&buf)
		if err != nil {
			return nil, "", err
		}
		if _, err = w.Write(plain); err == nil {
			err = w.Close()
		}
		return buf.Bytes(), v1.MediaTypeImageLayerZstd, err
	}
	return plain, v1.MediaTypeImageLayer, nil
}

// Busybox is a layer with a static busybox and its usual names, enough to run a
// shell. The error says what the machine lacks.
func Busybox() (map[string]File, error) {
	var data []byte
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if d, err := os.ReadFile(p); err == nil {
			data = d
			break
		}
	}
	if data == nil {
		return nil, fmt.Errorf("there is no static busybox on this machine (Debian package busybox-static)")
	}
	dir := File{Mode: fs.ModeDir | 0o755}
	files := map[string]File{"bin": dir, "etc": dir, "proc": dir, "dev": dir, "sys": dir, "root": dir,
		"tmp":        {Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		"etc/passwd": {Data: []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nbob:x:1001:1002::/home/bob:/bin/sh\n")},
		"etc/group":  {Data: []byte("root:x:0:\nuser:x:1000:\nbobs:x:1002:\nextra:x:2000:user,bob\n")},
	}
	files["bin/busybox"] = File{Data: data, Mode: 0o755}
	for _, name := range []string{"sh", "cat", "echo", "sleep", "ls", "id", "ip", "true", "false", "touch", "rm", "mount", "hostname", "env", "ps", "kill",
		"nc", "wget", "httpd", "seq", "dd", "head", "tail", "grep", "stat", "df", "yes", "stty", "tty", "date", "test", "mkdir", "umount", "ping", "awk", "printf", "wc", "pwd"} {
		files[path.Join("bin", name)] = File{Hard: true, Link: "bin/busybox", Mode: 0o755}
	}
	return files, nil
}
