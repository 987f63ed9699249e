// Package docs runs the commands of README.md and docs/*.md, as they stand there.
//
// A document is run from its beginning to its end in a world of its own: a machine's
// folders (/etc, /usr/local, /var, /run, /opt, /root are this machine's with a fresh layer on
// top), a network with a node's address, cgroups, processes. Names of registries and of
// the project's pages lead to servers in that world, over TLS, so that nothing in a
// document needs to be another word here than there. What is below /etc/systemd and its like
// is run by a stand-in for systemctl, which does what a unit says (type notify included)
// and refuses what it does not know. On a machine that is thrown away, whose systemd is real,
// MONOCRIO_DOCS_MACHINE=NAME.md runs that one document on the machine itself; there, without
// a checkout, MONOCRIO_DOCS names a folder with README.md, docs and scripts/get, and
// MONOCRIO_BUNDLE the tarball that scripts/bundle -r v1.0.0 has made.
//
// Fenced blocks, by the first word after the fence:
//
//	sh      commands, run by a shell in which what earlier blocks set still counts
//	text    directly after one of them: what it prints. Spaces count as one; "..." is
//	        anything in a line, and any lines when it stands alone
//	console toml yaml json
//	        not run: samples of what cannot be met here, and files that are talked about
//
// More words after "sh":
//
//	needs=A,B  it runs only where these are there: see the table of needs. Elsewhere it is
//	           skipped, which is seen
//	fails      its exit status is not 0; it runs in a subshell, as "again" does
//	again      it is run until it succeeds and prints what the document says: for what
//	           comes true a little later
//
// An HTML comment that begins with "sh" is a block that readers do not see: what makes
// the trouble that a page on trouble shows.
//
// Needs are looked for in MONOCRIO_KUBERNETES, a folder with executables (kubelet, kubeadm,
// kubectl, crictl; for the need "cluster" also kube-apiserver, kube-controller-manager,
// kube-scheduler, kube-proxy, etcd, coredns, static ones, of which images are made), then in PATH.
package docs
