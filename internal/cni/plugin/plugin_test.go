package plugin

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/monocrio/monocrio/internal/errs"
)

func TestAdmit(t *testing.T) {
	p := &Plugin{Name: "p", Add: func(context.Context, *Request) (*current.Result, error) {
		return &current.Result{IPs: []*current.IPConfig{{Address: net.IPNet{IP: net.IPv4(10, 0, 0, 2), Mask: net.CIDRMask(24, 32)}}}}, nil
	}}
	ok := Request{ContainerID: "c", NetNS: "/nowhere", IfName: "eth0", Config: []byte(`{"cniVersion":"1.1.0","name":"n"}`)}
	for _, c := range []struct {
		name   string
		verb   string
		change func(*Request)
		good   bool
	}{
		{"as it is", "ADD", func(*Request) {}, true},
		{"no version", "ADD", func(r *Request) { r.Config = []byte(`{"name":"n"}`) }, true},
		{"DEL without namespace", "DEL", func(r *Request) { r.NetNS = "" }, true},
		{"ADD without namespace", "ADD", func(r *Request) { r.NetNS = "" }, false},
		{"own namespace", "ADD", func(r *Request) { r.NetNS = ThreadNetNS }, false},
		{"own namespace at DEL", "DEL", func(r *Request) { r.NetNS = ThreadNetNS }, false},
		{"bad id", "ADD", func(r *Request) { r.ContainerID = "../x" }, false},
		{"bad name", "ADD", func(r *Request) { r.IfName = "a/b" }, false},
		{"long name", "ADD", func(r *Request) { r.IfName = strings.Repeat("x", 16) }, false},
		{"no network", "ADD", func(r *Request) { r.Config = []byte(`{}`) }, false},
		{"bad network", "ADD", func(r *Request) { r.Config = []byte(`{"name":"a/b"}`) }, false},
		{"no JSON", "ADD", func(r *Request) { r.Config = []byte(`x`) }, false},
		{"GC", "GC", func(r *Request) { *r = Request{Config: r.Config} }, true},
	} {
		r := ok
		c.change(&r)
		if _, err := p.Run(context.Background(), c.verb, &r); (err == nil) != c.good || (err != nil && !errs.Is(err, errs.KindInvalid) && c.name != "bad id" && !strings.HasPrefix(c.name, "bad") && c.name != "long name") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestExplain(t *testing.T) {
	type conf struct {
		A struct{ B int } `json:"a"`
	}
	for text, want := range map[string]string{
		"{\n\"a\": {\n\"b\": \"x\"}}": "line 3: key a.B: want int, found a JSON string",
		"{\n\n,":                      "line 3: ",
	} {
		_, err := Decode[conf](&Request{Config: []byte(text)})
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestArg(t *testing.T) {
	const args = "IgnoreUnknown=1;IP=10.0.0.1;mac=02:00:00:00:00:01"
	if Arg(args, "IP") != "10.0.0.1" || Arg(args, "MAC") != "02:00:00:00:00:01" || Arg(args, "X") != "" || Arg("", "IP") != "" {
		t.Error("wrong value")
	}
	r := &Request{Args: args, Config: []byte(`{}`)}
	for _, c := range []struct{ conf, want string }{
		{`{}`, "02:00:00:00:00:01"},
		{`{"args":{"cni":{"mac":"a"}}}`, "a"},
		{`{"args":{"cni":{"mac":"a"}},"runtimeConfig":{"mac":"b"}}`, "b"},
	} {
		r.Config = []byte(c.conf)
		if got, err := MAC(r); err != nil || got != c.want {
			t.Errorf("%s: %s, %v", c.conf, got, err)
		}
	}
}

func TestGone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pin")
	if !Gone("") || !Gone(file) {
		t.Error("what is not there is gone")
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !Gone(file) {
		t.Error("a pin without its mount is gone")
	}
	if Gone("/proc/self/ns/net") {
		t.Error("a namespace is not gone")
	}
}

func TestPrevResult(t *testing.T) {
	r := &Request{Config: []byte(`{"cniVersion":"0.4.0","prevResult":{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.1/24"}]}}`)}
	res, err := Chained(r, "x")
	if err != nil || res.IPs[0].Address.String() != "10.0.0.1/24" {
		t.Errorf("%v, %v", res, err)
	}
	r.Config = []byte(`{"cniVersion":"0.4.0"}`)
	if _, err := Chained(r, "x"); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("no prevResult: %v", err)
	}
}
