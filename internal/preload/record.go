package preload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// record is what was imported, on the disk.
type record struct {
	// Files are told by their paths.
	Files map[string]told `json:"files"`
}

// told is what a content of a file has become.
type told struct {
	Stamp  string  `json:"stamp"` // "": not all of it
	Images []Image `json:"images"`
}

// load reads a record; none is an empty one, and so is one that cannot be read.
func load(path string) (record, error) {
	r := record{Files: map[string]told{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil || r.Files == nil {
		return record{Files: map[string]told{}}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return r, nil
}

// ids are those of all images.
func (r record) ids() map[string]bool {
	set := map[string]bool{}
	for _, t := range r.Files {
		for _, i := range t.Images {
			if i.ID != "" {
				set[i.ID] = true
			}
		}
	}
	return set
}
