// Package owed keeps the CNI DELs that pods which are gone still owe: a plugin that
// fails does not hold a pod's removal, and what it left undone is tried again until
// it succeeds, also by later daemons.
package owed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/record"
)

// Debt is a DEL that is due, with all that it needs.
type Debt struct {
	Config  cni.Config      `json:"config"`
	Request cni.Request     `json:"request"`
	Result  json.RawMessage `json:"result"`
}

type status struct {
	Since int64  `json:"since"` // nanoseconds since 1970
	Tries int    `json:"tries"`
	Error string `json:"error"`
}

// Ledger is the list of debts, one record each, named by the pod's id.
type Ledger struct {
	// Detach pays a debt; absence is success.
	Detach func(context.Context, cni.Config, cni.Request, json.RawMessage) error
	// Patience bounds one try.
	Patience time.Duration
	Log      *slog.Logger

	mu    sync.Mutex // a listing clears away what is half written
	debts *record.Store[Debt, status]
}

// Open reads the ledger in dir; records that cannot be used go to quarantine.
func (l *Ledger) Open(dir, quarantine string) (err error) {
	l.debts, err = record.Open[Debt, status](dir, quarantine, "debt")
	return err
}

// Owe writes a debt down; one that the pod has already is replaced.
func (l *Ledger) Owe(id string, d Debt, why string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.debts.Delete(id); err != nil { // from a removal that stopped here
		return err
	}
	return l.debts.Create(id, d, status{Since: time.Now().UnixNano(), Error: why})
}

// Pay tries each debt once; the error tells what is left and why.
func (l *Ledger) Pay(ctx context.Context) error {
	debts, bad, err := l.list()
	err = errors.Join(append(bad, err)...)
	for _, d := range debts {
		if e := l.pay(ctx, d.ID, d.Request, d.Status); e != nil {
			err = errors.Join(err, fmt.Errorf("the CNI DEL of pod %s, try %d: %w", d.ID, d.Status.Tries+1, e))
		}
	}
	return err
}

func (l *Ledger) pay(ctx context.Context, id string, d Debt, st status) error {
	ctx, cancel := context.WithTimeout(ctx, l.Patience)
	defer cancel()
	err := l.Detach(ctx, d.Config, d.Request, d.Result)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.Log.Info("paid: the CNI DEL of a removed pod", "pod", id, "tries", st.Tries+1)
		return l.debts.Delete(id)
	}
	st.Tries, st.Error = st.Tries+1, err.Error()
	return errors.Join(err, l.debts.Update(id, st))
}

// Due is a debt and how often its payment was tried.
type Due struct {
	Pod, Name string // id; namespace and name
	Network   string
	Since     time.Time
	Tries     int
	Err       string
}

// All lists the debts.
func (l *Ledger) All() (all []Due, err error) {
	debts, _, err := l.list()
	for _, d := range debts {
		r := d.Request.Request
		all = append(all, Due{Pod: d.ID, Name: r.PodNamespace + "/" + r.PodName, Network: d.Request.Config.Name,
			Since: time.Unix(0, d.Status.Since), Tries: d.Status.Tries, Err: d.Status.Error})
	}
	return all, err
}

// IDs lists the pods that owe something.
func (l *Ledger) IDs() (ids []string, err error) {
	debts, _, err := l.list()
	for _, d := range debts {
		ids = append(ids, d.ID)
	}
	return ids, err
}

func (l *Ledger) list() ([]record.Record[Debt, status], []error, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.debts.All()
}
