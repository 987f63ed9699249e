package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// forge adds an image whose parts need not fit together.
func (r *rig) forge(name, os string, diffIDs []digest.Digest, layers ...v1.Descriptor) string {
	r.t.Helper()
	config, err := json.Marshal(v1.Image{Platform: v1.Platform{Architecture: runtime.GOARCH, OS: os}, RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs}})
	if err != nil {
		r.t.Fatal(err)
	}
	data, err := json.Marshal(v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: layers,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.Digest(r.reg.AddBlob(config)), Size: int64(len(config))}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.reg.AddManifest(name, "v1", v1.MediaTypeImageManifest, data)
	return r.addr + "/" + name + ":v1"
}

func (r *rig) blob(mediaType string, data []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.Digest(r.reg.AddBlob(data)), Size: int64(len(data))}
}

// layerOf fetches back the only layer of an image that the registry made.
func (r *rig) layerOf(name string) (compressed []byte, diffID digest.Digest) {
	r.t.Helper()
	full, _ := r.add(name, "v1", registry.Image{Compress: registry.Gzip}, "content of "+name)
	id := r.mustPull(full + ":v1")
	l, err := r.store.Raw().Layers()
	if err != nil || len(l) != 1 {
		r.t.Fatal(l, err)
	}
	if err := r.Remove(context.Background(), id); err != nil {
		r.t.Fatal(err)
	}
	return r.reg.Blob(string(l[0].CompressedDigest)), l[0].UncompressedDigest
}

// Images that lie about their own parts become neither images nor layers.
func TestForgedImages(t *testing.T) {
	r := newRig(t, nil)
	good, goodID := r.layerOf("honest")
	gz := v1.MediaTypeImageLayerGzip
	other := digest.FromString("something else")
	short := r.blob(gz, good)
	short.Size--
	long := r.blob(gz, good)
	long.Size++
	broken := append([]byte{}, good...)
	broken[len(broken)/2] ^= 0xff
	var noTar bytes.Buffer
	w := gzip.NewWriter(&noTar)
	text := strings.Repeat("this is no tar archive ", 100)
	io.WriteString(w, text)
	w.Close()
	for name, c := range map[string]struct {
		ids    []digest.Digest
		layers []v1.Descriptor
	}{
		"other content":     {[]digest.Digest{other}, []v1.Descriptor{r.blob(gz, good)}},
		"too short":         {[]digest.Digest{goodID}, []v1.Descriptor{short}},
		"too long":          {[]digest.Digest{goodID}, []v1.Descriptor{long}},
		"broken gzip":       {[]digest.Digest{goodID}, []v1.Descriptor{r.blob(gz, broken)}},
		"cut gzip":          {[]digest.Digest{goodID}, []v1.Descriptor{r.blob(gz, good[:len(good)-12])}},
		"no tar":            {[]digest.Digest{digest.FromString(text)}, []v1.Descriptor{r.blob(gz, noTar.Bytes())}},
		"ids missing":       {[]digest.Digest{goodID}, []v1.Descriptor{r.blob(gz, good), r.blob(gz, noTar.Bytes())}},
		"second is a lie":   {[]digest.Digest{goodID, other}, []v1.Descriptor{r.blob(gz, good), r.blob(gz, noTar.Bytes())}},
		"id of another sum": {[]digest.Digest{"sha512:" + digest.Digest(strings.Repeat("0", 128))}, []v1.Descriptor{r.blob(gz, good)}},
	} {
		t.Run(name, func(t *testing.T) {
			r.collect(-time.Hour) // else the layer is taken from an earlier case
			ref := r.forge("forged", "linux", c.ids, c.layers...)
			_, err := r.pull(ref)
			if err == nil {
				t.Fatal("it is accepted")
			}
			if !strings.Contains(err.Error(), "cannot pull "+ref) {
				t.Error(err)
			}
			if k := errs.KindOf(err); k != errs.KindUnavailable && name != "no tar" && name != "second is a lie" {
				t.Errorf("kind %v: %v", k, err)
			}
			r.clean()
			layers, err := r.store.Raw().Layers()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range layers {
				if l.UncompressedDigest != goodID || l.ID != goodID.Encoded() {
					t.Errorf("layer %s of content %s is there", l.ID, l.UncompressedDigest)
				}
			}
		})
	}
	// What is true is the same layer that other programs would make.
	r.mustPull(r.forge("fine", "linux", []digest.Digest{goodID}, r.blob(gz, good)))
	l, err := r.store.Raw().Layer(goodID.Encoded())
	if err != nil || l.CompressedDigest != digest.FromBytes(good) || l.CompressedSize != int64(len(good)) || l.UncompressedDigest != goodID {
		t.Errorf("%+v, %v", l, err)
	}
}

// Layers are shared between images whatever stands below them.
func TestSharedLayers(t *testing.T) {
	r := newRig(t, nil)
	a, _ := r.add("a", "v1", registry.Image{Compress: registry.Gzip}, "base", "top")
	r.mustPull(a + ":v1")
	r.reg.Blobs.Store(0)
	b, _ := r.add("b", "v1", registry.Image{Compress: registry.Gzip}, "base", "other")
	r.mustPull(b + ":v1")
	if n := r.reg.Blobs.Load(); n != 3 {
		t.Errorf("%d blobs for one new layer and twice the configuration", n)
	}
	if n := r.layers(); n != 3 {
		t.Errorf("%d layers", n)
	}
	// The same content over another parent.
	first, id1 := r.reg.Blob(string(r.layerByIndex(a+":v1", 0))), r.diffID(a+":v1", 0)
	second, id2 := r.reg.Blob(string(r.layerByIndex(a+":v1", 1))), r.diffID(a+":v1", 1)
	gz := v1.MediaTypeImageLayerGzip
	r.reg.Blobs.Store(0)
	r.mustPull(r.forge("swapped", "linux", []digest.Digest{id2, id1}, r.blob(gz, second), r.blob(gz, first)))
	if n := r.reg.Blobs.Load(); n != 2 {
		t.Errorf("%d blobs were fetched, where all layers are there", n)
	}
	r.noTemp()
}

// chain returns the layers of an image, lowest first.
func (r *rig) chain(ref string) (ids []string) {
	r.t.Helper()
	img, err := r.lookup(ref)
	if err != nil {
		r.t.Fatal(err)
	}
	for id := img.TopLayer; id != ""; {
		ids = append([]string{id}, ids...)
		l, err := r.store.Raw().Layer(id)
		if err != nil {
			r.t.Fatal(err)
		}
		id = l.Parent
	}
	return ids
}

func (r *rig) layerByIndex(ref string, i int) digest.Digest {
	l, err := r.store.Raw().Layer(r.chain(ref)[i])
	if err != nil {
		r.t.Fatal(err)
	}
	return l.CompressedDigest
}

func (r *rig) diffID(ref string, i int) digest.Digest {
	l, err := r.store.Raw().Layer(r.chain(ref)[i])
	if err != nil {
		r.t.Fatal(err)
	}
	return l.UncompressedDigest
}
