package boot

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An event of an input device: struct input_event of linux/input.h.
const (
	evKey    = 1
	keyPower = 116
	pressed  = 1
)

var eventSize = int(unsafe.Sizeof(unix.Timeval{})) + 8

// buttons waits for the power button, of a machine that has one.
func (m *machine) buttons() {
	devices, _ := filepath.Glob("/dev/input/event*")
	for _, d := range devices {
		f, err := os.Open(d)
		if err != nil {
			say("cannot listen to %s: %v", d, err)
			continue
		}
		go func() {
			defer f.Close()
			if waitKey(f) {
				say("the power button was pressed: the machine ends")
				m.done(unix.LINUX_REBOOT_CMD_POWER_OFF)
			}
		}()
	}
}

// waitKey reads events until the power button is pressed; false if there are no more.
func waitKey(r io.Reader) bool {
	event := make([]byte, eventSize)
	for {
		if _, err := io.ReadFull(r, event); err != nil {
			return false
		}
		e := event[eventSize-8:]
		if binary.NativeEndian.Uint16(e) == evKey && binary.NativeEndian.Uint16(e[2:]) == keyPower && binary.NativeEndian.Uint32(e[4:]) == pressed {
			return true
		}
	}
}
