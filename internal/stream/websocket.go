package stream

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Ways in which a client can speak.
const (
	unknown      = iota
	byLibrary    // SPDY, or a WebSocket as the library knows it
	closeSignals // v5.channel.k8s.io: a WebSocket on which stdin can be closed alone
	tunnelled    // SPDY/3.1+portforward.k8s.io: SPDY inside a WebSocket
)

// libraryProtocols are the WebSocket protocols of the library for exec and attach, and
// for port forward.
func libraryProtocols(verb string) []string {
	list := []string{"v4." + wsstream.ChannelWebSocketProtocol, "v4." + wsstream.Base64ChannelWebSocketProtocol}
	if verb != "portforward" {
		list = append(list, wsstream.ChannelWebSocketProtocol, wsstream.Base64ChannelWebSocketProtocol)
	}
	return list
}

// language finds how a client wants to speak: by the first protocol that it names and we
// know. The library would use up the address before it looks.
func language(r *http.Request, verb string) int {
	if !wsstream.IsWebSocketRequest(r) {
		if httpstream.IsUpgradeRequest(r) && strings.EqualFold(r.Header.Get(httpstream.HeaderUpgrade), spdy.HeaderSpdy31) {
			return byLibrary
		}
		return unknown
	}
	offered := strings.Join(r.Header.Values(wsstream.WebSocketProtocolHeader), ",")
	if strings.TrimSpace(offered) == "" {
		return byLibrary
	}
	for p := range strings.SplitSeq(offered, ",") {
		p = strings.TrimSpace(p)
		switch {
		case p == remotecommand.StreamProtocolV5Name && verb != "portforward":
			return closeSignals
		case p == portforward.WebsocketsSPDYTunnelingPortForwardV1 && verb == "portforward":
			return tunnelled
		case slices.Contains(libraryProtocols(verb), p):
			return byLibrary
		}
	}
	return unknown
}

// spoken lists the WebSocket protocols for people.
func spoken(verb string) string {
	ours := remotecommand.StreamProtocolV5Name
	if verb == "portforward" {
		ours = portforward.WebsocketsSPDYTunnelingPortForwardV1
	}
	return ours + ", " + strings.Join(libraryProtocols(verb), ", ")
}

// serveCloseSignals speaks version 5 of the remote command protocol, which is version 4
// and a message by which the client closes one channel. The library's frames know it, its
// server does not offer it.
func (x *session) serveCloseSignals(w http.ResponseWriter, r *http.Request) {
	t := &x.t
	wanted := func(asked bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if asked {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	channels := make([]wsstream.ChannelType, remotecommand.StreamResize+1)
	channels[remotecommand.StreamStdIn] = wanted(t.stdin, wsstream.ReadChannel)
	channels[remotecommand.StreamStdOut] = wanted(t.stdout, wsstream.WriteChannel)
	channels[remotecommand.StreamStdErr] = wanted(t.stderr, wsstream.WriteChannel)
	channels[remotecommand.StreamErr] = wsstream.WriteChannel
	channels[remotecommand.StreamResize] = wsstream.ReadChannel
	ws := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{remotecommand.StreamProtocolV5Name: {Binary: true, Channels: channels}})
	ws.SetIdleTimeout(x.s.o.IdleTimeout)
	_, ch, err := ws.Open(w, r)
	if err != nil {
		x.s.o.Log.Debug("a WebSocket could not be opened", "err", err)
		return
	}
	defer ws.Close()
	// An empty message tells the client that it is connected.
	first := slices.Index(channels, wsstream.WriteChannel)
	_, _ = ch[first].Write(nil)
	ctx, cancel := context.WithCancel(x.conn.life)
	defer cancel()
	sizes := readSizes(ctx, ch[remotecommand.StreamResize])
	in, out, errOut := ch[remotecommand.StreamStdIn], ch[remotecommand.StreamStdOut], ch[remotecommand.StreamStdErr]
	if t.verb == "exec" {
		err = x.ExecInContainer(ctx, "", "", t.id, t.command, in, out, errOut, t.tty, sizes, 0)
	} else {
		err = x.AttachContainer(ctx, "", "", t.id, in, out, errOut, t.tty, sizes)
	}
	if data, merr := json.Marshal(statusOf(err)); merr == nil {
		_, _ = ch[remotecommand.StreamErr].Write(data)
	}
}

// readSizes reads the sizes of the client's terminal.
func readSizes(ctx context.Context, from io.Reader) <-chan remotecommand.TerminalSize {
	to := make(chan remotecommand.TerminalSize)
	go func() {
		defer close(to)
		for dec := json.NewDecoder(from); ; {
			var size remotecommand.TerminalSize
			if dec.Decode(&size) != nil {
				return
			}
			select {
			case to <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

// status is the part of Kubernetes' metav1.Status that clients look at.
type status struct {
	Status  string   `json:"status"`
	Message string   `json:"message,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Details *details `json:"details,omitempty"`
	Code    int      `json:"code,omitempty"`
}

type details struct {
	Causes []cause `json:"causes"`
}

type cause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// statusOf says how a session ended, in the library's words.
func statusOf(err error) status {
	code, exited := err.(exitCode)
	switch {
	case err == nil:
		return status{Status: "Success"}
	case exited:
		return status{Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason, Message: "command terminated with non-zero exit code: " + code.Error(),
			Details: &details{Causes: []cause{{Reason: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(int(code))}}}}
	}
	return status{Status: "Failure", Reason: "InternalError", Message: "Internal error occurred: " + err.Error(), Code: http.StatusInternalServerError}
}

// serveTunnel speaks SPDY over a WebSocket's messages.
func (x *session) serveTunnel(w http.ResponseWriter, r *http.Request) {
	websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			c.Protocol = []string{portforward.WebsocketsSPDYTunnelingPortForwardV1}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			f := x.newForwarder()
			if c, err := spdy.NewServerConnection(ws, f.accept); err == nil {
				f.run(c)
			}
		},
	}.ServeHTTP(w, r)
}
