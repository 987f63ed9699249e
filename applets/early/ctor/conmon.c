// conmon: the step into the background, which must come before Go's threads.
//
//   parent: wait on the start pipe -> fork -> wait for "ready" -> exit 0
//   child:  setsid -> Go: check the options, write the pid file, say "ready"
//
// Options are read in Go only. The one question C has to answer is whether to
// stay in the foreground, and it is answered with care: where the word --sync
// stands anywhere there is no fork, and Go, if it finds that the word was another
// option's value, executes the file again with _MONOCRIO_BACKGROUND=1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ctor.h"

int monocrio_conmon_argc;
char **monocrio_conmon_argv;
int monocrio_ready_fd = -1;
int monocrio_released;

static int signal_fd = -1;

// Blocks until the engine writes to the start pipe or closes it: until then it may
// move this process to a cgroup, and every process made later is born there.
static void wait_released(void)
{
	char buf[8192], *end;
	const char *s = getenv("_OCI_STARTPIPE");
	if (!s || !*s)
		return;
	long fd = strtol(s, &end, 10);
	if (*end || fd < 0 || fd > 1 << 20)
		return; // Go will say what is wrong with it
	while (read(fd, buf, sizeof buf) < 0 && errno == EINTR)
		;
	monocrio_released = 1;
}

static void wait_ready(int fd, pid_t child)
{
	char b;
	ssize_t n;
	int status;
	while ((n = read(fd, &b, 1)) < 0 && errno == EINTR)
		;
	if (n == 1)
		_exit(0);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

void monocrio_conmon_start(int argc, char **argv)
{
	int p[2];
	monocrio_conmon_argc = argc;
	monocrio_conmon_argv = argv;
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--sync") && !getenv("_MONOCRIO_BACKGROUND"))
			return;
	wait_released();
	if (pipe2(p, O_CLOEXEC) < 0)
		_exit(1);
	pid_t pid = fork();
	if (pid < 0)
		_exit(1);
	if (pid > 0) {
		close(p[1]);
		wait_ready(p[0], pid);
	}
	close(p[0]);
	setsid();
	monocrio_ready_fd = p[1];
}

static void note(int sig)
{
	int saved = errno;
	unsigned char b = sig;
	(void)!write(signal_fd, &b, 1);
	errno = saved;
}

void monocrio_catch_signals(int fd)
{
	static const int sigs[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGCHLD};
	struct sigaction sa = {.sa_handler = note, .sa_flags = SA_RESTART | SA_ONSTACK | SA_NOCLDSTOP};
	sigfillset(&sa.sa_mask);
	signal_fd = fd;
	for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++)
		sigaction(sigs[i], &sa, NULL);
}

int monocrio_utc_offset(long long t)
{
	time_t at = t;
	struct tm tm;
	return localtime_r(&at, &tm) ? (int)tm.tm_gmtoff : 0;
}
