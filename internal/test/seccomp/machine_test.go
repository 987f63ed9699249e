package seccomp

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"testing"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"

	"github.com/monocrio/monocrio/internal/test/seccomp/clib"
)

// program is a filter as the kernel takes it.
type program []bpf.RawInstruction

func parse(t testing.TB, data []byte) program {
	t.Helper()
	var p program
	for ; len(data) >= 8; data = data[8:] {
		p = append(p, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(data), Jt: data[2], Jf: data[3], K: binary.NativeEndian.Uint32(data[4:]),
		})
	}
	if len(data) != 0 || len(p) == 0 {
		t.Fatalf("%d instructions and %d bytes", len(p), len(data))
	}
	return p
}

// data is struct seccomp_data of linux/seccomp.h.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

// run does what the kernel does with a filter. Jumps out of the program panic.
func (p program) run(d *data) uint32 {
	var a uint32
	for pc := 0; ; pc++ {
		i := p[pc]
		var yes bool
		switch i.Op {
		case 0x20: // BPF_LD | BPF_W | BPF_ABS
			a = d.word(i.K)
			continue
		case 0x54: // BPF_ALU | BPF_AND | BPF_K
			a &= i.K
			continue
		case 0x05: // BPF_JMP | BPF_JA
			pc += int(i.K)
			continue
		case 0x06: // BPF_RET | BPF_K
			return i.K
		case 0x15: // BPF_JEQ
			yes = a == i.K
		case 0x25: // BPF_JGT
			yes = a > i.K
		case 0x35: // BPF_JGE
			yes = a >= i.K
		case 0x45: // BPF_JSET
			yes = a&i.K != 0
		default:
			panic(fmt.Sprintf("instruction %d: %+v", pc, i))
		}
		if yes {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
}

// word reads 32 bits of the structure, on a little-endian machine.
func (d *data) word(offset uint32) uint32 {
	switch {
	case offset == 0:
		return d.nr
	case offset == 4:
		return d.arch
	case offset >= 16 && offset < 64 && offset%4 == 0:
		return uint32(d.args[(offset-16)/8] >> (offset % 8 * 8))
	}
	panic(fmt.Sprintf("a filter reads %d", offset))
}

// export returns what our package builds, and sees that patchbpf's way of changing
// it leaves it as it is.
func export(t testing.TB, f *libseccomp.ScmpFilter) program {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := f.ExportBPF(file); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	p := parse(t, raw)
	all, ok := bpf.Disassemble(p)
	if !ok {
		t.Fatal("the program has unknown instructions")
	}
	again, err := bpf.Assemble(all)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p {
		if again[i] != p[i] {
			t.Fatalf("instruction %d, %+v, becomes %+v", i, p[i], again[i])
		}
	}
	return p
}

func exportC(t testing.TB, f *clib.Filter) program {
	t.Helper()
	raw, err := f.BPF()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, raw)
}
