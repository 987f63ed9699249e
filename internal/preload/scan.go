package preload

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/image/medium"
)

// scan looks at the folder and finds out what is to be done; it tells when it wants to
// look again.
func (k *Keeper) scan(dir string) (again time.Duration) {
	var found []medium.Found
	problem := ""
	if dir != "" {
		var err error
		if found, err = medium.Find(dir); err != nil {
			problem = fmt.Sprintf("cannot read all of images_dir: %v", err)
		} else if len(found) == 0 {
			problem = fmt.Sprintf("there is no image in images_dir = %q", dir)
		}
	}
	fresh := k.merge(found, problem)
	for _, m := range fresh {
		k.first(m)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dir == dir {
		k.scanned = true
	}
	again = lastRetry
	now := time.Now()
	for _, m := range k.list {
		if m.State == Failed && !m.Retry.IsZero() {
			if !m.Retry.After(now) {
				m.State = Waiting
				continue
			}
			again = min(again, m.Retry.Sub(now))
		}
		if m.State == Waiting && k.unsettled(m, now) > 0 {
			again = min(again, k.unsettled(m, now))
		}
	}
	k.tell()
	return again
}

// unsettled is how long a file must rest that may still be written. A time in the future
// says nothing: the clock may have been wrong.
func (k *Keeper) unsettled(m *media, now time.Time) time.Duration {
	if age := now.Sub(m.found.Changed); age >= 0 && age < k.settle {
		return k.settle - age
	}
	return 0
}

// merge brings the list in line with the folder and returns what is new in it.
func (k *Keeper) merge(found []medium.Found, problem string) (fresh []*media) {
	dropped := false
	defer func() {
		if dropped {
			k.save()
		}
	}()
	k.mu.Lock()
	defer k.mu.Unlock()
	if problem != "" && problem != k.problem {
		k.opts.Log.Warn("images are not imported", "err", problem)
	}
	k.problem = problem
	if problem != "" && len(found) == 0 {
		return nil // what was there before may come back, and its images stay
	}
	old := map[string]*media{}
	for _, m := range k.list {
		old[m.Path] = m
	}
	k.list = nil
	there := map[string]bool{}
	for _, f := range found {
		there[f.Path] = true
		m := old[f.Path]
		if m == nil || m.found.Stamp != f.Stamp {
			m = &media{Medium: Medium{Path: f.Path, State: Waiting}, found: f}
			if t, ok := k.record.Files[f.Path]; ok && t.Stamp == f.Stamp {
				m.known, m.read, m.Images = &t, true, slices.Clone(t.Images)
			}
			fresh = append(fresh, m)
		}
		m.found.Changed = f.Changed
		k.list = append(k.list, m)
	}
	if problem == "" { // all was seen
		for path := range k.record.Files {
			if !there[path] {
				delete(k.record.Files, path)
				dropped = true
				k.opts.Log.Info("images are not pinned any more: their file is gone", "path", path)
			}
		}
		if dropped {
			k.kept = k.record.ids()
		}
	}
	return fresh
}

// save writes the record as it is now. The disk may take its time: nobody else waits.
func (k *Keeper) save() {
	k.saving.Lock()
	defer k.saving.Unlock()
	k.mu.Lock()
	data, err := json.Marshal(k.record)
	k.mu.Unlock()
	if err == nil {
		err = fsx.WriteFile(k.opts.Record, data, 0o600, fsx.Power) // as images do, it outlives a power cut
	}
	if err != nil {
		k.opts.Log.Error("images that were imported will be looked at again: it cannot be recorded that they were", "err", err)
	}
}

// first finds out of a new medium whether all of it is there, and if not, its names.
func (k *Keeper) first(m *media) {
	there := m.known != nil && k.complete(m.known)
	k.mu.Lock()
	if there && m.State == Waiting {
		for i := range m.Images {
			m.Images[i].State = Ready
			if m.Images[i].ID == "" {
				m.Images[i].State = Skipped
			}
		}
		m.done()
	}
	later := m.read || m.State != Waiting || k.unsettled(m, time.Now()) > 0
	k.mu.Unlock()
	if later || medium.Compressed(m.Path) {
		return
	}
	open, err := k.images.Medium(k.ctx, m.Path)
	if err != nil {
		return // the import will say it
	}
	defer open.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.State == Waiting { // else a worker has been faster
		m.setImages(open)
	}
}

// done is the state of a medium without a failure.
func (m *media) done() {
	m.State, m.Error, m.Retry, m.tries = Ready, "", time.Time{}, 0
	if !slices.ContainsFunc(m.Images, func(i Image) bool { return i.State != Skipped }) {
		m.State = Skipped
	}
}

func (m *media) setImages(open *medium.Medium) {
	m.read, m.Images = true, nil
	for i := range open.Images {
		m.Images = append(m.Images, Image{Names: open.Images[i].FullNames(), State: Waiting})
	}
}

// complete tells whether all that was imported is still there. A name that means another
// image meanwhile was pulled anew: it stays so.
func (k *Keeper) complete(t *told) bool {
	for _, i := range t.Images {
		if i.ID == "" {
			continue
		}
		for _, n := range i.Names {
			if _, err := k.images.Find(k.ctx, n); err != nil {
				return false
			}
		}
	}
	return true
}

// work has what waits imported, by a few at a time.
func (k *Keeper) work() {
	k.mu.Lock()
	defer k.mu.Unlock()
	waiting := 0
	now := time.Now()
	for _, m := range k.list {
		if m.State == Waiting && k.unsettled(m, now) == 0 {
			waiting++
		}
	}
	for ; waiting > 0 && k.workers < maxWorkers(); waiting-- {
		k.workers++
		k.busy.Go(k.worker)
	}
}

// next takes what is to be imported: first what somebody waits for, then in the order of
// paths.
func (k *Keeper) next() *media {
	k.mu.Lock()
	defer k.mu.Unlock()
	var best *media
	now := time.Now()
	for _, m := range k.list {
		if m.State == Waiting && k.unsettled(m, now) == 0 && (best == nil || m.wanted && !best.wanted) {
			best = m
		}
	}
	if best == nil || k.ctx.Err() != nil {
		k.workers--
		return nil
	}
	best.State = Importing
	k.tell()
	return best
}

func (k *Keeper) worker() {
	for m := k.next(); m != nil; m = k.next() {
		k.finish(m, k.bring(m))
	}
}

// bring imports a medium. What can be had of it is had, whatever is wrong with the rest.
func (k *Keeper) bring(m *media) error {
	open, err := k.images.Medium(k.ctx, m.Path)
	if err != nil {
		return err
	}
	defer open.Close()
	k.mu.Lock()
	m.setImages(open)
	k.mu.Unlock()
	var failed error
	for n := range open.Images {
		state, id, err := k.bringImage(m, open.Images[n])
		if err != nil && failed == nil {
			failed = err
		}
		k.mu.Lock()
		m.Images[n].State, m.Images[n].ID = state, id
		k.mu.Unlock()
	}
	return failed
}

func (k *Keeper) bringImage(m *media, i medium.Image) (State, string, error) {
	if m.known != nil {
		all := i.FullNames()
		if i = i.Without(k.taken); len(i.Names) == 0 {
			return Ready, m.known.id(all), nil
		}
	}
	id, _, err := k.images.Import(k.ctx, m.Path, i)
	switch {
	case err == nil:
		return Ready, id, nil
	case errs.Is(err, errs.KindUnimplemented):
		return Skipped, "", nil
	}
	return Failed, "", err
}

// id is that of the image that was imported under some names.
func (t *told) id(names []string) string {
	for _, i := range t.Images {
		if slices.Equal(i.Names, names) {
			return i.ID
		}
	}
	return ""
}

// taken tells whether there is an image with a name, or may be.
func (k *Keeper) taken(name string) bool {
	_, err := k.images.Find(k.ctx, name)
	return !errs.Is(err, errs.KindNotFound)
}

// finish notes how an import went, and keeps what it brought.
func (k *Keeper) finish(m *media, err error) {
	if k.note(m, err) {
		k.save()
	}
}

func (k *Keeper) note(m *media, err error) (changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.tell()
	if k.ctx.Err() != nil {
		m.State = Waiting
		return false
	}
	if slices.Contains(k.list, m) { // else it is gone, or another one meanwhile
		t := told{Stamp: m.found.Stamp, Images: slices.Clone(m.Images)}
		if err != nil {
			t.Stamp = "" // what is here stays pinned, the rest is tried again
		}
		k.record.Files[m.Path] = t
		k.kept = k.record.ids()
		changed = true
		if err == nil {
			m.known = &t
		}
	}
	if err == nil {
		m.done()
		return changed
	}
	if text := err.Error(); text != m.Error {
		k.opts.Log.Error("an image is not imported", "path", m.Path, "err", err)
		m.Error = text
	}
	m.State, m.Retry = Failed, time.Time{}
	if !errs.Is(err, errs.KindInvalid) && !errs.Is(err, errs.KindDenied) {
		m.Retry = time.Now().Add(min(firstRetry<<min(m.tries, 10), lastRetry))
		m.tries++
		k.again()
	}
	return changed
}
