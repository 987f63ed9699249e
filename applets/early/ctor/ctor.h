// What the files of this folder know of each other, and what Go asks for.
#ifndef MONOCRIO_CTOR_H
#define MONOCRIO_CTOR_H

extern int monocrio_conmon_argc;    // 0: this process is no monitor
extern char **monocrio_conmon_argv;
extern int monocrio_ready_fd;       // -1: this process was not forked off
extern int monocrio_released;       // the start pipe was read

void monocrio_conmon_start(int argc, char **argv);
void monocrio_catch_signals(int fd);
int monocrio_utc_offset(long long t);

void monocrio_pause(void) __attribute__((noreturn));
int monocrio_pinns(int argc, char **argv);

#endif
