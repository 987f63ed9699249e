// Package record keeps what must survive the daemon: one folder per object with
// two files. request.json says what was asked for and is written once; status.json
// says how far it came and is replaced at each transition.
//
//	DIR/ID/request.json   {"kind": "pod", "version": 1, "body": {...}}
//	DIR/ID/status.json    the same envelope
//
// A folder becomes visible with its request complete, by one rename, before the
// kernel is touched for the object. Memory is a cache of the records.
//
// Writes survive the end of the daemon at any instant. They are not forced to the
// disk: a power cut also ends every pod, and what it takes from the newest records
// is found again by the sweeps at the next start (internal/RATIONALE.md).
//
// A file that cannot be read is never deleted: All moves its folder to quarantine
// and tells. A record of a newer version is refused, with its file left in place.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/ident"
)

// Version is the format of the records that this program writes.
const Version = 1

const (
	requestFile = "request.json"
	statusFile  = "status.json"
)

// Store keeps records whose request is an R and whose status is an S.
type Store[R, S any] struct {
	dir, quarantine, kind string
}

// Record is one object as it was read.
type Record[R, S any] struct {
	ID      string
	Request R
	Status  S
}

type envelope[T any] struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"`
	Body    T      `json:"body"`
}

// Open makes the folder dir (0700) if needed. Records that cannot be read go to
// the folder quarantine. kind is checked against the one in the files.
func Open[R, S any](dir, quarantine, kind string) (*Store[R, S], error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the %s records: %w", kind, err)
	}
	return &Store[R, S]{dir: dir, quarantine: quarantine, kind: kind}, nil
}

// Create writes a new object's records; it fails if the id is taken.
func (s *Store[R, S]) Create(id string, req R, st S) error {
	if !ident.Valid(id) {
		return errs.Invalid("cannot create a %s record: %q is not an id", s.kind, id)
	}
	tmp := filepath.Join(s.dir, "."+id)
	err := os.Mkdir(tmp, 0o700)
	if err == nil {
		err = errors.Join(put(tmp, requestFile, s.kind, req), put(tmp, statusFile, s.kind, st))
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(s.dir, id))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot record %s %s: %w", s.kind, id, err), os.RemoveAll(tmp))
	}
	return nil
}

// Update replaces an object's status. It fails if the object has no record.
func (s *Store[R, S]) Update(id string, st S) error {
	if err := put(filepath.Join(s.dir, id), statusFile, s.kind, st); err != nil {
		return fmt.Errorf("cannot record the status of %s %s: %w", s.kind, id, err)
	}
	return nil
}

// Delete forgets an object; absence is success.
func (s *Store[R, S]) Delete(id string) error {
	if !ident.Valid(id) {
		return errs.Invalid("cannot delete a %s record: %q is not an id", s.kind, id)
	}
	// Renamed first: a half-deleted record must not be met by the next start.
	gone := filepath.Join(s.dir, "."+id)
	err := os.Rename(filepath.Join(s.dir, id), gone)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, os.RemoveAll(gone)); err != nil {
		return fmt.Errorf("cannot delete the record of %s %s: %w", s.kind, id, err)
	}
	return nil
}

// All reads every record. What cannot be read is moved to quarantine and reported
// in bad; the rest is returned. The error is for the folder itself.
func (s *Store[R, S]) All() (all []Record[R, S], bad []error, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the %s records: %w", s.kind, err)
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") { // half created or half deleted
			if err := os.RemoveAll(path); err != nil {
				bad = append(bad, err)
			}
			continue
		}
		r, err := s.read(e.Name())
		if err == nil {
			all = append(all, r)
			continue
		}
		if !errors.Is(err, errNewer) {
			err = errors.Join(fmt.Errorf("%w; it is set aside in %s", err, s.quarantine), s.setAside(e.Name()))
		}
		bad = append(bad, err)
	}
	return all, bad, nil
}

// IDs lists the objects that have a record, of whatever version.
func (s *Store[R, S]) IDs() (ids []string) {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		if ident.Valid(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

// Has tells whether an object has a record, of whatever version.
func (s *Store[R, S]) Has(id string) bool {
	_, err := os.Lstat(filepath.Join(s.dir, id))
	return ident.Valid(id) && err == nil
}

func (s *Store[R, S]) setAside(name string) error {
	if err := os.MkdirAll(s.quarantine, 0o700); err != nil {
		return err
	}
	to := filepath.Join(s.quarantine, s.kind+"-"+name)
	if err := os.RemoveAll(to); err != nil { // an id is random: the same id is the same object
		return err
	}
	return os.Rename(filepath.Join(s.dir, name), to)
}

func (s *Store[R, S]) read(id string) (r Record[R, S], err error) {
	if !ident.Valid(id) {
		return r, fmt.Errorf("%s: %q is not an id", s.dir, id)
	}
	r.ID = id
	dir := filepath.Join(s.dir, id)
	if err = get(filepath.Join(dir, requestFile), s.kind, &r.Request); err == nil {
		err = get(filepath.Join(dir, statusFile), s.kind, &r.Status)
	}
	return r, err
}

func put[T any](dir, name, kind string, body T) error {
	data, err := json.Marshal(envelope[T]{Kind: kind, Version: Version, Body: body})
	if err != nil {
		return err
	}
	return fsx.WriteFile(filepath.Join(dir, name), append(data, '\n'), 0o600, fsx.Process)
}

var errNewer = errors.New("written by a newer version of this program")

func get[T any](path, kind string, body *T) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var head envelope[json.RawMessage]
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if head.Kind != kind {
		return fmt.Errorf("%s: the record is of kind %q, not %q", path, head.Kind, kind)
	}
	if head.Version > Version {
		return fmt.Errorf("%s: record version %d: %w", path, head.Version, errNewer)
	}
	dec := json.NewDecoder(bytes.NewReader(head.Body))
	if err := dec.Decode(body); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
