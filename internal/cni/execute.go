package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// pipeTime is how long a plugin's children may hold its pipes when it has ended.
const pipeTime = time.Second

// execute runs a file as the specification says. It is not the library's way, which
// waits for whoever has a plugin's pipes, also after the caller's deadline: a plugin that
// leaves a child behind would hold the pod for ever.
func (e *Exec) execute(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	var err error
	for try := 0; ; try++ {
		stdout.Reset()
		stderr.Reset()
		c := exec.CommandContext(ctx, path)
		c.Env, c.Stdin, c.Stdout, c.Stderr, c.WaitDelay = environ, bytes.NewReader(stdin), &stdout, &stderr, pipeTime
		// All that it has started in its group ends with it.
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		c.Cancel = func() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) }
		err = c.Run()
		if !errors.Is(err, unix.ETXTBSY) || try == 5 || ctx.Err() != nil {
			break
		}
		time.Sleep(200 * time.Millisecond) // it is being installed
	}
	if stderr.Len() > 0 && e.log != nil {
		e.log.Debug("CNI plugin wrote to standard error", "plugin", path, "text", strings.TrimSpace(stderr.String()))
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it ended well, a child of it did not
		return stdout.Bytes(), nil
	}
	err = pluginError(err, stdout.Bytes(), stderr.Bytes())
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return nil, fmt.Errorf("plugin %s: %w", path, err)
}

// pluginError is what a plugin that failed has said: on its output as the specification
// wants it, else on standard error.
func pluginError(err error, stdout, stderr []byte) error {
	var said types.Error
	switch {
	case len(stdout) > 0 && json.Unmarshal(stdout, &said) == nil:
		return &said
	case len(stdout) > 0:
		said.Msg = fmt.Sprintf("it failed (%v) and said what is no CNI error: %.500q", err, stdout)
	case len(stderr) > 0:
		said.Msg = fmt.Sprintf("it failed (%v): %.500q", err, stderr)
	default:
		said.Msg = fmt.Sprintf("it failed without a word: %v", err)
	}
	return &said
}
