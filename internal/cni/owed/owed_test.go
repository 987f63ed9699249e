package owed

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/ident"
)

func open(t *testing.T, dir string, detach func(cni.Request) error) *Ledger {
	t.Helper()
	l := &Ledger{Patience: time.Minute, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Detach: func(_ context.Context, _ cni.Config, r cni.Request, res json.RawMessage) error {
			if string(res) != `{"ips":[]}` {
				t.Errorf("the result of the ADD came back as %s", res)
			}
			return detach(r)
		}}
	if err := l.Open(filepath.Join(dir, "owed"), filepath.Join(dir, "quarantine")); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestDebtsOutliveTheirDaemon: what fails stays, also for the next daemon; what
// succeeds is forgotten, and one debt that fails does not hold another.
func TestDebtsOutliveTheirDaemon(t *testing.T) {
	dir, stubborn, easy := t.TempDir(), ident.New(), ident.New()
	l := open(t, dir, nil)
	for _, id := range []string{stubborn, easy, easy} { // a repeated removal owes it once
		if err := l.Owe(id, Debt{Request: cni.Request{ID: id}, Result: []byte(`{"ips":[]}`)}, "plugin bridge failed"); err != nil {
			t.Fatal(err)
		}
	}
	broken, tried := true, []string{}
	l = open(t, dir, func(r cni.Request) error {
		tried = append(tried, r.ID)
		if r.ID == stubborn && broken {
			return errors.New("no carrier")
		}
		return nil
	})
	err := l.Pay(context.Background())
	if err == nil || !strings.Contains(err.Error(), stubborn) || !strings.Contains(err.Error(), "try 1: no carrier") || strings.Contains(err.Error(), easy) {
		t.Errorf("the first try says: %v", err)
	}
	if ids, err := l.IDs(); err != nil || !slices.Equal(ids, []string{stubborn}) {
		t.Errorf("left: %v, %v", ids, err)
	}
	if err = l.Pay(context.Background()); err == nil || !strings.Contains(err.Error(), "try 2") {
		t.Errorf("the second try says: %v", err)
	}
	broken = false
	if err = l.Pay(context.Background()); err != nil {
		t.Error(err)
	}
	if ids, _ := l.IDs(); len(ids) > 0 || len(tried) != 4 {
		t.Errorf("left: %v; tried: %v", ids, tried)
	}
}
