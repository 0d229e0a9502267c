// A connected stream socket, read and written whole. Blocking; shutdown() from another thread ends both.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace memferry {

// Owns a descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Descriptor() { reset(); }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

// The next connection of a listener; none if there is none to be had now.
inline Descriptor acceptOne(int listener) {
  Descriptor socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  // No descriptor is free: without a pause the caller would spin until there is one.
  if (!socket && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) ::usleep(10'000);
  return socket;
}

// Each answers false at the end of the stream, on an error, or past the socket's timeout.

inline ssize_t receiveSome(int fd, uint8_t* into, size_t room) {
  ssize_t got;
  do {
    got = ::recv(fd, into, room, 0);
  } while (got < 0 && errno == EINTR);
  return got;
}

inline bool receiveAll(int fd, uint8_t* into, size_t length) {
  while (length > 0) {
    const ssize_t got = receiveSome(fd, into, length);
    if (got <= 0) return false;
    into += got;
    length -= static_cast<size_t>(got);
  }
  return true;
}

// Changes `parts`.
inline bool sendAll(int fd, iovec* parts, size_t count) {
  while (count > 0) {
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    const ssize_t put = ::sendmsg(fd, &message, MSG_NOSIGNAL);
    if (put < 0) {
      if (errno == EINTR) continue;
      return false;
    }
    size_t sent = static_cast<size_t>(put);
    while (count > 0 && sent >= parts->iov_len) {
      sent -= parts->iov_len;
      parts++;
      count--;
    }
    if (count > 0) {
      parts->iov_base = static_cast<uint8_t*>(parts->iov_base) + sent;
      parts->iov_len -= sent;
    }
  }
  return true;
}

inline bool sendAll(int fd, const void* data, size_t length) {
  iovec part{const_cast<void*>(data), length};
  return length == 0 || sendAll(fd, &part, 1);
}

}  // namespace memferry
