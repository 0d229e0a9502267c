#include "descriptors.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "arguments.h"
#include "environment.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

namespace memferry {

Napi::Value adoptDescriptor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const auto pid = static_cast<int>(arguments.integer(info[0], "pid", 1, INT_MAX));
  const auto fd = static_cast<int>(arguments.integer(info[1], "fd", 0, INT_MAX));
  if (!arguments.ok()) return env.Undefined();
  const auto& bridge = Environment::of(env)->bridge;
  const int process = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (process < 0) {
    bridge->error(env, Failure::system(errno, "pidfd_open")).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  // Close-on-exec, as the kernel makes it.
  const int copy = static_cast<int>(::syscall(SYS_pidfd_getfd, process, fd, 0));
  const int error = errno;
  ::close(process);
  if (copy < 0) {
    bridge->error(env, Failure::system(error, "pidfd_getfd")).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return Napi::Number::New(env, copy);
}

Napi::Value closeDescriptor(const Napi::CallbackInfo& info) {
  Arguments arguments(info.Env());
  const auto fd = static_cast<int>(arguments.integer(info[0], "fd", 3, INT_MAX));
  if (arguments.ok()) ::close(fd);
  return info.Env().Undefined();
}

}  // namespace memferry
