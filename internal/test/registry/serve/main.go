// Command serve makes a small image of this machine's static busybox and serves it
// on loopback until it is killed. It prints the image's reference.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/monocrio/monocrio/internal/test/registry"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run() error {
	var r registry.Registry
	files, err := registry.Busybox()
	if err != nil {
		return err
	}
	if _, err := r.Add("monocrio/demo", "1", registry.Image{Layers: []map[string]registry.File{files}, Compress: registry.Gzip, Index: true,
		Config: v1.ImageConfig{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}}); err != nil {
		return err
	}
	addr, stop, err := r.Serve()
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println(addr + "/monocrio/demo:1")
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
	return nil
}
