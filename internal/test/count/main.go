// Command count reads the JSON of `go test -json` and tells what people want to
// know: what failed, with its output; what was skipped, and why; and how many passed.
// It exits with 1 if anything failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

func main() {
	outputs := map[string][]string{}
	parents := map[string]bool{} // tests with subtests are counted by these
	var results []event
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Println(in.Text()) // a word of the go command itself
			continue
		}
		key := e.Package + " " + e.Test + e.ImportPath
		switch e.Action {
		case "output", "build-output":
			outputs[key] = append(outputs[key], e.Output)
		case "build-fail":
			fmt.Print("BUILD FAILED: ", e.ImportPath, "\n", strings.Join(outputs[key], ""))
		case "run":
			if i := strings.LastIndex(e.Test, "/"); i > 0 {
				parents[e.Package+" "+e.Test[:i]] = true
			}
		case "pass", "fail", "skip":
			results = append(results, e)
			if e.Test == "" && e.Action != "skip" {
				fmt.Printf("%-5s %-60s %6.1fs\n", e.Action, strings.TrimPrefix(e.Package, "github.com/monocrio/monocrio/"), e.Elapsed)
			}
		}
	}
	os.Exit(report(results, outputs, parents))
}

func report(results []event, outputs map[string][]string, parents map[string]bool) int {
	n := map[string]int{}
	for _, e := range results {
		key := e.Package + " " + e.Test
		switch {
		case e.Test == "" && e.Action == "fail" && len(outputs[key]) > 0:
			fmt.Printf("\nFAILED: %s\n%s", e.Package, strings.Join(outputs[key], ""))
			n["broken"]++
		case e.Test == "" || parents[key] && e.Action != "fail":
		default:
			n[e.Action]++
			if e.Action == "fail" {
				fmt.Printf("\nFAILED: %s\n%s", key, strings.Join(outputs[key], ""))
			} else if e.Action == "skip" {
				fmt.Printf("skipped: %s: %s\n", e.Test, reason(outputs[key]))
			}
		}
	}
	if n["fail"] == 0 && n["broken"] > 0 {
		n["fail"] = n["broken"] // a package that does not build or ends before its tests
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", n["pass"], n["fail"], n["skip"])
	if n["fail"] > 0 || n["pass"] == 0 {
		return 1
	}
	return 0
}

// reason is the last line of a skipped test's own output, without its place.
func reason(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		l := strings.TrimSpace(lines[i])
		if l == "" || strings.HasPrefix(l, "---") || strings.HasPrefix(l, "===") {
			continue
		}
		if _, after, ok := strings.Cut(l, ".go:"); ok {
			_, l, _ = strings.Cut(after, ": ")
		}
		return l
	}
	return "no reason was given"
}
