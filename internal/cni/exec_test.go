package cni_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// env is what the CNI library hands to an executor.
func env(verb string) []string {
	return []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/nowhere", "CNI_ARGS=A=1;B=2", "CNI_PATH=/a:/b"}
}

// TestHost looks at the in-process host with plugins of its own.
func TestHost(t *testing.T) {
	var seen plugin.Request
	plugins := []*plugin.Plugin{
		{Name: "good", Add: func(ctx context.Context, r *plugin.Request) (*current.Result, error) {
			seen = *r
			return r.Delegate(ctx, "ADD", "ipam", r)
		}},
		{Name: "ipam", Add: func(context.Context, *plugin.Request) (*current.Result, error) {
			return &current.Result{DNS: types.DNS{Domain: "from.ipam"}}, nil
		}},
		{Name: "panics", Since: "1.0.0", Add: func(context.Context, *plugin.Request) (*current.Result, error) { panic("oh") }},
		{Name: "fails", Add: func(context.Context, *plugin.Request) (*current.Result, error) {
			return nil, errs.Errorf(errs.KindExhausted, "nothing left")
		}},
	}
	e := cni.NewExec(plugins, nil)
	run := func(name, verb, version string) (string, error) {
		path, err := e.FindInPath(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := e.ExecPlugin(context.Background(), path, []byte(`{"cniVersion":"`+version+`","name":"n","type":"`+name+`"}`), env(verb))
		return string(out), err
	}
	out, err := run("good", "ADD", "0.4.0")
	if err != nil || !strings.Contains(out, "from.ipam") || !strings.Contains(out, `"0.4.0"`) {
		t.Errorf("%s, %v", out, err)
	}
	if seen.ContainerID != "c1" || seen.IfName != "eth0" || seen.NetNS != "/nowhere" || seen.Args != "A=1;B=2" || seen.Path != "/a:/b" {
		t.Errorf("%+v", seen)
	}
	_, err = run("panics", "ADD", "1.1.0")
	var ce *types.Error
	if !errors.As(err, &ce) || ce.Code != types.ErrInternal || !strings.Contains(ce.Msg, "oh") || !strings.Contains(ce.Details, "goroutine") {
		t.Errorf("a panic: %v", err)
	}
	if _, err = run("panics", "ADD", "0.4.0"); !errors.As(err, &ce) || ce.Code != types.ErrIncompatibleCNIVersion {
		t.Errorf("a version before its time: %v", err)
	}
	if _, err = run("fails", "ADD", "1.1.0"); !errs.Is(err, errs.KindExhausted) {
		t.Errorf("the kind is lost: %v", err)
	}
	if _, err = run("good", "DEL", "1.1.0"); err != nil {
		t.Errorf("a verb that is not there: %v", err)
	}
	if _, err = run("good", "STATUS", "1.0.0"); !errors.As(err, &ce) || ce.Code != types.ErrIncompatibleCNIVersion {
		t.Errorf("STATUS before 1.1.0: %v", err)
	}
	if _, err = run("good", "DANCE", "1.1.0"); !errors.As(err, &ce) || ce.Code != types.ErrInvalidEnvironmentVariables {
		t.Errorf("a verb that does not exist: %v", err)
	}
	if out, err = run("panics", "VERSION", ""); err != nil || strings.Contains(out, "0.4.0") || !strings.Contains(out, "1.1.0") {
		t.Errorf("VERSION: %s, %v", out, err)
	}
	if _, err := e.FindInPath("nobody", []string{"/a"}); !errs.Is(err, errs.KindUnavailable) || !strings.Contains(err.Error(), "/a") {
		t.Errorf("a plugin that is nowhere: %v", err)
	}
}

// TestLostThread: a thread that comes back in another namespace is not used again.
func TestLostThread(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := cni.OnThread(func() (types.Result, error) { return nil, unix.Unshare(unix.CLONE_NEWNET) }); err != nil {
			t.Fatal(err)
		}
		if _, err := cni.OnThread(func() (types.Result, error) {
			if ns, _ := os.Readlink("/proc/thread-self/ns/net"); ns != here {
				return nil, errors.New("a lost thread was given out again")
			}
			return nil, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
