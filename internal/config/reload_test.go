package config

import (
	"reflect"
	"testing"
)

// What is live changes, what is not stays, and both are told. Each option is tried.
func TestNext(t *testing.T) {
	for i, o := range Default().Options() {
		now, next := Default(), Default()
		v := next.Options()[i].Value
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Slice:
			v.Set(reflect.ValueOf([]string{"x"}))
		default:
			v.SetInt(77)
		}
		merged, changed, restart := now.Next(next)
		wantChanged, wantRestart := 0, 0
		switch {
		case o.Live:
			wantChanged = 1
		case o.Inert == "":
			wantRestart = 1
		}
		if len(changed) != wantChanged || len(restart) != wantRestart || wantChanged == 1 && changed[0] != o.Name() || wantRestart == 1 && restart[0] != o.Name() {
			t.Errorf("%s: changed %v, restart %v", o.Name(), changed, restart)
		}
		if got := same(merged.Options()[i].Value, v); got == (wantRestart == 1) {
			t.Errorf("%s: the new value counts: %v", o.Name(), got)
		}
		if !same(now.Options()[i].Value, o.Value) || same(v, o.Value) {
			t.Errorf("%s: an argument was changed", o.Name())
		}
	}
}

func TestNextOfTables(t *testing.T) {
	now, next := Default(), Default()
	now.Runtime.Runtimes = map[string]Handler{"a": {}, "b": {}, "c": {AllowedAnnotations: []string{"x"}}}
	next.Runtime.Runtimes = map[string]Handler{"a": {}, "c": {AllowedAnnotations: []string{"y"}}, "d": {}}
	next.Runtime.Workloads = map[string]Workload{"w": {}}
	merged, changed, restart := now.Next(next)
	want := []string{"crio.runtime.runtimes.b", "crio.runtime.runtimes.c", "crio.runtime.runtimes.d", "crio.runtime.workloads.w"}
	if !reflect.DeepEqual(changed, want) || len(restart) > 0 || !reflect.DeepEqual(merged.Runtime, next.Runtime) {
		t.Errorf("changed %v, restart %v, %+v", changed, restart, merged.Runtime)
	}
}
