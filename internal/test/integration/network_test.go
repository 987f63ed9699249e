package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// server is a container that serves one page, which names it, on port 80.
func server(w *world.World, pod, name string) string {
	w.T.Helper()
	return w.Ctr(pod, name, "mkdir -p /www; echo page of "+name+" > /www/index.html; exec busybox httpd -f -p 80 -h /www", nil)
}

func fetch(url string) string {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

func TestNetworkReach(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	a := w.Pod("a", func(c *cri.PodSandboxConfig) {
		c.PortMappings = []*cri.PortMapping{{HostPort: 18080, ContainerPort: 80}, {HostPort: 18081, ContainerPort: 80, HostIp: "127.0.0.1"}}
	})
	b := w.Pod("b", nil)
	server(w, a, "a")
	client := w.Ctr(b, "client", "sleep 1000", nil)
	r, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: a})
	if err != nil || len(r.GetStatus().GetNetwork().GetAdditionalIps()) != 1 {
		t.Fatalf("a pod of two families: %v %v", r.GetStatus().GetNetwork(), err)
	}
	v4, v6 := r.GetStatus().GetNetwork().GetIp(), r.GetStatus().GetNetwork().GetAdditionalIps()[0].GetIp()
	for _, u := range []string{v4 + " 80", v6 + " 80", "10.99.0.1 18080", "fd00:99::1 18080"} {
		out := ""
		for end := time.Now().Add(10 * time.Second); !strings.HasSuffix(out, "page of a") && time.Now().Before(end); {
			out, _ = w.Exec(client, `printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 `+u)
		}
		if !strings.HasSuffix(out, "page of a") {
			t.Errorf("pod b at %s: %s", u, out)
		}
	}
	for _, u := range []string{"http://127.0.0.1:18080", "http://10.99.0.1:18080", "http://[fd00:99::1]:18080", "http://127.0.0.1:18081", "http://" + v4} {
		if out := fetch(u); out != "page of a" {
			t.Errorf("the node at %s: %s", u, out)
		}
	}
	if out := fetch("http://10.99.0.1:18081"); out == "page of a" {
		t.Error("a host port of 127.0.0.1 answers on another address")
	}
	host := w.Pod("host", func(c *cri.PodSandboxConfig) {
		c.Hostname, c.Linux.SecurityContext.NamespaceOptions.Network = "", cri.NamespaceMode_NODE
	})
	inHost := func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	}
	name, _ := os.Hostname()
	if out, _ := w.Output(host, "links", "busybox ip link show mtest0 >/dev/null && echo sees the bridge; hostname", inHost); out != "sees the bridge\n"+name+"\n" {
		t.Errorf("in the host's network: %q", out)
	}
	if st, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: host}); err != nil || st.GetStatus().GetNetwork().GetIp() != "" {
		t.Errorf("addresses of a host network pod: %v %v", st, err)
	}
	if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: a}); err != nil {
		t.Error(err)
	}
	if out := fetch("http://127.0.0.1:18080"); out == "page of a" {
		t.Error("the host port outlives its pod")
	}
}

func TestBandwidth(t *testing.T) {
	if _, err := exec.LookPath("tc"); err != nil {
		t.Skip("needs tc of iproute2")
	}
	w := world.New(t, world.Options{Net: strings.Replace(world.Conflist, `{"type": "portmap"`, `{"type": "bandwidth", "capabilities": {"bandwidth": true}}, {"type": "portmap"`, 1)})
	qdiscs := func() string { out, _ := exec.Command("tc", "qdisc", "show").CombinedOutput(); return string(out) }
	pod := w.Pod("slow", func(c *cri.PodSandboxConfig) {
		c.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}
	})
	if q := qdiscs(); !strings.Contains(q, "rate 10Mbit") || !strings.Contains(q, "rate 20Mbit") {
		t.Errorf("no limits of 10 and 20 Mbit/s:\n%s", q)
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if q := qdiscs(); strings.Contains(q, "Mbit") {
		t.Errorf("limits are left:\n%s", q)
	}
}

// withScript is the usual network with an operator's plugin at its end.
func withScript() string {
	return strings.Replace(world.Conflist, `{"type": "portmap"`, `{"type": "scripted"}, {"type": "portmap"`, 1)
}

// passOn is a chained plugin that answers ADD with the result of those before it.
const passOn = `[ "$CNI_COMMAND" = VERSION ] && echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}' && exit 0
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.1.0","ips":[{"address":"10.99.0.77/24"}]}'
exit 0
`

