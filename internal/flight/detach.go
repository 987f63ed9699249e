package flight

import "context"

// Detach returns a context that ends with life alone, and has the values of the call
// for which something is begun that outlives it: who asked, for telemetry.
func Detach(life, call context.Context) context.Context { return detached{life, call} }

type detached struct {
	context.Context
	call context.Context
}

func (d detached) Value(key any) any {
	if v := d.Context.Value(key); v != nil {
		return v
	}
	return d.call.Value(key)
}
