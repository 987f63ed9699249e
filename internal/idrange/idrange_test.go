package idrange

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func pool(t *testing.T, text string) *Pool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sub")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return &Pool{SubUID: path, SubGID: path, User: "containers", MinUID: -1, MinGID: -1}
}

func none() []Map { return nil }

const twoPods = "root:1:5\ncontainers:100000:131072\n"

func TestModes(t *testing.T) {
	for text, want := range map[string][]Range{
		"auto":                         {{0, 100000, 65536}},
		"auto:size=1000":               {{0, 100000, 1000}},
		"auto:size=10;keep-id=true":    {{0, 100000, 5}, {5, 5, 1}, {6, 100006, 4}},
		"auto:size=3;keep-id=true":     {{0, 100000, 3}, {5, 5, 1}},
		"auto:map-to-root=true;size=4": {{0, 5, 1}, {1, 100001, 3}},
		"auto:size=4;uidmapping=1:7:2;gidmapping=1:7:2":         {{0, 100000, 1}, {1, 7, 2}, {3, 100003, 1}},
		"private:uidmapping=5:9:1,0:1:2;gidmapping=5:9:1,0:1:2": {{0, 1, 2}, {5, 9, 1}},
	} {
		r, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		m, _, err := pool(t, twoPods).Take(r, 5, 5, none)
		if err != nil || !reflect.DeepEqual(m.UIDs, want) || !reflect.DeepEqual(m.GIDs, want) {
			t.Errorf("%s: %v %v, want %v", text, m, err, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "auto and private",
		"host":                     "auto and private",
		"auto:size=0":              "size",
		"auto:size=many":           "size",
		"auto:speed=1":             "speed",
		"private":                  "are needed",
		"private:size=1":           "size",
		"private:uidmapping=0:1:1": "are needed",
		"private:uidmapping=0:1;gidmapping=0:1:1":            "CONTAINER:HOST:SIZE",
		"auto:keep-id=true;map-to-root=true":                 "exclude",
		"private:uidmapping=0:4294967295:2;gidmapping=0:1:1": "CONTAINER:HOST:SIZE",
		"private:uidmapping=1:5:1;gidmapping=0:5:1":          "user 0 is not mapped",
		"private:uidmapping=0:5:2,1:9:1;gidmapping=0:5:1":    "overlap",
		"private:uidmapping=0:5:2,7:6:1;gidmapping=0:5:1":    "overlap",
		"private:uidmapping=0:4:1;gidmapping=0:5:1":          "may not be mapped",
		"auto:size=200000":                                   "are free",
	} {
		p := pool(t, twoPods)
		p.MinUID = 5
		r, err := Parse(text)
		if err == nil {
			_, _, err = p.Take(r, 5, 5, none)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to say %q", text, err, want)
		}
	}
	r, _ := Parse("auto:keep-id=true")
	for _, id := range []int64{-1, 0} {
		if _, _, err := pool(t, twoPods).Take(r, id, id, none); err == nil || !strings.Contains(err.Error(), "run_as_user") {
			t.Errorf("keep-id of user %d: %v", id, err)
		}
	}
	r, _ = Parse("auto")
	if _, _, err := pool(t, "other:1:100000\n").Take(r, 0, 0, none); err == nil || !strings.Contains(err.Error(), "sets no user ids aside") {
		t.Errorf("without ranges: %v", err)
	}
}

// No two pods have an id in common, whether they are listed already or not.
func TestPodsShareNothing(t *testing.T) {
	p := pool(t, "containers:1000:100\ncontainers:5000:100\n")
	r, _ := Parse("auto:size=10")
	var mu sync.Mutex
	var pods []Map
	list := func() []Map { mu.Lock(); defer mu.Unlock(); return append([]Map{}, pods...) }
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			m, release, err := p.Take(r, 0, 0, list)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			pods = append(pods, m)
			mu.Unlock()
			release()
		})
	}
	wg.Wait()
	seen := map[uint32]bool{}
	for _, m := range pods {
		if h := m.UIDs[0].Host; seen[h] {
			t.Errorf("ids from %d on are two pods'", h)
		} else {
			seen[h] = true
		}
	}
	if _, _, err := p.Take(r, 0, 0, list); err == nil {
		t.Error("a 21st pod found ids where 20 fit")
	}
	pods = pods[1:]
	if _, _, err := p.Take(r, 0, 0, list); err != nil {
		t.Error("the ids of a pod that is gone are not free:", err)
	}
	if len(p.taken) != 1 {
		t.Errorf("%d stay taken after their release", len(p.taken)-1)
	}
}