func failOn(verb string) string {
	return `if [ "$CNI_COMMAND" = ` + verb + ` ]; then
echo '{"cniVersion":"1.1.0","code":111,"msg":"the scripted plugin refuses","details":"` + verb + `"}'; exit 1; fi
` + passOn
}

func TestPluginAddFails(t *testing.T) {
	w := world.New(t, world.Options{Net: withScript()})
	plugin(w, "scripted", failOn("ADD"))
	_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("p")})
	refused(t, "failing ADD", err, codes.Internal, "the scripted plugin refuses", "scripted", "test")
	for _, l := range w.Leaks("link mtest0", "mount "+w.Dir+"/root/overlay", "nft: table inet monocrio_masquerade") {
		t.Errorf("left behind by a failed ADD: %s", l)
	}
	plugin(w, "scripted", passOn)
	if got := w.IP(w.Pod("p", nil)); got != "10.99.0.77" {
		t.Errorf("the same pod with a plugin that works has address %q", got)
	}
}

// owed is the number of CNI DELs that the daemon owes for pods that are gone.
func owed(w *world.World) string {
	w.T.Helper()
	r, err := w.RuntimeServiceClient.Status(w.Ctx(), &cri.StatusRequest{Verbose: true})
	if err != nil {
		w.T.Fatal(err)
	}
	_, rest, _ := strings.Cut(r.GetInfo()["info"], `"owedNetworks":`)
	n, _, _ := strings.Cut(strings.TrimRight(rest, "}"), ",")
	return n
}

func TestPluginDelFails(t *testing.T) {
	w := world.New(t, world.Options{Net: withScript()})
	plugin(w, "scripted", failOn("DEL"))
	ids := []string{w.Pod("removed", nil), w.Pod("stopped", nil)}
	for i, id := range ids {
		if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Errorf("StopPodSandbox over a failing DEL: %v", err)
		}
		if i == 0 {
			if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
				t.Errorf("RemovePodSandbox over a failing DEL: %v", err)
			}
		}
	}
	if n := owed(w); n != "1" {
		t.Errorf("%s debts, want 1", n)
	}
	if f := podFactsOf(w, ids[1]); !strings.Contains(f.NetworkOwed, "the scripted plugin refuses") {
		t.Errorf("the stopped pod says of its network: %q", f.NetworkOwed)
	}
	w.Restart()
	if n := owed(w); n != "1" {
		t.Errorf("%s debts after a restart, want 1", n)
	}
	plugin(w, "scripted", passOn)
	// The file may be gone or changed meanwhile: what was recorded counts.
	if err := os.Remove(filepath.Join(w.NetDir, "10-test.conflist")); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	w.Eventually("the debts are paid", func() bool { return owed(w) == "0" && podFactsOf(w, ids[1]).NetworkOwed == "" })
	if _, err := os.Stat(filepath.Join(w.Dir, "state/owed", ids[0])); err == nil {
		t.Error("a paid debt is still written down")
	}
}

// TestConfGoesAway deletes the network's file before the pods go.
func TestConfGoesAway(t *testing.T) {
	w := world.New(t, world.Options{})
	pods := []string{w.Pod("a", nil), w.Pod("b", nil)}
	if err := os.Remove(filepath.Join(w.NetDir, "10-test.conflist")); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the network is not ready", func() bool { return !network(w).GetStatus() })
	for i, id := range pods {
		if i == 1 {
			w.Restart()
			if !isReady(w, id) {
				t.Error("a pod needs the file of its network to stay ready")
			}
		}
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	}
	for _, h := range w.Holds() {
		if strings.HasPrefix(h, "link veth") || strings.Contains(h, "/cni/") {
			t.Errorf("left behind: %s", h)
		}
	}
}

// TestAddressesComeBack runs more pods one after another than there are addresses.
func TestAddressesComeBack(t *testing.T) {
	w := world.New(t, world.Options{Net: strings.Replace(strings.Replace(world.Conflist, "10.99.0.0/24", "10.99.0.0/29", 1), `, [{"subnet": "fd00:99::/64"}]`, "", 1)})
	for i := range 12 { // the network has five addresses
		id := w.Pod(fmt.Sprint("p", i), nil)
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		w.Pod(fmt.Sprint("full", i), nil)
	}
	_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("more")})
	refused(t, "a pod too many", err, codes.ResourceExhausted, "10.99.0")
}
