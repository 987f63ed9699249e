package qos

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func file(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const ioFile = `
Classes:
  throttled:
  - Devices: [DIR/disk*]
    ThrottleReadBps: 64M
    throttleWriteIOPS: "1k"
    Weight: 50
  - Devices: [DIR/disk2, DIR/absent]
    ThrottleReadBps: 1Gi
    Weight: 90
  - Weight: 400
  none: []
`

func TestBlockIO(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: block devices")
	}
	dir := t.TempDir()
	for name, minor := range map[string]int{"disk1": 1, "disk2": 2} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFBLK|0o600, int(unix.Mkdev(259, uint32(minor)))); err != nil {
			t.Skipf("block devices cannot be made here: %v", err)
		}
	}
	path := file(t, filepath.Join(dir, "io.yaml"), strings.ReplaceAll(ioFile, "DIR", dir))
	b, err := ReadBlockIO(path, false)
	if err != nil {
		t.Fatal(err)
	}
	io, notes, err := b.Class("throttled")
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "absent") {
		t.Fatalf("%v %v", notes, err)
	}
	rate := func(minor int64, n uint64) specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: n}
		d.Major, d.Minor = 259, minor
		return d
	}
	if want := []specs.LinuxThrottleDevice{rate(1, 64e6), rate(2, 1<<30)}; !slices.Equal(io.ThrottleReadBpsDevice, want) {
		t.Errorf("reads: %+v", io.ThrottleReadBpsDevice)
	}
	if want := []specs.LinuxThrottleDevice{rate(1, 1000), rate(2, 1000)}; !slices.Equal(io.ThrottleWriteIOPSDevice, want) {
		t.Errorf("writes: %+v", io.ThrottleWriteIOPSDevice)
	}
	if *io.Weight != 400 || len(io.WeightDevice) != 2 || *io.WeightDevice[0].Weight != 50 || *io.WeightDevice[1].Weight != 90 {
		t.Errorf("weights: %v %+v", io.Weight, io.WeightDevice)
	}
	// With rescan a device that comes later counts.
	again, err := ReadBlockIO(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(dir, "disk3"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 3))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		b    *BlockIO
		want int
	}{{b, 2}, {again, 3}} {
		if io, _, err := c.b.Class("throttled"); err != nil || len(io.ThrottleReadBpsDevice) != c.want {
			t.Errorf("%d devices, want %d: %v", len(io.ThrottleReadBpsDevice), c.want, err)
		}
	}
	if io, _, err := b.Class("none"); err != nil || io.Weight != nil || io.WeightDevice != nil {
		t.Errorf("an empty class: %+v %v", io, err)
	}
	if _, _, err := b.Class("other"); !errs.Is(err, errs.KindInvalid) || !strings.Contains(err.Error(), "none, throttled") {
		t.Errorf("an unknown class: %v", err)
	}
}

