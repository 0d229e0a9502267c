#include "failure.h"

#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

namespace memferry {
namespace {

struct Name {
  int error;
  const char* name;
};

// strerrorname_np() would do, but it needs glibc 2.32 and does not exist on musl.
constexpr Name kNames[] = {
#define MEMFERRY_ERRNO(name) {name, #name}
    MEMFERRY_ERRNO(EPERM),      MEMFERRY_ERRNO(ENOENT),      MEMFERRY_ERRNO(ESRCH),
    MEMFERRY_ERRNO(EINTR),
    MEMFERRY_ERRNO(EIO),        MEMFERRY_ERRNO(ENXIO),       MEMFERRY_ERRNO(E2BIG),
    MEMFERRY_ERRNO(EBADF),      MEMFERRY_ERRNO(EAGAIN),      MEMFERRY_ERRNO(ENOMEM),
    MEMFERRY_ERRNO(EACCES),     MEMFERRY_ERRNO(EFAULT),      MEMFERRY_ERRNO(EBUSY),
    MEMFERRY_ERRNO(EEXIST),     MEMFERRY_ERRNO(EXDEV),       MEMFERRY_ERRNO(ENODEV),
    MEMFERRY_ERRNO(ENOTDIR),    MEMFERRY_ERRNO(EISDIR),      MEMFERRY_ERRNO(EINVAL),
    MEMFERRY_ERRNO(ENFILE),     MEMFERRY_ERRNO(EMFILE),      MEMFERRY_ERRNO(ENOTTY),
    MEMFERRY_ERRNO(ETXTBSY),    MEMFERRY_ERRNO(EFBIG),       MEMFERRY_ERRNO(ENOSPC),
    MEMFERRY_ERRNO(ESPIPE),     MEMFERRY_ERRNO(EROFS),       MEMFERRY_ERRNO(EPIPE),
    MEMFERRY_ERRNO(ERANGE),     MEMFERRY_ERRNO(EDEADLK),     MEMFERRY_ERRNO(ENAMETOOLONG),
    MEMFERRY_ERRNO(ENOLCK),     MEMFERRY_ERRNO(ENOSYS),      MEMFERRY_ERRNO(ENOTEMPTY),
    MEMFERRY_ERRNO(ELOOP),      MEMFERRY_ERRNO(ENODATA),     MEMFERRY_ERRNO(ETIME),
    MEMFERRY_ERRNO(EPROTO),     MEMFERRY_ERRNO(EOVERFLOW),   MEMFERRY_ERRNO(EOPNOTSUPP),
    MEMFERRY_ERRNO(ENOBUFS),    MEMFERRY_ERRNO(ENOTCONN),    MEMFERRY_ERRNO(ESHUTDOWN),
    MEMFERRY_ERRNO(ETIMEDOUT),  MEMFERRY_ERRNO(EHOSTDOWN),   MEMFERRY_ERRNO(EHOSTUNREACH),
    MEMFERRY_ERRNO(EALREADY),   MEMFERRY_ERRNO(EINPROGRESS), MEMFERRY_ERRNO(ESTALE),
    MEMFERRY_ERRNO(EDQUOT),     MEMFERRY_ERRNO(ECANCELED),   MEMFERRY_ERRNO(ECONNABORTED),
    MEMFERRY_ERRNO(ECONNRESET), MEMFERRY_ERRNO(EREMOTEIO),   MEMFERRY_ERRNO(ECONNREFUSED),
    MEMFERRY_ERRNO(EADDRINUSE), MEMFERRY_ERRNO(EADDRNOTAVAIL), MEMFERRY_ERRNO(EAFNOSUPPORT),
#undef MEMFERRY_ERRNO
};

}  // namespace

std::string errnoName(int error) {
  for (const Name& entry : kNames) {
    if (entry.error == error) return entry.name;
  }
  return "E" + std::to_string(error);
}

int errnoNumber(const std::string& name) {
  for (const Name& entry : kNames) {
    if (name == entry.name) return entry.error;
  }
  return 0;
}

Failure Failure::system(int error, const char* syscall, std::string path) {
  std::string message = errnoName(error) + ": " + std::strerror(error) + ", " + syscall;
  if (!path.empty()) message += " '" + path + "'";
  return {.error = error,
          .code = errnoName(error),
          .message = std::move(message),
          .syscall = syscall,
          .path = std::move(path)};
}

Failure Failure::named(std::string code, std::string message, std::string path) {
  const int error = errnoNumber(code);
  std::string line = code + ": " + message;
  return {.error = error,
          .code = std::move(code),
          .message = std::move(line),
          .syscall = nullptr,
          .path = std::move(path)};
}

}  // namespace memferry
