// pinns: make namespaces, or take the caller's, and keep them as bind mounts
// DIR/<kind>ns/NAME. All on one thread, because a user namespace demands it.
//
// Messages go to stderr; the status is 0, or 1 on any failure and for --help. The
// caller unmounts and removes the files; after a failure there are none.
//
// A sysctl is written only if it lives in one of the new namespaces: any other would
// change the caller's, or the whole machine.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctor.h"

enum { NOT, NEW, HOST };

// In the order in which they are pinned; the user namespace comes first so that
// it owns the others.
static struct kind { const char *name; int flag, want; } kinds[] = {
	{"user", CLONE_NEWUSER, NOT}, {"uts", CLONE_NEWUTS, NOT}, {"ipc", CLONE_NEWIPC, NOT},
	{"net", CLONE_NEWNET, NOT}, {"cgroup", CLONE_NEWCGROUP, NOT}, {"mnt", CLONE_NEWNS, NOT},
};
enum { USER, UTS, IPC, NET, CGROUP, MNT, KINDS };

static const char *dir, *name, *uid_map, *gid_map;
static struct sysctl { char path[256], *value; } *sysctls;
static int nsysctls;
static struct { char path[PATH_MAX]; int mounted, made; } pins[KINDS];
static int npins;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	fputs("[pinns:e]: ", stderr);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	for (int i = 0; i < npins; i++) {
		if (pins[i].mounted)
			umount2(pins[i].path, MNT_DETACH);
		if (pins[i].made)
			unlink(pins[i].path);
	}
	_exit(1);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail("cannot write %s: %s", path, strerror(errno));
	close(fd);
}

// The names of a UTS namespace have calls of their own: the files are for the
// machine's root only, not for a user namespace's.
static void set_sysctls(void)
{
	for (int i = 0; i < nsysctls; i++) {
		const char *path = sysctls[i].path, *value = sysctls[i].value;
		int host = !strcmp(path, "/proc/sys/kernel/hostname"), domain = !strcmp(path, "/proc/sys/kernel/domainname");
		if (!host && !domain)
			write_file(path, value);
		else if ((host ? sethostname : setdomainname)(value, strlen(value)) < 0)
			fail("cannot set %s to %s: %s", path, value, strerror(errno));
	}
}

