package artifact

import (
	"errors"
	"os"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Damage is an artifact that cannot be used as it is.
type Damage struct {
	ID    string
	Names []string
	Err   error
}

// Check looks for damage in the layout that is written; quick: without a look at the
// content of files. Remove mends what it finds, and the next pull brings it anew.
func (s *Store) Check(quick bool) (list []Damage, err error) {
	index, err := indexOf(s.opts.Root)
	if err != nil {
		return nil, err
	}
	at := map[digest.Digest]int{}
	for _, d := range index.Manifests {
		i, known := at[d.Digest]
		if !known {
			found := check(s.opts.Root, d.Digest, quick)
			if found == nil {
				continue
			}
			i = len(list)
			at[d.Digest], list = i, append(list, Damage{Err: found})
			if usable(d.Digest) == nil {
				list[i].ID = d.Digest.Encoded()
			}
		}
		if name := d.Annotations[v1.AnnotationRefName]; name != "" {
			list[i].Names = append(list[i].Names, name)
		}
	}
	return list, nil
}

func check(dir string, d digest.Digest, quick bool) error {
	a, err := load(dir, d)
	if err != nil || quick {
		return err
	}
	for _, b := range a.blobs() {
		err = errors.Join(err, Sound(blob(dir, b.Digest), b.Digest.String()))
	}
	return err
}

// Sound compares a file with its digest.
func Sound(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := digest.FromReader(f)
	if err == nil && got.String() != want {
		err = errors.New("the blob " + want + " is damaged")
	}
	return err
}
