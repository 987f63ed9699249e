package inspect

import "time"

// Info is the answer of /info. cAdvisor reads it; where images have a place of their own
// (StorageImage is not empty) it counts file systems of images and of containers apart.
type Info struct {
	StorageDriver     string     `json:"storage_driver"`
	StorageRoot       string     `json:"storage_root"`
	StorageImage      string     `json:"storage_image"`
	CgroupDriver      string     `json:"cgroup_driver"`
	DefaultIDMappings IDMappings `json:"default_id_mappings"`
}

// IDMappings are those of containers without a user namespace of their own.
type IDMappings struct {
	UIDs []IDMapping `json:"uids"`
	GIDs []IDMapping `json:"gids"`
}

// IDMapping is one line of a map.
type IDMapping struct {
	ContainerID int64 `json:"container_id"`
	HostID      int64 `json:"host_id"`
	Size        int64 `json:"size"`
}

// Container is the answer of /containers/{id}. cAdvisor reads it.
type Container struct {
	Name            string            `json:"name"`
	Pid             int               `json:"pid"`
	Image           string            `json:"image"`
	ImageRef        string            `json:"image_ref"`
	CreatedTime     int64             `json:"created_time"` // nanoseconds since 1970
	Labels          map[string]string `json:"labels"`
	Annotations     map[string]string `json:"annotations"`
	CrioAnnotations map[string]string `json:"crio_annotations"`
	LogPath         string            `json:"log_path"`
	Root            string            `json:"root"`
	Sandbox         string            `json:"sandbox"`
	IPs             []string          `json:"ip_addresses"`
	HostNetwork     bool              `json:"host_network"`
}

// Pods is the answer of /v1/pods.
type Pods struct {
	Now     time.Time `json:"now"`
	Started time.Time `json:"daemon_started"`
	Pods    []Pod     `json:"pods"`
	// Failed are the last pods and containers that could not be made.
	Failed []Failed `json:"failed"`
	// Owed are the CNI DELs of pods that are gone. OwedUnknown says why the list may lack
	// some.
	Owed        []Debt `json:"owed"`
	OwedUnknown string `json:"owed_unknown,omitempty"`
}

// Pod is a pod with its containers.
type Pod struct {
	Object
	Namespace  string   `json:"namespace"`
	UID        string   `json:"uid"`
	Handler    string   `json:"runtime_handler"`
	IPs        []string `json:"ips"`
	Containers []Member `json:"containers"`
	// Owed is why a CNI DEL of this pod failed; it is tried again.
	Owed string `json:"owed,omitempty"`
}

// Member is a container of a pod.
type Member struct {
	Object
	Image string `json:"image"`
	Pid   int    `json:"pid,omitempty"`
	Log   string `json:"log_path,omitempty"`
	// Exit is nil until it ended.
	Exit *Exit `json:"exit,omitempty"`
}

// Exit is how a container ended.
type Exit struct {
	Code    int32     `json:"code"`
	Reason  string    `json:"reason"`
	Message string    `json:"message,omitempty"`
	At      time.Time `json:"at"`
}

// Object is what pods and containers have in common.
type Object struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt"`
	// State is creating, ready, notready or removing; of containers creating, created,
	// running, paused, exited or removing. It is gone for a pod whose record is lost
	// while containers are left, and writing while a record is written. Since is when it was reached; nil: before
	// this daemon began, and not on record.
	State   string     `json:"state"`
	Since   *time.Time `json:"since,omitempty"`
	Created *time.Time `json:"created,omitempty"`
	// Doing is what is being done to it; nil: nothing.
	Doing *Event `json:"doing,omitempty"`
	// Problem is the newest thing that went wrong and did not succeed later.
	Problem string `json:"problem,omitempty"`
	// Timeline is what was done to it since the daemon began, oldest first. It is in
	// the answer of /v1/pods/{id} only.
	Timeline []Event `json:"timeline,omitempty"`
}

