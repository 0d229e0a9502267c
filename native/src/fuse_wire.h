// Reading requests from, and writing replies to, a channel of the FUSE device.
#pragma once

#include <linux/fuse.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace memferry {

// The largest READ and WRITE; the kernel's own bound is 256 pages.
inline constexpr size_t kMaxIoBytes = 1 << 20;
inline constexpr size_t kPageBytes = 4096;

// Of files that the flusher opens, and of all others.
inline constexpr uint64_t kHandle = 0;
inline constexpr uint64_t kInternalHandle = 1;

// The fixed part of a request; zeros for what an older kernel did not send.
template <typename T>
T fuseBody(const uint8_t* data, size_t length) {
  T out{};
  std::memcpy(&out, data, std::min(length, sizeof out));
  return out;
}

// `fd` must be the channel that the request came from: the kernel looks for it only there. `error` is 0
// or an errno. ENOENT: the caller was killed and nobody waits. ENODEV: the mount is gone. There is
// nothing to do in either case.
inline void fuseReply(int fd, uint64_t unique, int error, const void* body = nullptr, size_t length = 0) {
  fuse_out_header header{};
  header.len = static_cast<uint32_t>(sizeof header + length);
  header.error = -error;
  header.unique = unique;
  const iovec parts[2] = {{&header, sizeof header}, {const_cast<void*>(body), length}};
  ssize_t written;
  do {
    written = ::writev(fd, parts, length ? 2 : 1);
  } while (written < 0 && errno == EINTR);
}

// Tells the kernel something that it did not ask for, over any channel. 0 or an errno.
inline int fuseNotify(int fd, int code, const void* body = nullptr, size_t length = 0) {
  fuse_out_header header{};
  header.len = static_cast<uint32_t>(sizeof header + length);
  header.error = code;
  const iovec parts[2] = {{&header, sizeof header}, {const_cast<void*>(body), length}};
  ssize_t written;
  do {
    written = ::writev(fd, parts, length ? 2 : 1);
  } while (written < 0 && errno == EINTR);
  return written < 0 ? errno : 0;
}

}  // namespace memferry
