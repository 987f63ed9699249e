package stream

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// forwarder serves the protocol portforward.k8s.io on one connection of SPDY, on which
// each forwarded connection is a pair of streams, data and error. It does what the
// library's does, which hands streams on before it has answered them: when the connection
// breaks in between, whoever uses such a stream waits for ever.
type forwarder struct {
	x       *session
	arrived chan arrival
	overdue chan string // request ids
	pairs   map[string]*pair
	sync.WaitGroup
}

// arrival is a new stream. It may be used once it is answered.
type arrival struct {
	httpstream.Stream
	answered <-chan struct{}
}

// pair is one forwarded connection.
type pair struct {
	data, errs httpstream.Stream
	timer      *time.Timer // for the second one to come
}

func (x *session) newForwarder() *forwarder {
	return &forwarder{x: x, arrived: make(chan arrival), overdue: make(chan string), pairs: map[string]*pair{}}
}

// servePorts upgrades the request's connection to SPDY.
func (x *session) servePorts(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, portforward.SupportedProtocols); err != nil {
		return // the client was told
	}
	f := x.newForwarder()
	if c := spdy.NewResponseUpgrader().UpgradeResponse(w, r, f.accept); c != nil {
		f.run(c)
	}
}

// accept looks at a new stream and hands it on; when it returns the library answers.
func (f *forwarder) accept(s httpstream.Stream, answered <-chan struct{}) error {
	port, err := strconv.ParseUint(s.Headers().Get(portforward.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("header %q must be a port", portforward.PortHeader)
	}
	if kind := s.Headers().Get(portforward.StreamType); kind != portforward.StreamTypeData && kind != portforward.StreamTypeError {
		return fmt.Errorf("header %q must be data or error", portforward.StreamType)
	}
	select {
	case f.arrived <- arrival{s, answered}:
		return nil
	case <-f.x.conn.life.Done():
		return net.ErrClosed
	}
}

// run pairs streams until the connection ends, and waits for the forwarded connections.
func (f *forwarder) run(c httpstream.Connection) {
	c.SetIdleTimeout(f.x.s.o.IdleTimeout)
	defer f.Wait()
	defer c.Close()
	defer f.x.conn.Close() // first: a client that does not read would hold the other
	for {
		select {
		case <-c.CloseChan():
			return
		case <-f.x.conn.life.Done():
			return
		case a := <-f.arrived:
			if !f.usable(c, a) {
				return
			}
			if p := f.add(a.Stream); p != nil {
				f.Go(func() {
					defer c.RemoveStreams(p.data, p.errs)
					f.forward(p)
				})
			}
		case id := <-f.overdue:
			p := f.pairs[id]
			delete(f.pairs, id)
			for _, s := range []httpstream.Stream{p.data, p.errs} {
				if s != nil {
					_ = s.Reset()
					c.RemoveStreams(s)
				}
			}
		}
	}
}

// usable waits for the answer to a stream. The library says so too when it could not
// send it, but then the connection has ended before.
func (f *forwarder) usable(c httpstream.Connection, a arrival) bool {
	select {
	case <-a.answered:
	case <-f.x.conn.life.Done():
	}
	select {
	case <-c.CloseChan():
		return false
	case <-f.x.conn.life.Done():
		return false
	default:
		return true
	}
}

// requestID tells which streams belong together. Clients from before 2016 do not say it:
// they open the error stream and then, two numbers further, the data stream.
func requestID(s httpstream.Stream) string {
	if id := s.Headers().Get(portforward.PortForwardRequestIDHeader); id != "" {
		return id
	}
	n := int(s.Identifier())
	if s.Headers().Get(portforward.StreamType) == portforward.StreamTypeData {
		n -= 2
	}
	return strconv.Itoa(n)
}

// add returns a pair that is complete.
func (f *forwarder) add(s httpstream.Stream) *pair {
	id := requestID(s)
	p := f.pairs[id]
	if p == nil {
		p = &pair{timer: time.AfterFunc(remotecommand.DefaultStreamCreationTimeout, func() {
			select {
			case f.overdue <- id:
			case <-f.x.conn.life.Done():
			}
		})}
		f.pairs[id] = p
	}
	mine := &p.errs
	if s.Headers().Get(portforward.StreamType) == portforward.StreamTypeData {
		mine = &p.data
	}
	if *mine != nil {
		_ = s.Reset() // there is one
		return nil
	}
	*mine = s
	if p.data == nil || p.errs == nil || !p.timer.Stop() {
		return nil
	}
	delete(f.pairs, id)
	return p
}

// forward carries one connection and reports what went wrong on the error stream.
func (f *forwarder) forward(p *pair) {
	port, _ := strconv.ParseUint(p.data.Headers().Get(portforward.PortHeader), 10, 16)
	err := f.x.carry(int32(port), p.data)
	if err != nil {
		fmt.Fprintf(p.errs, "error forwarding port %d to pod %s: %v", port, f.x.t.id, err)
		_ = p.data.Reset()
	}
	_ = p.data.Close()
	_ = p.errs.Close()
}
