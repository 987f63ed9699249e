package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/utils"
	"github.com/monocrio/monocrio/internal/errs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker/reference"
)

// maxKey bounds what is read as a key.
const maxKey = 1 << 20

// keys reads the private keys of the folder of keys, and certificates for those that go
// with one. They are read for each pull that needs them: what is put there counts at once.
func (r *Rules) keys() (*config.DecryptConfig, error) {
	var private, passwords, certificates [][]byte
	err := filepath.WalkDir(r.KeysDir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil || d.IsDir() {
			return err
		}
		fi, err := os.Stat(path)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > maxKey {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if key, e := utils.IsPrivateKey(data, nil); key && e == nil {
			private, passwords = append(private, data), append(passwords, nil)
		} else if utils.IsCertificate(data) {
			certificates = append(certificates, data)
		}
		return nil
	})
	if err != nil && r.KeysDir != "" {
		return nil, errs.Precondition("cannot read the keys of encrypted images (decryption_keys_path): %w", err)
	}
	if len(private) == 0 {
		return &config.DecryptConfig{Parameters: map[string][][]byte{}}, nil
	}
	all, err := config.DecryptWithPrivKeys(private, passwords)
	if err == nil && len(certificates) > 0 {
		var more config.CryptoConfig
		more, err = config.DecryptWithX509s(certificates)
		all = config.CombineCryptoConfigs([]config.CryptoConfig{all, more})
	}
	return all.DecryptConfig, err
}

// decrypt adds to a copy what an encrypted image needs, and checks that it can be read
// before anything is fetched.
func (j *Job) decrypt(o *copy.Options, n reference.Named, manifest []byte) error {
	layers := slices.DeleteFunc(blobsOf(manifest), func(d v1.Descriptor) bool { return !strings.HasSuffix(d.MediaType, "+encrypted") })
	if len(layers) == 0 {
		return nil
	}
	if _, ok := n.(reference.Digested); ok {
		return errs.Precondition("it is encrypted, and has another digest when it is decrypted: name it by a tag")
	}
	keys, err := j.Rules.keys()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if _, _, err := ocicrypt.DecryptLayer(keys, nil, l, true); err != nil {
			return errs.Errorf(errs.KindDenied, "it is encrypted, and no key in %q (decryption_keys_path) opens layer %s: %w", j.Rules.KeysDir, l.Digest, err)
		}
	}
	// Signatures were judged; they are not of what is stored.
	o.OciDecryptConfig, o.RemoveSignatures = keys, true
	return nil
}
