package stats

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/monocrio/monocrio/internal/linux/netstat"
)

// flight is one reading in progress.
type flight struct {
	settled chan struct{} // closed when it has ended, or is not worth waiting for
	once    sync.Once
	ended   atomic.Bool
	said    atomic.Bool // that it does not end
}

func (f *flight) settle() { f.once.Do(func() { close(f.settled) }) }

// job is a reading to be done.
type job struct {
	*flight
	// run reads; it is called once, with the thread's way into network namespaces.
	run func(*netstat.Visitor)
	// patience is how long it may go on before it loses its place.
	patience time.Duration
	// late is called when the reading has gone on for so long that people should know,
	// back when it has ended after that.
	late, back func()
}

// sayAfter is how long after its patience a reading is told of in the log: on a machine
// that is out of breath the first may pass without anything being wrong.
const sayAfter = 10 * time.Second

// pool does readings, width at a time, on goroutines that end when there is nothing to
// do. A reading that goes on for longer than its patience loses its place to another one:
// whoever waits for it is told not to, and the rest goes on as if it were not there.
type pool struct {
	width int

	mu    sync.Mutex
	queue []job
	taken int // places
	wg    sync.WaitGroup
}

func (p *pool) submit(jobs []job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(p.queue, jobs...)
	for range min(p.width-p.taken, len(jobs)) {
		p.taken++
		p.wg.Go(p.work)
	}
}

// work does readings until there is none or its place is lost.
func (p *pool) work() {
	var v netstat.Visitor
	defer v.Leave()
	for {
		j, ok := p.next()
		if !ok {
			return
		}
		t := time.AfterFunc(j.patience, func() { p.giveUp(j) })
		j.run(&v)
		j.ended.Store(true)
		if !t.Stop() { // the place is another's now
			if j.said.Load() {
				j.back()
			}
			return
		}
	}
}

// next takes a job; without one it gives the place back.
func (p *pool) next() (job, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.queue = nil
		p.taken--
		return job{}, false
	}
	j := p.queue[0]
	p.queue[0] = job{}
	p.queue = p.queue[1:]
	return j, true
}

// giveUp lets another goroutine have the place of a reading that goes on for too long.
func (p *pool) giveUp(j job) {
	j.settle()
	time.AfterFunc(sayAfter, func() {
		if !j.ended.Load() {
			j.said.Store(true)
			j.late()
		}
	})
	p.wg.Go(p.work)
}

// end waits until all readings have ended, but not for ever.
func (p *pool) end(limit time.Duration) {
	p.mu.Lock()
	p.queue = nil
	p.mu.Unlock()
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
