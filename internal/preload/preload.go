// Package preload keeps the images of a folder (images_dir) in the image store, for nodes
// that have no registry, or one that is far.
//
// What is in the folder is imported in the background, several media at a time, once: a
// record tells which content of which file has become which image, so that a start looks
// at names and sizes only. Images stay pinned for as long as their file is in the folder,
// over restarts; a folder that is empty or gone, as that of a medium that is not mounted,
// takes no pin away. A name that was imported once and was pulled anew since is not taken
// back.
//
// Whoever wants to pull an image that is on its way here waits for it, and brings it to
// the front of the queue.
package preload

import (
	"context"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/image/medium"
	"github.com/monocrio/monocrio/internal/linux/watch"
)

// Images is the image service.
type Images interface {
	Medium(ctx context.Context, path string) (*medium.Medium, error)
	Import(ctx context.Context, path string, i medium.Image) (id string, copied bool, err error)
	Find(ctx context.Context, ref string) (image.Image, error)
}

// Options are what a keeper needs.
type Options struct {
	// Record is the file that tells what was imported.
	Record string
	Log    *slog.Logger
}

// The times. A file that changed a moment ago may still be written.
const (
	settleTime = 2 * time.Second
	firstRetry = time.Minute
	lastRetry  = time.Hour
	scanTime   = 10 * time.Second // how long a pull waits for the first look at the folder
	closeTime  = 5 * time.Second
)

// State is what becomes of a medium, or of an image of it.
type State string

// The states.
const (
	Waiting   State = "waiting"
	Importing State = "importing"
	Ready     State = "ready"
	Skipped   State = "skipped" // it is for other machines
	Failed    State = "failed"
)

// Medium is a file or folder with images, as people see it.
type Medium struct {
	Path   string
	State  State
	Images []Image
	Error  string
	Retry  time.Time // when it is tried again; zero: when it changes
}

// Image is an image of a medium.
type Image struct {
	Names []string `json:"names"`
	ID    string   `json:"id,omitempty"`
	State State    `json:"-"`
}

// media is a Medium and what is needed to get on with it.
type media struct {
	Medium
	found  medium.Found
	read   bool  // its names are known
	wanted bool  // somebody waits
	known  *told // what the record has of this very content
	tries  int
}

// Keeper looks after the folder.
type Keeper struct {
	opts   Options
	images Images
	ctx    context.Context
	end    context.CancelFunc
	busy   sync.WaitGroup
	once   sync.Once
	look   chan struct{} // something may have changed
	// saving is held while the record is written.
	saving sync.Mutex

	mu      sync.Mutex
	dir     string
	problem string // with the folder
	scanned bool
	list    []*media // as medium.Find has them
	workers int
	record  record
	kept    map[string]bool // ids of images
	settle  time.Duration
	changed chan struct{} // closed at the next change
}

// New makes a keeper that has no folder yet, but knows what is pinned.
func New(o Options) *Keeper {
	k := &Keeper{opts: o, look: make(chan struct{}, 1), changed: make(chan struct{}), scanned: true, settle: settleTime}
	k.ctx, k.end = context.WithCancel(context.Background())
	var err error
	if k.record, err = load(o.Record); err != nil { // all is looked at again
		o.Log.Warn("the record of imported images is begun anew", "err", err)
	}
	k.kept = k.record.ids()
	return k
}

// Start begins to look after a folder; "" is none. Nothing is waited for.
func (k *Keeper) Start(images Images, dir string) {
	k.images = images
	k.Use(dir)
}

// Use names another folder, or the same: what has failed is tried again then.
func (k *Keeper) Use(dir string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if dir != k.dir {
		k.dir, k.scanned = dir, dir == ""
	}
	for _, m := range k.list {
		if m.State == Failed {
			m.State = Waiting
		}
	}
	k.tell()
	if dir != "" || len(k.record.Files) > 0 {
		k.once.Do(func() { k.busy.Go(k.run) })
	}
	k.again()
}

// again has the folder looked at.
func (k *Keeper) again() {
	select {
	case k.look <- struct{}{}:
	default: // it is to be
	}
}

