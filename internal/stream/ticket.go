package stream

import (
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
)

// An address that nobody uses is forgotten; so many are remembered at most. (The
// kubelet uses each within milliseconds.)
const (
	ticketTime = time.Minute
	maxTickets = 1000
)

// ticket is a checked request that waits for its client.
type ticket struct {
	verb                       string // exec, attach, portforward
	id                         string // of the container, or of the pod
	command                    []string
	stdin, stdout, stderr, tty bool
	ports                      []int32
	until                      time.Time
}

// tickets are found by a token that cannot be guessed, once.
type tickets struct {
	mu  sync.Mutex
	all map[string]ticket
}

func (ts *tickets) add(t ticket) (token string, err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	now := time.Now()
	for k, old := range ts.all {
		if now.After(old.until) {
			delete(ts.all, k)
		}
	}
	if len(ts.all) >= maxTickets {
		return "", errs.Errorf(errs.KindExhausted, "cannot %s: %d addresses wait for their clients; try again in a minute", t.verb, len(ts.all))
	}
	if ts.all == nil {
		ts.all = map[string]ticket{}
	}
	token, t.until = rand.Text(), now.Add(ticketTime)
	ts.all[token] = t
	return token, nil
}

func (ts *tickets) take(verb, token string) (ticket, bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t, ok := ts.all[token]
	if !ok || t.verb != verb {
		return ticket{}, false
	}
	delete(ts.all, token)
	return t, time.Now().Before(t.until)
}

// cutPath takes /VERB/TOKEN apart.
func cutPath(path string) (verb, token string, ok bool) {
	return strings.Cut(strings.TrimPrefix(path, "/"), "/")
}
