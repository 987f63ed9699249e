package check

import "testing"

func TestVerdict(t *testing.T) {
	bad := func(kind string) Finding { return Finding{Area: "storage", Level: Fail, Kind: kind} }
	for want, all := range map[string][]Finding{
		"":                                    {{Area: "config"}, {Area: "kernel", Level: Note}, {Level: Fail, Mended: true}},
		"the node is not in order: 1 finding": {bad("")},
		"the node is not in order: 3 findings (damaged: layers 2, images 1)": {bad("layer"), bad("image"), bad("layer")},
		"the node is not in order: 1 finding (damaged: read-only layers 1)":  {bad("read-only layer")},
		"the node is not in order: 2 findings (damaged: containers 1)":       {bad("container"), bad("")},
		"the node is not in order: 1 finding (damaged: read-only images 1)":  {bad("read-only image")},
	} {
		_, err := Verdict(all)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
