package metric

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The dashboard asks for metrics that there are, and for each of them.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../../bundle/grafana/monocrio.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			for _, name := range regexp.MustCompile(Prefix+`[a-z_]+`).FindAllString(q.Expr, -1) {
				key := strings.TrimSuffix(strings.TrimPrefix(name, Prefix), "_bucket")
				if asked[key] = true; !slices.Contains(Names(), key) {
					t.Errorf("%s: there is no metric %s", p.Title, name)
				}
			}
		}
	}
	for _, n := range Names() {
		// The last value of a latency says less than its distribution; names of layers and
		// containers are too many for a panel.
		if !asked[n] && n != operationsLatency && n != layerReuse && n != oomByName {
			t.Errorf("no panel shows %s", n)
		}
	}
}
