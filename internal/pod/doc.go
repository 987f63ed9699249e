// Package pod is the life of pods and containers: their states, the steps that
// make and unmake them, and what is found again after the daemon was killed.
//
// # Vocabulary
//
// A pod is the CRI's sandbox: pinned namespaces, a cgroup, files, a place in the
// network. A container belongs to one pod; its process is watched by a monitor,
// which outlives the daemon. A record (package state) is what is on disk about one of them; memory
// is a cache of the records, and the kernel is asked for facts.
//
// # States
//
//	Pod        creating --up--> ready --stop / infra exit--> notready --remove--> removing --> (gone)
//	              |                                             ^
//	              +--failure: walk the downs--> (gone)          +-- reboot
//
//	Container  creating --> created --start--> running --exit--> exited --remove--> removing --> (gone)
//	                           |                                   ^
//	                           +------ process gone before start --+
//
// A container's CRI state is derived from its times: FinishedAt set: exited; else
// StartedAt: running; else created. Contradictions cannot be written down.
// Each object has one transition function; it writes the record first, changes
// memory second and publishes the event last.
//
// # Steps
//
// Life is a table of steps, each with an up and a down (steps_pod.go,
// steps_container.go). Making climbs the ups in order; a failure descends from
// where it stands. Stop, remove and recovery walk the same downs. A down works from
// the record alone, may be repeated, and takes absence for success.
//
//	pod step     up                                            down
//	files        log folder, resolv.conf, hosts, hostname, shm  unmount, delete
//	logs         show them in a volume, if asked for            unmount
//	cgroup       the pod's cgroup with overhead and limits      delete when it is ours
//	namespaces   pin net, ipc, uts, user                        unpin
//	network      CNI ADD                                        CNI DEL; what fails is owed
//	infra        shared PID namespace, or drop_infra_ctr off    kill, delete
//	plugins      tell NRI plugins, which may refuse             tell them that it stopped
//
//	container step  up                                       down
//	rootfs          lease a writable layer, mount it          unmount, release
//	checkpoint      unpack the one that it is made of         delete
//	volumes         lease a layer for each mounted image      unmount, release
//	bundle          build the spec, write config.json         delete
//	process         monitor, runtime create                   kill, delete in the runtime
//
// # Locks
//
// Order: index, pod, container. The index is never locked across I/O. The mu of an
// object guards its status in memory and is held for as long as a record is
// written; everything that lists or inspects takes only that. Lifecycle work holds
// op, a lock that a caller can give up waiting for. A stop that waits for a grace
// period holds nothing.
package pod
