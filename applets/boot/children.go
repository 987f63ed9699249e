package boot

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// children are the processes that were started here. Process 1 is also the parent of all
// whose own has ended, monitors for example; one loop takes leave of all of them, so
// nothing else here may wait for a process.
type children struct {
	mu    sync.Mutex
	waits map[int]chan unix.WaitStatus
	names map[string]int
}

// start starts a process; the channel gets how it ends.
func (c *children) start(name string, cmd *exec.Cmd) (<-chan unix.WaitStatus, error) {
	c.mu.Lock() // it may end before it is noted
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan unix.WaitStatus, 1)
	if c.names == nil {
		c.names = map[string]int{}
	}
	c.waits[cmd.Process.Pid], c.names[name] = ended, cmd.Process.Pid
	return ended, cmd.Process.Release()
}

// pid is the process of that name, 0 if it has ended.
func (c *children) pid(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, runs := c.waits[c.names[name]]; !runs {
		return 0
	}
	return c.names[name]
}

// gone waits for the end of a process, at most so long.
func (c *children) gone(name string, limit time.Duration) {
	for end := time.Now().Add(limit); c.pid(name) != 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
}

// reap takes leave of processes that have ended, for ever.
func (c *children) reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	for {
		for c.reapOne() {
		}
		<-ended
	}
}

func (c *children) reapOne() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	if errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if w, ok := c.waits[pid]; ok {
		w <- status
		delete(c.waits, pid)
	}
	return true
}
