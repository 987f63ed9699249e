package record

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/ident"
)

type req struct{ Name string }
type stat struct{ Phase string }

func open(t *testing.T, dir string) *Store[req, stat] {
	t.Helper()
	s, err := Open[req, stat](filepath.Join(dir, "pods"), filepath.Join(dir, "quarantine"), "pod")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLife(t *testing.T) {
	s, id := open(t, t.TempDir()), ident.New()
	if err := s.Create(id, req{"a"}, stat{"creating"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(id, req{"b"}, stat{"creating"}); err == nil {
		t.Error("a second Create of one id succeeded")
	}
	if err := s.Update(id, stat{"ready"}); err != nil {
		t.Fatal(err)
	}
	all, bad, err := s.All()
	if err != nil || len(bad) != 0 || len(all) != 1 {
		t.Fatal(all, bad, err)
	}
	if got := all[0]; got.ID != id || got.Request.Name != "a" || got.Status.Phase != "ready" {
		t.Errorf("read back %+v", got)
	}
	for range 2 { // absence is success
		if err := s.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Update(id, stat{"ready"}); err == nil {
		t.Error("Update of a deleted record succeeded: it would come back to life")
	}
	if all, _, _ := s.All(); len(all) != 0 {
		t.Error("a deleted record is still there")
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	good, torn, newer, half := ident.New(), ident.New(), ident.New(), ident.New()
	for _, id := range []string{good, torn, newer} {
		if err := s.Create(id, req{id}, stat{"ready"}); err != nil {
			t.Fatal(err)
		}
	}
	write := func(id, text string) {
		if err := os.WriteFile(filepath.Join(dir, "pods", id, "status.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(torn, `{"kind":"pod","ver`)
	write(newer, `{"kind":"pod","version":99,"body":{}}`)
	if err := os.Mkdir(filepath.Join(dir, "pods", "."+half), 0o700); err != nil {
		t.Fatal(err)
	}
	all, bad, err := s.All()
	if err != nil || len(all) != 1 || all[0].ID != good || len(bad) != 2 {
		t.Fatalf("all %v, bad %v, err %v", all, bad, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "quarantine", "pod-"+torn, "request.json")); err != nil {
		t.Errorf("the torn record was not kept in quarantine: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pods", newer)); err != nil {
		t.Errorf("the newer record was touched: %v", err)
	}
	if ids := s.IDs(); len(ids) != 2 || !s.Has(good) || !s.Has(newer) || s.Has(torn) || s.Has(half) || s.Has("..") {
		t.Errorf("ids on record: %v", ids)
	}
	if !strings.Contains(errors.Join(bad...).Error(), filepath.Join(dir, "quarantine")) {
		t.Errorf("nobody is told where the torn record went: %v", bad)
	}
	if _, err := os.Stat(filepath.Join(dir, "pods", "."+half)); err == nil {
		t.Error("the half-made record is still there")
	}
}

func TestIDsDoNotLeaveTheFolder(t *testing.T) {
	s := open(t, t.TempDir())
	for _, id := range []string{"", "..", "../x", "abc", "/etc"} {
		if err := s.Create(id, req{}, stat{}); err == nil {
			t.Errorf("Create(%q) succeeded", id)
		}
		if err := s.Delete(id); err == nil {
			t.Errorf("Delete(%q) succeeded", id)
		}
	}
}