// The kind of namespace in which a sysctl lives, by its path below /proc/sys.
static int owner(const char *path)
{
	static const struct { const char *start; int kind; } rows[] = {
		{"net/", NET}, {"kernel/shm", IPC}, {"kernel/msg", IPC}, {"kernel/sem", IPC}, {"fs/mqueue/", IPC},
		{"kernel/hostname", UTS}, {"kernel/domainname", UTS}, {"user/", USER},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		if (!strncmp(path, rows[i].start, strlen(rows[i].start)))
			return rows[i].kind;
	return KINDS;
}

// Names are read as in sysctl.d(5): if the first separator is a dot, dots are slashes
// and slashes dots (an interface may be called eth0.100).
static void add_sysctl(const char *name, char *value)
{
	struct sysctl *s = &sysctls[nsysctls++];
	int n = snprintf(s->path, sizeof s->path, "/proc/sys/%s", name);
	if (n >= (int)sizeof s->path)
		fail("sysctl name is too long: %s", name);
	char *path = s->path + strlen("/proc/sys/"), *first = strpbrk(path, "./");
	if (first && *first == '.')
		for (char *p = path; *p; p++)
			*p = *p == '.' ? '/' : *p == '/' ? '.' : *p;
	for (char *p = s->path; (p = strchr(p, '/')); p++)
		if (p[1 + strspn(p + 1, ".")] == '/' || !p[1 + strspn(p + 1, ".")])
			fail("%s is not the name of a sysctl", name);
	int kind = owner(path);
	if (kind == KINDS)
		fail("sysctl %s belongs to no namespace: it would change the whole machine", name);
	if (kinds[kind].want != NEW)
		fail("sysctl %s belongs to the %s namespace, of which no new one is made: add --%s", name, kinds[kind].name, kinds[kind].name);
	s->value = value;
}

// NAME=VALUE, or several with + between them, as older callers write them. A + that no
// NAME= follows is part of the value.
static void split_sysctls(char *pairs)
{
	while (pairs) {
		char *eq = strchr(pairs, '='), *next = NULL;
		if (!eq || eq == pairs)
			fail("sysctl %s is not of the form NAME=VALUE", pairs);
		*eq = 0;
		for (char *p = eq + 1; !next && (p = strchr(p, '+')); p++) {
			size_t name = strcspn(p + 1, "+=");
			if (name && p[1 + name] == '=') {
				*p = 0;
				next = p + 1;
			}
		}
		add_sysctl(pairs, eq + 1);
		pairs = next;
	}
}

// MAP is ctr-host-size, more of them after @.
static void write_map(pid_t pid, const char *file, const char *map)
{
	char path[64], *text = strdup(map);
	for (char *p = text; *p; p++) {
		if (*p == '@')
			*p = '\n';
		else if (*p == '-')
			*p = ' ';
		else if (*p < '0' || *p > '9')
			fail("mapping %s is not of the form CTR-HOST-SIZE[@...]", map);
	}
	snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
	write_file(path, text);
	free(text);
}

// The folder of mount namespaces must not be copied into one of them, which would then
// hold itself.
static void make_unbindable(const char *folder)
{
	struct statx st;
	int there = !statx(AT_FDCWD, folder, 0, 0, &st) && st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
	if ((!there && mount(folder, folder, NULL, MS_BIND, NULL) < 0) ||
	    mount(NULL, folder, NULL, MS_UNBINDABLE, NULL) < 0)
		fail("cannot make %s unbindable: %s", folder, strerror(errno));
}

static void tell(int fd) { if (write(fd, "", 1) != 1) _exit(1); }
static void hear(int fd, const char *what) { char b; if (read(fd, &b, 1) != 1) fail("%s", what); }

// The child, and both directions.
static struct { pid_t pid; int from, to; } child;

// Since 6.18 Linux numbers namespaces per processor, and it refuses to pin a mount
// namespace whose number is lower than the caller's: then the child makes others, on
// each processor in turn.
static int pin_mount_namespace(const char *source, const char *target)
{
	int ok = mount(source, target, NULL, MS_BIND, NULL);
	for (int cpu = 0; ok < 0 && errno == EINVAL && child.pid && cpu < sysconf(_SC_NPROCESSORS_CONF); cpu++) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (sched_setaffinity(child.pid, sizeof set, &set) < 0) {
			errno = EINVAL;
			continue;
		}
		tell(child.to);
		hear(child.from, "the child could not make another mount namespace");
		ok = mount(source, target, NULL, MS_BIND, NULL);
	}
	return ok;
}

