package artifact

import (
	"errors"
	"os"

	"github.com/opencontainers/go-digest"
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
	for _, e := range entries(index) {
		found := check(s.opts.Root, e.digest, quick)
		if found == nil {
			continue
		}
		d := Damage{Names: e.names, Err: found}
		if usable(e.digest) == nil {
			d.ID = e.digest.Encoded()
		}
		list = append(list, d)
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
