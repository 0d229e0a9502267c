/*
 * cpu FILE PROGRAM ARGS...: runs the program, and writes what it took, children included, to FILE as JSON.
 * SIGTERM and SIGINT are passed on.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile pid_t child;

static void pass(int signal) {
  if (child > 0) kill(child, signal);
}

int main(int count, char **args) {
  if (count < 3) return fprintf(stderr, "usage: cpu FILE PROGRAM ARGS...\n"), 2;
  child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(args[2], args + 2);
    fprintf(stderr, "cpu: %s: %s\n", args[2], strerror(errno));
    _exit(127);
  }
  struct sigaction action = {.sa_handler = pass};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  int status;
  struct rusage used;
  while (wait4(child, &status, 0, &used) < 0 && errno == EINTR) continue;
  FILE *file = fopen(args[1], "w");
  if (file == NULL) return perror(args[1]), 1;
  fprintf(file, "{\"userSeconds\":%.3f,\"systemSeconds\":%.3f,\"residentKib\":%ld}\n",
          used.ru_utime.tv_sec + used.ru_utime.tv_usec / 1e6, used.ru_stime.tv_sec + used.ru_stime.tv_usec / 1e6, used.ru_maxrss);
  fclose(file);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