static void pin(const struct kind *k, const char *proc)
{
	char source[64], folder[PATH_MAX], *target = pins[npins].path;
	snprintf(source, sizeof source, "/proc/%s/ns/%s", proc, k->name);
	if (snprintf(folder, sizeof folder, "%s/%sns", dir, k->name) >= (int)sizeof folder ||
	    snprintf(target, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
		fail("path is too long: %s", dir);
	if (mkdir(folder, 0755) < 0 && errno != EEXIST)
		fail("cannot make %s: %s", folder, strerror(errno));
	if (k == &kinds[MNT])
		make_unbindable(folder);
	int fd = open(target, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	pins[npins].made = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(target, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		fail("cannot make %s: %s", target, strerror(errno));
	close(fd);
	npins++;
	if ((k == &kinds[MNT] ? pin_mount_namespace(source, target) : mount(source, target, NULL, MS_BIND, NULL)) < 0)
		fail("cannot pin %s at %s: %s", source, target, strerror(errno));
	pins[npins - 1].mounted = 1;
}

// A child enters the namespaces and waits to be killed; the pins hold them.
static void hold(int flags)
{
	int up[2], down[2];
	if (pipe2(up, O_CLOEXEC) < 0 || pipe2(down, O_CLOEXEC) < 0)
		fail("cannot make a pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid < 0)
		fail("cannot fork: %s", strerror(errno));
	if (pid > 0) {
		close(up[1]);
		close(down[0]);
		if (kinds[USER].want == NEW) {
			hear(up[0], "the child could not make a user namespace");
			write_map(pid, "uid_map", uid_map);
			write_map(pid, "gid_map", gid_map);
		}
		tell(down[1]);
		child.pid = pid, child.from = up[0], child.to = down[1];
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(down[1]); // else this end, too, would keep hear from its EOF
	close(up[0]);
	if (kinds[USER].want == NEW) {
		if (unshare(CLONE_NEWUSER) < 0)
			fail("cannot make a user namespace: %s", strerror(errno));
		tell(up[1]);
	}
	hear(down[0], "the parent is gone");
	if (kinds[USER].want == NEW && (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0))
		fail("cannot become root of the user namespace: %s", strerror(errno));
	prctl(PR_SET_PDEATHSIG, SIGKILL); // setresuid cleared it
	if (unshare(flags & ~CLONE_NEWUSER) < 0)
		fail("cannot unshare: %s", strerror(errno));
	set_sysctls();
	for (;;) {
		tell(up[1]);
		hear(down[0], "the parent is gone");
		if (unshare(CLONE_NEWNS) < 0)
			fail("cannot unshare: %s", strerror(errno));
	}
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", 0, 0, 'h'}, {"uts", 2, 0, 'u'}, {"ipc", 2, 0, 'i'}, {"net", 2, 0, 'n'},
		{"user", 2, 0, 'U'}, {"cgroup", 2, 0, 'c'}, {"mnt", 2, 0, 'm'}, {"dir", 1, 0, 'd'},
		{"filename", 1, 0, 'f'}, {"sysctl", 1, 0, 's'}, {"uid-mapping", 1, 0, 1}, {"gid-mapping", 1, 0, 2}, {0},
	};
	static const char letters[] = "Uuincm"; // by kind
	const char *at;
	char **wanted = calloc(argc, sizeof *wanted);
	int c, nwanted = 0;
	size_t pairs = 0;
	while ((c = getopt_long(argc, argv, "huinUcmd:f:s:", options, NULL)) != -1) {
		if (c > 2 && (at = strchr(letters, c))) {
			if (optarg && strcmp(optarg, "host"))
				fail("--%s=%s: only host may stand there", kinds[at - letters].name, optarg);
			kinds[at - letters].want = optarg ? HOST : NEW;
		}
		else if (c == 'd') dir = optarg;
		else if (c == 'f') name = optarg;
		else if (c == 1) uid_map = optarg;
		else if (c == 2) gid_map = optarg;
		else if (c == 's') wanted[nwanted++] = optarg;
		else fail("usage: pinns -d DIR -f NAME [--uts|--ipc|--net|--user|--cgroup|--mnt][=host]... "
		          "[-s NAME=VALUE[+NAME=VALUE]...]... [--uid-mapping=MAP --gid-mapping=MAP]");
	}
	for (int i = 0; i < nwanted; i++)
		for (const char *p = wanted[i]; p; p = strchr(p + 1, '='))
			pairs++;
	sysctls = calloc(pairs + 1, sizeof *sysctls);
	for (int i = 0; i < nwanted; i++)
		split_sysctls(wanted[i]);
}

int monocrio_pinns(int argc, char **argv)
{
	int flags = 0, any = 0;
	char proc[16] = "self";
	umask(022);
	parse(argc, argv);
	if (!dir) fail("--dir is required");
	if (!name) fail("--filename is required");
	if (!*name || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		fail("--filename %s is not a plain file name", name);
	for (int i = 0; i < KINDS; i++) {
		any |= kinds[i].want;
		flags |= kinds[i].want == NEW ? kinds[i].flag : 0;
	}
	if (!any) fail("no namespace was asked for");
	if ((kinds[USER].want == NEW) != (uid_map && gid_map) || !uid_map != !gid_map)
		fail("--user needs --uid-mapping and --gid-mapping, and they need --user");
	if (flags & (CLONE_NEWUSER | CLONE_NEWNS)) {
		hold(flags);
		hear(child.from, "the child could not make the namespaces");
		snprintf(proc, sizeof proc, "%d", child.pid);
	} else {
		if (unshare(flags) < 0)
			fail("cannot unshare: %s", strerror(errno));
		set_sysctls();
	}
	for (int i = 0; i < KINDS; i++)
		if (kinds[i].want)
			pin(&kinds[i], proc);
	if (child.pid) {
		kill(child.pid, SIGKILL);
		waitpid(child.pid, NULL, 0);
	}
	return 0;
}
