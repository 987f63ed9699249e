// Package seccomp builds seccomp filters in Go, behind the part of the interface
// of github.com/seccomp/libseccomp-golang that libcontainer uses. It stands in for
// that module by a replace in go.mod: libcontainer builds a filter in each
// container's init and in each exec, where libseccomp takes 15 to 20 ms of CPU for
// the default profile and this package less than one. No C is called.
//
// # What a filter means
//
// The meaning is that of libseccomp 2.5 and its manual pages, seccomp_init(3) to
// seccomp_rule_add(3):
//
//   - Calls of an architecture that is not in the filter get the action for bad
//     architectures, which is to kill the thread. A number with the x32 bit is such
//     a call where x32 is not in the filter, all but -1, which a tracer writes to
//     skip a call.
//   - A rule's number is that of the native architecture. For every other one of
//     the filter the call of the same name is meant; where there is none, the rule
//     says nothing.
//   - On 32-bit x86, a rule for a call that socketcall(2) or ipc(2) multiplexes
//     holds for these too: their first argument, the number of the call, takes the
//     place of the rule's condition on that argument.
//   - The conditions of one rule must all hold; any rule of a call may. Arguments
//     are unsigned, 64 bits wide; on 32-bit architectures and x32 only the low 32
//     bits of the argument and of the operand count.
//   - A rule without conditions wins over those with conditions, the first such rule
//     over the second. Two rules with the same conditions and different actions are
//     an error, as is a rule whose conditions are the first ones of an earlier
//     rule with another action. A rule whose first conditions are all of an earlier
//     one says nothing more.
//   - If rules with different actions hold for the same arguments, which no
//     specification orders, the one about the higher argument wins, then equality
//     over inequality, over upper and over lower bounds, then the narrower bound,
//     then the earlier rule. libseccomp mostly does the same.
//
// libseccomp 2.5.4 departs from its own manual where several rules for one call have
// upper bounds (LT, LE), or inequalities or bounds beside other conditions: some of
// them are then lost and others hold too widely. Here they mean what they say.
//
// # Architectures
//
// There are tables for the families of x86 and ARM, in table.go. Other architectures
// may be added to a filter, but nothing of theirs is in the program: no kernel that
// runs this executable reports them.
package seccomp