func TestBlockIORefusals(t *testing.T) {
	dir := t.TempDir()
	for text, says := range map[string]string{
		"Classes: {a: [{Weight: 5}]}":                                   "10 to 1000",
		"Classes: {a: [{Weight: many}]}":                                "many",
		"Classes: {a: [{ThrottleReadBps: 1M}]}":                         "Devices",
		"Classes: {a: [{Devices: [/dev/x], ThrottleWriteBps: \"-1\"}]}": "-1",
		"Classes: {a: [{Devices: [dev]}]}":                              "absolute",
		"Classes: {a: [{Devices: [\"/dev/[\"]}]}":                       "/dev/[",
		"Classes: {a: [{Speed: 1}]}":                                    "Speed",
		"Class: {}":                                                     "Class",
		"{":                                                             "yaml",
	} {
		if _, err := ReadBlockIO(file(t, filepath.Join(dir, "f"), text), false); !errs.Is(err, errs.KindInvalid) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ReadBlockIO(filepath.Join(dir, "absent"), false); err == nil {
		t.Error("an absent file")
	}
	b, err := ReadBlockIO("", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Class("a"); !errs.Is(err, errs.KindPrecondition) || !strings.Contains(err.Error(), "blockio_config_file") {
		t.Errorf("a node without classes: %v", err)
	}
}

// resctrlTree is a tree of files that stands for the kernel's: two L3 caches of 20 bits, of
// which 2 are the least, and bandwidth in steps from 10 per cent.
func resctrlTree(t *testing.T, schemata string, cdp bool) string {
	dir := t.TempDir()
	file(t, dir+"/schemata", schemata)
	names := []string{"L3"}
	if cdp {
		names = []string{"L3CODE", "L3DATA"}
	}
	for _, n := range names {
		file(t, dir+"/info/"+n+"/cbm_mask", "fffff\n")
		file(t, dir+"/info/"+n+"/min_cbm_bits", "2\n")
	}
	file(t, dir+"/info/MB/min_bandwidth", "10\n")
	file(t, dir+"/info/last_cmd_status", "ok\n")
	return dir
}

const plainSchemata = "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n"

func schemataOf(t *testing.T, root, text string) (map[string][]string, error) {
	t.Helper()
	r, err := ReadRDT(file(t, filepath.Join(t.TempDir(), "rdt"), text), root)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for name, g := range r.groups {
		out[name] = g.schemata
	}
	return out, nil
}

func TestRDT(t *testing.T) {
	for name, c := range map[string]struct {
		schemata string
		cdp      bool
		text     string
		want     map[string]string
	}{
		"parts in per cent": {plainSchemata, false, `
partitions:
  b-rest:
    l3Allocation: "40%"
    mbAllocation: ["50%"]
    classes:
      silver: {mbAllocation: ["50%", "1000MBps"]}
      bronze: {l3Allocation: "50%", mbAllocation: ["1%"]}
  a-own:
    l3Allocation: {all: "60%", 1: "50%"}
    classes:
      gold: {}
`, map[string]string{"gold": "L3:0=fff;1=3ff", "silver": "L3:0=ff000;1=3fc00 MB:0=25;1=25", "bronze": "L3:0=f000;1=3c00 MB:0=10;1=10"}},
		"masks": {plainSchemata, false, `
partitions:
  x: {l3Allocation: "0xff", classes: {a: {l3Allocation: "0xf"}, b: {l3Allocation: "4-7"}}}
  y: {l3Allocation: "8-19", classes: {c: {l3Allocation: "50-100%"}, system/default: {}}}
`, map[string]string{"a": "L3:0=f;1=f", "b": "L3:0=f0;1=f0", "c": "L3:0=fc000;1=fc000", "system/default": "L3:0=fff00;1=fff00"}},
		"code and data": {"L3CODE:0=fffff\nL3DATA:0=fffff\n", true, `
options: {mb: {optional: true}}
partitions:
  x: {l3Allocation: "100%", classes: {a: {l3Allocation: {unified: "100%", code: "10%", data: "50%"}, mbAllocation: ["5%"]}}}
`, map[string]string{"a": "L3CODE:0=3 L3DATA:0=3ff"}},
		"MB a second": {"MB:0=4294967295\nL3:0=fffff\n", false, `
partitions:
  x: {mbAllocation: ["9000MBps"], classes: {a: {mbAllocation: ["10%", "500MBps"]}, b: {}}}
`, map[string]string{"a": "MB:0=500", "b": "MB:0=9000"}},
		"little":  {plainSchemata, false, `{partitions: {x: {l3Allocation: "100%", classes: {a: {l3Allocation: "1%"}}}}}`, map[string]string{"a": "L3:0=3;1=3"}},
		"nothing": {plainSchemata, false, `{partitions: {x: {classes: {a: {}}}}}`, map[string]string{"a": ""}},
	} {
		got, err := schemataOf(t, resctrlTree(t, c.schemata, c.cdp), c.text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		flat := map[string]string{}
		for k, v := range got {
			flat[k] = strings.Join(v, " ")
		}
		if !maps.Equal(flat, c.want) {
			t.Errorf("%s: %v, want %v", name, flat, c.want)
		}
	}
}

func TestRDTRefusals(t *testing.T) {
	root := resctrlTree(t, plainSchemata, false)
	for text, says := range map[string]string{
		`{partitions: {x: {l3Allocation: "60%", classes: {a: {}}}, y: {l3Allocation: "50%", classes: {b: {}}}}}`:    "leave",
		`{partitions: {x: {l3Allocation: "0xff", classes: {a: {}}}, y: {l3Allocation: "0x180", classes: {b: {}}}}}`: "leave",
		`{partitions: {x: {l3Allocation: "0xff", classes: {a: {}}}, y: {l3Allocation: "50%", classes: {b: {}}}}}`:   "all in per cent",
		`{partitions: {x: {l3Allocation: "50%", classes: {a: {}}}, y: {classes: {b: {}}}}}`:                         "all partitions",
		`{partitions: {x: {classes: {a: {}}}, y: {classes: {a: {}}}}}`:                                              "partitions x and y",
		`{partitions: {x: {classes: {a/b: {}}}}}`:                                                                   "folder",
		`{partitions: {x: {classes: {info: {}}}}}`:                                                                  "folder",
		`{partitions: {x: {classes: {a: {l3Allocation: "0%"}}}}}`:                                                   "0%",
		`{partitions: {x: {classes: {a: {l3Allocation: "0x1"}}}}}`:                                                  "2 bits",
		`{partitions: {x: {classes: {a: {l3Allocation: "0x1fffff"}}}}}`:                                             "0xfffff",
		`{partitions: {x: {classes: {a: {l3Allocation: {z: "5%"}}}}}}`:                                              "cache ids",
		`{partitions: {x: {classes: {a: {l2Allocation: "50%"}}}}}`:                                                  "options.l2.optional",
		`{partitions: {x: {classes: {a: {mbAllocation: ["101%"]}}}}}`:                                               "101%",
		`{partitions: {x: {classes: {a: {mbAllocation: ["5MBps"]}}}}}`:                                              "told in %",
		`{parts: {}}`: "parts",
	} {
		if _, err := schemataOf(t, root, text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := schemataOf(t, t.TempDir(), `{partitions: {}}`); !errs.Is(err, errs.KindPrecondition) || !strings.Contains(err.Error(), "mount -t resctrl") {
		t.Errorf("without resctrl: %v", err)
	}
}

// Groups are made, changed and deleted with the file, and others' are let be.
func TestRDTGroups(t *testing.T) {
	root, made, log := resctrlTree(t, plainSchemata, false), filepath.Join(t.TempDir(), "made"), slog.New(slog.DiscardHandler)
	apply := func(text string) *RDT {
		t.Helper()
		r, err := ReadRDT(file(t, filepath.Join(t.TempDir(), "rdt"), text), root)
		if err == nil {
			for name := range r.groups { // the kernel makes the files of a group
				if name != RootClass {
					file(t, filepath.Join(root, name, "schemata"), "")
				}
			}
			err = r.Apply(made, log)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	file(t, root+"/others/tasks", "")
	apply(`{partitions: {x: {l3Allocation: "100%", classes: {a: {l3Allocation: "50%"}, b: {}, c: {}}}}}`)
	if data, _ := os.ReadFile(root + "/a/schemata"); string(data) != "L3:0=3ff;1=3ff\n" {
		t.Errorf("schemata of a: %q", data)
	}
	file(t, root+"/b/tasks", "17\n")
	if err := os.RemoveAll(root + "/c/schemata"); err != nil { // rmdir(2) of a group takes its files along
		t.Fatal(err)
	}
	r := apply(`{partitions: {x: {l3Allocation: "100%", classes: {a: {l3Allocation: "10%", kubernetes: {denyPodAnnotation: true}}}}}}`)
	for name, want := range map[string]bool{"a": true, "b": true, "c": false, "others": true} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("group %s is there: %v", name, !want)
		}
	}
	if c, err := r.Class("a", false, true); err != nil || c.ClosID != "a" {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := r.Class("a", true, false); err == nil || !strings.Contains(err.Error(), "denies") {
		t.Errorf("an annotation that is denied: %v", err)
	}
	if c, err := r.Class(RootClass, true, false); c != nil || err != nil {
		t.Errorf("the root class: %v %v", c, err)
	}
	if _, err := r.Class("b", false, false); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("a class that is no more: %v", err)
	}
	none, err := ReadRDT("", root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Class("a", false, false); !errs.Is(err, errs.KindPrecondition) || !strings.Contains(err.Error(), "rdt_config_file") {
		t.Errorf("a node without classes: %v", err)
	}
	file(t, root+"/info/last_cmd_status", "too many groups\n")
	r.groups["d/e"] = group{} // a folder that cannot be made
	if err := r.Apply(made, log); err == nil || !strings.Contains(err.Error(), "too many groups") {
		t.Errorf("the kernel's reason: %v", err)
	}
}

func TestAssign(t *testing.T) {
	c := &Classes{BlockIO: &BlockIO{file: "f", classes: map[string][]ioRule{"slow": {{Weight: "10"}}, "fast": {{Weight: "500"}}}},
		RDT: &RDT{file: "f", groups: map[string]group{"gold": {}, "own": {deny: rdtDeny{DenyPodAnnotation: true}}}}}
	all := annotation.Allowed{rdtOwn, rdtPod, blockIOOwn, blockIOPod}
	for _, k := range []struct {
		name   string
		notes  map[string]string
		allow  annotation.Allowed
		weight uint16
		clos   string
		bad    bool
	}{
		{"nothing", nil, all, 0, "", false},
		{"of the pod", map[string]string{blockIOPod + "pod": "slow", rdtPod + "pod": "gold"}, all, 10, "gold", false},
		{"of the container in the pod", map[string]string{blockIOPod + "pod": "slow", blockIOPod + "container.main": "fast", blockIOPod + "container.other": "x"}, all, 500, "", false},
		{"of the container", map[string]string{blockIOPod + "container.main": "slow", blockIOOwn: "fast", rdtOwn: "own"}, all, 500, "own", false},
		{"denied for pods", map[string]string{rdtPod + "pod": "own"}, all, 0, "", true},
		{"unknown", map[string]string{blockIOOwn: "x"}, all, 0, "", true},
		{"not allowed", map[string]string{blockIOOwn: "fast", rdtOwn: "gold"}, nil, 0, "", false},
	} {
		s := &specs.Spec{Linux: &specs.Linux{}}
		_, err := c.Assign(k.allow.Acting(k.notes), "main", s)
		if (err != nil) != k.bad {
			t.Errorf("%s: %v", k.name, err)
		}
		if err != nil {
			continue
		}
		var weight uint16
		if r := s.Linux.Resources; r != nil && r.BlockIO != nil && r.BlockIO.Weight != nil {
			weight = *r.BlockIO.Weight
		}
		clos := ""
		if s.Linux.IntelRdt != nil {
			clos = s.Linux.IntelRdt.ClosID
		}
		if weight != k.weight || clos != k.clos {
			t.Errorf("%s: weight %d, group %q", k.name, weight, clos)
		}
	}
}
