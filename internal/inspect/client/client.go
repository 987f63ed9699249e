// Package client asks the daemon's HTTP API and shows the answers: the commands of
// crio-status, which `crio status` has too. People get tables, programs JSON.
//
// It knows the types of package inspect and nothing else of the daemon.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/inspect"
	"golang.org/x/sys/unix"
)

// DefaultSocket is where a daemon listens that was not told otherwise.
const DefaultSocket = "/var/run/crio/crio.sock"

// answerTime is how long the daemon may take for an answer, but for a dump.
const answerTime = 30 * time.Second

// Client asks one daemon.
type Client struct {
	socket string
	http   *http.Client
}

// New makes a client of the daemon that listens at a path.
func New(socket string) *Client {
	c := &Client{socket: strings.TrimPrefix(socket, "unix://")}
	c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	}}}
	return c
}

// open asks for a path; the caller closes the answer.
func (c *Client) open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://crio"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	why := strings.TrimSpace(string(text))
	switch {
	case resp.StatusCode == http.StatusNotFound && strings.HasPrefix(why, "404 "): // the path itself
		return nil, errs.Unimplemented("the daemon at %s does not know %s: it is of another version than this program", c.socket, path)
	case resp.StatusCode == http.StatusNotFound:
		return nil, errs.Errorf(errs.KindNotFound, "%s", why)
	}
	return nil, fmt.Errorf("%s", why)
}

// explain says what to do about a daemon that cannot be reached.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the daemon at %s does not answer in time; SIGUSR1 makes it write the stacks of its goroutines to a file", c.socket)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("there is no daemon at %s: start crio, or say by --socket where it listens ([crio.api] listen)", c.socket)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("nobody listens at %s any more: the daemon has ended; start crio, its log says why it ended", c.socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the daemon at %s may only be asked by root and the socket's group: run this as root", c.socket)
	}
	var u *url.Error
	if errors.As(err, &u) { // the URL says nothing to people
		err = u.Err
	}
	return fmt.Errorf("cannot ask the daemon at %s: %w", c.socket, err)
}

// bytes asks for a path and returns the whole answer.
func (c *Client) bytes(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	body, err := c.open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, c.explain(err)
	}
	return data, nil
}

// ask reads a JSON answer.
func (c *Client) ask(ctx context.Context, path string, into any) error {
	data, err := c.bytes(ctx, path)
	if err == nil {
		if err = json.Unmarshal(data, into); err != nil {
			err = fmt.Errorf("cannot read the daemon's answer: %w", err)
		}
	}
	return err
}

// Pulls tells of the images on their way.
func (c *Client) Pulls(ctx context.Context) (p inspect.Pulls, err error) {
	return p, c.ask(ctx, "/v1/pulls", &p)
}

// pods tells of everything that lives.
func (c *Client) pods(ctx context.Context) (p inspect.Pods, err error) {
	return p, c.ask(ctx, "/v1/pods", &p)
}

// full makes a full id of the beginning of a container's or a pod's.
func (c *Client) full(ctx context.Context, id string) (string, error) {
	if len(id) == 64 {
		return id, nil
	}
	all, err := c.pods(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, p := range all.Pods {
		if strings.HasPrefix(p.ID, id) {
			found = append(found, p.ID)
		}
		for i := range p.Containers {
			if strings.HasPrefix(p.Containers[i].ID, id) {
				found = append(found, p.Containers[i].ID)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", errs.NotFound("container", id)
	case 1:
		return found[0], nil
	}
	return "", errs.Invalid("cannot tell which container is meant by %q: %d ids begin so", id, len(found))
}
