// Package structure holds the tests of the floor plan: floors, fences, linked
// packages, sizes, names and documents. It has no code of its own.
//
// Each rule is a table. A line added to a table is an argument to be made in
// review; the lists of exceptions with numbers may only shrink. The lists in
// testdata are written anew by
//
//	go test ./internal/test/structure -update
//
// and their differences are read like code: a new line is a package that every
// process of the executable now carries.
package structure
