// Package random fills protobuf messages with values that somebody could send: common
// ones, wrong ones and hostile ones, in every field. The same seed gives the same
// message.
package random

import (
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Filler makes messages.
type Filler struct {
	Rand *rand.Rand
	// Texts are tried for text fields besides those that are always tried: names
	// and paths that exist, for example.
	Texts []string
	// Fields fixes fields by name; nil leaves one empty.
	Fields map[string][]string

	skip int
}

// New returns a filler for a seed.
func New(seed uint64) *Filler { return &Filler{Rand: rand.New(rand.NewPCG(seed, 1))} }

// words are texts that programs stumble over.
var words = [...]string{
	"", "a", "x", "..", "../../etc/passwd", "/", "//", "/etc", "/proc/self/root", "/dev/null", "/tmp/x/../../..", "a\x00b", "a\nb", "%s%n", "$(id)", "`id`",
	"'\"", "ü\u202e", "\xff\xfe", "0", "-1", "9223372036854775807", "sha256:", "=", ":", "NAME=VALUE", "ALL", "CAP_SYS_ADMIN", "runtime/default",
	"localhost/", "unconfined", "io.kubernetes.cri-o.", "cdi.k8s.io/x", "net.ipv4.ip_forward", "kernel.shm_rmid_forced", "2MB", "0-3", "0-", "memory.max",
	"c", "b", "rwm", "noexec", "NET_ADMIN", "busybox", "root", "0:0", "127.0.0.1", "::1", "300.0.0.1",
}

// Text is one of the texts, or a long one.
func (f *Filler) Text(field string) string {
	if list, ok := f.Fields[field]; ok {
		if len(list) == 0 {
			return ""
		}
		return list[f.Rand.IntN(len(list))]
	}
	if len(f.Texts) > 0 && f.Rand.IntN(2) == 0 {
		return f.Texts[f.Rand.IntN(len(f.Texts))]
	}
	if f.Rand.IntN(20) == 0 {
		return strings.Repeat("long/", f.Rand.IntN(2000))
	}
	return words[f.Rand.IntN(len(words))]
}

// Fill sets about half of a message's fields, or only a few: what is wrong in one
// place gets further than what is wrong everywhere.
func (f *Filler) Fill(m proto.Message) {
	f.skip = []int{2, 6, 15}[f.Rand.IntN(3)]
	f.fill(m.ProtoReflect(), 0)
}

const deepest = 8

// fixed tells whether a field is always set: it has values of its own, or leads to
// such.
func (f *Filler) fixed(fd protoreflect.FieldDescriptor) bool {
	_, ok := f.Fields[string(fd.Name())]
	return ok
}

func (f *Filler) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if depth > deepest || f.Rand.IntN(f.skip) != 0 && !f.fixed(fd) {
			continue
		}
		switch {
		case fd.IsMap():
			mp := m.Mutable(fd).Map()
			for range f.Rand.IntN(3) {
				value := f.value(fd.MapValue(), string(fd.Name()), func() protoreflect.Value { return mp.NewValue() }, depth)
				mp.Set(f.value(fd.MapKey(), string(fd.Name()), nil, depth).MapKey(), value)
			}
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range f.Rand.IntN(4) {
				list.Append(f.value(fd, string(fd.Name()), list.NewElement, depth))
			}
		default:
			m.Set(fd, f.value(fd, string(fd.Name()), func() protoreflect.Value { return m.NewField(fd) }, depth))
		}
	}
}

func (f *Filler) value(fd protoreflect.FieldDescriptor, name string, empty func() protoreflect.Value, depth int) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		v := empty()
		f.fill(v.Message(), depth+1)
		return v
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.ToValidUTF8(f.Text(name), "?"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(f.Text(name)))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(f.Rand.IntN(2) == 0)
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		if f.Rand.IntN(10) == 0 {
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(f.number()))
		}
		return protoreflect.ValueOfEnum(values.Get(f.Rand.IntN(values.Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(f.number()))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(f.number()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(f.number())
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(f.number()))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(f.number()))
	default:
		return protoreflect.ValueOfFloat64(float64(f.number()))
	}
}

func (f *Filler) number() int64 {
	switch f.Rand.IntN(4) {
	case 0:
		return f.Rand.Int64N(10)
	case 1:
		return f.Rand.Int64N(70000) - 1000
	case 2:
		return []int64{math.MaxInt64, math.MinInt64, -1, math.MaxInt32, math.MinInt32, 1 << 20, 100 << 20}[f.Rand.IntN(7)]
	}
	return 0
}
