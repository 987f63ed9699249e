package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci"
)

// record is what is known of a container. Each field is written before what it
// names is made, or as soon as it is known.
type record struct {
	Bundle      string
	Created     time.Time
	Annotations map[string]string
	// Proxy is the process that stands for the container; zero before it runs.
	Proxy proc.ID
	// Task is what the shim calls the pid of the container's process; 0 before that.
	Task int
	// Cgroup is where proxy and shim are; "" if the bundle names none.
	Cgroup string
	// Environ is the environment in which the shim was started: its delete has the same.
	Environ []string
	// Address is where the shim listens; "" until it has told. Service is the name of
	// the Task service there.
	Address, Service string
}

// Files in the folder of a container, which is Root/ID.
const (
	recordFile = "record.json"
	streamsDir = "streams" // the container's named pipes
	execsDir   = "execs"   // a folder for each exec
	logFile    = "shim.log"
	eventsFile = "e" // socket; a short name, because addresses are short
)

func (r *Runtime) dir(id string) string { return filepath.Join(r.o.Root, id) }

func (r *Runtime) path(id, name string) string { return filepath.Join(r.o.Root, id, name) }

// put writes a record. It fails when the container was deleted meanwhile.
func (r *Runtime) put(id string, rec *record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return fsx.WriteFile(r.path(id, recordFile), data, 0o600, fsx.Process)
}

// get reads a record. A folder without one is a creation that was cut off: its
// record is empty.
func (r *Runtime) get(id string) (*record, error) {
	if !oci.ValidID(id) {
		return nil, errs.NotFound("container", id)
	}
	data, err := os.ReadFile(r.path(id, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(r.dir(id)); err != nil {
			return nil, errs.NotFound("container", id)
		}
		return &record{}, nil
	}
	rec := &record{}
	if err == nil {
		err = json.Unmarshal(data, rec)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the record of container %s: %w", id, err)
	}
	return rec, nil
}