// Close ends it.
func (k *Keeper) Close() {
	k.end()
	done := make(chan struct{})
	go func() { k.busy.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeTime):
		k.opts.Log.Warn("an import does not end in time")
	}
}

// Keeps tells whether an image came from the folder.
func (k *Keeper) Keeps(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept[id]
}

// Media lists what there is in the folder; problem is what is wrong with the folder.
func (k *Keeper) Media() (dir string, list []Medium, problem string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.list {
		c := m.Medium
		c.Images = slices.Clone(m.Images)
		list = append(list, c)
	}
	return k.dir, list, k.problem
}

// Await returns when no medium that may have one of the names is still to be imported.
// unread: nor one whose names are not known yet.
func (k *Keeper) Await(ctx context.Context, names []string, unread bool) error {
	k.revive(ctx, names)
	patience := time.After(scanTime)
	for {
		k.mu.Lock()
		wait := !k.scanned
		for _, m := range k.list {
			if m.State != Waiting && m.State != Importing {
				continue
			}
			if m.read && len(m.meant(names)) > 0 || !m.read && unread {
				m.wanted, wait, patience = true, true, nil
			}
		}
		changed := k.changed
		k.mu.Unlock()
		if !wait {
			return nil
		}
		select {
		case <-changed:
		case <-patience:
			if !unread {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-k.ctx.Done():
			return errs.Unavailable("the daemon ends; pull again")
		}
	}
}

// revive has images imported again that somebody removed and somebody else wants.
func (k *Keeper) revive(ctx context.Context, names []string) {
	had := map[*media][]string{}
	k.mu.Lock()
	for _, m := range k.list {
		if own := m.meant(names); m.State == Ready && len(own) > 0 {
			had[m] = own
		}
	}
	k.mu.Unlock()
	for m, own := range had {
		if slices.ContainsFunc(own, func(n string) bool { _, err := k.images.Find(ctx, n); return errs.Is(err, errs.KindNotFound) }) {
			k.mu.Lock()
			if m.State == Ready {
				m.State = Waiting
			}
			k.mu.Unlock()
			k.again()
		}
	}
}

// meant are those of a medium's names that may be meant by some others: a digest is not
// known before the import.
func (m *media) meant(names []string) (own []string) {
	for _, i := range m.Images {
		for _, n := range i.Names {
			if i.State != Skipped && slices.ContainsFunc(names, func(name string) bool {
				repository, _, digested := strings.Cut(name, "@")
				return name == n || digested && strings.HasPrefix(n, repository+":")
			}) {
				own = append(own, n)
			}
		}
	}
	return own
}

// tell wakes up who waits for a change. The caller holds k.mu.
func (k *Keeper) tell() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// run looks at the folder whenever something may have changed.
func (k *Keeper) run() {
	t := time.NewTimer(lastRetry)
	defer t.Stop()
	watched, stop := "", func() {}
	defer func() { stop() }()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-k.look:
		case <-t.C:
		}
		k.mu.Lock()
		dir := k.dir
		k.mu.Unlock()
		if dir != watched {
			stop()
			watched, stop = dir, k.watch(dir)
		}
		t.Reset(k.scan(dir))
		k.work()
	}
}

// watch has a folder looked at when something in it changes.
func (k *Keeper) watch(dir string) (stop func()) {
	if dir == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(k.ctx)
	w := watch.New("the folder of images", func() []string { return folders(dir) }, k.opts.Log)
	k.busy.Go(func() { w.Run(ctx, k.again) })
	return cancel
}

// folders are those in which media may come and go.
func folders(dir string) (list []string) {
	list = []string{dir}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return nil
		case path != dir && (strings.HasPrefix(d.Name(), ".") || d.Name() == "blobs"):
			return fs.SkipDir
		case path != dir:
			list = append(list, path)
		}
		return nil
	})
	return list
}

// maxWorkers is how many media are imported at a time: one decompresses while another
// waits for the disk, and pods need the rest.
func maxWorkers() int { return max(2, min(runtime.NumCPU(), 4)) }