// Event is one thing that was done to an object, or is being done.
type Event struct {
	At   time.Time `json:"at"`
	What string    `json:"what"` // a step, call or state
	// Verb is up or down for a step that is made or unmade, call, or reached for a
	// state.
	Verb    string  `json:"verb"`
	Seconds float64 `json:"seconds"` // how long it took, so far
	Running bool    `json:"running,omitempty"`
	// WaitsFor is known while it runs.
	WaitsFor string `json:"waits_for,omitempty"`
	Tries    int    `json:"tries"`
	// Error is how it ended last; while it runs, how the try before ended.
	Error string `json:"error,omitempty"`
}

// Failed is a pod or container that could not be made; nothing is left of it.
type Failed struct {
	Kind     string    `json:"kind"` // pod or container
	ID       string    `json:"id"`
	Name     string    `json:"name"` // NAMESPACE/POD or NAMESPACE/POD/CONTAINER
	Pod      string    `json:"pod,omitempty"`
	At       time.Time `json:"at"`
	Times    int       `json:"times"`
	Step     string    `json:"step,omitempty"` // that failed; empty: it had not begun
	Error    string    `json:"error"`
	Timeline []Event   `json:"timeline,omitempty"`
}

// Debt is a CNI DEL that is due.
type Debt struct {
	Pod     string    `json:"pod"`
	Name    string    `json:"name"`
	Network string    `json:"network"`
	Since   time.Time `json:"since"`
	Tries   int       `json:"tries"`
	Error   string    `json:"error"`
}

// Why is the answer of /v1/pods/{id}: one pod, of which there may be nothing left but
// its failure, or what it owes.
type Why struct {
	Now         time.Time `json:"now"`
	Started     time.Time `json:"daemon_started"`
	Pod         *Pod      `json:"pod,omitempty"`
	Failed      []Failed  `json:"failed"`
	Owed        []Debt    `json:"owed"`
	OwedUnknown string    `json:"owed_unknown,omitempty"`
}

// Pulls is the answer of /v1/pulls.
type Pulls struct {
	Now    time.Time `json:"now"`
	Pulls  []Pull    `json:"pulls"`
	Recent []Pull    `json:"recent"` // ended, oldest first
}

// Pull is an image on its way.
type Pull struct {
	Image   string    `json:"image"`
	Started time.Time `json:"started"`
	// Hosts are the registries that are asked, mirrors first.
	Hosts []string `json:"hosts"`
	// Done and Total count the bytes of the layers that are fetched; Total is nil until
	// it is known.
	Done     int64      `json:"bytes_done"`
	Total    *int64     `json:"bytes_total,omitempty"`
	Rate     float64    `json:"bytes_per_second"`
	LastByte time.Time  `json:"last_byte"`
	Left     *float64   `json:"seconds_left,omitempty"`
	Layers   []Layer    `json:"layers"`
	Ended    *time.Time `json:"ended,omitempty"`
	ID       string     `json:"id,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// Layer is one layer of an image on its way.
type Layer struct {
	Digest string `json:"digest"`
	State  string `json:"state"` // present, waiting, fetching, fetched, unpacking, done
	Done   int64  `json:"bytes_done"`
	Size   int64  `json:"bytes_total"`
}

// Media is the answer of /v1/media: what is in the folder of images (images_dir).
type Media struct {
	Now     time.Time `json:"now"`
	Dir     string    `json:"images_dir"`
	Problem string    `json:"problem,omitempty"` // with the folder
	Media   []Medium  `json:"media"`
}

// Medium is a file or folder with images.
type Medium struct {
	Path   string        `json:"path"`
	State  string        `json:"state"` // waiting, importing, ready, skipped (for other machines), failed
	Images []MediumImage `json:"images"`
	Error  string        `json:"error,omitempty"`
	// Retry is when what failed is tried again; nil: when the file changes.
	Retry *time.Time `json:"retry,omitempty"`
}

// MediumImage is an image of a medium. Its id is known when it was imported.
type MediumImage struct {
	Names []string `json:"names"`
	ID    string   `json:"id,omitempty"`
	State string   `json:"state"`
}
