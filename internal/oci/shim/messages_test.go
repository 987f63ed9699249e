package shim

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
)

// message builds one of numbers and of messages in it.
type message []byte

func (m message) number(field protowire.Number, v uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

func (m message) sub(field protowire.Number, s message) message {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), s)
}

func TestUsage(t *testing.T) {
	v2 := message{}.sub(1, message{}.number(1, 5).number(2, 50)).
		sub(2, message{}.number(1, 3000).number(2, 2000).number(3, 1000)).
		sub(4, message{}.number(1, 11).number(13, 30).number(32, 100).number(33, math.MaxUint64)).
		sub(8, message{}.number(5, 2))
	u, err := usage(&anypb.Any{TypeUrl: metricsV2, Value: v2})
	if err != nil {
		t.Fatal(err)
	}
	if u.Pids.Current != 5 || u.Pids.Limit != 50 || u.CPU.Total != 3000000 || u.CPU.User != 2000000 || u.Memory.RSS != 11 ||
		u.Memory.Usage != 100 || u.Memory.WorkingSet != 70 || u.Memory.Limit != cgroup.NoLimit || u.OOMKills != 2 {
		t.Errorf("version 2: %+v", u)
	}
	v1 := message{}.sub(2, message{}.number(1, 5)).
		sub(3, message{}.sub(1, message{}.number(1, 300).number(2, 100).number(3, 200))).
		sub(4, message{}.number(18, 40).number(19, 11).number(30, 300).sub(33, message{}.number(1, 1<<20).number(2, 100)).sub(34, message{}.number(2, 130)))
	if u, err = usage(&anypb.Any{TypeUrl: metricsV1, Value: v1}); err != nil {
		t.Fatal(err)
	}
	if u.Pids.Limit != cgroup.NoLimit || u.CPU.Total != 300 || u.CPU.User != 200 || u.Memory.Cache != 40 || u.Memory.Limit != 1<<20 ||
		u.Memory.WorkingSet != 0 || u.Memory.Swap != 30 {
		t.Errorf("version 1: %+v", u)
	}
	if _, err = usage(&anypb.Any{TypeUrl: "something.Else", Value: v1}); !errs.Is(err, errs.KindUnimplemented) {
		t.Error(err)
	}
	if _, err = usage(&anypb.Any{TypeUrl: metricsV1, Value: []byte{0xff}}); err == nil {
		t.Error("a message that is cut short")
	}
}

// TestPublish: an event that comes by the executable marks the container's bundle, as
// the kernel's own would.
func TestPublish(t *testing.T) {
	root, bundle := t.TempDir(), t.TempDir()
	r := &Runtime{Options{Root: root}}
	for _, id := range []string{"pod", "ctr"} {
		if err := os.Mkdir(r.dir(id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := r.put(id, &record{Bundle: filepath.Join(bundle, id)}); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(bundle, id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e := r.serveEvents("pod")
	defer e.close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	publish := func(topic, id string) {
		t.Helper()
		data, err := proto.Marshal(&anypb.Any{TypeUrl: "containerd.events.TaskOOM", Value: protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), id)})
		if err == nil {
			err = Publish(ctx, r.path("pod", eventsFile), topic, namespace, bytes.NewReader(data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	there := func() bool {
		_, err := os.Stat(filepath.Join(bundle, "ctr", oomFile))
		return err == nil
	}
	publish("/tasks/exit", "ctr")
	publish(oomTopic, "../ctr")
	publish(oomTopic, "pod")
	if there() {
		t.Error("another event marked the container")
	}
	if publish(oomTopic, "ctr"); !there() {
		t.Error("the event did not mark the container")
	}
	if err := Publish(ctx, filepath.Join(root, "gone"), oomTopic, namespace, bytes.NewReader(nil)); err != nil {
		t.Errorf("a pod that has ended: %v", err)
	}
}

func TestGuestPull(t *testing.T) {
	m, err := guestPull(map[string]string{"io.kubernetes.cri-o.ImageName": "example.org/image:1"})
	if err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutPrefix(m.Options[0], "io.katacontainers.volume=")
	data, err := base64.StdEncoding.DecodeString(text)
	var v struct {
		VolumeType string `json:"volume_type"`
		Source     string `json:"source"`
	}
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if !ok || err != nil || v.VolumeType != "image_guest_pull" || v.Source != "example.org/image:1" {
		t.Errorf("%v: %+v, %v", m, v, err)
	}
	if _, err := guestPull(nil); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("without an image: %v", err)
	}
}

// TestLog: what a shim writes is kept, but not all of it for ever.
func TestLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	k := &keeper{f: f}
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range 3*logMost/len(line) - 10 {
		if _, err := k.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = k.Write([]byte("the last\n"))
	data, err := os.ReadFile(file)
	if err != nil || len(data) > logMost || !strings.HasSuffix(string(data), "x\nthe last\n") {
		t.Errorf("%d bytes are kept, %v", len(data), err)
	}
}

// TestSilent: a shim that takes connections and answers nothing keeps no container from
// being deleted.
func TestSilent(t *testing.T) {
	dir := t.TempDir()
	r := &Runtime{Options{Root: filepath.Join(dir, "root"), Path: "/bin/true", Log: slog.New(slog.DiscardHandler)}}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.MkdirAll(r.dir("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.put("x", &record{Bundle: dir, Address: "unix://" + filepath.Join(dir, "s"), Service: serviceV2}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Delete(ctx, "x", false); !errs.Is(err, errs.KindDeadline) {
		t.Errorf("not by force: %v", err)
	}
	if err := r.Delete(ctx, "x", true); err != nil {
		t.Error(err)
	}
	if _, err := r.State(ctx, "x"); !errs.Is(err, errs.KindNotFound) {
		t.Error(err)
	}
}
