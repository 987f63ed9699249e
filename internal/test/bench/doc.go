// Package bench measures the real executable. It has benchmarks only, which print
// figures and hold no limits, because a machine may be busy: read them beside those
// of the peers, which run in the same minute when they are installed.
//
//	scripts/bench [PATTERN]
package bench
