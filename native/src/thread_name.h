// Names the calling thread for `top -H`, gdb and perf, and keeps the process's signals away from it.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace memferry {

// `name`: at most 15 characters.
inline void becomeHelperThread(const char* name) {
  pthread_setname_np(pthread_self(), name);
  // Signals belong to the runtime's main thread. SIGPROF stays open for its profiler, and what the
  // kernel raises for a fault of our own cannot be blocked anyway.
  sigset_t all;
  sigfillset(&all);
  for (const int open : {SIGPROF, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&all, open);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

}  // namespace memferry
