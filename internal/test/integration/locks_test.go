package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const deafScript = "trap '' TERM; echo ready; while :; do sleep 0.05; done"

// deaf starts a container that ignores SIGTERM.
func deaf(w *world.World, pod, name string) string {
	w.T.Helper()
	id := w.Ctr(pod, name, deafScript, nil)
	w.Eventually("it handles signals", func() bool { return strings.Contains(w.LogText(w.Status(id).GetLogPath()), "ready") })
	return id
}

// TestDuringStop asks everything during a stop that has an hour of grace, and ends it
// by removing the pod.
func TestDuringStop(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("slow", nil)
	ctr := deaf(w, pod, "deaf")
	long := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	go func() {
		_, err := w.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: ctr, Timeout: 3600})
		long <- err
	}()
	time.Sleep(50 * time.Millisecond)
	for what, call := range map[string]func(context.Context) error{
		"status": func(ctx context.Context) error {
			_, err := w.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: ctr, Verbose: true})
			return err
		},
		"pod status": func(ctx context.Context) error {
			_, err := w.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
			return err
		},
		"list": func(ctx context.Context) error {
			r, err := w.ListContainers(ctx, &cri.ListContainersRequest{})
			if err == nil && len(r.GetContainers()) == 0 {
				err = errors.New("no containers")
			}
			return err
		},
		"reopen": func(ctx context.Context) error {
			path := w.Status(ctr).GetLogPath()
			if err := os.Rename(path, path+".1"); err != nil {
				return err
			}
			if _, err := w.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: ctr}); err != nil {
				return err
			}
			_, err := os.Stat(path)
			return err
		},
		"exec": func(ctx context.Context) error {
			_, err := w.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"true"}})
			return err
		},
		"another container": func(ctx context.Context) error {
			w.WaitExit(w.Ctr(pod, "other", "exit 0", nil))
			return nil
		},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := call(ctx); err != nil {
			t.Errorf("%s during a long stop: %v", what, err)
		}
		cancel()
	}
	// A caller with less patience is let go, and the stop goes on.
	short, end := context.WithTimeout(context.Background(), 50*time.Millisecond)
	_, err := w.StopContainer(short, &cri.StopContainerRequest{ContainerId: ctr, Timeout: 3600})
	end()
	// The deadline may be noticed on either side of the socket first.
	if c := status.Code(err); c != codes.DeadlineExceeded && c != codes.Canceled {
		t.Errorf("impatient stop: %v", err)
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if err := <-long; err != nil {
		t.Errorf("the long stop: %v", err)
	}
}

func TestTwoStops(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("two", sharedPID)
	deaf(w, pod, "one")
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			var err error
			if i < 4 {
				_, err = w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod})
			} else {
				_, err = w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	stopped := w.Pod("stopped", nil)
	if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: stopped}); err != nil {
		t.Fatal(err)
	}
	_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: stopped, Config: w.CtrConfig("late", "true")})
	refused(t, "create in a stopped pod", err, codes.FailedPrecondition, stopped)
	_, err = w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("stopped")})
	refused(t, "run beside a stopped pod of that name", err, codes.AlreadyExists, stopped)
}

// plugin puts an executable CNI plugin, a shell script, into the world.
func plugin(w *world.World, name, script string) {
	w.T.Helper()
	dir := filepath.Join(w.Dir, "plugins")
	err := os.MkdirAll(dir, 0o755)
	if err == nil { // renamed in: it may be running
		err = os.WriteFile(filepath.Join(dir, "."+name), []byte("#!/bin/sh\n"+script), 0o755)
	}
	if err == nil {
		err = os.Rename(filepath.Join(dir, "."+name), filepath.Join(dir, name))
	}
	if err != nil {
		w.T.Fatal(err)
	}
}

const scripted = `{"cniVersion": "1.0.0", "name": "scripted", "plugins": [{"type": "scripted"}]}`

// addScript answers ADD with a fixed address.
const addScript = `[ "$CNI_COMMAND" = VERSION ] && echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.98.0.2/32"}]}'
exit 0
`

// TestCallerGoesAway gives up waiting for a pod and for a container; the next call
// gets the result.
func TestCallerGoesAway(t *testing.T) {
	w := world.New(t, world.Options{Net: scripted})
	w.Pull()
	plugin(w, "scripted", "[ $CNI_COMMAND = ADD ] && sleep 0.4\n"+addScript)
	config := w.PodConfig("slow")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	_, err := w.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	cancel()
	refused(t, "impatient run", err, codes.DeadlineExceeded)
	r, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{})
	if err != nil || len(pods.GetItems()) != 1 || pods.GetItems()[0].GetId() != r.GetPodSandboxId() {
		t.Errorf("pods: %v %v", pods, err)
	}
	for i := range 10 {
		req := &cri.CreateContainerRequest{PodSandboxId: r.GetPodSandboxId(), Config: w.CtrConfig(fmt.Sprint("c", i), "true")}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i*4)*time.Millisecond)
		_, err := w.CreateContainer(ctx, req)
		cancel()
		if err != nil && status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("impatient create: %v", err)
		}
		c, err := w.CreateContainer(w.Ctx(), req)
		if err != nil {
			t.Fatal(err)
		}
		list, err := w.ListContainers(w.Ctx(), &cri.ListContainersRequest{})
		if err != nil || len(list.GetContainers()) != i+1 {
			t.Errorf("%d containers after %d, %v", len(list.GetContainers()), i+1, err)
		}
		if st := w.Status(c.GetContainerId()); st.GetState() != cri.ContainerState_CONTAINER_CREATED {
			t.Errorf("the repeated create: %v", st)
		}
	}
}

// TestRemoveDuringCreate removes pods while containers are made in them.
func TestRemoveDuringCreate(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	w.Pod("stays", nil)
	held := w.Holds()
	random := rand.New(rand.NewPCG(7, 7))
	for round := range 12 {
		pod := w.Pod(fmt.Sprint("r", round), nil)
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				r, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: w.CtrConfig(fmt.Sprint("c", i), "sleep 1000")})
				if err == nil {
					_, err = w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: r.GetContainerId()})
				}
				switch status.Code(err) {
				case codes.OK, codes.NotFound, codes.FailedPrecondition, codes.Canceled:
				default:
					t.Errorf("create or start in a pod that is removed: %v", err)
				}
			})
		}
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		wg.Wait()
		for _, l := range w.Leaks(held...) {
			t.Errorf("round %d: left behind: %s", round, l)
		}
		if t.Failed() {
			break
		}
	}
}

// TestParallelLives lets eight pods live at once.
func TestParallelLives(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	for round := range 3 {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				l := &life{w: w, name: fmt.Sprintf("p%d-%d", round, i), port: int32(18100 + i)}
				if call, err := l.from(0); err != nil {
					t.Errorf("round %d: %s of %s: %v", round, lifeCalls[call].name, l.name, err)
				}
			})
		}
		wg.Wait()
	}
}
