// pinns: make namespaces, or take the caller's, and keep them as bind mounts
// DIR/<kind>ns/NAME. All on one thread, because a user namespace demands it.
//
// Messages go to stderr; the status is 0, or 1 on any failure and for --help. The
// caller unmounts and removes the files.
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
static char **sysctls; // points into argv, which is never longer
static int nsysctls;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	fputs("[pinns:e]: ", stderr);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	_exit(1);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail("cannot write %s: %s", path, strerror(errno));
	close(fd);
}

// Each dot of a key becomes a slash, so ".." cannot leave /proc/sys.
static void set_sysctls(void)
{
	for (int i = 0; i < nsysctls; i++) {
		char path[PATH_MAX];
		char *eq = strchr(sysctls[i], '=');
		int n = snprintf(path, sizeof path, "/proc/sys/%.*s", (int)(eq - sysctls[i]), sysctls[i]);
		if (n >= (int)sizeof path)
			fail("sysctl name is too long: %s", sysctls[i]);
		for (char *p = path + strlen("/proc/sys/"); *p; p++)
			if (*p == '.')
				*p = '/';
		write_file(path, eq + 1);
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

static void pin(const struct kind *k, const char *proc)
{
	char source[64], folder[PATH_MAX], target[PATH_MAX];
	snprintf(source, sizeof source, "/proc/%s/ns/%s", proc, k->name);
	if (snprintf(folder, sizeof folder, "%s/%sns", dir, k->name) >= (int)sizeof folder ||
	    snprintf(target, sizeof target, "%s/%s", folder, name) >= (int)sizeof target)
		fail("path is too long: %s", dir);
	if (mkdir(folder, 0755) < 0 && errno != EEXIST)
		fail("cannot make %s: %s", folder, strerror(errno));
	if (k == &kinds[MNT] && (mount(folder, folder, NULL, MS_BIND, NULL) < 0 ||
	                         mount(NULL, folder, NULL, MS_UNBINDABLE, NULL) < 0))
		fail("cannot make %s unbindable: %s", folder, strerror(errno));
	int fd = open(target, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		fail("cannot make %s: %s", target, strerror(errno));
	close(fd);
	if (mount(source, target, NULL, MS_BIND, NULL) < 0)
		fail("cannot pin %s at %s: %s", source, target, strerror(errno));
}

static void tell(int fd) { if (write(fd, "", 1) != 1) _exit(1); }
static void hear(int fd, const char *what) { char b; if (read(fd, &b, 1) != 1) fail("%s", what); }

// A child enters the namespaces and waits to be killed; the pins hold them.
static pid_t hold(int flags, int *ready)
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
		*ready = up[0];
		return pid;
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
	tell(up[1]);
	for (;;)
		pause();
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
	int c;
	sysctls = calloc(argc, sizeof *sysctls);
	while ((c = getopt_long(argc, argv, "huinUcmd:f:s:", options, NULL)) != -1) {
		if (c > 2 && (at = strchr(letters, c)))
			kinds[at - letters].want = optarg && !strcmp(optarg, "host") ? HOST : NEW;
		else if (c == 'd') dir = optarg;
		else if (c == 'f') name = optarg;
		else if (c == 1) uid_map = optarg;
		else if (c == 2) gid_map = optarg;
		else if (c == 's' && strchr(optarg, '=')) sysctls[nsysctls++] = optarg;
		else if (c == 's') fail("sysctl %s is not of the form NAME=VALUE", optarg);
		else fail("usage: pinns -d DIR -f NAME [--uts|--ipc|--net|--user|--cgroup|--mnt][=host]... "
		          "[-s NAME=VALUE]... [--uid-mapping=MAP --gid-mapping=MAP]");
	}
}

int monocrio_pinns(int argc, char **argv)
{
	int flags = 0, any = 0, ready;
	char proc[16] = "self";
	pid_t child = 0;
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
		child = hold(flags, &ready);
		hear(ready, "the child could not make the namespaces");
		snprintf(proc, sizeof proc, "%d", child);
	} else {
		if (unshare(flags) < 0)
			fail("cannot unshare: %s", strerror(errno));
		set_sysctls();
	}
	for (int i = 0; i < KINDS; i++)
		if (kinds[i].want)
			pin(&kinds[i], proc);
	if (child) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	return 0;
}
