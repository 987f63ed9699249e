// Which applets begin in C. Runs in every process of the executable, so it must
// be quick and touch nothing unless the name is one of three.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "ctor.h"

static const char *base(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

// glibc gives constructors main's arguments.
__attribute__((constructor)) static void dispatch(int argc, char **argv)
{
	if (argc < 1 || !argv || !argv[0])
		return;
	const char *name = base(argv[0]);
	if (!strncmp(name, "monocrio", 8)) {
		if (argc < 2)
			return;
		name = *++argv;
		argc--;
	}
	int pause_ = !strcmp(name, "pause") && argc == 1; // with an option: Go
	int pinns = !strcmp(name, "pinns");
	int conmon = !strcmp(name, "conmon");
	if (!strcmp(name, "conmon-listen") && argc > 1) {
		// The monitor's way to start a runtime with LISTEN_PID (sd_listen_fds(3)).
		char pid[16];
		snprintf(pid, sizeof pid, "%d", getpid());
		setenv("LISTEN_PID", pid, 1);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	// libcontainer's init stage bears whatever argv[0] its parent had.
	if (!(pause_ || pinns || conmon) || getenv("_LIBCONTAINER_INITPIPE"))
		return;
	prctl(PR_SET_NAME, name); // else the name would be "exe" after /proc/self/exe
	if (pause_)
		monocrio_pause();
	if (pinns)
		_exit(monocrio_pinns(argc, argv));
	monocrio_conmon_start(argc, argv);
}
