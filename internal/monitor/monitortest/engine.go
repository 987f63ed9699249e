package monitortest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/monocrio/monocrio/internal/monitor"
)

// EngineVar in the environment makes the test binary play an engine that starts
// one monitor and then waits to be killed: see Engine.
const EngineVar = "MONITORTEST_ENGINE"

// Engine is to be called by TestMain. It returns at once unless EngineVar is set.
func Engine() {
	text := os.Getenv(EngineVar)
	if text == "" {
		return
	}
	var s monitor.Spawn
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		var p monitor.Process
		if p, err = monitor.Start(context.Background(), s); err == nil {
			fmt.Println(p.Monitor.Pid, p.Monitor.Start, p.Container)
			select {}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (b *Box) encode() string {
	s := b.Spawn
	s.Place = nil
	// Functions cannot be encoded, so the field is left out by name.
	data, err := json.Marshal(struct {
		monitor.Spawn
		Place *int `json:",omitempty"`
	}{Spawn: s})
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}
