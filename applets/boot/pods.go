package boot

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/monocrio/monocrio/internal/podfile"
)

const socket = "unix:///var/run/crio/crio.sock"

// grace is what containers get to end by themselves when the machine ends.
const grace = 30 * time.Second

// longest is what one call may take: pulling is one.
const longest = 10 * time.Minute

// node is the daemon as a client sees it.
type node struct {
	cri.RuntimeServiceClient
	images cri.ImageServiceClient
}

func connect() (*node, error) {
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return nil, err
	}
	return &node{cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)}, nil
}

// keepPods runs the pods of the files, and the image that is to be run once.
func (m *machine) keepPods() {
	n, err := connect()
	if err != nil {
		say("cannot run pods: %v", err)
		return
	}
	dirs, _ := os.ReadDir(podsDir) // none: no pods
	for _, d := range dirs {
		p, err := podfile.ReadPod(filepath.Join(podsDir, d.Name()), logDir)
		if err != nil {
			say("%v", err)
			continue
		}
		go m.keep(n, p)
	}
	if m.run != "" {
		m.runOnce(n)
	} else if len(dirs) == 0 {
		say("there is no pod in %s and no monocrio.run=IMAGE on the kernel's command line: the daemon waits for calls", podsDir)
	}
}

// keep brings a pod up, and its containers again when they end, less and less often.
func (m *machine) keep(n *node, p *podfile.Pod) {
	wait := time.Second
	var fails trouble
	for {
		changed, err := n.bring(p)
		fails.tell("cannot run pod "+p.Config.GetMetadata().GetName(), err)
		switch {
		case changed != "":
			say("pod %s: %s", p.Config.GetMetadata().GetName(), changed)
		case err == nil:
			wait = time.Second
		}
		select {
		case <-m.stopping:
			return
		case <-time.After(wait):
		}
		if (err != nil || changed != "") && wait < time.Minute {
			wait *= 2
		}
	}
}

// trouble is why something fails that is tried again and again. It is told once, and only
// when it stays: an image may be on its way into the store, and the daemon may restart.
type trouble struct {
	why   string
	times int
}

func (t *trouble) tell(what string, err error) {
	switch {
	case err == nil:
		*t = trouble{}
	case err.Error() != t.why:
		*t = trouble{err.Error(), 1}
	default:
		if t.times++; t.times == 3 {
			say("%s, and tries again: %s", what, t.why)
		}
	}
}

// bring makes of a pod what is missing, and tells what that was.
func (n *node) bring(p *podfile.Pod) (changed string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	if err := n.clear(ctx, p); err != nil {
		return "", err
	}
	for _, c := range p.Containers {
		if err := n.have(ctx, c.GetImage()); err != nil {
			return "", err
		}
	}
	r, err := n.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p.Config}) // runs: the answer is its id
	if err != nil {
		return "", err
	}
	pod := r.GetPodSandboxId()
	for _, c := range p.Containers {
		started, err := n.start(ctx, pod, p, c)
		if err != nil {
			return "", err
		}
		if started {
			changed = strings.TrimPrefix(changed+", started "+c.GetMetadata().GetName(), ", ")
		}
	}
	return changed, nil
}

// clear removes what an earlier boot has left of a pod.
func (n *node) clear(ctx context.Context, p *podfile.Pod) error {
	list, err := n.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}}})
	if err != nil {
		return err
	}
	for _, s := range list.GetItems() {
		if s.GetMetadata().GetUid() == p.Config.GetMetadata().GetUid() {
			if _, err := n.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.GetId()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// have gets an image that is not there.
func (n *node) have(ctx context.Context, image *cri.ImageSpec) error {
	r, err := n.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: image})
	if err == nil && r.GetImage() == nil {
		_, err = n.images.PullImage(ctx, &cri.PullImageRequest{Image: image})
	}
	return err
}

// start starts a container unless it runs; one that has ended makes place.
func (n *node) start(ctx context.Context, pod string, p *podfile.Pod, c *cri.ContainerConfig) (bool, error) {
	list, err := n.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: pod}})
	if err != nil {
		return false, err
	}
	for _, old := range list.GetContainers() {
		if old.GetMetadata().GetName() != c.GetMetadata().GetName() {
			continue
		}
		if old.GetState() == cri.ContainerState_CONTAINER_RUNNING {
			return false, nil
		}
		if _, err := n.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: old.GetId()}); err != nil {
			return false, err
		}
		c.Metadata.Attempt = old.GetMetadata().GetAttempt() + 1
	}
	r, err := n.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p.Config})
	if err == nil {
		_, err = n.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.GetContainerId()})
	}
	return err == nil, err
}

// runOnce runs the image that the kernel's command line names to its end, copies its
// output to the console, and ends the machine.
func (m *machine) runOnce(n *node) {
	p := podfile.OnNode("run", m.run, logDir)
	var fails trouble
	for {
		_, err := n.bring(p)
		if err == nil {
			break
		}
		fails.tell("cannot run "+m.run, err)
		select {
		case <-m.stopping:
			return
		case <-time.After(time.Second):
		}
	}
	status, err := n.follow(p)
	if err != nil {
		say("cannot tell how %s ended: %v", m.run, err)
	} else {
		say("%s ended with status %d", m.run, status.GetExitCode())
	}
	m.done(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// follow copies the log of a pod's only container until it has ended.
func (n *node) follow(p *podfile.Pod) (*cri.ContainerStatus, error) {
	var seen int64
	for {
		ctx, cancel := context.WithTimeout(context.Background(), longest)
		list, err := n.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_EXITED}}})
		var ended *cri.ContainerStatus
		for _, c := range list.GetContainers() {
			if c.GetMetadata().GetName() == p.Containers[0].GetMetadata().GetName() && err == nil {
				var r *cri.ContainerStatusResponse
				r, err = n.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.GetId()})
				ended = r.GetStatus()
			}
		}
		cancel()
		seen += copyLog(os.Stdout, filepath.Join(p.Config.GetLogDirectory(), p.Containers[0].GetLogPath()), seen)
		if err != nil || ended != nil {
			return ended, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// copyLog writes the texts of the whole lines of a CRI log from an offset on, and returns
// how many bytes of the file those were.
func copyLog(w io.Writer, path string, from int64) (n int64) {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, from, 1<<30))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		n += int64(len(line))
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4) // time, stream, P or F, text
		if len(part) < 4 {
			continue
		}
		fmt.Fprint(w, part[3])
		if part[2] == "F" {
			fmt.Fprintln(w)
		}
	}
	return n
}

// stopPods stops containers by the signal that they know, and then their pods.
func (m *machine) stopPods() {
	n, err := connect()
	if err != nil || m.children.pid("crio") == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*grace)
	defer cancel()
	running, err := n.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
	m.say("stop containers", err)
	var all sync.WaitGroup
	for _, c := range running.GetContainers() {
		all.Go(func() {
			_, err := n.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.GetId(), Timeout: int64(grace.Seconds())})
			m.say("stop container "+c.GetMetadata().GetName(), err)
		})
	}
	all.Wait()
	pods, err := n.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	m.say("stop pods", err)
	for _, s := range pods.GetItems() {
		all.Go(func() {
			_, err := n.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.GetId()})
			m.say("stop pod "+s.GetMetadata().GetName(), err)
		})
	}
	all.Wait()
}
